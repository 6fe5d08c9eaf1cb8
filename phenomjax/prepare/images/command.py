"""python -m phenomjax.prepare images: raw microscopy files to an image bank."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
from tyro.conf import UseAppendAction, arg

from phenomjax import __version__
from phenomjax.data.images import bank, opening
from phenomjax.data.tables import file_of
from phenomjax.engine.local import Pool
from phenomjax.prepare import growing
from phenomjax.prepare.images import (
    dry_run,
    eight_bit,
    file_list,
    findings,
    grouping,
    layouts,
    metadata,
    pixel_types,
    raw_images,
    sources,
    stacks,
)
from phenomjax.prepare.images.job import ImageJob
from phenomjax.prepare.images.percentiles import Known
from phenomjax.prepare.images.plan import ImageFiles, ImagePlan
from phenomjax.prepare.images.records import Finding, ImageKey
from phenomjax.system import errors, files
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.options import unrecorded
from phenomjax.system.processes import core_count, stop_on_signals

log = logging.getLogger("phenomjax")
Constants = dict[str, metadata.Value]  # by column


@dataclass(frozen=True)
class Options:
    """Raw files, their layout, and the bank to make."""

    source: Path
    """folder with the raw files (folders below it included)"""

    out: Path
    """the bank to make, NAME.zarr"""

    layout: Annotated[str, arg(help=f"names of the files: {', '.join(layouts.LAYOUTS)}")]

    pattern: Annotated[
        str | None,
        arg(help=f"generic: regular expression with groups of {', '.join(layouts.GROUPS)}"),
    ] = None

    default: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="GROUP=VALUE")] = ()
    """for a group that the source leaves out; may be repeated"""

    exclude: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="PATTERN")] = ()
    """leave out files whose path below the source fits, such as '*/overview/*', in any case; may be
    repeated"""

    channels: Annotated[str, arg(metavar="ID=NAME,...")] = ""
    """which, their names and order (default: those of the source, or the layout's)"""

    z: Annotated[str | None, arg(metavar="max|mean|middle|N")] = None
    """for channels with several planes: project them, or take one (N counts from 1)"""

    t: Annotated[str | None, arg(metavar="N|all")] = None
    """for several time points: take one, or make an image of each (column `time`)"""

    pages: Annotated[str | None, arg(help=stacks.PAGES_HELP)] = None

    files: Annotated[Path | None, arg(metavar="TABLE")] = None
    """table: a table that names the files, with their wells (CellProfiler's LoadData, or any with a
    path and a well)"""

    acquisition: str | None = None
    """ome-zarr: the acquisition of the plates to take, where they have several"""

    metadata: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="TABLE")] = ()
    """any table (CSV, TSV, Parquet, BOOK.xlsx#Sheet, compressed), joined by plate and well; may be
    repeated: plate maps, their barcodes, compounds are joined on the columns that they share"""

    rename: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="COLUMN=NAME")] = ()
    """a column of `metadata` to a name of the bank's where it is not found by itself, to `role`
    (words such as negcon), or to `ignore`; of `files` to path, well, channel, ...; may be
    repeated"""

    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """one value for all images that the table says nothing of; experiment, plate, well and site
    whatever the source says; may be repeated"""

    experiment: str | None = None
    """same as --default experiment=..."""

    cell_type: str | None = None
    """same as --set cell_type=..."""

    intensity: str | None = None
    """to 8 bit: range:LOW:HIGH, percentile:LOW:HIGH (of each plate and channel), or keep (None:
    percentile:0.1:99.9 for 16-bit files, keep for 8-bit files; signed, 32-bit and float pixels need
    a range)"""

    pixel_size_um: float | None = None
    """size of a pixel in micrometres, recorded in the bank"""

    chunk: int = 128
    """height and width of the inner chunks in pixels"""

    codec: Annotated[str, arg(help=f"of {', '.join(bank.CODECS)}")] = "blosc-lz4"

    not_in: Annotated[Path | None, arg(metavar="BANK")] = None
    """leave out the images of that bank: for files that were mended or added later; its percentiles
    are used again"""

    jobs: int = unrecorded(0)
    """processes; 0: number of cores"""

    strict: bool = unrecorded(False)
    """stop at the first bad image instead of finishing the good ones"""

    dry_run: bool = unrecorded(False)
    """show what is understood of the source, with a picture, and prepare nothing"""


