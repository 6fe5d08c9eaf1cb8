"""From images to a map of biology, on a simulated screen whose truth is known. Start after `make
demo`: it takes that run's encoder.

  python -m phenomjax.maps demo [--checkpoint runs/mae_demo] [--out runs/maps_demo]

Simulates eight plates that the encoder never saw, embeds them, aligns the wells on their controls,
averages them to a map, finds and removes the proximity bias, and asks whether the map knows the
complexes and the compounds' targets that were simulated; then the same from hand-made intensity
features. Every step is a command that is printed before it runs: take them for your own plates.
Steps that are done are skipped. Writes screen.zarr, embeddings.zarr, intensity.parquet, a folder of
results for each of the two, pictures/, map.html, demo.json and demo.png.
"""

import json
import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import numpy as np
import tyro

from phenomjax.figures.style import COLOURS, chance_line, open_frame
from phenomjax.maps.benchmark.measures import Entry
from phenomjax.system.errors import EXIT_DONE, UserError
from phenomjax.system.files import save_figure, write_json, write_text

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results: TypeAlias = dict[str, dict[str, dict[str, Entry]]]  # of features, state, measure
FEATURES = {"embeddings": "learned embeddings", "intensity": "intensity features"}
SCREEN: dict[str, int | float] = {
    "--plates": 8,
    "--wells": 192,
    "--field-px": 256,
    "--cell-radius": 22,
    "--num-complexes": 20,
    "--genes-per-complex": 4,
    "--num-single-genes": 160,
    "--inactive-fraction": 0.9,
    "--num-compounds": 12,
    "--num-doses": 4,
    "--num-arms": 4,
    "--arm-bias": 2,
    "--staining-variation": 0.2,
}
# µM: below it a compound does little
EFFECTIVE = 'perturbation_type == "crispr" or concentration >= 1'
NUM_SHOWN = 4  # complexes in the heat map
DIMS = {"embeddings": 96, "intensity": 48}  # of 128, and all of 48


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of `python -m phenomjax.maps demo`."""

    checkpoint: Annotated[str, tyro.conf.arg(metavar="DIR")] = "runs/mae_demo"
    """workdir of `make demo`"""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/maps_demo")
    """of everything that is made"""
    plates: int = int(SCREEN["--plates"])
    """of the screen: fewer are quicker, and leave fewer replicates"""


def run(options: Options) -> int:
    """Runs what is not done yet; returns the exit code of the first command that fails."""
    if not Path(options.checkpoint).exists():
        raise UserError(
            f"There is no trained run at {options.checkpoint}. Train the demo's encoder first with"
            " `make demo` (some minutes), or name another run with --checkpoint."
        )
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    screen = out / "screen.zarr"
    for step in steps(options):
        if step[1] == "pictures":
            choose_names(screen / "truth", out / "names.txt")
        code = _command([str(word) for word in step])
        if code != EXIT_DONE:
            return code
    result = read_results(out)
    write_json(out / "demo.json", result)
    figure = save_figure(draw(result), out / "demo.png")
    log.info("\n%s", table(result))
    log.info(
        "wrote %s, %s, %s. Open %s in a browser.",
        out / "demo.json",
        figure,
        out / "pictures",
        out / "map.html",
    )
    return EXIT_DONE


def steps(options: Options) -> list[list[object]]:
    """The words of every command, in the order in which they run."""
    out = options.out
    screen, genes = out / "screen.zarr", out / "screen.zarr/truth/genes.parquet"
    known = [
        "--relationships",
        out / "screen.zarr/truth/relationships.parquet",
        "--targets",
        out / "screen.zarr/truth/compounds.parquet",
    ]
    commands: list[list[object]] = [
        [
            "phenomjax.prepare",
            "simulate",
            "--out",
            screen,
            *_flat(SCREEN | {"--plates": options.plates}),
        ],
        [
            "phenomjax.embed",
            "--checkpoint",
            options.checkpoint,
            "--bank",
            screen,
            "--stride",
            32,
            "--out",
            out / "embeddings.zarr",
        ],
        ["phenomjax.maps", "intensity", "--bank", screen, "--out", out / "intensity.parquet"],
    ]
    for kind, profiles in (("embeddings", "embeddings.zarr"), ("intensity", "intensity.parquet")):
        folder = out / kind
        wells, map_file, bias = (
            folder / "wells.parquet",
            folder / "map.parquet",
            folder / "proximity",
        )
        commands += [
            [
                "phenomjax.maps",
                "align",
                "--profiles",
                out / profiles,
                "--dims",
                DIMS[kind],
                "--out",
                wells,
            ],
            [
                "phenomjax.maps",
                "aggregate",
                "--profiles",
                wells,
                "--treatments",
                EFFECTIVE,
                "--out",
                map_file,
            ],
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
            judged = [
                "--profiles",
                path,
                "--map",
                "--align",
                "none",
                *known,
                "--genes",
                genes,
                "--out",
                folder / state,
            ]
            commands += [["phenomjax.maps", "benchmark", *judged]]
    pair = [
        "--profiles",
        out / "embeddings/map.parquet",
        "--corrected",
        out / "embeddings/proximity/corrected.parquet",
    ]
    names = ["--names", f"@{out / 'names.txt'}"]
    commands += [
        [
            "phenomjax.maps",
            "pictures",
            *pair,
            *names,
            *known[:2],
            "--genes",
            genes,
            "--out",
            out / "pictures",
        ],
        [
            "phenomjax.maps",
            "explore",
            *pair,
            *names,
            "--bank",
            screen,
            "--genes",
            genes,
            "--out",
            out / "map.html",
        ],
    ]
    return commands


def choose_names(truth: Path, path: Path) -> None:
    """Lists the genes of four complexes, those that compounds target first, and the compounds on
    them.
    """
    import pandas as pd

    genes = pd.read_parquet(truth / "genes.parquet").dropna(subset="complex")
    compounds = pd.read_parquet(truth / "compounds.parquet")
    targeted = genes["gene"].isin(compounds["target_gene"])
    complexes = (
        genes.assign(targeted=targeted)
        .groupby("complex", sort=False)["targeted"]
        .sum()
        .sort_values(ascending=False, kind="stable")
    )
    members = genes["gene"][genes["complex"].isin(complexes.index[:NUM_SHOWN])].tolist()
    write_text(
        path,
        "\n".join([*members, *compounds["compound"][compounds["target_gene"].isin(members)]])
        + "\n",
    )


def _flat(flags: dict[str, int | float]) -> list[object]:
    return [word for pair in flags.items() for word in pair]


def _command(words: list[str]) -> int:
    """Runs one command as `python -m` would, in this process, after printing it."""
    from phenomjax import embed
    from phenomjax.maps.__main__ import main as maps
    from phenomjax.prepare.__main__ import main as prepare

    log.info("")
    log.info("$ python -m %s", shlex.join(words))
    commands = {"phenomjax.prepare": prepare, "phenomjax.embed": embed.main, "phenomjax.maps": maps}
    return commands[words[0]](words[1:]) or EXIT_DONE


def read_results(out: Path) -> Results:
    """What the steps found: {kind: {state: {…}}} for the kinds of features and the states raw and
    corrected.
    """
    results: Results = {}
    for kind in FEATURES:
        proximity = json.loads((out / kind / "proximity" / "proximity.json").read_text())
        for state, place in (("raw", "before"), ("corrected", "after")):
            found = json.loads((out / kind / state / "benchmark.json").read_text())
            results.setdefault(kind, {})[state] = {
                "recall": found["recall.relationships"],
                "target_average_precision": found["compound_gene.average_precision"],
                "proximity": {
                    "value": proximity[place]["genome"]["all_pairs"]["probability"],
                    "interval": None,
                },
            }
    return results


def table(results: Results) -> str:
    """The results as lines of text."""
    lines = [f"{'':34s} recall of complexes   precision of targets   P(within arm > between)"]
    for kind, states in results.items():
        for state, found in states.items():
            recall, target = found["recall"], found["target_average_precision"]
            lines.append(
                f"{FEATURES[kind] + ', ' + state:34s} {recall['value']:.2f}"
                f" ({recall['interval'][0]:.2f} to {recall['interval'][1]:.2f})  "
                f" {target['value']:18.2f}   {found['proximity']['value']:23.3f}"
            )
    lines.append(f"{'chance':34s} {recall['chance']:.2f}   {target['chance']:33.2f}   {0.5:23.3f}")
    return "\n".join(lines)


def draw(results: Results) -> "Figure":
    """Three panels, before and after the correction: recall, targets, proximity bias; learned and
    hand-made features.
    """
    from matplotlib.figure import Figure

    first = results["embeddings"]["raw"]
    panels = [
        (
            "recall",
            "Genes of one complex are found",
            "recall at (5 %, 95 %)",
            first["recall"]["chance"],
            (0, 1),
        ),
        (
            "target_average_precision",
            "Compounds lie next to their targets",
            "mean average precision",
            first["target_average_precision"]["chance"],
            (0, 1),
        ),
        (
            "proximity",
            "Genes of one chromosome arm look alike",
            "P(cosine within arm > between)",
            0.5,
            (0.4, 0.8),
        ),
    ]
    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (name, title, label, chance, limits) in zip(axes, panels, strict=True):
        entries = [[state[name] for state in states.values()] for states in results.values()]
        value = np.array([[entry["value"] for entry in row] for row in entries])  # [kind, state]
        ends = np.array(
            [[entry["interval"] or (entry["value"],) * 2 for entry in row] for row in entries]
        )
        for k, text in enumerate(FEATURES.values()):
            places, color = np.array([0.0, 1.0]) + 0.06 * (2 * k - 1), COLOURS[k]
            spread = np.abs(ends[k].T - value[k])
            axis.errorbar(
                places,
                value[k],
                spread,
                label=text,
                color=color,
                marker="os"[k],
                capsize=3,
                lw=1.5,
                elinewidth=1,
            )
            for state, side in enumerate(("right", "left")):
                up = value[k, state] >= value[1 - k, state]
                axis.annotate(
                    f"{value[k, state]:.2f}",
                    (places[state], value[k, state]),
                    (16 * state - 8, 5 if up else -5),
                    ha=side,
                    va="bottom" if up else "top",
                    textcoords="offset points",
                    color=color,
                )
        chance_line(axis, chance)
        axis.text(0.5, chance, "chance", ha="center", va="bottom", fontsize=9)
        axis.set_xticks([0, 1], ["before", "after"])
        axis.set_xlabel("correction of the proximity bias")
        axis.set_title(title, fontsize=11)
        axis.set_ylabel(label)
        open_frame(axis)
        axis.set_xlim(-0.5, 1.5)
        axis.set_ylim(*limits)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False
    )
    return figure
