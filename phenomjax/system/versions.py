"""Versions of what determines a result."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import phenomjax


def versions() -> dict[str, str]:
    """Versions of what determines a result, and the git revision of the source."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorstore", "numpy")
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    found = {name: importlib.metadata.version(name) for name in names}
    return {
        "phenomjax": phenomjax.__version__,
        **found,
        "python": platform.python_version(),
        "git": git.stdout.strip() or "none",
    }
