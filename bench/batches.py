"""What a staining shift costs a weakly supervised model, and how much of it statistics of the batch
bring back: `python -m bench.batches [--seeds 3] [--work FOLDER]`.

Trains the model of configs/perturbation_demo.py on seven simulated experiments, half of each part
controls (`data.control_share`), once a seed, in two ways:

  plain       each image counts alike in the statistics of its part, and controls are classes;
  controlled  statistics are of the controls of a part alone (`model.control_weight` 1), and these
              are no class (`data.controls` "statistics");

each on two screens: of experiments that are all stained alike, and of ones that are each stained
otherwise (`--staining_shift`), as those of a laboratory are. Then it tells the 16 knock-outs of
eight experiments apart that it never saw, by the highest of their logits: as they are ("clean") and
with a shift, the same cells on the same plates, other optics. The batch norms take the statistics

  running          of training;
  AdaBN            of all images of the experiment, a fifth of them controls;
  controls at w    of its controls with weight w and of its other images with weight 1 - w:
                   control-stabilised. 0.50 is their share in plain training, 1.00 controls alone.

Under label shift an experiment has its controls and two of the 16 knock-outs: eight such sets, so
that every image is asked about once; the network does not know which two. What a shift costs is the
accuracy of the plain network by running statistics where nothing is shifted, in training or in the
test, less that on shifted experiments; "recovered" is the share of it that comes back. Intervals:
95 %, bootstrap over experiments, paired; the mean over seeds is taken before.
"""

import argparse
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from bench import rounds
from phenomjax.checkpoints import loading
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.opening import open_bank
from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
from phenomjax.models.batch_norm import STORED, Statistics
from phenomjax.statistics import bootstrap
from phenomjax.tasks.perturbation import Perturbation

TRAINED, TESTED, WELLS, PX = 8, 8, 96, 128  # experiments, of a plate each; one of TRAINED watches
SHARE = 0.5  # of controls in training
NETWORKS: dict[str, list[str]] = {
    "plain": [],
    "controlled": ["--config.data.controls=statistics", "--config.model.control_weight=1.0"],
}
SCREENS = {"alike": 0.0, "varied": 1.0}  # to train on: the staining shift of their experiments
WEIGHTS = {"plain": (SHARE, 0.75, 1.0), "controlled": (1.0,)}  # of controls in statistics
AT_ONCE = 2  # knock-outs of an experiment under label shift


def screen(first: int, plates: int, shift: float) -> SimulationConfig:
    """As of configs/perturbation_demo.py."""
    return SimulationConfig(
        first_plate=first,
        num_plates=plates,
        plates_per_experiment=1,
        wells_per_plate=WELLS,
        field_px=PX,
        cell_radius=16.0,
        num_complexes=0,
        num_single_genes=16,
        inactive_fraction=0.0,
        num_compounds=0,
        effect_size=4.0,
        staining_shift=shift,
    )


def train(bank: Path, workdir: Path, seed: int, steps: int, network: str) -> None:
    """Trains one model; a finished one is kept."""
    if (workdir / "checkpoints" / str(steps)).is_dir():
        return
    words = ["--config", "configs/perturbation_demo.py", "--workdir", str(workdir)]
    words += [f"--config.data.banks=('{bank}',)", f"--config.data.val_groups=('EXP{TRAINED:02d}',)"]
    words += [f"--config.data.control_share={SHARE}", f"--config.seed={seed}", *NETWORKS[network]]
    words += [f"--config.num_steps={steps}", f"--config.eval.every_steps={steps}"]
    words += [f"--config.checkpoint.every_steps={steps}", f"--config.figures.every_steps={steps}"]
    subprocess.run([sys.executable, "-m", "phenomjax.main", *words], check=True)


class Asked:
    """A trained model, asked which knock-out of a bank an image is of, about whole experiments."""

    def __init__(self, workdir: Path, bank: ImageBank):
        config, self.params, _ = loading.load(workdir)
        self.task, self.crop = Perturbation(config), config.data.crop_size
        table = bank.metadata.to_pandas()
        names = sorted(set(table["perturbation"][~table["is_control"]]))
        self.places = {name: place for place, name in enumerate(names)}
        self.columns = np.array([config.model.classes.index(name) for name in names])

    @functools.cached_property
    def _logits(self):
        return jax.jit(self.task.logits)

    def right(self, images: np.ndarray, labels: np.ndarray, weight: np.ndarray | None):
        """Which rows are told rightly, by the statistics of rows with weights; None: running."""
        edge = (images.shape[1] - self.crop) // 2
        inner = slice(edge, edge + self.crop)
        statistics = STORED if weight is None else Statistics(parts=1, weight=weight)
        logits = self._logits(self.params, {"pixels": images[:, inner, inner]}, statistics)
        return np.asarray(logits)[:, self.columns].argmax(-1) == labels

    def told(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        control: np.ndarray,
        there: np.ndarray,
        size: int,
        share: float | None,
    ) -> np.ndarray:
        """Which of the rows that are there are told rightly, by statistics of these rows, all alike
        or with `share` for controls. Rows of weight 0 fill them up to `size`, for one program.
        """
        weight = there.astype(np.float32)
        if share is not None:
            weight = weights(control, there & ~control, share)
        order = np.argsort(~there, kind="stable")[:size]
        return self.right(images[order], labels[order], weight[order])[: there.sum()]


