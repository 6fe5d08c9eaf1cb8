"""Lanes that are read from both ends: a second text for the language model that runs backwards."""

import numpy as np

from phenomjax.data.sequences.lanes import LaneLoader


class MirroredLaneLoader(LaneLoader):
    """A LaneLoader whose batches also hold the mirror segment: at segment s of an epoch's S,
    segment S - 1 - s of the same lane.

    A backward model that carries its state needs the segment *before* the one it has read; in step
    with the forward model it would get the one after, and its state would have seen what it is to
    predict. Over an epoch both directions read the same tokens.

    A batch has, besides the arrays of a LaneLoader, backward_tokens and backward_weight: the mirror
    segment, in the order of the text, with the weight of each token as the one before which another
    is predicted.
    """

    @property
    def specs(self) -> list[dict[str, tuple[tuple[int, ...], np.dtype]]]:
        """The {name: (shape, dtype)} of a global batch."""
        return [
            spec | {f"backward_{name}": spec[name] for name in ("tokens", "weight")}
            for spec in super().specs
        ]

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of a step, in fresh arrays: a function of the seed, the step and the
        banks alone.
        """
        epoch, segment = divmod(step, self.steps_per_epoch)
        mirror = self.steps_per_epoch - 1 - segment
        lanes = np.arange(self._local.start, self._local.stop)[:, None]
        place, end = (
            lanes * self.lane_len + mirror * self.segment_len + np.arange(self.segment_len),
            (lanes + 1) * self.lane_len,
        )
        inside = place < np.minimum(end, self.corpus.num_tokens)
        if self.split != "train":
            # nothing stands before the first token, as nothing comes after the last
            inside &= place > 0
        tokens = super().batch(epoch * self.steps_per_epoch + mirror)["tokens"]
        return super().batch(step) | {"backward_tokens": tokens, "backward_weight": inside}
