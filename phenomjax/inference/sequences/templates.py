"""Sequences with masked positions: read from the command line or a file, and written when they are
filled.
"""

import json
import textwrap
from pathlib import Path

import numpy as np

from phenomjax.data import text_files
from phenomjax.data.sequences.vocabulary import Vocabulary
from phenomjax.inference.sequences.infilling import GIVEN, Filled
from phenomjax.system.errors import UserError

WANTED = "sequences with masked positions (FASTA, or one a line)"


def read(given: str, alphabet: str) -> list[tuple[str, str]]:
    """(id, text) of what is to be filled.

    Args:
      given: a sequence, or the path of a file: FASTA, or one sequence a line.
      alphabet: of the model.

    Raises:
      UserError: no such file, nothing in it, or two records of one id.
    """
    try:
        is_file = Path(given).is_file()
    except (OSError, ValueError):  # a sequence that is too long for a name
        is_file = False
    if not is_file:
        if Path(given).is_dir() or (alphabet == "protein" and set(given) & set("./\\")):
            raise UserError(
                f"`fill` {given} is neither a file nor a sequence. Give a sequence such as"
                " MKT__IAKQ, or a FASTA file with such sequences."
            )
        return [(GIVEN, given)]
    contents = text_files.look(Path(given))
    if contents.kind != "text":
        raise text_files.no_text(contents, WANTED)
    found: list[tuple[str, list[str]]] = []
    fasta = contents.head.lstrip().startswith(">")
    for number, line in enumerate(text_files.lines(contents), 1):
        text = line.strip()
        if fasta and text.startswith(">"):
            name = (text[1:].split() or [f"{Path(given).name}:{number}"])[0]
            found.append((name, []))
        elif text and fasta:
            found[-1][1].append(text)
        elif text:
            found.append((f"{Path(given).name}:{number}", [text]))
    names = [name for name, _ in found]
    if not found:
        raise UserError(f"`fill` {given} is empty: it has no sequence.")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"`fill` {given} has two records '{twice}'. Rename one of them.")
    return [(name, "".join(parts)) for name, parts in found]


def record(words: Vocabulary, name: str, filled: Filled, order: str) -> str:
    """A filled sequence as FASTA, or as a line of JSON."""
    text, likelihood = words.decode(filled.tokens), float(filled.log_probs.sum())
    perplexity = float(np.exp(-filled.log_probs.mean()))
    if words.name == "protein":
        body = "\n".join(textwrap.wrap(text, 60))
        return (
            f">{name} length={len(text)} filled={len(filled.places)} order={order}"
            f" log_likelihood={likelihood:.3f} perplexity={perplexity:.3f}\n{body}\n"
        )
    line = {"id": name, "text": text, "filled": len(filled.places), "order": order}
    return json.dumps(line | {"log_likelihood": round(likelihood, 3)}) + "\n"


def positions(words: Vocabulary, name: str, filled: Filled) -> list[str]:
    """Lines of the table of positions: id, step and position from 1, token, log-probability."""
    quoted = f'"{name}"' if "," in name else name
    return [
        f"{quoted},{step},{place + 1},{words.tokens[int(filled.tokens[place])]},{chance:.6f}"
        for step, (place, chance) in enumerate(
            zip(filled.places.tolist(), filled.log_probs.tolist(), strict=True), 1
        )
    ]
