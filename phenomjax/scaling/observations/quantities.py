"""Parameters, tokens and FLOPs as people write them: 1.4B, 350M, 3.2 x 10^20, 1,000,000; and what
the name of a column says they are counted in.
"""

import math
import re

from phenomjax.data.numbers import parse_number

THOUSAND, MILLION, BILLION, TRILLION = 1e3, 1e6, 1e9, 1e12
SCALES = {
    "k": THOUSAND, "thousand": THOUSAND, "thousands": THOUSAND,
    "m": MILLION, "mn": MILLION, "mio": MILLION, "million": MILLION, "millions": MILLION,
    "b": BILLION, "bn": BILLION, "g": BILLION, "billion": BILLION, "billions": BILLION,
    "t": TRILLION, "tn": TRILLION, "trillion": TRILLION, "trillions": TRILLION,
    "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24,
}  # fmt: skip
COUNTED = r"(?:params?|parameters?|tokens?|residues?|images?|flops?)"
NUMBER = re.compile(
    rf"([-+]?[\d.,' _\u00a0\u2009\u202f]*\d\.?(?:e[-+]?\d+)?)\s*([a-z]*?)\s*{COUNTED}?", re.I
)
POWER = re.compile(r"\s*[x\u00d7\u00b7*]\s*10\s*\^?\s*([-+]?\d+)\s*$")
GROUPED = re.compile(
    r"\d{1,3}(?:([,'_ \u00a0\u2009\u202f])\d{3})(?:\1\d{3})*|\d{1,3}(?:\.\d{3}){2,}"
)
HEADER_SCALE = re.compile(
    r"[(\[]\s*(?:in\s+)?(1e\d+|10\^\d+|[a-z]+)[^)\]]*[)\]]\s*$|_(?:in_)?(thousands|millions|billions|trillions)$",
    re.I,
)


def number(text: str | None, sign: str, count: bool) -> float:
    """The number that a text means; of counts with "1.4B" and the like.

    Raises:
      ValueError: none, with the reason.
    """
    if text is None:
        raise ValueError("nothing is there: the run did not end, or diverged")
    if text.lower().lstrip("+-") in ("inf", "infinity", "1.#inf"):
        return math.inf
    power = POWER.search(text)
    plain = text[: power.start()] if power else text
    if not count:
        value = parse_number(plain, sign)
        return value * 10 ** int(power[1]) if power else value
    parts = NUMBER.fullmatch(plain.strip())
    if not parts or (parts[2] and parts[2].lower() not in SCALES):
        raise ValueError(f"'{text}' is not a number")
    digits, scale = parts[1].strip(), SCALES[parts[2].lower()] if parts[2] else 1.0
    if GROUPED.fullmatch(digits) and not (parts[2] or power):
        return float(re.sub(r"\D", "", digits))
    value = parse_number(digits.replace("_", "").replace("'", ""), sign)
    return value * scale * (10.0 ** int(power[1]) if power else 1.0)


def header_scale(name: str) -> float:
    """The factor that a column's name says, as "params (M)" does."""
    if not (found := HEADER_SCALE.search(name)):
        return 1.0
    word = (found[1] or found[2]).lower()
    if word.startswith(("1e", "10^")):
        return 10.0 ** int(word[2:] if word.startswith("1e") else word[3:])
    return SCALES.get(word, 1.0)
