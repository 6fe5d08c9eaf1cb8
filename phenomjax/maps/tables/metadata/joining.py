"""--metadata FILE …: what other tables know of the same wells, plates and perturbations, joined by
the columns that both have, as JUMP (well, plate, compound, orf, crispr, perturbation_control), RxRx
(metadata_rxrx3_core.csv) and pycytominer (barcode_platemap, platemap, external metadata) publish
them, or as a plate map by well.

In any order: a table that has no column in common yet waits for those that bring one. Rows are
never multiplied. A well is the same well as A1 and A01, a plate as 7 and 7.0.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phenomjax.data.images.wells import normalise_well, plate_of
from phenomjax.data.images.words import type_of
from phenomjax.data.tables import plain_name
from phenomjax.maps.tables.columns import prefix_of
from phenomjax.maps.tables.metadata.annotations import read_annotations
from phenomjax.maps.tables.metadata.detection import CELL, NAMES, TIME, plain
from phenomjax.system.errors import UserError, first_of

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    import pandas as pd

PLATE_MAPS = ("platemapname", "platemap", "layout", "layoutname")
# names that mean the same column of two tables; a well_id and an address do not
_SAME = {
    **{name: "plate" for tier in NAMES["plate"] for name in tier},
    **{name: "well" for tier in NAMES["well"][:2] for name in tier},
    **{name: "platemap" for name in PLATE_MAPS},
    **{"jcpid": "jcp2022", "jcp2022id": "jcp2022"},
}


@dataclass(frozen=True)
class Joined:
    """What joining one table did.

    Attributes:
      table: its file.
      by: the columns of the profiles that were compared.
      matched: rows of the profiles that the table knows.
      added: columns of the profiles that are new, or were filled.
    """

    table: str
    by: tuple[str, ...]
    matched: int
    added: tuple[str, ...]


def join(
    metadata: "pd.DataFrame", paths: Iterable[str | Path]
) -> tuple["pd.DataFrame", list[Joined]]:
    """Metadata with what the tables know of its rows, in the same rows.

    A column that is there already keeps its values and is filled where it is empty; among tables
    the later one wins.

    Args:
      metadata: one row a profile.
      paths: of tables.

    Raises:
      UserError: a table without a column in common, none of whose rows match, or that says several
        things of one well.
    """
    waiting = {str(path): read_annotations(Path(path)) for path in paths}
    prefix = prefix_of(metadata.columns)
    own = set(metadata.columns)
    done: list[Joined] = []
    while waiting:
        path, table, by = _next(metadata, waiting)
        if not by:
            raise UserError(
                f"`metadata` {path} has no column in common with the profiles by which wells,"
                f" plates or perturbations could be told. It has {first_of(table.columns)}; the"
                f" profiles have {first_of(metadata.columns)}. Name a column in both alike, or give"
                " the table that lies between them too (`metadata` PLATES.csv WELLS.csv)."
            )
        waiting.pop(path)
        metadata, joined = _join_one(metadata, table, path, by, prefix, own)
        done.append(joined)
    for joined in done:
        if not joined.matched and not any(d.matched for d in done if d.by == joined.by):
            raise _unmatched(metadata, read_annotations(Path(joined.table)), joined)
        log.info(
            "metadata: %s knows %d of %d rows by %s%s",
            joined.table,
            joined.matched,
            len(metadata),
            ", ".join(joined.by),
            f"; it adds {first_of(joined.added)}" if joined.added else "",
        )
    return metadata, done


def _next(
    metadata: "pd.DataFrame", waiting: dict[str, "pd.DataFrame"]
) -> tuple[str, "pd.DataFrame", dict[str, tuple[str, str]]]:
    """The table to be joined next, and by which columns; a layout waits for what tells the plates'
    layouts.
    """
    there = {_same(name) for name in metadata.columns}
    found = []
    for path, table in waiting.items():
        table = _of_its_plate(metadata, table, path)
        by = _keys(metadata, table)
        lacking = ({_same(name) for name in table.columns} & {"plate", "platemap"}) - there
        found.append(
            (not by, bool(lacking and not by.keys() & {"plate", "platemap"}), path, table, by)
        )
    *_, path, table, by = min(found, key=lambda one: one[:2])
    return path, table, by


def _same(column: object) -> str:
    """A column's name as it is compared between tables."""
    return _SAME.get(plain(column), plain(column))


