"""A contact sheet of microscopy: one row an image, each channel in grey, then all as one colour
image.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped
from matplotlib.figure import Figure

# Colours of the channels in the composite; the first one is DNA in nearly every assay.
COLOURS = (
    (0.2, 0.4, 1),
    (0, 0.8, 0.2),
    (1, 0.1, 0.1),
    (0.9, 0.8, 0),
    (0.9, 0, 0.9),
    (0, 0.8, 0.8),
    (1, 0.5, 0),
    (0.6, 0.6, 0.6),
)


def draw(
    images: Sequence[Shaped[np.ndarray, "height width channels"]],
    names: Sequence[str],
    channels: Sequence[str],
    limits: Sequence[tuple[float, float]],
) -> Figure:
    """Draws the sheet; contrast is the same in all rows.

    Args:
      images: one or more, of one size.
      names: of the images, written at the left.
      channels: names, written above.
      limits: (black, white) of each channel.
    """
    height, width, depth = images[0].shape
    columns = depth + 1
    figure = Figure(
        figsize=(2 * columns, 2 * height / width * len(images) + 0.4), layout="constrained"
    )
    grid = figure.subplots(len(images), columns, squeeze=False)
    step = max(1, min(height, width) // 256)
    colours = np.array([COLOURS[channel % len(COLOURS)] for channel in range(depth)])
    # many channels overlap: without this they add up to white
    colours /= max(1, colours.sum(axis=0).max() / 1.6)
    for row, image, name in zip(grid, images, names, strict=True):
        small = _shrink(image, step)
        colour = np.zeros((*small.shape[:2], 3))
        for channel, (low, high) in enumerate(limits):
            plane = np.clip((small[..., channel] - low) / max(high - low, 1), 0, 1)
            row[channel].imshow(plane, cmap="gray", vmin=0, vmax=1)
            colour += plane[..., None] * colours[channel]
        row[-1].imshow(np.clip(colour, 0, 1))
        row[0].set_ylabel(name, fontsize=7)
        for axes in row:
            axes.set(xticks=[], yticks=[])
    for axes, channel_name in zip(grid[0], (*channels, "all"), strict=True):
        axes.set_title(textwrap.fill(channel_name, 24), fontsize=9)
    return figure


def _shrink(image: np.ndarray, step: int) -> np.ndarray:
    height, width = (size // step * step for size in image.shape[:2])
    blocks = image[:height, :width].reshape(height // step, step, width // step, step, -1)
    return blocks.mean(axis=(1, 3), dtype=np.float32)
