"""The pictures of an evaluation as matplotlib figures.

Each checkpoint has one colour (Okabe & Ito, safe for the colour-blind) in all of them; its
random-weights twin is hatched in the same colour, other baselines are grey, and published numbers,
which come from other training data, are outlines.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from phenomjax.data.sequences.vocabulary import AMINO_ACIDS
from phenomjax.figures.style import DARK, GREY
from phenomjax.probes.reports import verdicts
from phenomjax.probes.reports.results import Row, has_value, interval_of, measured, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phenomjax.probes.reports.details import Confusion, MutationMap, Reliability

# Okabe & Ito 2008, and wine
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255")
MAX_TESTS = 4  # panels of one figure
BINS = 10  # of the reliability diagrams
Bins: TypeAlias = Float[np.ndarray, " bins"]


def colours(models: Sequence[str]) -> dict[str, str]:
    """A colour for each checkpoint."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(models)}


def bars(rows: Sequence[Row], tests: Sequence[str], models: Sequence[str], title: str) -> "Figure":
    """The main metric of one label: a panel a test, a bar a method, with 95 % intervals; published
    numbers of other tests below.

    Args:
      rows: of one label and metric.
      tests: at most MAX_TESTS.
      models: names of the checkpoints, in the order of their colours.
      title: of the figure.
    """
    from matplotlib.figure import Figure

    methods = ordered(rows, tests, models)
    elsewhere = [r for r in rows if r["kind"] == "published" and r["split"] not in tests]
    names = {row["method"]: row["method"].removeprefix("baseline: ") for row in methods}
    labels = [f"{r['method']}, {r['split']}" for r in elsewhere]
    # inches for the names
    margin = 0.068 * max(len(name) for name in [*names.values(), *labels]) + 0.3
    sizes = [max(len(methods), 1), *([len(elsewhere)] if elsewhere else [])]
    line = 0.21
    heights = [line * n + 0.1 for n in sizes]
    panel, gap, crown, foot = 2.7, 0.75, 0.95, 0.5
    width = margin + len(tests) * (panel + 0.25) + 0.15
    width, left = max(width, 6.2), margin
    height = crown + sum(heights) + foot + (gap if elsewhere else 0)
    figure = Figure(figsize=(width, height))
    shown = [r for r in rows if r in elsewhere or r["split"] in tests]
    limits = _limits(shown)
    colour = colours(models)
    axes = []
    for number, test in enumerate(tests):
        x = left + number * (panel + 0.25)
        axis = figure.add_axes(
            (x / width, 1 - (crown + heights[0]) / height, panel / width, heights[0] / height)
        )
        by_method = {row["method"]: row for row in rows if row["split"] == test}
        for place, one in enumerate(methods):
            if one["method"] in by_method:
                _bar(axis, place, by_method[one["method"]], colour, limits)
        count = max(
            (r["count"] or 0 for r in by_method.values() if r["kind"] != "published"), default=0
        )
        axis.set_title(f"{_short(test, 34)}\nn = {count:,}", fontsize=8.5)
        axis.set_yticks(
            range(len(methods)),
            [names[m["method"]] for m in methods] if number == 0 else [],
            fontsize=8,
        )
        axes.append((axis, len(methods)))
    if elsewhere:
        top = crown + heights[0] + gap
        axis = figure.add_axes(
            (left / width, 1 - (top + heights[1]) / height, panel / width, heights[1] / height)
        )
        for place, row in enumerate(elsewhere):
            _bar(axis, place, row, colour, limits)
        axis.set_yticks(range(len(elsewhere)), labels, fontsize=8)
        axis.set_title("published, on other test sets", fontsize=8.5)
        axes.append((axis, len(elsewhere)))
    for axis, size in axes:
        axis.set_ylim(size - 0.4, -0.6)
        axis.set_xlim(*limits)
        axis.tick_params(axis="y", length=0)
        axis.tick_params(axis="x", labelsize=7.5)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.axvline(0, color=DARK, linewidth=0.8)
        if max(row["value"] or 0 for row in shown) <= 1:  # what is no error has its best at 1
            axis.set_xticks([tick for tick in axis.get_xticks() if limits[0] <= tick <= 1.001])
    metric = next(row for row in rows if row["kind"] != "published")
    for axis in {axes[0][0], axes[-1][0]} if elsewhere else {axes[0][0]}:
        axis.set_xlabel(verdicts.metric_name(metric["metric"], metric["average"]), fontsize=8.5)
    figure.text(0.12 / width, 1 - 0.24 / height, title, fontsize=11, fontweight="bold", va="center")
    _keys(figure, rows, width, height)
    return figure


def _keys(figure: "Figure", rows: Sequence[Row], width: float, height: float) -> None:
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


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


