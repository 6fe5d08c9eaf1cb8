"""Batches of random crops from image banks: `batch = f(seed, step)`, however many threads and
processes read them.
"""

import bisect
import functools
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from phenomjax.data import mixture
from phenomjax.data.batches import Batches
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.loading import fitness
from phenomjax.data.images.loading.decoding import Decoder
from phenomjax.data.images.loading.groups import Group, groups_of
from phenomjax.data.images.loading.order import (
    BatchOrder,
    Finite,
    OnceOrder,
    Order,
    crop_draws,
    item_draws,
)
from phenomjax.data.images.loading.reader import amplification, image_names
from phenomjax.data.images.loading.split import split_rows
from phenomjax.data.images.rows import Rows
from phenomjax.data.mixture import Shares
from phenomjax.data.prefetch import Prefetcher, Task, buffers_needed
from phenomjax.data.selections import Chosen
from phenomjax.data.subset import nested
from phenomjax.system.processes import core_count

SHOWN = 8  # banks that the banner describes


class ImageLoader:
    """Random crops of the images of one split, as batches that are addressed by their step.

    A batch is a dict of arrays whose leading axis is the row: pixels [rows, crop, crop, C] uint8 or
    uint16, channels [rows, C] int32 (positions in the vocabulary), row [rows] int32 (0 to
    global_batch_size - 1) and image [rows] int32 (counted over all banks). All rows of one batch
    have the channels and dtype of one group. Where each image comes once, weight [rows] bool says
    which rows count: not those that fill the last batch, nor what took the place of a bad image.

    Args:
      banks: what to read.
      channels: the vocabulary, all channel names in order.
      weights: (position, share of the rows from each bank) from which on they are mixed so, any
        scale, kept to within 1 %; () = every image equally often.
      split, split_by, val_groups, val_fraction: see `split.split_rows`.
      chosen: the part of each bank that is read; () = all.
      rows: of each bank, those of the split, where something else than `split_rows` has found them.
      subset: share of the images of the train split that are read; see `subset.nested`.
      crop_size: height and width in pixels.
      crops_per_image: consecutive rows that are crops of one image, decoded together.
      flip: mirror rows left-right and up-down, each with probability 1/2.
      rotate: turn rows by 0, 90, 180 or 270 degrees.
      once: each image once in `steps_per_epoch` steps, as it is, neither flipped nor turned, with
        a crop that depends on the image alone: what is summed over these rows does not depend on
        the size of a batch. Weights of banks do not count, nor does crops_per_image.
      seed: of the order and of all draws.
      global_batch_size: rows of a batch over all processes.
      stages: (position, rows) from which on batches have other rows; () = they never do.
      process_index, process_count: this process gets the rows [index * B / count, (index + 1) * B /
        count).
      threads: that decode; 0 = as many as cores.
      prefetch_batches: decoded batches that wait in memory.
      on_bad_image: "error", or "skip": take the next image of the bank's split that can be read.
      max_bad_images: more different bad images than this are an error all the same.

    Attributes:
      groups: one `Group` a channel set; `specs` has their batches.
      num_images: images in this split.
      bad_items: different images that this process could not read so far.
      items, item_key, unit, units_per_row, steps_per_epoch: see `tasks.Loader`.
      fingerprints: {number and name of a bank: checksum of its metadata}; a run must not be
        continued with others.

    Raises:
      UserError: whatever the banks and arguments do not allow.
    """

    def __init__(
        self,
        banks: Sequence[ImageBank],
        *,
        channels: Sequence[str],
        global_batch_size: int,
        stages: Sequence[tuple[int, int]] = (),
        weights: Shares = (),
        split: str = "train",
        split_by: str = "plate",
        val_groups: Sequence[str] = (),
        val_fraction: float = 0.1,
        chosen: Sequence[Chosen] = (),
        rows: Sequence[Rows] = (),
        subset: float = 1.0,
        crop_size: int = 256,
        crops_per_image: int = 1,
        flip: bool = False,
        rotate: bool = False,
        once: bool = False,
        seed: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 0,
        prefetch_batches: int = 2,
        on_bad_image: str = "error",
        max_bad_images: int = 100,
    ):
        self.banks, self.channels, self.split = list(banks), tuple(channels), split
        self.crop_size, self.once = crop_size, once
        self.crops_per_image = 1 if once else crops_per_image
        self.flip, self.rotate = flip and not once, rotate and not once
        self.seed, self.global_batch_size, self.prefetch_batches = (
            seed,
            global_batch_size,
            max(prefetch_batches, 1),
        )
        self.on_bad_image = on_bad_image
        self.threads = threads or core_count()
        self.batches = Batches(stages or [(0, global_batch_size)])
        self._process = process_index, process_count
        fitness.check(self, process_count)
        self._rows = list(rows) or split_rows(
            self.banks,
            split,
            split_by=split_by,
            val_groups=val_groups,
            val_fraction=val_fraction,
            chosen=chosen,
        )
        if split == "train" and subset < 1:
            arrays = [rows.array() for rows in self._rows]
            self._rows = list(map(Rows.of, nested(self.banks, arrays, subset)))
        self.groups = groups_of(self.banks, self._rows, split)
        self.num_images = sum(map(len, self._rows))
        self._decoder = Decoder(self.banks, split, self._locate, on_bad_image, max_bad_images)
        self._first_id = [0, *itertools.accumulate(len(bank) for bank in self.banks)]
        # in the order in which images count
        self._sources = [bank for group in self.groups for bank in group.banks]
        self._first_image = [
            0,
            *itertools.accumulate(len(self._rows[bank]) for bank in self._sources),
        ]
        sizes = {
            str(bank.path): len(rows) for bank, rows in zip(self.banks, self._rows, strict=True)
        }
        self.weights = mixture.resolved(weights, sizes)
        if split == "train":
            mixture.check_read(self.weights, sizes)
        else:  # losses at all steps are of the same mixture
            self.weights = mixture.mean(self.weights, sizes)
        self._order = self._make_order(self.weights)
        prints = [one.fingerprint for one in chosen] or [bank.fingerprint for bank in self.banks]
        self.fingerprints = {
            f"{n} {bank.path.name}": fingerprint
            for n, (bank, fingerprint) in enumerate(zip(self.banks, prints, strict=True))
        }
        if split == "train":
            fitness.warn_of_amplification(self)

    items, item_key, unit, units_per_row = "images", "image", "images", 1

    @property
    def bad_items(self) -> int:
        return len(self._decoder.bad)

    @property
    def steps_per_epoch(self) -> int:
        if isinstance(self._order, Finite):
            return self._order.steps
        return -(-self.num_images * self.crops_per_image // self.global_batch_size)

    @property
    def specs(self) -> list[dict[str, tuple[tuple[int, ...], np.dtype]]]:
        """For each group, the {name: (shape, dtype)} of its global batches."""
        return [self._spec(group, self.global_batch_size) for group in self.groups]

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of a step, in fresh arrays: a function of the seed, the step and the
        banks alone.
        """
        arrays, tasks = self._plan(step, np.empty(self._buffer_bytes(), np.uint8))
        with ThreadPoolExecutor(self.threads) as pool:
            for future in [pool.submit(task) for task in tasks]:
                future.result()
        return arrays

    def iterate(self, start_step: int, stop_step: int | None = None) -> Prefetcher:
        """The batches from `start_step` on, decoded ahead; a context manager whose items are
        `LoadedBatch`es.

        It ends before `stop_step`, or never.
        """
        return Prefetcher(
            self._plan,
            start_step,
            stop_step,
            buffer_bytes=self._buffer_bytes(),
            threads=self.threads,
            prefetch_batches=self.prefetch_batches,
        )

    def requests(
        self, step: int, start: int, stop: int
    ) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
        """What the rows `start` to `stop` of a step's global batch are made of, image by image.

        Yields:
          (number of the image, its row in its bank, [(y, x, draw for the orientation), one a row of
          the batch]).
        """
        group, batch = self._place(step)
        draws = [] if self.once else crop_draws(self.seed, step, start, stop)
        for place, rows in itertools.groupby(
            range(start, stop), key=lambda row: row // self.crops_per_image
        ):
            number = self._order.image(group, batch, place)
            bank, image = self._locate(number, 0)
            _, height, width, _ = self.banks[bank].shape
            free_y, free_x = height - self.crop_size + 1, width - self.crop_size + 1
            mine = (
                item_draws(self.seed, self._first_id[bank] + image)
                if self.once
                else draws[row - start]
                for row in rows
            )
            crops = [(y * free_y >> 32, x * free_x >> 32, turn) for y, x, turn, *_ in mine]
            yield number, image, crops

    def names(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """What the batch's `image` ids are called: "BANK PLATE/WELL/SITE"."""
        names: dict[int, str] = {}
        by_bank = itertools.groupby(sorted(set(map(int, ids))), self._bank_of)
        for bank, numbers in by_bank:
            there = list(numbers)
            rows = [number - self._first_id[bank] for number in there]
            names |= dict(zip(there, image_names(self.banks[bank], rows), strict=True))
        return [names[int(number)] for number in ids]

    def _bank_of(self, number: int) -> int:
        return bisect.bisect_right(self._first_id, number) - 1

    def describe(self) -> str:
        """One paragraph for the start-up banner."""
        shown = self.banks if len(self.banks) <= SHOWN else self.banks[: SHOWN // 2]
        banks = ", ".join(
            f"{bank.path.name} ({len(rows):,} of {len(bank):,} images of {bank.shape[1]} x"
            f" {bank.shape[2]} px, {bank.shape[3]} channels {bank.dtype.name}, decodes"
            f" {amplification(bank, self.crop_size, self.crops_per_image):.1f} x the"
            f" crop{'' if self._decoder.reader(number).direct else ', by TensorStore'})"
            for number, (bank, rows) in enumerate(zip(shown, self._rows, strict=False))
        )
        if len(shown) < len(self.banks):
            banks += f" and {len(self.banks) - len(shown):,} more banks"
        sets = "one channel set" if len(self.groups) == 1 else f"{len(self.groups)} channel sets"
        buffers, mib = buffers_needed(self.prefetch_batches), self._buffer_bytes() / 2**20
        mixed = ""
        if self.weights and not self.once:
            names = [bank.path.name for bank in self.banks]
            mixed = f" Mixed {mixture.described(self.weights, names)}."
        return (
            f"{self.split}: {self.num_images:,} images, {sets}: {banks}.{mixed}"
            f" {self.crop_size} px crops, {self.crops_per_image} an image; {self.threads} decoding"
            f" threads, {buffers} buffers of {mib:.1f} MiB."
        )

    def _local(self, step: int) -> range:
        """The rows of a step that this process reads."""
        return self.batches.block(step, *self._process)

    def _place(self, step: int) -> tuple[int, int]:
        """(group, number of this batch within its group) of a step."""
        return self._order.batch(step - self.batches.begin)

    def _make_order(self, weights: Shares) -> Order:
        sizes = [[len(self._rows[bank]) for bank in group.banks] for group in self.groups]
        if self.once:
            rows, images = self.global_batch_size, list(map(sum, sizes))
            return OnceOrder(images, seed=self.seed, images_per_batch=rows)
        per_image, begin = self.crops_per_image, self.batches.begin
        return BatchOrder(
            sizes,
            [
                (position, [[shares[bank] for bank in group.banks] for group in self.groups])
                for position, shares in mixture.since(weights, begin)
            ],
            seed=self.batches.seed(self.seed),
            images_per_batch=self.global_batch_size // per_image,
            stages=[(at - begin, rows // per_image) for at, rows in self.batches.stages],
        )

    def _locate(self, number: int, attempt: int) -> tuple[int, int]:
        """Bank, and row there, of an image of the order; or, after so many that are bad, of the one
        that takes its place.
        """
        source = bisect.bisect_right(self._first_image, number) - 1
        bank = self._sources[source]
        rows = self._rows[bank]
        return bank, int(rows[(number - self._first_image[source] + attempt) % len(rows)])

    def _spec(self, group: Group, rows: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        ids, depth = np.dtype(np.int32), len(group.channels)
        return {
            "pixels": ((rows, self.crop_size, self.crop_size, depth), group.dtype),
            "channels": ((rows, depth), ids),
            "row": ((rows,), ids),
            "image": ((rows,), ids),
        } | ({"weight": ((rows,), np.dtype(bool))} if self.once else {})

    def _buffer_bytes(self) -> int:
        pixels = max(len(group.channels) * group.dtype.itemsize for group in self.groups)
        return self.batches.most // self._process[1] * self.crop_size**2 * pixels

    def _plan(self, step: int, buffer: np.ndarray) -> tuple[dict[str, np.ndarray], list[Task]]:
        """The arrays of a step, pixels in `buffer`, and the tasks that fill pixels and image, each
        for a few rows.
        """
        group, local = self.groups[self._place(step)[0]], self._local(step)
        first, count = local.start, len(local)
        spec = self._spec(group, count)
        shape, dtype = spec["pixels"]
        ids = np.array([self.channels.index(name) for name in group.channels], np.int32)
        arrays = {
            name: np.empty(shape, dtype)
            for name, (shape, dtype) in spec.items()
            if name != "pixels"
        }
        arrays["pixels"] = buffer[: int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape)
        arrays["channels"][:] = ids
        arrays["row"][:] = np.arange(first, first + count)
        # Two parts a thread even out their work; rows of one image stay in one part.
        part = -(-count // (2 * self.threads * self.crops_per_image)) * self.crops_per_image
        edges = [first, *range(first // part * part + part, first + count, part), first + count]
        fill = functools.partial(self._fill, arrays, step)
        return arrays, [functools.partial(fill, *span) for span in itertools.pairwise(edges)]

    def _fill(self, arrays: dict[str, np.ndarray], step: int, start: int, stop: int) -> None:
        """Decodes the rows `start` to `stop` (counted in the global batch) into this process's
        arrays.
        """
        row, pixels, image = start - self._local(step).start, arrays["pixels"], arrays["image"]
        # All requests first: between two crops, Grain's code would not be in the cache and cost 3 x
        # as much.
        for number, _, crops in list(self.requests(step, start, stop)):
            rows = slice(row, row + len(crops))
            outs = [
                self._oriented(out, turn)
                for out, (_, _, turn) in zip(pixels[rows], crops, strict=True)
            ]
            ys, xs = [crop[0] for crop in crops], [crop[1] for crop in crops]
            bank, read = self._decoder.read(outs, number, ys, xs)
            image[rows] = self._first_id[bank] + read
            row = rows.stop
        if self.once:
            first = self._local(step).start
            mine = slice(start - first, stop - first)
            arrays["weight"][mine] = self._counted(step, start, image[mine])

    def _counted(self, step: int, start: int, read: np.ndarray) -> list[bool]:
        """Which rows from `start` on are of an image that comes for the first time and was read.

        Args:
          read: the image that is in each row.
        """
        order = self._order
        assert isinstance(order, Finite)
        group, batch = self._place(step)
        counted = []
        for place, image in enumerate(read.tolist(), start):
            bank, row = self._locate(order.image(group, batch, place), 0)
            meant = self._first_id[bank] + row
            counted.append(meant == image and order.counts(group, batch, place))
        return counted

    def _oriented(self, out: np.ndarray, draw: int) -> np.ndarray:
        """A view of `out`; a crop written into it arrives mirrored, then turned by a multiple of 90
        degrees.
        """
        if self.rotate:
            out = np.rot90(out, -(draw >> 2 & 3))
        if self.flip:
            out = out[:: -1 if draw & 1 else 1, :: -1 if draw & 2 else 1]
        return out
