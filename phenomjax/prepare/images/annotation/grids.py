"""A table that is shaped like a plate: rows A, B, ..., columns 1, 2, ..., one value a well."""

import re

from phenomjax.data.images.wells import normalise_well, number_of
from phenomjax.prepare.images.annotation.sheet import Sheet
from phenomjax.system.errors import UserError

VALUE = "grid"  # how --rename calls its one column


def is_grid(sheet: Sheet) -> bool:
    """Whether a table is one: the header counts 1, 2, 3, and the first row begins with a letter."""
    numbers = [number_of(column) for column in sheet.columns[1:]]
    if (
        not sheet.rows
        or len(numbers) < 2
        or not all(map(re.compile("[0-9]{1,2}").fullmatch, numbers))
    ):
        return False
    if [int(text) for text in numbers] != list(range(int(numbers[0]), int(numbers[-1]) + 1)):
        return False
    return int(numbers[-1]) <= 48 and _is_letter(sheet.rows[0][0])


def _is_letter(text: str | None) -> bool:
    return re.fullmatch("[A-Za-z]{1,2}", text or "") is not None


def melt(sheet: Sheet, target: str | None) -> tuple[Sheet, str]:
    """A grid as a table of one row a well, and what to say of it.

    Args:
      sheet: a grid.
      target: what --rename grid= says that its values are; None: perturbations.

    Raises:
      UserError: all its values are numbers, which may be anything, and nothing is said; or a row is
        there twice (several grids in one file), or something else stands below.
    """
    letters = [(row[0] or "").upper() for row in sheet.rows]
    if other := next((row[0] or "" for row in sheet.rows if not _is_letter(row[0])), None):
        raise UserError(
            f"{sheet.name} is shaped like a plate, and has more below it ({other!r}). Give each"
            " plate, or each kind of value, a file of its own, or write one row a well with the"
            " columns plate, well and what the wells hold."
        )
    if twice := next((one for one in letters if letters.count(one) > 1), None):
        raise UserError(
            f"{sheet.name} is shaped like a plate, and has row {twice} twice: several plates in one"
            " file. Give each plate a file of its own, or write one row a well with the columns"
            " plate, well and what the wells hold."
        )
    wells, texts, where = [], [], []
    for letter, row, place in zip(letters, sheet.rows, sheet.where, strict=True):
        for column, text in zip(sheet.columns[1:], row[1:], strict=True):
            if text is not None:
                wells.append(normalise_well(letter + number_of(column)))
                texts.append(text)
                where.append(f"{place}, column {column}")
    numeric = all(re.fullmatch(r"[+-]?[\d.,]+(?:[eE][+-]?\d+)?", text) for text in texts)
    if target is None and texts and numeric:
        raise UserError(
            f"{sheet.name} is shaped like a plate (rows {letters[0]} to {letters[-1]}, columns"
            f" {sheet.columns[1]} to {sheet.columns[-1]}), and its values are numbers. Say what"
            f" they are: --rename {VALUE}=concentration, or {VALUE}=perturbation."
        )
    name = target or "perturbation"
    rows: list[tuple[str | None, ...]] = list(zip(wells, texts, strict=True))
    told = (
        f"{sheet.name}: shaped like a plate, {len(rows)} wells read as {name}"
        f" (--rename {VALUE}=gene, for instance, if they are something else)"
    )
    return Sheet(sheet.name, ("well", VALUE), rows, where), told
