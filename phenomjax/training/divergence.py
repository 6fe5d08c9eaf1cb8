"""What happens when a step gives a non-finite loss: the error, and the way back."""

import numpy as np


class Diverged(Exception):
    """A step gave a non-finite loss or too large a gradient."""

    def __init__(self, step: int, values: dict[str, float], ids: np.ndarray):
        super().__init__(step, values)
        self.step, self.values, self.ids = step, values, ids
