"""Pictures of what a classifier says of images: each beside its most likely classes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.figure import Figure

from phenomjax.figures import style
from phenomjax.figures.reconstructions import PERCENTILES, colour, composite_channels

SHOWN = 5  # classes an image


def predictions(
    images: Float[np.ndarray, "image height width channel"],
    probability: Float[np.ndarray, "image class"],
    label: Integer[np.ndarray, " image"],
    classes: Sequence[str],
    channels: Sequence[str],
    *,
    image_names: Sequence[str] = (),
) -> Figure:
    """Draws each image as an RGB composite, and bars of the classes that are most likely; the true
    one has another colour, and stands below where it is not among them.

    Args:
      images: of any scale; black and white are percentiles over all of them.
      probability: of each class.
      label: places in `classes`; -1 for none of them.
      classes: their names.
      channels: names.
      image_names: for the titles.
    """
    low, high = np.percentile(images, PERCENTILES, axis=(0, 1, 2))
    scaled = (images - low) / np.maximum(high - low, 1e-6)
    column = composite_channels(channels)
    count = len(images)
    figure = Figure(figsize=(7, 1.7 * count), layout="constrained")
    axes = figure.subplots(count, 2, squeeze=False, width_ratios=(1, 2.6))
    for row, (picture, bars) in enumerate(axes):
        picture.imshow(colour(scaled[row], column))
        picture.set_axis_off()
        best = list(np.argsort(-probability[row], kind="stable")[:SHOWN])
        true = int(label[row])
        if true >= 0 and true not in best:
            best.append(true)
        colours = [style.COLOURS[2] if one == true else style.LIGHT for one in best]
        bars.barh(range(len(best)), probability[row][best], color=colours)
        bars.set_yticks(range(len(best)), [classes[one] for one in best], fontsize=7)
        bars.invert_yaxis()
        bars.set_xlim(0, 1)
        bars.tick_params(labelsize=7)
        style.open_frame(bars)
        rank = int((probability[row] > probability[row][true]).sum()) + 1 if true >= 0 else 0
        place = f"true class at place {rank} of {len(classes)}" if rank else "true class not known"
        name = f"{image_names[row]}: " if len(image_names) else ""
        bars.set_title(f"{name}{place}", fontsize=8, loc="left")
    axes[-1][1].set_xlabel("probability; the true class in green", fontsize=7)
    return figure
