"""What `prepare inspect` says of a file of sequences that is no bank yet: what it is, what its
first sequences look like, and the command that makes a bank of it.
"""

import contextlib
import itertools
import json
import shlex
from pathlib import Path

from phenomjax.data.sequences.formats.columns import (
    LONG,
    Unsaid,
    find_columns,
    sample_rows,
)
from phenomjax.data.sequences.formats.guess import looks_like
from phenomjax.data.sequences.formats.letters import SAMPLE, Letters
from phenomjax.data.sequences.formats.recognise import (
    Format,
    Unclear,
    check_words,
    find_format,
    head_lines,
    look,
)
from phenomjax.data.sequences.sources import find_sources, first_texts
from phenomjax.data.text_files import ENCODINGS
from phenomjax.system import files
from phenomjax.system.errors import EXIT_DONE, UserError

NAMES = {
    "fasta": "FASTA",
    "pir": "PIR (NBRF)",
    "pearson": "FASTA with ';' (Pearson)",
    "text": "text, one sequence a line",
    "named": "text, a name and a sequence a line",
    "smi": "SMILES and names",
    "csv": "a table",
    "table": "a table",
    "jsonl": "JSON lines",
}
SHOWN = 60  # letters


def is_source(path: Path) -> bool:
    """Whether a path is a file that may hold sequences: no folder, no image."""
    return path.is_file() and look(path).kind != "image"


def inspect(path: Path) -> int:
    """Prints the description.

    Raises:
      UserError: it is no file of sequences; the message says what it is.
    """
    command = f"python -m phenomjax.prepare sequences --source {shlex.quote(str(path))} --out"
    command += f" {shlex.quote(path.name.split('.')[0])}.zarr"
    lines = {"file": f"{path}, {files.in_units(path.stat().st_size)}, no bank yet"}
    try:
        found = find_format(path)
        if found.kind == "text":
            check_words(path, [line for line in head_lines(found.contents) if line.strip()])
    except Unclear as error:
        if error.after or ", " in error.flags:
            raise
        lines["format"] = str(error)
        command += f" {error.flags}"
    else:
        described, flags = _describe(found)
        lines |= described
        command += flags
    lines["to make a bank"] = command
    print("\n".join(f"{name + ':':19}{text}" for name, text in lines.items()))
    return EXIT_DONE


def _describe(found: Format) -> tuple[dict[str, str], str]:
    """Lines about a file whose format is clear, and the flags that it needs."""
    contents = found.contents
    said = [contents.compression, ENCODINGS.get(contents.encoding, "")]
    if "\r" in contents.head:
        said.append(f"line ends of {'Windows' if chr(10) in contents.head else 'an old Mac'}")
    lines = {"format": f"{NAMES[found.kind]} ({', '.join(one for one in said if one)})"}
    if found.kind in ("csv", "table"):
        columns, flags = _describe_columns(found)
        lines["columns"] = columns
        if flags:
            return lines, flags
        try:
            find_columns(found, None, None, None, header=True)
        except UserError as error:
            if not isinstance(error, Unsaid) or not error.flags:  # nobody but the user can tell
                return lines | {"but": f"prepare sequences says: {error}"}, " --column NAME"
            flags = f" {error.flags}"
        return lines, flags
    if found.kind == "jsonl":
        fields, flags = _describe_fields(found)
        return lines | {"fields": fields}, flags
    (source,) = find_sources([contents.path], None)
    texts = list(itertools.islice(first_texts(source), SAMPLE))
    if not texts:
        return lines, ""
    letters, flags, longest = Letters.of(texts), "", max(map(len, texts))
    lines["first sequences"] = f"{len(texts):,}, up to {longest:,} letters"
    lines["first of all"] = texts[0][:SHOWN] + "..." * (len(texts[0]) > SHOWN)
    looks = looks_like(texts)
    if looks == "smiles" and found.kind == "text":
        flags += " --alphabet smiles"
    if letters.nucleotides > 0.95:
        looks = f"{letters.nucleotides:.1%} of the letters are A, C, G, T, U or N: is this DNA?"
        looks += " Translate it; the last flag below says that these are proteins"
        flags += " --accept_nucleotides"
    if letters.aligned:
        looks += f"; an alignment, {letters.gapped:,} have gaps"
        flags += " --gaps strip"
    return lines | {"look like": looks or "short, or not all of one kind"}, flags


def _describe_fields(found: Format) -> tuple[str, str]:
    """The fields of JSON lines and what they look like, and the flags that they need."""
    rows = list[dict[str, object]]()
    for line in [line for line in head_lines(found.contents) if line.strip()][:SAMPLE]:
        with contextlib.suppress(ValueError):  # the reader names the record
            rows += [row] if isinstance(row := json.loads(line), dict) else []
    texts = {name: [str(row.get(name, "")) for row in rows] for name in (rows or [{}])[0]}
    looks = {name: looks_like(texts[name]) for name in texts}
    named = ", ".join(
        f"{name} (looks like {looks[name]})" if looks[name] else name for name in texts
    )
    alike = [name for name in texts if looks[name] and (name == "code" or "code" not in texts)]
    alike.sort(key=lambda name: (looks[name] != "protein", -sum(map(len, texts[name]))))
    if alike:
        return named, f" --field={shlex.quote(alike[0])} --alphabet {looks[alike[0]]}"
    return named, "" if "code" in texts else " --field NAME"


def _describe_columns(found: Format) -> tuple[str, str]:
    """The names of the columns and what they look like, and the flags that a table needs."""
    sample, named, flags = sample_rows(found, header=True), list[str](), ""
    for place, title in enumerate(sample.columns):
        looks = looks_like([row[place] or "" for row in sample.rows if len(row) > place])
        named.append(f"{title} (looks like {looks})" if looks else title)
        if len(title) >= LONG and looks_like([title]) == looks != "":
            flags = f" --no_header --column={place + 1}"
    return ", ".join(named), flags
