"""All pieces of a job in their order, as those who do its later steps see them.

WORK/plan.json says how many pieces each source has; it is written when all are there. A unit reads
it once a process, and holds two numbers a source, nothing a piece.

The hashes of many pieces are merged, SHELF_PIECES neighbours into one file (`duplicates`): what is
merged together is a shelf. Of a few pieces nothing is merged, and each is a shelf of its own.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int32, UInt8

from phenomjax.prepare.sequences.pieces import PieceSettings
from phenomjax.system import files

DROPPED = 255  # a record that is not in the bank
PLAN = "plan.json"


@dataclass(frozen=True)
class PieceList:
    """The pieces, and the shelves that they stand on.

    Attributes:
      settings: of the job.
      counts: pieces of each source.
      names: of the sources, as the bank calls them.
    """

    settings: PieceSettings
    counts: tuple[int, ...]
    names: tuple[str, ...]

    @staticmethod
    def write(work: Path, counts: Sequence[int], names: Sequence[str]) -> None:
        """Writes the plan of a job into its work folder."""
        files.write_json(work / PLAN, {"pieces": list(counts), "names": list(names)})

    @staticmethod
    def read(settings: PieceSettings) -> "PieceList":
        """What `write` wrote."""
        return _read(settings, (settings.work / PLAN).stat().st_mtime_ns)

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.counts, dtype=np.int64)

    def __len__(self) -> int:
        """Number of pieces."""
        return int(self._ends[-1])

    def owner(self, index: int) -> int:
        """The number of the source of a piece."""
        return int(np.searchsorted(self._ends, index, side="right"))

    def folder(self, index: int) -> Path:
        """Where a piece is."""
        owner = self.owner(index)
        return self.settings.piece(owner, index - int(self._ends[owner]) + self.counts[owner])

    def folders(self) -> Iterator[Path]:
        """Where all pieces are, in order."""
        return map(self.folder, range(len(self)))

    @property
    def merged(self) -> bool:
        """Whether hashes are merged; of a few pieces that would only be more work."""
        return len(self) > self.settings.shelf_pieces

    @property
    def shelves(self) -> int:
        """Number of shelves."""
        return -(-len(self) // self.settings.shelf_pieces) if self.merged else len(self)

    def on_shelf(self, shelf: int) -> range:
        """The pieces of a shelf."""
        size = self.settings.shelf_pieces if self.merged else 1
        return range(shelf * size, min((shelf + 1) * size, len(self)))


@functools.lru_cache(4)
def _read(settings: PieceSettings, _: int) -> PieceList:
    found = files.read_json(settings.work / PLAN)
    return PieceList(settings, tuple(found["pieces"]), tuple(found["names"]))


def read_lengths(piece: Path) -> Int32[np.ndarray, "records"]:
    """int32 [records]: lengths of a piece's records without boundary tokens."""
    return read_records(piece)["length"].combine_chunks().to_numpy()


def read_records(piece: Path) -> pa.Table:
    """The records of a piece, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(piece / "records.arrow"))).read_all()


def read_wanted(piece: Path) -> UInt8[np.ndarray, "records"]:
    """uint8 [records]: the split of each record, or DROPPED."""
    chosen = piece / "chosen"  # written by the clustering, where there is one
    return np.fromfile(chosen if chosen.is_file() else piece / "wanted", np.uint8)


def write_arrays(target: Path, *arrays: np.ndarray) -> None:
    """Writes arrays one after the other into a file, whole or not at all."""
    with files.replacing(target, shared=True) as partial, partial.open("wb") as file:
        for array in arrays:
            file.write(array.tobytes())
