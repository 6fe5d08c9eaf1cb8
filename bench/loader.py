"""CPU time and rate of random crops: the loader against a memmap, bare TensorStore, and zarr-python
in a torch DataLoader.

    python -m bench.loader            # about 15 minutes and 3 GB in a temporary folder
    python -m bench.loader --quick    # about two minutes

The rows of banks of up to 100 million images are those of `bench.archives`.

All methods read the same crops of the same simulated images in alternating rounds, and their pixels
are compared. CPU time is that of the process and its workers; on a machine that others use it is
the figure to trust. A ratio under 1.25 is a tie.
"""

import argparse
import importlib.metadata
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorstore as ts
import torch
import zarr

from bench import archives
from phenomjax.data.images.bank import write_bank
from phenomjax.data.images.loading.loader import ImageLoader
from phenomjax.data.images.opening import open_bank

SIZE, DEPTH, CROP, BATCH, WORKERS = 2048, 6, 256, 64, 2
GOAL_MS = {"uint16": 1.1, "uint8": 0.8}
Crops = list[tuple[int, int, int]]  # image, y, x


def simulate(rng: np.random.Generator) -> np.ndarray:
    """One image [SIZE, SIZE, DEPTH] uint16: smooth blobs of a cell's size, 12 bit, with photon
    noise.
    """
    image = np.empty((SIZE, SIZE, DEPTH), np.uint16)
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE))
    for channel in range(DEPTH):
        smooth = np.exp(-2 * (np.pi * (4 + 3 * channel) * frequency) ** 2)
        field = np.fft.irfft2(
            np.fft.rfft2(rng.standard_normal((SIZE, SIZE), np.float32)) * smooth, (SIZE, SIZE)
        )
        image[..., channel] = np.clip(
            rng.poisson(100 * np.exp(0.8 * field / field.std())) + 60, 0, 4095
        )
    return image


def write_data(folder: Path, dtype: str, count: int) -> None:
    """Writes the same images as raw .npy, as a bank, and as plain Zarr chunks of 256 pixels."""
    rng = np.random.default_rng(0)
    shift = 3 if dtype == "uint8" else 0
    images = np.stack(
        [(simulate(rng) >> shift).clip(0, np.iinfo(dtype).max).astype(dtype) for _ in range(count)]
    )
    np.save(folder / f"{dtype}.npy", images)
    names = [f"channel {i}" for i in range(DEPTH)]
    write_bank(
        folder / f"{dtype}.zarr",
        images,
        pa.table({"well": [f"A{i:02}" for i in range(count)]}),
        names,
    )
    codec = zarr.codecs.BloscCodec(
        cname="lz4", clevel=5, shuffle="bitshuffle", typesize=images.itemsize
    )
    chunks = (1, 256, 256, DEPTH)
    plain = zarr.create_array(
        folder / f"{dtype}_256.zarr",
        shape=images.shape,
        dtype=dtype,
        chunks=chunks,
        compressors=codec,
    )
    plain[:] = images


class Crop(torch.utils.data.Dataset):
    """What a user of torch writes first: one crop an item, by zarr-python."""

    def __init__(self, path: Path):
        self.path, self.array = path, None

    def __getitem__(self, crop: tuple[int, int, int]) -> np.ndarray:
        if self.array is None:
            self.array = zarr.open_array(self.path, mode="r")
        image, y, x = crop
        return self.array[image, y : y + CROP, x : x + CROP]


class Method:
    """One way to read batches; `read` gives them one after the other.

    Attributes:
      workers: ids of worker processes, whose CPU time counts too.
    """

    workers: tuple[int, ...] = ()

    def read(self, batches: list[Crops]) -> Iterator[np.ndarray]:
        raise NotImplementedError


class Loader(Method):
    """The whole loader: what a training step receives. Reads its own crops, on and on."""

    def __init__(self, loader: ImageLoader):
        self.batches = loader.iterate(0)
        self.batches.wait_until_full()

    def read(self, batches):
        for _ in batches:
            batch = next(self.batches)
            yield batch.arrays["pixels"]
            batch.release()
        self.batches.wait_until_full()  # so that a round decodes as many batches as it delivers


