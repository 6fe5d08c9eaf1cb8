"""Batches of labelled crops, in parts of one group (an experiment, say) each."""

import bisect
import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from phenomjax.data.draws import permutation
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.loading.groups import Group
from phenomjax.data.images.loading.loader import ImageLoader
from phenomjax.data.images.loading.order import Order
from phenomjax.data.images.loading.parts import EachOnce, PartOrder
from phenomjax.data.images.rows import Rows
from phenomjax.data.mixture import Shares
from phenomjax.system.errors import UserError, first_of

log = logging.getLogger("phenomjax")


class Labels(NamedTuple):
    """What a loader must know of each image, counted over all banks.

    Attributes:
      label: place of its class in the model's classes; -1 = none of them.
      cell_type: likewise.
      group: number of its group; -1 = none.
      control: whether it is a control.
      groups: names of the groups.
    """

    label: Int32[np.ndarray, "images"]
    cell_type: Int32[np.ndarray, "images"]
    group: Int32[np.ndarray, "images"]
    control: Bool[np.ndarray, "images"]
    groups: tuple[str, ...]


class LabelledLoader(ImageLoader):
    """As `ImageLoader`, whose batches also have label [rows] and cell_type [rows], int32: places in
    the model's classes and cell types, -1 for none of them; and control [rows], whether it is one.

    Where batches have parts, row r is of part r % parts, and a part is of one group. In training,
    images come as `PartOrder` says; else each comes once in `steps_per_epoch` steps (see
    `EachOnce`), and what fills the last rows of a group has the label -1, as has what does not
    count.

    Args:
      banks: what to read.
      labels: of all their images.
      rows: of each bank, those of the split.
      parts: of a batch; 0 = in training the images of all groups are mixed.
      control_share: share of a part that is controls of its group; 0.0 = as they come.
      told: sentences for the start-up banner.
      settings: see `ImageLoader`.

    Raises:
      UserError: whatever the banks and arguments do not allow.
    """

    def __init__(
        self,
        banks: Sequence[ImageBank],
        *,
        labels: Labels,
        rows: Sequence[Rows],
        parts: int,
        control_share: float = 0.0,
        told: Sequence[str] = (),
        **settings: Any,
    ):
        self.labels, self.told = labels, list(told)
        self.parts, self._control_share = parts, control_share
        self._ids: np.ndarray | None = None  # images in the order in which they count, by pools
        self._starts: list[int] = []  # of the pools
        super().__init__(banks, rows=rows, once=settings["split"] != "train", **settings)

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps if isinstance(self._order, PartOrder) else super().steps_per_epoch

    def describe(self) -> str:
        """One paragraph for the start-up banner."""
        own = self._images(range(len(self.banks)))
        labels = self.labels.label[own]
        groups = len(np.unique(self.labels.group[own]))
        said = (
            f"{len(np.unique(labels[labels >= 0])):,} classes, {groups:,} groups,"
            f" {int(self.labels.control[own].sum()):,} controls"
        )
        if self.parts:
            said += (
                f"; a batch is {self.parts} part{'s' * (self.parts > 1)} of"
                f" {self.global_batch_size // self.parts} images of one group each"
            )
        return " ".join(filter(None, [super().describe(), f"{said}.", *self.told]))

    def _make_order(self, weights: Shares) -> Order:
        training, parts = self.split == "train", max(self.parts, 1)
        if training and not self.parts and not self._control_share:
            return super()._make_order(weights)
        if weights:
            raise UserError(
                "data.weights gives banks their shares, and with data.groups or data.control_share"
                ' each image comes once an epoch. Set --config.data.weights="()" or, to have the'
                " shares, --config.data.groups=0 --config.data.control_share=0.0."
            )
        per_part = self.global_batch_size // parts // self.crops_per_image
        controls_per_part = round(self._control_share * per_part)
        if self._control_share and not 0 < controls_per_part < per_part:
            raise UserError(
                f"data.control_share is {self._control_share}, which is {controls_per_part} of the"
                f" {per_part} images of a part. Set --config.data.control_share="
                f"{min(max(controls_per_part, 1), max(per_part - 1, 1)) / per_part:.3g}, or give"
                " larger batches with --config.global_batch_size."
            )
        pools = [self._pools(group) for group in self.groups]
        others, controls = pools, []
        if controls_per_part:
            flags = self.labels.control
            controls = [[pool[flags[pool]] for pool in one] for one in pools]
            others = [[pool[~flags[pool]] for pool in one] for one in pools]
        flat = [pool for sets in (others, controls) for one in sets for pool in one]
        self._ids = np.concatenate(flat).astype(np.int32)
        self._starts = [0, *itertools.accumulate(map(len, flat))]
        sizes = [[len(pool) for pool in one] for one in others]
        sizes_of_controls = [[len(pool) for pool in one] for one in controls]
        seed = self.batches.seed(self.seed)
        settings: dict[str, int] = {"seed": seed, "parts": parts, "images_per_part": per_part}
        settings["controls_per_part"] = controls_per_part
        if not training:
            self._check_composed(others, controls)
            return EachOnce(sizes, sizes_of_controls, **settings)
        self._warn_of_small(others, per_part - controls_per_part)
        return PartOrder(sizes, sizes_of_controls, **settings)

    def _images(self, banks: Iterable[int]) -> np.ndarray:
        """Ids of the images of the split in some banks."""
        return np.concatenate([self._first_id[bank] + self._rows[bank].array() for bank in banks])

    def _pools(self, group: Group) -> list[np.ndarray]:
        """The images of each group of those whose images can share a batch, shuffled."""
        own = self._images(group.banks)
        mixed = self.split == "train" and not self.parts
        codes = np.zeros_like(own) if mixed else self.labels.group[own]
        # in the order in which they come here, whatever else is in the banks
        _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
        codes = np.argsort(np.argsort(first))[codes]
        shuffled = permutation(len(own), self.batches.seed(self.seed), 0)
        shuffled = shuffled[np.argsort(codes[shuffled], kind="stable")]
        return np.split(own[shuffled], np.flatnonzero(np.diff(codes[shuffled])) + 1)

    def _check_composed(
        self, others: Sequence[Sequence[np.ndarray]], controls: Sequence[Sequence[np.ndarray]]
    ) -> None:
        """Checks that each group has what a part is composed of."""
        lacking = {
            int(self.labels.group[(have if len(have) else lack)[0]])
            for pair in zip(others, controls, strict=False)
            for have, lack in zip(*pair, strict=True)
            if not len(have) or not len(lack)
        }
        if lacking:
            raise UserError(
                f"The {self.split} split has groups without controls, or with nothing else"
                f" ({first_of([self.labels.groups[group] for group in sorted(lacking)])}), and"
                " model.control_weight asks for statistics of the controls of each. Hold out others"
                " with --config.data.val_groups, or set --config.model.control_weight=0.0."
            )

    def _warn_of_small(self, pools: Sequence[Sequence[np.ndarray]], wanted: int) -> None:
        small = [pool for one in pools for pool in one if len(pool) < wanted]
        if small and self.parts:
            names = [self.labels.groups[self.labels.group[pool[0]]] for pool in small]
            log.warning(
                "%d groups have fewer images than the %d of a part (%s): some of them come several"
                " times in one. Smaller batches, or more parts (data.groups), mend it.",
                *(len(small), wanted, first_of(names)),
            )

    def _locate(self, number: int, attempt: int) -> tuple[int, int]:
        if self._ids is None:
            return super()._locate(number, attempt)
        pool = bisect.bisect_right(self._starts, number) - 1
        start, stop = self._starts[pool], self._starts[pool + 1]
        image = int(self._ids[start + (number - start + attempt) % (stop - start)])
        bank = self._bank_of(image)
        return bank, image - self._first_id[bank]

    def _spec(self, group: Group, rows: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        ids = ((rows,), np.dtype(np.int32))
        return super()._spec(group, rows) | {
            "label": ids,
            "cell_type": ids,
            "control": ((rows,), np.dtype(bool)),
        }

    def _fill(self, arrays: dict[str, np.ndarray], step: int, start: int, stop: int) -> None:
        super()._fill(arrays, step, start, stop)
        first = self._local(step).start
        mine = slice(start - first, stop - first)
        images = arrays["image"][mine]
        arrays["cell_type"][mine] = self.labels.cell_type[images]
        arrays["control"][mine] = self.labels.control[images]
        label = self.labels.label[images]
        # another one that took the place of a bad image has a place of its own
        arrays["label"][mine] = np.where(arrays["weight"][mine], label, -1) if self.once else label
