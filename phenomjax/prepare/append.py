"""python -m phenomjax.prepare append: a new experiment joins an image bank, nothing of which is
rewritten.

The images are prepared as by `prepare images`, with its options; what the bank was made with
(channels, projection, rule of intensity, chunks, codec) holds where nothing else is said, images
that are in the bank are left out, and percentiles of its plates are used again. They come behind
those that are there, whose numbers never change: embeddings, selections (`prepare subset`) and runs
that read the bank go on. Killed anywhere and run again, the command goes on, and images join once.

python -m phenomjax.prepare append --bank b.zarr --source RAW --layout phenix
python -m phenomjax.prepare append --bank b.zarr --source RAW --layout generic --pattern 'REGEX'
    --metadata platemap.csv

Token banks are not made longer, because the sequences of a split stand together and their numbers
would change: prepare the new files into a bank of their own, and train on both or merge them.
"""

import dataclasses
import functools
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Suppress, arg

from phenomjax.data import store
from phenomjax.data.images import bank as image_bank
from phenomjax.data.images.bank import APPENDING, ImageBank
from phenomjax.data.images.metadata import METADATA_SCHEMA
from phenomjax.data.images.opening import open_bank
from phenomjax.data.images.rows import Rows
from phenomjax.data.zarr_files import NAME, UNFINISHED
from phenomjax.engine import choose, work_folder
from phenomjax.engine.units import Note
from phenomjax.prepare import next_steps
from phenomjax.prepare.images import command, earlier, findings, staleness
from phenomjax.prepare.images import options as images_options
from phenomjax.prepare.images.pixels import eight_bit
from phenomjax.prepare.images.pixels.raw_images import RawImages
from phenomjax.prepare.images.plan import ImagePlan
from phenomjax.prepare.images.records import Finding, ImageKey
from phenomjax.prepare.inspect.sequences import is_token_bank
from phenomjax.prepare.joining import images
from phenomjax.prepare.opening import writing
from phenomjax.system import ending, files, locks
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.log import Progress, counted
from phenomjax.system.processes import stop_on_signals

log = logging.getLogger("phenomjax")
DONE = "done"  # what is left of work in the bank while it is deleted
APART = (
    "prepare them into a bank of their own with `python -m phenomjax.prepare images`: a run reads"
    " several, which may differ"
)
INHERITED = ("channels", "z", "t", "pages")  # options that the bank was made with


@dataclass(frozen=True, kw_only=True)
class Options(images_options.Options):
    """The bank, raw files and their layout."""

    bank: Annotated[Path, arg(metavar="BANK")]
    """the image bank to make longer, NAME.zarr"""

    out: Suppress[Path] = Path()
    not_in: Suppress[Path | None] = None
    chunk: Suppress[int] = 0
    codec: Suppress[str] = ""
    images_per_shard: Suppress[int] = 0


def run(options: Options) -> int:
    """Makes the bank longer; returns the exit code: 0 done, 1 done with rejected images, 75 stopped
    by a signal.
    """
    bank = _open(options.bank)
    work = bank.path / APPENDING
    wanted = _as_images(options, bank, work / "new.zarr")
    fits = functools.partial(_check_fits, bank, wanted)
    if options.dry_run:
        beside = bank.path.parent / f"{bank.path.stem}_append.zarr"
        return command.run(dataclasses.replace(wanted, out=beside), fits)
    busy = (
        f"Another process appends to {bank.path} now. Wait for it, and run the same command again."
    )
    with writing(bank.path), locks.hold(work, busy):
        if not (work / locks.FILE).exists():
            raise UserError(busy)  # it ended just now, and took the folder with it
        files.remove(work / DONE)
        bank = _open(options.bank)  # as another process may have left it
        new = wanted.out
        if _is_finished(new) and _is_joined(bank, open_bank(new)):
            _close(bank, new)  # killed after the bank had the images
        try:
            return _append(bank, wanted, fits)
        finally:
            if set(files.names(work)) <= {locks.FILE}:
                files.remove(work)


