"""Whether a source is still what a finished bank was made of.

sources.json has a digest of names, sizes and dates of the files of its images. Where it is
another one now, or on request, the images are read again and their checksums compared.
"""

import functools
import hashlib
import logging
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from phenomjax.data.images.bank import ImageBank
from phenomjax.engine import choose
from phenomjax.engine.options import EngineOptions
from phenomjax.engine.units import Note, Unit
from phenomjax.prepare.images import findings
from phenomjax.prepare.images.pixels import raw_images
from phenomjax.prepare.images.pixels.raw_images import RawImages
from phenomjax.prepare.images.plan import ImageFiles, ImagePlan
from phenomjax.prepare.images.records import BadFile, ImageKey
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")
BLOCK = 16  # images a unit
RECORD = "sources.json"


def digest(entries: Iterable[ImageFiles]) -> str:
    """Of names, sizes and dates of all files of the images."""
    found = hashlib.sha256()
    for entry in entries:
        found.update(entry.stamp.encode())
    return found.hexdigest()


def record(bank: Path, entries: Iterable[ImageFiles]) -> None:
    """Writes sources.json of a bank of these images."""
    files.write_json(bank / RECORD, {"digest": digest(entries)})


def looks_same(bank: ImageBank, entries: Iterable[ImageFiles]) -> bool:
    """Whether files of images of a bank have the names, sizes and dates of then; True of a bank
    that recorded none.
    """
    file = bank.path / RECORD
    return not file.is_file() or files.read_json(file).get("digest") == digest(entries)


def check(
    bank: ImageBank, plan: ImagePlan, raw: RawImages, *, verify: bool, options: EngineOptions
) -> None:
    """Compares a source with a finished bank.

    Args:
      bank: the bank.
      plan: what would be made of the source today.
      raw: where its pixels are.
      verify: read the images though names, sizes and dates are the same.
      options: who reads.

    Raises:
      UserError: images were edited or added, or have other channels now.
    """
    if not (bank.path / RECORD).is_file():
        log.info("%s is of an older version, which did not record its sources", bank.path)
        return
    if plan.channels != bank.channels:
        now, then = ", ".join(plan.channels), ", ".join(bank.channels)
        raise _stale(bank, f"the channels of {raw.folder} are {now} now, in the bank {then}")
    columns = [bank.metadata[name].to_pylist() for name in (*ImageKey._fields, "checksum")]
    there = {ImageKey(*key): checksum for *key, checksum in zip(*columns, strict=True)}
    rejected = set(findings.keys(bank.path / findings.REJECTED))
    added = [e for e in plan.entries if e.key not in there and tuple(e.key) not in rejected]
    known = [entry for entry in plan.entries if entry.key in there]
    same = looks_same(bank, known) and not verify
    edited = (
        []
        if same
        else _edited(known, there, raw_images.probe(raw, plan)[0], options, bank.path.parent)
    )
    if edited:  # before those that were added: a second bank would not mend it
        what = f"{len(edited)} of its {len(bank)} images were edited in {raw.folder}"
        more = f", and {len(added)} others are not in it" if added else ""
        raise _stale(bank, f"{what} since, for instance {edited[0]}{more}")
    if added:
        what = (
            f"{len(added)} images of {raw.folder} are not in it, for instance {added[0].files[0]}"
        )
        raise _stale(
            bank,
            what,
            f"To have them in a bank of their own, which a run takes beside this one: the same"
            f" command with --not-in {bank.path} and another --out. ",
        )
    if same:
        return
    if gone := len(there) - len(known):
        log.warning("%d images of %s are not in %s any more", gone, bank.path, raw.folder)
        return
    log.info("dates in %s are others, the images are the same", raw.folder)
    record(bank.path, known)


def _stale(bank: ImageBank, what: str, more: str = "") -> UserError:
    return UserError(
        f"{bank.path} is finished, but {what}: the bank holds the source as it was. {more}Give"
        f" another `out`, or delete {bank.path} and run the same command again.",
        EXIT_FAILED,
    )


def _edited(
    entries: Sequence[ImageFiles],
    checksums: dict[ImageKey, str],
    raw: RawImages,
    options: EngineOptions,
    beside: Path,
) -> list[str]:
    """The first file of each image that is another one now."""
    blocks = ([(e, checksums[e.key]) for e in entries[i : i + BLOCK]] for i in _starts(entries))
    units = (Unit(f"compare-{i}", block) for i, block in enumerate(blocks))
    progress, found = Progress("compare images", len(entries), "images"), dict[str, list[str]]()
    shared = None if options.engine == "local" else beside  # workers elsewhere see it
    with (
        tempfile.TemporaryDirectory(prefix=".phenomjax-", dir=shared) as folder,
        choose.executor(options, Path(folder)) as executor,
    ):
        compare = functools.partial(_compare, raw)
        done = executor.run(
            Path(folder), compare, units, threading.Event(), aside=_unread, at_most=len(entries)
        )
        for name, note in done:
            progress.update(note["images"])
            found[name] = note["edited"]
    return [file for i in range(len(found)) for file in found[f"compare-{i}"]]


def _starts(entries: Sequence[ImageFiles]) -> range:
    return range(0, len(entries), BLOCK)


def _compare(raw: RawImages, work: Path, block: list[tuple[ImageFiles, str]]) -> Note:
    """Which of the images are others than their checksums say (a unit function)."""
    edited = []
    for entry, checksum in block:
        try:
            same = raw_images.load_image(raw, entry)[1] == checksum
        except BadFile:
            same = False
        if not same:
            edited.append(entry.files[0])
    return {"images": len(block), "edited": edited}


def _unread(unit: Unit[list[tuple[ImageFiles, str]]], reason: str) -> Note:
    return {"images": len(unit.argument), "edited": [unit.argument[0][0].files[0]]}
