"""The main metric of a label as bars: a panel a test, a bar a method.

Each checkpoint has one colour; its random-weights twin is hatched in the same colour, other
baselines are grey, and published numbers, which come from other training data, are outlines.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phenomjax.figures.style import DARK, GREY
from phenomjax.probes.reports import verdicts
from phenomjax.probes.reports.layout import axes_at, colours, shorter, text_at
from phenomjax.probes.reports.results import (
    Row,
    has_value,
    interval_of,
    largest_count,
    measured,
    value_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_TESTS = 4  # panels of one figure
LINE = 0.21  # inches of a bar, and of
PANEL, SPACE = 2.7, 0.25  # a panel, and between two side by side
CROWN, GAP, FOOT = 0.95, 0.75, 0.5  # above panels, between two rows of them, and below


def bars(rows: Sequence[Row], tests: Sequence[str], models: Sequence[str], title: str) -> "Figure":
    """The main metric of one label, with 95 % intervals; published numbers of other tests below.

    Args:
      rows: of one label and metric.
      tests: at most MAX_TESTS.
      models: names of the checkpoints, in the order of their colours.
      title: of the figure.
    """
    from matplotlib.figure import Figure

    methods = ordered(rows, tests, models)
    elsewhere = [r for r in rows if r["kind"] == "published" and r["split"] not in tests]
    names = [row["method"].removeprefix("baseline: ") for row in methods]
    labels = [f"{r['method']}, {r['split']}" for r in elsewhere]
    left = 0.068 * max(len(name) for name in [*names, *labels]) + 0.3  # inches for the names
    own, below = (LINE * n + 0.1 if n else 0.0 for n in (max(len(methods), 1), len(elsewhere)))
    width = max(left + len(tests) * (PANEL + SPACE) + 0.15, 6.2)
    figure = Figure(figsize=(width, CROWN + own + (GAP + below if elsewhere else 0) + FOOT))
    shown = [r for r in rows if r in elsewhere or r["split"] in tests]
    limits, colour = _limits(shown), colours(models)
    axes = []
    for number, test in enumerate(tests):
        axis = axes_at(figure, left + number * (PANEL + SPACE), CROWN, PANEL, own)
        by_method = {row["method"]: row for row in rows if row["split"] == test}
        found = [by_method.get(one["method"]) for one in methods]
        _draw(axis, found, names if number == 0 else [], colour, limits)
        count = largest_count(by_method.values())
        axis.set_title(f"{shorter(test, 34)}\nn = {count:,}", fontsize=8.5)
        axes.append(axis)
    first = axes[0]
    if elsewhere:
        axis = axes_at(figure, left, CROWN + own + GAP, PANEL, below)
        _draw(axis, elsewhere, labels, colour, limits)
        axis.set_title("published, on other test sets", fontsize=8.5)
        axes.append(axis)
    if max(row["value"] or 0 for row in shown) <= 1:  # what is no error has its best at 1
        for axis in axes:
            axis.set_xticks([tick for tick in axis.get_xticks() if limits[0] <= tick <= 1.001])
    metric = next(row for row in rows if row["kind"] != "published")
    for axis in {first, axes[-1]} if elsewhere else {first}:
        axis.set_xlabel(verdicts.metric_name(metric["metric"], metric["average"]), fontsize=8.5)
    text_at(figure, 0.24, title, 11.0, bold=True)
    _keys(figure, rows)
    return figure


def _draw(
    axis: "Axes",
    rows: Sequence[Row | None],
    names: Sequence[str],
    colour: Mapping[str, str],
    limits: tuple[float, float],
) -> None:
    """Bars of a panel; None leaves a line empty."""
    for place, row in enumerate(rows):
        if row is not None:
            _bar(axis, place, row, colour, limits)
    axis.set_yticks(range(len(rows)), names, fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(*limits)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=7.5)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.axvline(0, color=DARK, linewidth=0.8)


def _keys(figure: "Figure", rows: Sequence[Row]) -> None:
    from matplotlib.patches import Patch

    keys = [Patch(facecolor=DARK, edgecolor=DARK, label="trained model")]
    if any(r.get("baseline") == "random_weights" for r in rows):
        keys.append(
            Patch(
                facecolor="white", edgecolor=DARK, hatch="//////", label="its random-weights twin"
            )
        )
    if any(r["kind"] == "baseline" and r["model"] is None for r in rows):
        keys.append(Patch(facecolor="#c4c4c4", edgecolor=GREY, label="baseline"))
    if any(r["kind"] == "published" for r in rows):
        keys.append(
            Patch(
                facecolor="white",
                edgecolor=DARK,
                linestyle=":",
                label="published, of other training data",
            )
        )
    width, height = figure.get_size_inches()
    figure.legend(
        handles=keys,
        loc="upper left",
        bbox_to_anchor=(0.02 / width, 1 - 0.34 / height),
        ncols=4,
        fontsize=7.5,
        frameon=False,
        handlelength=1.6,
        columnspacing=1.4,
        borderaxespad=0,
    )


def ordered(rows: Sequence[Row], tests: Sequence[str], models: Sequence[str]) -> list[Row]:
    """One row a method of these tests: of each checkpoint its heads, each followed by its twin;
    baselines; published ones.
    """
    first = {row["method"]: row for row in reversed(rows) if row["split"] in tests}
    heads = list(dict.fromkeys(row["head"] for row in rows if row["kind"] == "model"))
    kinds = ("model", "baseline", "published")

    def place(row: Row) -> tuple:
        own = row["model"] in models
        head = heads.index(row["head"]) if row["head"] in heads else len(heads)
        return (
            not own,
            models.index(row["model"]) if own else 0,
            head if own else 0,
            kinds.index(row["kind"]),
        )

    order = {row["method"]: number for number, row in enumerate(rows)}
    return sorted(first.values(), key=lambda row: (*place(row), order[row["method"]]))


def _bar(
    axis: "Axes", place: int, row: Row, colour: Mapping[str, str], limits: tuple[float, float]
) -> None:
    if not has_value(row):
        axis.text(0, place, " no value", va="center", fontsize=7, color=GREY)
        return
    value, own = value_of(row), colour.get(row["model"] or "", GREY)
    if row["kind"] == "published":
        style: dict[str, Any] = {
            "facecolor": "none",
            "edgecolor": DARK,
            "linestyle": ":",
            "linewidth": 1.0,
        }
    elif row.get("baseline") == "random_weights":
        style = {"facecolor": "white", "edgecolor": own, "hatch": "//////", "linewidth": 0.8}
    elif row["kind"] == "baseline":
        style = {"facecolor": "#c4c4c4", "edgecolor": GREY, "linewidth": 0.8}
    else:
        style = {"facecolor": own, "edgecolor": own, "linewidth": 0.8}
    axis.barh(place, value, height=0.68, **style)
    end = max(value, 0.0)
    if measured(row):
        low, high = interval_of(row)
        axis.plot([low, high], [place, place], color="black", linewidth=1.1, solid_capstyle="butt")
        axis.plot(
            [low, low, np.nan, high, high],
            np.array([-0.17, 0.17, 0, -0.17, 0.17]) + place,
            color="black",
            linewidth=1.1,
        )
        end = max(end, high)
    axis.text(
        end + 0.015 * (limits[1] - limits[0]),
        place,
        f"{value:.3f}",
        va="center",
        ha="left",
        fontsize=7,
    )


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Of the values: from 0 or the lowest, with room for the numbers on the right."""
    values = [
        x
        for r in rows
        for x in [r["value"], *(r["interval"] or [])]
        if x is not None and np.isfinite(x)
    ]
    low, high = min([0.0, *values]), max([0.05, *values])
    span = high - low
    return low - (0.03 * span if low < 0 else 0), high + 0.2 * span
