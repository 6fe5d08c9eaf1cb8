"""python -m phenomjax.prepare images: raw microscopy files to an image bank. The job itself is in
job.py.
"""

import argparse
import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax import __version__
from phenomjax.data import zarr_files
from phenomjax.data.images import bank, opening
from phenomjax.prepare.images import eight_bit, layouts, metadata, raw_images
from phenomjax.prepare.images.job import ImageJob, write_rejected
from phenomjax.prepare.images.plan import ImageFiles, ImagePlan, RejectedImage, make_plan
from phenomjax.prepare.work_folder import DONE, check_same, lock
from phenomjax.system import errors, processes
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.processes import core_count

log = logging.getLogger("phenomjax")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `images`."""
    add = parser.add_argument
    names: dict[str, Any] = {"action": "append", "default": []}
    add(
        "--source",
        type=Path,
        required=True,
        help="folder with the raw files (folders below it included)",
    )
    add("--out", type=Path, required=True, help="the bank to make, NAME.zarr")
    add("--layout", required=True, help=f"names of the files: {', '.join(layouts.LAYOUTS)}")
    add(
        "--pattern",
        help=f"generic: regular expression with some of the groups {', '.join(layouts.GROUPS)}",
    )
    add("--default", **names, metavar="GROUP=VALUE", help="for a group that the names leave out")
    add(
        "--channels",
        default="",
        metavar="ID=NAME,...",
        help="which, their names and order (default: the layout's)",
    )
    add("--metadata", type=Path, help="CSV or Parquet, one row a well, joined by plate and well")
    add(
        "--rename",
        **names,
        metavar="COLUMN=NAME",
        help="a column of --metadata to a name of the bank's",
    )
    add(
        "--set",
        **names,
        metavar="NAME=VALUE",
        help="one value for all images that the table says nothing of",
    )
    add("--experiment", help="same as --default experiment=...")
    add("--cell-type", help="same as --set cell_type=...")
    default = eight_bit.DEFAULT_16_BIT
    add(
        "--intensity",
        help=(
            "to 8 bit: range:LOW:HIGH, percentile:LOW:HIGH (of each plate and channel), or keep "
            f"(default: {default} for 16-bit files, keep for 8-bit files)"
        ),
    )
    add("--pixel-size-um", type=float, help="size of a pixel in micrometres, recorded in the bank")
    add(
        "--chunk",
        type=int,
        default=128,
        help="height and width of the inner chunks in pixels (default 128)",
    )
    add("--codec", default="blosc-lz4", help=f"{', '.join(bank.CODECS)} (default blosc-lz4)")
    add(
        "--not-in",
        type=Path,
        metavar="BANK",
        help=(
            "leave out the images of that bank: for files that were mended or added "
            "later; its percentiles are used again"
        ),
    )
    add("--jobs", type=int, default=0, help="processes (default: number of cores)")
    add(
        "--strict",
        action="store_true",
        help="stop at the first bad image instead of finishing the good ones",
    )


def run(args: argparse.Namespace) -> int:
    """Prepares a bank; returns the exit code: 0 done, 1 done with rejected images, 75 stopped by a
    signal.
    """
    layout, out = layouts.find(args.layout), args.out
    rule = eight_bit.parse(args.intensity) if args.intensity else None
    if args.codec not in bank.CODECS:
        raise UserError(
            f"Unknown --codec {args.codec!r}{errors.did_you_mean(args.codec, bank.CODECS)}."
        )
    if args.chunk < 1:
        raise UserError(f"--chunk must be at least 1 pixel, not {args.chunk}.")
    if args.jobs < 0:
        raise UserError(f"--jobs must be 1 or more, or 0 for the number of cores, not {args.jobs}.")
    experiment = [f"experiment={args.experiment}"] if args.experiment else []
    defaults = metadata.parse_pairs(args.default + experiment, "--default", layouts.GROUPS[:5])
    constants = _constants(args)
    renames = metadata.parse_pairs(
        args.rename, "--rename", (*metadata.KEYS, *metadata.VALUES, "row", "column")
    )
    if renames and not args.metadata:
        raise UserError(
            "--rename names columns of a --metadata table, and there is none. Add --metadata TABLE."
        )
    joiner = metadata.Joiner(args.metadata, renames) if args.metadata else None
    arguments = _arguments(args)
    if _is_finished(out, arguments):
        return _report_finished(out)
    channels = [item for item in args.channels.split(",") if item]
    plan = make_plan(args.source, layout, args.pattern, defaults, channels)
    log.info("%s: %d images, channels %s", args.source, len(plan.entries), ", ".join(plan.channels))
    known_numbers: dict = {}
    if args.not_in:
        plan, known_numbers = _without(plan, opening.open_bank(args.not_in))
    if plan.rejected and args.strict:
        raise UserError(
            f"{plan.rejected[0]}. (--strict stops at the first bad image.)", EXIT_FAILED
        )
    if joiner:
        joiner.check([entry.key for entry in plan.entries])
    with lock(out, arguments), processes.stop_on_signals() as stop:
        source = raw_images.RawImages(args.source, layout.name == "ome-zarr", plan.planes)
        source, unreadable = raw_images.probe(source, plan)
        if not source.dtype:
            raise _all_rejected(out, plan.rejected + unreadable)
        if rule is None:
            rule = eight_bit.parse("keep" if source.dtype == "uint8" else eight_bit.DEFAULT_16_BIT)
        jobs = args.jobs or core_count()
        job = ImageJob(
            out,
            plan,
            source,
            rule,
            chunk=args.chunk,
            codec=args.codec,
            jobs=jobs,
            strict=args.strict,
            stop=stop,
        )
        numbers = job.intensity_numbers(known_numbers)
        rows = {} if stop.is_set() else job.staging_rows(numbers)
        finished, rejected = job.write_images(rows, numbers) if rows else ({}, [])
        if stop.is_set():
            counted = f"; {len(finished)} of {len(rows)} images are finished" if rows else ""
            log.warning("stopped%s. Run the same command again to continue.", counted)
            return EXIT_STOPPED
        if not finished:
            raise _all_rejected(out, rejected)
        table = _table(
            [(rows[row], checksum) for row, checksum in finished.items()], joiner, constants
        )
        attributes = {"pixel_size_um": args.pixel_size_um or plan.pixel_size_um}
        attributes["prepare"] = arguments | {"phenomjax": __version__}
        job.finalize(finished, rejected, numbers, table, attributes)
    return _report(out, len(finished), rejected)


def _without(plan: ImagePlan, other: bank.ImageBank) -> tuple[ImagePlan, dict]:
    """Takes the images of another bank out of a plan; returns also that bank's percentiles by plate
    and channel.
    """
    there = set(zip(*(other.metadata[name].to_pylist() for name in metadata.KEYS), strict=True))
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
            f"Every image of the source is in {other.path} (--not-in) already: there is nothing to"
            " prepare."
        )
    recorded = other.attributes.get("intensity") or {}
    return new, recorded.get("numbers") or {}


def _constants(args: argparse.Namespace) -> dict:
    pairs = list(args.set)
    pairs += [f"cell_type={args.cell_type}"] if args.cell_type else []
    parsed = metadata.parse_pairs(pairs, "--set", metadata.VALUES)
    return {
        name: metadata.check_value(name, text, f"--set {name}={text}")
        for name, text in parsed.items()
    }


def _arguments(args: argparse.Namespace) -> dict:
    """The arguments that decide what is in the bank, as they are recorded in it."""
    names = (
        "layout",
        "pattern",
        "default",
        "channels",
        "rename",
        "set",
        "experiment",
        "cell_type",
        "intensity",
    )
    found = {"source": str(args.source.resolve())}
    found |= {name: getattr(args, name) for name in (*names, "pixel_size_um", "chunk", "codec")}
    if args.metadata:
        digest = hashlib.sha256(args.metadata.read_bytes()).hexdigest()
        found |= {"metadata": str(args.metadata.resolve()), "metadata_sha256": digest}
    if args.not_in:
        found |= {
            "not_in": str(args.not_in.resolve()),
            "not_in_sha256": opening.open_bank(args.not_in).fingerprint,
        }
    return {name: value for name, value in found.items() if value not in (None, [], "")}


def _is_finished(out: Path, arguments: dict) -> bool:
    if not out.exists() or (out / zarr_files.UNFINISHED).is_dir() or not any(out.iterdir()):
        return False
    if not (out / "zarr.json").is_file():
        raise UserError(
            f"--out {out} is there already and is no image bank. Give the name of a new folder,"
            " NAME.zarr."
        )
    before = opening.open_bank(out).attributes.get("prepare")
    if before is None:
        raise UserError(
            f"--out {out} is an image bank that another program wrote. Give the name of a new"
            " folder."
        )
    check_same(
        out, {name: value for name, value in before.items() if name != "phenomjax"}, arguments
    )
    if (out / DONE).is_dir():  # killed while it tidied up
        shutil.rmtree(out / DONE)
    return True


def _report_finished(out: Path) -> int:
    count, rejected = len(opening.open_bank(out)), out / "rejected.parquet"
    bad = pq.read_metadata(rejected).num_rows if rejected.is_file() else 0
    log.info("%s is finished already: %d images, %d rejected. Nothing to do.", out, count, bad)
    return EXIT_FAILED if bad else EXIT_DONE


def _report(out: Path, count: int, rejected: list[RejectedImage]) -> int:
    log.info("wrote %s: %d images", out, count)
    if not rejected:
        return EXIT_DONE
    lines = "".join(f"\n  {i + 1}. {bad.reason}: {bad}" for i, bad in enumerate(rejected[:5]))
    more = f"\n  and {len(rejected) - 5} more" if len(rejected) > 5 else ""
    log.error(
        "%d rejected, the other %d images are in the bank. All are listed in %s:%s%s\nTraining can"
        " use the bank as it is. To have the rejected images too, mend them and prepare them into a"
        " second bank: the same command with --not-in %s and another --out. A run takes several"
        " banks.",
        len(rejected),
        count,
        out / "rejected.parquet",
        lines,
        more,
        out,
    )
    return EXIT_FAILED


def _all_rejected(out: Path, rejected: list[RejectedImage]) -> UserError:
    path = write_rejected(out, rejected)
    return UserError(
        f"All images were rejected ({len(rejected)} problems), so there is no bank. The first one:"
        f" {rejected[0]}. They are listed in {path}. Mend them and run the same command again.",
        EXIT_FAILED,
    )


def _table(entries: list[tuple[ImageFiles, str]], joiner, constants: dict) -> pa.Table:
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
    columns |= {name: [key[i] for key in keys] for i, name in enumerate(metadata.KEYS)}
    columns["source"] = [";".join(entry.files) for entry, _ in entries]
    columns["checksum"] = [checksum for _, checksum in entries]
    return pa.table(
        [pa.array(columns[f.name], f.type) for f in bank.METADATA_SCHEMA],
        schema=bank.METADATA_SCHEMA,
    )
