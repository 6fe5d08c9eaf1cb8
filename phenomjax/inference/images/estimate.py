"""What an embedding of images would take: crops, bytes, and hours at a rate that is measured on a
sample of the real path.
"""

import itertools
import logging
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from phenomjax.data import store
from phenomjax.data.images.bank import write_bank
from phenomjax.inference.images import result as images_result
from phenomjax.inference.images import worker
from phenomjax.inference.images.job import BankEmbedding
from phenomjax.inference.images.options import Options
from phenomjax.inference.runtimes import choose
from phenomjax.system.errors import EXIT_DONE, UserError
from phenomjax.trained.model import ImageModel

log = logging.getLogger("phenomjax")
SAMPLE_SECONDS = 10.0
SAMPLE_BATCHES = 3  # at least, after those that compile and fill the pipeline
SAMPLE_IMAGES = 4  # of noise, where there is no bank
STAT_IMAGES = 2000  # whose sizes are looked up


@dataclass(frozen=True)
class Cost:
    """What embedding a bank takes: numbers of images, crops and rows, and bytes; `work` is needed
    while it is made.
    """

    name: str
    images: int
    crops: int
    rows: int
    read: int
    written: int
    work: int


def run(options: Options, model: ImageModel) -> int:
    """Prints the estimate; returns the exit code.

    Raises:
      UserError: neither banks nor numbers, or both; or what an embedding would raise.
    """
    if bool(options.bank) == bool(options.images or options.crops) or (
        options.images and options.crops
    ):
        raise UserError(
            "`dry_run` wants one of: `bank` BANK …, `images` N with `image_size` PX, or `crops` N"
            " with `image_size` PX."
        )
    if options.num_workers < 1 or options.image_size < 1 or options.images < 0 or options.crops < 0:
        raise UserError(
            "`num_workers`, `image_size`, `images` and `crops` must be positive numbers."
        )
    if options.bank:
        jobs = [BankEmbedding(options, model, path, path) for path in options.bank]
        costs, rate, runtime = [_cost(job) for job in jobs], *measure(jobs[0])
    else:
        cost, rate, runtime = _on_paper(options, model)
        costs = [cost]
    for line in table(costs, rate, runtime, options.num_workers):
        print(line, flush=True)
    if options.statistics != "running":
        print(
            "hours are of embedding; the statistics are a pass before it that takes as long again"
        )
    if not options.bank:
        print(
            "read: 8-bit pixels before compression"
            + ("; rows: wells have one or more images" if options.level == "well" else "")
        )
    return EXIT_DONE


def _on_paper(options: Options, model: ImageModel) -> tuple[Cost, float, choose.Runtime]:
    """The estimate for so many images, measured on some of noise."""
    names, size = model.config.model.channels, options.image_size
    with tempfile.TemporaryDirectory(prefix="phenomjax-dry-run-") as folder:
        path = Path(folder) / "noise.zarr"
        random = np.random.default_rng(0)
        noise = random.poisson(9, (size, size, len(names))).astype(np.uint8)
        images = (np.roll(noise, 99 * i, axis=0) for i in range(SAMPLE_IMAGES))
        write_bank(path, images, pa.table({"well": ["A01"] * SAMPLE_IMAGES}), names)
        job = BankEmbedding(options, model, path, path)
        count = round(options.images or options.crops / len(job.grid))
        rate, runtime = measure(job)
        raw = size * size * len(names)
        return (
            _sums(job, f"{count:,} images of {size} px", count, count, raw * count),
            rate,
            runtime,
        )


def _cost(job: BankEmbedding) -> Cost:
    """What a bank takes; the sizes of the files of very many images are extrapolated from some."""
    bank, count = job.bank, len(job.bank)
    most = 8 if store.is_remote(bank.path) else STAT_IMAGES
    looked_at = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
    sizes = [
        store.size(path) / bank.images_per_shard
        for i in looked_at
        if bank.attributes and store.is_file(path := bank.shard_path(int(i)))
    ]
    stored = (
        float(np.mean(sizes)) if sizes else float(np.prod(bank.shape[1:])) * bank.dtype.itemsize
    )
    return _sums(
        job,
        job.bank.path.stem,
        count,
        images_result.num_wells(bank) if job.settings.level == "well" else count,
        stored * count,
    )


