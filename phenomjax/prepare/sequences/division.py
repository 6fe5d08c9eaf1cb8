"""Compressed sources that can be read from the middle, divided into the same pieces as if they were
plain: where their blocks are is found first, by units that look at the blocks' heads.
"""

import functools
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from phenomjax.data.compressed import Damaged
from phenomjax.data.divisible import Start, blocks_between, zstd_frames
from phenomjax.data.sequences.sources import SequenceFile
from phenomjax.engine.units import Executor, Note, Notes, Unit
from phenomjax.prepare.sequences.pieces import PieceSettings, unit_of
from phenomjax.system import files

log = logging.getLogger("phenomjax")
RANGE_BYTES = 2**27  # of a BGZF file, whose blocks are found by one unit
SMALL = 4  # a compressed file of less than a fourth of a piece is about one piece
LONG_BYTES = 2**30  # of a file that one process reads, which is told


class Division:
    """The sources of a job, with what is known of the blocks of compressed ones.

    Args:
      settings: of the job.
      sources: the files.

    Attributes:
      sources: the same, those that are divided with the size of their text.
    """

    def __init__(self, settings: PieceSettings, sources: list[SequenceFile]):
        self.sources, self._settings = list(sources), settings
        self._starts: dict[int, np.ndarray] = {}  # of each source, int64 [starts, 2], see Start

    def find(self, executor: Executor, stop: threading.Event) -> None:
        """Finds the blocks of those sources that are worth it; does nothing for others."""
        work, notes = self._settings.work, Notes(self._settings.work)
        found = [
            source
            for source in self.sources
            if source.blocks
            and source.size * SMALL > self._settings.piece_bytes
            # read from its beginning before
            and not notes.is_committed(unit_of(source, 0).name)
        ]
        look = functools.partial(look_at_blocks, self._settings)
        units = (unit for source in found for unit in _units(source))
        for _ in executor.run(work, look, units, stop, at_most=max(1, len(found))):
            pass
        for source in found if not stop.is_set() else ():
            self._take(source, notes)
        for source in self.sources:
            if source.compressed and not source.divided and source.size > LONG_BYTES:
                log.warning(
                    "%s (%s) is read from its beginning by one process, however many there are."
                    " Written by `bgzip` it would be divided among them.",
                    source.path,
                    files.in_units(source.size),
                )

    def _take(self, source: SequenceFile, notes: Notes) -> None:
        if source.blocks == "zstd":
            starts = zstd_frames(source.path)
        else:
            read = [notes.read(unit.name) for unit in _units(source)]
            ends = np.cumsum([0, *(note.get("text", 0) for note in read)])
            places = [(note.get("first", -1), ends[i]) for i, note in enumerate(read)]
            places = [place for place in places if place[0] >= 0]
            damaged = any("damaged" in note for note in read)
            starts = None if damaged else np.array([*places, (source.size, ends[-1])], np.int64)
        if starts is None or not starts[-1, 1]:  # what is wrong is told by who reads it
            return
        self._starts[source.number] = starts
        self.sources[source.number] = replace(source, text=int(starts[-1, 1]))
        log.info(
            "%s: %s, divided into %d pieces",
            source.path,
            "BGZF" if source.blocks == "bgzf" else "Zstandard with a table of its frames",
            self.count(self.sources[source.number]),
        )

    def count(self, source: SequenceFile) -> int:
        """Units of a source: its pieces, where it is divided."""
        if not source.divided:
            return 1
        return max(1, -(-source.length // self._settings.piece_bytes))

    def units(self) -> Iterator[Unit[tuple[SequenceFile, int]]]:
        """The units that read the sources, the longest first."""
        for source in sorted(self.sources, key=lambda source: (source.divided, -source.size)):
            starts = self._starts.get(source.number)
            for number in range(self.count(source)):
                if starts is not None:
                    # the byte before a piece is looked at, too
                    offset = max(number * self._settings.piece_bytes - 1, 0)
                    place = int(np.searchsorted(starts[:-1, 1], offset, side="right")) - 1
                    packed, text = starts[place].tolist()
                    yield unit_of(replace(source, start=Start(packed, text)), number)
                else:
                    yield unit_of(source, number)


def _units(source: SequenceFile) -> Iterator[Unit[tuple[SequenceFile, int]]]:
    """Those that look at the blocks of a BGZF file."""
    if source.blocks == "bgzf":
        for number in range(-(-source.size // RANGE_BYTES)):
            yield Unit(f"blocks-{source.number}-{number}", (source, number))


def look_at_blocks(settings: PieceSettings, work: Path, task: tuple[SequenceFile, int]) -> Note:
    """Finds the first block of a range of a BGZF file, and the size of its text (a unit
    function).
    """
    source, number = task
    start = number * RANGE_BYTES
    try:
        found = blocks_between(source.path, start, min(start + RANGE_BYTES, source.size))
    except Damaged as error:
        return {"damaged": str(error)}
    return {"first": found.first, "text": found.text}
