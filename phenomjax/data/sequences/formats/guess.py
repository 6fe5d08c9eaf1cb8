"""What words look like, proteins or SMILES; and so what format lines may have."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from phenomjax.data.sequences.vocabulary import AMINO_ACIDS, RARE, smiles_tokens, vocabulary

_SHORTEST = 6  # letters of a word that is taken for a protein
_PROTEIN = re.compile(rf"[{AMINO_ACIDS}{RARE}XJ*.-]+", re.IGNORECASE)
_NO_SMILES = re.compile("[ADEGJKLMQRTUVWXYZ]")  # capitals that are no atoms outside of brackets
_BLANKS = "take the blanks out (tr -d ' ' < FILE > NEW), and name NEW"


class Guess(NamedTuple):
    """What lines may be.

    Attributes:
      text: a sentence without its end, "each line is perhaps a protein".
      flags: those that say so.
    """

    text: str
    flags: str


def guess(lines: Sequence[str]) -> Guess | None:
    """What lines that say nothing of themselves look like; None: nothing that is known.

    Args:
      lines: the first ones that are not empty.
    """
    rows = [line.split() for line in lines[:200]]
    if not rows:
        return None
    pairs = all(len(row) == 2 for row in rows)
    first, last = ([row[place] for row in rows] for place in (0, -1))
    if _are_blocks(rows):
        return Guess(f"They look like proteins in blocks: {_BLANKS}", "--format text")
    if all("," in line or ";" in line for line in lines[:200]):
        return Guess("It looks like a table", "--format csv")
    if all(len(row) == 1 for row in rows):
        if looks_like(first) == "protein":
            return Guess("Each line looks like a protein", "--format text")
        if looks_like(first) == "smiles":
            return Guess("Each line looks like a SMILES", "--format smi")
    elif looks_like(first) == "smiles" and (
        looks_like(last) != "protein" or any(re.search(r"[a-z()=#\[\d]", word) for word in first)
    ):  # names such as INS are SMILES too
        return Guess("Each line looks like a SMILES and a name", "--format smi")
    elif pairs and looks_like(last) == "protein":
        return Guess("Each line looks like a name and a protein", "--format named")
    elif pairs and looks_like(last) == "smiles":
        return Guess("Each line looks like a name and a SMILES", "--format named")
    elif "protein" in (looks_like(first), looks_like(last)):
        place = 1 if looks_like(first) == "protein" else len(rows[0])
        flags = " ".join(["--format", "csv", "--no_header", "--column", str(place)])
        return Guess("It looks like a table without names of columns", flags)
    elif looks_like(last[1:]):
        flags = " ".join(["--format", "csv", "--column", rows[0][-1]])
        return Guess("The first line looks like names of columns", flags)
    return None


def _are_blocks(rows: Sequence[Sequence[str]]) -> bool:
    """Whether lines are proteins in blocks of equal length, of which the last is shorter."""
    heads = {len(word) for row in rows for word in row[:-1]}
    if len(heads) != 1 or next(iter(heads)) < _SHORTEST + 2:
        return False
    return looks_like([word for row in rows for word in row[:-1]]) == "protein"


def looks_like(texts: Sequence[str], least: float = 0.9) -> str:
    """'protein', 'smiles' or '' of some texts: what at least that share of them can be."""
    texts = [text.strip() for text in texts if text.strip()][:500]
    if not texts:
        return ""
    proteins = sum(_is_protein(text) for text in texts)
    if proteins >= least * len(texts):
        return "protein"
    return "smiles" if sum(map(is_smiles, texts)) >= least * len(texts) else ""


def _is_protein(text: str) -> bool:
    if len(text) < _SHORTEST or not _PROTEIN.fullmatch(text):
        return False
    return text.isupper() and bool(_NO_SMILES.search(text))


def is_smiles(text: str) -> bool:
    """Whether all of a text is tokens of SMILES, and it has an atom."""
    ids = vocabulary("smiles").ids
    atoms = any(c.isupper() for c in text) or (
        any(c.isalpha() for c in text) and any(c in "()[]=#123" for c in text)
    )
    return atoms and all(token in ids for token in smiles_tokens(text))
