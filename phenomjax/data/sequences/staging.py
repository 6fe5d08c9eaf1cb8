"""Copies a token bank once into a node's local disk or shared memory, checked, for all processes of
the node.
"""

import hashlib
import logging
import shutil
from pathlib import Path

from phenomjax.data import store
from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.system import files, locks
from phenomjax.system.errors import UserError
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")
PIECE = 2**24  # bytes copied and hashed at a time


def stage(path: Path, folder: Path) -> Path:
    """Returns a copy of the bank `path` in `folder`, made now or earlier.

    Every file's sha256 is checked against the bank's while it is copied. The first process of a
    node copies, the others wait for it; a restart finds the copy and uses it; a killed copy is
    continued file by file. The name holds the bank's fingerprint, so a bank that was prepared anew
    is copied anew.

    Raises:
      UserError: no room, no permission, or a file of the bank is damaged.
    """
    bank = open_token_bank(path)
    target = folder / f"{path.stem}-{bank.fingerprint[:16]}.zarr"
    checksums = bank.attributes["checksums"]
    try:
        with locks.wait_for(folder / f"{target.stem}.staging", stopped=lambda: False):
            if (target / "zarr.json").is_file():
                log.info("staging: %s is already in %s", path, target)
                return target
            _check_room(path, folder, checksums)
            progress = Progress(f"stage {path.name}", len(checksums), "files")
            for name, checksum in sorted(checksums.items()):
                if not (target / name).is_file():
                    _copy(path / name, target / name, checksum)
                progress.update()
            # the group's comes last: it says that all is there
            for name in ("tokens/zarr.json", "offsets/zarr.json", "zarr.json"):
                files.write_bytes(target / name, store.read_bytes(path / name))
    except OSError as error:
        raise UserError(
            f"data.staging={folder} cannot take a copy of {path} ({error.strerror or error}). Give"
            " a folder on a local disk that you own, or read the bank where it is with"
            " --config.data.staging=''."
        ) from None
    log.info("staging: %s copied to %s", path, target)
    return target


def _check_room(path: Path, folder: Path, checksums: dict[str, str]) -> None:
    need, free = (
        sum(store.size(path / name) for name in checksums),
        shutil.disk_usage(folder).free,
    )
    if need > free:
        raise UserError(
            f"data.staging={folder} has {free / 2**30:.1f} GiB left, and the bank {path} takes"
            f" {need / 2**30:.1f} GiB. Give a folder with more room, or read the bank where it is"
            " with --config.data.staging=''."
        )


def _copy(source: Path, target: Path, checksum: str) -> None:
    digest = hashlib.sha256()
    with files.replacing(target) as partial:
        with store.open_input(source) as data, partial.open("wb") as copy:
            while piece := data.read(PIECE):
                digest.update(piece)
                copy.write(piece)
        if digest.hexdigest() != checksum:
            raise UserError(
                f"{source} is damaged: its sha256 is not the one recorded when the bank was made."
                " Copy the bank again, or run the command that prepared it again; `python -m"
                " phenomjax.prepare inspect` lists every damaged file."
            )