def _common(metadata: "pd.DataFrame", table: "pd.DataFrame") -> dict[str, tuple[str, str]]:
    """{compared name: (column of the metadata, column of the table)} of what both have."""
    pairs: dict[str, tuple[str, str]] = {}
    for meaning in (plain, _same):  # a name that is the same comes before one that means the same
        there: dict[str, str] = {}
        for name in metadata.columns:
            there.setdefault(meaning(name), str(name))
        for name in map(str, table.columns):
            mine = there.get(meaning(name))
            taken = [pair for pair in pairs.values() if mine == pair[0] or name == pair[1]]
            if mine is not None and not taken and meaning(name) not in pairs:
                pairs[meaning(name)] = (mine, name)
    return {_same(mine): (mine, its) for mine, its in pairs.values()}


def _keys(metadata: "pd.DataFrame", table: "pd.DataFrame") -> dict[str, tuple[str, str]]:
    """The common columns that tell the rows of a table apart, as few as do."""
    common = _common(metadata, table)

    def of(role: str) -> list[str]:
        return [name for tier in NAMES[role] for name in tier if name in common]

    parents, plates = of("experiment"), [n for n in ("plate", "platemap") if n in common][:1]
    wells = of("well")
    if "wellid" in common and _unique(table, [common["wellid"][1]]):
        chosen = ["wellid"]
    elif wells:
        chosen = [*parents, *plates, *wells[:1]]
    elif plates:
        chosen = [*parents, *plates]
    else:
        chosen = [*of("perturbation")[:1]] or [*of("gene")[:1]] or parents
    if not chosen:
        chosen = [n for n, (_, its) in common.items() if _unique(table, [its])][:1]
    others = [
        *of("perturbation"),
        *filter(TIME.fullmatch, common),
        *filter(CELL.fullmatch, common),
        "site",
        "dose",
        "concentration",
        "conc",
    ]
    for name in others:
        if chosen and not _unique(table, [common[n][1] for n in chosen]):
            chosen += [name] if name in common and name not in chosen else []
    return {name: common[name] for name in chosen}


def _unique(table: "pd.DataFrame", columns: list[str]) -> bool:
    known = table[columns].dropna()
    return not known.duplicated().any()


def _of_its_plate(metadata: "pd.DataFrame", table: "pd.DataFrame", path: str) -> "pd.DataFrame":
    """A plate map that bears the name of its plate, or of its layout, in its file's name alone."""
    same = {_same(name) for name in table.columns}
    if "well" not in same or same & {"plate", "platemap"}:
        return table
    for name in metadata.columns:
        if _same(name) in ("plate", "platemap"):
            for value in metadata[name].dropna().unique():
                if plate_of(str(value)) == plate_of(Path(plain_name(Path(path))).stem):
                    return table.assign(**{str(name): value})
    return table


def _join_one(
    metadata: "pd.DataFrame",
    table: "pd.DataFrame",
    path: str,
    by: dict[str, tuple[str, str]],
    prefix: str,
    own: set[str],
) -> tuple["pd.DataFrame", Joined]:
    """One table joined; `own` are columns of the profiles, which no table overrules."""
    keys = [its for _, its in by.values()]
    known = table[table[keys].notna().all(axis=1)].reset_index(drop=True)
    ours, theirs = _compared(metadata, known, by)
    whole = (ours.to_frame() != "").all(axis=1).to_numpy()
    there = theirs.isin(ours[whole])  # other plates' wells may be there several times
    known, theirs = _one_row_each(known[there].reset_index(drop=True), theirs[there], path, by)
    rows = np.where(whole, theirs.get_indexer(ours), -1)
    found = rows >= 0
    mine = tuple(mine for mine, _ in by.values())
    if not found.any():
        return metadata, Joined(path, mine, 0, ())
    metadata = metadata.copy(deep=False)
    common = {its: our for our, its in _common(metadata, table).values()}
    added, kept = [], []
    for name in known.columns.difference(keys, sort=False):
        values = known[name].to_numpy(object)[rows]
        values = np.where(found, values, None)
        target = common.get(str(name), f"{prefix}{str(name).removeprefix('Metadata_')}")
        if target not in metadata and str(name).startswith("Metadata_"):
            target = str(name)
        if target in metadata:
            before = metadata[target].to_numpy(object)
            fill = _missing(before) & ~_missing(values)
            differ = [_text(a) != _text(b) for a, b in zip(before, values, strict=True)]
            other = ~_missing(before) & ~_missing(values) & differ
            if target not in own:
                fill |= other
            elif other.any():
                kept.append(f"{target} ({int(other.sum())})")
            if not fill.any():
                continue
            values = np.where(fill, values, before)
        metadata[target] = _typed(values)
        added.append(target)
    kind = type_of(Path(plain_name(Path(path))).name.split(".")[0].split("_")[0])
    if kind and not {*by} & {"plate", "well", "platemap"}:
        named = [n for n in metadata.columns if plain(n) == "perturbationtype"]
        target = named[0] if named else f"{prefix}perturbation_type"
        if target not in own:  # of the table of compounds are the compounds
            before = metadata[target].to_numpy(object) if named else np.full(len(rows), None)
            metadata[target] = np.where(found & _missing(before), kind, before)
            added.append(target)
    if kept:
        log.info("metadata: %s says otherwise of %s; the profiles' own stay", path, first_of(kept))
    return metadata, Joined(path, mine, int(found.sum()), tuple(added))


