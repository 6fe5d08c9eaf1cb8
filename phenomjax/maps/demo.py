"""From images to a map of biology, on a simulated screen whose truth is known. Start after `make
demo`: it takes that run's encoder.

  python -m phenomjax.maps demo [--checkpoint runs/mae_demo] [--out runs/maps_demo]

Simulates eight plates that the encoder never saw, embeds them, aligns the wells on their controls,
averages them to a map, finds and removes the proximity bias, and asks whether replicates are found
among the controls, and whether the map knows the complexes and the compounds' targets that were
simulated. All of it likewise from what the encoder must beat: its untrained twin, hand-made
intensities, and cell counts and areas. Every step is a command that is printed before it runs: take
them for your own plates. Steps that are done are skipped. Writes screen.zarr, the profiles of the
four, a folder of results for each, pictures/, map.html, demo.json and demo.png.
"""

import json
import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import tyro

from phenomjax.figures.style import COLOURS, DARK, GREY, open_frame
from phenomjax.maps.benchmark.measures import Entry
from phenomjax.system.errors import EXIT_DONE, UserError
from phenomjax.system.files import save_figure, write_json, write_text

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Results: TypeAlias = dict[str, dict[str, dict[str, Entry]]]  # of features, state, measure
# folder of the results: (what a reader is told, file of the profiles, --dims)
FEATURES: dict[str, tuple[str, str, int | None]] = {
    "embeddings": ("learned embeddings", "embeddings.zarr", 96),  # of 128
    "untrained": ("untrained twin", "untrained.zarr", 96),
    "intensity": ("intensities", "intensity.parquet", None),  # all
    "structure": ("counts and areas", "structure.parquet", None),
}
BASELINES = [kind for kind in FEATURES if kind != "embeddings"]
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
RELATIONSHIPS = Path("screen.zarr/truth/relationships.parquet")
NUM_SHOWN = 4  # complexes in the heat map


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
    log.info("\n%s\n", table(result))
    for said in verdicts(out):
        log.info("%s", said)
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
    files = {kind: out / name for kind, (_, name, _) in FEATURES.items()}
    simulated = _flat(SCREEN | {"--plates": options.plates})
    embed = ["phenomjax.embed", "--checkpoint", options.checkpoint, "--bank", screen]
    embed += ["--stride", 32, "--out"]
    commands: list[list[object]] = [
        ["phenomjax.prepare", "simulate", "--out", screen, *simulated],
        [*embed, files["embeddings"]],
        [*embed, files["untrained"], "--random_weights", 0],
        ["phenomjax.maps", "intensity", "--bank", screen, "--out", files["intensity"]],
        ["phenomjax.maps", "structure", "--bank", screen, "--out", files["structure"]],
    ]
    for kind in [*BASELINES, "embeddings"]:  # what the embeddings are set beside comes first
        commands += _map_steps(out, kind, files[kind])
    pair = [
        "--profiles",
        out / "embeddings/map.parquet",
        "--corrected",
        out / "embeddings/proximity/corrected.parquet",
    ]
    names = ["--names", f"@{out / 'names.txt'}"]
    known = ["--relationships", out / RELATIONSHIPS]
    pictures = [*pair, *names, *known, "--genes", genes, "--out", out / "pictures"]
    active = ["--profiles", out / "embeddings/wells.parquet", "--treatments", EFFECTIVE]
    active += ["--out", out / "embeddings/active"]
    page = [*pair, *names, *known, "--activity", out / "embeddings/active"]
    page += ["--wells", files["structure"], "--bank", screen, "--genes", genes]
    page += ["--out", out / "map.html"]
    return [
        *commands,
        ["phenomjax.maps", "filter", *active],
        ["phenomjax.maps", "pictures", *pictures],
        ["phenomjax.maps", "explore", *page],
    ]


def _map_steps(out: Path, kind: str, profiles: Path) -> list[list[object]]:
    """From profiles to a map, without and with the correction, and how good both are."""
    folder, dims = out / kind, FEATURES[kind][2]
    wells, map_file, bias = folder / "wells.parquet", folder / "map.parquet", folder / "proximity"
    effective, unchanged = ["--treatments", EFFECTIVE], ["--align", "none"]
    genes = ["--genes", out / "screen.zarr/truth/genes.parquet"]
    known = ["--relationships", out / RELATIONSHIPS]
    known += ["--targets", out / "screen.zarr/truth/compounds.parquet", *genes]
    commands: dict[str, list[object]] = {
        "align": ["--profiles", profiles, *(["--dims", dims] if dims else []), "--out", wells],
        "benchmark": ["--profiles", wells, *effective, *unchanged, "--probe", "none", *known],
        "aggregate": ["--profiles", wells, *effective, "--doses", "together", "--out", map_file],
        "proximity": ["--profiles", map_file, *genes, "--min_unexpressed", 5, "--out", bias],
    }
    corrected = ["--profiles", bias / "corrected.parquet", "--map", *unchanged, *known]
    for state, words in (("raw", commands["benchmark"]), ("corrected", corrected)):
        if kind not in BASELINES:
            words += ["--against", *(f"{name}={out / name / state}" for name in BASELINES)]
        words += ["--out", folder / state]
    return [
        *(["phenomjax.maps", name, *words] for name, words in commands.items()),
        ["phenomjax.maps", "benchmark", *corrected],
    ]


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


