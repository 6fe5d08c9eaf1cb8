"""Which image a row is where a batch consists of parts, each from one group of images (an
experiment, say): row r of a batch is of part r % P, at place r // P there.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from phenomjax.data.draws import permutation
from phenomjax.data.images.loading.order import BatchOrder

# told apart from the order of images, which the seed alone gives
TURNS, CONTROLS, SPREAD, ONCE = 1, 2, 3, 4


class PartOrder:
    """Training: in an epoch each image once, as nearly as groups have whole parts; groups take
    turns by their sizes, shuffled.

    Images are counted over all groups of all sets, in their order; the controls of each group come
    behind all others, where they have a share of their own.

    Args:
      sizes: for each set of groups whose images can share a batch, the images of each group.
      controls: likewise, of controls; () = there is no share of their own.
      seed: of the run.
      parts: in a batch.
      images_per_part: different images in a part.
      controls_per_part: of these, how many are controls.

    Attributes:
      steps: in which all images, or all but controls, come.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        controls: Sequence[Sequence[int]] = (),
        *,
        seed: int,
        parts: int,
        images_per_part: int,
        controls_per_part: int = 0,
    ):
        self._seed, self._parts, self._images = seed, parts, images_per_part
        self._controls_per_part = controls_per_part
        self._sets = BatchOrder([[sum(one)] for one in sizes], seed=seed, images_per_batch=1)
        others = images_per_part - controls_per_part
        self._others, first = _orders(sizes, 0, seed, others)
        self._controls, _ = _orders(controls, first, _mixed(seed, CONTROLS), controls_per_part)
        self._turns = [max(-(-sum(one) // others), 1) for one in sizes]
        self.steps = sum(-(-turns // parts) for turns in self._turns)
        self._part = functools.lru_cache(2**10)(self._find_part)

    def batch(self, step: int) -> tuple[int, int]:
        """(set, number of this batch within it) of a step."""
        return self._sets.batch(step)

    def image(self, group: int, batch: int, place: int) -> int:
        """The image of a row of a set's batch."""
        part, place = batch * self._parts + place % self._parts, place // self._parts
        one, number = self._part(group, part)
        if self._controls_per_part:  # anywhere in the part, or CutMix would mix like with like
            place = int(_spread(self._images, self._seed, part)[place])
            if place < self._controls_per_part:
                order, first = self._controls[group]
                return first + order.image(one, number, place)
            place -= self._controls_per_part
        order, first = self._others[group]
        return first + order.image(one, number, place)

    def _find_part(self, group: int, part: int) -> tuple[int, int]:
        """(which of the groups of a set, number of this part within it)."""
        epoch, turn = divmod(part, self._turns[group])
        shuffled = _turns(self._turns[group], _mixed(self._seed, TURNS), epoch)
        return self._others[group][0].batch(epoch * self._turns[group] + int(shuffled[turn]))


class EachOnce:
    """Evaluation: each image once, in parts of one group each, in a shuffled order, so that the
    first batches are of all groups. A part for which too few are left is filled with others of its
    group, which do not count: its statistics are of whole parts too. Where controls have a share of
    their own they are the first images of each part.

    Args: see `PartOrder`.

    Attributes:
      steps: in which all images come.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        controls: Sequence[Sequence[int]] = (),
        *,
        seed: int,
        parts: int,
        images_per_part: int,
        controls_per_part: int = 0,
    ):
        self._parts, self._controls = parts, controls_per_part
        others = images_per_part - controls_per_part
        controls = controls or [[0] * len(one) for one in sizes]
        # of each part: first image and size of its group, and where in it the part begins; likewise
        # of the controls
        self._begins: list[Int64[np.ndarray, "parts 6"]] = []
        first, first_control = 0, sum(map(sum, sizes))
        batches = list[tuple[int, int]]()
        for number, one in enumerate(sizes):
            begins = []
            for size, of_controls in zip(one, controls[number], strict=True):
                whole = max(-(-size // others), -(-of_controls // max(controls_per_part, 1)))
                share = controls_per_part
                begins += [
                    (first, size, part * others, first_control, of_controls, part * share)
                    for part in range(whole)
                ]
                first, first_control = first + size, first_control + of_controls
            order = permutation(len(begins), _mixed(seed, ONCE), number)
            self._begins.append(np.array(begins, np.int64)[order])
            batches += [(number, batch) for batch in range(-(-len(begins) // parts))]
        shuffled = permutation(len(batches), _mixed(seed, ONCE), len(sizes))
        self._batches = [batches[place] for place in shuffled]
        self.steps = len(batches)

    def batch(self, step: int) -> tuple[int, int]:
        """(set, number of this batch within it) of a step."""
        return self._batches[step % self.steps]

    def image(self, group: int, batch: int, place: int) -> int:
        """The image of a row of a set's batch."""
        return self._find(group, batch, place)[0]

    def counts(self, group: int, batch: int, place: int) -> bool:
        """Whether it is there for the first time."""
        return self._find(group, batch, place)[1]

    def _find(self, group: int, batch: int, place: int) -> tuple[int, bool]:
        begins = self._begins[group]
        part, place = batch * self._parts + place % self._parts, place // self._parts
        begin = begins[part % len(begins)].tolist()
        first, size, start = begin[3:] if place < self._controls else begin[:3]
        start += place if place < self._controls else place - self._controls
        return first + start % size, part < len(begins) and start < size


def _orders(
    sizes: Sequence[Sequence[int]], first: int, seed: int, per_part: int
) -> tuple[list[tuple[BatchOrder, int]], int]:
    """For each set the order of its groups' images and the number of its first; and the number
    behind the last.
    """
    orders = []
    for number, one in enumerate(sizes):
        groups = [[size] for size in one]
        own = _mixed(seed, number) if number else seed
        orders.append((BatchOrder(groups, seed=own, images_per_batch=per_part), first))
        first += sum(one)
    return orders, first


def _mixed(seed: int, what: int) -> int:
    return int(np.random.SeedSequence([seed, what]).generate_state(1)[0])


@functools.lru_cache(maxsize=8)
def _turns(count: int, seed: int, epoch: int) -> Int64[np.ndarray, "count"]:
    return permutation(count, seed, epoch)


@functools.lru_cache(maxsize=2**8)
def _spread(count: int, seed: int, part: int) -> Int64[np.ndarray, "count"]:
    return permutation(count, _mixed(seed, SPREAD), part)
