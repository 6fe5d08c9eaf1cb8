"""CPU time and rate of labelled batches in parts of one experiment each, beside the ungrouped
loader on the same bank; and what finding the rows of 10 million images takes.

    python -m bench.labelled_loader    # about two minutes and 300 MB in a temporary folder

A simulated screen in the form of RxRx1 (512 px, six channels, 8 bits): crops of 256 px, batches of
64, alternating rounds. CPU time is the figure to trust on a machine that others use.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench import rounds
from phenomjax import config as configs
from phenomjax.data.images.labels import splits, training
from phenomjax.data.images.labels.screen import Screen
from phenomjax.data.images.loading.labelled import LabelledLoader
from phenomjax.data.images.loading.loader import ImageLoader
from phenomjax.data.images.metadata import MetadataInMemory, conform_metadata
from phenomjax.data.images.opening import open_bank
from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen

BATCH, CROP, BATCHES, ROUNDS = 64, 256, 12, 7
MANY, EXPERIMENTS, CLASSES = 10**7, 4000, 20_000
UNGROUPED = "ungrouped, without labels"


def loaders(bank) -> dict[str, ImageLoader]:
    """The ungrouped loader, and labelled ones."""
    settings = {"channels": bank.channels, "global_batch_size": BATCH, "crop_size": CROP}
    found: dict[str, ImageLoader] = {UNGROUPED: ImageLoader([bank], val_fraction=0.0, **settings)}
    data = configs.base("perturbation").data
    data.on_rare_class, data.val_fraction = "drop", 0.0
    screen = Screen([bank], data)
    rows = splits.rows_of(screen, "train")
    labels = screen.labels(training.classes(screen, screen.numbering.of(rows)), ())
    for parts, share in ((1, 0.0), (4, 0.0), (4, 0.25)):
        name = f"{parts} part{'s' * (parts > 1)} of one experiment"
        name += f", {share:.0%} controls" if share else ""
        found[name] = LabelledLoader(
            [bank], labels=labels, rows=rows, parts=parts, control_share=share, **settings
        )
    return found


def measure(bank) -> None:
    """Prints medians over the rounds, and of the ratios to the ungrouped loader within a round."""
    made = loaders(bank)
    results = {name: [] for name in made}
    for turn in range(ROUNDS + 1):  # the first warms up
        for name in sorted(
            made, key=lambda name: np.random.default_rng([turn, *name.encode()]).random()
        ):
            cpu, wall = time.process_time(), time.perf_counter()
            with made[name].iterate(turn * BATCHES, (turn + 1) * BATCHES) as batches:
                for batch in batches:
                    batch.release()
            if turn:
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                results[name].append((1e3 * cpu / (BATCHES * BATCH), BATCHES * BATCH / wall))
    print(f"\n{'':46}{'CPU ms/crop':>12}{'crops/s':>9}{'CPU x':>8}{'rate x':>8}")
    base = np.array(results[UNGROUPED])
    for name, values in results.items():
        own = np.array(values)
        cpu, rate = np.median(own, axis=0)
        ratio, faster = np.median(own / base, axis=0)
        print(f"{name:46}{cpu:12.2f}{rate:9.0f}{ratio:8.2f}{faster:8.2f}", flush=True)


class Described(MetadataInMemory):
    """A bank of metadata alone, in the worst order: no row is like the one before."""

    def __init__(self):
        draw = np.random.default_rng(0).integers
        texts = {
            "experiment": (
                np.sort(draw(0, EXPERIMENTS, MANY)),
                [f"E{n}" for n in range(EXPERIMENTS)],
            ),
            "plate": (draw(0, 8, MANY), [str(n) for n in range(8)]),
            "perturbation": (draw(0, CLASSES, MANY), [f"GENE{n}" for n in range(CLASSES)]),
        }
        columns = {
            name: pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names)).cast(pa.string())
            for name, (codes, names) in texts.items()
        }
        columns["is_control"] = pa.array(draw(0, 10, MANY) == 0)
        super().__init__(Path("many.zarr"), conform_metadata(pa.table(columns)))
        self.path, self.fingerprint, self.attributes, self.stored = Path("many.zarr"), "", {}, {}
        self.shape, self.chunk_shape = (MANY, 512, 512, 6), (128, 128, 6)
        self.images_per_chunk, self.dtype = 1, np.dtype(np.uint8)
        self.channels = tuple("abcdef")


def measure_many() -> None:
    """Prints what it takes to find out which rows make the batches of 10 million images."""
    bank = Described()
    before, cpu = rounds.peak_rss(), time.process_time()
    made = loaders(bank)
    print(
        f"\n{MANY:,} images, {EXPERIMENTS:,} experiments, {CLASSES:,} classes: three labelled"
        f" loaders made in {time.process_time() - cpu:.0f} s of CPU,"
        f" {rounds.peak_rss() - before:.2f} GB above the table",
        flush=True,
    )
    for name, loader in made.items():
        list(loader.requests(0, 0, BATCH))
        cpu = time.process_time()
        for step in range(20):
            list(loader.requests(1 + step, 0, BATCH))
        print(f"{name:46}{1e6 * (time.process_time() - cpu) / (20 * BATCH):8.0f} us a row")


def main() -> None:
    """Measures both."""
    packages = ("numpy", "grain", "imagecodecs")
    print(
        rounds.header("", packages).replace(
            "one core, one thread", f"{len(os.sched_getaffinity(0))} cores"
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "screen.zarr"
        write_screen(path, SimulationConfig(num_plates=16, wells_per_plate=24))
        measure(open_bank(path))
    measure_many()


if __name__ == "__main__":
    main()
