"""Does a masked autoencoder learn more from what `prepare curate` keeps? `python -m
bench.curated_map [--steps 1200] [--seeds 2] [--folder runs/curated_map]`.

A simulated screen of four experiments with planted faults (a tenth of the wells out of focus, and
empty, dead and saturated ones) and inert knock-outs (nine of ten single genes). An MAE is trained
on all of it, and, with a weakly supervised model beside it, is the witness by which the screen is
curated; then MAEs are trained on all and on what is kept, for as many steps, with several seeds.
Both embed another screen of the same genes, without faults, whose map is asked for the complexes.

Printed are precision and recall of what was dropped, by the truth of the simulation, and the recall
of complexes by both, with the interval of their difference (bootstrap over complexes, seeds
averaged; the chance is 0.10). What is done is not done again: the folder can be continued.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from bench import rounds

GENES = ["--num-complexes", 12, "--genes-per-complex", 4, "--num-single-genes", 48]
GENES += ["--inactive-fraction", 0.9, "--num-compounds", 0, "--wells", 96]
PICTURE = ["--field-px", 192, "--cell-radius", 18, "--staining-variation", 0.2]
PLATES = 8
FAULTS = ["--out-of-focus-fraction", 0.1, "--empty-fraction", 0.05]
FAULTS += ["--dead-fraction", 0.05, "--saturated-fraction", 0.05]
FAULTY = ("out_of_focus", "empty", "dead", "saturated")


class Folder:
    """Where everything lies, and the commands that make it."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def run(self, made: str, *words: object) -> None:
        """Runs a command of ours, unless what it makes is there."""
        if (self.path / made).exists():
            return
        command = [sys.executable, "-m", *map(str, words)]
        shown = " ".join(command[2:]).replace(f"{rounds.ROOT}/", "")
        print(f"$ python -m {shown}", flush=True)
        start, before = time.perf_counter(), os.times()
        environment = {**os.environ, "PYTHONPATH": str(rounds.ROOT)}
        done = subprocess.run(
            command, cwd=self.path, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        used = os.times()
        cpu = used.children_user + used.children_system
        cpu -= before.children_user + before.children_system
        wall = time.perf_counter() - start
        print(f"  {wall:.0f} s, {cpu:.0f} CPU s\n{done.stdout.strip()}", flush=True)

    def train(self, name: str, config: str, steps: int, seed: int, *words: str) -> None:
        """Trains on the faulty screen."""
        keys = [
            f"--config={rounds.ROOT / 'configs' / config}",
            f"--workdir={name}",
            "--config.data.banks=('screen.zarr',)",
            "--config.data.val_groups=()",
            "--config.data.val_fraction=0.0",
            f"--config.num_steps={steps}",
            f"--config.seed={seed}",
            "--config.eval.every_steps=0",
            "--config.figures.every_steps=0",
            f"--config.checkpoint.every_steps={steps}",
        ]
        self.run(f"{name}/checkpoints/{steps}", "phenomjax.main", *keys, *words)

    def map_of(self, name: str, run: str = "", *words: object) -> None:
        """The map of the clean screen in the eyes of a model."""
        embedded, wells = f"{name}.clean.zarr", f"{name}.wells.parquet"
        embed = ["phenomjax.embed", "--checkpoint", run or name, "--bank", "clean.zarr"]
        self.run(embedded, *embed, *words, "--out", embedded)
        align = ["phenomjax.maps", "align", "--profiles", embedded, "--dims", 64, "--out", wells]
        self.run(wells, *align)
        made = f"{name}.map.parquet"
        self.run(made, "phenomjax.maps", "aggregate", "--profiles", wells, "--out", made)


def found(path: Path, pairs: pd.DataFrame) -> np.ndarray:
    """Which of these pairs are among the 5 % most alike or the 5 % most unlike of all."""
    table = pd.read_parquet(path).set_index("perturbation")
    features = table[[name for name in table if name.startswith("feature")]].to_numpy(float)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = units @ units.T
    low, high = np.quantile(cosines[np.triu_indices(len(units), 1)], (0.05, 0.95))
    one, two = (table.index.get_indexer(pairs[name]) for name in ("entity1", "entity2"))
    values = cosines[one, two]
    return (values <= low) | (values >= high)


def dropped(folder: Path) -> list[str]:
    """Precision and recall of what was dropped."""
    images = pd.read_parquet(folder / "kept.parquet").astype({"reason": str})
    truth = folder / "screen.zarr/truth"
    defects = pd.read_parquet(truth / "defects.parquet").set_index(["plate", "well"])["defect"]
    images["defect"] = images.set_index(["plate", "well"]).index.map(defects.to_dict())
    lines = []
    faulty, marked = images["defect"].notna(), images["reason"].isin(FAULTY)
    both = int((faulty & marked).sum())
    lines.append(
        f"faulty images: {faulty.sum()}, dropped as such {marked.sum()}: precision"
        f" {both / max(marked.sum(), 1):.3f}, recall {both / faulty.sum():.3f}"
    )
    for name in FAULTY:
        mine = images["defect"] == name
        caught = int((mine & marked).sum())
        right = int((mine & (images["reason"] == name)).sum())
        lines.append(f"  {name}: {mine.sum()}, dropped {caught}, by this name {right}")
    genes = pd.read_parquet(truth / "genes.parquet").set_index("gene")
    inert = genes["effect_size"] == 0
    table = pd.read_parquet(folder / "kept_report/perturbations.parquet").set_index("perturbation")
    gone = ~table["kept"].reindex(genes.index, fill_value=False)
    reasons = table["reason"].value_counts()
    both = int((gone & inert).sum())
    lines.append(
        f"inert knock-outs: {inert.sum()} of {len(genes)}, dropped {gone.sum()}: precision"
        f" {both / max(gone.sum(), 1):.3f}, recall {both / inert.sum():.3f}"
    )
    lines.append(f"  {', '.join(f'{count} {name}' for name, count in reasons.items())}")
    for name in [one.removeprefix("p_") for one in table if one.startswith("p_")]:
        passed = (table[f"p_{name}"] < 0.01).reindex(genes.index, fill_value=False)
        lines.append(
            f"  {name} alone keeps {passed.sum()}: {int((passed & ~inert).sum())} of"
            f" {int((~inert).sum())} active, {int((passed & inert).sum())} of {inert.sum()} inert"
        )
    return lines


def main() -> None:
    from phenomjax.statistics.bootstrap import interval_of_mean

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/curated_map"))
    args = parser.parse_args()
    print(rounds.header("", ("jax", "numpy", "pandas"), ""))
    folder = Folder(args.folder.absolute())
    simulate = ["phenomjax.prepare", "simulate", *GENES, *PICTURE, "--plates", PLATES]
    folder.run("screen.zarr/metadata.parquet", *simulate, *FAULTS, "--out", "screen.zarr")
    clean = ["--first_plate", PLATES, "--out", "clean.zarr"]
    folder.run("clean.zarr/metadata.parquet", *simulate, *clean)
    kept = "--config.data.selection=kept.parquet"
    folder.train("all_0", "mae_demo.py", args.steps, 0)
    small = ("--config.global_batch_size=32", "--config.data.crop_size=64")
    treated = "--config.data.controls=drop"
    folder.train("wsl", "perturbation_demo.py", 2 * args.steps, 0, *small, treated)
    for name in ("all_0", "wsl"):
        level = ["--level", "site", "--out", f"{name}.screen.zarr"]
        embed = ["phenomjax.embed", "--checkpoint", name, "--bank", "screen.zarr", *level]
        folder.run(f"{name}.screen.zarr", *embed)
    witnesses = ["--embeddings", "all_0.screen.zarr", "wsl.screen.zarr"]
    curate = ["phenomjax.prepare", "curate", "--bank", "screen.zarr", *witnesses]
    folder.run("kept.parquet", *curate, "--out", "kept.parquet")
    for seed in range(args.seeds):
        folder.train(f"all_{seed}", "mae_demo.py", args.steps, seed)
        folder.train(f"kept_{seed}", "mae_demo.py", args.steps, seed, kept)
        for name in ("all", "kept"):
            folder.map_of(f"{name}_{seed}")
    folder.map_of("untrained_0", "all_0", "--random_weights", 0)
    print("\n".join(["", *dropped(folder.path)]))
    pairs = pd.read_parquet(folder.path / "clean.zarr/truth/relationships.parquet")
    seeds = {"untrained": 1, "all": args.seeds, "kept": args.seeds}
    hits = {
        name: np.stack(
            [found(folder.path / f"{name}_{seed}.map.parquet", pairs) for seed in range(count)]
        )
        for name, count in seeds.items()
    }
    groups = pairs["complex"].to_numpy()
    result = {}
    for name, values in {**hits, "kept - all": hits["kept"] * 1.0 - hits["all"]}.items():
        mean = values.mean(0)
        result[name] = {"value": float(mean.mean()), "interval": interval_of_mean(mean, groups)}
        each = ", ".join(f"{one.mean():.3f}" for one in values)
        low, high = result[name]["interval"]
        print(
            f"recall of {len(pairs)} relationships, {name}: {mean.mean():.3f}"
            f" [{low:.3f}, {high:.3f}] (seeds {each})"
        )
    (folder.path / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
