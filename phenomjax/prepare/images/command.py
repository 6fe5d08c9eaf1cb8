"""Raw microscopy files (PNG, TIFF, JPEG 2000, OME-Zarr plates) become an image bank.

python -m phenomjax.prepare images --source DIR --layout phenix --out plates.zarr --dry_run
python -m phenomjax.prepare images --source DIR --layout phenix --out plates.zarr --metadata P.csv

The first shows what is understood of the files, with a picture, and prepares nothing. Nothing is
lost without a word: images that cannot go in are in BANK/rejected.parquet and on the screen, what
was left out on purpose, is black, or met no row of a table, in BANK/remarks.parquet. The command
can be killed at any time and run again; of a finished bank it says whether the source has changed.

Exit codes: 0 done; 1 done, but files were rejected; 2 a mistake in the options or the input; 75
stopped by a signal.
"""

import contextlib
import dataclasses
import errno
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from phenomjax import __version__
from phenomjax.data import store
from phenomjax.data.images import bank, opening
from phenomjax.engine import choose
from phenomjax.engine.local import Pool
from phenomjax.engine.units import Executor
from phenomjax.prepare import growing, next_steps, publishing
from phenomjax.prepare.images import (
    dry_run,
    earlier,
    findings,
    metadata,
    staleness,
)
from phenomjax.prepare.images import options as options_of
from phenomjax.prepare.images.conversion import closing
from phenomjax.prepare.images.conversion.job import ImageJob, Target
from phenomjax.prepare.images.findings import Found
from phenomjax.prepare.images.naming import layouts
from phenomjax.prepare.images.options import Constants, Options
from phenomjax.prepare.images.pixels import eight_bit, pixel_types, raw_images
from phenomjax.prepare.images.pixels.percentiles import Known
from phenomjax.prepare.images.plan import ImagePlan
from phenomjax.prepare.images.planning import make
from phenomjax.prepare.images.planning.axes import Wanted
from phenomjax.prepare.images.records import Finding, ImageKey
from phenomjax.prepare.images.sources import reading
from phenomjax.system import ending
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.log import counted
from phenomjax.system.processes import core_count, stop_on_signals

log = logging.getLogger("phenomjax")
# Raises a UserError for images that do not fit into the bank that they are for.
Fits = Callable[[ImagePlan, raw_images.RawImages, eight_bit.Rule], None]


def run(options: Options, fits: Fits | None = None) -> int:
    """Prepares a bank; returns the exit code: 0 done, 1 done with rejected images, 75 stopped by a
    signal.

    Args:
      options: of the command.
      fits: where the images are to join the bank of --not-in, looks whether they can.
    """
    if store.is_remote(options.out) and not options.dry_run:
        return publishing.publish(
            options, options.out, lambda here: run(dataclasses.replace(options, out=here), fits)
        )
    layout, out = layouts.find(options.layout), options.out
    rule = eight_bit.parse(options.intensity) if options.intensity else None
    options_of.check(options)
    wanted_planes, constants = options_of.wanted(options, layout), options_of.constants(options)
    file_renames, renames = options_of.renames(options)
    joiner = metadata.Joiner(options.metadata, renames) if options.metadata else None
    arguments = options_of.arguments(options)
    recorded = lambda path: opening.open_bank(path).attributes.get("prepare")  # noqa: E731
    finished_before = not options.dry_run and growing.is_finished(
        out, arguments, "image bank", recorded
    )
    if finished_before and not store.is_dir(options.source):
        log.info("%s is not there any more, so nothing can have changed in it", options.source)
        return _report_finished(out)
    request = reading.Request(
        options.source,
        layout,
        options.pattern,
        wanted_planes.defaults,
        options.exclude,
        options.pages,
        options.files,
        file_renames,
        wanted_planes.channels,
        options.acquisition,
        options.strict,
        options.plate_wells,
    )
    prepare = _Preparation(options, request, wanted_planes, joiner, constants, rule, fits)
    if options.dry_run or finished_before:
        with tempfile.TemporaryDirectory() as folder:
            here = Pool(options.jobs or core_count())
            plan, raw, _ = prepare.plan(Path(folder) / "plan", here, threading.Event())
            if finished_before:
                verify = options.verify_sources
                before = opening.open_bank(out)
                staleness.check(before, plan, raw, verify=verify, executor=here)
                return _report_finished(out)
            return prepare.show(plan, raw)
    with _told(out), growing.at_work(out, arguments) as work, stop_on_signals() as stop:
        with choose.executor(options, work) as executor:
            made = prepare.run(work, executor, stop, arguments)
        return made if isinstance(made, int) else made()


