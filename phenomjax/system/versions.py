"""Versions of what determines a result."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import phenomjax


def versions() -> dict[str, str]:
    """Versions of what determines a result, and the git revision of the source."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorstore", "numpy")
    root = Path(phenomjax.__file__).parent.parent
    # An installed package has no revision; one of a repository around it would be another's.
    git = subprocess.run(
        ["git", f"--git-dir={root / '.git'}", "describe", "--always", "--dirty"],
        cwd=root,
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
