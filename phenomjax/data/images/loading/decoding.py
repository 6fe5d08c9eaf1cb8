"""Decodes crops of images, and where one is bad those of the next that may take its place."""

import itertools
import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.loading.reader import INDEX_CACHE_BYTES, BadImageError, CropReader
from phenomjax.data.images.shards import IndexCache
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")


class Decoder:
    """Reads for one loader; threads may call it at once.

    Args:
      banks: that it reads.
      split: of them, for errors.
      locate: (bank, row there) of an image of the order, or, after so many that are bad, of the one
        that takes its place.
      on_bad_image, max_bad_images: see `loader.ImageLoader`.

    Attributes:
      bad: (bank, row) of the images that could not be read so far.
    """

    def __init__(
        self,
        banks: Sequence[ImageBank],
        split: str,
        locate: Callable[[int, int], tuple[int, int]],
        on_bad_image: str,
        max_bad_images: int,
    ):
        self._banks, self._split, self._locate = banks, split, locate
        self._skip, self._max_bad_images = on_bad_image == "skip", max_bad_images
        self._readers: dict[int, CropReader] = {}
        self._indices = IndexCache(INDEX_CACHE_BYTES)
        self.bad: set[tuple[int, int]] = set()
        self._lock = threading.Lock()

    def reader(self, bank: int) -> CropReader:
        """That of a bank, opened when it is wanted first."""
        reader = self._readers.get(bank)
        if reader is None:
            reader = self._readers.setdefault(bank, CropReader(self._banks[bank], self._indices))
        return reader

    def read(
        self, outs: list[np.ndarray], number: int, ys: list[int], xs: list[int]
    ) -> tuple[int, int]:
        """Reads crops of an image of the order; returns bank and row of the one that was read.

        Raises:
          BadImageError: it is bad, and none may take its place.
          UserError: too many are bad.
        """
        seen = set[tuple[int, int]]()
        for attempt in itertools.count():
            bank, row = self._locate(number, attempt)
            if (bank, row) in seen:
                break
            seen.add((bank, row))
            try:
                self.reader(bank).read_crops(outs, row, ys, xs)
                return bank, row
            except BadImageError as error:
                if not self._skip:
                    raise
                self._count(bank, row, error)
        raise UserError(
            f"No image of the {self._split} split of {self._banks[bank].path} can be read. Prepare"
            " it again."
        )

    def _count(self, bank: int, row: int, error: BadImageError) -> None:
        with self._lock:
            if (bank, row) in self.bad:
                return
            self.bad.add((bank, row))
            log.warning("bad image %d, the next one is taken instead: %s", len(self.bad), error)
            if len(self.bad) > self._max_bad_images:
                raise UserError(
                    f"{len(self.bad)} images could not be read, more than"
                    f" data.max_bad_images={self._max_bad_images}; the last: {error}"
                ) from error
