"""What the demo of the maps found: read, told and drawn."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from phenomjax.figures.style import COLOURS, DARK, GREY, open_frame
from phenomjax.maps.benchmark.measures import Entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Results: TypeAlias = dict[str, dict[str, dict[str, Entry]]]  # of features, state, measure
MEASURES = {  # key of benchmark.json by what it is called here; the first is of wells, not of maps
    "activity": "map.activity.mean",
    "recall": "recall.relationships",
    "target_average_precision": "compound_gene.average_precision",
}


@dataclass(frozen=True)
class Kind:
    """One kind of features of the screen.

    Attributes:
      told: what a reader is told that it is.
      profiles: file of them.
      dims: of `maps align`; None = all.
      learned: whether it is drawn as what the others are set beside.
    """

    told: str
    profiles: str
    dims: int | None = None
    learned: bool = False


def read_results(out: Path, kinds: Iterable[str]) -> Results:
    """What the steps found: {kind: {state: {…}}} for the kinds of features and the states raw and
    corrected.
    """
    results: Results = {}
    for kind in kinds:
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


def table(results: Results, kinds: Mapping[str, Kind]) -> str:
    """The results as lines of text."""
    heads = (
        "mAP of replicates",
        "recall of complexes",
        "precision of targets",
        "P(within arm > between)",
    )
    width = max(len(kinds[kind].told) for kind in results) + 13
    lines = [f"{'':{width}s}" + "".join(f"{head:>25s}" for head in heads)]
    for kind, states in results.items():
        for state, found in states.items():
            row = "".join(f"{_number(found[name]):>25s}" for name in (*MEASURES, "proximity"))
            lines.append(f"{kinds[kind].told + ', ' + state:{width}s}{row}")
    first = results["embeddings"]["raw"]
    chance = "".join(
        f"{'' if (one := first[name].get('chance')) is None else f'{one:.2f}':>25s}"
        for name in (*MEASURES, "proximity")
    )
    return "\n".join([*lines, f"{'chance':{width}s}{chance}"])


def _number(entry: Entry) -> str:
    if entry["value"] is None:
        return ""
    if not entry["interval"]:
        return f"{entry['value']:.3f}"
    low, high = entry["interval"]
    return f"{entry['value']:.2f} ({low:.2f} to {high:.2f})"


def draw(results: Results, kinds: Mapping[str, Kind]) -> "Figure":
    """Four panels, a row a kind of features: replicates that are found, complexes and targets
    before and after the correction, and the proximity bias that it takes away.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MultipleLocator

    panels = {
        "activity": ("Replicates are found\namong controls", "mean average precision"),
        "recall": ("Genes of one complex\nare found", "recall at (5 %, 95 %)"),
        "target_average_precision": (
            "Compounds lie next\nto their targets",
            "mean average precision",
        ),
        "proximity": ("Genes of one arm\nlook alike", "P(cosine within arm > between)"),
    }
    figure = Figure(figsize=(12, 2.0 + 0.4 * len(results)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (name, (title, label)) in zip(axes, panels.items(), strict=True):
        for place, (kind, states) in enumerate(results.items()):
            for state, shift in (("raw", -0.14), ("corrected", 0.14)):
                _dot(axis, states[state][name], place + shift, kinds[kind].learned, state)
        chance = results["embeddings"]["raw"][name].get("chance")
        if chance is not None:
            axis.axvline(chance, color=GREY, linewidth=1, linestyle="--")
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(label)
        open_frame(axis)
        axis.tick_params(axis="y", length=0)
        if name == "proximity":  # all of it, with room for the number beside a dot
            values = [one[name]["value"] for states in results.values() for one in states.values()]
            shown = [value for value in values if value is not None]
            axis.set_xlim(min([0.45, *shown]), max([0.7, *shown]) + 0.08)
            axis.xaxis.set_major_locator(MultipleLocator(0.1))
        else:
            axis.set_xlim(0, 1.12)
            axis.set_xticks([0, 0.5, 1])
    axes[0].set_yticks(range(len(results)), [kinds[kind].told for kind in results])
    axes[0].set_ylim(len(results) - 0.5, -0.5)
    keys = [
        Line2D([], [], marker="o", color=DARK, markerfacecolor="white", linestyle=""),
        Line2D([], [], marker="o", color=DARK, linestyle=""),
        Line2D([], [], color=GREY, linestyle="--"),
    ]
    told = ["before", "after the correction of the proximity bias", "chance"]
    figure.legend(keys, told, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _dot(axis: "Axes", entry: Entry, place: float, learned: bool, state: str) -> None:
    """A value with its interval, and the number beside it."""
    if entry["value"] is None:
        return
    colour = COLOURS[0] if learned else DARK
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
