"""`prepare curate` over millions of images: `python -m bench.curate [--rows 1e6 1e7]`.

A bank of metadata alone (no pixels: --no_pixels), plates of 384 wells x 4 sites, 50 plates an
experiment, 2,000 perturbations, a tenth of the wells controls; embeddings of two models of sites,
float16 x 64. The peer does the same consistency test with pandas and NumPy as a notebook does:
reads all, means of wells, centres plates, random sets in each experiment. Each run is a process of
its own, alternating; printed are its peak of resident memory, CPU seconds and wall seconds. Beside
them stands the least there is to do: reading metadata and embeddings once. The peer, whose memory
grows with the table, is left out above --peer_up_to rows.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench import rounds

WELLS, SITES, PLATES, DIM = 384, 4, 50, 64  # of a plate, a well, an experiment, an embedding
PERTURBATIONS, DRAWS, CHUNK = 2000, 2000, 2**14
MODELS = ("mae", "wsl")
KEYS = ("experiment", "plate", "well")


def simulate(folder: Path, rows: int) -> int:
    """Writes the bank and its embeddings; returns the images."""
    from phenomjax.data import zarr_files
    from phenomjax.data.images.bank import create_bank, open_array, write_metadata
    from phenomjax.data.images.opening import open_bank

    plates = -(-rows // (WELLS * SITES))
    count = plates * WELLS * SITES
    bank = folder / "b.zarr"
    create_bank(bank, (count, 8, 8, 1), np.uint8, ("DNA",), chunk=8)
    wells = [f"{chr(65 + k // 24)}{k % 24 + 1:02d}" for k in range(WELLS)]
    names = np.array([f"P{k:05d}" for k in range(PERTURBATIONS)] + ["DMSO"])

    def treatments(experiment: int) -> np.ndarray:
        found = np.random.default_rng([1, experiment]).permutation(PLATES * WELLS) % PERTURBATIONS
        found = found.reshape(PLATES, WELLS)
        found[:, ::10] = PERTURBATIONS
        return found

    def parts():
        for first in range(0, plates, PLATES):
            number = min(PLATES, plates - first)
            given = np.repeat(treatments(first // PLATES)[:number].ravel(), SITES)
            columns = {
                "experiment": np.full(len(given), f"E{first // PLATES:04d}"),
                "plate": np.repeat([f"B{first + k:06d}" for k in range(number)], WELLS * SITES),
                "well": np.tile(np.repeat(wells, SITES), number),
                "site": np.tile([str(k + 1) for k in range(SITES)], number * WELLS),
                "perturbation": names[given],
                "perturbation_type": np.where(given < PERTURBATIONS, "crispr", "control"),
                "is_control": given == PERTURBATIONS,
            }
            from phenomjax.data.images.metadata import conform_metadata

            yield conform_metadata(pa.table({k: pa.array(v) for k, v in columns.items()}))

    write_metadata(bank, parts())
    fingerprint = open_bank(bank).fingerprint
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
    for model, name in enumerate(MODELS):
        path = folder / f"{name}.zarr"
        record = {"format": "embeddings", "version": 1, "level": "site"}
        zarr_files.write_group(path, record | {"bank": "b", "bank_fingerprint": fingerprint})
        array = path / "embeddings"
        shape, dims = (count, DIM), ("site", "dim")
        zarr_files.write_array(array, shape, np.dtype("float16"), dims, (CHUNK, DIM), codecs)
        store = open_array(array, json.loads((array / "zarr.json").read_text()))
        random = np.random.default_rng([2, model])
        effect = random.standard_normal((PERTURBATIONS + 1, DIM)).astype(np.float32)
        effect[PERTURBATIONS // 2 :] = 0
        for first in range(0, plates, PLATES):
            given = np.repeat(treatments(first // PLATES)[: plates - first].ravel(), SITES)
            values = random.standard_normal((len(given), DIM), np.float32) + effect[given]
            start = first * WELLS * SITES
            store[start : start + len(given)].write(values.astype(np.float16)).result()
        images = pa.table({"image": pa.array(np.arange(count))})
        pq.write_table(images, path / "metadata.parquet")
    return count


def read_all(folder: Path) -> None:
    """The least there is to do."""
    from phenomjax.data.embeddings import open_array

    with pq.ParquetFile(folder / "b.zarr/metadata.parquet") as file:
        for _ in file.iter_batches(columns=[*KEYS, "site", "perturbation", "is_control"]):
            pass
    for name in MODELS:
        array = open_array(folder / f"{name}.zarr/embeddings")
        for start in range(0, array.shape[0], 8 * CHUNK):
            array[start : min(start + 8 * CHUNK, array.shape[0])].read().result()


def peer(folder: Path) -> None:
    """With pandas and NumPy."""
    from scipy.stats import cauchy

    from phenomjax.data.embeddings import open_array

    columns = [*KEYS, "perturbation", "is_control"]
    frame = pd.read_parquet(folder / "b.zarr/metadata.parquet", columns=columns)
    kept = np.zeros(PERTURBATIONS, bool)
    for name in MODELS:
        values = open_array(folder / f"{name}.zarr/embeddings").read().result().astype(np.float32)
        table = pd.concat([frame, pd.DataFrame(values)], axis=1)
        table = table[~table["is_control"]]
        features = list(range(DIM))
        means = table.groupby([*KEYS, "perturbation"])[features].mean().reset_index()
        means[features] -= means.groupby("plate")[features].transform("mean")
        p: dict[str, list[float]] = {}
        for _, one in means.groupby("experiment"):
            numbers = one[features].to_numpy()
            numbers = numbers / numbers.std(0)
            numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
            rng = np.random.default_rng(0)
            nulls = dict[int, np.ndarray]()
            for label, rows in one.reset_index().groupby("perturbation").indices.items():
                count = len(rows)
                if count < 2:
                    continue
                if count not in nulls:
                    sets = [rng.choice(len(one), count, replace=False) for _ in range(DRAWS)]
                    lengths = np.array([(numbers[some].sum(0) ** 2).sum() for some in sets])
                    nulls[count] = np.sort((lengths - count) / (count * (count - 1)))
                cosine = ((numbers[rows].sum(0) ** 2).sum() - count) / (count * (count - 1))
                above = DRAWS - np.searchsorted(nulls[count], cosine)
                p.setdefault(label, []).append((1 + above) / (1 + DRAWS))
        for label, found in p.items():
            terms = cauchy.isf(np.minimum(found, 1 - 1 / (1 + DRAWS)))
            kept[int(label[1:])] |= cauchy.sf(terms.mean()) < 0.01
    (folder / "peer.json").write_text(json.dumps(kept.tolist()))


def work(name: str, folder: Path) -> None:
    """One run in a process of its own; prints what it took."""
    start = time.perf_counter()
    if name == "read":
        read_all(folder)
    elif name == "peer":
        peer(folder)
    else:
        from phenomjax.prepare.__main__ import main as prepare

        models = [str(folder / f"{model}.zarr") for model in MODELS]
        words = ["--bank", str(folder / "b.zarr"), "--embeddings", *models, "--no_pixels"]
        prepare(["curate", *words, "--out", str(folder / "s.parquet"), "--overwrite"])
    print(rounds.took(start))


def agree(folder: Path) -> str:
    """In how many perturbations ours and the peer decide alike."""
    table = pd.read_parquet(folder / "s_report/perturbations.parquet").set_index("perturbation")
    kept = np.array(json.loads((folder / "peer.json").read_text()))
    ours = table["kept"].reindex([f"P{k:05d}" for k in range(PERTURBATIONS)], fill_value=False)
    return f"{(kept == ours.to_numpy()).sum():,} of {len(kept):,} perturbations decided alike"


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer_up_to", type=float, default=1e6)
    parser.add_argument("--folder", default=None, help="for the banks, 300 MB a million images")
    args = parser.parse_args()
    print(rounds.header("", ("numpy", "pandas", "pyarrow"), ""))
    for rows in args.rows:
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            folder = Path(name)
            count = simulate(folder, int(rows))
            size = len(MODELS) * count * DIM * 2 / 1e6
            print(f"{count:,} images, {count // SITES:,} wells; embeddings {size:,.0f} MB")
            names = ["ours", "read"] + (["peer"] if rows <= args.peer_up_to else [])
            found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for _ in range(args.rounds):
                for one in names:
                    found[one].append(rounds.measured("bench.curate", one, str(folder)))
            rounds.print_medians(found)
            if "peer" in names:
                print(f"  {agree(folder)}")


if __name__ == "__main__":
    main()
