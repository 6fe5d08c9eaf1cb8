"""What was found in files of profiles and mended, in one sentence a kind, however many files."""

import logging
from collections.abc import Iterable

from phenomjax.maps.tables.profiles import Record
from phenomjax.maps.tables.sources import Note
from phenomjax.system.errors import first_of

log = logging.getLogger("phenomjax")

ALL_EXAMPLES = ("common", "images", "element", "beside", "cut")  # these name every file
SENTENCES = {
    "bookkeeping": (
        "left out as features, positions or bookkeeping that measure no cells: {names}"
        " (--keep_features REGEX keeps some)"
    ),
    "unlike": (
        "left out as features, numbers named unlike all others: {names} (--keep_features REGEX"
        " keeps some)"
    ),
    "parent": (
        "numbers of objects among the features, as the published selection has them: {names}"
    ),
    "gaps": "{count} cells of text in columns of numbers are missing values: {names} ({example!r})",
    "text": "no features, because they hold text: {names} ({example!r})",
    "twice": "left out, the same column twice: {names}",
    "renamed": "columns of one name and other values, called apart: {names}",
    "common": "the {count} features that all files have; left out {example}: {names}",
    "objects": "{count} objects (cells) to wells ({names}), by their {example}",
    "apart": "{count} rows are single objects (cells)",
    "beside": "tables of the same wells are one: {example}",
    "homeless": "left out {count} objects (cells) of no well",
    "images": "plates and wells of objects are those of {example}",
    "wells": "wells are named by their row and column: {names}",
    "plates": "no column names the plates: each of the {count} files is one, by its name: {names}",
    "cut": (
        "the last line of {example} has fewer columns than its header, as of a file that is cut"
        " off: copy it again"
    ),
    "runs": (
        "the {count} files hold plates and wells of the same names: each file is a run of its own,"
        " by its name: {names}"
    ),
    "element": "X is empty; the features are those of {example}",
    "sites": "{count} files of sites",
}


def tell(notes: Iterable[Note]) -> list[Record]:
    """Logs the notes of all files, those of a kind together.

    Returns:
      The same for the provenance, a record a kind.
    """
    kinds: dict[str, list[Note]] = {}
    for note in notes:
        kinds.setdefault(note.kind, []).append(note)
    records = []
    for kind, same in kinds.items():
        names = tuple(dict.fromkeys(name for note in same for name in note.names))
        count = same[0].count if kind == "common" else sum(note.count for note in same)
        examples = tuple(dict.fromkeys(note.example for note in same))
        example = first_of(examples) if kind in ALL_EXAMPLES else examples[0]
        told = SENTENCES[kind].format(names=first_of(names), count=count, example=example)
        log.info("profiles: %s", told)
        record: Record = {"found": kind}
        record |= {"columns": list(names)} if names else {}
        record |= {"count": count} if count else {}
        record |= {"example": example} if example else {}
        records.append(record)
    return records
