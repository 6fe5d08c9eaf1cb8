"""Embeds the images of banks with a trained masked autoencoder: one vector a crop, a site or a well. `phenomjax.embed` is its door.

Every process that runs the same command is a worker: it claims units of images, commits them, and the last one makes the result (units.py).
"""

import argparse
import contextlib
import logging
import shutil
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from phenomjax.data.bank import open_bank, read_json
from phenomjax.data.reader import CropReader
from phenomjax.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError, check_folder_of
from phenomjax.inference import image_estimate, image_model, image_plan, image_store, image_worker, runtimes, units
from phenomjax.inference.image_loader import Loader
from phenomjax.inference.image_model import ImageModel
from phenomjax.inference.image_plan import Layout, Settings
from phenomjax.prepare.workers import stop_on_signals

log = logging.getLogger("phenomjax")
POLL_SECONDS = 1.0


def add_arguments(group: "argparse._ArgumentGroup") -> None:
    """The flags that belong to images alone."""
    add = group.add_argument
    add("--bank", type=Path, nargs="+", metavar="BANK", help="image banks of phenomjax.prepare, or OME-Zarr plates. Run the same command in any "
        "number of processes, on any number of hosts that share the disk: they divide the work")  # fmt: skip
    add("--level", choices=image_plan.LEVELS, default="well", help="what a vector stands for: a crop, the mean of an image's crops, or the mean of "
        "a well's images (default well)")  # fmt: skip
    add("--crop_size", type=int, default=0, metavar="PX", help="of the square crops (default: as in training)")
    add("--stride", type=int, default=0, metavar="PX", help="from crop to crop; less than the crop size makes them overlap (default: the crop size). "
        "The grid is centred in the image, and what does not fit is left out on either side")  # fmt: skip
    add("--block", type=int, nargs="+", default=[], metavar="N", help="blocks of the encoder whose tokens are averaged, from 1 (default: the last "
        "one); several give arrays embeddings_block_N")  # fmt: skip
    add("--channelwise", action="store_true", help="of a channel-agnostic model: one embedding a channel, side by side")
    add(
        "--channels",
        nargs="+",
        default=[],
        metavar="NAME",
        help="of a channel-agnostic model: which of the bank's (default all)",
    )
    add(
        "--batch_size",
        type=int,
        default=0,
        metavar="N",
        help="crops of a batch; less if memory runs out (default: measured)",
    )
    add("--runtime", default="jax", metavar="NAME", help=f"what computes: {', '.join(runtimes.RUNTIMES)} (default jax)")
    add("--runtime_option", nargs="+", default=[], metavar="KEY=VALUE", help="options of the runtime")
    add("--threads", type=int, default=0, metavar="N", help="that decode images (default: one a core)")
    add("--unit_crops", type=int, default=0, metavar="N", help="about how many crops are claimed and committed together (default: enough for a "
        "minute or so)")  # fmt: skip
    image_estimate.add_arguments(group)


