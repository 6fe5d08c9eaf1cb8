"""Embeds the images of banks with a trained masked autoencoder: one vector a crop, a site or a
well. `phenomjax.embed` is its door.

Every process that runs the same command is a worker: it claims units of images, commits them, and
the last one makes the result (units.py).
"""

import argparse
import contextlib
import logging
import shutil
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phenomjax.inference.images import estimate, plan, result, work_folder, worker
from phenomjax.inference.images.job import Job
from phenomjax.inference.images.plan import Layout
from phenomjax.inference.runtimes import choose
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError, check_folder_of
from phenomjax.system.files import read_json
from phenomjax.system.processes import stop_on_signals
from phenomjax.trained import opening

log = logging.getLogger("phenomjax")
POLL_SECONDS = 1.0


def add_arguments(group: "argparse._ArgumentGroup") -> None:
    """The flags that belong to images alone."""
    add = group.add_argument
    add(
        "--bank",
        type=Path,
        nargs="+",
        metavar="BANK",
        help=(
            "image banks of phenomjax.prepare, or OME-Zarr plates. Run the same command in any "
            "number of processes, on any number of hosts that share the disk: they divide the work"
        ),
    )
    add(
        "--level",
        choices=plan.LEVELS,
        default="well",
        help=(
            "what a vector stands for: a crop, the mean of an image's crops, or the mean of "
            "a well's images (default well)"
        ),
    )
    add(
        "--crop_size",
        type=int,
        default=0,
        metavar="PX",
        help="of the square crops (default: as in training)",
    )
    add(
        "--stride",
        type=int,
        default=0,
        metavar="PX",
        help=(
            "from crop to crop; less than the crop size makes them overlap (default: the crop"
            " size). The grid is centred in the image, and what does not fit is left out on either"
            " side"
        ),
    )
    add(
        "--block",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help=(
            "blocks of the encoder whose tokens are averaged, from 1 (default: the last "
            "one); several give arrays embeddings_block_N"
        ),
    )
    add(
        "--channelwise",
        action="store_true",
        help="of a channel-agnostic model: one embedding a channel, side by side",
    )
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
    add(
        "--runtime",
        default="jax",
        metavar="NAME",
        help=f"what computes: {', '.join(choose.RUNTIMES)} (default jax)",
    )
    add(
        "--runtime_option",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="options of the runtime",
    )
    add(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="that decode images (default: one a core)",
    )
    add(
        "--unit_crops",
        type=int,
        default=0,
        metavar="N",
        help=(
            "about how many crops are claimed and committed together (default: enough for a "
            "minute or so)"
        ),
    )
    estimate.add_arguments(group)


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
        return estimate.run(args, opening.load_images(args.checkpoint, args.compute_dtype))
    outs = outputs(args)
    model = opening.load_images(args.checkpoint, args.compute_dtype)
    made: dict[Any, choose.Runtime] = {}
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
            # others are at the last units; should one die, its units are taken up
            if len(codes) < len(jobs):
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
        mend = (
            "--out NAME.zarr"
            if len(args.bank) == 1
            else "a folder, in which each bank gets BANK.zarr"
        )
        raise UserError(
            f"--out {out} {what}. Embeddings of images are written as Zarr: give {mend}."
        )
    names = [path.resolve().name.removesuffix(".zarr") for path in args.bank]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"Two banks are called {name}, and would get the same {out / name}.zarr. Embed them"
                " with two commands, or rename one."
            )
    out.mkdir(parents=True, exist_ok=True)
    return [out / f"{name}.zarr" for name in names]


def start(job: Job) -> int | None:
    """Makes the work folder of a job or joins the work there; its exit code if the result is there
    already.

    Raises:
      UserError: the output is something else, or was begun otherwise.
    """
    job.runtime = job.make_runtime()
    job.settings = job.make_settings(job.runtime.precision)
    description = plan.describe(job.model, job.bank, job.settings)
    if _finished(job, description):
        return _report(job)
    if (job.work / "tokens").exists():
        raise UserError(f"{job.work} belongs to an embedding of sequences. Give another --out.")
    recorded = {**description, "computed_by": job.runtime.description, "layout": asdict(job.layout)}
    job.begun = work_folder.begin(job.work, recorded, job.settings.arrays())
    if differ := plan.differences(job.begun, description):
        raise UserError(
            f"{job.work} was begun with other settings: {'; '.join(differ)}. Give the same to go"
            f" on, another --out, or delete {job.work} to start again."
        )
    if (layout := Layout(**job.begun.pop("layout"))) != job.layout:
        job.layout = layout
        log.info(
            "%s was begun with batches of %d and units of %d crops; that is kept",
            job.work,
            layout.batch_size,
            layout.unit_images * layout.crops_per_image,
        )
        job.runtime = job.make_runtime()
    job.shared = work_folder.Units(job.work, layout.units)
    log.info("%s", job.describe())
    log.info(
        "%s -> %s: %d units of %d crops, batches of %d; %s",
        job.settings.level,
        job.out,
        layout.units,
        layout.unit_images * layout.crops_per_image,
        layout.batch_size,
        job.runtime.description,
    )
    return None


def work_on(job: Job, stop: threading.Event) -> int | None:
    """Does what is to be done for a job now.

    Returns:
      Its exit code when the result is there; None while other workers are at the last units, or
      when stopped.

    Raises:
      UserError: of `start`, or the disk fails.
    """
    if job.shared is None and (code := start(job)) is not None:
        return code
    assert job.shared is not None
    dim = plan.dim(job.model, job.settings)
    worker.compute(job, job.shared, dim, stop)
    if (
        not stop.is_set()
        and len(job.shared.committed()) == job.layout.units
        and not job.out.exists()
    ):
        rejected = job.shared.rejected()
        make = lambda folder: result.write(  # noqa: E731
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
        # of a worker that was killed between the last two steps
        shutil.rmtree(job.work, ignore_errors=True)
        log.info(
            "%s is there already, made from the same checkpoint and bank with the same settings;"
            " nothing to do",
            job.out,
        )
        return True
    what = "it is no embedding of images"
    if before.get("level"):
        what = "it was made with other settings: " + "; ".join(
            plan.differences(before, description)
        )
    raise UserError(
        f"--out {job.out} is there already, and {what}. Give another name, or remove it first."
    )


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
        log.warning(
            "%d images of %d could not be read and are left out: %s%s. All are in %s; mend them,"
            " remove %s and run this again to have them too",
            len(rejected),
            entry["images"],
            names,
            more,
            path,
            job.out,
        )
    return EXIT_FAILED if rejected else EXIT_DONE