@contextlib.contextmanager
def _told(out: Path) -> Iterator[None]:
    """What a disk says while a bank is made, in the user's words.

    Raises:
      UserError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "make room" if full else "get the right to write there, or mend the disk"
        raise UserError(
            f"{error.filename or out} cannot be read or written: {error.strerror or error}. What is"
            f" finished of {out} is kept: {mend}, and run the same command again.",
            EXIT_FAILED,
        ) from error


class _Preparation(NamedTuple):
    """What is to be prepared, checked; its methods do it."""

    options: Options
    request: reading.Request
    wanted: Wanted
    joiner: metadata.Joiner | None
    constants: Constants
    rule: eight_bit.Rule | None
    fits: Fits | None

    def plan(
        self, folder: Path, executor: Executor, stop: threading.Event
    ) -> tuple[ImagePlan, raw_images.RawImages, list[tuple[bank.ImageBank, Known]]]:
        """What there is to do, where pixels come from, and the banks of --not-in; a plan without
        plates after a stop.
        """
        options = self.options
        plan = make.make_plan(self.request, self.wanted, folder, executor, stop)
        if plan is None:
            plan = ImagePlan(folder)
        else:
            channels = ", ".join(plan.channels)
            log.info("%s: %d images, channels %s", options.source, plan.count, channels)
        known: list[tuple[bank.ImageBank, Known]] = []
        for other in earlier.chain(options.not_in) if not stop.is_set() else ():
            plan, counted_there = earlier.without(plan, other)
            known.append((other, counted_there))
        if plan.rejected and options.strict:
            raise UserError(
                f"{plan.rejected.first()[0]}. (`strict` stops at the first bad image.)",
                EXIT_FAILED,
            )
        if self.joiner:
            self.joiner.check([plate.place for plate in plan.plates], plan.keys)
        is_ome = self.request.layout.name == "ome-zarr"
        raw = raw_images.RawImages(options.source, is_ome, plan.single, plan.projection)
        return plan, raw, known

    def show(self, plan: ImagePlan, raw: raw_images.RawImages) -> int:
        """The dry run."""
        keys = list(plan.keys())
        described = _described(keys, self.joiner, self.constants)
        if self.joiner:
            remarks = plan.remarks.plus(self.joiner.unmatched(keys))
            plan = dataclasses.replace(plan, remarks=remarks)
        out = self.options.out
        return dry_run.run(out.parent / f"{out.stem}_dry_run", plan, raw, self.rule, described)

    def run(
        self,
        work: Path,
        executor: Executor,
        stop: threading.Event,
        arguments: growing.Arguments,
    ) -> int | Callable[[], int]:
        """Makes the bank in its work folder; returns the exit code of one that was stopped, or
        what hands the bank over and returns the code, for which workers must be gone.
        """
        options, out = self.options, self.options.out
        plan, raw, known = self.plan(work / "plan", executor, stop)
        if stop.is_set():
            return _stopped("")
        source, unreadable = raw_images.probe(raw, plan)
        if not source.dtype:
            raise _all_rejected(out, plan.rejected.plus(unreadable))
        rule = pixel_types.rule_for(self.rule, source, plan)
        if self.fits:
            self.fits(plan, source, rule)
        carried: Known = {}
        for other, counted_there in reversed(known):
            carried = {**carried, **earlier.of_rule(counted_there, rule, other)}
        job = ImageJob(
            out,
            work,
            plan,
            Target(source._replace(channels=plan.channels), rule, options.images_per_shard),
            chunk=options.chunk,
            codec=options.codec,
            executor=executor,
            strict=options.strict,
            stop=stop,
        )
        numbers = job.intensity_numbers(carried)
        if stop.is_set():
            return _stopped("")
        done = job.write_images(numbers)
        if stop.is_set():
            return _stopped(f"; {done} of {plan.count} images are finished")
        closed = closing.close(job, numbers, self.joiner, self.constants)
        if closed is None:
            return _stopped("; all images are finished")
        if not closed.count:
            raise _all_rejected(out, closed.rejected)
        attributes = {
            "pixel_size_um": options.pixel_size_um or plan.pixel_size_um,
            "prepare": arguments | {"phenomjax": __version__},
        }
        found = closed.rejected.first(5), closed.remarks.first_of("constant", "flat_range")
        empty = [one for one in closed.remarks if one.reason == findings.CONSTANT_CHANNEL]
        if not closing.assemble(job, closed, numbers, attributes):
            return _stopped("; all images are finished")

        def hand_over() -> int:
            closing.hand_over(job, closed, Pool(options.jobs or core_count()))
            again = f"--not-in {out} and another --out. A run takes several banks."
            return _report(out, closed, *found, empty, "" if self.fits else again)

        return hand_over


def _stopped(how_far: str) -> int:
    log.warning("stopped%s. Run the same command again to continue.", how_far)
    return EXIT_STOPPED


def _report_finished(out: Path) -> int:
    count, bad = len(opening.open_bank(out)), findings.reasons(out / findings.REJECTED).total()
    remarks = findings.reasons(out / findings.REMARKS)
    log.info("%s is finished already: %d images, %d rejected. Nothing to do.", out, count, bad)
    ending.note_written(out)
    ending.note(images=count, rejected=bad, remarks=remarks.total())
    if bad:
        log.info("to add what was mended since: --not_in %s and another --out", out)
    if remarks:
        log.info("remarks: %s (%s)", findings.counted(remarks), out / findings.REMARKS)
    return EXIT_FAILED if bad or findings.CONSTANT_CHANNEL in remarks else EXIT_DONE


def _report(
    out: Path,
    closed: closing.Closed,
    rejected: list[Finding],
    remarked: Finding | None,
    empty: list[Finding],
    again: str,
) -> int:
    ending.wrote(out, counted(closed.count, "image"))
    ending.note(images=closed.count, rejected=len(closed.rejected), remarks=len(closed.remarks))
    if closed.remarks:
        log.warning(
            "remarks: %s, all in %s%s",
            findings.counted(closed.remarks.reasons),
            out / findings.REMARKS,
            f"; for instance {remarked}" if remarked else "",
        )
    if empty:
        log.error("%s. The bank is there.", ". ".join(one.detail for one in empty))
    if rejected:
        count = len(closed.rejected)
        lines = "".join(f"\n  {i + 1}. {bad.reason}: {bad}" for i, bad in enumerate(rejected))
        more = f"\n  and {count - 5} more" if count > 5 else ""
        log.error(
            "%d rejected (%s), the other %d images are in the bank. All are listed in %s:%s%s"
            "\nTraining can use the bank as it is. To have the rejected images too, mend them and"
            " %s",
            count,
            findings.counted(closed.rejected.reasons),
            closed.count,
            out / findings.REJECTED,
            lines,
            more,
            f"prepare them into a second bank: the same command with {again}"
            if again
            else "run the same command again.",
        )
    if again:  # a bank of its own
        next_steps.look(out)
        next_steps.train([opening.open_bank(out)])
    return EXIT_FAILED if rejected or empty else EXIT_DONE


def _all_rejected(out: Path, rejected: Found) -> UserError:
    first, path = rejected.first()[0], findings.write(out / findings.REJECTED, rejected)
    return UserError(
        f"All images were rejected ({len(rejected)} problems), so there is no bank. The first one:"
        f" {first}. They are listed in {path}. Mend them and run the same command again.",
        EXIT_FAILED,
    )


def _described(
    keys: list[ImageKey], joiner: metadata.Joiner | None, constants: Constants
) -> dict[str, list]:
    """What the tables say of each image; what did not meet is told."""
    columns, unmatched = metadata.describe(keys, joiner, constants)
    if joiner:
        rows = len(joiner.rows)
        used = {joiner.row_key(key) for key in keys} & joiner.rows.keys()
        log.info("%s: %d of %d rows have images", joiner.path, len(used), rows)
        if unmatched:
            names = ", ".join("/".join(part for part in key if part) for key in unmatched[:3])
            log.warning(
                "%d of %d images have no row in %s, e.g. %s; their columns stay empty",
                len(unmatched),
                len(keys),
                joiner.path,
                names,
            )
    return columns