class Memmap(Method):
    def __init__(self, path: Path):
        self.pixels = np.load(path, mmap_mode="r")
        self.buffer = np.zeros((BATCH, CROP, CROP, DEPTH), self.pixels.dtype)

    def read(self, batches):
        for crops in batches:
            for out, (image, y, x) in zip(self.buffer, crops, strict=True):
                out[...] = self.pixels[image, y : y + CROP, x : x + CROP]
            yield self.buffer


class TensorStore(Method):
    """All crops of a batch at once, decoded by TensorStore's own threads into the batch."""

    def __init__(self, path: Path):
        self.array = open_bank(path).array
        self.buffer = np.zeros((BATCH, CROP, CROP, DEPTH), self.array.dtype.numpy_dtype)
        self.target = ts.array(self.buffer, copy=False)

    def read(self, batches):
        for crops in batches:
            writes = [
                self.target[row].write(self.array[image, y : y + CROP, x : x + CROP])
                for row, (image, y, x) in enumerate(crops)
            ]
            for write in writes:
                write.result()
            yield self.buffer


class TorchZarr(Method):
    """Workers are started once; each round hands them its crops."""

    def __init__(self, path: Path):
        self.crops: list[Crops] = [[]]
        self.loader = torch.utils.data.DataLoader(
            Crop(path),
            batch_sampler=self,
            num_workers=WORKERS,
            persistent_workers=True,
            multiprocessing_context="spawn",
        )

    def __iter__(self):
        return iter(self.crops)

    def __len__(self):
        return len(self.crops)

    def read(self, batches):
        self.crops = batches
        iterator = iter(self.loader)
        self.workers = tuple(worker.pid for worker in iterator._workers)
        for pixels in iterator:
            yield pixels.numpy()


def cpu_seconds(workers: tuple[int, ...]) -> float:
    """CPU time of this process and the given ones so far."""
    ticks = sum(
        sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
        for pid in workers
    )
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def crops_of(loader: ImageLoader, step: int) -> Crops:
    """The crops of the loader's batch, for the other methods.

    All images are in its split, so positions are rows.
    """
    requests = loader.requests(step, 0, loader.global_batch_size)
    return [(image, y, x) for _, image, crops in requests for y, x, _ in crops]


def measure(folder: Path, dtype: str, rounds: int, batches: int) -> dict[str, np.ndarray]:
    """CPU ms per crop and crops/s [rounds, 2] of each method."""
    bank = open_bank(folder / f"{dtype}.zarr")
    loader = ImageLoader(
        [bank], channels=bank.channels, val_fraction=0.0, global_batch_size=BATCH, crop_size=CROP
    )
    print(f"\n{dtype}: {loader.describe()}", flush=True)
    stored = sum(path.stat().st_size for path in (folder / f"{dtype}.zarr" / "images").iterdir())
    print(f"compression {np.prod(bank.shape) * bank.dtype.itemsize / stored:.2f} x", flush=True)
    makers: dict[str, Callable[[], Method]] = {
        "phenomjax loader": lambda: Loader(loader),
        "(a) memmap of raw pixels": lambda: Memmap(folder / f"{dtype}.npy"),
        "(b) TensorStore into the batch": lambda: TensorStore(folder / f"{dtype}.zarr"),
        "(c) zarr + torch, same bank": lambda: TorchZarr(folder / f"{dtype}.zarr" / "images"),
        "(c) zarr + torch, chunks of 256": lambda: TorchZarr(folder / f"{dtype}_256.zarr"),
    }
    methods = {name: make() for name, make in makers.items()}
    results = {name: [] for name in methods}
    for turn in range(rounds + 1):  # the first is not counted: it warms up and compares the pixels
        count = batches if turn else 1
        first = 1 + (turn - 1) * batches if turn else 0
        crops, seen = [crops_of(loader, first + i) for i in range(count)], {}
        for name in sorted(methods, key=lambda name: hash_order(name, turn)):
            method = methods[name]
            if not turn:
                (seen[name],) = [pixels.copy() for pixels in method.read(crops)]
                continue
            cpu, wall = cpu_seconds(method.workers), time.perf_counter()
            for _ in method.read(crops):
                pass
            cpu, wall = cpu_seconds(method.workers) - cpu, time.perf_counter() - wall
            results[name].append((1e3 * cpu / (count * BATCH), count * BATCH / wall))
        for name, pixels in seen.items():
            if not np.array_equal(pixels, seen["(a) memmap of raw pixels"]):
                raise AssertionError(f"{name} gives other pixels than the memmap")
    methods["phenomjax loader"].batches.close()
    return {name: np.array(values) for name, values in results.items()}