def _sums(job: BankEmbedding, name: str, images: int, rows: int, read: float) -> Cost:
    settings = job.settings
    crops = images * len(job.grid)
    rows = crops if settings.level == "crop" else rows
    width = job.dim * len(settings.blocks)
    staged = (
        (crops if settings.level == "crop" else images)
        * width
        * np.dtype(images_result.unit_dtype(settings)).itemsize
    )
    # The units of crops become the result as they are.
    written = rows * width * np.dtype(settings.dtype).itemsize
    return Cost(
        name, images, crops, rows, round(read), written, 0 if settings.level == "crop" else staged
    )


def measure(job: BankEmbedding) -> tuple[float, choose.Runtime]:
    """Crops/s of this process from files to embeddings, on the first images of a bank, and what
    computed them.
    """
    log.info("%s", job.describe())
    job.look()
    layout = replace(job.layout, unit_images=job.layout.group_images)
    runtime = job.make_runtime()
    timed, stop = _Timed(runtime), threading.Event()
    timed.stop = stop
    loader = job.loader(layout)
    log.info("measuring for %.0f s: %s", SAMPLE_SECONDS, runtime.description)
    try:
        for group, _ in worker.embed(
            loader, layout, timed, itertools.cycle(range(layout.units)), stop, job.cells
        ):
            if len(group.bad) == len(group.images):
                raise UserError(
                    f"The rate cannot be measured: {', '.join(set(group.bad.values()))} (image"
                    f" {group.images[0]} of {job.bank.path})."
                )
            # A group of few crops is padded to a batch; what counts is the crops of images.
            timed.useful = (
                len(group.images)
                * layout.crops_per_image
                / (-(-len(group.images) * layout.crops_per_image // layout.batch_size))
            )
    finally:
        loader.close()
    return timed.rate(), runtime


class _Timed:
    """A runtime that counts its batches and sets `stop` when the sample is long enough."""

    def __init__(self, runtime: choose.Runtime):
        self._runtime = runtime
        self._ends: list[float] = []
        self.name, self.precision, self.description = (
            runtime.name,
            runtime.precision,
            runtime.description,
        )
        self.stop = threading.Event()
        self.useful = 0.0
        self._rows = 0

    def submit(self, pixels: np.ndarray, given: choose.Given = choose.NOTHING) -> choose.Result:
        result = self._runtime.submit(pixels, given)
        self._rows = len(pixels)

        def wait() -> np.ndarray:
            values = result()
            self._ends.append(time.monotonic())
            counted = self._ends[worker.IN_FLIGHT :]
            if len(counted) > SAMPLE_BATCHES and counted[-1] - counted[0] > SAMPLE_SECONDS:
                self.stop.set()
            return values

        return wait

    def rate(self) -> float:
        """Crops/s from the first batch that was not compiled to the last."""
        counted = self._ends[worker.IN_FLIGHT :]
        return (len(counted) - 1) * (self.useful or self._rows) / (counted[-1] - counted[0])


def table(costs: list[Cost], rate: float, runtime: choose.Runtime, num_workers: int) -> list[str]:
    """The estimate as lines of text."""
    total = Cost(
        "total",
        *(
            sum(getattr(cost, name) for cost in costs)
            for name in ("images", "crops", "rows", "read", "written", "work")
        ),
    )
    rows = [*costs, total] if len(costs) > 1 else costs
    wide = max(len("bank"), *(len(cost.name) for cost in rows))
    numbers = "{:>12} {:>14} {:>12} {:>10} {:>10} {:>10} {:>10}"
    lines = [
        f"{'bank':<{wide}} "
        + numbers.format("images", "crops", "rows", "read", "written", "meanwhile", "hours")
    ]
    for cost in rows:
        sizes = (
            human(cost.read),
            human(cost.written),
            human(cost.work),
            f"{cost.crops / rate / 3600:,.2f}",
        )
        lines.append(
            f"{cost.name:<{wide}} "
            + numbers.format(f"{cost.images:,}", f"{cost.crops:,}", f"{cost.rows:,}", *sizes)
        )
    hours = total.crops / rate / 3600
    lines.append(
        f"measured now: {rate:,.1f} crops/s from files to embeddings ({runtime.description})"
    )
    share = f"; {hours / num_workers:,.2f} h over {num_workers} of them" if num_workers > 1 else ""
    lines.append(f"in all {hours:,.2f} h ({hours / 24:,.1f} days) on one machine like this{share}")
    return lines


def human(size: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.0f} PB" if size >= 1000 else f"{size:.3g} PB"
