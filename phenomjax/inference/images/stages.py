"""The first and the last step of the embedding of a bank: who joins, and who makes the result."""

import logging
import shutil
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from phenomjax.data import zarr_files
from phenomjax.engine import work_folder
from phenomjax.inference import workers
from phenomjax.inference.images import plan, result
from phenomjax.inference.images.job import BankEmbedding
from phenomjax.inference.images.moments import DomainStatistics
from phenomjax.inference.images.options import ALL, Share
from phenomjax.system import ending, files
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from phenomjax.system.log import counted

log = logging.getLogger("phenomjax")


def recorded(job: BankEmbedding) -> work_folder.Description | None:
    """What those said who began the work or made the result (`BankEmbedding.look`), if any did."""
    if job.out.exists():
        return {"precision": "", **zarr_files.read_entry(job.out)}
    begun = job.work / work_folder.DESCRIPTION
    return files.read_json(begun) if begun.is_file() else None


def begin(job: BankEmbedding, seen: Mapping[str, Any]) -> int | None:
    """Makes the work folder of a job or joins the work there; its exit code if the result is there
    already.

    Args:
      job: to begin.
      seen: what `BankEmbedding.look` says.

    Raises:
      UserError: the output is something else, or was begun otherwise.
    """
    job.settings = job.make_settings(seen["precision"])
    description = plan.describe(job.model, job.bank, job.settings)
    if _finished(job, description):
        return report(job, before=True)
    if (job.work / "tokens").exists():
        raise UserError(f"{job.work} belongs to an embedding of sequences. Give another `out`.")
    settings, places = plan.compared(description)
    begun = work_folder.begin(
        job.work,
        settings,
        {**places, "computed_by": seen["computed_by"], "layout": seen["layout"]},
        plan.WORDS,
    )
    job.recorded = {
        name: begun.get(name, value) for name, value in {**description, "computed_by": ""}.items()
    }
    job.begun = workers.begun(job.work)
    job.layout = layout = plan.WorkLayout(**begun["layout"])
    if begun["layout"] != seen["layout"]:
        log.info(
            "%s was begun with batches of %d and units of %d crops; that is kept",
            job.work,
            layout.batch_size,
            layout.unit_images * layout.crops_per_image,
        )
    log.info("%s", job.describe())
    log.info(
        "%s -> %s: %s of %d crops, batches of %d; %s",
        job.settings.level,
        job.out,
        counted(layout.units, "unit"),
        layout.unit_images * layout.crops_per_image,
        layout.batch_size,
        seen["computed_by"],
    )
    return None


def finish(
    job: BankEmbedding, mine: Share = ALL, statistics: DomainStatistics | None = None
) -> int:
    """Makes the result if all units are done, or says what is missing; returns the exit code.

    Raises:
      UserError: no image could be read, or the disk fails.
    """
    try:
        left = job.uncommitted()
        if left and mine == ALL:
            raise UserError(
                f"{len(left)} of the {job.layout.units} units of {job.out} are not done. Run the"
                " same command again.",
                EXIT_FAILED,
            )
        if left and not job.out.exists():
            shares = sorted({unit % mine.number for unit in left})
            log.info(
                "share %s of %s is done; %d of %d units are not there yet, of the shares %s. The"
                " one that ends last makes the result. Should one have died: the same command with"
                " its --share does what is left of it, and without --share all that is left",
                mine,
                job.out,
                len(left),
                job.layout.units,
                ", ".join(map(str, shares[:20])) + (", …" if len(shares) > 20 else ""),
            )
            return EXIT_DONE
        if not job.out.exists():
            rejected = list(job.notes.rejected(map(str, range(job.layout.units))))
            groups = statistics.table(job) if statistics else None
            write = lambda folder: result.write(folder, job, rejected, groups)  # noqa: E731
            work_folder.finish(job.work, write, job.out, shared=True)
    except OSError as error:
        if not job.out.exists():  # else another task was quicker
            raise UserError(
                f"{job.out} could not be made: {error}. All units are committed in {job.work}:"
                " mend that, and run the same command again.",
                EXIT_FAILED,
            ) from error
    return report(job)


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


def report(job: BankEmbedding, before: bool = False) -> int:
    """Says what is there, or was before; returns the exit code."""
    entry = zarr_files.read_entry(job.out)
    rows = pq.read_metadata(job.out / "metadata.parquet").num_rows
    path = job.out / "rejected.parquet"
    rejected = pq.read_table(path).to_pylist() if path.is_file() else []
    drawn = entry.get("random_weights")
    source = f"step {entry['step']}" if drawn is None else f"random weights, seed {drawn}"
    said = f"{counted(rows, 'vector')}, one a {entry['level']}, of {source}"
    if before:
        log.info("%s: %s", job.out, said)
    else:
        ending.wrote(job.out, said)
    ending.note(rows=rows, rejected=len(rejected))
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
