"""How plates spell wells and numbers, and the order that a person expects of them."""

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


def natural(text: str) -> list:
    """Sort key by which '2' comes before '10'; rows past Z come after Z."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if part.isdecimal() else (1, len(part), part) for part in parts]
