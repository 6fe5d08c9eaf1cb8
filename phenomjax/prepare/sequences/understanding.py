"""What the files of `prepare sequences` are: formats, columns, alphabet; before hours of work."""

import itertools
import logging
from dataclasses import replace
from pathlib import Path

from phenomjax.data.sequences.formats.columns import check_fields, find_columns
from phenomjax.data.sequences.formats.guess import looks_like
from phenomjax.data.sequences.formats.letters import SAMPLE, Letters, check_proteins
from phenomjax.data.sequences.formats.recognise import (
    FORMATS,
    check_words,
    find_format,
    head_lines,
    look,
)
from phenomjax.data.sequences.sources import SequenceFile, find_sources, first_texts
from phenomjax.prepare.sequences.options import Options
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")


def understand(options: Options) -> tuple[list[SequenceFile], str, tuple[str, ...]]:
    """The files, their alphabet, and the columns or fields with the sequences.

    Raises:
      UserError: a file is nothing of the kind, or what it is cannot be told.
    """
    sources = find_sources(list(options.source), options.format)
    kinds = {source.kind for source in sources}
    if "jsonl" in kinds and kinds & {"csv", "table"}:
        raise UserError(
            "Prepare CSV and JSON lines one after the other: `column` is of the one, `field` of the"
            " other."
        )
    columns, usual = dict[str, Path](), dict[str, SequenceFile]()
    for number, source in enumerate(sources):
        alphabet = FORMATS.get(source.kind, "protein")
        if source.kind in ("csv", "table"):
            found = find_columns(
                find_format(source.path, options.format),
                options.column,
                options.id,
                options.alphabet,
                not options.no_header,
            )
            sources[number] = replace(source, form=found.form, header=not options.no_header)
            columns[",".join(found.names)] = source.path
            alphabet = found.alphabet or FORMATS["csv"]
            log.info(
                "%s: %ssequences are in column '%s', read as %s, ids %s",
                source.path,
                f"{found.said}; " if found.said else "",
                ",".join(found.names),
                options.alphabet or alphabet,
                f"in column '{options.id}'" if options.id else "are FILE:LINE (--id COLUMN)",
            )
        elif source.kind == "named" and looks_like(list(first_texts(source))) == "smiles":
            alphabet = "smiles"
            log.info("%s: names and SMILES", source.path)
        elif source.kind == "jsonl":
            fields = [*options.field.split(","), *([options.id] if options.id else [])]
            check_fields(source.path, fields, options.alphabet)
        elif source.kind == "text" and options.alphabet != "bytes":
            lines = head_lines(look(source.path))
            check_words(source.path, [line for line in lines if line.strip()])
        usual[alphabet] = source
    if len(columns) > 1:
        raise UserError(
            "The files have their sequences in columns of different names:"
            f" {', '.join(f'{name} ({path.name})' for name, path in columns.items())}. Prepare them"
            " one by one."
        )
    if options.alphabet is None and len(usual) > 1:
        named = ", ".join(
            f"{source.path.name} looks like {alphabet}" for alphabet, source in usual.items()
        )
        raise UserError(
            f"A bank has one alphabet, and the files differ: {named}. Say `alphabet`, or prepare"
            " them one by one."
        )
    column = tuple(columns) or tuple(options.field.split(","))
    return sources, options.alphabet or next(iter(usual)), column


def check_letters(
    options: Options, sources: list[SequenceFile], alphabet: str, column: tuple[str, ...]
) -> None:
    """Looks at the first sequences of each file, before hours of work."""
    if alphabet != "protein":
        return
    for source in sources:
        texts = list(itertools.islice(first_texts(source, column), SAMPLE))
        if source.kind == "text" and options.alphabet is None and looks_like(texts) == "smiles":
            raise UserError(
                f"{source.path}: its first sequence, {texts[0][:30]!r}, looks like a SMILES, and"
                " text is read as proteins. Say which: --alphabet smiles, or --alphabet protein."
            )
        check_proteins(source.path, Letters.of(texts), options.gaps, options.accept_nucleotides)
