"""Relate all perturbations: the cosine of every pair, as nearest neighbours, quantiles and
p-values; blocked, never the whole square.

  python -m phenomjax.maps relate --profiles map.parquet --top 50 --out relations/

Writes relations/neighbours.parquet (entity, kind: gene or compound, neighbour, neighbour_kind,
side, rank, cosine, p: the --top most similar and most opposite of each entity among each kind of
perturbation), relations/quantiles.json (of all cosines, and of the null), and with --square
relations/square.npy (float32, memory-mapped; 17,000 genes are 1.2 GB).

Neighbours are exact, ties in the order of the map, the same on every machine. Quantiles and
p-values come from a histogram of all pairs with 2^16 bins of equal width: a quantile is off by at
most one bin, 3.1e-5 in cosine; a p-value counts the whole bin of its cosine and of what may tie
with it, so it errs upwards. The null of the p-values is all pairs of the map (as in the recall of
known relationships), or the pairs among the entities that --null names.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import tyro
from jaxtyping import Float32, Float64, Int, Int64, Shaped

from phenomjax.maps.relations.cosines import (
    BINS,
    blocks,
    histogram,
    p_values,
    quantiles,
    units,
)
from phenomjax.maps.tables.columns import query_rows
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.names import entities
from phenomjax.maps.tables.options import Folder, TableOptions
from phenomjax.statistics.cosines import exact_cosines
from phenomjax.statistics.ties import TIED
from phenomjax.system import ending
from phenomjax.system.errors import UserError
from phenomjax.system.files import replacing, write_json
from phenomjax.system.log import Progress
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 10**6


def largest(
    block: Float32[np.ndarray, "rows columns"],
    k: int,
    exact: Callable[[int, Int[np.ndarray, " some"]], Float64[np.ndarray, " some"]],
) -> Int64[np.ndarray, "rows {k}"]:
    """Columns of the k largest values of each row, largest first, ties in the order of the columns.

    A threshold that at least k columns pass is taken from every 16th column; only what passes it is
    sorted. Values so near to each other that their rounding may have decided are ranked by their
    exact ones.

    Args:
      block: values with the errors of float32; one of -inf is in truth no value.
      k: at most the number of columns.
      exact: (row, columns) to the values without error.
    """
    stride = max(1, min(16, block.shape[1] // (4 * k)))
    sample = np.ascontiguousarray(block[:, ::stride])
    floor = np.partition(sample, sample.shape[1] - k, axis=1)[:, sample.shape[1] - k]
    found = np.empty((len(block), k), np.int64)
    for row, (values, least) in enumerate(zip(block, floor, strict=True)):
        candidates = np.flatnonzero(values >= least - np.float32(TIED))
        candidates = candidates[np.lexsort((candidates, -values[candidates]))]
        ordered = values[candidates[: k + 1]]
        if (ordered[:-1] - ordered[1:] <= TIED).any():
            candidates = _settled(candidates, values, k, functools.partial(exact, row))
        found[row] = candidates[:k]
    return found


def _settled(
    candidates: Int64[np.ndarray, " candidates"],
    values: Float32[np.ndarray, " columns"],
    k: int,
    exact: Callable[[Int[np.ndarray, " some"]], Float64[np.ndarray, " some"]],
) -> Int64[np.ndarray, " few"]:
    """The first k candidates, and those that tie with the last of them; what ties is ranked by its
    exact value, and all others are so far from each other that their rounded ones tell.

    Args:
      candidates: columns, in the order of their values.
      values: of all columns.
      k: how many are wanted.
      exact: columns to their values without error.
    """
    ordered = values[candidates]
    close = ordered[:-1] - ordered[1:] <= TIED
    apart = np.flatnonzero(~close[k - 1 :])
    few = k + apart[0] if len(apart) else len(candidates)
    candidates, keys = candidates[:few], ordered[:few].astype(np.float64)
    tied = np.zeros(few, bool)
    tied[:-1] |= close[: few - 1]
    tied[1:] |= close[: few - 1]
    tied &= np.isfinite(keys)
    keys[tied] = exact(candidates[tied])
    return candidates[np.lexsort((candidates, -keys))]


def top_k(
    rows: Float32[np.ndarray, "rows dim"],
    columns: Float32[np.ndarray, "columns dim"],
    k: int,
    own: Int[np.ndarray, " rows"] | None = None,
) -> Iterator[
    tuple[int, dict[str, tuple[Int64[np.ndarray, "block k"], Float32[np.ndarray, "block k"]]]]
]:
    """The k most similar and the k most opposite columns of each row, exactly.

    Args:
      rows, columns: unit rows, float32 [., dim].
      k: at most the number of columns (a row's own column comes last among them, with cosine NaN).
      own: the column that is the row itself, int64 [rows], -1 for none; it is no neighbour of
        itself.

    Yields:
      (first row, {"similar": (columns int64 [block, k], cosines float32 [block, k]), "opposite":
      …}).
    """
    for start, block in blocks(rows, columns):
        there, mine = np.empty(0, int), np.empty(0, int)
        if own is not None:
            mine = own[start : start + len(block)]
            there = np.flatnonzero(mine >= 0)
            mine = mine[there]
        sides = {}
        for side, sign in (("similar", np.float32(1)), ("opposite", np.float32(-1))):
            signed = block if sign > 0 else np.negative(block, out=block)
            signed[there, mine] = -np.inf

            def exact(
                row: int, chosen: Int[np.ndarray, " some"], sign=sign, start=start
            ) -> Float64[np.ndarray, " some"]:
                return sign * exact_cosines(rows[[start + row]], columns[chosen])[0]

            found = largest(signed, k, exact)
            values = np.take_along_axis(signed, found, 1)
            sides[side] = (found, np.where(np.isfinite(values), sign * values, np.nan))
        yield start, sides


def neighbours(
    rows: Float32[np.ndarray, "rows dim"],
    names: Shaped[np.ndarray, " rows"],
    kinds: Shaped[np.ndarray, " rows"],
    k: int,
    null: Int64[np.ndarray, " bins"],
) -> Iterator["pa.Table"]:
    """The k most similar and most opposite of each entity among each kind, with p-values; a table a
    block, names stored once.

    Args:
      rows: unit rows, float32 [entities, dim].
      names, kinds: of the entities.
      null: histogram.
    """
    import pyarrow as pa

    groups, sides = sorted(set(kinds)), ["similar", "opposite"]
    kind_codes = np.searchsorted(groups, kinds.astype(str))
    names_stored, kinds_stored = pa.array(names.astype(str)), pa.array(groups)

    def stored(codes: Int[np.ndarray, " n"], values: "pa.Array") -> "pa.DictionaryArray":
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), values)

    progress = Progress("relate", len(rows) * len(groups), "rows")
    for group in range(len(groups)):
        chosen = np.flatnonzero(kind_codes == group)
        own = np.full(len(rows), -1)
        own[chosen] = np.arange(len(chosen))
        for start, both in top_k(rows, rows[chosen], min(k, len(chosen)), own):
            for side, (found, cosine) in both.items():
                entity, count = (
                    np.repeat(np.arange(start, start + len(found)), found.shape[1]),
                    len(found),
                )
                real = np.isfinite(cosine.ravel())
                cosine, entity = cosine.ravel()[real], entity[real]
                yield pa.table(
                    {
                        "entity": stored(entity, names_stored),
                        "kind": stored(kind_codes[entity], kinds_stored),
                        "neighbour": stored(chosen[found.ravel()[real]], names_stored),
                        "neighbour_kind": stored(np.full(len(entity), group), kinds_stored),
                        "side": stored(np.full(len(entity), sides.index(side)), pa.array(sides)),
                        "rank": np.tile(np.arange(1, found.shape[1] + 1, dtype=np.int32), count)[
                            real
                        ],
                        "cosine": cosine,
                        "p": p_values(null, cosine, side),
                    }
                )
            progress.update(count)


def write_tables(path: Path, tables: Iterable["pa.Table"]) -> int:
    """Writes tables to one Parquet file, in row groups of about ROW_GROUP rows (each stores the
    names once); returns the rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[pa.Table] = []
    writer, written = None, 0

    def flush() -> None:
        nonlocal writer
        table = pa.concat_tables(waiting).combine_chunks()
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=len(table))
        waiting.clear()

    for table in tables:
        waiting.append(table)
        written += len(table)
        if sum(map(len, waiting)) >= ROW_GROUP:
            flush()
    if waiting:
        flush()
    if writer is not None:
        writer.close()
    return written


