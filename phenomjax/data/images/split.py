"""Which images of a bank are held out for validation: whole plates (or experiments, genes), never
single images.
"""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.metadata import METADATA_SCHEMA, Runs
from phenomjax.data.images.rows import Rows
from phenomjax.data.selections import Chosen
from phenomjax.system.errors import UserError, did_you_mean

log = logging.getLogger("phenomjax")
# a plate's number means nothing without its experiment, and so on
PLACES = ("experiment", "plate", "well", "site")
OPENERS = 16  # threads that read the tables of many banks


def split_rows(
    banks: Sequence[ImageBank],
    split: str,
    *,
    split_by: str,
    val_groups: Sequence[str],
    val_fraction: float,
    chosen: Sequence[Chosen] = (),
) -> list[Rows]:
    """Rows of each bank that belong to `split`; "train" and "val" together are every row, or every
    row that is chosen.

    Without `val_groups`, a group is held out when the hash of its name falls below `val_fraction`.
    So a group stays on its side when others are added; only the one that is held out because no
    hash falls below changes sides once another one does.

    Args:
      split: "train" or "val".
      split_by: a column of the metadata. Places are named from the top down: "experiment/plate" for
        plate.
      val_groups: names to hold out; () = by hash.
      val_fraction: expected share of the groups of each bank; one at least where a bank has two or
        more. 0 = none.
      chosen: the part of each bank that is split, as if nothing else were in it; () = all.

    Raises:
      UserError: an unknown split, column or group, or no image in the split.
    """
    if split not in ("train", "val"):
        raise UserError(
            f"Unknown split {split!r}.{did_you_mean(split, ('train', 'val'))} There are: train,"
            " val."
        )
    if split_by not in METADATA_SCHEMA.names:
        hint, columns = (
            did_you_mean(split_by, METADATA_SCHEMA.names),
            ", ".join(METADATA_SCHEMA.names),
        )
        raise UserError(
            f"data.split_by={split_by!r} is no column of the metadata.{hint} There are: {columns}."
        )
    if not 0 <= val_fraction < 1:
        raise UserError(
            f"data.val_fraction={val_fraction} must be at least 0 and below 1; 0.1 holds out a"
            " tenth."
        )
    path = path_of(split_by)
    with ThreadPoolExecutor(OPENERS) as pool:
        whole = list(pool.map(lambda bank: bank.runs(path), banks))
    parts: list[np.ndarray | None] = [one.rows for one in chosen] or [None] * len(banks)
    groups = [_part(*one) for one in zip(banks, whole, parts, strict=True)]
    known = sorted({name for names, *_ in groups for name in names})
    for name in val_groups:
        if name not in known:
            listed = ", ".join(known[:8]) + (
                f" and {len(known) - 8} more" if len(known) > 8 else ""
            )
            raise UserError(
                f"data.val_groups names {name!r}, but no bank has a {split_by} of that name"
                f".{did_you_mean(name, known)} There are: {listed}."
            )
    rows = []
    for bank, (names, codes, spans) in zip(banks, groups, strict=True):
        held_out = set(val_groups) if val_groups else _held_out(names, val_fraction)
        if split == "val" and val_fraction and not val_groups and not held_out:
            log.info(
                "%s has one %s only, so nothing of it is held out for validation",
                bank.path,
                split_by,
            )
        in_val = np.array([name in held_out for name in names], bool)[codes]
        mine = in_val == (split == "val")
        rows.append(Rows(*(ends[mine] for ends in spans)))
    if not sum(map(len, rows)):
        what = {"train": "left to train on", "val": "held out for validation"}[split]
        raise UserError(
            f"No image is {what}: the banks {', '.join(str(bank.path) for bank in banks)} have"
            f" {len(known)} groups by {split_by}"
            f" ({', '.join(known[:4])}{', ...' if len(known) > 4 else ''}), data.val_groups is"
            f" {tuple(val_groups)} and data.val_fraction {val_fraction}. Name other groups, split"
            " by another column with --config.data.split_by=well, or train without validation."
        )
    return rows


def path_of(column: str) -> tuple[str, ...]:
    """The columns that name a group: "plate" is one of an experiment."""
    return PLACES[: PLACES.index(column) + 1] if column in PLACES else (column,)


def group_name(values: Sequence[str | None]) -> str:
    """What a group is called that has these values in the columns of `path_of`."""
    return "/".join(text or "" for text in values).lstrip("/")


def _part(
    bank: ImageBank, runs: Runs, rows: np.ndarray | None
) -> tuple[list[str], np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Names of the groups of a bank, or of the rows of it that are chosen; and of each run of rows
    the position of its group in them, and where it begins and ends.
    """
    names = [group_name(values) for values in runs.values]
    if rows is None:
        return names, runs.codes, (runs.starts, np.append(runs.starts[1:], len(bank)))
    run = np.searchsorted(runs.starts, rows, side="right") - 1
    first = np.flatnonzero((np.diff(rows, prepend=-2) != 1) | (np.diff(run, prepend=-1) != 0))
    last = np.append(first[1:], len(rows))[: len(first)] - 1
    there, codes = np.unique(runs.codes[run[first]], return_inverse=True)
    return [names[code] for code in there], codes, (rows[first], rows[last] + 1)


def _held_out(names: Sequence[str], fraction: float) -> set[str]:
    if not fraction or len(set(names)) < 2:
        return set()
    position = {
        name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64 for name in names
    }
    return {name for name in names if position[name] < fraction} or {
        min(names, key=position.__getitem__)
    }
