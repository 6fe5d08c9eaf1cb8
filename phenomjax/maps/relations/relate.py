"""Relate all perturbations: the cosine of every pair, as nearest neighbours, quantiles and
p-values; blocked, never the whole square.

  python -m phenomjax.maps relate --profiles map.parquet --top 50 --out relations/

Writes relations/neighbours.parquet (entity, kind: gene or compound, neighbour, neighbour_kind,
side, rank, cosine, p: the --top most similar and most opposite of each entity among each kind of
perturbation), relations/quantiles.json (of all cosines, and of the null), and with --square
relations/square.npy (float32, memory-mapped; 17,000 genes are 1.2 GB).

Neighbours are exact, ties in the order of the map. Quantiles and p-values come from a histogram of
all pairs with 2^16 bins of equal width: a quantile is off by at most one bin, 3.1e-5 in cosine; a
p-value counts the whole bin of its cosine, so it errs upwards. The null of the p-values is all
pairs of the map (as in the recall of known relationships), or the pairs among the entities that
--null names.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from phenomjax.maps.build.consistency import unit_rows
from phenomjax.maps.tables.input import define_input, load
from phenomjax.maps.tables.names import entities
from phenomjax.system.errors import UserError
from phenomjax.system.files import replacing, write_json
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")

BINS = 2**16
ROW_GROUP = 10**6
QUANTILES = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999)
NUMBERS_AT_ONCE = (
    3 * 10**6
    # of a block of cosines, for the caches; but at least 64 rows, so that the columns are not read
    # for a few
)


def units(features: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32 C-contiguous.

    Raises:
      UserError: a row of zeros, whose cosine with anything is undefined.
    """
    zero = ~features.any(1)
    if zero.any():
        raise UserError(
            f"{int(zero.sum())} of {len(features)} profiles are zero in all features (the first is"
            f" row {int(np.argmax(zero))}), so their cosine with any other is undefined. Leave them"
            " out, or look at how they were made: an image without cells?"
        )
    return np.ascontiguousarray(unit_rows(features), np.float32)


