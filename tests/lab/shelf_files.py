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


def cpjump1(folder: Path) -> None:
    """The same as files of the names that three plates of CPJUMP1 have."""
    folder.mkdir()
    for k, (_, rows) in enumerate(plates.screen(3, dim=24).groupby("Metadata_Plate")):
        rows.to_csv(folder / f"BR0011701{k}.csv.gz", index=False)


def labelled(path: Path) -> None:
    """Sixty proteins of two places that differ in their composition."""
    rng = np.random.default_rng(5)
    rows = ["id,sequence,place"]
    for k in range(60):
        letters = "ACDEFGHIKLMNPQRSTVWY" + ("KKKRRR" if k % 2 else "LLLIII")
        sequence = "".join(rng.choice(list(letters), 40))
        rows.append(f"P{k},{sequence},{'nucleus' if k % 2 else 'membrane'}")
    path.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    {
        "proteins.fasta": proteins,
        "profiles.parquet": profiles,
        "mine.csv": labelled,
        "cpjump1": cpjump1,
    }[path.name](path)
