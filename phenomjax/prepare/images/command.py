"""python -m phenomjax.prepare images: raw microscopy files to an image bank."""

import collections
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax import __version__
from phenomjax.data.images import bank, opening
from phenomjax.data.images.metadata import METADATA_SCHEMA
from phenomjax.data.images.wells import normalise_number
from phenomjax.engine import choose
from phenomjax.prepare import growing
from phenomjax.prepare.images import dry_run, findings, grouping, metadata, staleness
from phenomjax.prepare.images import options as options_of
from phenomjax.prepare.images.job import ImageJob
from phenomjax.prepare.images.naming import layouts
from phenomjax.prepare.images.options import Constants, Options
from phenomjax.prepare.images.pixels import eight_bit, pixel_types, raw_images
from phenomjax.prepare.images.pixels.percentiles import Known
from phenomjax.prepare.images.plan import ImageFiles, ImagePlan
from phenomjax.prepare.images.records import Finding, ImageKey
from phenomjax.prepare.images.sources import reading
from phenomjax.system.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.processes import stop_on_signals

log = logging.getLogger("phenomjax")


def run(options: Options) -> int:
    """Prepares a bank; returns the exit code: 0 done, 1 done with rejected images, 75 stopped by a
    signal.
    """
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
    if finished_before and not options.source.exists():
        log.info("%s is not there any more, so nothing can have changed in it", options.source)
        return _report_finished(out)
    found = reading.read(
        reading.Request(
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
    )
    for sentence in found.understood.told:  # before an error of what was made of it
        log.info("%s", sentence)
    plan = grouping.make_images(options.source, found.listing, found.understood, wanted_planes)
    plan = plan._replace(single=found.single)
    for sentence in plan.told[len(found.understood.told) :]:
        log.info("%s", sentence)
    log.info(
        "%s: %d images, channels %s", options.source, len(plan.entries), ", ".join(plan.channels)
    )
    known: list[tuple[bank.ImageBank, Known]] = []
    for other in _chain(options.not_in):
        plan, counted_there = _without(plan, other)
        known.append((other, counted_there))
    if plan.rejected and options.strict:
        raise UserError(
            f"{plan.rejected[0]}. (`strict` stops at the first bad image.)", EXIT_FAILED
        )
    if joiner:
        joiner.check([entry.key for entry in plan.entries])
    raw = raw_images.RawImages(
        options.source, layout.name == "ome-zarr", plan.single, plan.projection
    )
    if finished_before:
        verify = options.verify_sources
        staleness.check(opening.open_bank(out), plan, raw, verify=verify, options=options)
        return _report_finished(out)
    if options.dry_run:
        keys = [entry.key for entry in plan.entries]
        described = _described(keys, joiner, constants)
        if joiner:
            plan = plan._replace(remarks=[*plan.remarks, *joiner.unmatched(keys)])
        return dry_run.run(out.parent / f"{out.stem}_dry_run", plan, raw, rule, described)
    with (
        growing.at_work(out, arguments) as work,
        choose.executor(options, work) as executor,
        stop_on_signals() as stop,
    ):
        source, unreadable = raw_images.probe(raw, plan)
        if not source.dtype:
            raise _all_rejected(out, plan.rejected + unreadable)
        rule = pixel_types.rule_for(rule, source, plan)
        carried: Known = {}
        for other, counted_there in reversed(known):
            carried = {**carried, **_of_rule(counted_there, rule, other)}
        job = ImageJob(
            out,
            work,
            plan,
            source,
            rule,
            chunk=options.chunk,
            codec=options.codec,
            executor=executor,
            strict=options.strict,
            stop=stop,
        )
        numbers = job.intensity_numbers(carried)
        wanted = {} if stop.is_set() else {one.row: one for one in job.conversions(numbers)}
        finished = job.write_images(list(wanted.values()))
        if stop.is_set():
            counted = f"; {len(finished.checksums)} of {len(wanted)} images are finished"
            log.warning(
                "stopped%s. Run the same command again to continue.", counted if wanted else ""
            )
            return EXIT_STOPPED
        if not finished.checksums:
            raise _all_rejected(out, finished.rejected)
        entries = [(wanted[row].files, text) for row, text in finished.checksums.items()]
        table = _table(entries, joiner, constants)
        if joiner:
            unmatched = joiner.unmatched([files.key for files, _ in entries])
            finished = finished._replace(remarks=[*finished.remarks, *unmatched])
        attributes = {"pixel_size_um": options.pixel_size_um or plan.pixel_size_um}
        job.finish(
            finished,
            [files for files, _ in entries],
            numbers,
            table,
            attributes | {"prepare": arguments | {"phenomjax": __version__}},
        )
    return _report(out, len(finished.checksums), finished.rejected, finished.remarks)


def _chain(path: Path | None) -> list[bank.ImageBank]:
    """The bank of --not-in, and those whose images it left out itself, the nearest first."""
    found: list[bank.ImageBank] = []
    while path is not None and path.resolve() not in {one.path.resolve() for one in found}:
        if found and not path.exists():
            log.warning(
                "%s was made without the images of %s, which is not there any more: they are not"
                " left out here",
                found[-1].path,
                path,
            )
            break
        found.append(opening.open_bank(path))
        earlier = (found[-1].attributes.get("prepare") or {}).get("not_in")
        path = Path(earlier) if earlier else None
    return found


def _without(plan: ImagePlan, other: bank.ImageBank) -> tuple[ImagePlan, Known]:
    """Takes the images of another bank out of a plan; returns also that bank's percentiles by plate
    and channel.
    """
    if plan.channels and plan.channels != other.channels:
        log.warning(
            "channels are %s here and %s in %s: --channels gives both the same names and order",
            ", ".join(plan.channels),
            ", ".join(other.channels),
            other.path,
        )
    keys = zip(*(other.metadata[name].to_pylist() for name in ImageKey._fields), strict=True)
    there = {ImageKey(*key) for key in keys}
    recorded = (other.attributes.get("intensity") or {}).get("numbers") or {}
    for plate, before in _plates_spelt_before(plan, other).items():
        log.info(
            "plate %s is called %s in %s, as older versions spelt it", plate, before, other.path
        )
        there |= {key._replace(plate=plate) for key in there if key.plate == before}
        for label, numbers in list(recorded.items()):
            *experiment, name = label.rsplit("/", 1)
            if name == before:
                recorded["/".join([*experiment, plate])] = numbers
    new = plan._replace(
        entries=[e for e in plan.entries if e.key not in there],
        rejected=[r for r in plan.rejected if r.key not in there],
    )
    log.info(
        "%d of %d images are in %s already",
        len(plan.entries) - len(new.entries),
        len(plan.entries),
        other.path,
    )
    if not staleness.looks_same(other, [e for e in plan.entries if e.key in there]):
        log.warning(
            "files of images that are in %s already have other names, sizes or dates than when it"
            " was made, and edited ones are not taken here: the command that made it compares them"
            " with --verify_sources",
            other.path,
        )
    if not new.entries:
        still = f" What is rejected still is: {new.rejected[0]}." if new.rejected else ""
        raise UserError(
            f"Every image of the source is in {other.path} (`not_in`) already: there is nothing to"
            f" prepare.{still}",
            EXIT_FAILED if still else EXIT_CONFIG,
        )
    # A number is worth what it was counted from: older banks recorded plates without an image.
    shown = {"/".join(part for part in key[:2] if part) for key in there}
    known = {
        plate: channels
        for plate, channels in recorded.items()
        if plate in shown and eight_bit.NO_RANGE not in [tuple(pair) for pair in channels.values()]
    }
    return new, known


def _of_rule(known: Known, rule: eight_bit.Rule, other: bank.ImageBank) -> Known:
    """The percentiles of an earlier bank where it was made by the same rule."""
    before = (other.attributes.get("intensity") or {}).get("rule")
    if rule.kind != "percentile" or before == eight_bit.text(rule):
        return known
    log.warning(
        "the percentiles of %s are counted anew: %s was made with --intensity %s",
        ", ".join(list(known)[:3]) + (", ..." if len(known) > 3 else ""),
        other.path,
        before,
    )
    return {}


def _plates_spelt_before(plan: ImagePlan, other: bank.ImageBank) -> dict[str, str]:
    """{plate: what it is called in a bank of a version that took leading zeros off plates}."""
    file = other.path / "metadata.parquet"
    if not file.is_file() or "time" in pq.read_schema(file).names:
        return {}
    plates = {entry.key.plate or "" for entry in plan.entries}
    spelt = collections.Counter(map(normalise_number, plates))
    before = {plate: normalise_number(plate) for plate in plates}
    return {new: old for new, old in before.items() if new != old and spelt[old] == 1}


def _report_finished(out: Path) -> int:
    count, bad = len(opening.open_bank(out)), len(findings.reasons(out / findings.REJECTED))
    remarks = findings.reasons(out / findings.REMARKS)
    log.info("%s is finished already: %d images, %d rejected. Nothing to do.", out, count, bad)
    if bad:
        log.info("to add what was mended since: --not-in %s and another --out", out)
    if remarks:
        log.info("remarks: %s (%s)", findings.counted(remarks), out / findings.REMARKS)
    return EXIT_FAILED if bad or findings.CONSTANT_CHANNEL in remarks else EXIT_DONE


def _report(out: Path, count: int, rejected: list[Finding], remarks: list[Finding]) -> int:
    log.info("wrote %s: %d images", out, count)
    empty = [one for one in remarks if one.reason == findings.CONSTANT_CHANNEL]
    if remarks:
        first = next((one for one in remarks if one.reason in ("constant", "flat_range")), None)
        log.warning(
            "remarks: %s, all in %s%s",
            findings.counted([one.reason for one in remarks]),
            out / findings.REMARKS,
            f"; for instance {first}" if first else "",
        )
    if empty:
        log.error("%s. The bank is there.", ". ".join(one.detail for one in empty))
    if rejected:
        lines = "".join(f"\n  {i + 1}. {bad.reason}: {bad}" for i, bad in enumerate(rejected[:5]))
        more = f"\n  and {len(rejected) - 5} more" if len(rejected) > 5 else ""
        log.error(
            "%d rejected (%s), the other %d images are in the bank. All are listed in %s:%s%s"
            "\nTraining can use the bank as it is. To have the rejected images too, mend them and"
            " prepare them into a second bank: the same command with --not-in %s and another --out."
            " A run takes several banks.",
            len(rejected),
            findings.counted([one.reason for one in rejected]),
            count,
            out / findings.REJECTED,
            lines,
            more,
            out,
        )
    return EXIT_FAILED if rejected or empty else EXIT_DONE


def _all_rejected(out: Path, rejected: list[Finding]) -> UserError:
    path = findings.write(out / findings.REJECTED, rejected)
    return UserError(
        f"All images were rejected ({len(rejected)} problems), so there is no bank. The first one:"
        f" {rejected[0]}. They are listed in {path}. Mend them and run the same command again.",
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


def _table(
    entries: list[tuple[ImageFiles, str]], joiner: metadata.Joiner | None, constants: Constants
) -> pa.Table:
    keys = [entry.key for entry, _ in entries]
    columns = _described(keys, joiner, constants)
    columns |= {name: [key[i] for key in keys] for i, name in enumerate(ImageKey._fields)}
    columns["source"] = [";".join(entry.files) for entry, _ in entries]
    columns["checksum"] = [checksum for _, checksum in entries]
    return pa.table(
        [pa.array(columns[f.name], f.type) for f in METADATA_SCHEMA],
        schema=METADATA_SCHEMA,
    )
