"""The two ends of a mirror: what is there, and how it is read and written. `local.py` and
`stores.py` have them; `opening.py` tells which.

A place is a folder, or a single file under a key of its own. Its entries come sorted by key, whole
keys compared as object stores do, so that two places can be compared in one pass.
"""

import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, TypeVar

from phenomjax.prepare.mirror.ends.digests import Digests

if TYPE_CHECKING:
    from obstore import Bytes

WHOLE = 16 << 20  # objects up to this size are in memory as a whole; larger ones come in pieces
PIECE = 1 << 20  # bytes of a large object that are taken at a time
Buffer = bytes | memoryview
Content: TypeAlias = "bytes | Bytes"  # of a small object, as its client has it in memory
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # characters that clients of stores refuse
# pieces of a large object from a byte on
Blocks = Callable[[int], Iterator[Buffer]]
Result = TypeVar("Result")
# work that pauses where other objects of a bundle should come as far before it goes on
Steps: TypeAlias = Generator[None, None, Result]


class Entry(NamedTuple):
    """Something in a place.

    Attributes:
      key: relative, "/" between folders and at the end of an empty folder.
      bytes: its size.
      stamp: what changes when its content does: ETag or time.
      state, detail: of manifest.Row, where it cannot be copied.
    """

    key: str
    bytes: int
    stamp: str
    state: str = ""
    detail: str = ""


class Trouble(Exception):
    """One object cannot be copied, or not now.

    Attributes:
      state, detail: of manifest.Row.
      target: stamp of what we wrote there, which is wrong; "" where nothing was.
    """

    def __init__(self, state: str, detail: str, target: str = ""):
        super().__init__(state, detail, target)
        self.state, self.detail, self.target = state, detail, target


class Taken(Exception):
    """Something has this name in the target already."""


class Place(Protocol):
    """One end of a mirror.

    Attributes:
      path: of the folder, or of the single file.
      name: for people.
      sure: bytes arrive from it as they are there: a disk, or a connection with TLS.
      has_folders: also empty ones.
      together: objects that are best written a step of each at a time.
      lists: tells what is there; a web server needs a manifest, or descriptions of a Zarr.
    """

    path: Path
    name: str
    sure: bool
    has_folders: bool
    together: int
    lists: bool

    def entries(self, scratch: Path) -> Iterator[Entry]:
        """What is there, sorted by key."""
        ...

    def entry(self, key: str) -> Entry | None:
        """One of them; None where it is not there."""
        ...

    def flush(self) -> None:
        """Makes what was written permanent."""
        ...

    def tidy(self) -> None:
        """Deletes what killed processes have left here in the middle of writing."""
        ...

    def read(self, entry: Entry) -> Content:
        """All of a small one. Raises Trouble."""
        ...

    def blocks(self, entry: Entry, start: int = 0) -> Iterator[Buffer]:
        """A large one in pieces of any size, from a byte on. Raises Trouble."""
        ...

    def parts(self, size: int) -> list[int]:
        """Sizes of parts of which digests can prove an upload of these bytes."""
        ...

    def write(self, key: str, data: Content, digests: Digests, replace: bool) -> Steps[str]:
        """Writes a small one, verified; returns its stamp. Raises Taken, Trouble."""
        ...

    def write_large(
        self, entry: Entry, blocks: Blocks, etags: list[str], replace: bool
    ) -> tuple[str, Digests]:
        """Writes a large one, verified; returns stamp and digests, which can prove the ETags of
        its source, too.
        """
        ...


def check_name(key: str, on_disk: bool) -> None:
    """Raises Trouble for a key that would leave the folder, or that a disk or a client of a store
    cannot have.
    """
    parts = {"", ".", ".."} & set(key.removesuffix("/").split("/"))
    if parts or not (on_disk or CONTROL.search(key) is None):
        raise Trouble("failed", "has a name that no file or object can have there")
