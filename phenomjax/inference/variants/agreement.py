"""Whether the rows of a table are of the wild type at all: where they count from elsewhere, some
agree with it by chance, and would be scored at wrong residues.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phenomjax.system.errors import UserError

TELLING = 5  # different positions that must agree before an offset is proposed
LEAST_SHARE = 0.5  # of the rows; with fewer nothing is scored, whatever the flags
NEARLY_ALL = 0.9  # of the rows; another offset at which so many agree is the right one
FARTHEST = 10**7  # of offsets; the longest known protein has 45,000 residues
Claim = tuple[int, str]  # position as the table counts (its row's offset taken off), letter


@dataclass(frozen=True)
class Wording:
    """What the user calls the settings that errors speak of; `skip` follows what mends bad rows."""

    table: str = "`mutants`"
    wild_type: str = "`wild_type`"
    column: str = "`mutant_column`"
    target: str = "`target_column`"
    which: str = " with `wild_type_id` {}"
    offset: str = "`offset` {}"
    by_row: str = "write each row's offset into a column, and give its name with `offset_column`"
    skip: str = ", or give `skip_invalid` to leave them without a score"
    skip_too: str = " and `skip_invalid`, which leaves the others without a score"

    def setting(self, name: str) -> str:
        """A setting as the log says it: there no door makes a flag of it."""
        said = str(getattr(self, name))
        return f"--{said.strip('`')}" if said.startswith("`") else said


COMMAND_LINE = Wording()
FARTHEST = 10**5  # no protein is as long


class Claims:
    """What the rows of a table say of the wild type.

    Args:
      rows: claims of each row, empty for rows that make none.
      wild_type: the sequence.
    """

    def __init__(self, rows: Sequence[Sequence[Claim]], wild_type: str):
        self._letters = np.frombuffer(wild_type.encode(), np.uint8)
        # a position of more digits than a protein has residues agrees with nothing
        rows = [[(min(place, FARTHEST), letter) for place, letter in row] for row in rows]
        pairs = sorted({claim for row in rows for claim in row})
        number = {claim: i for i, claim in enumerate(pairs)}
        self._positions = np.array([position for position, _ in pairs], np.int64)
        self._old = np.array([ord(letter) for _, letter in pairs], np.uint8)
        self.told = np.array([bool(row) for row in rows], bool)
        self._row = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        self._pair = np.array([number[claim] for row in rows for claim in row], np.int64)

    def agree(self, offset: int) -> np.ndarray:
        """[rows] bool: whether all that the row says is so; rows that say nothing do not count."""
        right = self._fit(offset)
        wrong = np.bincount(self._row, ~right[self._pair], len(self.told)) > 0
        return self.told & ~wrong

    def _fit(self, offset: int) -> np.ndarray:
        places = self._positions - 1 - offset
        inside = (places >= 0) & (places < len(self._letters))
        return inside & (self._letters[np.where(inside, places, 0)] == self._old)

    def best(self, among: np.ndarray) -> tuple[list[int], int]:
        """The offsets at which most of some rows agree, and how many do; ([], 0) where too few
        positions could tell.
        """
        used = np.unique(self._pair[among[self._row]])
        if len(np.unique(self._positions[used])) < TELLING:
            return [], 0
        weights = np.bincount(self._pair[among[self._row]], minlength=len(self._old))
        votes = [
            (self._positions[i] - 1 - np.flatnonzero(self._letters == self._old[i]), weights[i])
            for i in used
        ]
        shifts, place = np.unique(np.concatenate([s for s, _ in votes]), return_inverse=True)
        fits = np.bincount(place, np.concatenate([np.full(len(s), w) for s, w in votes]))
        likely = [int(shifts[i]) for i in np.argsort(-fits, kind="stable")[:8]]
        counts = {shift: int((self.agree(shift) & among).sum()) for shift in likely}
        most = max(counts.values(), default=0)
        return sorted((s for s in likely if counts[s] == most), key=abs), most


def check(
    path: Path,
    claims: Claims,
    lines: Sequence[int],
    explain: Callable[[int], str],
    offset: int,
    others: int,
    wording: Wording,
    *,
    from_zero: bool,
) -> None:
    """Refuses a table that does not count as the wild type does.

    Args:
      path: of the table, for the message.
      claims: of its rows.
      lines: where each row stands.
      explain: what is wrong with a row, by its number.
      offset: that was given.
      others: rows that cannot be scored whatever the offset.
      wording: of errors.
      from_zero: the table's notation counts from 0.

    Raises:
      UserError: fewer than LEAST_SHARE of the rows agree; or nearly all do at another offset, or
        nearly all of the rest.
    """
    agree, told = claims.agree(offset), int(claims.told.sum())
    here = int(agree.sum())
    if not told or here == told:
        return
    rest = claims.told & ~agree
    first = int(np.flatnonzero(rest)[0])
    counted = (
        f"{path}, row {lines[first]} {explain(first)}. Only {here} of {told} rows agree with the"
        " wild type"
    )
    shifts, there = claims.best(claims.told)
    if from_zero and claims.agree(-1).sum() == told:
        shifts, there = [-1], told
    shifts = [shift for shift in shifts if shift != offset]
    if shifts and there >= NEARLY_ALL * told and there > here:
        chance = ", no more than by chance" if here < LEAST_SHARE * told else ""
        all_of_them = "all of them" if there == told else f"{there} of {told}"
        too = wording.skip_too if there < told or others else ""
        raise UserError(
            f"{counted}{chance}, so nothing is scored: the table counts its positions from"
            f" elsewhere. With {_named(shifts, wording)} {all_of_them} agree. Look whether that is"
            f" how the table counts, and run again with it{too}."
        )
    if here < LEAST_SHARE * told:
        raise UserError(
            f"{counted}, fewer than {LEAST_SHARE:.0%}, so nothing is scored, and no offset makes"
            " nearly all agree: they are of another protein, another variant of it, or several"
            f" constructs. Check {wording.table} and {wording.wild_type}."
        )
    shifts, there = claims.best(rest)
    if shifts and there >= NEARLY_ALL * rest.sum():
        raise UserError(
            f"{counted}, and {there} of the others would with {_named(shifts, wording)}: the"
            " numbering has a jump, or the rows are of several constructs, and some would be scored"
            f" at wrong residues. Give the parts as tables of their own, or {wording.by_row}."
        )


def _named(shifts: Sequence[int], wording: Wording) -> str:
    return " or ".join(wording.offset.format(shift) for shift in shifts[:3])