def run(options: Options) -> int:
    """Prepares a bank; returns the exit code: 0 done, 1 done with rejected images, 75 stopped by a
    signal.
    """
    layout, out = layouts.find(options.layout), options.out
    rule = eight_bit.parse(options.intensity) if options.intensity else None
    _check(options)
    wanted_planes, constants = _wanted(options, layout), _constants(options)
    file_renames, renames = _renames(options)
    joiner = metadata.Joiner(options.metadata, renames) if options.metadata else None
    arguments = _arguments(options)
    recorded = lambda path: opening.open_bank(path).attributes.get("prepare")  # noqa: E731
    if not options.dry_run and growing.is_finished(out, arguments, "image bank", recorded):
        return _report_finished(out)
    found = sources.read(
        sources.Request(
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
        )
    )
    plan = grouping.make_images(options.source, found.listing, found.understood, wanted_planes)
    plan = plan._replace(single=found.single)
    for sentence in plan.told:
        log.info("%s", sentence)
    log.info(
        "%s: %d images, channels %s", options.source, len(plan.entries), ", ".join(plan.channels)
    )
    known: Known = {}
    if options.not_in:
        plan, known = _without(plan, opening.open_bank(options.not_in))
    if plan.rejected and options.strict:
        raise UserError(
            f"{plan.rejected[0]}. (`strict` stops at the first bad image.)", EXIT_FAILED
        )
    if joiner:
        joiner.check([entry.key for entry in plan.entries])
    raw = raw_images.RawImages(
        options.source, layout.name == "ome-zarr", plan.single, plan.projection
    )
    if options.dry_run:
        described, _ = metadata.describe([entry.key for entry in plan.entries], joiner, constants)
        return dry_run.run(out.parent / f"{out.stem}_dry_run", plan, raw, described)
    with growing.at_work(out, arguments) as work, stop_on_signals() as stop:
        source, unreadable = raw_images.probe(raw, plan)
        if not source.dtype:
            raise _all_rejected(out, plan.rejected + unreadable)
        rule = pixel_types.rule_for(rule, source, plan)
        job = ImageJob(
            out,
            work,
            plan,
            source,
            rule,
            chunk=options.chunk,
            codec=options.codec,
            executor=Pool(min(options.jobs or core_count(), len(plan.entries))),
            strict=options.strict,
            stop=stop,
        )
        numbers = job.intensity_numbers(known)
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
            numbers,
            table,
            attributes | {"prepare": arguments | {"phenomjax": __version__}},
        )
    return _report(out, len(finished.checksums), finished.rejected, finished.remarks)


def _check(options: Options) -> None:
    if options.z not in (None, "max", "mean", "middle") and not _is_number(options.z):
        raise UserError(
            f"`z` {options.z!r} is not understood. Write --z max or --z mean to project the planes,"
            " --z middle, or --z N for one plane, counted from 1."
        )
    if options.t not in (None, "all") and not _is_number(options.t):
        raise UserError(
            f"`t` {options.t!r} is not understood. Write --t N for one time point, as the source"
            " numbers them, or --t all for an image of each."
        )
    if options.codec not in bank.CODECS:
        hint = errors.did_you_mean(options.codec, bank.CODECS)
        raise UserError(f"Unknown `codec` {options.codec!r}{hint}.")
    if options.chunk < 1:
        raise UserError(f"`chunk` must be at least 1 pixel, not {options.chunk}.")
    if options.jobs < 0:
        raise UserError(
            f"`jobs` must be 1 or more, or 0 for the number of cores, not {options.jobs}."
        )


def _is_number(text: str | None) -> bool:
    return text is not None and text.isascii() and text.isdecimal()


def _renames(options: Options) -> tuple[dict[str, str], dict[str, str]]:
    """Of --rename, what belongs to the list of files and what to the tables of metadata."""
    known = (*metadata.TARGETS, *(file_list.NAMES if options.files else ()))
    renames = metadata.parse_pairs(options.rename, "--rename", known)
    own, others = sources.split_renames(renames, options.files)
    if others and not options.metadata:
        table = f"; {options.files} has no such column" if options.files else ""
        raise UserError(
            "`rename` names columns of a `metadata` table, and there is none. Add --metadata"
            f" TABLE{table}."
        )
    return own, others


