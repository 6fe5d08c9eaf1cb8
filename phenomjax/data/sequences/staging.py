"""Copies a token bank once into a node's local disk or shared memory (`data.staging`)."""

from pathlib import Path

from phenomjax.data import staging, store
from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.system import files
from phenomjax.system.errors import UserError


def stage(path: Path, folder: Path) -> Path:
    """Returns a copy of the bank `path` in `folder`, made now or earlier; every file's sha256 is
    checked against the bank's.

    Raises:
      UserError: no room, no permission, or a file of the bank is damaged.
    """
    bank = open_token_bank(path)
    target = folder / f"{path.stem}-{bank.fingerprint[:16]}.zarr"
    checksums = bank.attributes["checksums"]

    def finish() -> None:
        # the group's comes last: it says that all is there
        for name in ("tokens/zarr.json", "offsets/zarr.json", "zarr.json"):
            files.write_bytes(target / name, store.read_bytes(path / name))

    def damaged(name: str, what: str) -> None:
        raise UserError(
            f"{path / name} is damaged: {what}. Copy the bank again, or run the command that"
            " prepared it again; `python -m phenomjax.prepare inspect` lists every damaged file."
        )

    items = [staging.Item(*item) for item in sorted(checksums.items())]
    return staging.copy(path, target, items, "zarr.json", finish, damaged=damaged)
