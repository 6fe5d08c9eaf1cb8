"""Lanes that are read from both ends: a second text for the language model that runs backwards."""

import numpy as np

from phenomjax.data.lanes import LaneLoader


class MirroredLaneLoader(LaneLoader):
    """A LaneLoader whose batches also hold the mirror segment: at segment s of an epoch's S, segment S - 1 - s of the same lane.

    A backward model that carries its state needs the segment *before* the one it has read; in step with the forward model it would get
    the one after, and its state would have seen what it is to predict. Over an epoch both directions read the same tokens.

    A batch has, besides the arrays of a LaneLoader, backward_tokens and backward_weight: the mirror segment, in the order of the text.
    """

    @property
    def specs(self) -> list[dict[str, tuple[tuple[int, ...], np.dtype]]]:
        """The {name: (shape, dtype)} of a global batch."""
        return [spec | {f"backward_{name}": spec[name] for name in ("tokens", "weight")} for spec in super().specs]

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of a step, in fresh arrays: a function of the seed, the step and the banks alone."""
        epoch, segment = divmod(step, self.steps_per_epoch)
        mirror = super().batch(epoch * self.steps_per_epoch + self.steps_per_epoch - 1 - segment)
        return super().batch(step) | {f"backward_{name}": mirror[name] for name in ("tokens", "weight")}