def _append(bank: ImageBank, wanted: images_options.Options, fits: command.Fits) -> int:
    new, work = wanted.out, bank.path / APPENDING
    try:
        with ending.told("prepare images", as_json=False):  # of a bank that is not the result
            code = command.run(wanted, fits)
    except earlier.NothingNew as nothing:
        if nothing.exit_code == EXIT_FAILED:
            raise
        log.info("every image of the source is in %s already. Nothing to do.", bank.path)
        return EXIT_DONE
    except work_folder.OtherSettings as error:
        raise UserError(
            f"{str(error).rsplit('. Give', 1)[0]}, and it has not joined {bank.path} yet. Give the"
            f" same to finish it, or delete {work} to begin with these."
        ) from error
    except UserError:
        if not (new / findings.REJECTED).is_file():
            raise
        bad = findings.Found(new / findings.REJECTED)
        first = bad.first()[0]
        _list(bank, new, set())
        files.remove(new)
        raise UserError(
            f"Nothing joined {bank.path}: what it does not have yet of {wanted.source} was rejected"
            f" ({len(bad)} problems). The first one: {first}. They are listed in"
            f" {bank.path / findings.REJECTED}. Mend them and run the same command again.",
            EXIT_FAILED,
        ) from None
    if code == EXIT_STOPPED or not _is_finished(new):
        return code
    added = open_bank(new)
    if not _join(bank, added, wanted):
        log.warning("stopped. Run the same command again to continue.")
        return EXIT_STOPPED
    longer = open_bank(bank.path)
    _close(longer, new)
    ending.wrote(bank.path, f"{counted(len(added), 'image')} more, {len(longer):,} in all")
    ending.note(appended=len(added), images=len(longer))
    next_steps.look(bank.path)
    log.info(
        "A run that began before and is started again needs what was there alone:"
        " --config.data.selection of `python -m phenomjax.prepare subset --bank %s --where 'row <"
        " %d' --out NAME.parquet`",
        bank.path,
        len(bank),
    )
    return code


def _join(bank: ImageBank, new: ImageBank, wanted: images_options.Options) -> bool:
    """Makes the images of a bank the last ones of another: their shards, their table, and at the
    end, as one rename, zarr.json. False if it was stopped.
    """
    form, count = images.form_of(bank), len(bank)
    room = form.images_per_shard
    # the images of a last shard that is not full are written again, with new ones behind them
    rows = [Rows(np.array([count - count % room]), np.array([count])), Rows.all(len(new))]
    joined = images.Joined(
        bank.path, tuple((one.path, one.fingerprint) for one in (bank, new)), form
    )
    work = new.path.parent / "join"
    files.remove(work)  # of one that was killed: what it left may be of another state of the bank
    progress = Progress("join images", len(new) + count % room, "images")
    with choose.executor(wanted, work) as executor, stop_on_signals() as stop:
        units = images.units_of(rows, room, count // room)
        for _, note in executor.run(work, functools.partial(images.copy, joined), units, stop):
            progress.update(note["images"])
        if stop.is_set():
            return False
    before = bank.attributes.get("intensity") or {}
    numbers = {
        **(before.get("numbers") or {}),
        **((new.attributes.get("intensity") or {}).get("numbers") or {}),
    }
    record: Note = {
        "before": bank.fingerprint,
        "first": count,
        "images": len(new),
        "fingerprint": new.fingerprint,
        "prepare": new.attributes.get("prepare"),
    }
    attributes = {
        "intensity": (before | {"numbers": numbers}) if numbers else bank.attributes["intensity"],
        "appended": [*bank.attributes.get("appended", []), record],
    }
    parts = new.described.parts(METADATA_SCHEMA.names)
    image_bank.append_metadata(bank.path, parts, attributes)
    return True


def _is_finished(new: Path) -> bool:
    return (new / NAME).is_file() and not (new / UNFINISHED).is_dir()


def _is_joined(bank: ImageBank, new: ImageBank) -> bool:
    return any(one["fingerprint"] == new.fingerprint for one in bank.attributes.get("appended", []))


def _close(bank: ImageBank, new: Path) -> None:
    """Adds the lists of the new images to those of the bank, and takes away what is done. It may be
    killed and repeated.
    """
    there = {
        ImageKey(**row)
        for part in open_bank(new).described.parts(ImageKey._fields)
        for row in part.to_pylist()
    }
    _list(bank, new, there)
    staleness.add(bank.path, new)
    files.remove(new.parent / "join")
    os.replace(new, new.parent / DONE)  # or half of it would look like a damaged bank
    files.remove(new.parent / DONE)


def _list(bank: ImageBank, new: Path, there: set[ImageKey]) -> None:
    """Adds the lists of new images to those of a bank, without what is rejected of images that
    `there` has.
    """
    for name in (findings.REJECTED, findings.REMARKS):
        files_of = [path / name for path in (bank.path, new) if (path / name).is_file()]
        known = dict.fromkeys(findings.Found(*files_of))
        if name == findings.REJECTED:  # what was mended since
            known = {one: None for one in known if not _is_of(one, there)}
        if known:
            findings.write(bank.path / name, list(known))
        else:
            files.remove(bank.path / name)


def _is_of(one: Finding, keys: set[ImageKey]) -> bool:
    """Whether a finding is of one of these images."""
    return tuple(one.key) in keys


def _as_images(options: Options, bank: ImageBank, new: Path) -> images_options.Options:
    """The options with which `prepare images` makes what is to join the bank."""
    form = images.form_of(bank)
    if form.codec is None:
        raise UserError(
            f"{bank.path} was written by another program, in a way that this one does not write."
            f" For new images, {APART}."
        )
    values = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(images_options.Options)
    }
    made = bank.attributes.get("prepare") or {}
    values |= {name: made[name] for name in INHERITED if not values[name] and made.get(name)}
    values |= {"intensity": _rule(options, bank), "pixel_size_um": _pixel_size(options, bank)}
    return images_options.Options(
        **values
        | {
            "out": new,
            "not_in": bank.path,
            "chunk": form.chunk,
            "codec": form.codec,
            "images_per_shard": form.images_per_shard,
        }
    )


