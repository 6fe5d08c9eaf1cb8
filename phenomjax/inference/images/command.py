"""Embeds the images of banks with a trained model of images, by crop, site or well.

python -m phenomjax.embed images --checkpoint runs/phenom --bank plates.zarr --out embeddings.zarr

A model with batch norms may normalise each image by the statistics of its own experiment:
--statistics experiment (AdaBN), or --statistics controls, which takes them with a fixed share of
the experiment's controls. They are taken in a pass of their own before.

The command can be killed at any time and run again: it goes on where it was. One process uses all
devices of a machine; --engine has many machines do it, and --share divides it among the tasks of a
job array. Exit codes: 0 done, also where other shares are not; 1 done, but images were rejected; 2
a mistake in the arguments or the input; 75 stopped by a signal.
"""

import contextlib
import dataclasses
import logging
import threading
from pathlib import Path

import jax

from phenomjax.data import store
from phenomjax.engine import work_folder
from phenomjax.inference.images import cluster, estimate, worker
from phenomjax.inference.images.job import BankEmbedding, Runtimes
from phenomjax.inference.images.moments import DomainStatistics, of_jobs
from phenomjax.inference.images.options import Options, Share, share
from phenomjax.inference.images.stages import begin, finish
from phenomjax.inference.options import check_least, check_one_process
from phenomjax.inference.runtimes.choose import JaxRuntime
from phenomjax.prepare import publishing
from phenomjax.system import ending
from phenomjax.system.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_STOPPED,
    UserError,
    check_folder_of,
    less_at_once,
)
from phenomjax.system.log import Progress
from phenomjax.system.processes import stop_on_signals
from phenomjax.trained.model import ImageModel
from phenomjax.trained.twin import load_images

log = logging.getLogger("phenomjax")


@less_at_once("batch_size")
def run(options: Options) -> int:
    """Embeds, or says what it would take; returns the exit code.

    Raises:
      UserError: a mistake in the options or the input.
    """
    if options.out and store.is_remote(options.out) and not options.dry_run:
        return publishing.publish(
            options, options.out, lambda here: run(dataclasses.replace(options, out=here))
        )
    if options.random_weights is not None:
        check_least(options, random_weights=0)
    check_least(
        options,
        crop_size=0,
        stride=0,
        batch_size=0,
        unit_crops=0,
        threads=0,
        devices=0,
        statistics_batch=0,
        statistics_least=1,
    )
    check_one_process(options)
    mine = share(options)
    if options.dry_run:
        return estimate.run(options, open_model(options))
    if not options.bank:
        raise UserError("Nothing to embed is named. Give `bank` BANK.zarr.")
    if options.out is None:
        raise UserError(
            "`out` is missing: the name of what to write, for instance embeddings.zarr."
        )
    outs = outputs(options.bank, options.out)
    if options.engine != "local":
        jax.config.update("jax_platforms", "cpu")  # devices are the workers'
    model = open_model(options)
    made: Runtimes = {}
    jobs = [
        BankEmbedding(options, model, path, out, made)
        for path, out in zip(options.bank, outs, strict=True)
    ]
    statistics = of_jobs(jobs, options.out)
    codes = list[int]()
    with stop_on_signals() as stop:
        if options.engine != "local":
            codes.append(cluster.run(options, jobs, statistics, stop))
        else:
            for job in jobs:
                with contextlib.nullcontext() if mine.number > 1 else work_folder.hold(job.work):
                    codes.append(embed_here(job, mine, stop, statistics))
                if codes[-1] == EXIT_STOPPED:
                    break
    if statistics:
        statistics.end()
    if max(codes) in (EXIT_DONE, EXIT_FAILED) and all(out.exists() for out in outs):
        align = "python -m phenomjax.maps align --profiles" + " {}" * len(outs)
        ending.then("align plates and batches", align + " --out aligned.parquet", *outs)
    return max(codes)


def open_model(options: Options) -> ImageModel:
    """The model that the options name, or its untrained twin."""
    return load_images(options.checkpoint, options.compute_dtype, options.random_weights)


def embed_here(
    job: BankEmbedding,
    mine: Share,
    stop: threading.Event,
    statistics: DomainStatistics | None = None,
) -> int:
    """Does a share of a job in this process, and makes the result if nothing is missing then;
    returns the exit code.

    Raises:
      UserError: of `jobs.begin`, or the disk fails.
    """
    if (code := begin(job, job.look())) is not None:
        return code
    runtime = job.make_runtime()  # of the layout of who began it
    if statistics:
        assert isinstance(runtime, JaxRuntime)  # of `domains.settings`
        statistics.begin()
        statistics.take(job, runtime, mine, stop)
    units = range(job.layout.units)
    crops = lambda numbers: sum(map(job.layout.crops_of, numbers))  # noqa: E731
    left = [unit for unit in job.uncommitted() if unit in units[mine.index :: mine.number]]
    total = crops(units[mine.index :: mine.number])
    label = f"embed {job.bank.path.stem}{f' {mine}' if mine.number > 1 else ''}"
    progress = Progress(label, total, "crops", total - crops(left), every_seconds=10.0)
    loader = job.loader()
    try:
        for count in worker.compute(job, loader, iter(left), stop):
            progress.update(count)
    finally:
        loader.close()
    if stop.is_set():
        log.info("stopped; the same command goes on from here")
        return EXIT_STOPPED
    return finish(job, mine, statistics)


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
            f"`out` {out} {what}. Embeddings of images are written as Zarr: give {mend}. For other"
            " tools `python -m phenomjax.maps export` makes .h5ad, .parquet or .csv of it."
        )
    names = [
        (path if store.is_remote(path) else path.resolve()).name.removesuffix(".zarr")
        for path in banks
    ]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"Two banks are called {name}, and would get the same {out / name}.zarr. Embed them"
                " with two commands, or rename one."
            )
    out.mkdir(parents=True, exist_ok=True)
    return [out / f"{name}.zarr" for name in names]
