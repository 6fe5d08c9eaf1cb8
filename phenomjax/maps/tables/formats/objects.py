"""Tables with a row for each object (cell): CellProfiler's Cells.csv and its like, CytoTable's
joined objects, DeepProfiler's cells. Their rows become one of a well, the number of objects kept.

A table of objects has a column of whole object numbers and several rows of a well. CellProfiler
may name plates and wells in its table of images only (MyExpt_Image.csv beside MyExpt_Cells.csv):
then they are taken from there, by ImageNumber. Tables of the same wells with other measurements
(Cells, Nuclei, Cytoplasm) stand side by side.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from phenomjax.maps.tables import frames
from phenomjax.maps.tables.columns import UNTOLD, prefix_of
from phenomjax.maps.tables.formats.features import CELL_PROFILER, METADATA, is_bookkeeping
from phenomjax.maps.tables.metadata.detection import detect
from phenomjax.maps.tables.metadata.wells import with_wells
from phenomjax.maps.tables.sources import Block, Blocks, Note, Source, columns_of, noted
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

NUMBER = re.compile(
    r"(?:.*_)?(?:Object_?Number|Number_Object_Number)(?:_\d+)?|(?:object|cell)[ _]?id",
    re.IGNORECASE,
)
OBJECT = re.compile(r"cells|nuclei|cytoplasm|nucleus", re.IGNORECASE)
OWNED = re.compile(r"(?:Cells|Cytoplasm|Nuclei|Image)_")


def as_wells(source: Source, how: str) -> Source:
    """A table of objects as one of wells; any other table as it is.

    Args:
      source: of a file.
      how: "mean" or "median" of the objects; "apart" leaves them.

    Raises:
      UserError: nothing tells the objects' wells.
    """
    table = source.metadata
    if not any(NUMBER.fullmatch(str(name)) and _whole(table[name]) for name in table.columns):
        return source
    notes: tuple[Note, ...] = ()
    columns = _keys(table)
    if columns is None and "ImageNumber" in table:
        table, notes = _with_images(source)
        columns = _keys(table)
    if columns is None and ("ImageNumber" not in table or how == "apart"):
        return source
    if columns is None:
        raise UserError(
            f"{source.path} has a row for each object (cell), and no column names its well"
            f" ({', '.join(map(str, table.columns[:12]))}). CellProfiler writes plates and wells"
            " into its table of images: copy that beside it (MyExpt_Image.csv beside"
            " MyExpt_Cells.csv), or let ExportToSpreadsheet add image metadata to the objects."
            " Rows are taken as they are with `objects` apart."
        )
    if not table.duplicated(columns).any():
        return source
    source = replace(_of_object(source), metadata=table, notes=(*source.notes, *notes))
    if how == "apart":
        return replace(source, notes=(*source.notes, *noted("apart", count=len(table))))
    return averaged(source, columns, how)


def averaged(source: Source, columns: Sequence[str], how: str) -> Source:
    """One row a combination of values of some columns, in the order in which they appear.

    Features are the mean or median of the finite values. Metadata are those that a well's objects
    share; Metadata_Object_Count is the number of objects.
    """
    table = source.metadata
    grouped = table.groupby(list(columns), sort=False, dropna=True, observed=True)
    codes = grouped.ngroup().to_numpy()
    homeless = int((codes < 0).sum())
    wells = int(codes.max(initial=-1)) + 1
    if not wells:
        raise UserError(
            f"{source.path}: no object has a value in {', '.join(columns)}, so that none is of a"
            " well. Look at its table of images."
        )
    kept = [name for name in table.columns if name in columns or not is_bookkeeping(str(name))]
    inside = table[kept][codes >= 0].groupby(codes[codes >= 0])
    same = [
        name for name in kept if name in columns or inside[name].nunique(dropna=False).max() == 1
    ]
    metadata = inside[same].first().reset_index(drop=True)
    count = "Metadata_Object_Count" if prefix_of(same) else "object_count"
    metadata[count] = np.bincount(codes[codes >= 0], minlength=wells)

    def read(chosen: tuple[str, ...]) -> Blocks:
        average = _medians if how == "median" else _means
        return columns_of(average(source, codes, wells), source.names, chosen)

    notes = (
        *source.notes,
        *noted("objects", columns, int((codes >= 0).sum()), how),
        *noted("homeless", count=homeless),
    )
    return replace(source, metadata=metadata, read=read, notes=notes)


def _finished(codes: Int[np.ndarray, " rows"], wells: int) -> Int[np.ndarray, "{wells}"]:
    """Row at which each well and all before it are complete."""
    last = np.zeros(wells, np.int64)
    rows = np.flatnonzero(codes >= 0)
    np.maximum.at(last, codes[rows], rows)
    return np.maximum.accumulate(last)


def _means(source: Source, codes: Int[np.ndarray, " rows"], wells: int) -> Blocks:
    """Mean of the finite values of each well, NaN where there is none: blocks of wells, as soon as
    the objects of these have been read.
    """
    from scipy.sparse import csr_array

    dim, finished = len(source.names), _finished(codes, wells)
    sums, counts = np.zeros((0, dim)), np.zeros((0, dim))
    first = start = 0  # well of sums[0], row of block[0]
    for block in source.blocks():
        code = codes[start : start + len(block)]
        rows = np.flatnonzero(code >= 0)
        more = np.zeros((max(0, int(code.max(initial=-1)) + 1 - first - len(sums)), dim))
        sums, counts = np.concatenate([sums, more]), np.concatenate([counts, more])
        at = (code[rows] - first, np.arange(len(rows)))
        place = csr_array((np.ones(len(rows)), at), shape=(len(sums), len(rows)))
        finite = np.isfinite(block[rows])
        sums += place @ np.where(finite, block[rows], 0).astype(np.float64)
        counts += place @ finite
        start += len(block)
        ready = int(np.searchsorted(finished, start)) - first
        empty = np.full((ready, dim), np.nan)
        mean = np.divide(sums[:ready], counts[:ready], out=empty, where=counts[:ready] > 0)
        yield mean.astype(np.float32)
        sums, counts, first = sums[ready:], counts[ready:], first + ready


def _medians(source: Source, codes: Int[np.ndarray, " rows"], wells: int) -> Blocks:
    """Median of the finite values of each well, NaN where there is none: blocks of wells, as soon
    as the objects of these have been read.
    """
    import pandas as pd

    finished = _finished(codes, wells)
    waiting: list[Block] = []
    first = done = start = 0  # well, row that the first of `waiting` is, row of the next block
    for block in source.blocks():
        waiting.append(np.where(np.isfinite(block), block, np.nan))
        start += len(block)
        if (last := int(np.searchsorted(finished, start))) == first:
            continue
        rows, code = np.concatenate(waiting), codes[done:start]
        ready = (code >= first) & (code < last)
        table = pd.DataFrame(rows[ready].astype(np.float64))
        yield table.groupby(code[ready]).median().to_numpy(np.float32)
        rest = np.flatnonzero(code >= last)
        kept = int(rest[0]) if len(rest) else len(code)
        waiting, first, done = [rows[kept:]], last, done + kept


def side_by_side(sources: Sequence[Source]) -> list[Source]:
    """Tables of the same wells with other measurements (Cells.csv, Nuclei.csv) as one table.

    They are of one folder and their names differ in the object only.
    """
    import pandas as pd

    groups: dict[tuple[Path, str], list[Source]] = {}
    for source in sources:
        key = (source.path.parent, OBJECT.sub("*", source.path.name))
        groups.setdefault(key, []).append(source)
    found = []
    for same in groups.values():
        keys = [note.names for source in same for note in source.notes if note.kind == "objects"]
        names = [name for source in same for name in source.names]
        if len(same) < 2 or len(keys) < len(same) or len(set(names)) < len(names):
            found += same
            continue
        columns = list(keys[0])
        first = pd.MultiIndex.from_frame(same[0].metadata[columns].astype(str))
        rows = [
            pd.MultiIndex.from_frame(one.metadata[columns].astype(str)).get_indexer(first)
            for one in same
        ]
        found.append(_joined(same, rows))
    return found


def _joined(same: Sequence[Source], rows: Sequence[Int[np.ndarray, " rows"]]) -> Source:
    """Sources side by side, given where each row of the first is in each of them (-1: nowhere)."""
    names = tuple(name for source in same for name in source.names)

    def read(chosen: tuple[str, ...]) -> Blocks:
        features = [np.concatenate(list(source.blocks())) for source in same]
        wide = np.concatenate(
            [
                np.where((row < 0)[:, None], np.nan, values[row])
                for values, row in zip(features, rows, strict=True)
            ],
            axis=1,
        )
        return columns_of([wide], names, chosen)

    files = [one for source in same for one in source.provenance.get("sources", [])]
    notes = tuple(note for source in same for note in source.notes)
    provenance = {**same[0].provenance, "sources": files}
    beside = noted("beside", example=" and ".join(source.path.name for source in same))
    return Source(same[0].path, same[0].metadata, names, provenance, read, (*notes, *beside))


def _keys(table: "pd.DataFrame") -> list[str] | None:
    """The columns that together name a well; None where none names it."""
    table = table[[name for name in table.columns if not NUMBER.fullmatch(str(name))]]
    columns = detect(table, UNTOLD)
    return [name for name in columns.identity(table) if name] if columns.well else None


def _whole(column: "pd.Series") -> bool:
    """Whether a column holds whole numbers."""
    import pandas as pd

    values = pd.to_numeric(column, errors="coerce").dropna().to_numpy(np.float64)
    return bool(len(values)) and bool((values == np.round(values)).all())


def _of_object(source: Source) -> Source:
    """Features of a file of one object are called after it: AreaShape_Area of Cells.csv is
    Cells_AreaShape_Area.
    """
    match = OBJECT.search(source.path.name)
    measured = any(CELL_PROFILER.fullmatch(name) for name in source.names)
    if match is None or not measured or any(OWNED.match(name) for name in source.names):
        return source
    prefix = f"{match[0].capitalize()}_"
    read = source.read

    def renamed(chosen: tuple[str, ...]) -> Blocks:
        return read(tuple(name.removeprefix(prefix) for name in chosen))

    return replace(source, names=tuple(prefix + name for name in source.names), read=renamed)


def _with_images(source: Source) -> tuple["pd.DataFrame", tuple[Note, ...]]:
    """The objects' metadata with those of their images, from the table beside, where there is
    one.
    """
    table, path = source.metadata, source.path
    wanted = OBJECT.sub("image", path.name.lower())
    beside = [p for p in sorted(path.parent.iterdir()) if p.name.lower() == wanted and p != path]
    if not beside or "ImageNumber" not in table:
        return table, ()
    header = frames.look(beside[0]).columns
    keys = [name for name in ("TableNumber", "ImageNumber") if name in header and name in table]
    known = [name for name in header if METADATA.fullmatch(name) and name not in table]
    images = frames.read_frame(beside[0], [*keys, *known])
    if "ImageNumber" not in keys or images.duplicated(keys).any():
        raise UserError(
            f"{beside[0]} does not name each image by one number (ImageNumber), so that the objects"
            f" of {path} have no wells. Write both from one run of CellProfiler."
        )
    joined = table.merge(images, on=keys, how="left", validate="many_to_one")
    joined, _ = with_wells(joined)
    return joined, noted("images", known, example=beside[0].name)
