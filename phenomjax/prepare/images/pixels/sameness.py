"""Planes without a picture, and planes that are copies of each other."""

import numpy as np
from jaxtyping import Shaped


def is_constant(plane: Shaped[np.ndarray, "y x"]) -> bool:
    """Whether all pixels have one value; a plane that has not is told by a few rows."""
    value, few = plane[0, 0], plane[:: max(1, len(plane) // 4)]
    return bool((few == value).all()) and bool((plane == value).all())


def same_planes(image: Shaped[np.ndarray, "y x channels"]) -> list[tuple[int, int]]:
    """Pairs of channels with the same pixels, those of one value left out."""
    few = image[:: max(1, len(image) // 4)]
    pairs = []
    for one in range(image.shape[2]):
        for other in range(one + 1, image.shape[2]):
            if not (few[..., one] == few[..., other]).all():
                continue
            if (image[..., one] == image[..., other]).all() and not is_constant(image[..., one]):
                pairs.append((one, other))
    return pairs
