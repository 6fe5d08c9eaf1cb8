"""Crops of whole images, decoded ahead by threads: each image is read and decoded once, and all its
crops are cut from it.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np

from phenomjax.data.images.loading.reader import BadImageError, CropReader
from phenomjax.inference.images.plan import Grid, WorkLayout
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.processes import core_count

# (unit, images) of groups
Parts: TypeAlias = Generator[tuple[int, Sequence[int]], None, None]
AHEAD_BYTES = 2 << 30  # of decoded pixels that wait


class CropGroup:
    """Some images of a unit, decoded.

    Attributes:
      unit: its number.
      images: which.
      pixels: [group_images * crops_per_image, filled up to whole batches, crop, crop, channels];
        the crops of an image side by side. Valid until `release`.
      bad: {image: what is wrong with it}; its pixels mean nothing.
    """

    def __init__(
        self,
        unit: int,
        images: Sequence[int],
        pixels: np.ndarray,
        give_back: Callable[[np.ndarray], None],
    ):
        self.unit, self.images, self.pixels, self._give_back = unit, images, pixels, give_back
        self.bad: dict[int, str] = {}
        self.futures: list[Future] = []

    def release(self) -> None:
        """Call it when the pixels are not needed any more."""
        self._give_back(self.pixels)


class CropLoader:
    """Decodes groups ahead, in threads.

    Args:
      reader: of the bank.
      grid: where the crops of an image lie.
      crop_size: their size.
      channels: places in the bank, in the order wanted.
      layout: of the work.
      threads: that decode; 0 = one a core.
    """

    def __init__(
        self,
        reader: CropReader,
        grid: Grid,
        crop_size: int,
        channels: Sequence[int],
        layout: WorkLayout,
        threads: int = 0,
    ):
        self._reader, self._grid, self._layout = reader, grid, layout
        depth = reader.bank.shape[3]
        self._channels = None if tuple(channels) == tuple(range(depth)) else list(channels)
        crops = -(-layout.group_images * len(grid) // layout.batch_size) * layout.batch_size
        self._shape = (crops, crop_size, crop_size, len(channels))
        self._crop_size = crop_size
        threads = threads or core_count()
        size = int(np.prod(self._shape)) * reader.bank.dtype.itemsize
        # Every thread has an image to decode while the group before is computed.
        self._ahead = max(2, min(-(-2 * threads // layout.group_images), AHEAD_BYTES // size))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="crops")
        self._free: list[np.ndarray] = []
        self._scratch = threading.local()

    def parts(self, units: Iterable[int]) -> Parts:
        """The groups of units, as `groups` wants them."""
        size = self._layout.group_images
        for unit in units:
            images = self._layout.images_of(unit)
            yield from ((unit, images[i : i + size]) for i in range(0, len(images), size))

    def groups(self, parts: Parts) -> Iterator[CropGroup]:
        """Yields groups of images, in order; a part is asked for only when there is room to decode
        it.

        Args:
          parts: (unit, images), at most `group_images` of the layout.

        Raises:
          UserError: a read failed by no fault of the image.
        """
        pending: deque[CropGroup] = deque()
        with contextlib.closing(parts):
            while True:
                while len(pending) < self._ahead and (part := next(parts, None)) is not None:
                    pending.append(self._start(*part))
                if not pending:
                    return
                group = pending.popleft()
                for future in group.futures:
                    future.result()
                yield group

    def close(self) -> None:
        """Stops the threads: those at work finish their image."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _start(self, unit: int, images: Sequence[int]) -> CropGroup:
        pixels = self._free.pop() if self._free else np.zeros(self._shape, self._reader.bank.dtype)
        group = CropGroup(unit, images, pixels, self._free.append)
        count = len(self._grid)
        group.futures = [
            self._pool.submit(
                self._decode, group, image, pixels[place * count : (place + 1) * count]
            )
            for place, image in enumerate(images)
        ]
        return group

    def _decode(self, group: CropGroup, image: int, out: np.ndarray) -> None:
        try:
            if self._channels is None:
                self._reader.read_crops(list(out), image, self._grid.ys, self._grid.xs)
            else:  # all channels of a pixel lie side by side in the bank
                whole = self._all_channels(out.shape[:3])
                self._reader.read_crops(list(whole), image, self._grid.ys, self._grid.xs)
                np.take(whole, self._channels, axis=3, out=out, mode="clip")
        except BadImageError as error:
            group.bad[image] = error.what
        except PermissionError as error:
            group.bad[image] = f"its file may not be read ({error.strerror})"
        except OSError as error:
            raise UserError(
                f"Reading image {image} of the bank {self._reader.bank.path} failed: {error}. That"
                " is no fault of the image. What is committed is kept: run the same command again"
                " when it is mended.",
                EXIT_FAILED,
            ) from error

    def _all_channels(self, shape: tuple[int, ...]) -> np.ndarray:
        """This thread's scratch for crops with all channels of the bank."""
        if not hasattr(self._scratch, "pixels"):
            self._scratch.pixels = np.empty(
                (*shape, self._reader.bank.shape[3]), self._reader.bank.dtype
            )
        return self._scratch.pixels