def hash_order(name: str, turn: int) -> float:
    """Another order of the methods in every round."""
    return np.random.default_rng([turn, *name.encode()]).random()


def report(dtype: str, results: dict[str, np.ndarray]) -> None:
    """Prints medians over the rounds, the medians of the ratios within a round, and the goals."""
    ours = results["phenomjax loader"]
    print(
        f"{'':34}{'CPU ms/crop':>12}{'(min)':>8}{'crops/s':>9}"
        f"{'CPU x ours':>12}{'crops/s ours x':>16}"
    )
    ratios = {}
    for name, values in results.items():
        ratios[name] = np.median(values[:, 0] / ours[:, 0])
        faster = np.median(ours[:, 1] / values[:, 1])
        cpu, rate = np.median(values, axis=0)
        print(
            f"{name:34}{cpu:12.2f}{values[:, 0].min():8.2f}{rate:9.0f}"
            f"{ratios[name]:12.2f}{faster:16.2f}"
        )
    cpu, store = np.median(ours[:, 0]), np.median(results["(b) TensorStore into the batch"][:, 0])
    same, plain = (
        ratios[f"(c) zarr + torch, {layout}"] for layout in ("same bank", "chunks of 256")
    )
    overhead = 1 / ratios["(b) TensorStore into the batch"] - 1
    goal = GOAL_MS[dtype]
    for reached, text in (
        (
            cpu <= goal,
            f"CPU at most {goal} ms a crop: {cpu:.2f} (where TensorStore takes {store:.2f})",
        ),
        (overhead <= 0.15, f"at most 15 % over TensorStore: {100 * overhead:+.0f} %"),
        (same >= 5, f"at least 5 x less CPU than (c) on the same bank: {same:.1f} x"),
        (plain >= 5, f"the same against the chunks that suit zarr-python best: {plain:.1f} x"),
    ):
        print(f"  {'reached' if reached else 'MISSED '}  {text}", flush=True)


def machine() -> str:
    """CPU, cores, versions and commit, for the head of a results file."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    cpu = next(
        (line.split(": ")[1] for line in text.splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    names = ("numpy", "tensorstore", "imagecodecs", "grain", "zarr", "numcodecs", "torch")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = (
        subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    )
    return (
        f"{cpu}, {len(os.sched_getaffinity(0))} cores; Python {platform.python_version()},"
        f" {versions}; commit {commit}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--batches", type=int, default=4, help="batches of 64 crops a round and method"
    )
    parser.add_argument("--quick", action="store_true", help="4 images, 3 rounds of one batch")
    flags = parser.parse_args()
    images, rounds, batches = (
        (4, 3, 1) if flags.quick else (flags.images, flags.rounds, flags.batches)
    )
    print(machine())
    print(
        f"{images} images of {SIZE} x {SIZE} x {DEPTH}; medians of {rounds} alternating rounds of"
        f" {batches * BATCH} crops"
    )
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("uint16", "uint8"):
            write_data(Path(folder), dtype, images)
            report(dtype, measure(Path(folder), dtype, rounds, batches))
    print("\nbanks of many images, and many banks")
    archives.run([1] if flags.quick else [1, 10, 100], 1 if flags.quick else 3)


if __name__ == "__main__":
    main()
