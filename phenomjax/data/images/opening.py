"""Opens an image bank, ours or an OME-Zarr plate, by what lies in its folder."""

import functools
import shlex
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from phenomjax.data import store
from phenomjax.data.images import archive
from phenomjax.data.images.bank import FORMAT, VERSION, ImageBank
from phenomjax.data.images.ngff.metadata_files import attributes
from phenomjax.data.zarr_files import UNFINISHED, read_entry
from phenomjax.system.errors import UserError

OPENERS = 16  # banks that are opened at a time


def open_banks(paths: Iterable[str | Path]) -> list[list[ImageBank]]:
    """Opens banks, many at a time; for each path the bank there, or all banks of the index there
    (`archive.py`).

    Raises:
      UserError: of `open_bank` and `archive.read_index`.
    """
    with ThreadPoolExecutor(OPENERS) as pool:
        return list(
            pool.map(
                lambda path: (
                    archive.read_index(path) if archive.is_index(path) else [open_bank(path)]
                ),
                map(Path, paths),
            )
        )


def open_bank(path: str | Path, axes: str | None = None) -> ImageBank:
    """Opens a bank, an OME-Zarr plate, or with `axes` any other Zarr v2 or v3 array, to read.

    Args:
      path: the folder of the bank, the plate, or the array.
      axes: for an array that is no bank, its axes in order: a permutation of "NHWC", or of "NHW".

    Raises:
      UserError: nothing there, no bank, an unfinished one, or one of another version; it names what
        it found.
    """
    path = Path(path)
    shown = store.url(path)
    if archive.is_index(path):
        raise UserError(
            f"{shown} is a table, and an image bank is a folder, NAME.zarr. An index of many banks"
            " is for training: data.banks may name it."
        )
    if store.is_file(path):
        raise UserError(
            f"{shown} is a file, and an image bank is a folder, NAME.zarr. Images become one by"
            f" `python -m phenomjax.prepare images --source {shlex.quote(str(path.parent))}`"
            " (--help tells the rest)."
        )
    if not store.is_dir(path):
        mend = f"Make one with `python -m phenomjax.prepare images --out {shown}`."
        raise UserError(f"There is no bank at {shown}.{store.beside(path)} {mend}")
    described = attributes(path) if axes is None else {}
    if axes is not None or "plate" in described:
        from phenomjax.data.images import foreign  # stands on this module

        return foreign.PlateBank(path) if axes is None else foreign.ArrayBank(path, axes)
    if store.is_dir(path / UNFINISHED):
        raise UserError(
            f"The bank {shown} is not finished: its preparation was interrupted, or still runs. Run"
            " the same `python -m phenomjax.prepare images` command again; it continues where it"
            " stopped."
        )
    entry = read_entry(path)
    if entry.get("format") != FORMAT:
        there = store.is_file(path / "zarr.json")
        group = store.read_json(path / "zarr.json") if there else {}
        what = "a Zarr array" if store.is_file(path / ".zarray") or "shape" in group else "a folder"
        hint = (
            "Name the axes to read it as it is, for instance axes='NCHW'."
            if what == "a Zarr array"
            else ""
        )
        if store.is_file(path / "offsets" / "zarr.json"):
            what = "a bank of sequences"
            hint = "Embed their files: `python -m phenomjax.embed sequences --source FILES`."
        for key, kind in (("multiscales", "an image"), ("well", "a well")):
            if key in described:
                what, hint = f"{kind} of OME-Zarr", "Give the plate that it is in."
        raise UserError(
            f"{shown} is {what}, not an image bank; found there: {store.listing(path)}. {hint}"
            " An image bank is made by `python -m phenomjax.prepare images`."
        )
    if entry.get("version") not in range(1, VERSION + 1):
        raise UserError(
            f"The bank {shown} has format version {entry.get('version')}, this phenomjax reads"
            f" versions 1 to {VERSION}. Install the phenomjax that wrote it, or a newer one; or"
            " prepare the bank again from its source files."
        )
    for name in ("images/zarr.json", "metadata.parquet"):
        if not store.is_file(path / name):
            raise UserError(
                f"The bank {shown} has no {name}: it was not copied whole, or its preparation was"
                " interrupted. Copy it again, or run the command that prepared it again."
            )
    return ImageBank(path)


@functools.lru_cache(maxsize=64)
def open_unchanged(path: Path, fingerprint: str) -> ImageBank:
    """A bank as a command found it when it began; kept open, for workers that ask again and again.

    Raises:
      UserError: it is another one now.
    """
    bank = open_bank(path)
    if bank.fingerprint != fingerprint:
        raise UserError(
            f"The bank {path} is another one than when this began: it was prepared again or"
            " appended to. Run the same command again, which tells what can be done."
        )
    return bank