def weights(control: np.ndarray, others: np.ndarray, share: float) -> np.ndarray:
    """Of the rows of an experiment: `share` of all for the controls together, the rest for the
    others.
    """
    found = np.where(control, share / control.sum(), 0.0)
    return (found + np.where(others, (1 - share) / others.sum(), 0.0)).astype(np.float32)


def accuracies(
    model: Asked, bank: ImageBank, shifted: bool, shares: Sequence[float]
) -> dict[str, list[float]]:
    """{statistics: accuracy on the knock-outs of each experiment}."""
    table = bank.metadata.to_pandas()
    found: dict[str, list[float]] = {}
    for _, rows in table.groupby("experiment", sort=True):
        images = np.stack([bank.read(row) for row in rows.index])
        control = rows["is_control"].to_numpy()
        name = rows["perturbation"].to_numpy()
        labels = np.array([model.places.get(one, -1) for one in name])
        told = functools.partial(model.told, images, labels, control)
        whole = np.ones(len(rows), bool)
        ways = {"AdaBN": None} | {f"controls at {share:.2f}": share for share in shares}
        right = {"running": model.right(images, labels, None)}
        right |= {way: told(whole, len(rows), share) for way, share in ways.items()}
        if shifted:
            genes = sorted(set(name[~control]))
            sets = [np.isin(name, genes[k : k + AT_ONCE]) for k in range(0, len(genes), AT_ONCE)]
            size = max(int((few | control).sum()) for few in sets)
            for way, share in ways.items():
                found_here = np.zeros(len(rows), bool)
                for few in sets:
                    there = few | control
                    found_here[there] |= told(there, size, share) & few[there]
                right[f"{way}, label shift"] = found_here
        for way, values in right.items():
            found.setdefault(way, []).append(float(values[~control].mean()))
    return found


def main() -> int:
    """Trains, asks and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--work", type=Path, help="kept, and continued; a temporary folder else")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options.work or Path(folder), options.seeds, options.steps)
    return 0


def measure(work: Path, seeds: int, steps: int) -> None:
    """Prints the table."""
    start = sum(os.times()[:4])
    plates = {trained: (0, TRAINED, shift) for trained, shift in SCREENS.items()}
    plates |= {"clean": (TRAINED, TESTED, 0.0), "shifted": (TRAINED, TESTED, 1.0)}
    for name, settings in plates.items():
        write_screen(work / f"{name}.zarr", screen(*settings))
    found: dict[tuple[str, ...], list[list[float]]] = {}
    for seed, trained, network in itertools.product(range(seeds), SCREENS, NETWORKS):
        for name in ("clean", "shifted"):
            for way, values in asked(work, seed, steps, trained, network, name).items():
                found.setdefault((trained, network, name, way), []).append(values)
    tables = {key: np.array(values) for key, values in found.items()}  # [seeds, experiments]
    print(rounds.header("", ("jax", "flax", "numpy"), ""))
    print(
        f"{seeds} seeds of {steps} steps, {TESTED} unseen experiments of {WELLS} wells,"
        f" 16 knock-outs (chance {1 / 16:.3f}); {sum(os.times()[:4]) - start:.0f} CPU s"
    )
    columns = f"{'statistics':32}{'accuracy':>9}{'95 %':>17}{'sd of seeds':>13}  recovered"
    print(f"{'trained':8}{'network':11}{'test':8}{columns}")
    reference = tables["alike", "plain", "clean", "running"].mean(0)
    rows = np.concatenate([*bootstrap.drawn(TESTED)])
    for (trained, network, name, way), table in tables.items():
        by_experiment = table.mean(0)
        low, high = bootstrap.interval(by_experiment[rows].mean(1)) or (np.nan,) * 2
        spread = table.mean(1).std(ddof=1) if seeds > 1 else float("nan")
        line = f"{trained:8}{network:11}{name:8}{way:32}{by_experiment.mean():9.3f}"
        line += f"{f'{low:.3f} to {high:.3f}':>17}{spread:13.3f}"
        if name == "shifted" and (network, way) != ("plain", "running"):
            running = tables[trained, "plain", "shifted", "running"].mean(0)
            of = by_experiment, reference, running
            drawn = [recovered(*(x[draw] for x in of)) for draw in rows]
            low, high = bootstrap.interval(np.array(drawn)) or (np.nan,) * 2
            line += f"  {recovered(*of):.0%} ({low:.0%} to {high:.0%})"
        print(line)


def asked(
    work: Path, seed: int, steps: int, trained: str, network: str, name: str
) -> dict[str, list[float]]:
    """`accuracies` of the model of a seed on a screen; kept in a file."""
    workdir = work / f"{trained}_{network}_{seed}"
    path = work / f"{workdir.name}_{name}.json"
    if not path.exists():
        train(work / f"{trained}.zarr", workdir, seed, steps, network)
        bank = open_bank(work / f"{name}.zarr")
        found = accuracies(Asked(workdir, bank), bank, name == "shifted", WEIGHTS[network])
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def recovered(some: np.ndarray, clean: np.ndarray, running: np.ndarray) -> float:
    """Share of what the shift costs that comes back, of means over experiments."""
    return float((some.mean() - running.mean()) / (clean.mean() - running.mean()))


if __name__ == "__main__":
    sys.exit(main())
