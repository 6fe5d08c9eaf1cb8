"""Entries in the order of their keys, however many there are: what fits stays in memory, the rest
goes through sorted runs on the disk.
"""

import contextlib
import heapq
import itertools
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

Item = TypeVar("Item")
RUN = 200_000  # items that are sorted in memory


def sorted_runs(
    items: Iterable[Item], key: Callable[[Item], Any], scratch: Path, run: int = RUN
) -> Iterator[Item]:
    """Yields items sorted by a key.

    Args:
      items: in any order.
      key: of an item; items can be pickled.
      scratch: a folder for the runs, where there is more than one.
      run: items in memory.
    """
    items = iter(items)
    first = sorted(itertools.islice(items, run), key=key)
    if len(first) < run:
        yield from first
        return
    with contextlib.ExitStack() as stack:
        scratch.mkdir(parents=True, exist_ok=True)
        runs: list[Iterator[Item]] = []
        while first:
            file = stack.enter_context(tempfile.TemporaryFile(dir=scratch))
            for start in range(0, len(first), 1000):
                pickle.dump(first[start : start + 1000], file, protocol=5)
            file.seek(0)
            runs.append(_of_run(file))
            first = sorted(itertools.islice(items, run), key=key)
        yield from heapq.merge(*runs, key=key)


def _of_run(file: IO[bytes]) -> Iterator[Any]:
    while True:
        try:
            yield from pickle.load(file)
        except EOFError:
            return