def confusion(panels: Mapping[str, "Confusion"], title: str) -> "Figure":
    """Confusion matrices side by side: a row a true class, its shares as colour and, with few
    classes, as percent.

    Args:
      panels: {name of the method: matrix}, all of the same classes.
      title: of the figure.
    """
    from matplotlib.figure import Figure

    classes = next(iter(panels.values())).classes
    n = len(classes)
    names = [_short(c, 24) for c in classes]
    font = 8 if n <= 12 else 6.5
    cell = 0.42 if n <= 12 else 0.2
    side = max(cell * n, 1.7)
    margin = 0.45 + 0.075 * font / 8 * max(map(len, names))
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    count, crown = 0.85, 0.95  # inches for the column of counts, and above a panel
    width, height = (
        margin + columns * (side + count) + 0.75,
        lines * (side + margin + 0.35) + crown - 0.35,
    )
    figure = Figure(figsize=(max(width, 4.6), height))
    width = figure.get_figwidth()
    for number, (name, found) in enumerate(panels.items()):
        x = margin + number % columns * (side + count)
        top = crown + number // columns * (side + margin + 0.35)
        axis = figure.add_axes((x / width, 1 - (top + side) / height, side / width, side / height))
        total = found.counts.sum(1)
        share = found.counts / np.maximum(total, 1)[:, None]
        picture = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        if n <= 12:
            for i, j in np.ndindex(n, n):
                if total[i]:
                    axis.text(
                        j,
                        i,
                        f"{100 * share[i, j]:.0f}",
                        ha="center",
                        va="center",
                        fontsize=7.5,
                        color="white" if share[i, j] > 0.55 else "black",
                    )
        axis.set_xticks(
            range(n), names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=font
        )
        axis.set_yticks(range(n), names if number % columns == 0 else [], fontsize=font)
        axis.tick_params(length=0)
        for i in range(n):
            axis.text(n - 0.4, i, f"{total[i]:,}", va="center", fontsize=font - 1, color=DARK)
        axis.text(
            n - 0.4, n - 0.5 + 0.12 * n / side, "count", fontsize=font - 1, color=DARK, va="center"
        )
        axis.set_title(_short(name, int((side + count) / 0.085)), fontsize=9, pad=5, loc="left")
        axis.set_xlabel("predicted", fontsize=8.5)
        if number % columns == 0:
            axis.set_ylabel("true", fontsize=8.5)
    tall = min(side, 2.2)
    bar = figure.add_axes(
        ((width - 0.6) / width, 1 - (crown + tall) / height, 0.12 / width, tall / height)
    )
    figure.colorbar(picture, cax=bar)
    bar.set_title("% of\nrow", fontsize=7)
    bar.set_yticks([0, 0.5, 1], ["0", "50", "100"], fontsize=7)
    figure.text(
        0.12 / width, 1 - 0.22 / height, title, fontsize=10.5, fontweight="bold", va="center"
    )
    return figure


