"""Proximity bias as matplotlib figures: the map in the order of the genome, the arms before and
after, the trend to the telomere.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, Int, Shaped

from phenomjax.figures.style import (
    COLOURS,
    COSINES,
    DARK,
    GREY,
    HEADING,
    LIGHT,
    chance_line,
    open_frame,
)
from phenomjax.maps.arm_bias.arms import genome_order

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

GENOME_PX = 1400  # a picture of a whole genome has at most so many pixels a side


def chromosome_map(
    raw: Float32[np.ndarray, "genes dim"],
    arm: Iterable[str],
    corrected: Float32[np.ndarray, "genes dim"] | None = None,
    *,
    title: str = "Similarity in the order of the genome",
) -> "Figure":
    """Mean cosines of genes in the order of the genome: raw below the diagonal, corrected above;
    arms show as blocks if they are biased.

    Args:
      raw: unit vectors of the genes in the order of the genome, float32 [genes, dim].
      arm: of each gene, [genes].
      corrected: like raw; None: raw on both sides.
    """
    from matplotlib.figure import Figure

    names = np.asarray(list(arm), str)
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    bins, edges = _bins(names, starts)
    lower = _binned(raw, bins)
    upper = lower if corrected is None else _binned(corrected, bins)
    shown = np.tril(lower) + np.triu(upper, 1)
    off = np.abs(shown[~np.eye(len(shown), dtype=bool)])
    limit = float(np.clip(np.quantile(off, 0.99), 0.02, 1)) if off.size else 1.0
    figure = Figure(figsize=(8.2, 7.6), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(shown, cmap=COSINES, vmin=-limit, vmax=limit, interpolation="nearest")
    ticks, labels = _arm_labels(names[starts], edges)
    for edge in edges[1:-1]:
        axis.axhline(edge - 0.5, color="black", linewidth=0.25)
        axis.axvline(edge - 0.5, color="black", linewidth=0.25)
    if corrected is not None:
        axis.plot([-0.5, len(shown) - 0.5], [-0.5, len(shown) - 0.5], color="black", linewidth=0.8)
    axis.set_xticks(ticks, labels, fontsize=7, rotation=90 if len(labels) > 12 else 0)
    axis.set_yticks(ticks, labels, fontsize=7)
    axis.tick_params(length=0)
    each = len(names) / len(shown)
    unit = "genes" if each < 1.05 else f"genes, {each:.0f} a pixel"
    kind = "chromosome arm" if len(starts) == len(labels) else "chromosome"
    axis.set_xlabel(f"{kind} ({len(names):,} {unit}, in the order of the genome)", fontsize=9)
    axis.set_ylabel(kind, fontsize=9)
    below = (
        "raw on both sides"
        if corrected is None
        else "below the diagonal: raw; above: corrected for chromosome arms"
    )
    axis.set_title(f"{title}\n", loc="left", **HEADING)
    axis.text(0, 1.015, below, transform=axis.transAxes, fontsize=8.5)
    figure.colorbar(picture, ax=axis, label="cosine similarity", shrink=0.6, extend="both")
    return figure


def arm_bars(before: "pd.DataFrame", after: "pd.DataFrame | None" = None) -> "Figure":
    """P(cosine within an arm > between arms) of each arm, before and after the correction.

    Args:
      before, after: columns arm, probability, p_bonferroni; arms without a test are NaN.
    """
    from matplotlib.figure import Figure

    tables = [("before correction", before, COLOURS[1], "o")]
    if after is not None:
        tables.append(("after correction", after, COLOURS[0], "s"))
    arms = sorted(before["arm"], key=genome_order)
    place = {name: number for number, name in enumerate(arms)}
    figure = Figure(figsize=(max(5.0, 0.21 * len(arms) + 2), 3.6), layout="constrained")
    axis = figure.subplots()
    chance_line(axis, 0.5)
    values = [table.set_index("arm")["probability"].reindex(arms) for _, table, *_ in tables]
    if after is not None:
        axis.vlines(range(len(arms)), values[0], values[1], color=LIGHT, linewidth=1.5, zorder=1)
    for (label, table, colour, marker), value in zip(tables, values, strict=True):
        sure = table.set_index("arm")["p_bonferroni"].reindex(arms) < 0.05
        axis.scatter(
            [place[a] for a in arms],
            value,
            facecolors=np.where(sure, colour, "white").tolist(),
            edgecolors=colour,
            marker=marker,
            s=30,
            zorder=2,
        )
        axis.scatter([], [], color=colour, marker=marker, label=label)
    axis.scatter(
        [],
        [],
        facecolors="white",
        edgecolors=GREY,
        label="open: not above chance\n(p > 0.05, Bonferroni)",
    )
    axis.set_xticks(range(len(arms)), arms, rotation=90 if len(arms) > 14 else 0, fontsize=8)
    axis.set_xlabel("chromosome arm", fontsize=9)
    axis.set_ylabel("P(cosine within the arm\n> cosine with other arms)", fontsize=9)
    finite = np.concatenate([value.dropna() for value in values])
    margin = 0.08 * max(0.1, float(np.ptp(finite)) if len(finite) else 0.0)
    axis.set_ylim(
        min(0.48, finite.min(initial=0.5) - margin), max(0.52, finite.max(initial=0.5) + margin)
    )
    axis.text(
        1.005,
        0.5,
        "no bias",
        transform=axis.get_yaxis_transform(),
        va="center",
        fontsize=8,
        color=DARK,
    )
    open_frame(axis)
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    axis.set_title("Proximity bias by chromosome arm", loc="left", **HEADING)
    return figure


def telomere_trend(
    scores: Mapping[str, Float[np.ndarray, " genes"]],
    rank: Float[np.ndarray, " genes"],
    note: str = "",
) -> "Figure":
    """Scores of single genes over their rank from centromere to telomere, with the median of each
    tenth.

    Args:
      scores: {"before correction": [genes], ...}.
      rank: from 0 at the centromere to 1 at the telomere, [genes].
      note: the result of the test, in a line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(scores) + 0.4, 3.9), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(scores), sharey=True))
    for axis, (name, values), colour in zip(
        axes, scores.items(), (COLOURS[1], COLOURS[0]), strict=False
    ):
        keep = np.isfinite(values) & np.isfinite(rank)
        x, y = rank[keep], values[keep]
        axis.scatter(
            x,
            y,
            s=float(np.clip(3000 / max(len(x), 1), 1, 16)),
            color=LIGHT,
            linewidths=0,
            rasterized=True,
        )
        tenth = np.minimum((x * 10).astype(int), 9)
        there = [t for t in range(10) if (tenth == t).sum() >= 3]
        axis.plot(
            [(t + 0.5) / 10 for t in there],
            [np.median(y[tenth == t]) for t in there],
            color=colour,
            marker="o",
            linewidth=2,
            markersize=4,
            label="median of a tenth",
        )
        chance_line(axis, 0.5)
        axis.set_title(name, fontsize=9)
        open_frame(axis)
        axis.set_xticks([0, 1], ["centromere", "telomere"])
        for tick, side in zip(axis.get_xticklabels(), ("left", "right"), strict=True):
            tick.set_horizontalalignment(side)
        axis.set_xlim(-0.02, 1.02)
    axes[0].set_ylabel("score of a gene: P(cosine within\nits arm > with other arms)", fontsize=9)
    axes[0].legend(fontsize=7, frameon=False)
    figure.supxlabel("place of the gene along its arm (rank)", fontsize=9)
    figure.suptitle("Bias from centromere to telomere" + (f"\n{note}" if note else ""), fontsize=9)
    return figure


