"""From images to a map of biology, on a simulated screen whose truth is known. Start after `make demo`: it takes that run's encoder.

  python -m phenomjax.maps demo [--checkpoint runs/mae_demo] [--out runs/maps_demo]

Simulates eight plates that the encoder never saw, embeds them, aligns the wells on their controls, averages them to a map, finds and removes
the proximity bias, and asks whether the map knows the complexes and the compounds' targets that were simulated; then the same from hand-made
intensity features. Every step is a command that is printed before it runs: take them for your own plates. Steps that are done are skipped.
Writes screen.zarr, embeddings.zarr, intensity.parquet, a folder of results for each of the two, pictures/, map.html, demo.json and demo.png.
"""

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phenomjax.errors import EXIT_DONE, UserError
from phenomjax.maps.outputs import save_figure, write_json
from phenomjax.progress import log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEATURES = {"embeddings": "learned embeddings", "intensity": "intensity features"}
SCREEN = {
    "--plates": 8, "--wells": 192, "--field-px": 256, "--cell-radius": 22, "--num-complexes": 20, "--genes-per-complex": 4,
    "--num-single-genes": 160, "--inactive-fraction": 0.9, "--num-compounds": 12, "--num-doses": 4, "--num-arms": 4, "--arm-bias": 2,
    "--staining-variation": 0.2,
}  # fmt: skip
EFFECTIVE = 'perturbation_type == "crispr" or concentration >= 1'  # µM: below it a compound does little
DIMS = {"embeddings": 96, "intensity": 48}  # of 128, and all of 48


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    add("--checkpoint", default="runs/mae_demo", metavar="DIR", help="workdir of `make demo` (%(default)s)")
    add("--out", type=Path, default=Path("runs/maps_demo"), metavar="FOLDER", help="%(default)s")
    add(
        "--plates",
        type=int,
        default=SCREEN["--plates"],
        help="of the screen (%(default)s): fewer are quicker, and leave fewer replicates",
    )


def run(args: argparse.Namespace) -> int:
    """Runs what is not done yet; returns the exit code of the first command that fails."""
    if not Path(args.checkpoint).exists():
        raise UserError(
            f"There is no trained run at {args.checkpoint}. Train the demo's encoder first with `make demo` (some minutes), or name another run "
            "with --checkpoint."
        )
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    screen, genes = out / "screen.zarr", out / "screen.zarr/truth/genes.parquet"
    known = [
        "--relationships",
        out / "screen.zarr/truth/relationships.parquet",
        "--targets",
        out / "screen.zarr/truth/compounds.parquet",
    ]
    steps: list[list[Any]] = [
        ["phenomjax.prepare", "simulate", "--out", screen, *_flat(SCREEN | {"--plates": args.plates})],
        ["phenomjax.embed", "--checkpoint", args.checkpoint, "--bank", screen, "--out", out / "embeddings.zarr"],
        ["phenomjax.maps", "intensity", "--bank", screen, "--out", out / "intensity.parquet"],
    ]
    for kind, profiles in (("embeddings", "embeddings.zarr"), ("intensity", "intensity.parquet")):
        folder = out / kind
        wells, map_file, bias = folder / "wells.parquet", folder / "map.parquet", folder / "proximity"
        steps += [
            ["phenomjax.maps", "align", "--profiles", out / profiles, "--dims", DIMS[kind], "--out", wells],
            ["phenomjax.maps", "aggregate", "--profiles", wells, "--treatments", EFFECTIVE, "--out", map_file],
            [
                "phenomjax.maps",
                "proximity",
                "--profiles",
                map_file,
                "--genes",
                genes,
                "--min_unexpressed",
                5,
                "--out",
                bias,
            ],
        ]
        for state, path in (("raw", map_file), ("corrected", bias / "corrected.parquet")):
            judged = ["--profiles", path, "--map", "--align", "none", *known, "--genes", genes, "--out", folder / state]
            steps += [["phenomjax.maps", "benchmark", *judged]]
    for step in steps:
        code = _command([str(word) for word in step])
        if code != EXIT_DONE:
            return code
    result = read_results(out)
    write_json(out / "demo.json", result)
    log.info("%s", table(result))
    figure = save_figure(draw(result), out / "demo.png")
    log.info("wrote %s, %s", out / "demo.json", figure)
    return EXIT_DONE


