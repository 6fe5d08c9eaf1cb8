"""Numbers as people write them: 1.5, 1,5, 1,000.5, 1.000,5, 1e-5, and the true minus sign."""

import re
from collections.abc import Iterable

_EXPONENT = r"(?:[eE][+-]?\d+)?"
_POINT = re.compile(rf"[+-]?(?:\d*\.\d+|\d{{1,3}}(?:,\d{{3}})+\.\d*){_EXPONENT}")
_COMMA = re.compile(rf"[+-]?(?:\d*,\d+|\d{{1,3}}(?:\.\d{{3}})+,\d*){_EXPONENT}")
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2}([.,])\d{3}")  # 1,500: a thousand and a half, or 1.5
_GROUPS = {
    ",": re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+(?:,\d*)?"),
    ".": re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?"),
}


def decimal_sign(texts: Iterable[str]) -> str:
    """How the numbers of a column are written.

    Returns:
      "." or "," as all of them that tell are written; "" where none tells; "both" where some are
      written one way and some the other.
    """
    found = set()
    for text in texts:
        text = _plain(text)
        if _EITHER.fullmatch(text):
            continue
        if _POINT.fullmatch(text):
            found.add(".")
        if _COMMA.fullmatch(text):
            found.add(",")
    return "both" if len(found) == 2 else next(iter(found), "")


def parse_number(text: str, sign: str = "") -> float:
    """The number that a text means.

    Args:
      text: "1,5".
      sign: of its column, by `decimal_sign`.

    Raises:
      ValueError: it is no number, or it can be read in two ways ("1,500" where nothing tells
        whether commas are decimal).
    """
    plain = _plain(text)
    if "_" in plain or not any(c.isdigit() for c in plain) or not plain.isascii():
        raise ValueError(f"{text!r} is not a number")
    either = _EITHER.fullmatch(plain)
    if either and (sign == "both" or (sign == "" and either[1] == ",")):
        raise ValueError(
            f"{text!r} can be read in two ways: write {plain.replace(',', '.')}, or"
            f" {plain.replace(',', '').replace('.', '')}"
        )
    if sign in ("", "both"):
        sign = "," if _COMMA.fullmatch(plain) else "."
    if _GROUPS[sign].fullmatch(plain):
        plain = plain.replace("," if sign == "." else ".", "")
    if sign == ",":
        if "." in plain:
            raise ValueError(f"{text!r} has a decimal point where other numbers have a comma")
        plain = plain.replace(",", ".")
    try:
        return float(plain)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def _plain(text: str) -> str:
    return re.sub("[\u00a0\u202f\u2009 ]", "", text).replace("\N{MINUS SIGN}", "-")
