"""Figures of language models on sequences."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure


def predictions(
    probability: np.ndarray,
    target: np.ndarray,
    tokens: Sequence[str],
    first: int = 0,
    names: Sequence[str] = (),
    axis_label: str = "position",
) -> Figure:
    """Heat maps of the probability that a model gives to every token at each position, the true ones marked.

    Args:
      probability: (rows, positions, vocab), of the true context.
      target: (rows, positions) ids of the true tokens.
      tokens: their names, in the order of the ids.
      first: ids below this (the special tokens) are left out but for <eos>.
      names: one a row, for the titles.
      axis_label: what the positions are.
    """
    rows, positions, _ = probability.shape
    seen = np.unique(target)
    shown = [i for i in range(len(tokens)) if (i >= first and probability[..., i].max() > 0.01) or i in seen]
    place = {token: number for number, token in enumerate(shown)}
    figure = Figure(
        figsize=(min(max(2 + positions / 8, 6), 16), rows * (0.8 + len(shown) * 0.13)), layout="constrained"
    )
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for row, axis in enumerate(axes):
        image = axis.imshow(
            probability[row][:, shown].T, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        axis.scatter(
            range(positions), [place[t] for t in target[row]], s=6, c="crimson", marker="s", linewidths=0, label="true"
        )
        axis.set_yticks(range(len(shown)), [tokens[i] for i in shown], fontsize=6)
        true = np.take_along_axis(probability[row], target[row][:, None].astype(int), 1)[:, 0]
        perplexity = float(np.exp(-np.log(np.maximum(true, 1e-9)).mean()))
        title = f"{names[row]}: " if len(names) else ""
        axis.set_title(f"{title}perplexity {perplexity:.1f} over {positions} positions", fontsize=8, loc="left")
        axis.set_xlabel(axis_label if row == rows - 1 else "", fontsize=7)
        axis.tick_params(labelsize=6)
    axes[0].legend(fontsize=6, loc="upper right", framealpha=0.9)
    figure.colorbar(image, ax=list(axes), shrink=0.6, label="probability")
    return figure
