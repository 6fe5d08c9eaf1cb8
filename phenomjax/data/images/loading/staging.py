"""Copies shards of image banks once into a node's local disk or shared memory (`data.staging`);
the banks then read them there, and all else where it is.
"""

import hashlib
import logging
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phenomjax.data import staging, store
from phenomjax.data.images.bank import ImageBank, shard_path
from phenomjax.data.images.rows import Rows
from phenomjax.data.images.shards import read_index
from phenomjax.data.manifest import Manifest, beside
from phenomjax.system import files
from phenomjax.system.errors import UserError
from phenomjax.system.log import duration

log = logging.getLogger("phenomjax")
PLATE = ("experiment", "plate")
TOLD = 5  # shards, and banks, that are told of one by one
SAMPLED = 64  # files that are looked at to know how large those of a bank are
LESS = ", copy a part of the plates with --config.data.staging_share=0.5 or less,"


def stage(
    banks: Sequence[ImageBank], rows: Sequence[Rows], setting: str, share: float = 1.0
) -> None:
    """Makes banks read their shards from a copy on this node, made now or earlier.

    A shard is checked against the manifest of a mirror (sha256) where one lies beside the bank,
    else by the index at its end. One that is not whole is left out: it is read where it is, and is
    a bad image there. What a bank gives does not depend on what was copied.

    Args:
      banks: of a run.
      rows: of each, those that the run reads.
      setting: `data.staging`: "disk", "memory" or a folder.
      share: of the plates that are copied, another part of them on each node; the rest is read
        where it is.

    Raises:
      UserError: no room, no permission, or a bank that is read in place.
    """
    if not 0 < share <= 1:
        raise UserError(
            f"data.staging_share={share}: give more than 0, and at most 1, which is all plates."
        )
    folder, wanted = staging.folder_of(setting), []
    for bank, mine in zip(banks, rows, strict=True):
        if not bank.attributes:
            raise UserError(
                f"data.staging copies image banks, and {bank.path} is read in place. Make a bank of"
                " it with `python -m phenomjax.prepare images --layout ome-zarr`, or set"
                " --config.data.staging=''."
            )
        bank.check()
        part = mine if share == 1 else mine & _plates(bank, share)
        if len(part):
            wanted.append(_Wanted(bank, _shards(part, bank.images_per_shard), folder))
    missing = [one for one in wanted if not (one.target / one.done).is_file()]
    if len(missing) > 1:
        need = sum(map(_estimate, missing))
        staging.check_room(f"{len(missing)} banks", folder, need, LESS)
    start = time.monotonic()
    for one in wanted:
        _stage(one, logging.INFO if len(wanted) <= TOLD else logging.DEBUG)
    if len(wanted) > 1:
        seconds = duration(time.monotonic() - start)
        log.info("staging: %d banks in %s, for which the first step waited", len(wanted), seconds)


class _Wanted:
    """Shards of a bank that are to be on this node.

    Attributes:
      bank, shards: which.
      target: folder that gets them.
      done: name of the file in it that says that all are there.
    """

    def __init__(self, bank: ImageBank, shards: Rows, folder: Path):
        self.bank, self.shards = bank, shards
        self.target = folder / f"{bank.path.stem}-{bank.fingerprint[:16]}"
        which = hashlib.sha256(shards.starts.tobytes() + shards.stops.tobytes()).hexdigest()[:16]
        self.done = f"staged-{which}.json"


def _estimate(wanted: _Wanted) -> int:
    """Bytes of the shards, from the sizes of some; of those that are there already too."""
    places = np.unique(np.linspace(0, len(wanted.shards) - 1, SAMPLED).astype(int))
    shards = (wanted.shards[int(place)] for place in places)
    sizes = [staging.size_of(shard_path(wanted.bank.path, shard)) for shard in shards]
    there = len(files.names(wanted.target / "images"))
    return int(np.mean(sizes) * max(len(wanted.shards) - there, 0))


def _plates(bank: ImageBank, share: float) -> Rows:
    """Rows of the plates of this node."""
    runs, node = bank.runs(PLATE), socket.gethostname()
    digests = [
        hashlib.sha256("/".join([node, *(text or "" for text in value)]).encode()).digest()[:8]
        for value in runs.values()
    ]
    mine = np.array([int.from_bytes(one) / 2**64 < share for one in digests], bool)[runs.groups]
    return Rows(runs.starts[mine], np.append(runs.starts[1:], len(bank))[mine])


def _shards(rows: Rows, images: int) -> Rows:
    starts, stops = rows.starts // images, -(-rows.stops // images)
    # two runs may begin and end in one shard
    return Rows(np.maximum(starts, np.concatenate([[0], stops[:-1]])), stops)


def _stage(wanted: _Wanted, level: int) -> None:
    bank, shards, target, done = wanted.bank, wanted.shards, wanted.target, wanted.done
    manifest, left_out = _manifest(bank), list[str]()
    names = (f"images/{shard_path('', shard).name}" for shard in shards)
    items = [staging.Item(name, manifest.sha256(name) if manifest else "") for name in names]
    entries = bank.images_per_shard * bank.chunks_per_image

    def damaged(name: str, what: str) -> None:
        left_out.append(name)
        if len(left_out) <= TOLD:
            log.warning("staging: %s is left out: %s", bank.path / name, what)

    def check(file: Path) -> None:
        with file.open("rb") as opened:
            try:
                read_index(opened.fileno(), entries)
            except ValueError as error:
                raise staging.Damaged(str(error)) from None

    def finish() -> None:
        files.write_json(target / done, {"left_out": left_out})

    staging.copy(
        bank.path,
        target,
        items,
        done,
        finish,
        damaged=damaged,
        check=check,
        less=LESS,
        level=level,
    )
    numbers = [int(name.split(".")[1]) for name in files.read_json(target / done)["left_out"]]
    if numbers:
        log.warning("staging: %d files of %s are not whole", len(numbers), bank.path)
        shards = Rows.of(np.setdiff1d(shards.array(), numbers))
    bank.read_from(target, shards)


def _manifest(bank: ImageBank) -> Manifest | None:
    path = beside(bank.path)
    return Manifest(path) if store.is_file(path) else None
