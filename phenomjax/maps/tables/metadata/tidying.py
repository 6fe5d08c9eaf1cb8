"""Metadata as every command expects it, whichever program wrote it: texts without the blanks around
them, missing values that are missing, ids that are texts.
"""

import logging
import re
from typing import TYPE_CHECKING

import numpy as np

from phenomjax.maps.tables.metadata.detection import NAMES, plain

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    import pandas as pd

NOTHING = frozenset({"", "nan", "NaN", "None", "<NA>", "NaT"})  # as a missing value becomes a text
_FRACTION = re.compile(r"\d+\.0+")
OF_NAMES = ("plate", "experiment", "well", "perturbation", "gene")


def tidied(metadata: "pd.DataFrame") -> "pd.DataFrame":
    """Tidy metadata of the same rows.

    Categories become what they name; whole numbers that became fractions beside an empty cell are
    texts again where they name something (gene 42.0 is "42", and so is the text "42.0"); lists
    become texts; texts lose the blanks around them, and those that a program wrote for a missing
    value ("nan", "") are missing.
    """
    metadata = metadata.copy(deep=False)
    blank, nothing = [], []
    for name in metadata.columns:
        values = metadata[name]
        if values.dtype.kind == "f" and _names(name) and _whole(values):
            texts = values.map(lambda value: None if np.isnan(value) else f"{value:.0f}")
            metadata[name] = texts.astype(object)
        elif values.dtype.kind == "O":  # objects, texts and categories
            try:
                values.unique()
            except TypeError:  # lists, as Parquet may hold them
                values = values.map(_as_text)
            plain_values = values.astype(object).where(values.notna(), None)
            clean = {text: text.strip() for text in values.unique() if isinstance(text, str)}
            missing = {text for text, stripped in clean.items() if stripped in NOTHING}
            moved = {text for text, stripped in clean.items() if text != stripped} - missing
            if missing or moved:
                known = {**clean, **dict.fromkeys(missing)}
                plain_values = plain_values.map(lambda value, known=known: known.get(value, value))
                plain_values = plain_values.astype(object).where(plain_values.notna(), None)
            if _names(name) and clean and all(_FRACTION.fullmatch(t) for t in clean.values()):
                plain_values = plain_values.map(
                    lambda value: value.split(".")[0] if isinstance(value, str) else value
                )
            metadata[name] = plain_values
            blank += [f"{name} ({int(values.isin(moved).sum())})"] if moved else []
            said = missing - {""}
            nothing += [f"{name} ({int(values.isin(said).sum())})"] if said else []
    if blank:
        log.info("metadata: blanks around texts are removed in %s", ", ".join(blank))
    if nothing:
        log.info("metadata: texts such as 'nan' are missing values in %s", ", ".join(nothing))
    return metadata


def _as_text(value: object) -> object:
    """A list as the text that lists of targets are: A|B."""
    if isinstance(value, list | tuple | set | np.ndarray):
        return "|".join(map(str, value))
    return str(value) if isinstance(value, dict) else value


def _names(column: object) -> bool:
    """Whether a column of numbers names things rather than measures them."""
    known = plain(column)
    return known.endswith("id") or any(known in tier for role in OF_NAMES for tier in NAMES[role])


def _whole(values: "pd.Series") -> bool:
    known = values.dropna()
    return bool(len(known)) and bool((known % 1 == 0).all()) and bool((known.abs() < 2**53).all())