class Job:
    """The embedding of one bank into one output.

    Args:
      args: of the command line.
      model: what computes.
      path: of the bank.
      out: of the result.
      made: runtimes, shared by the jobs of a process.

    Attributes:
      bank, grid, layout: what is embedded, and how the work is divided.
      settings: what decides the numbers; their precision is known when `runtime` is made.
      out, work: where it goes, and where it is made.
      runtime: what computes.
      shared: the units, once the work has begun.
      begun: the description that is recorded.

    Raises:
      UserError: bank, model and arguments do not fit.
    """

    def __init__(
        self, args: argparse.Namespace, model: ImageModel, path: Path, out: Path, made: dict[Any, runtimes.Runtime] | None = None
    ):  # fmt: skip
        self._runtimes = {} if made is None else made
        self.args, self.model, self.bank = args, model, open_bank(path)
        self.out = out
        blocks = image_model.check_blocks(model, args.block)
        image_model.check_channelwise(model, args.channelwise)
        crop_size = args.crop_size or model.config.data.crop_size
        stride = args.stride or crop_size
        image_plan.check_grid(model, self.bank, crop_size, stride)
        image_store.check_wells(self.bank, args.level)
        names, self.places = image_plan.match_channels(model, self.bank, args.channels)
        self.grid = image_plan.grid(self.bank.shape[1], self.bank.shape[2], crop_size, stride)
        self._blocks, self._names, self._crop_size, self._stride = blocks, names, crop_size, stride
        self.devices = args.devices or (len(jax.local_devices()) if args.runtime == "jax" else 1)
        self.batch_size = args.batch_size or image_plan.default_batch_size(model, crop_size, len(names), self.devices)
        crop_bytes = crop_size**2 * len(names) * self.bank.dtype.itemsize
        unit_crops = args.unit_crops or image_plan.default_unit_crops(self.batch_size)
        self.layout = image_plan.layout(len(self.bank), len(self.grid), crop_bytes, self.batch_size, unit_crops)
        self.runtime: runtimes.Runtime | None = None
        self.shared: units.Units | None = None
        self.settings = self.make_settings("")
        self.begun: dict[str, Any] = {}

    @property
    def work(self) -> Path:
        """The folder in which the result is made."""
        return self.out.with_name(self.out.name + ".partial")

    def make_settings(self, precision: str) -> Settings:
        """The settings that decide the numbers."""
        return Settings(
            self.args.level, self._crop_size, self._stride, self._blocks, self.args.channelwise, self._names, self.args.runtime, precision,
            runtime_options(self.args), self.args.dtype,
        )  # fmt: skip

    def make_runtime(self) -> runtimes.Runtime:
        """What computes, ready for batches of the layout; one for all banks of one kind, as each holds the parameters."""
        options = runtime_options(self.args)
        if self.args.devices:
            options["devices"] = str(self.args.devices)
        if self.args.runtime != "jax":  # which compare themselves with JAX on crops of a bank
            options.setdefault("bank", str(self.args.bank[0]))
        shape = (self._crop_size, self._crop_size, len(self._names))
        key = (shape, self.bank.dtype, self.layout.batch_size, *sorted(options.items()))
        if key not in self._runtimes:
            self._runtimes[key] = runtimes.make(
                self.args.runtime,
                self.model,
                self._blocks,
                self.args.channelwise,
                self.layout.batch_size,
                shape,
                self.bank.dtype,
                options,
            )
        return self._runtimes[key]

    def loader(self, layout: Layout | None = None) -> Loader:
        """Decodes the bank's crops."""
        return Loader(
            CropReader(self.bank), self.grid, self._crop_size, self.places, layout or self.layout, self.args.threads
        )

    def close(self) -> None:
        """Gives back what is claimed."""
        if self.shared is not None:
            self.shared.close()

    def describe(self) -> str:
        """One line for the log."""
        height, width = self.bank.shape[1:3]
        left = self.grid.left_out
        edge = (
            f"; {left[0]} rows and {left[1]} columns of pixels at the edges do not fit and are left out, half on each side"
            if any(left)
            else ""
        )
        overlap = "" if self._stride == self._crop_size else f", {self._stride} px apart"
        return (
            f"{self.bank.path}: {len(self.bank)} images of {height} x {width} px, {len(self.grid)} crops of {self._crop_size} px each{overlap}"
            f"{edge}; channels {', '.join(self._names)}"
        )


def run(args: argparse.Namespace) -> int:
    """Embeds, or says what it would take; returns the exit code.

    Raises:
      UserError: a mistake in the arguments or the input.
    """
    args.dtype = args.dtype or "float16"
    for name in ("crop_size", "stride", "batch_size", "unit_crops", "threads", "devices"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be at least 0.")
    if args.dry_run:
        return image_estimate.run(args, image_model.load(args.checkpoint, args.compute_dtype))
    outs = outputs(args)
    model = image_model.load(args.checkpoint, args.compute_dtype)
    made: dict[Any, runtimes.Runtime] = {}
    jobs = [Job(args, model, path, out, made) for path, out in zip(args.bank, outs, strict=True)]
    with stop_on_signals() as stop, contextlib.ExitStack() as stack:
        for job in jobs:
            stack.callback(job.close)
        codes: dict[int, int] = {}
        while len(codes) < len(jobs):
            for number, job in enumerate(jobs):
                if number not in codes and (code := work_on(job, stop)) is not None:
                    codes[number] = code
                    job.close()
                if stop.is_set() and len(codes) < len(jobs):
                    log.info("stopped; the same command goes on from here")
                    return EXIT_STOPPED
            if len(codes) < len(jobs):  # others are at the last units; should one die, its units are taken up
                stop.wait(POLL_SECONDS)
    return max(codes.values())


def outputs(args: argparse.Namespace) -> list[Path]:
    """Where the result of each bank goes.

    Raises:
      UserError: names that clash, or no folder.
    """
    out: Path = args.out
    if len(args.bank) == 1 and out.suffix == ".zarr":
        check_folder_of(out)
        return [out]
    if out.suffix:
        what = (
            f"has the extension '{out.suffix}'"
            if len(args.bank) == 1
            else f"names one file, but there are {len(args.bank)} banks"
        )
        mend = "--out NAME.zarr" if len(args.bank) == 1 else "a folder, in which each bank gets BANK.zarr"
        raise UserError(f"--out {out} {what}. Embeddings of images are written as Zarr: give {mend}.")
    names = [path.resolve().name.removesuffix(".zarr") for path in args.bank]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"Two banks are called {name}, and would get the same {out / name}.zarr. Embed them with two commands, or rename one."
            )
    out.mkdir(parents=True, exist_ok=True)
    return [out / f"{name}.zarr" for name in names]


