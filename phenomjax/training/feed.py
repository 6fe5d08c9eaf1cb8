"""Moves decoded batches to the devices in a thread, so that transfers overlap the step."""

import queue
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Int, Shaped

from phenomjax.system.errors import UserError
from phenomjax.tasks import Loader

HostBatch = Mapping[str, Shaped[np.ndarray, "rows ..."]]
DeviceBatch = dict[str, Shaped[Array, "rows ..."]]
ItemIds = Int[np.ndarray, "rows"]
Fed = tuple[int, DeviceBatch, ItemIds]


def to_devices(arrays: HostBatch, sharding: NamedSharding) -> DeviceBatch:
    """Puts this process's rows on its devices as blocks of the global batch; on a CPU by a copy,
    because JAX would alias the buffer.
    """
    if jax.default_backend() == "cpu":
        arrays = {name: np.array(x) for name, x in arrays.items()}
    return {name: jax.make_array_from_process_local_data(sharding, x) for name, x in arrays.items()}


def check_same_data(loader: Loader, saved: Mapping[str, str], workdir: Path, step: int) -> None:
    """Raises UserError when the data are not those that a checkpoint was trained on.

    Args:
      loader: of the data as they are now.
      saved: their fingerprints when the checkpoint was written.
      workdir: of the run.
      step: of the checkpoint.
    """
    now = loader.fingerprints
    # In order: a bank may have been renamed, and another one may stand in its place.
    pairs = zip(saved.items(), now.values(), strict=False)
    changed = [name for (name, value), found in pairs if found != value]
    if changed or len(saved) != len(now):
        raise UserError(
            f"The data changed since {workdir} was saved at step {step}:"
            f" {', '.join(changed) or 'another number of banks'} (checksum of metadata differs). A"
            " run continues on the data it began with: restore that bank, or start a new --workdir,"
            f" with --config.init_from={workdir} to begin from these parameters."
        )


class DeviceFeed:
    """Iterator over (position in the data, device batch, item ids of this process).

    Args:
      loader: makes the batches.
      first: position of the first batch.
      count: how many there are.
      sharding: of every leaf.
      depth: batches that wait on the devices.
    """

    def __init__(
        self, loader: Loader, first: int, count: int, sharding: NamedSharding, depth: int = 2
    ):
        self._queue: queue.Queue[Fed | BaseException] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run,
            args=(loader, first, count, sharding),
            daemon=True,
        )
        self._thread.start()

    def _run(self, loader: Loader, first: int, count: int, sharding: NamedSharding) -> None:
        try:
            with loader.iterate(first) as batches:
                for position, batch in zip(range(first, first + count), batches, strict=False):
                    ids = np.array(batch.arrays[loader.item_key])
                    arrays = jax.block_until_ready(to_devices(batch.arrays, sharding))
                    batch.release()
                    if not self._put((position, arrays, ids)):
                        return
        except BaseException as error:  # handed to the training thread, which raises it
            self._put(error)

    def _put(self, item: Fed | BaseException) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Fed]:
        return self

    def __next__(self) -> Fed:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stops the thread; batches on the way are dropped."""
        self._stop.set()
        self._thread.join()
