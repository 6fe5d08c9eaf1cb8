"""Which image and which crop a row of a batch is: a function of (seed, step, row), whoever asks for
it.

Grain gives the order: images shuffled anew each epoch, banks and channel sets mixed by weight, all
of it addressed by position. The position of a crop comes from a counter-based generator whose
counter is (row, step).
"""

import bisect
import functools
import itertools
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from phenomjax.data import draws
from phenomjax.data.mixture import Mixture

SMALL = 2**16  # images; from here on Grain's shuffle is fast


class Order(Protocol):
    """Which images the batches of all steps are made of."""

    def batch(self, step: int) -> tuple[int, int]:
        """(group, number of this batch within its group) of a step."""
        ...

    def image(self, group: int, batch: int, place: int) -> int:
        """The image at a place of a group's batch, counted over all groups."""
        ...


class BatchOrder:
    """The order of images over all steps.

    A *group* is a set of banks whose images can share a batch. Images are counted over all groups,
    in their order.

    Args:
      sizes: for each group, the number of images of each of its banks.
      weights: (step, for each group the share of each of its banks) from which on they are mixed
        so; () = every image equally often.
      seed: of the run.
      images_per_batch: different images in one global batch.
      stages: (step, images per batch) from which on batches have others; () = they never do.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        weights: Sequence[tuple[int, Sequence[Sequence[float]]]] = (),
        *,
        seed: int,
        images_per_batch: int,
        stages: Sequence[tuple[int, int]] = (),
    ):
        self._groups = Mixture(
            [(step, list(map(sum, groups))) for step, groups in weights or [(0, sizes)]]
        )
        self._images: list[list[Addressed]] = []  # of each group, of each of its banks
        self._banks: list[Mixture] = []  # of each group
        # of each group, for each stage: its first batch, the images before, the images of a batch
        self._stages: list[list[tuple[int, int, int]]] = []
        start = 0
        for group, group_sizes in enumerate(sizes):
            shuffled = []
            for number, size in enumerate(group_sizes if weights else [sum(group_sizes)]):
                seed_here = _shuffle_seed(seed, group, number)
                shuffled.append(_shuffled(start, start + size, seed_here))
                start += size
            self._images.append(shuffled)
            batch, images, each, own = 0, 0, images_per_batch, []
            for step, other in stages or [(0, images_per_batch)]:
                before, batch = batch, self._groups.before(step)[group]
                images, each = images + (batch - before) * each, other
                own.append((batch, images, each))
            self._stages.append(own)
            mixed = [
                (self._place(group, self._groups.before(step)[group], 0), groups[group])
                for step, groups in weights
                if sum(groups[group])  # else none of its images comes
            ]
            self._banks.append(Mixture(mixed or [(0, [1])]))

    def _place(self, group: int, batch: int, place: int) -> int:
        """How many images of the group come before a place of a batch of it."""
        stages = self._stages[group]
        number, images, each = next(stage for stage in reversed(stages) if stage[0] <= batch)
        return images + (batch - number) * each + place

    def batch(self, step: int) -> tuple[int, int]:
        """(group, number of this batch within its group) of a step."""
        return self._groups.at(step)

    def image(self, group: int, batch: int, place: int) -> int:
        """The image at `place` (0 to images_per_batch - 1) of a group's batch, counted over all
        groups.
        """
        bank, number = self._banks[group].at(self._place(group, batch, place))
        return self._images[group][bank][number]


@runtime_checkable
class Finite(Order, Protocol):
    """An order in which each image comes once.

    Attributes:
      steps: in which all images come.
    """

    steps: int

    def counts(self, group: int, batch: int, place: int) -> bool:
        """Whether the image at a place is there for the first time, and no filler of a batch."""
        ...


class OnceOrder:
    """Each image once, in the order of the first epoch of `BatchOrder`; the last batch of a group
    is filled with images of its second, which do not count.

    Args:
      sizes: for each group, its images.
      seed: of the order.
      images_per_batch: different images in one global batch.

    Attributes:
      steps: in which all images come.
    """

    def __init__(self, sizes: Sequence[int], *, seed: int, images_per_batch: int):
        self._sizes, self._count = sizes, images_per_batch
        whole = [[size] for size in sizes]
        self._order = BatchOrder(whole, seed=seed, images_per_batch=images_per_batch)
        self._ends = list(itertools.accumulate(-(-size // images_per_batch) for size in sizes))
        self.steps = self._ends[-1]

    def batch(self, step: int) -> tuple[int, int]:
        """(group, number of this batch within its group) of a step; the groups one by one."""
        step %= self.steps
        group = bisect.bisect_right(self._ends, step)
        return group, step - (self._ends[group - 1] if group else 0)

    def image(self, group: int, batch: int, place: int) -> int:
        """The image at a place of a group's batch, counted over all groups."""
        return self._order.image(group, batch, place)

    def counts(self, group: int, batch: int, place: int) -> bool:
        """Whether the image at a place is there for the first time, and no filler of a batch."""
        return batch * self._count + place < self._sizes[group]


def item_draws(seed: int, item: int) -> list[int]:
    """Random numbers as of `crop_draws` that depend on the image alone."""
    return draws.raw(4, seed, draws.CROPS_BY_IMAGE, item, 0).view(np.uint32).tolist()


def crop_draws(seed: int, step: int, start: int, stop: int) -> list[list[int]]:
    """Eight random 32-bit numbers for each of the rows `start` to `stop` of a step's global batch.

    `draw * n >> 32` is an integer 0 to n - 1, all equally likely to within n / 2**32.
    """
    drawn = draws.raw(4 * (stop - start), seed, draws.CROPS, start, step)
    return drawn.view(np.uint32).reshape(-1, 8).tolist()


class Addressed(Protocol):
    """Images without end, by their place."""

    def __getitem__(self, index: int, /) -> int: ...


def _shuffled(start: int, stop: int, seed: int) -> Addressed:
    """A MapDataset of start, ..., stop - 1 without end, each epoch another permutation."""
    import grain  # imports jax, and phenomjax.data must not

    if stop - start > SMALL:
        return grain.MapDataset.range(start, stop).shuffle(seed=seed).repeat(None)
    return grain.MapDataset.source(_SmallShuffle(start, stop, seed))


class _SmallShuffle:
    """The same as a Grain data source for few images: Grain's own shuffle takes 65,000 / n rounds,
    0.3 ms at n = 100.
    """

    def __init__(self, start: int, stop: int, seed: int):
        self._start, self._count, self._seed = start, stop - start, seed

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> int:
        epoch, place = divmod(index, self._count)
        return self._start + int(_permutation(self._count, self._seed, epoch)[place])


_permutation = functools.lru_cache(maxsize=16)(draws.permutation)


def _shuffle_seed(seed: int, group: int, bank: int) -> int:
    # Grain adds the epoch to the seed, so neighbouring seeds would repeat each other's epochs.
    return int(np.random.SeedSequence([seed, group, bank]).generate_state(1)[0])
