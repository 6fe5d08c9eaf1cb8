"""Confusion, reliability, identity and mutations of an evaluation as matplotlib figures."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from phenomjax.data.sequences.vocabulary import AMINO_ACIDS
from phenomjax.figures.style import DARK, GREY
from phenomjax.probes.reports import verdicts
from phenomjax.probes.reports.layout import axes_at, shorter, text_at
from phenomjax.probes.reports.results import Row, interval_of, measured, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from phenomjax.probes.reports.details import Confusion, MutationMap, Reliability

FEW_CLASSES = 12  # whose confusions are told in percent
BINS = 10  # of the reliability diagrams
Bins: TypeAlias = Float[np.ndarray, " bins"]


def confusion(panels: Mapping[str, "Confusion"], title: str) -> "Figure":
    """Confusion matrices side by side: a row a true class, its shares as colour and, with few
    classes, as percent.

    Args:
      panels: {name of the method: matrix}, all of the same classes.
      title: of the figure.
    """
    from matplotlib.figure import Figure

    classes = next(iter(panels.values())).classes
    few = len(classes) <= FEW_CLASSES
    names, font = [shorter(name, 24) for name in classes], 8.0 if few else 6.5
    side = max((0.42 if few else 0.2) * len(classes), 1.7)
    margin = 0.45 + 0.075 * font / 8 * max(map(len, names))
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    count, crown = 0.85, 0.95  # inches for the column of counts, and above a panel
    width = max(margin + columns * (side + count) + 0.75, 4.6)
    figure = Figure(figsize=(width, lines * (side + margin + 0.35) + crown - 0.35))
    for number, (name, found) in enumerate(panels.items()):
        line, column = divmod(number, columns)
        left, top = margin + column * (side + count), crown + line * (side + margin + 0.35)
        axis = axes_at(figure, left, top, side, side)
        image = _matrix(axis, found.counts, names, column == 0, font, side)
        axis.set_title(shorter(name, int((side + count) / 0.085)), fontsize=9, pad=5, loc="left")
    tall = min(side, 2.2)
    bar = axes_at(figure, width - 0.6, crown, 0.12, tall)
    figure.colorbar(image, cax=bar)
    bar.set_title("% of\nrow", fontsize=7)
    bar.set_yticks([0, 0.5, 1], ["0", "50", "100"], fontsize=7)
    text_at(figure, 0.22, title, 10.5, bold=True)
    return figure


def _matrix(
    axis: "Axes",
    counts: Int[np.ndarray, "true predicted"],
    names: Sequence[str],
    first: bool,
    font: float,
    side: float,
) -> "AxesImage":
    """A confusion matrix with the count of each true class on its right.

    Args:
      axis: to draw on.
      counts: of the matrix.
      names: of the classes.
      first: it has their names on its left too.
      font: size of letters.
      side: of the matrix, in inches.
    """
    n, total = len(counts), counts.sum(1)
    share = counts / np.maximum(total, 1)[:, None]
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(n, n) if n <= FEW_CLASSES else ():
        if total[i]:
            colour = "white" if share[i, j] > 0.55 else "black"
            percent = f"{100 * share[i, j]:.0f}"
            axis.text(j, i, percent, ha="center", va="center", fontsize=7.5, color=colour)
    rotation = 90 if max(map(len, names)) > 2 else 0
    axis.set_xticks(range(n), names, rotation=rotation, fontsize=font)
    axis.set_yticks(range(n), names if first else [], fontsize=font)
    axis.tick_params(length=0)
    for i in range(n):
        axis.text(n - 0.4, i, f"{total[i]:,}", va="center", fontsize=font - 1, color=DARK)
    under = n - 0.5 + 0.12 * n / side
    axis.text(n - 0.4, under, "count", fontsize=font - 1, color=DARK, va="center")
    axis.set_xlabel("predicted", fontsize=8.5)
    if first:
        axis.set_ylabel("true", fontsize=8.5)
    return image


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
    wide = min(last - first, per_row)
    left, letter, block = 1.0, 0.105, 4.35  # inches
    starts = range(first, last, per_row)
    size = max(1.9 + letter * wide, 6.5), 0.55 + len(starts) * block
    figure = Figure(figsize=size)
    for line, start in enumerate(starts):
        stop = min(start + per_row, last)
        for k, what in enumerate(("measured", "predicted")):
            top = 0.6 + line * block + k * 1.95
            axis = axes_at(figure, left, top, letter * (stop - start), 1.85)
            image = _substitutions(axis, ranks[k][:, start:stop], found, start, named=k == 1)
            axis.set_ylabel(what, fontsize=9)
    bar = axes_at(figure, left + letter * wide + 0.2, 0.9, 0.12, 2.0)
    figure.colorbar(image, cax=bar, ticks=[0, 0.5, 1])
    bar.tick_params(labelsize=7)
    bar.set_title("rank", fontsize=8)
    text_at(figure, 0.2, title, 10.5, bold=True)
    legend = "rank 0: most harmful, 1: fittest; dots: wild type; grey: not measured"
    text_at(figure, 0.42, legend, 8.0)
    return figure


def _substitutions(
    axis: "Axes",
    ranks: Float[np.ndarray, "20 positions"],
    found: "MutationMap",
    start: int,
    named: bool,
) -> "AxesImage":
    """Ranks of the substitutions of some positions; the positions are named below if `named`."""
    axis.set_facecolor("#dddddd")
    image = axis.imshow(
        ranks, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
    )
    places = range(start, start + ranks.shape[1])
    known = [p for p in places if found.wild_type[p] in AMINO_ACIDS]
    letters = [AMINO_ACIDS.index(found.wild_type[p]) for p in known]
    axis.scatter([p - start for p in known], letters, s=3.5, c="black", marker=".", linewidths=0)
    axis.set_yticks(range(len(AMINO_ACIDS)), list(AMINO_ACIDS), fontsize=5.5)
    ticks = [p for p in places if (p + 1 + found.offset) % 10 == 0]
    names = [f"{found.wild_type[p]}{p + 1 + found.offset}" for p in ticks] if named else []
    axis.set_xticks([p - start for p in ticks], names, fontsize=7)
    axis.tick_params(length=2 if named else 0)
    return image
