"""Shared by all tests: simulated devices, one compilation cache, and the places of real data."""

import os
from pathlib import Path

import pytest

from tests.lab import ROOT

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# tests compile far more than they compute: half the time
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import jax

from tests.lab.slurm import slurm  # noqa: F401  a fixture

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data beside the repository; skips where it is not there."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder}, which is not on this machine")
    return folder


def pytest_collection_modifyitems(items):
    """What waits longest begins first: tests on SLURM sleep for minutes, in which the other workers
    compute.
    """
    items.sort(
        key=lambda item: ("slurm" not in item.fixturenames, item.path.name != "test_slurm.py")
    )


def pytest_addoption(parser):
    parser.addoption(
        "--full", action="store_true", help="kill tests with their full counts (hours)"
    )


@pytest.fixture(scope="session")
def count(request):
    """How often a kill test repeats: `count(3, 50)` is 3, or 50 with --full."""
    return lambda small, full: full if request.config.getoption("--full") else small
