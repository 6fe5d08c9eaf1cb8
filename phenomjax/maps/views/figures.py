"""A map as matplotlib figures: heat maps, UMAP, recall curves. For readers who do
not code.

Colours are safe for the colour-blind (Okabe & Ito for groups, blue to red for cosines); groups
differ in their marker too.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from phenomjax.figures.style import COLOURS, COSINES, DARK, GREY, HEADING, LIGHT, open_frame
from phenomjax.maps.relations.recall import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "^", "s", "D", "v", "P", "X")


def heat_map(
    names: Sequence[str],
    lower: Float[np.ndarray, "n n"],
    upper: Float[np.ndarray, "n n"] | None = None,
    *,
    tree: Float[np.ndarray, "merges 4"] | None = None,
    what: tuple[str, str] = ("raw", "corrected"),
    title: str = "",
) -> "Figure":
    """A heat map of cosines with named rows, in the order given.

    Args:
      names: of the rows, [n].
      lower: cosines of the lower triangle, [n, n].
      upper: of the upper one; None: the same.
      tree: SciPy linkage of the rows in this order, drawn above.
      what: names of the lower and the upper triangle.
    """
    from matplotlib.figure import Figure

    n = len(names)
    shown = np.array(lower, np.float32)
    if upper is not None:
        above = np.triu_indices(n, 1)
        shown[above] = np.asarray(upper, np.float32)[above]
    side = np.clip(0.17 * n, 3.2, 22.0)  # inches; 0.17 is a line of 8-point letters
    font = float(np.clip(72 * side / max(n, 1) * 0.72, 3.0, 9.0))
    margin = 0.35 + 0.085 * font / 8 * max(len(name) for name in names)
    crown = 0.7 if tree is not None else 0.1
    width, height = (
        side + margin + 1.6,
        side + margin + crown + (0.72 if title and upper is not None else 0.48),
    )
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((margin / width, margin / height, side / width, side / height))
    picture = axis.imshow(shown, cmap=COSINES, vmin=-1, vmax=1, interpolation="nearest")
    axis.set_xticks(range(n), names, rotation=90, fontsize=font)
    axis.set_yticks(range(n), names, fontsize=font)
    axis.tick_params(length=0)
    if n <= 60:  # white lines between the cells
        axis.set_xticks(np.arange(n - 1) + 0.5, minor=True)
        axis.set_yticks(np.arange(n - 1) + 0.5, minor=True)
        axis.grid(which="minor", color="white", linewidth=0.4)
        axis.tick_params(which="minor", length=0)
    if upper is not None:
        axis.plot([-0.5, n - 0.5], [-0.5, n - 0.5], color="black", linewidth=0.8)
    if tree is not None:
        crown_axis = figure.add_axes(
            (margin / width, (margin + side + 0.04) / height, side / width, (crown - 0.1) / height)
        )
        _draw_tree(crown_axis, tree, n)
    bar = figure.add_axes(
        ((margin + side + 0.25) / width, margin / height, 0.14 / width, min(side, 3.0) / height)
    )
    figure.colorbar(picture, cax=bar, label="cosine similarity")
    bar.set_title("alike", fontsize=7)
    bar.set_xlabel("opposite", fontsize=7)
    lines = [title] if title else []
    if upper is not None:
        lines.append(f"below the diagonal: {what[0]}; above: {what[1]}")
    for number, line in enumerate(lines):
        figure.text(
            margin / width,
            1 - (0.3 + 0.24 * number) / height,
            line,
            fontsize=(11, 8.5)[min(number, 1)],
            fontweight="bold" if number == 0 and title else "normal",
        )
    return figure


def scatter(
    xy: Float[np.ndarray, "n 2"],
    groups: Sequence[str] | Shaped[np.ndarray, " n"],
    *,
    names: Sequence[str] = (),
    named: Sequence[int] = (),
    title: str = "",
    axis_names: tuple[str, str] = ("UMAP 1", "UMAP 2"),
) -> "Figure":
    """Points in the plane, coloured by group; the rows in `named` get their name beside them.

    Args:
      xy: [n, 2].
      groups: of each point, [n]; the seven largest get colours, the others are grey.
      names: of each point, [n].
      named: rows that are labelled.
    """
    from matplotlib.figure import Figure

    group_of = np.asarray(groups, str)
    kinds, counts = np.unique(group_of, return_counts=True)
    kinds = kinds[np.argsort(-counts, kind="stable")]
    coloured = [kind for kind in kinds if kind not in ("", "other")][: len(COLOURS)]
    figure = Figure(figsize=(7.6, 5.6), layout="constrained")
    axis = figure.subplots()
    size = float(np.clip(4000 / len(xy), 2, 36))
    rest = ~np.isin(group_of, coloured)
    if rest.any():
        axis.scatter(
            xy[rest, 0],
            xy[rest, 1],
            s=size * 0.7,
            c=LIGHT,
            linewidths=0,
            label=f"other ({rest.sum():,})",
            rasterized=True,
        )
    for kind, colour, marker in zip(coloured, COLOURS, MARKERS, strict=False):
        rows = group_of == kind
        axis.scatter(
            xy[rows, 0],
            xy[rows, 1],
            s=size,
            c=colour,
            marker=marker,
            linewidths=0,
            alpha=0.85,
            label=f"{kind} ({rows.sum():,})",
            rasterized=True,
        )
    axis.set_xlabel(axis_names[0])
    axis.set_ylabel(axis_names[1])
    axis.set_xticks([])  # distances of UMAP have no unit
    axis.set_yticks([])
    open_frame(axis)
    axis.set_title(title, loc="left", **HEADING)
    axis.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        fontsize=8,
        frameon=False,
        markerscale=max(1, (20 / size) ** 0.5),
    )
    place_labels(axis, xy[list(named)], [names[row] for row in named], size=size)
    return figure


def place_labels(
    axis: "Axes",
    points: Float[np.ndarray, "n 2"],
    texts: Sequence[str],
    font: float = 7.0,
    size: float = 16.0,
) -> int:
    """Writes texts beside ringed points where they cover no other text; leaves out what finds no
    place. Returns how many were written.

    Args:
      axis: all else is drawn: its place in the figure must be final.
      points: [n, 2].
      size: of the points, in square points.
    """
    from matplotlib.patheffects import withStroke

    axis.figure.draw_without_rendering()  # type: ignore[union-attr]  # settles the layout, so that pixels mean something
    frame = axis.get_window_extent()
    taken: list[tuple[float, float, float, float]] = []
    written = 0
    for point, text in zip(points, texts, strict=True):
        line = {"arrowstyle": "-", "lw": 0.4, "color": GREY, "shrinkA": 0, "shrinkB": 2}
        label = axis.annotate(
            text,
            point,
            (0, 0),
            textcoords="offset points",
            fontsize=font,
            arrowprops=line,
            ha="left",
            va="bottom",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
        label.set_in_layout(False)
        box, pixel = label.get_window_extent(), axis.figure.dpi / 72
        width, height = box.width + 2, box.height + 2
        x, y = axis.transData.transform(point)
        away = size**0.5 / 2 * pixel + 4
        for dx, dy in itertools.product(
            (away, -away - width, -width / 2),
            (-height / 2, away, -away - height, 2 * height, -3 * height),
        ):
            spot = (x + dx, y + dy, x + dx + width, y + dy + height)
            inside = (
                spot[0] >= frame.x0
                and spot[1] >= frame.y0
                and spot[2] <= frame.x1
                and spot[3] <= frame.y1
            )
            over_point = spot[0] <= x <= spot[2] and spot[1] <= y <= spot[3]
            free = all(
                spot[2] < t[0] or spot[0] > t[2] or spot[3] < t[1] or spot[1] > t[3] for t in taken
            )
            if inside and free and not over_point:
                taken.append(spot)
                label.set_position(((dx + 1) / pixel, (dy + 1) / pixel))
                axis.plot(
                    *point,
                    "o",
                    markersize=size**0.5 + 2,
                    markerfacecolor="none",
                    markeredgecolor="black",
                    markeredgewidth=0.7,
                )
                written += 1
                break
        else:
            label.remove()
    return written


def recall_curves(
    curves: Mapping[str, Mapping[str, Curve]],
    *,
    title: str = "Recall of known relationships",
) -> "Figure":
    """Recall over thresholds, a panel a source, a line a map.

    Args:
      curves: {source: {map: {"share": [t], "recall": [t], "low": [t], "high": [t], "pairs": int}}}:
        share of all pairs that is called (both tails together), share of the known pairs among
        them, and its interval (low, high may be left out).
    """
    from matplotlib.figure import Figure

    sources = list(curves)
    columns = min(3, len(sources))
    rows = -(-len(sources) // columns)
    figure = Figure(figsize=(3.1 * columns + 2.0, 3.0 * rows + 0.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharey=True, squeeze=False)).ravel()
    maps = list(dict.fromkeys(name for source in sources for name in curves[source]))
    lines = {}
    for axis, source in zip(axes, sources, strict=False):
        pairs = []
        for number, name in enumerate(maps):
            curve = curves[source].get(name)
            if curve is None:
                continue
            colour = COLOURS[number % len(COLOURS)]
            share = np.asarray(curve["share"], float)
            marker = MARKERS[number % len(MARKERS)]
            lines[name] = axis.plot(
                share, curve["recall"], marker=marker, markersize=4, color=colour, linewidth=1.5
            )[0]
            if "low" in curve:
                axis.fill_between(
                    share, curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0
                )
            pairs.append(curve["pairs"])
        lines["chance"] = axis.plot(
            [0, share.max()], [0, share.max()], color=GREY, linestyle="--", linewidth=1
        )[0]
        count = (
            f"{min(pairs):,}" if min(pairs) == max(pairs) else f"{min(pairs):,} to {max(pairs):,}"
        )
        axis.set_title(f"{source}\n{count} known pairs", fontsize=9)
        open_frame(axis)
        axis.set_xlim(0, share.max() * 1.02)
        axis.set_ylim(0, 1)
    for axis in axes[len(sources) :]:
        axis.set_visible(False)
    figure.supxlabel(
        "share of all pairs that is called: the most alike and the most opposite", fontsize=9
    )
    figure.supylabel("share of known pairs found", fontsize=9)
    figure.suptitle(title, **HEADING)
    figure.legend(
        lines.values(), lines.keys(), loc="outside right center", fontsize=8, frameon=False
    )
    return figure


def _draw_tree(axis: "Axes", tree: Float[np.ndarray, "merges 4"], n: int) -> None:
    from scipy.cluster import hierarchy

    drawn = hierarchy.dendrogram(tree, no_plot=True)
    for x, y in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        # SciPy puts leaf i at 10 i + 5
        axis.plot((np.array(x) - 5) / 10, y, color=DARK, linewidth=0.7)
    axis.set_xlim(-0.5, n - 0.5)
    axis.set_ylim(0, None)
    axis.set_axis_off()
