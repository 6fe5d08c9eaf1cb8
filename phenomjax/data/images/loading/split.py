"""Which images of a bank are held out for validation: whole plates (or experiments, genes), never
single images.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Int

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
    left = set(val_groups).difference(*(_names(runs) for runs, _ in groups)) if val_groups else ()
    if left:
        name, known = min(left, key=list(val_groups).index), _known(groups)
        listed = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
        raise UserError(
            f"data.val_groups names {name!r}, but no bank has a {split_by} of that name"
            f".{did_you_mean(name, known)} There are: {listed}. Hold out one of them,"
            f' --config.data.val_groups="{(known[0],)}", or a share of all:'
            ' --config.data.val_groups="()" --config.data.val_fraction=0.25.'
        )
    rows = []
    for bank, (runs, stops) in zip(banks, groups, strict=True):
        if val_groups:
            held_out = np.array([name in val_groups for name in _names(runs)], bool)
        else:
            held_out = _held_out(runs, val_fraction)
        if split == "val" and val_fraction and not val_groups and not held_out.any():
            log.info(
                "%s has one %s only, so nothing of it is held out for validation",
                bank.path,
                split_by,
            )
        mine = held_out[runs.groups] == (split == "val")
        rows.append(Rows(runs.starts[mine], stops[mine]))
    if not sum(map(len, rows)):
        known = _known(groups)
        what, mend = (
            "held out for validation",
            "Name other groups, split by another column with --config.data.split_by=well, or train"
            " without validation.",
        )
        if split == "train":
            fewer = "--config.data.val_fraction=0.1"
            if val_groups:
                fewer = f'--config.data.val_groups="{(known[0],)}"'
            what, mend = (
                "left to train on",
                f"Hold out fewer ({fewer}), or none:"
                ' --config.data.val_groups="()" --config.data.val_fraction=0.0.',
            )
        raise UserError(
            f"No image is {what}: the banks {', '.join(str(bank.path) for bank in banks)} have"
            f" {len(known)} groups by {split_by}"
            f" ({', '.join(known[:4])}{', ...' if len(known) > 4 else ''}), data.val_groups is"
            f" {tuple(val_groups)} and data.val_fraction {val_fraction}. {mend}"
        )
    return rows


def path_of(column: str) -> tuple[str, ...]:
    """The columns that name a group: "plate" is one of an experiment."""
    return PLACES[: PLACES.index(column) + 1] if column in PLACES else (column,)


def group_name(values: Sequence[str | None]) -> str:
    """What a group is called that has these values in the columns of `path_of`."""
    return "/".join(text or "" for text in values).lstrip("/")


def _part(
    bank: ImageBank, runs: Runs, rows: Int[np.ndarray, "rows"] | None
) -> tuple[Runs, Int[np.ndarray, "runs"]]:
    """The runs of a bank, or of the rows of it that are chosen, and the row behind each."""
    if rows is None:
        return runs, np.append(runs.starts[1:], len(bank))
    run = np.searchsorted(runs.starts, rows, side="right") - 1
    first = np.flatnonzero((np.diff(rows, prepend=-2) != 1) | (np.diff(run, prepend=-1) != 0))
    last = np.append(first[1:], len(rows))[: len(first)] - 1
    there, groups = np.unique(runs.groups[run[first]], return_inverse=True)
    return Runs(rows[first], groups, runs.codes[:, there], runs.texts), rows[last] + 1


def _names(runs: Runs) -> Iterator[str]:
    return map(group_name, runs.values())


def _known(groups: Sequence[tuple[Runs, object]]) -> list[str]:
    return sorted(set().union(*(_names(runs) for runs, _ in groups)))


def _held_out(runs: Runs, fraction: float) -> Bool[np.ndarray, "groups"]:
    if not fraction:
        return np.zeros(runs.codes.shape[1], bool)
    digests = (hashlib.sha256(name.encode()).digest()[:8] for name in _names(runs))
    positions = np.fromiter((int.from_bytes(one) / 2**64 for one in digests), float)
    if not len(positions) or positions.min() == positions.max():
        return np.zeros(len(positions), bool)
    return positions < max(fraction, np.nextafter(positions.min(), 1))
