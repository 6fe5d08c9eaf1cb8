"""The reading of the source files as their driver sees it: how far it is, that it is to stop, and
what could not be read.
"""

import contextlib
import threading
from collections.abc import Sequence

from phenomjax.data.sequences.sources import SequenceFile
from phenomjax.engine.units import Note, Notes, Unit
from phenomjax.prepare.sequences.pieces import HASH, STOP, PieceSettings, unit_of
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.log import Progress, counted

SECONDS = 0.5
SHOWN = 5


class Reading:
    """Runs a thread that tells the workers, wherever they are, when to stop (a file that they look
    for), and shows how far they are in files that are read from the beginning.

    Args:
      settings: of the job.
      sources: the files.
      notes: of the job.
      stop: ends the work when set.
    """

    def __init__(
        self,
        settings: PieceSettings,
        sources: Sequence[SequenceFile],
        notes: Notes,
        stop: threading.Event,
    ):
        self._settings, self._sources, self._stop = settings, sources, stop
        self._streams = {unit_of(one, 0).name: one for one in sources if not one.divided}
        self._seen = dict[int, int]()  # bytes that were read of each file that is in hand
        self._aside = list[str]()
        total = sum(source.size for source in sources)
        done = sum(self._size(name) for name in notes.names())
        self._progress = Progress("read", total // 1000, "kB", done=done // 1000)
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Reading":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _size(self, name: str) -> int:
        """Bytes of the file that a unit reads."""
        if name in self._streams:
            return self._streams[name].size
        kind, *numbers = name.split("-")
        if kind != "piece":
            return 0
        number, size = int(numbers[1]), self._settings.piece_bytes
        source = self._sources[int(numbers[0])]
        part = max(0, min(source.length - number * size, size))
        return part * source.size // max(1, source.length)

    def finished(self, name: str) -> None:
        """Counts a unit."""
        with self._lock:
            seen = self._seen.pop(self._streams[name].number, 0) if name in self._streams else 0
            self._progress.update((self._size(name) - seen) // 1000)

    def _watch(self) -> None:
        positions = self._settings.work / "positions"
        while not self._ended.wait(SECONDS):
            if self._stop.is_set():
                (self._settings.work / STOP).touch()
            for name in files.names(positions):
                with contextlib.suppress(OSError, ValueError), self._lock:
                    now, before = int((positions / name).read_text()), self._seen.get(int(name), 0)
                    if now > before:
                        self._progress.update((now - before) // 1000)
                        self._seen[int(name)] = now

    def set_aside(self, unit: Unit[tuple[SequenceFile, int]], reason: str) -> Note | None:
        """Remembers what ended every process that tried it; it stays undone."""
        source, number = unit.argument
        where = f"{source.path}"
        if number != HASH and source.divided:
            first = number * self._settings.piece_bytes
            last = min(first + self._settings.piece_bytes, source.length)
            where += f", the records that begin at bytes {first:,} to {last:,} of its text"
        elif number != HASH:
            pieces = files.names(self._settings.work / "pieces")
            read = sum(name.startswith(f"{source.number:06d}.") for name in pieces)
            where += f", after byte {read * self._settings.piece_bytes:,} of its text"
        self._aside.append(f"{where} ({reason})")
        return None

    def check(self) -> None:
        """Looks whether all was read that should be.

        Raises:
          UserError: something ended every process that tried to read it.
        """
        if not self._aside:
            return
        more = len(self._aside) - SHOWN
        raise UserError(
            f"{counted(len(self._aside), 'part')} of the files could not be read:"
            f" {'; '.join(self._aside[:SHOWN])}{f' and {more} more' if more > 0 else ''}. Nothing"
            " may be missing, so there is no bank; all else is read and kept. If processes were"
            " ended, it was most often for want of memory: give them more, or start fewer at a time"
            " (`jobs`). Mend that, or take what is there out of the file, and run the same command"
            " again.",
            EXIT_FAILED,
        )