def _wanted(options: Options, layout: layouts.FileLayout) -> grouping.Wanted:
    experiment = [f"experiment={options.experiment}"] if options.experiment else []
    defaults = metadata.parse_pairs(
        [*options.default, *experiment], "--default", layouts.GROUPS[:5]
    )
    overrides = metadata.parse_pairs(
        options.set, "--set", (*metadata.VALUES, *ImageKey._fields[:4])
    )
    return grouping.Wanted(
        [item.strip() for item in options.channels.split(",") if item.strip()],
        layout.channels,
        options.z,
        options.t,
        defaults,
        {name: text for name, text in overrides.items() if name in ImageKey._fields},
    )


def _without(plan: ImagePlan, other: bank.ImageBank) -> tuple[ImagePlan, Known]:
    """Takes the images of another bank out of a plan; returns also that bank's percentiles by plate
    and channel.
    """
    there = set(zip(*(other.metadata[name].to_pylist() for name in ImageKey._fields), strict=True))
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
    if not new.entries and not new.rejected:
        raise UserError(
            f"Every image of the source is in {other.path} (`not_in`) already: there is nothing to"
            " prepare."
        )
    recorded = (other.attributes.get("intensity") or {}).get("numbers") or {}
    # A number is worth what it was counted from: older banks recorded plates without an image.
    shown = {"/".join(part for part in key[:2] if part) for key in there}
    known = {
        plate: channels
        for plate, channels in recorded.items()
        if plate in shown and eight_bit.NO_RANGE not in [tuple(pair) for pair in channels.values()]
    }
    return new, known


def _constants(options: Options) -> Constants:
    pairs = [*options.set]
    pairs += [f"cell_type={options.cell_type}"] if options.cell_type else []
    parsed = metadata.parse_pairs(pairs, "--set", (*metadata.VALUES, *ImageKey._fields[:4]))
    return {
        name: metadata.check_value(name, text, f"--set {name}={text}")
        for name, text in parsed.items()
        if name in metadata.VALUES
    }


def _arguments(options: Options) -> growing.Arguments:
    """The arguments that decide what is in the bank, as they are recorded in it."""
    found: growing.Arguments = {
        "source": str(options.source.resolve()),
        "layout": options.layout,
        "pattern": options.pattern,
        "default": list(options.default),
        "exclude": list(options.exclude),
        "channels": options.channels,
        "z": options.z,
        "t": options.t,
        "pages": options.pages,
        "acquisition": options.acquisition,
        "rename": list(options.rename),
        "set": list(options.set),
        "experiment": options.experiment,
        "cell_type": options.cell_type,
        "intensity": options.intensity,
        "pixel_size_um": options.pixel_size_um,
        "chunk": options.chunk,
        "codec": options.codec,
    }
    found |= metadata.recorded(options.metadata)
    if options.files:
        found["files"] = str(options.files.resolve())
        found["files_sha256"] = files.sha256(file_of(options.files)[0])
    if options.not_in:
        found["not_in"] = str(options.not_in.resolve())
        found["not_in_sha256"] = opening.open_bank(options.not_in).fingerprint
    return {name: value for name, value in found.items() if value not in (None, [], "")}


def _report_finished(out: Path) -> int:
    count, bad = len(opening.open_bank(out)), len(findings.reasons(out / findings.REJECTED))
    remarks = findings.reasons(out / findings.REMARKS)
    log.info("%s is finished already: %d images, %d rejected. Nothing to do.", out, count, bad)
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
            "%d rejected, the other %d images are in the bank. All are listed in %s:%s%s\nTraining"
            " can use the bank as it is. To have the rejected images too, mend them and prepare"
            " them into a second bank: the same command with --not-in %s and another --out. A run"
            " takes several banks.",
            len(rejected),
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


def _table(
    entries: list[tuple[ImageFiles, str]], joiner: metadata.Joiner | None, constants: Constants
) -> pa.Table:
    keys = [entry.key for entry, _ in entries]
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
    columns |= {name: [key[i] for key in keys] for i, name in enumerate(ImageKey._fields)}
    columns["source"] = [";".join(entry.files) for entry, _ in entries]
    columns["checksum"] = [checksum for _, checksum in entries]
    return pa.table(
        [pa.array(columns[f.name], f.type) for f in bank.METADATA_SCHEMA],
        schema=bank.METADATA_SCHEMA,
    )
