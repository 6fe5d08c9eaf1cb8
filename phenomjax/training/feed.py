"""Moves decoded batches to the devices in a thread, so that transfers overlap the step."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding


def to_devices(arrays: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Puts this process's rows on its devices as blocks of the global batch; on a CPU by a copy,
    because JAX would alias the buffer.
    """
    if jax.default_backend() == "cpu":
        arrays = {name: np.array(x) for name, x in arrays.items()}
    return {name: jax.make_array_from_process_local_data(sharding, x) for name, x in arrays.items()}


class DeviceFeed:
    """Iterator over (data step, device batch, item ids of this process).

    Args:
      loader: a `tasks.Loader`.
      data_step: maps an optimiser step to the position in the data.
      start_step: first optimiser step (0-based).
      stop_step: one past the last.
      sharding: of every leaf.
      depth: batches that wait on the devices.
    """

    def __init__(
        self,
        loader: Any,
        data_step: Callable[[int], int],
        start_step: int,
        stop_step: int,
        sharding: NamedSharding,
        depth: int = 2,
    ):
        self.waited = 0.0
        self._queue: queue.Queue = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run,
            args=(loader, data_step(start_step), stop_step - start_step, sharding),
            daemon=True,
        )
        self._thread.start()

    def _run(self, loader: Any, first: int, count: int, sharding: NamedSharding) -> None:
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

    def _put(self, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> tuple[int, dict[str, jax.Array], np.ndarray]:
        begin = time.perf_counter()
        item = self._queue.get()
        self.waited += time.perf_counter() - begin
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stops the thread; batches on the way are dropped."""
        self._stop.set()
        self._thread.join()