def runtime_options(args: argparse.Namespace) -> dict[str, str]:
    """The options of the runtime; the crops that int8 is calibrated with are the first bank's for all banks, so that one encoder serves all."""
    pairs = [text.partition("=") for text in args.runtime_option]
    if bad := [key for key, equals, _ in pairs if not equals or not key]:
        raise UserError(f"--runtime_option {bad[0]}: give KEY=VALUE.")
    options = {key: value for key, _, value in pairs}
    if options.get("precision") == "int8" and args.bank:
        options.setdefault("bank", str(args.bank[0].absolute()))
    return options


def start(job: Job) -> int | None:
    """Makes the work folder of a job or joins the work there; its exit code if the result is there already.

    Raises:
      UserError: the output is something else, or was begun otherwise.
    """
    job.runtime = job.make_runtime()
    job.settings = job.make_settings(job.runtime.precision)
    description = image_plan.describe(job.model, job.bank, job.settings)
    if _finished(job, description):
        return _report(job)
    if (job.work / "tokens").exists():
        raise UserError(f"{job.work} belongs to an embedding of sequences. Give another --out.")
    recorded = {**description, "computed_by": job.runtime.description, "layout": asdict(job.layout)}
    job.begun = units.begin(job.work, recorded, job.settings.arrays())
    if differ := image_plan.differences(job.begun, description):
        raise UserError(
            f"{job.work} was begun with other settings: {'; '.join(differ)}. Give the same to go on, another --out, or delete {job.work} to start "
            "again."
        )
    if (layout := Layout(**job.begun.pop("layout"))) != job.layout:
        job.layout = layout
        log.info("%s was begun with batches of %d and units of %d crops; that is kept", job.work, layout.batch_size,
                 layout.unit_images * layout.crops_per_image)  # fmt: skip
        job.runtime = job.make_runtime()
    job.shared = units.Units(job.work, layout.units)
    log.info("%s", job.describe())
    log.info("%s -> %s: %d units of %d crops, batches of %d; %s", job.settings.level, job.out, layout.units,
             layout.unit_images * layout.crops_per_image, layout.batch_size, job.runtime.description)  # fmt: skip
    return None


def work_on(job: Job, stop: threading.Event) -> int | None:
    """Does what is to be done for a job now.

    Returns:
      Its exit code when the result is there; None while other workers are at the last units, or when stopped.

    Raises:
      UserError: of `start`, or the disk fails.
    """
    if job.shared is None and (code := start(job)) is not None:
        return code
    assert job.shared is not None
    dim = image_plan.dim(job.model, job.settings)
    image_worker.compute(job, job.shared, dim, stop)
    if not stop.is_set() and len(job.shared.committed()) == job.layout.units and not job.out.exists():
        rejected = job.shared.rejected()
        make = lambda folder: image_store.write(  # noqa: E731
            folder, job.work, job.begun, job.bank, job.grid, job.settings, job.layout, dim, rejected
        )
        job.shared.assemble(make, job.out)
    return _report(job) if job.out.exists() else None


def _finished(job: Job, description: dict[str, Any]) -> bool:
    """Whether the result is there already; raises UserError if something else is."""
    if not job.out.exists():
        return False
    before: dict[str, Any] = {}
    if (job.out / "zarr.json").is_file():
        before = (read_json(job.out / "zarr.json").get("attributes") or {}).get("phenomjax") or {}
    if before.get("digest") == description["digest"]:
        shutil.rmtree(job.work, ignore_errors=True)  # of a worker that was killed between the last two steps
        log.info(
            "%s is there already, made from the same checkpoint and bank with the same settings; nothing to do", job.out
        )
        return True
    what = "it is no embedding of images"
    if before.get("level"):
        what = "it was made with other settings: " + "; ".join(image_plan.differences(before, description))
    raise UserError(f"--out {job.out} is there already, and {what}. Give another name, or remove it first.")


def _report(job: Job) -> int:
    """Says what is there; returns the exit code."""
    import pyarrow.parquet as pq

    entry = read_json(job.out / "zarr.json")["attributes"]["phenomjax"]
    rows = pq.read_metadata(job.out / "metadata.parquet").num_rows
    path = job.out / "rejected.parquet"
    rejected = pq.read_table(path).to_pylist() if path.is_file() else []
    log.info("%s: %d rows, one a %s, of step %d", job.out, rows, entry["level"], entry["step"])
    if rejected:
        names = "; ".join(f"{r['name']} (image {r['image']}): {r['reason']}" for r in rejected[:10])
        more = f" and {len(rejected) - 10} more" if len(rejected) > 10 else ""
        log.warning("%d images of %d could not be read and are left out: %s%s. All are in %s; mend them, remove %s and run this again to have them "
                    "too", len(rejected), entry["images"], names, more, path, job.out)  # fmt: skip
    return EXIT_FAILED if rejected else EXIT_DONE
