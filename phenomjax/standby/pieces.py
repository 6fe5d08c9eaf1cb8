"""Pieces of a run's state that a keeper holds in memory: bytes by step and name, and what is in
them.

A piece is what one process had to copy at a step. Two steps at most are held, the last whole one
and the one that is being written, so a keeper takes twice the size of its pieces.
"""

import mmap
import threading
from dataclasses import dataclass, field
from typing import Any

from phenomjax.system.memory import available

# of the memory that the host says is available, for all that is not ours
SHARE = 0.9


@dataclass
class Piece:
    """Bytes, and what they are.

    Attributes:
      header: said by the process that made it.
      data: its bytes, in pages of their own that go back to the host with the piece.
    """

    header: dict[str, Any]
    data: memoryview = field(repr=False)


class Pieces:
    """What a keeper holds. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[int, str], Piece] = {}
        self._free: list[memoryview] = []
        self.whole = -1  # newest step that all processes called whole

    def room(self, size: int) -> memoryview:
        """Memory for a piece: that of an old one of this size, or new.

        Raises:
          MemoryError: the host has not so much.
        """
        with self._lock:
            for i, each in enumerate(self._free):
                if len(each) == size:
                    return self._free.pop(i)
            self._free.clear()
        if size > SHARE * available():
            raise MemoryError(
                f"it has {available() / 2**30:.1f} GiB available and {size / 2**30:.1f} GiB more"
                " are wanted"
            )
        return memoryview(mmap.mmap(-1, max(size, 1)))[:size]

    def put(self, step: int, name: str, piece: Piece) -> None:
        """Takes a piece, once all of it is there."""
        with self._lock:
            self._held[step, name] = piece

    def get(self, step: int, name: str) -> Piece | None:
        """A piece, or None."""
        with self._lock:
            return self._held.get((step, name))

    def keep(self, step: int) -> None:
        """A step is whole: those before it go, and their memory is used again."""
        with self._lock:
            self.whole = max(self.whole, step)
            for old in [key for key in self._held if key[0] < step]:
                self._free.append(self._held.pop(old).data)

    def only(self, step: int) -> None:
        """A start continues from a step: nothing else is left; -1 for nothing at all."""
        with self._lock:
            self._held = {key: piece for key, piece in self._held.items() if key[0] == step}
            self._free.clear()

    def list(self) -> list[dict[str, Any]]:
        """What is there: {step, name, header} of each."""
        with self._lock:
            return [
                {"step": step, "name": name, "header": piece.header}
                for (step, name), piece in self._held.items()
            ]