MEASURES = {  # key of benchmark.json by what it is called here; the first is of wells, not of maps
    "activity": "map.activity.mean",
    "recall": "recall.relationships",
    "target_average_precision": "compound_gene.average_precision",
}
WIDTH = 22  # of the names of features


def read_results(out: Path) -> Results:
    """What the steps found: {kind: {state: {…}}} for the kinds of features and the states raw and
    corrected.
    """
    results: Results = {}
    for kind in FEATURES:
        proximity = json.loads((out / kind / "proximity" / "proximity.json").read_text())
        for state, place in (("raw", "before"), ("corrected", "after")):
            found = json.loads((out / kind / state / "benchmark.json").read_text())
            measured = {name: found[key] for name, key in MEASURES.items()}
            measured["proximity"] = {
                "value": proximity[place]["genome"]["all_pairs"]["probability"],
                "interval": None,
                "chance": 0.5,
            }
            results.setdefault(kind, {})[state] = measured
    return results


def verdicts(out: Path) -> list[str]:
    """What the embeddings beat, in words."""
    about = json.loads((out / "embeddings/raw/benchmark.json").read_text())["about"]
    return [one["said"] for one in about["against"].values()]


def table(results: Results) -> str:
    """The results as lines of text."""
    heads = (
        "mAP of replicates",
        "recall of complexes",
        "precision of targets",
        "P(within arm > between)",
    )
    lines = [f"{'':{WIDTH + 11}s}" + "".join(f"{head:>25s}" for head in heads)]
    for kind, states in results.items():
        for state, found in states.items():
            row = "".join(f"{_number(found[name]):>25s}" for name in (*MEASURES, "proximity"))
            lines.append(f"{FEATURES[kind][0] + ', ' + state:{WIDTH + 11}s}{row}")
    first = results["embeddings"]["raw"]
    chance = "".join(
        f"{'' if (one := first[name].get('chance')) is None else f'{one:.2f}':>25s}"
        for name in (*MEASURES, "proximity")
    )
    return "\n".join([*lines, f"{'chance':{WIDTH + 11}s}{chance}"])


def _number(entry: Entry) -> str:
    if entry["value"] is None:
        return ""
    if not entry["interval"]:
        return f"{entry['value']:.3f}"
    low, high = entry["interval"]
    return f"{entry['value']:.2f} ({low:.2f} to {high:.2f})"


def draw(results: Results) -> "Figure":
    """Four panels, a row a kind of features: replicates that are found, complexes and targets
    before and after the correction, and the proximity bias that it takes away.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = {
        "activity": ("Replicates are found\namong controls", "mean average precision"),
        "recall": ("Genes of one complex\nare found", "recall at (5 %, 95 %)"),
        "target_average_precision": (
            "Compounds lie next\nto their targets",
            "mean average precision",
        ),
        "proximity": ("Genes of one arm\nlook alike", "P(cosine within arm > between)"),
    }
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    kinds = list(results)
    for axis, (name, (title, label)) in zip(axes, panels.items(), strict=True):
        for place, (kind, states) in enumerate(results.items()):
            for state, shift in (("raw", -0.14), ("corrected", 0.14)):
                _dot(axis, states[state][name], place + shift, kind, state)
        chance = results["embeddings"]["raw"][name].get("chance")
        if chance is not None:
            axis.axvline(chance, color=GREY, linewidth=1, linestyle="--")
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(label)
        open_frame(axis)
        axis.tick_params(axis="y", length=0)
        axis.set_xlim((0.45, 0.78) if name == "proximity" else (0, 1.12))
        axis.set_xticks([0.5, 0.6, 0.7] if name == "proximity" else [0, 0.5, 1])
    axes[0].set_yticks(range(len(kinds)), [FEATURES[kind][0] for kind in kinds])
    axes[0].set_ylim(len(kinds) - 0.5, -0.5)
    keys = [
        Line2D([], [], marker="o", color=DARK, markerfacecolor="white", linestyle=""),
        Line2D([], [], marker="o", color=DARK, linestyle=""),
        Line2D([], [], color=GREY, linestyle="--"),
    ]
    told = ["before", "after the correction of the proximity bias", "chance"]
    figure.legend(keys, told, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _dot(axis: "Axes", entry: Entry, place: float, kind: str, state: str) -> None:
    """A value with its interval, and the number beside it."""
    if entry["value"] is None:
        return
    colour = COLOURS[0] if kind == "embeddings" else DARK
    low, high = entry["interval"] or (entry["value"],) * 2
    axis.plot([low, high], [place, place], color=colour, linewidth=1.2)
    face = "white" if state == "raw" else colour
    axis.plot(entry["value"], place, "o", color=colour, markerfacecolor=face, markersize=6)
    axis.annotate(
        f"{entry['value']:.2f}",
        (high, place),
        (5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=colour,
    )
