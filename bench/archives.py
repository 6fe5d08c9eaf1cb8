"""Banks of 1, 10 and 100 million images: time to open, memory, and CPU time a crop, against an
earlier commit; and thousands of banks in one mix, with and without an index.

    python -m bench.archives                     # about 8 minutes, 2 GB in a temporary folder
    python -m bench.archives --millions 1

`bench.loader` runs it too. Metadata is made up (plates of 384 wells with 9 sites, sorted; source
and checksum are empty, which spares the earlier commit most of its memory); 16 files of pixels
stand for all images. Each figure is of a process of its own; the two commits take turns.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from phenomjax.data.images import archive, bank
from phenomjax.data.images.loading.loader import ImageLoader
from phenomjax.data.images.metadata import ROW_GROUP, conform_metadata
from phenomjax.data.images.opening import open_banks

EARLIER = "61a0e6d"  # the last commit that read metadata whole
SIZE, DEPTH, SHARDS = 512, 6, 16
WELLS = [f"{chr(65 + row)}{column + 1:02d}" for row in range(16) for column in range(24)]
PLATE = 9 * len(WELLS)  # images
BANKS = 3000
PROBE = Path(__file__).with_name("archive_probe.py")


def rows(start: int, stop: int) -> pa.Table:
    """Made-up metadata of the images `start` to `stop`."""
    numbers = np.arange(start, stop)
    plate, well = numbers // PLATE, numbers % PLATE // 9

    def texts(codes: np.ndarray, name: str) -> pa.Array:
        values, places = np.unique(codes, return_inverse=True)
        names = pa.array([name.format(value) for value in values.tolist()])
        return pa.DictionaryArray.from_arrays(places.astype(np.int32), names).cast(pa.string())

    return conform_metadata(
        pa.table(
            {
                "experiment": texts(plate // 50, "experiment {:04d}"),
                "plate": texts(plate, "BR{:08d}"),
                "well": pa.array(np.array(WELLS, object)[well]),
                "site": texts(numbers % 9 + 1, "{}"),
                "cell_type": texts(0 * plate, "U2OS"),
                "perturbation": texts(well + len(WELLS) * (plate % 50), "compound {:05d}"),
                "perturbation_type": texts(0 * plate, "compound"),
                "concentration": pa.array(well % 8 * 1.5),
                "is_control": pa.array(well < 16),
            }
        )
    )


def write_archive(path: Path, images: int, images_per_shard: int = 1) -> Path:
    """A bank of so many images, without any pixels; returns its path."""
    shape, names = (images, SIZE, SIZE, DEPTH), [f"channel {i}" for i in range(DEPTH)]
    bank.create_bank(path, shape, "uint8", names, images_per_shard=images_per_shard)
    starts = range(0, images, ROW_GROUP)
    bank.write_metadata(path, (rows(start, min(start + ROW_GROUP, images)) for start in starts))
    return path


def write_shards(folder: Path, images_per_shard: int) -> Path:
    """A few files of pixels; returns their folder."""
    rng = np.random.default_rng(0)
    pixels = (
        rng.poisson(40, (SIZE, SIZE, DEPTH)).astype(np.uint8)
        for _ in range(SHARDS * images_per_shard)
    )
    table = pa.table({"plate": ["P"] * SHARDS * images_per_shard})
    names = [f"channel {i}" for i in range(DEPTH)]
    bank.write_bank(folder, pixels, table, names, images_per_shard=images_per_shard)
    (folder / "images" / "zarr.json").unlink()
    return folder / "images"


def probe(tree: Path, path: Path, shards: Path) -> dict:
    """What `archive_probe` finds with the phenomjax of a folder."""
    done = subprocess.run(
        [sys.executable, str(PROBE), str(path), str(shards)],
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def show(name: str, found: list[dict]) -> dict[str, float]:
    """Prints a line of medians; returns them."""
    keys = ("open_s", "open_cpu_s", "gib", "ms_crop")
    medians = {key: float(np.median([one[key] for one in found])) for key in keys}
    print(f"{name:34}" + "".join(f"{medians[key]:12.2f}" for key in keys), flush=True)
    return medians


def compare(folder: Path, earlier: Path | None, millions: list[float], rounds: int) -> None:
    """Rows of one bank each, both commits in turn where the earlier one has the memory."""
    here, shards = Path(__file__).parents[1], write_shards(folder / "pixels.zarr", 1)
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2**30
    header = ("open s", "CPU s", "GiB", "CPU ms/crop")
    print(f"{'':34}" + "".join(f"{text:>12}" for text in header))
    per_million = 0.0
    for million in millions:
        path = write_archive(folder / "archive.zarr", int(million * 1e6))
        told, runs_earlier = f"{million:g} million", earlier and per_million * million < free / 2
        ours, theirs = [], []
        for _ in range(rounds if million <= 10 else 1):
            ours.append(probe(here, path, shards))
            if earlier and runs_earlier:
                theirs.append(probe(earlier, path, shards))
                if any(theirs[-1][key] != ours[-1][key] for key in ("images", "first")):
                    raise AssertionError("the two commits read other images")
        show(told, ours)
        if theirs:
            per_million = show(f"  commit {EARLIER}", theirs)["gib"] / million
        elif earlier:
            print(f"  commit {EARLIER}: not run, by its rate {per_million * million:.0f} GiB")
        shutil.rmtree(path)
    path = write_archive(folder / "packed.zarr", 10**6, 64)
    shards = write_shards(folder / "pixels64.zarr", 64)
    show("1 million, 64 images a shard", [probe(here, path, shards) for _ in range(rounds)])


def mix(folder: Path) -> None:
    """Rows of thousands of banks, equally and by weight."""
    first = folder / "0.zarr"
    pixels = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 2), np.uint8)
    table = pa.table({"plate": ["a", "b", "c", "d"]})
    bank.write_bank(first, pixels, table, ["x", "y"], chunk=32)
    paths = [first]
    for number in range(1, BANKS):
        paths.append(folder / f"{number}.zarr")
        shutil.copytree(first, paths[-1], copy_function=os.link)
    archive.write_index([one for (one,) in open_banks(paths)], folder / "all.parquet")
    weights = [1.0 + number % 7 for number in range(BANKS)]
    for name, named in (("each by its path", paths), ("an index", [folder / "all.parquet"])):
        wall, cpu = time.perf_counter(), time.process_time()
        banks = [one for found in open_banks(named) for one in found]
        settings = {"channels": ("x", "y"), "crop_size": 32, "global_batch_size": 256}
        loaders = [
            ImageLoader(banks, weights=[(0, share)] if share else (), threads=1, **settings)
            for share in ((), weights)
        ]
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        took = []
        for loader in loaders:
            list(loader.requests(0, 0, 256))
            began = time.process_time()
            for step in range(1, 9):
                list(loader.requests(step * 1_000_003, 0, 256))
            took.append(1e6 * (time.process_time() - began) / (8 * 256))
        print(
            f"{BANKS} banks, {name}: opened in {wall:.1f} s ({cpu:.1f} s CPU); which crop is next"
            f" takes {took[0]:.0f} us, by weights {took[1]:.0f} us",
            flush=True,
        )


def earlier_tree(folder: Path) -> Iterator[Path | None]:
    """A checkout of the earlier commit, where git has it."""
    git = ["git", "-C", str(Path(__file__).parent), "worktree"]
    added = subprocess.run([*git, "add", "-q", "--detach", str(folder), EARLIER], check=False)
    yield folder if added.returncode == 0 else None
    subprocess.run([*git, "remove", "--force", str(folder)], check=False)


def run(millions: list[float], rounds: int) -> None:
    """Prints all rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for earlier in earlier_tree(folder / "earlier"):
            compare(folder, earlier, millions, rounds)
        (folder / "mix").mkdir()
        mix(folder / "mix")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 10, 100])
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    run(flags.millions, flags.rounds)


if __name__ == "__main__":
    main()
