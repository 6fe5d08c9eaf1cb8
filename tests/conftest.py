"""Shared by all tests: simulated devices, one compilation cache, the places of real data, and what
each folder takes.
"""

import ctypes
import gc
import importlib.metadata
import itertools
import logging
import os
import resource
import sys
from pathlib import Path

import pytest
import threadpoolctl

from tests.lab import ROOT, warm

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
# Small programs too: there are thousands, and the workers and the processes they start share them.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Tests compile far more than they compute: this halves the time, and without the emitters of
# fusions a small program takes half of what is left.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if importlib.metadata.version("jaxlib").startswith("0.10."):  # an unknown flag ends a process
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("MPLBACKEND", "agg")
# Workers and what they start share the processors: more threads of BLAS would wait in loops.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Or every process that a test starts would compile all the Python that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import jax

from tests.lab.browser import browser, open_page  # noqa: F401  fixtures
from tests.lab.servers import gcs, s3, s3_strict, web  # noqa: F401  fixtures
from tests.lab.slurm import slurm  # noqa: F401  a fixture

jax.config.update("jax_num_cpu_devices", 8)
# Or every worker would rewrite the assertions of all tests, which takes it five seconds.
sys.dont_write_bytecode = False
warm.collect_seldom()
warm.share_contexts()
threadpoolctl.threadpool_limits(1)  # of what a plugin loaded before
LARGEST_WORKER, MOST_GROWTH = 2.0 * 2**30, 0.5 * 2**30
PAGE = resource.getpagesize()


def pytest_collection_finish():
    """What was imported stays to the end, and no collection looks at it again."""
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data beside the repository; skips where it is not there."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder}, which is not on this machine")
    return folder


def pytest_collection_modifyitems(items):
    """What waits longest begins first: tests on SLURM sleep for minutes, in which the other workers
    compute; then whatever starts processes, so that no long test is left for the end.
    """
    items.sort(
        key=lambda item: (
            "slurm" not in item.fixturenames,
            item.path.name != "test_slurm.py",
            item.get_closest_marker("slow") is None,
        )
    )


def pytest_addoption(parser):
    parser.addoption(
        "--full", action="store_true", help="kill tests with their full counts (hours)"
    )


@pytest.fixture(scope="session")
def count(request):
    """How often a kill test repeats: `count(3, 50)` is 3, or 50 with --full."""
    return lambda small, full: full if request.config.getoption("--full") else small


@pytest.fixture(autouse=True)
def _log_as_it_was_imported():
    """A door that ran in this process before, here or in a fixture, has set level and handlers."""
    log = logging.getLogger("phenomjax")
    for handler in log.handlers:
        handler.close()
    log.handlers.clear()
    log.propagate = True
    for each in (log, log.getChild("process")):
        each.setLevel(logging.NOTSET)


_limit = [LARGEST_WORKER]


@pytest.fixture(autouse=True)
def _small_worker():
    """Every compiled program holds a megabyte or more as long as JAX remembers it: a worker that
    has grown forgets them all, and hands the memory back. What libraries keep is not asked for
    again after every test.
    """
    yield
    if _resident() > _limit[0]:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        _limit[0] = max(LARGEST_WORKER, _resident() + MOST_GROWTH)


def _resident():
    """Bytes of memory that this process holds; 0 where nobody says it."""
    statistics = Path("/proc/self/statm")  # Linux has it
    return int(statistics.read_text().split()[1]) * PAGE if statistics.exists() else 0


def _cpu_seconds():
    """CPU time of this process and of the children that ended."""
    return sum(os.times()[:4]) + warm.ended["cpu_seconds"]


_measured = [_cpu_seconds()]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Every report says what CPU time passed since the one before, and how large the worker is."""
    report = yield
    now = _cpu_seconds()
    report.cpu_seconds, _measured[0] = now - _measured[0], now
    report.peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return report


def pytest_terminal_summary(terminalreporter):
    """Prints what each folder took; every file's with -v."""
    depth = 3 if terminalreporter.config.option.verbose > 0 else 2
    rows, peaks = {}, {}
    for report in itertools.chain(*terminalreporter.stats.values()):
        if not hasattr(report, "cpu_seconds"):
            continue
        place = "/".join(report.nodeid.partition("::")[0].split("/")[:depth])
        row = rows.setdefault(place, [0, 0.0, 0.0])
        row[0] += report.when == "call"
        row[1] += report.duration
        row[2] += report.cpu_seconds
        worker = getattr(report, "worker_id", "alone")
        peaks[worker] = max(peaks.get(worker, 0), report.peak_bytes)
    if not rows:
        return
    terminalreporter.section("time of each folder")
    terminalreporter.write_line("  tests   seconds  CPU seconds with children")
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    for place, row in [*sorted(rows.items(), key=lambda item: -item[1][2]), ("all", total)]:
        terminalreporter.write_line(f"{row[0]:7d}{row[1]:10.1f}{row[2]:13.1f}  {place}")
    for worker, peak in sorted(peaks.items()):
        terminalreporter.write_line(f"largest memory of worker {worker}: {peak / 2**30:.2f} GiB")
