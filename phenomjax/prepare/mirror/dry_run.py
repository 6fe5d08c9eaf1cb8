"""What a mirror would copy, and how long it would take."""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from phenomjax.data import store
from phenomjax.prepare.mirror import copying, job, planning
from phenomjax.prepare.mirror.copying import Ends
from phenomjax.prepare.mirror.ends.places import WHOLE, Entry
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED
from phenomjax.system.log import counted

log = logging.getLogger("phenomjax")
SAMPLE_SECONDS = 5.0
SAMPLE_BYTES = 256 << 20


def tell(ends: Ends, wanted: Callable[[str], bool] | None, lines: Sequence[float]) -> int:
    """Lists both ends, reads a sample of the source, and copies nothing.

    Args:
      ends: of the mirror.
      wanted: which keys.
      lines: Gb/s to tell days for.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        counts = job.plan(work, ends, wanted)
        rate = _measured(ends, work)
    log.info(
        "%s holds %s, %s; to copy: %s, %s; there and verified: %s",
        store.url(ends.source),
        counted(counts["objects"], "object"),
        _size(counts["bytes"]),
        counted(counts["copy"], "object"),
        _size(counts["copy_bytes"]),
        counted(counts["whole"], "object"),
    )
    if counts["bad"]:
        log.warning("%s cannot be copied", counted(counts["bad"], "object"))
    if rate:
        log.info(
            "at %.0f MB/s, the rate at which one process here reads the source now: %s",
            rate / 1e6,
            _days(counts["copy_bytes"], rate),
        )
    for line in lines:
        log.info("over a line of %g Gb/s: %s", line, _days(counts["copy_bytes"], line * 1e9 / 8))
    return EXIT_FAILED if counts["bad"] else EXIT_DONE


def _measured(ends: Ends, work: Path) -> float:
    """Bytes a second of reading, with the threads of a worker, for some seconds."""
    source, _ = ends.open()
    start = time.monotonic()

    def read(row: planning.Planned) -> int:
        if time.monotonic() - start > SAMPLE_SECONDS or row.stamp == "folder":
            return 0
        entry, got = Entry(row.key, row.bytes, row.stamp), 0
        for block in [source.read(entry)] if row.bytes <= WHOLE else source.blocks(entry):
            got += len(block)
            if time.monotonic() - start > SAMPLE_SECONDS:
                break
        return got

    group = next(planning.groups(work, last=False), None)
    if group is None:
        return 0.0
    rows, total = list[planning.Planned](), 0
    for row in copying.planned(work, group):
        rows.append(row)
        total += row.bytes
        if total > SAMPLE_BYTES:
            break
    with ThreadPoolExecutor(copying.THREADS) as pool:
        got = sum(pool.map(read, rows))
    return got / max(time.monotonic() - start, 1e-9)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} PB"


def _days(count: float, rate: float) -> str:
    seconds = count / rate
    if seconds < 120:
        return f"{seconds:.1f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 172800 else f"{seconds / 86400:.1f} days"
