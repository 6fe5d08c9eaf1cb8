"""Recall of known relationships at genome scale, beside looking pairs up one by one: `python -m
bench.maps [--genes 17000]`.

Ours: `recall.bounds` (the exact thresholds of the null of all pairs) and five sources of 40,000
pairs, each with a bootstrap interval. The peer does what EFAAR_benchmarking does with pandas: the
square of cosines as a DataFrame, its upper triangle sorted, each known pair looked up with .loc and
ranked with searchsorted. Its look-ups are timed on a sample of pairs and extrapolated; the square
and the sort are timed on --peer_genes genes and extrapolated (square of n, n log n), because at
17,000 genes they need 4 GB. Wall time, alternating rounds.
"""

import argparse
import math
import statistics
import time

import numpy as np
import pandas as pd

from bench import rounds
from phenomjax.maps.relations import cosines, recall
from phenomjax.statistics import bootstrap

SOURCES, PAIRS, LOOK_UPS = 5, 40_000, 2_000


def ours(features: np.ndarray, sources: list[np.ndarray]) -> tuple[dict[str, float], list[float]]:
    """Seconds of each part, and the recalls."""
    times, start = {}, time.perf_counter()
    rows = cosines.units(features)
    limits = recall.bounds(rows, recall.THRESHOLDS)
    times["null"] = time.perf_counter() - start
    hits = [limits.hits(recall.pair_cosines(rows, pairs))[0] for pairs in sources]
    times["known pairs"] = time.perf_counter() - start - times["null"]
    before = time.perf_counter()
    for hit, pairs in zip(hits, sources, strict=True):
        bootstrap.interval_of_pairs(hit, pairs)
    times["intervals"] = time.perf_counter() - before
    return times, [float(hit.mean()) for hit in hits]


def peer(
    features: np.ndarray, sources: list[np.ndarray], peer_genes: int
) -> tuple[dict[str, float], float]:
    """Seconds of each part, extrapolated to all genes and pairs; and the recall of the sample of
    the first source.
    """
    small = features[:peer_genes]
    names = [f"G{k}" for k in range(peer_genes)]
    start = time.perf_counter()
    unit = small / np.linalg.norm(small, axis=1, keepdims=True)
    table = pd.DataFrame(unit @ unit.T, index=names, columns=names)
    squared = time.perf_counter() - start
    null = np.sort(table.to_numpy()[np.triu_indices(peer_genes, 1)])
    ordered = time.perf_counter() - start - squared
    sample = sources[0][(sources[0] < peer_genes).all(1)][:LOOK_UPS]
    before = time.perf_counter()
    query = np.array([table.loc[names[a], names[b]] for a, b in sample])
    looked = (time.perf_counter() - before) / len(sample)
    n, m = len(features), peer_genes
    times = {
        "square": squared * (n / m) ** 2,
        "sort": ordered * (n / m) ** 2 * math.log(n) / math.log(m),
        "look-ups": looked * sum(map(len, sources)),
    }
    return times, recall.recall_of(null, query, 0.05, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--genes", type=int, default=17_000)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--peer_genes", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    complexes = rng.normal(size=(args.genes // 10, args.dims)).astype(np.float32)
    features = complexes[np.arange(args.genes) % len(complexes)] + 3 * rng.normal(
        size=(args.genes, args.dims)
    ).astype(np.float32)
    sources = []
    for _ in range(SOURCES):
        first = rng.integers(0, args.genes, PAIRS)
        # of the same complex, mostly
        second = (first + len(complexes) * rng.integers(1, 9, PAIRS)) % args.genes
        sources.append(np.stack([first, second], axis=1)[first != second])
    print(rounds.header("", ("numpy", "pandas")).replace(", one core, one thread", ""))
    print(
        f"{args.genes:,} genes, {args.dims} dimensions, {SOURCES} sources of {PAIRS:,} pairs;"
        f" seconds, median of {args.rounds} alternating rounds"
    )
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    processor = []
    for _ in range(args.rounds):
        before = time.process_time()
        times, values = ours(features, sources)
        processor.append(time.process_time() - before)
        runs["ours"].append(times)
        runs["peer"].append(peer(features, sources, min(args.peer_genes, args.genes))[0])
    totals = {}
    for name, found in runs.items():
        middle = {part: statistics.median(one[part] for one in found) for part in found[0]}
        totals[name] = statistics.median(sum(one.values()) for one in found)
        parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in middle.items())
        print(f"{name:5} {totals[name]:8.2f} s  ({parts})")
    print(
        f"ours, CPU time of all cores: {statistics.median(processor):.2f} s (what the wall time is"
        " beyond it was the machine's load)"
    )
    print(
        f"peer / ours {totals['peer'] / totals['ours']:.1f}; recall"
        f" {', '.join(f'{value:.3f}' for value in values)}"
    )


if __name__ == "__main__":
    main()
