"""Whether a source is still what a finished bank was made of.

sources.json has a digest of names, sizes and dates of the files of its images. Where it is
another one now, or on request, the images are read again and their checksums compared.
"""

import functools
import hashlib
import itertools
import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.wells import natural
from phenomjax.engine.units import Executor, Note, Unit
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
Block = list[tuple[ImageFiles, str]]  # images, and their checksums


def digest(stamps: Iterable[str]) -> str:
    """Of names, sizes and dates of all files of images, given their stamps."""
    found = hashlib.sha256()
    for stamp in stamps:
        found.update(stamp.encode())
    return found.hexdigest()


def record(bank: Path, stamps: Iterable[str]) -> None:
    """Writes sources.json of a bank of images of these stamps."""
    files.write_json(bank / RECORD, {"digest": digest(stamps)})


def add(bank: Path, other: Path) -> None:
    """Records that the images of another bank were appended to one."""
    if not all((path / RECORD).is_file() for path in (bank, other)):
        return
    known, digest = (files.read_json(path / RECORD) for path in (bank, other))
    appended = [*known.get("appended", []), digest["digest"]]
    files.write_json(bank / RECORD, known | {"appended": list(dict.fromkeys(appended))})


def looks_same(bank: ImageBank, digest: str) -> bool:
    """Whether files of images of a bank have the names, sizes and dates of then, given the digest
    of now; True of a bank that recorded none.
    """
    file = bank.path / RECORD
    known = files.read_json(file) if file.is_file() else {"digest": digest}
    return digest in (known.get("digest"), *known.get("appended", []))


def check(
    bank: ImageBank, plan: ImagePlan, raw: RawImages, *, verify: bool, executor: Executor
) -> None:
    """Compares a source with a finished bank.

    Args:
      bank: the bank.
      plan: what would be made of the source today.
      raw: where its pixels are.
      verify: read the images though names, sizes and dates are the same.
      executor: who reads; it works in the folder of the plan.

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
    added, first, known = 0, "", 0
    for entry in plan.images():
        known += entry.key in there
        if entry.key not in there and tuple(entry.key) not in rejected:
            added, first = added + 1, first or entry.files[0]
    now = digest(entry.stamp for entry in plan.images() if entry.key in there)
    same = looks_same(bank, now) and not verify
    edited = [] if same else _edited(plan, there, raw_images.probe(raw, plan)[0], executor)
    if edited:  # before those that were added: a second bank would not mend it
        what = f"{len(edited)} of its {len(bank)} images were edited in {raw.folder}"
        more = f", and {added} others are not in it" if added else ""
        raise _stale(bank, f"{what} since, for instance {edited[0]}{more}")
    if added:
        raise _stale(
            bank,
            f"{added} images of {raw.folder} are not in it, for instance {first}",
            f"To have them in a bank of their own, which a run takes beside this one: the same"
            f" command with --not-in {bank.path} and another --out. ",
        )
    if same:
        return
    if gone := len(there) - known:
        log.warning("%d images of %s are not in %s any more", gone, bank.path, raw.folder)
        return
    log.info("dates in %s are others, the images are the same", raw.folder)
    files.write_json(bank.path / RECORD, files.read_json(bank.path / RECORD) | {"digest": now})


def _stale(bank: ImageBank, what: str, more: str = "") -> UserError:
    return UserError(
        f"{bank.path} is finished, but {what}: the bank holds the source as it was. {more}Give"
        f" another `out`, or delete {bank.path} and run the same command again.",
        EXIT_FAILED,
    )


def _edited(
    plan: ImagePlan, checksums: dict[ImageKey, str], raw: RawImages, executor: Executor
) -> list[str]:
    """The first file of each image that is another one now."""

    def units() -> Iterator[Unit[Block]]:
        known = ((e, checksums[e.key]) for e in plan.images() if e.key in checksums)
        for i in itertools.count():
            if not (block := list(itertools.islice(known, BLOCK))):
                return
            yield Unit(f"compare-{i}", block)

    progress, found = Progress("compare images", plan.count, "images"), dict[str, list[str]]()
    compare = functools.partial(_compare, raw)
    for name, note in executor.run(
        plan.folder, compare, units(), threading.Event(), aside=_unread, at_most=plan.count
    ):
        progress.update(note["images"])
        if note["edited"]:
            found[name] = note["edited"]
    return [file for name in sorted(found, key=natural) for file in found[name]]


def _compare(raw: RawImages, work: Path, block: Block) -> Note:
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


def _unread(unit: Unit[Block], reason: str) -> Note:
    return {"images": len(unit.argument), "edited": [unit.argument[0][0].files[0]]}
