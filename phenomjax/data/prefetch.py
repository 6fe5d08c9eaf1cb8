"""Batches decoded ahead by threads into a ring of buffers that are used again: no copies, no
growth, no hang.
"""

import functools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

Task = Callable[[], None]


class LoadedBatch:
    """One batch of this process. Its arrays are valid until `release`, which gives its buffer back
    to the ring.

    Attributes:
      step: which step it belongs to.
      arrays: the batch; "pixels" lies in the ring.
    """

    def __init__(self, step: int, arrays: dict[str, np.ndarray], give_back: Task):
        self.step, self.arrays, self._give_back = step, arrays, give_back

    def release(self) -> None:
        """Call it once the arrays are copied to the device (block until they are); twice does no
        harm.
        """
        give_back, self._give_back = self._give_back, _nothing
        give_back()


class Prefetcher:
    """Iterates over the batches from `start_step` on. Use it in a `with`: leaving it stops the
    threads.

    Args:
      plan: for a step and a buffer, the arrays that lie in it and the tasks that fill them, in any
        order.
      start_step: the first step.
      stop_step: the step before which it ends; None = never.
      buffer_bytes: size of one buffer.
      threads: that run the tasks.
      prefetch_batches: batches that are decoded ahead.

    Attributes:
      buffers: the most there will be: those decoded ahead, one in use, and one on its way to the
        device.
    """

    def __init__(
        self,
        plan: Callable[[int, np.ndarray], tuple[dict[str, np.ndarray], Sequence[Task]]],
        start_step: int,
        stop_step: int | None = None,
        *,
        buffer_bytes: int,
        threads: int,
        prefetch_batches: int,
    ):
        self._plan, self._step, self._stop, self._buffer_bytes = (
            plan,
            start_step,
            stop_step,
            buffer_bytes,
        )
        self._ahead, self.buffers = prefetch_batches, buffers_needed(prefetch_batches)
        self._free: list[np.ndarray] = []
        self._made, self._closed = 0, False
        self._pending: deque[tuple[LoadedBatch, list[Future]]] = deque()
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="crops")
        # Without a `with`, the threads end when the iterator is forgotten; they never keep the
        # interpreter alive.
        self._finalizer = weakref.finalize(
            self, self._pool.shutdown, wait=False, cancel_futures=True
        )
        self._top_up()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self) -> LoadedBatch:
        """The next batch; waits for it. Errors of the threads are raised here, and end the
        iteration.
        """
        with self._lock:
            if self._closed or (not self._pending and self._step == self._stop):
                raise StopIteration
            if not self._pending:
                raise RuntimeError(
                    f"all {self.buffers} batch buffers are in use: release() a batch before the"
                    " next"
                )
            batch, futures = self._pending.popleft()
            self._top_up()
        try:
            for future in futures:
                future.result()
        except BaseException:
            self.close()
            raise
        return batch

    def wait_until_full(self) -> None:
        """Waits until everything that can be decoded ahead is."""
        with self._lock:
            futures = [future for _, batch_futures in self._pending for future in batch_futures]
        wait(futures)

    def close(self) -> None:
        """Stops the threads: those at work finish the few crops they are at, nothing new is
        started.
        """
        with self._lock:
            self._closed = True
            self._pending.clear()
        self._finalizer.detach()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _top_up(self) -> None:
        while len(self._pending) < self._ahead and (self._free or self._made < self.buffers):
            if self._closed or self._step == self._stop:
                return
            if not self._free:
                self._free.append(_new_buffer(self._buffer_bytes))
                self._made += 1
            buffer = self._free.pop()
            arrays, tasks = self._plan(self._step, buffer)
            batch = LoadedBatch(self._step, arrays, functools.partial(self._give_back, buffer))
            self._pending.append((batch, [self._pool.submit(task) for task in tasks]))
            self._step += 1

    def _give_back(self, buffer: np.ndarray) -> None:
        with self._lock:
            self._free.append(buffer)
            self._top_up()


def buffers_needed(prefetch_batches: int) -> int:
    """How many buffers a Prefetcher makes at most."""
    return prefetch_batches + 2


def _new_buffer(size: int) -> np.ndarray:
    # 16 bytes off a multiple of 64: on a CPU, jax takes a buffer that is aligned to 64 bytes as its
    # own array instead of copying it, and would see the next batch being decoded into it.
    raw = np.empty(size + 64, np.uint8)
    start = (16 - raw.ctypes.data) % 64
    return raw[start : start + size]


def _nothing() -> None:
    pass