def _bins(
    arm: Shaped[np.ndarray, " genes"], starts: Int[np.ndarray, " arms"]
) -> tuple[Int[np.ndarray, " genes"], list[int]]:
    """Pixel of each gene, none over the end of an arm; and the first pixel of each arm and one past
    the last.
    """
    per = max(1, -(-len(arm) // GENOME_PX))
    bins, edges, next_bin = np.zeros(len(arm), np.int64), [0], 0
    for start, stop in zip(starts, [*starts[1:], len(arm)], strict=True):
        count = max(1, round((stop - start) / per))
        bins[start:stop] = next_bin + np.arange(stop - start) * count // (stop - start)
        next_bin += count
        edges.append(next_bin)
    return bins, edges


def _binned(
    vectors: Float[np.ndarray, "genes dim"], bins: Int[np.ndarray, " genes"]
) -> Float[np.ndarray, "bins bins"]:
    """Mean cosine of the genes of each two pixels: the product of the mean unit vectors; a gene
    with itself is left out.
    """
    counts = np.bincount(bins)
    sums = np.zeros((len(counts), vectors.shape[1]), np.float32)
    np.add.at(sums, bins, vectors)
    result = (sums @ sums.T) / np.outer(counts, counts)
    alone = np.bincount(bins, weights=np.square(vectors).sum(1))
    diagonal = (np.square(sums).sum(1) - alone) / np.maximum(counts * (counts - 1), 1)
    np.fill_diagonal(result, diagonal)
    return result


def _arm_labels(
    arms: Shaped[np.ndarray, " arms"], edges: Sequence[int]
) -> tuple[list[float], list[str]]:
    """Ticks in the middle of the arms, or of the chromosomes where there are many arms; those too
    near to the last one are left out.
    """
    middles = [(a + b - 1) / 2 for a, b in itertools.pairwise(edges)]
    names = list(arms)
    if len(arms) > 30:
        spans: dict[str, list[int]] = {}
        for name, first, last in zip(arms, edges[:-1], edges[1:], strict=True):
            spans.setdefault(name[:-1] if name[-1] in "pq" else name, []).extend((first, last))
        names, middles = list(spans), [(min(s) + max(s) - 1) / 2 for s in spans.values()]
    ticks: list[float] = []
    labels: list[str] = []
    for name, middle in zip(names, middles, strict=True):
        if not ticks or middle - ticks[-1] >= edges[-1] / 75:
            ticks.append(middle)
            labels.append(name)
    return ticks, labels
