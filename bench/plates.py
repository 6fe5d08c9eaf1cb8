"""align and aggregate over more plates than memory should hold: `python -m bench.plates [--plates
24 240]`.

Simulated plates of 384 wells x 904 features (64 controls, 320 perturbations) in a Parquet file
each. The peer does the same with pandas and scikit-learn, as notebooks do: read all, PCA(128) on
the controls, center and scale on each plate's, mean of each perturbation. Each run is a process of
its own, alternating; printed are its peak of resident memory, CPU seconds of all its threads and
wall seconds, and by how much the two results differ. --alone leaves the peer out, whose memory
grows with the table.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from bench import rounds

WELLS, CONTROLS, FEATURES, DIMS = 384, 64, 904, 128
NAMES = [f"Cells_Texture_Measure_{k:03d}" for k in range(FEATURES)]


def simulate(folder: Path, plates: int) -> None:
    """Writes plates of one layout."""
    rng = np.random.default_rng(0)
    axes = 0.3 * rng.normal(size=(40, FEATURES)).astype(np.float32)
    effect = rng.normal(size=(WELLS - CONTROLS, 40)).astype(np.float32)
    idle: list[str | None] = [None] * CONTROLS
    treated = range(WELLS - CONTROLS)
    metadata = {
        "Metadata_broad_sample": [f"BRD-{k:05d}" for k in treated] + idle,
        "Metadata_Well": [f"{chr(65 + k // 24)}{k % 24 + 1:02d}" for k in range(WELLS)],
        "Metadata_gene": [f"G{k // 2}" for k in treated] + idle,
        "Metadata_control_type": [None for _ in treated] + ["negcon"] * CONTROLS,
    }
    for plate in range(plates):
        hidden = rng.normal(size=(WELLS, 40)).astype(np.float32)
        hidden[: len(effect)] += effect
        noise = rng.normal(size=(WELLS, FEATURES)) + rng.normal(size=FEATURES)
        values = pd.DataFrame((hidden @ axes + noise).astype(np.float32), columns=NAMES)
        known = pd.DataFrame({**metadata, "Metadata_Plate": f"BR{plate:08d}"})
        table = pd.concat([known, values], axis=1)
        table.to_parquet(folder / f"BR{plate:08d}.parquet", index=False)


def peer(command: str, files: list[str], out: str) -> None:
    """With pandas and scikit-learn."""
    frame = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    features = [name for name in frame.columns if not name.startswith("Metadata_")]
    known = frame.drop(columns=features)
    if command == "align":
        from sklearn.decomposition import PCA

        controls = (frame["Metadata_control_type"] == "negcon").to_numpy()
        values = frame[features].to_numpy(np.float64)
        pca = PCA(DIMS, svd_solver="covariance_eigh").fit(values[controls])
        scores = pd.DataFrame(pca.transform(values))
        plate = scores[controls].groupby(frame["Metadata_Plate"][controls])
        mean, spread = plate.mean(), plate.std(ddof=0)
        names = frame["Metadata_Plate"]
        scaled = (scores - mean.loc[names].to_numpy()) / spread.loc[names].to_numpy()
        scaled.columns = [f"feature_{k:04d}" for k in range(DIMS)]
        known = pd.concat([known, scaled.astype(np.float32)], axis=1)
    else:
        treated = frame[frame["Metadata_control_type"].isna()]
        found = treated.groupby("Metadata_broad_sample")[features].mean().astype(np.float32)
        known = found.reset_index()
    known.to_parquet(out, index=False)


def work(name: str, command: str, out: str, files: list[str]) -> None:
    """One run in a process of its own; prints what it took."""
    start = time.perf_counter()
    if name == "peer":
        peer(command, files, out)
    else:
        from phenomjax.maps.__main__ import main as maps

        maps([command, "--profiles", *files, "--out", out, "--overwrite"])
    print(rounds.took(start))


def difference(ours: Path, other: Path) -> float:
    """Largest difference of the two results, as a share of the largest number."""
    one, two = pd.read_parquet(ours), pd.read_parquet(other)
    keys = [k for k in ("Metadata_Plate", "Metadata_Well") if k in two] or "Metadata_broad_sample"
    one, two = one.sort_values(keys), two.sort_values(keys)
    names = [name for name in two.columns if not name.startswith("Metadata_")]
    x, y = one[names].to_numpy(np.float64), two[names].to_numpy(np.float64)
    return float(np.abs(x - y).max() / np.abs(y).max())


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:5], sys.argv[5:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plates", type=int, nargs="+", default=[24, 240])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default=None, help="for the plates, 2.2 MB each")
    parser.add_argument("--alone", action="store_true")
    args = parser.parse_args()
    packages = ("numpy", "pandas", "scikit-learn", "pyarrow")
    print(rounds.header("", packages, ""))
    for plates in args.plates:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            simulate(Path(folder), plates)
            files = sorted(map(str, Path(folder).glob("*.parquet")))
            size = plates * WELLS * FEATURES * 4 / 1e6
            print(f"{plates} plates, {plates * WELLS:,} wells x {FEATURES}: {size:,.0f} MB")
            for command in ("align", "aggregate"):
                names = ("ours",) if args.alone else ("ours", "peer")
                out = {name: Path(folder) / f"{command}.{name}" / "out.parquet" for name in names}
                found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
                for _ in range(args.rounds):
                    for name in names:
                        out[name].parent.mkdir(exist_ok=True)
                        words = [name, command, str(out[name]), *files]
                        found[name].append(rounds.measured("bench.plates", *words))
                rounds.print_medians(found, f"{command:9} ")
                if not args.alone:
                    apart = difference(out["ours"], out["peer"])
                    print(f"  {command:9} results differ by {apart:.1e}")


if __name__ == "__main__":
    main()
