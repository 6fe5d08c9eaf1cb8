"""Which part of a source is copied: keys that fit a pattern, or of a bank what a selection or a
split needs.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phenomjax.data import store
from phenomjax.data.images.loading.split import split_rows
from phenomjax.data.images.opening import open_bank
from phenomjax.data.images.rows import Rows
from phenomjax.data.selections import Part, Selection
from phenomjax.data.sequences import bank as token_bank
from phenomjax.data.zarr_files import NAME
from phenomjax.prepare.mirror.planning import Patterns
from phenomjax.system.errors import UserError

Wanted = Callable[[str], bool]


def wanted(source: Path, only: Sequence[str]) -> Wanted:
    """Whether a key is copied.

    Args:
      source: of the mirror.
      only: patterns in which "*" is any text, "/" too; or one selection; or one split of a bank.

    Raises:
      UserError: a selection of other banks, or a part of what is no bank.
    """
    parts = [one for one in only if one.endswith(".parquet") and store.is_file(Path(one))]
    parts += [one for one in only if one in (*token_bank.SPLITS, "val")]
    if not parts:
        return Patterns(only)
    if len(only) > 1:
        raise UserError(
            f"`only` is {' '.join(only)}. Give patterns, or one selection, or one split: a"
            " selection of several is made by `python -m phenomjax.prepare subset`."
        )
    entry = _entry(source)
    if entry.get("format") == token_bank.FORMAT:
        return _of_tokens(source, entry, parts[0])
    bank = open_bank(source)  # a damaged or a newer one is told
    if parts[0].endswith(".parquet"):
        rows = Rows.of(_chosen(Selection(Path(parts[0])), source, entry))
    else:  # as runs split where nothing else is set
        (found,) = split_rows([bank], parts[0], split_by="plate", val_groups=(), val_fraction=0.1)
        rows = found
    return _of_images(source, rows)


def _entry(source: Path) -> dict[str, Any]:
    """attributes["phenomjax"] of a bank."""
    if store.is_file(source / NAME):
        entry = store.read_json(source / NAME).get("attributes", {}).get("phenomjax", {})
        if entry.get("format") in ("image_bank", token_bank.FORMAT):
            return entry
    raise UserError(
        f"{store.url(source)} is no bank of phenomjax, so no selection or split tells which part of"
        " it is meant. Give patterns of keys, such as --only 'plate1/*'."
    )


def _chosen(selection: Selection, source: Path, entry: dict[str, Any]) -> np.ndarray:
    """Rows of an image bank in a selection."""
    tables = entry.get("tables")
    if tables is None:
        content = store.read_bytes(source / "metadata.parquet")
        tables = [{"rows": -1, "sha256": hashlib.sha256(content).hexdigest()}]
    there = [str(table["sha256"]) for table in tables]
    fits = list[int]()
    for number, bank in enumerate(selection.banks):
        parts: Sequence[Part] = bank.parts
        if selection.kind == "images" and [one.sha256 for one in parts] == there[: len(parts)]:
            fits.append(number)
    if fits:  # two banks may have the same metadata, such as one screen with two intensity rules
        whole = open_bank(source).fingerprint if len(fits) > 1 else ""
        known = [
            (one.fingerprint != whole, Path(one.path).name != source.name)
            for one in selection.banks
        ]
        return selection.rows()[min(fits, key=known.__getitem__)]
    names = ", ".join(bank.path for bank in selection.banks[:4])
    raise UserError(
        f"The selection {selection.path} is of {names}, and {store.url(source)} has other metadata:"
        " its rows would mean other images. Make one of this bank: `python -m phenomjax.prepare"
        f" subset --bank {store.url(source)} --selection {selection.path} --out NAME.parquet`."
    )


def _of_images(source: Path, rows: Rows) -> Wanted:
    grid = store.read_json(source / "images" / NAME)["chunk_grid"]
    images = int(grid["configuration"]["chunk_shape"][0])
    needed = np.zeros(rows.stops.max(initial=0) // images + 1, bool)
    for start, stop in zip(rows.starts, rows.stops, strict=True):
        needed[start // images : (stop - 1) // images + 1] = True

    def is_needed(key: str) -> bool:
        folder, _, name = key.rpartition("/")
        number = name.split(".")[1:2]
        if folder != "images" or not name.startswith("c.") or not number[0].isdecimal():
            return True
        return int(number[0]) < len(needed) and bool(needed[int(number[0])])

    return is_needed


def _of_tokens(source: Path, entry: dict[str, Any], split: str) -> Wanted:
    """Descriptions, tables and offsets, and the chunks of tokens in which a split lies."""
    split = "validation" if split == "val" else split
    if split not in entry.get("splits", {}):
        raise UserError(
            f"{store.url(source)} is a token bank: a selection of it is copied by `python -m"
            " phenomjax.prepare subset --selection S.parquet --out NAME.zarr`. What can be mirrored"
            f" alone is a split: {', '.join(entry.get('splits', {}))}."
        )
    if entry["splits"][split][0] == entry["splits"][split][1]:
        raise UserError(
            f"The split {split} of {store.url(source)} has no sequences: nothing would be copied."
        )
    stored = {name: store.read_json(source / name / NAME) for name in ("tokens", "offsets")}
    grids = {name: one["chunk_grid"]["configuration"] for name, one in stored.items()}
    chunk = {name: int(grid["chunk_shape"][0]) for name, grid in grids.items()}

    def offset(sequence: int) -> int:
        number, place = divmod(sequence, chunk["offsets"])
        content = store.read_bytes(source / "offsets" / f"c.{number}", 8 * place, 8 * place + 8)
        return int(np.frombuffer(content, "<i8")[0])

    first, last = map(offset, entry["splits"][split])
    low, high = first // chunk["tokens"], max(last - 1, first) // chunk["tokens"]

    def is_needed(key: str) -> bool:
        folder, _, name = key.rpartition("/")
        number = name.removeprefix("c.")
        return folder != "tokens" or not number.isdecimal() or low <= int(number) <= high

    return is_needed