@dataclass(frozen=True, kw_only=True)
class Options(TableOptions, Overwrite):
    """Of `python -m phenomjax.maps relate`."""

    MAKES: ClassVar[tuple[str, ...]] = ("neighbours.parquet",)

    top: int = 50
    """neighbours a side and kind"""
    null: Annotated[str | None, tyro.conf.arg(metavar="QUERY")] = None
    """entities whose pairs are the null, e.g. 'expressed == False'; all by default"""
    square: bool = False
    """write the whole square of cosines too"""
    out: Folder
    """of the results"""


def run(options: Options) -> int:
    """Relates all entities of a map and writes what was found."""
    if options.top < 1:
        raise UserError(f"`top` is {options.top}; it must be at least 1.")
    profiles, columns = load(options)
    who = entities(profiles, columns)
    names, kinds = who["name"].to_numpy(object), who["kind"].to_numpy(object)
    if len(names) < 3:
        raise UserError(f"The map has {len(names)} entities; relations need at least 3.")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = units(profiles.features)
    everything = histogram(rows)
    null = everything
    if options.null is not None:
        chosen = query_rows(profiles.metadata, options.null, "`null`")
        if chosen.sum() < 20:
            raise UserError(
                f"`null` {options.null!r} names {int(chosen.sum())} entities; a null of fewer than"
                " 20 says nothing. Widen the query."
            )
        null = histogram(rows[chosen])
    with replacing(out / "neighbours.parquet") as part:
        written = write_tables(part, neighbours(rows, names, kinds, options.top, null))
    if options.square:
        with replacing(out / "square.npy") as part:
            square = np.lib.format.open_memmap(
                part, mode="w+", dtype=np.float32, shape=(len(rows), len(rows))
            )
            for start, block in blocks(rows):
                square[start : start + len(block)] = block
            square.flush()
    record = {
        "entities": len(names),
        "pairs": int(everything.sum()),
        "kinds": {kind: int((kinds == kind).sum()) for kind in sorted(set(kinds))},
        "quantiles": quantiles(everything),
        "quantile_error": 1 / BINS,
        "null": options.null or "all pairs",
        "null_pairs": int(null.sum()),
        "null_quantiles": quantiles(null),
        "provenance": profiles.after("relate", top=options.top, null=options.null).provenance,
    }
    write_json(out / "quantiles.json", record)
    ending.wrote(out, f"{written:,} neighbours of {len(names):,} perturbations and their quantiles")
    ending.then(
        "the neighbours of one",
        "python -m phenomjax.maps query {} --profiles" + " {}" * len(options.profiles),
        names[0],
        *options.profiles,
    )
    return 0
