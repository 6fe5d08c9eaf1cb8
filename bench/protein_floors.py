"""What no model needs to know: the baselines of the evaluation suite beside the floors that were
measured elsewhere on the same files.

    python -m bench.protein_floors [--data ../shared/data/protein]

Localization is told from amino acids and dipeptides, secondary structure from a window of 15
letters, learned from 1,500 chains (chosen by hash: whose chains the other measurement took is not
known, nor are its settings), fitness in GB1 from one-hot positions, mutation effects from BLOSUM62.
The regularisation of the composition was searched for until three of its four numbers agreed; see
phenomjax/probes/methods/baselines.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.eval import protein
from phenomjax.probes import metrics
from phenomjax.probes.methods import baselines, mutations, neighbours
from phenomjax.probes.suites import dataset
from phenomjax.probes.suites.suite import Split, Training
from phenomjax.system.errors import exit_on_user_error
from phenomjax.system.options import run_command

ONE_WAY, BACK = "our_val to test", "test to our_val"
# (task, baseline, label, test, metric, average): the floor
FLOORS = {
    ("secondary_structure", "majority", "q3", "test", "accuracy", "residue"): 0.386,
    ("secondary_structure", "one_hot", "q3", "test", "accuracy", "residue"): 0.624,
    ("secondary_structure", "one_hot", "q3", "test", "accuracy", "protein"): 0.638,
    (ONE_WAY, "majority", "location", "test", "accuracy", ""): 0.291,
    (ONE_WAY, "composition", "location", "test", "accuracy", ""): 0.454,
    (BACK, "composition", "location", "test", "accuracy", ""): 0.453,
    (ONE_WAY, "majority", "membrane", "test", "accuracy", ""): 0.574,
    (ONE_WAY, "composition", "membrane", "test", "accuracy", ""): 0.745,
    (BACK, "composition", "membrane", "test", "accuracy", ""): 0.767,
    ("remote_homology", "nearest composition", "fold", "test", "accuracy", ""): 0.012,
    ("gb1_one_vs_rest", "one_hot", "fitness", "test", "spearman", ""): 0.279,
    ("gb1_two_vs_rest", "one_hot", "fitness", "test", "spearman", ""): 0.594,
    ("gb1_low_vs_high", "one_hot", "fitness", "test", "spearman", ""): 0.343,
    ("blat_ecolx_stiffler_2015", "blosum62", "2500", mutations.ALL, "spearman", ""): 0.346,
    ("pabp_yeast_melamed_2013", "blosum62", "linear", mutations.ALL, "spearman", ""): 0.297,
}


@dataclass(frozen=True)
class Options:
    """Of `python -m bench.protein_floors`."""

    data: Path = Path("../shared/data/protein")
    """folder of the suite's files"""


def run(options: Options) -> None:
    """Prints the table."""
    data, suite = options.data, protein.get_config("full")
    tasks = dict(suite.tasks)
    tasks["secondary_structure"] = replace(tasks["secondary_structure"], max_train=1500)
    tasks[ONE_WAY] = replace(tasks["localization"], split=Split(validation=0.0))
    swapped = [
        replace(s, constants={"split": {"train": "test", "test": "train"}[s.constants["split"]]})
        for s in tasks["localization"].sources
    ]
    tasks[BACK] = replace(tasks[ONE_WAY], sources=tuple(swapped))
    read: dict[str, dataset.Dataset] = {}
    print(
        f"{'task':26}{'label':10}{'baseline':20}{'metric':22}{'floor':>7}{'found':>8}  95 %"
        " interval"
    )
    found: dict[tuple[str, str], Sequence[metrics.Measured]] = {}
    for (name, baseline, label, split, metric, average), floor in FLOORS.items():
        if (name, baseline) not in found:
            found[name, baseline] = judged(
                name, baseline, tasks[name], data, read, suite.bootstrap_draws
            )
        wanted = (label, split, metric, average)
        row = next(
            r
            for r in found[name, baseline]
            if (r["label"], r["split"], r["metric"], r["average"]) == wanted
        )
        low, high = row["interval"] or (None, None)
        what = f"{metric} {average and f'a {average}'}"
        print(
            f"{name:26}{label:10}{baseline:20}{what:22}{floor:7.3f}{row['value']:8.4f}  [{low:.3f},"
            f" {high:.3f}]",
            flush=True,
        )


def judged(
    name: str, baseline: str, task, data: Path, read: dict[str, dataset.Dataset], draws: int
) -> Sequence[metrics.Measured]:
    """Rows of results of a baseline."""
    if baseline == "blosum62":
        return mutations.baseline_rows(name, task, data, draws)
    rows = read[name] = read.get(name) or dataset.load(name, task, data)
    if baseline == "nearest composition":
        table, train = baselines.composition(rows.sequences), rows.rows("train")
        nearest, _ = neighbours.nearest(table[train], table[rows.test_rows])
        return metrics.evaluate(rows, [neighbours.transfer(rows, train[nearest])], draws)
    return metrics.evaluate(rows, baselines.predict(baseline, rows, Training()), draws)


if __name__ == "__main__":
    exit_on_user_error(
        lambda: run_command(Options, run, "python -m bench.protein_floors", __doc__ or "")
    )