def calibration(found: "Reliability") -> tuple[Bins, Bins, Int[np.ndarray, " bins"], float]:
    """Mean probability, share right and count of each of BINS equal bins (NaN where empty), and the
    expected calibration error.

    ECE = sum over bins of count / n * |share right - mean probability| (Naeini et al. 2015,
    https://doi.org/10.1609/aaai.v29i1.9602).
    """
    probability = np.asarray(found.probability, float)
    # 0.7 of float32 is below 7 / 10
    bins = np.minimum((probability * BINS + 1e-6).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(bins, probability, BINS) / count
        right = np.bincount(bins, np.asarray(found.right, float), BINS) / count
    return (
        mean,
        right,
        count,
        float(np.nansum(count * np.abs(right - mean)) / max(len(probability), 1)),
    )


def reliability(
    found: Mapping[str, "Reliability"], colour: Mapping[str, str], title: str
) -> "Figure":
    """Share of right predictions against their probability, with the number of predictions below.

    Args:
      found: {name of the method: predictions}.
      colour: of each method.
      title: of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 5.7 + 0.3 * ((len(found) + 2) // 2)), layout="constrained")
    curve, histogram = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    curve.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as sure as right")
    for number, (name, one) in enumerate(found.items()):
        mean, right, count, error = calibration(one)
        there = count >= 10  # a share of fewer says nothing
        marker = "osD^vP"[number % 6]
        curve.plot(
            mean[there],
            right[there],
            marker=marker,
            color=colour[name],
            markersize=5,
            linewidth=1.5,
            label=f"{name}\nexpected calibration error {error:.3f}",
        )
        edges = np.linspace(0, 1, BINS + 1)
        histogram.stairs(count / count.sum(), edges, color=colour[name], linewidth=1.5)
    curve.set_ylabel("share that is right")
    curve.set_xlim(0, 1)
    curve.set_ylim(0, 1)
    figure.legend(fontsize=7.5, loc="outside lower left", frameon=False, ncols=2)
    histogram.set_ylabel("share of\npredictions", fontsize=8)
    histogram.set_xlabel("probability of the predicted class")
    for axis in (curve, histogram):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.suptitle(textwrap.fill(title, 58), fontsize=10.5, fontweight="bold", x=0.02, ha="left")
    return figure


def identity(
    lines: Mapping[str, Sequence[Row]], style: Mapping[str, Mapping[str, str]], title: str
) -> "Figure":
    """A metric against the identity of test sequences to the training set, with 95 % intervals.

    Args:
      lines: {method: rows, one a cut-off, the whole test among them}.
      style: {method: keywords of the line}.
      title: of the figure.
    """
    from matplotlib.figure import Figure

    def cut(row: Row) -> float:
        return verdicts.identity_cut(row["split"])[1] or np.inf

    cuts = sorted({cut(row) for rows in lines.values() for row in rows})
    counts = {cut(row): row["count"] for rows in lines.values() for row in rows}
    figure = Figure(figsize=(3.2 + 0.8 * len(cuts), 4.0), layout="constrained")
    axis = figure.subplots()
    for number, (name, rows) in enumerate(lines.items()):
        rows = sorted((row for row in rows if measured(row)), key=cut)
        x = np.array([cuts.index(cut(row)) for row in rows]) + min(0.06, 0.6 / len(lines)) * (
            number - (len(lines) - 1) / 2
        )
        value = np.array([value_of(row) for row in rows])
        low, high = np.array([interval_of(row) for row in rows]).reshape(-1, 2).T
        axis.errorbar(
            x,
            value,
            np.maximum([value - low, high - value], 0),
            label=name,
            linewidth=1.5,
            capsize=2,
            markersize=5,
            **style[name],  # type: ignore[arg-type]
        )
    axis.set_xticks(
        range(len(cuts)),
        [f"{'all' if c == np.inf else f'< {c:.0%}'}\nn = {counts[c]:,}" for c in cuts],
        fontsize=8,
    )
    axis.set_xlabel("identity to the nearest training sequence (MMseqs2)")
    row = next(iter(lines.values()))[0]
    axis.set_ylabel(verdicts.metric_name(row["metric"], row["average"]))
    axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(textwrap.fill(title, 60), fontsize=10.5, fontweight="bold", x=0.02, ha="left")
    return figure


def mutation_map(found: "MutationMap", title: str, per_row: int = 100) -> "Figure":
    """Measured effects above predicted ones, as ranks among the measured variants: the two have
    other units.

    Args:
      found: the effects.
      title: of the figure.
      per_row: positions side by side.
    """
    from matplotlib.figure import Figure
    from scipy.stats import rankdata

    there = np.isfinite(found.measured) & np.isfinite(found.predicted)
    ranks = np.full((2, *found.measured.shape), np.nan)
    for k, values in enumerate((found.measured, found.predicted)):
        ranks[k][there] = (rankdata(values[there]) - 1) / max(there.sum() - 1, 1)
    columns = np.flatnonzero(there.any(0))
    first, last = int(columns[0]), int(columns[-1]) + 1
    blocks = -(-(last - first) // per_row)
    wide = min(last - first, per_row)
    width, height = max(1.9 + 0.105 * wide, 6.5), 0.55 + blocks * 4.35
    figure = Figure(figsize=(width, height))
    left, inner = 1.0, 0.105 * wide
    for block in range(blocks):
        start = first + block * per_row
        stop = min(start + per_row, last)
        for k, what in enumerate(("measured", "predicted")):
            top = 0.6 + block * 4.35 + k * 1.95
            part, share = ranks[k][:, start:stop], inner * (stop - start) / wide
            axis = figure.add_axes(
                (left / width, 1 - (top + 1.85) / height, share / width, 1.85 / height)
            )
            axis.set_facecolor("#dddddd")
            picture = axis.imshow(
                part, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
            )
            own = [
                (p - start, AMINO_ACIDS.index(found.wild_type[p]))
                for p in range(start, stop)
                if found.wild_type[p] in AMINO_ACIDS
            ]
            axis.scatter(
                [x for x, _ in own], [y for _, y in own], s=3.5, c="black", marker=".", linewidths=0
            )
            axis.set_yticks(range(len(AMINO_ACIDS)), list(AMINO_ACIDS), fontsize=5.5)
            axis.set_ylabel(what, fontsize=9)
            ticks = [p for p in range(start, stop) if (p + 1 + found.offset) % 10 == 0]
            names = [f"{found.wild_type[p]}{p + 1 + found.offset}" for p in ticks] if k else []
            axis.set_xticks([p - start for p in ticks], names, fontsize=7)
            axis.tick_params(length=2 if k else 0)
    bar = figure.add_axes(
        ((left + inner + 0.2) / width, 1 - 2.9 / height, 0.12 / width, 2.0 / height)
    )
    figure.colorbar(picture, cax=bar, ticks=[0, 0.5, 1])
    bar.tick_params(labelsize=7)
    bar.set_title("rank", fontsize=8)
    figure.text(
        0.12 / width, 1 - 0.2 / height, title, fontsize=10.5, fontweight="bold", va="center"
    )
    legend = "rank 0: most harmful, 1: fittest; dots: wild type; grey: not measured"
    figure.text(0.12 / width, 1 - 0.42 / height, legend, fontsize=8, va="center")
    return figure
