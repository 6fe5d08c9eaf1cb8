"""Figures of language models on sequences."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage


def predictions(
    probability: Float[np.ndarray, "rows positions vocab"],
    target: Integer[np.ndarray, "rows positions"],
    tokens: Sequence[str],
    first: int = 0,
    names: Sequence[str] = (),
    axis_label: str = "position",
) -> Figure:
    """Heat maps of the probability that a model gives to every token at each position, the true
    ones marked.

    Args:
      probability: given the true context.
      target: ids of the true tokens.
      tokens: their names, in the order of the ids.
      first: ids below this (the special tokens) are left out but for <eos>.
      names: one a row, for the titles.
      axis_label: what the positions are.
    """
    rows, positions, _ = probability.shape
    seen = np.unique(target)
    shown = [
        i
        for i in range(len(tokens))
        if (i >= first and probability[..., i].max() > 0.01) or i in seen
    ]
    figure = Figure(
        figsize=(min(max(2 + positions / 8, 6), 16), rows * (0.8 + len(shown) * 0.13)),
        layout="constrained",
    )
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for row, axis in enumerate(axes):
        image = _heat_map(axis, probability[row], target[row], shown)
        axis.set_yticks(range(len(shown)), [tokens[i] for i in shown], fontsize=6)
        true = np.take_along_axis(probability[row], target[row][:, None].astype(int), 1)[:, 0]
        perplexity = float(np.exp(-np.log(np.maximum(true, 1e-9)).mean()))
        title = f"{names[row]}: " if len(names) else ""
        axis.set_title(
            f"{title}perplexity {perplexity:.1f} over {positions} positions", fontsize=8, loc="left"
        )
        axis.set_xlabel(axis_label if row == rows - 1 else "", fontsize=7)
        axis.tick_params(labelsize=6)
    axes[0].legend(fontsize=6, loc="upper right", framealpha=0.9)
    figure.colorbar(image, ax=list(axes), shrink=0.6, label="probability")
    return figure


def _heat_map(
    axis: Axes,
    probability: Float[np.ndarray, "positions vocab"],
    target: Integer[np.ndarray, " positions"],
    shown: Sequence[int],
) -> AxesImage:
    """One row: the tokens that are shown by position, the true ones marked."""
    place = {token: number for number, token in enumerate(shown)}
    image = axis.imshow(
        probability[:, shown].T,
        cmap="Blues",
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    axis.scatter(
        range(len(target)),
        [place[t] for t in target],
        s=6,
        c="crimson",
        marker="s",
        linewidths=0,
        label="true",
    )
    return image


def mutation_scan(
    effects: Float[np.ndarray, "letters positions"],
    wild_type: str,
    letters: str,
    offset: int = 0,
    per_row: int = 120,
) -> Figure:
    """Heat map of a deep mutational scan, broken into rows of positions.

    Args:
      effects: score of each substitution, NaN for the wild type's own letter.
      wild_type: the letter of each position.
      letters: of the new residues.
      offset: the first position is 1 + offset.
      per_row: positions side by side.
    """
    positions = effects.shape[1]
    rows = -(-positions // per_row)
    # The last percent at each end would leave no colour to the rest.
    limit = float(np.nanpercentile(np.abs(effects), 99)) or 1.0
    figure = Figure(
        figsize=(min(2 + min(positions, per_row) / 8, 16), rows * 2.6), layout="constrained"
    )
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for row, axis in enumerate(axes):
        first, last = row * per_row, min((row + 1) * per_row, positions)
        part = np.full((len(letters), min(per_row, positions)), np.nan)
        part[:, : last - first] = effects[:, first:last]
        image = axis.imshow(
            part, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
        )
        own = [
            (place - first, letters.index(wild_type[place]))
            for place in range(first, last)
            if wild_type[place] in letters
        ]
        axis.scatter(
            [x for x, _ in own], [y for _, y in own], s=4, c="black", marker=".", linewidths=0
        )
        axis.set_yticks(range(len(letters)), list(letters), fontsize=5)
        ticks = range(0, last - first, 10)
        axis.set_xticks(
            ticks, [f"{wild_type[first + i]}{first + i + 1 + offset}" for i in ticks], fontsize=6
        )
    axes[-1].set_xlabel("position (dots: wild type)", fontsize=8)
    bar = figure.colorbar(image, ax=list(axes), shrink=0.8)
    bar.set_label("log-likelihood against\nthe wild type (nats)", fontsize=8)
    return figure