def blocks(rows: np.ndarray, columns: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, cosines float32 [rows of the block, columns]) for all pairs of unit rows."""
    columns = rows if columns is None else columns
    step = max(64, NUMBERS_AT_ONCE // max(len(columns), 1))
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step] @ columns.T


def upper_blocks(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each pair i < j: (first row a, cosines [b, n - a] of rows a … a + b with rows a … n); the
    leading square [b, b] holds both orders.
    """
    start = 0
    while start < len(rows):
        step = max(1, min(NUMBERS_AT_ONCE // (len(rows) - start), len(rows) - start))
        yield start, rows[start : start + step] @ rows[start:].T
        start += step


def cosines(features: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, cosines float32 [rows of the block, all rows]) of a map's features, block after
    block.
    """
    yield from blocks(units(features))


def bin_of(cosine: np.ndarray) -> np.ndarray:
    """The histogram's bin of each cosine, int64."""
    scaled = np.multiply(cosine, np.float32(BINS / 2), dtype=np.float32)
    scaled += np.float32(BINS / 2)
    codes = scaled.astype(np.int64)
    return np.clip(codes, 0, BINS - 1, out=codes)


def histogram(rows: np.ndarray) -> np.ndarray:
    """How many pairs i < j of unit rows fall in each of BINS bins of equal width over [-1, 1],
    int64 [BINS].
    """
    counts = np.zeros(BINS, np.int64)
    for _, block in upper_blocks(rows):
        above = block[:, : len(block)][np.triu_indices(len(block), 1)]
        for values in (above, block[:, len(block) :].ravel()):
            counts += np.bincount(bin_of(values), minlength=BINS)
    return counts


def quantiles(counts: np.ndarray, probabilities: tuple[float, ...] = QUANTILES) -> dict[str, float]:
    """Quantiles from a histogram: the middle of the bin that holds them, so off by at most half a
    bin's width, 1.5e-5.
    """
    total, below = int(counts.sum()), np.cumsum(counts)
    return {
        str(p): float((np.searchsorted(below, p * total) + 0.5) / (BINS / 2) - 1)
        for p in (probabilities if total else ())
    }


def p_values(counts: np.ndarray, cosine: np.ndarray, side: str) -> np.ndarray:
    """Share of the null that is as similar ("similar") or as opposite ("opposite"), the cosine's
    whole bin counted; at least 1 / n.
    """
    total = max(int(counts.sum()), 1)
    below = np.cumsum(counts)
    codes = bin_of(cosine)
    shares = (total - below[codes] + counts[codes]) if side == "similar" else below[codes]
    return np.maximum(shares, 1) / total


def largest(block: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k largest values of each row, largest first, ties in the order of the columns;
    int64 [rows, k].

    A threshold that at least k columns pass is taken from every 16th column; only what passes it is
    sorted.
    """
    stride = max(1, min(16, block.shape[1] // (4 * k)))
    sample = np.ascontiguousarray(block[:, ::stride])
    floor = np.partition(sample, sample.shape[1] - k, axis=1)[:, sample.shape[1] - k]
    found = np.empty((len(block), k), np.int64)
    for row, (values, least) in enumerate(zip(block, floor, strict=True)):
        candidates = np.flatnonzero(values >= least)
        found[row] = candidates[np.lexsort((candidates, -values[candidates]))[:k]]
    return found


def top_k(
    rows: np.ndarray, columns: np.ndarray, k: int, own: np.ndarray | None = None
) -> Iterator[tuple[int, dict[str, tuple[np.ndarray, np.ndarray]]]]:
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
            found = largest(signed, k)
            values = np.take_along_axis(signed, found, 1)
            sides[side] = (found, np.where(np.isfinite(values), sign * values, np.nan))
        yield start, sides


def neighbours(
    rows: np.ndarray, names: np.ndarray, kinds: np.ndarray, k: int, null: np.ndarray
):  # -> Iterator[pa.Table]
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

    def stored(codes: np.ndarray, values: pa.Array) -> pa.DictionaryArray:
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


def write_tables(path: Path, tables) -> int:  # tables: Iterable[pa.Table]
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    define_input(parser)
    parser.add_argument(
        "--top", type=int, default=50, help="neighbours a side and kind (%(default)s)"
    )
    parser.add_argument(
        "--null",
        metavar="QUERY",
        default=None,
        help="entities whose pairs are the null, e.g. 'expressed == False'; default: all",
    )
    parser.add_argument(
        "--square", action="store_true", help="write the whole square of cosines too"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """Relates all entities of a map and writes what was found."""
    from phenomjax.maps.tables.columns import query_rows

    profiles, columns = load(args)
    who = entities(profiles, columns)
    names, kinds = who["name"].to_numpy(object), who["kind"].to_numpy(object)
    if len(names) < 3:
        raise UserError(f"The map has {len(names)} entities; relations need at least 3.")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = units(profiles.features)
    everything = histogram(rows)
    null = everything
    if args.null is not None:
        chosen = query_rows(profiles.metadata, args.null, "--null")
        if chosen.sum() < 20:
            raise UserError(
                f"--null {args.null!r} names {int(chosen.sum())} entities; a null of fewer than 20"
                " says nothing. Widen the query."
            )
        null = histogram(rows[chosen])
    with replacing(out / "neighbours.parquet") as part:
        written = write_tables(part, neighbours(rows, names, kinds, args.top, null))
    if args.square:
        part = out / ".part-square.npy"
        square = np.lib.format.open_memmap(
            part, mode="w+", dtype=np.float32, shape=(len(rows), len(rows))
        )
        for start, block in blocks(rows):
            square[start : start + len(block)] = block
        square.flush()
        part.replace(out / "square.npy")
    record = {
        "entities": len(names),
        "pairs": int(everything.sum()),
        "kinds": {kind: int((kinds == kind).sum()) for kind in sorted(set(kinds))},
        "quantiles": quantiles(everything),
        "quantile_error": 1 / BINS,
        "null": args.null or "all pairs",
        "null_pairs": int(null.sum()),
        "null_quantiles": quantiles(null),
        "provenance": profiles.after("relate", top=args.top, null=args.null).provenance,
    }
    write_json(out / "quantiles.json", record)
    log.info("relate: wrote %d neighbours of %d entities to %s", written, len(names), out)
    return 0