def _rule(options: Options, bank: ImageBank) -> str | None:
    """The rule of intensity, which is the bank's where it has one."""
    before = (bank.attributes.get("intensity") or {}).get("rule")
    try:
        known = eight_bit.text(eight_bit.parse(str(before)))
    except UserError:
        if options.intensity:
            return options.intensity
        raise UserError(
            f"{bank.path} records no rule by which its pixels became what they are, but {before!r}."
            " Say it with `intensity`."
        ) from None
    given = eight_bit.text(eight_bit.parse(options.intensity)) if options.intensity else known
    if given != known:
        raise UserError(
            f"{bank.path} was made with --intensity {known}, and `intensity` is {given}: its images"
            f" would not be alike. Leave it out, or {APART}."
        )
    return known


def _pixel_size(options: Options, bank: ImageBank) -> float | None:
    before = bank.attributes.get("pixel_size_um")
    if options.pixel_size_um and before and abs(options.pixel_size_um / before - 1) > 0.01:
        raise UserError(
            f"`pixel_size_um` is {options.pixel_size_um}, and {bank.path} has {before}: another"
            f" magnification. You can {APART}."
        )
    return options.pixel_size_um or before


def _check_fits(
    bank: ImageBank,
    options: images_options.Options,
    plan: ImagePlan,
    source: RawImages,
    rule: eight_bit.Rule,
) -> None:
    """Raises a UserError for images that cannot join a bank, before hours of work."""
    if plan.channels != bank.channels:
        raise UserError(
            f"The channels are {', '.join(plan.channels)} in {options.source}, and"
            f" {', '.join(bank.channels)} in {bank.path}. Give the same names in the same order"
            f" with --channels ID=NAME,..., or {APART}."
        )
    if source.size != bank.shape[1:3]:
        sizes = [" x ".join(map(str, size)) for size in (source.size, bank.shape[1:3])]
        raise UserError(
            f"Images are {sizes[0]} pixels in {options.source}, and {sizes[1]} in {bank.path}: a"
            f" bank has one size. You can {APART}."
        )
    dtype, text = eight_bit.bank_dtype(rule, source.dtype), eight_bit.text(rule)
    if dtype != bank.dtype.name:
        raise UserError(
            f"Pixels of {options.source} become {dtype} with --intensity {text}, and those of"
            f" {bank.path} are {bank.dtype.name}. You can {APART}."
        )
    found, before = plan.pixel_size_um, bank.attributes.get("pixel_size_um")
    if found and before and abs(found / before - 1) > 0.01:
        raise UserError(
            f"A pixel is {found} micrometres wide in {options.source}, and {before} in {bank.path}:"
            f" another magnification. You can {APART}."
        )


def _open(path: Path) -> ImageBank:
    if store.is_remote(path):
        raise UserError(
            f"{store.url(path)} lies in a store, where nothing is renamed: a bank is made longer on"
            " a disk. Copy it there with `python -m phenomjax.prepare mirror`, append, and bring it"
            " back with `python -m phenomjax.prepare mirror --overwrite`; or prepare the new images"
            " into a bank of their own."
        )
    if is_token_bank(path):
        raise UserError(
            f"{path} holds sequences, and those of a split stand together: none can be appended"
            " without that others get new numbers. Prepare the new files into a bank of their own"
            " with `python -m phenomjax.prepare sequences` and train on both (a run reads several);"
            " or make one of both with `python -m phenomjax.prepare merge --banks"
            f" {path} NEW.zarr --out NAME.zarr --duplicates first`."
        )
    bank = open_bank(path)
    if not bank.attributes:
        raise UserError(
            f"{path} is no bank of phenomjax, which alone are made longer. Make one of it with"
            " `python -m phenomjax.prepare images`."
        )
    return bank
