"""Small files that pages read: `python -m tests.lab.shelf_files NAME`."""

import sys
from pathlib import Path

import numpy as np

from tests.lab import plates


def proteins(path: Path) -> None:
    """Forty random proteins, and one record that no model reads."""
    rng = np.random.default_rng(3)
    records = [
        f">P{k:05d} made up\n{''.join(rng.choice(list('ACDEFGHIKLMNPQRSTVWY'), 20 + k))}\n"
        for k in range(40)
    ]
    path.write_text("".join(records))


def profiles(path: Path) -> None:
    """Three plates of one layout, with columns and features named as CellProfiler's are."""
    plates.screen(3, dim=24).to_parquet(path)


if __name__ == "__main__":
    name = sys.argv[1]
    {"proteins.fasta": proteins, "profiles.parquet": profiles}[name](Path(name))
