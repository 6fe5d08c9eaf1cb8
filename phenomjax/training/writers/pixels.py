"""A figure as an image, for services that take no other."""

import numpy as np
from jaxtyping import UInt8

from phenomjax.system.types import Figure


def pixels(figure: Figure) -> UInt8[np.ndarray, "height width 3"]:
    """A drawn figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