def _compared(
    metadata: "pd.DataFrame", table: "pd.DataFrame", by: dict[str, tuple[str, str]]
) -> tuple["pd.MultiIndex", "pd.MultiIndex"]:
    """The keys of both as texts, spelt so that they meet; "" where there is none."""
    import pandas as pd

    ours, theirs = [], []
    for meaning, (mine, its) in by.items():
        one, other = metadata[mine], table[its]
        spell: Callable[[str], str] = normalise_well if meaning == "well" else str
        if all(_tells_apart(values, plate_of) for values in (one, other)) and meaning != "well":
            spell = plate_of  # 7 and 007 are one, where no table has both
        ours.append(_spelt(one, spell))
        theirs.append(_spelt(other, spell))
    return pd.MultiIndex.from_arrays(ours), pd.MultiIndex.from_arrays(theirs)


def _tells_apart(values: "pd.Series", spell: Callable[[str], str]) -> bool:
    """Whether a spelling keeps all values different."""
    texts = {_text(value) for value in values.dropna().unique()}
    return len({spell(text) for text in texts}) == len(texts)


def _spelt(values: "pd.Series", spell: Callable[[str], str]) -> list[str]:
    known = {value: spell(_text(value)) for value in values.dropna().unique()}
    return [known.get(value, "") for value in values]


def _text(value: Any) -> str:
    """A value as it is compared: 7.0 is 7."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _one_row_each(
    table: "pd.DataFrame", key: "pd.MultiIndex", path: str, by: dict[str, tuple[str, str]]
) -> tuple["pd.DataFrame", "pd.MultiIndex"]:
    """A table with one row a key: what says the same twice is once, a perturbation's several values
    become a list A|B.

    Raises:
      UserError: of a well or plate there are several rows that differ.
    """
    import pandas as pd

    if not key.has_duplicates:
        return table, key
    codes = pd.factorize(key)[0]
    keys = [its for _, its in by.values()]
    values = table.drop(columns=keys).groupby(codes)
    varied = list(values.nunique().max().loc[lambda most: most > 1].index)
    named = ", ".join(keys)
    example = " / ".join(key[np.flatnonzero(key.duplicated())[0]])
    if varied and {*by} & {"plate", "well", "platemap", "wellid"}:
        raise UserError(
            f"`metadata` {path} has several rows for one {named} (the first: {example}), which"
            f" differ in {first_of(varied)}; joined so, each would be another well. Does it tell of"
            " several plates, sites or time points? Name their column as the profiles do, or give"
            " one row each."
        )
    first = table.groupby(codes).first()
    for name in varied:
        texts = table[name].dropna().map(_text)
        lists = texts.groupby(codes[texts.index]).agg(lambda some: "|".join(dict.fromkeys(some)))
        first[name] = lists.reindex(first.index)
    if varied:
        log.info(
            "metadata: %s has several rows for one %s; what differs becomes a list (A|B): %s",
            path,
            named,
            first_of(varied),
        )
    return first.reset_index(drop=True), key.unique()


def _missing(values: Any) -> Any:
    import pandas as pd

    return pd.isna(values) | (values == "")


def _typed(values: Any) -> "pd.Series | np.ndarray":
    """Values in the type that they have in common."""
    import pandas as pd

    return pd.Series(values, dtype=object).infer_objects().to_numpy()


def _unmatched(metadata: "pd.DataFrame", table: "pd.DataFrame", joined: Joined) -> UserError:
    its = {mine: other for mine, other in _common(metadata, table).values()}
    shown = [
        f"{name} is {first_of(metadata[name].dropna().unique()[:3])} in the profiles and"
        f" {first_of(table[its[name]].dropna().unique()[:3])} in the table"
        for name in joined.by
        if name in its
    ]
    return UserError(
        f"`metadata` {joined.table} knows none of the {len(metadata)} rows by"
        f" {', '.join(joined.by)}: {'; '.join(shown)}. Is it the table of other plates? Or write"
        " the names in both alike."
    )
