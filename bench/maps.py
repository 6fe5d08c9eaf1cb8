"""Maps beside what the field uses: `python -m bench.maps [--only recall|mAP]`.

Recall of known relationships at genome scale, beside looking pairs up one by one ([--genes 17000]).

Ours: `recall.bounds` (the exact thresholds of the null of all pairs) and five sources of 40,000
pairs, each with a bootstrap interval. The peer does what EFAAR_benchmarking does with pandas: the
square of cosines as a DataFrame, its upper triangle sorted, each known pair looked up with .loc and
ranked with searchsorted. Its look-ups are timed on a sample of pairs and extrapolated; the square
and the sort are timed on --peer_genes genes and extrapolated (square of n, n log n), because at
17,000 genes they need 4 GB. Wall time, alternating rounds.

Mean average precision beside copairs, on plates of 384 wells (64 of them controls) of one layout
and 904 features: activity (among the controls of the plate, and of all plates) and distinctiveness,
each with p-values of 10,000 rankings. One process each, on one core; CPU time, the peak of resident
memory, and what of it is there before the first pair is looked at (packages and features). copairs
gets the features in float64, which equal numbers need; above --peer_wells it is left out, since its
memory grows with the square of the wells.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

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


def plates(wells: int, dims: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Features, and of each well its plate, perturbation and reference: a number of its own for
    each control, -1 for all others.
    """
    rng = np.random.default_rng(0)
    place = np.arange(wells) % 384
    control = place >= 320
    effects = rng.normal(size=(320, dims)).astype(np.float32) * (np.arange(320) % 2)[:, None]
    features = rng.normal(size=(wells, dims)).astype(np.float32)
    features[~control] += 0.3 * effects[place[~control]]
    table = pd.DataFrame({"plate": np.arange(wells) // 384, "perturbation": place})
    table.loc[control, "perturbation"] = 320
    table["reference"] = np.where(control, np.arange(wells), -1)
    return features, table


RULES = {  # pos_sameby, pos_diffby, neg_sameby, neg_diffby
    "activity": (["perturbation", "reference"], [], ["plate"], ["perturbation", "reference"]),
    "activity, all plates": (["perturbation", "reference"], [], [], ["perturbation", "reference"]),
    "distinctiveness": (["perturbation"], [], [], ["perturbation"]),
}


def make(case: dict) -> tuple[Callable, Callable]:
    """In a worker: one way to find the mAP of one case, and what it found."""
    features, table = plates(case["wells"], case["dims"])
    rules = RULES[case["task"]]
    if case["task"] == "distinctiveness":
        kept = (table["reference"] == -1).to_numpy()
        features, table = features[kept], table[kept].reset_index(drop=True)
    found: dict[str, float] = {}
    if case["peer"] == "copairs":
        from copairs import map as peer

        features = features.astype(np.float64)

        def run() -> None:
            scores = peer.average_precision(table, features, *rules, progress_bar=False)
            with tempfile.TemporaryDirectory() as cache:
                means = peer.mean_average_precision(
                    scores, ["perturbation"], 10_000, 0.05, 0, progress_bar=False, cache_dir=cache
                )
            found["mean"] = float(means["mean_average_precision"].mean())
            found["p"] = float(means["p_value"].sum())
    else:
        from phenomjax.maps.retrieval.average_precision import average_precision
        from phenomjax.maps.retrieval.pairs import conditions
        from phenomjax.maps.retrieval.significance import mean_average_precision

        def run() -> None:
            one, other = conditions(table, *rules[:2]), conditions(table, *rules[2:])
            scores = average_precision(features, one, other)
            means = mean_average_precision(scores, table["perturbation"].to_numpy(), rule="copairs")
            found["mean"], found["p"] = float(means.value.mean()), float(means.p.sum())

    before = rounds.peak_rss()
    return run, lambda: {**found, "before": before}


def mean_average_precisions(sizes: list[int], peer_wells: int, number: int) -> None:
    """Prints a table of both, and stops where they do not agree."""
    print(rounds.header("", ("numpy", "pandas", "copairs")))
    print("                      wells        CPU s   peak GB   of it before   mean mAP")
    for task in RULES:
        for wells in sizes:
            case = {"gpu": False, "repeats": 1, "wells": wells, "dims": 904, "task": task}
            peers = ["ours", *(["copairs"] if wells <= peer_wells else [])]
            found = rounds.alternate(__file__, case, peers, number)
            middle = {
                peer: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
                for peer, rows in found.items()
            }
            for peer, row in middle.items():
                print(
                    f"{task:21} {wells:5} {peer:8} {row['cpu']:7.2f} {row['rss']:8.2f}"
                    f" {row['before']:10.2f}   {row['mean']:12.6f}"
                )
            if "copairs" in middle:
                us, them = middle["ours"], middle["copairs"]
                for key in ("mean", "p"):
                    assert abs(us[key] - them[key]) < 1e-9, (key, us[key], them[key])
                added = (them["rss"] - them["before"]) / max(us["rss"] - us["before"], 0.001)
                print(
                    f"{'':27} copairs / ours: CPU {them['cpu'] / us['cpu']:.1f}, memory"
                    f" {them['rss'] / us['rss']:.1f} (of what is added {added:.0f}); means and"
                    " p-values are equal"
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["recall", "mAP"])
    parser.add_argument("--genes", type=int, default=17_000)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--peer_genes", type=int, default=6_000)
    parser.add_argument("--wells", type=int, nargs="+", default=[1152, 2304, 9216])
    parser.add_argument("--peer_wells", type=int, default=2304)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.only != "recall":
        mean_average_precisions(args.wells, args.peer_wells, args.rounds)
    if args.only != "mAP":
        recalls(args)


def recalls(args: argparse.Namespace) -> None:
    """Prints the seconds of both."""
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
    print(rounds.header("", ("numpy", "pandas"), ""))
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
    if sys.argv[1:2] == ["--worker"]:
        sys.exit(rounds.serve(json.loads(sys.argv[2]), make))
    main()
