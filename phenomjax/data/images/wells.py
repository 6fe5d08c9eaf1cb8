"""How plates spell wells and numbers, and the order that a person expects of them."""

import functools
import re
import string


def normalise_number(text: str) -> str:
    """'01' -> '1'; anything that is not all digits 0 to 9 stays."""
    text = text.strip()
    return (text.lstrip("0") or "0") if re.fullmatch("[0-9]+", text) else text


def normalise_well(text: str) -> str:
    """Spells a well as letters and two digits: A1, a01, A/1, r01c01, 1/1 -> A01; anything else
    stays.

    Rows past Z are AA, AB, ... as on 1536-well plates.
    """
    text = text.strip()
    if match := re.fullmatch(r"([A-Za-z]{1,2})[-_/]?0*(\d{1,2})", text):
        return f"{match[1].upper()}{int(match[2]):02d}"
    if match := re.fullmatch(r"[rR]?0*(\d{1,2})[cC/]0*(\d{1,2})", text):
        row = int(match[1]) - 1
        letters = string.ascii_uppercase
        if 0 <= row < 52:
            name = letters[row] if row < 26 else letters[row // 26 - 1] + letters[row % 26]
            return f"{name}{int(match[2]):02d}"
    return text


@functools.lru_cache(2**12)
def well_of(text: str) -> str:
    """A well as the bank spells it: "a 2", "A-2", "A002" -> "A02"."""
    return normalise_well(re.sub(r"\s", "", text).removeprefix("'"))


@functools.lru_cache(2**17)
def number_of(text: str) -> str:
    """A number as it is compared: "01", "1.0" -> "1"; anything else stays."""
    text = text.strip()
    return normalise_number(text[:-2] if re.fullmatch(r"\d+\.0", text) else text)


def plate_of(text: str) -> str:
    """A plate as it is compared where no plate has exactly its name: without leading zeros, pandas'
    ".0", the apostrophe by which Excel keeps a text, capitals, and the time of measurement that
    Harmony appends ("NAME__2020-01-01T...").
    """
    return number_of(re.sub(r"__\d{4}-\d\d-\d\d.*", "", text.strip().removeprefix("'"))).casefold()


def looks_like_well(text: str) -> bool:
    """Whether a text names a well."""
    return re.fullmatch(r"[A-Z]{1,2}\d\d", well_of(text)) is not None


def natural(text: str) -> list:
    """Sort key by which '2' comes before '10'; rows past Z come after Z."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if part.isdecimal() else (1, len(part), part) for part in parts]
