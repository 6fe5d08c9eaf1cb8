"""Embeds units of images: decodes ahead, computes, commits."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from phenomjax.data.images.loading.reader import image_name
from phenomjax.engine import units
from phenomjax.inference.images import result as images_result
from phenomjax.inference.images.crops import CropGroup, CropLoader
from phenomjax.inference.images.job import BankEmbedding
from phenomjax.inference.images.plan import WorkLayout
from phenomjax.inference.images.result import Rejected
from phenomjax.inference.runtimes import choose
from phenomjax.inference.workers import check_begun

log = logging.getLogger("phenomjax")
IN_FLIGHT = 2  # batches that are computed or wait for it
CropEmbeddings: TypeAlias = Float[np.ndarray, "images crops blocks dim"]


def compute(
    job: BankEmbedding, loader: CropLoader, numbers: Iterator[int], stop: threading.Event
) -> Iterator[int]:
    """Computes and commits units; yields how many crops each group of images had that is done."""
    assembly: dict[int, UnitRows] = {}
    for group, values in embed(loader, job.layout, job.make_runtime(), numbers, stop, job.given):
        if group.unit not in assembly:
            assembly[group.unit] = UnitRows(job, group.unit)
        part = assembly[group.unit]
        part.add(group, values)
        if part.complete():
            part.commit()
            del assembly[group.unit]
        yield len(group.images) * job.layout.crops_per_image


def embed(
    loader: CropLoader,
    layout: WorkLayout,
    runtime: choose.Runtime,
    numbers: Iterator[int],
    stop: threading.Event,
    given: Callable[[np.ndarray], choose.Given] = lambda images: choose.NOTHING,
) -> Iterator[tuple[CropGroup, CropEmbeddings]]:
    """Yields (group, embeddings of its images) of units, group by group; `given` says what a batch
    comes with whose crops are of these images.

    Ends early when `stop` is set. While the device works on a batch, the next one waits and the
    threads decode the groups after it.
    """
    running: deque[tuple[CropGroup, int, choose.Result]] = deque()
    found: list[np.ndarray] = []

    def collect() -> tuple[CropGroup, np.ndarray] | None:
        group, left, result = running.popleft()
        found.append(result())
        if left:
            return None
        count = len(group.images) * layout.crops_per_image
        values = np.concatenate(found)[:count]
        found.clear()
        group.release()
        return group, values.reshape(len(group.images), layout.crops_per_image, *values.shape[1:])

    for group in loader.groups(loader.parts(numbers)):
        image = np.repeat(np.asarray(group.images), layout.crops_per_image)
        image = np.pad(image, (0, len(group.pixels) - len(image)), mode="edge")
        batches = -(-len(group.images) * layout.crops_per_image // layout.batch_size)
        for number in range(batches):
            if stop.is_set():
                return
            mine = slice(number * layout.batch_size, (number + 1) * layout.batch_size)
            result = runtime.submit(group.pixels[mine], given(image[mine]))
            running.append((group, batches - 1 - number, result))
            if len(running) == IN_FLIGHT and (whole := collect()):
                yield whole
    while running and not stop.is_set():
        if whole := collect():
            yield whole


class UnitRows:
    """The rows of one unit while they come.

    Attributes:
      done: images that are there.
      rejected: those of them that could not be read.
    """

    def __init__(self, job: BankEmbedding, unit: int):
        self._job, self._settings, self._unit = job, job.settings, unit
        self._images = job.layout.images_of(unit)
        settings = job.settings
        full, total = images_result.unit_rows(settings, job.layout), len(job.bank) * self._per_image
        dtype = images_result.unit_dtype(settings)
        self._arrays = {
            name: np.zeros((min(full, total), job.dim), dtype) for name in settings.arrays()
        }
        self.done = 0
        self.rejected: list[Rejected] = []

    @property
    def _per_image(self) -> int:
        return len(self._job.grid) if self._settings.level == "crop" else 1

    def add(self, group: CropGroup, values: CropEmbeddings) -> None:
        """Takes the embeddings of a group."""
        if self._settings.level != "crop":
            values = values.mean(1, dtype=np.float64, keepdims=True)
        first = (group.images[0] - self._images[0]) * self._per_image
        for index, rows in enumerate(self._arrays.values()):
            rows[first : first + len(group.images) * self._per_image] = values[:, :, index].reshape(
                -1, rows.shape[1]
            )
        for image, reason in sorted(group.bad.items()):
            place = first + (image - group.images[0]) * self._per_image
            for rows in self._arrays.values():
                # what the buffer held before must not show
                rows[place : place + self._per_image] = 0
            name = image_name(self._job.bank, image)
            log.warning("%s (image %d) is left out: %s", name, image, reason)
            self.rejected.append({"image": image, "name": name, "reason": reason})
        self.done += len(group.images)

    def complete(self) -> bool:
        """Whether all rows are there."""
        return self.done == len(self._images)

    def reject(self, reason: str) -> units.Note:
        """Commits the unit without any of its images; returns its note."""
        self.rejected = [
            {"image": image, "name": image_name(self._job.bank, image), "reason": reason}
            for image in self._images
        ]
        return self.commit()

    def commit(self) -> units.Note:
        """Commits the unit, its rows as chunks of arrays; returns its note."""
        note: units.Note = {units.REJECTED: self.rejected}
        if not self._job.out.exists():  # else another has made the result
            check_begun(self._job.work, self._job.begun)
            self._job.notes.commit(
                str(self._unit),
                note,
                {f"{name}/c.{self._unit}.0": rows.tobytes() for name, rows in self._arrays.items()},
            )
        return note