def _flat(flags: dict[str, Any]) -> list[Any]:
    return [word for pair in flags.items() for word in pair]


def _command(words: list[str]) -> int:
    """Runs one command as `python -m` would, in this process, after printing it."""
    from phenomjax import embed
    from phenomjax.maps.__main__ import main as maps
    from phenomjax.prepare.__main__ import main as prepare

    log.info("")
    log.info("$ python -m %s", shlex.join(words))
    return {"phenomjax.prepare": prepare, "phenomjax.embed": embed.main, "phenomjax.maps": maps}[words[0]](words[1:])


def read_results(out: Path) -> dict[str, Any]:
    """What the steps found: {kind: {state: {…}}} for the kinds of features and the states raw and corrected."""
    results: dict[str, Any] = {}
    for kind in FEATURES:
        proximity = json.loads((out / kind / "proximity" / "proximity.json").read_text())
        for state, place in (("raw", "before"), ("corrected", "after")):
            found = json.loads((out / kind / state / "benchmark.json").read_text())
            results.setdefault(kind, {})[state] = {
                "recall": found["recall.relationships"],
                "target_average_precision": found["compound_gene.average_precision"],
                "proximity": proximity[place]["genome"]["all_pairs"]["probability"],
            }
    return results


def table(results: dict[str, Any]) -> str:
    """The results as lines of text."""
    lines = [f"{'':34s} recall of complexes   precision of targets   P(within arm > between)"]
    for kind, states in results.items():
        for state, found in states.items():
            recall, target = found["recall"], found["target_average_precision"]
            lines.append(
                f"{FEATURES[kind] + ', ' + state:34s} {recall['value']:.2f} ({recall['interval'][0]:.2f} to {recall['interval'][1]:.2f})   "
                f"{target['value']:18.2f}   {found['proximity']:23.3f}"
            )
    lines.append(f"{'chance':34s} {recall['chance']:.2f}   {target['chance']:33.2f}   {0.5:23.3f}")
    return "\n".join(lines)


def draw(results: dict[str, Any]) -> "Figure":
    """Three panels of bars: recall, targets, proximity bias; raw and corrected, learned and hand-made."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    recall = {kind: [found["recall"] for found in states.values()] for kind, states in results.items()}
    target = {
        kind: [found["target_average_precision"] for found in states.values()] for kind, states in results.items()
    }
    bias = {
        kind: [{"value": found["proximity"], "interval": None} for found in states.values()]
        for kind, states in results.items()
    }
    chance = target["embeddings"][0]["chance"]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    panels = [("Genes of one complex are found", "recall at (5 %, 95 %)", recall, recall["embeddings"][0]["chance"]),
              ("Compounds lie next to their targets", "mean average precision", target, chance),
              ("Genes of one chromosome arm look alike", "P(cosine within arm > between)", bias, 0.5)]  # fmt: skip
    for axis, (title, label, values, level) in zip(axes, panels, strict=True):
        for number, (kind, entries) in enumerate(values.items()):
            height = [entry["value"] for entry in entries]
            places = np.arange(len(entries)) + (number - 0.5) * 0.38
            bars = axis.bar(places, height, 0.36, label=FEATURES[kind], color=("#0072B2", "#E69F00")[number])
            axis.bar_label(bars, fmt="%.2f", padding=2 if entries[0]["interval"] is None else 14, fontsize=9)
            if entries[0]["interval"] is not None:
                ends = np.array([entry["interval"] for entry in entries]).T
                axis.errorbar(places, height, np.abs(ends - height), fmt="none", ecolor="black", capsize=3, lw=1)
        axis.axhline(level, color="black", ls=":", lw=1)
        axis.text(1.45, level, "chance", ha="right", va="bottom", fontsize=9)
        axis.set_xticks([0, 1], ["before correction", "after"])
        axis.set_title(title, fontsize=11)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(0, 1.1)
    axes[2].set_ylim(0.4, 0.9)
    axes[0].legend(frameon=False, loc="lower right", fontsize=9)
    return figure
