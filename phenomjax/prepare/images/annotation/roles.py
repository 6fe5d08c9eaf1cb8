"""Roles of wells: which words in a table make a well a negative control, a positive one, or none.

Only a negative control is `is_control` in the bank: maps normalise by these wells. A positive
control is a perturbation with a known effect, so `is_control` is false and its `perturbation_type`
is "control" ("control" stands for controls of all kinds there, as in JUMP's pert_type).
"""

from collections import Counter
from collections.abc import Sequence

from phenomjax.data.images.words import (
    COLUMNS_OF_ROLES,
    COLUMNS_OF_SOME_ROLES,
    Role,
    plain,
    role_of,
)
from phenomjax.prepare.images.annotation.sheet import Sheet, rename
from phenomjax.system.errors import UserError


def holds_roles(column: str, looked: Sequence[str]) -> bool:
    """Whether a column holds roles.

    Args:
      column: its name.
      looked: its different values.
    """
    known = [role for value in looked if (role := role_of(value)) is not None]
    if plain(column) in COLUMNS_OF_SOME_ROLES:
        return len(known) == len(looked) and bool({"negative", "positive", "control"} & {*known})
    return plain(column) in COLUMNS_OF_ROLES and bool(known) and 2 * len(known) >= len(looked)


def find_roles(sheet: Sheet, places: Sequence[int]) -> tuple[list[Role | None], str]:
    """The role of each row.

    Args:
      sheet: the table.
      places: its columns of roles.

    Returns:
      roles: None where the row says nothing that is known.
      said: a sentence with the words and their counts.

    Raises:
      UserError: a row is a negative and a positive control; or only "control" where other rows
        tell the two apart.
    """
    words: Counter[tuple[str, Role | None]] = Counter()
    found: list[Role | None] = []
    names = ", ".join(sheet.columns[place] for place in places)
    told_apart = any(
        role_of(value) in ("negative", "positive")
        for place in places
        for value in set(sheet.values(place))
        if value is not None
    )
    for number, row in enumerate(sheet.rows):
        texts = [row[place] or "" for place in places]
        roles = {role_of(text) for text in texts if text} - {None}
        words.update((text, role_of(text)) for text in texts if text)
        if {"negative", "positive"} <= roles:
            raise UserError(
                f"{sheet.where[number]}: {' and '.join(repr(t) for t in texts if t)} ({names}) make"
                " one well a negative and a positive control. Correct the table, or leave a column"
                f" out: {rename(sheet.columns[places[0]], 'ignore')}."
            )
        for role in ("negative", "positive", "control", "empty", "treated"):
            if role in roles:
                break
        else:
            found.append(None)
            continue
        if role == "control" and told_apart:
            column = next(sheet.columns[p] for p in places if role_of(row[p] or "") == "control")
            raise UserError(
                f"{sheet.where[number]}: 'control' ({column}) is neither negative nor positive, and"
                " other rows tell the two apart. Correct the table, or leave the column out:"
                f" {rename(column, 'ignore')}; or, where 'control' means a negative one:"
                f" {rename(column, 'is_control')}."
            )
        found.append("negative" if role == "control" else role)
    return found, _said(names, words, told_apart)


def _said(names: str, words: Counter[tuple[str, Role | None]], told_apart: bool) -> str:
    meaning = {
        "negative": "a negative control (is_control)",
        "positive": "a positive control (not is_control, perturbation_type control)",
        "treated": "no control",
        "empty": "an empty well, no control",
        "control": "a control of the kind that another column tells"
        if told_apart
        else "a negative control (is_control), since no word tells negative from positive",
        None: "UNKNOWN, is_control stays empty",
    }
    parts = [f"{text!r} {count} is {meaning[role]}" for (text, role), count in words.most_common(9)]
    more = f"; and {len(words) - 9} other words" if len(words) > 9 else ""
    return f"roles of wells by {names}: {'; '.join(parts)}{more}"
