"""Embeds the images of banks with a trained masked autoencoder, by crop, site or well.

The command can be killed at any time and run again: it goes on where it was. Every process that
runs the same command is a worker: it claims units of images, commits them, and the last one makes
the result. Exit codes: 0 done; 1 done, but images were rejected; 2 a mistake in the arguments or
the input; 75 stopped by a signal.
"""

import contextlib
import logging
import shutil
import threading
from pathlib import Path

import pyarrow.parquet as pq

from phenomjax.data import zarr_files
from phenomjax.engine import units, work_folder
from phenomjax.inference.images import estimate, plan, result, worker
from phenomjax.inference.images.job import BankEmbedding, Runtimes
from phenomjax.inference.images.options import Options
from phenomjax.inference.options import check_least
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError, check_folder_of
from phenomjax.system.processes import stop_on_signals
from phenomjax.trained import opening

log = logging.getLogger("phenomjax")
POLL_SECONDS = 1.0


def run(options: Options) -> int:
    """Embeds, or says what it would take; returns the exit code.

    Raises:
      UserError: a mistake in the options or the input.
    """
    check_least(options, crop_size=0, stride=0, batch_size=0, unit_crops=0, threads=0, devices=0)
    if options.dry_run:
        return estimate.run(options, opening.load_images(options.checkpoint, options.compute_dtype))
    if not options.bank:
        raise UserError("Nothing to embed is named. Give `bank` BANK.zarr.")
    if options.out is None:
        raise UserError(
            "`out` is missing: the name of what to write, for instance embeddings.zarr."
        )
    outs = outputs(options.bank, options.out)
    model = opening.load_images(options.checkpoint, options.compute_dtype)
    made: Runtimes = {}
    jobs = [
        BankEmbedding(options, model, path, out, made)
        for path, out in zip(options.bank, outs, strict=True)
    ]
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


def outputs(banks: tuple[Path, ...], out: Path) -> list[Path]:
    """Where the result of each bank goes.

    Raises:
      UserError: names that clash, or no folder.
    """
    if len(banks) == 1 and out.suffix == ".zarr":
        check_folder_of(out)
        return [out]
    if out.suffix:
        what, mend = f"has the extension '{out.suffix}'", "`out` NAME.zarr"
        if len(banks) > 1:
            what = f"names one file, but there are {len(banks)} banks"
            mend = "a folder, in which each bank gets BANK.zarr"
        raise UserError(
            f"`out` {out} {what}. Embeddings of images are written as Zarr: give {mend}."
        )
    names = [path.resolve().name.removesuffix(".zarr") for path in banks]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"Two banks are called {name}, and would get the same {out / name}.zarr. Embed them"
                " with two commands, or rename one."
            )
    out.mkdir(parents=True, exist_ok=True)
    return [out / f"{name}.zarr" for name in names]


def start(job: BankEmbedding) -> int | None:
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
        raise UserError(f"{job.work} belongs to an embedding of sequences. Give another `out`.")
    settings, places = plan.compared(description)
    layout = job.layout
    begun = work_folder.begin(
        job.work,
        settings,
        {**places, "computed_by": job.runtime.description, "layout": vars(layout)},
        plan.WORDS,
    )
    job.recorded = {
        name: begun.get(name, value) for name, value in {**description, "computed_by": ""}.items()
    }
    if (layout := plan.WorkLayout(**begun["layout"])) != job.layout:
        job.layout = layout
        log.info(
            "%s was begun with batches of %d and units of %d crops; that is kept",
            job.work,
            layout.batch_size,
            layout.unit_images * layout.crops_per_image,
        )
        job.runtime = job.make_runtime()
    job.shared = units.Shared(job.work, layout.units)
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


def work_on(job: BankEmbedding, stop: threading.Event) -> int | None:
    """Does what is to be done for a job now.

    Returns:
      Its exit code when the result is there; None while other workers are at the last units, or
      when stopped.

    Raises:
      UserError: of `start`, or the disk fails.
    """
    if job.shared is None and (code := start(job)) is not None:
        return code
    shared = job.shared
    assert shared is not None
    worker.compute(job, shared, stop)
    if (
        not stop.is_set()
        and not job.out.exists()
        and job.layout.units == len(set(shared.committed()))
    ):
        shared.finish(lambda folder: result.write(folder, job, list(shared.rejected())), job.out)
    return _report(job) if job.out.exists() else None


def _finished(job: BankEmbedding, description: work_folder.Description) -> bool:
    """Whether the result is there already; raises UserError if something else is."""
    if not job.out.exists():
        return False
    before = zarr_files.read_entry(job.out)
    if before.get("digest") == description["digest"]:
        # of a worker that was killed between the last two steps
        shutil.rmtree(job.work, ignore_errors=True)
        log.info(
            "%s is there already, made from the same checkpoint and bank with the same settings;"
            " nothing to do",
            job.out,
        )
        return True
    mend = "Give another name, or remove it first."
    if before.get("level"):
        work_folder.check_same(
            f"`out` {job.out} is there already, and it was made",
            plan.compared(before)[0],
            plan.compared(description)[0],
            mend,
            plan.WORDS,
        )
    raise UserError(
        f"`out` {job.out} is there already, and it is no embedding of these images. {mend}"
    )


def _report(job: BankEmbedding) -> int:
    """Says what is there; returns the exit code."""
    entry = zarr_files.read_entry(job.out)
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
