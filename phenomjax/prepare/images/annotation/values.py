"""Values of the bank from the texts of a table: concentrations with units, types, booleans."""

import re
from collections.abc import Iterable

from phenomjax.data.images.metadata import PERTURBATION_TYPES
from phenomjax.data.images.words import FALSE, TRUE, type_of
from phenomjax.data.numbers import parse_number
from phenomjax.prepare.images.annotation.sheet import rename
from phenomjax.system.errors import UserError, did_you_mean

Value = str | float | bool | None
# micromoles per litre, in which the bank counts
MICROMOLAR = {"pm": 1e-6, "nm": 1e-3, "um": 1.0, "mm": 1e3, "m": 1e6}
_UNIT_NAMES = {
    **{"picomolar": "pm", "nanomolar": "nm", "micromolar": "um", "millimolar": "mm", "molar": "m"},
    **{"mmolesperliter": "mm", "umolesperliter": "um", "nmolesperliter": "nm"},
    **{"pmol/l": "pm", "nmol/l": "nm", "umol/l": "um", "mmol/l": "mm", "mol/l": "m"},
}
_DATE = re.compile(r"\d{1,2}-(?:Mar|Sep|Sept|Dec|Oct|Feb|Apr|Nov)|(?:Mar|Sep|Dec|Oct)-\d\d")


def unit_of(text: str) -> str | None:
    """'nm', 'um', ... of a text that is a unit of concentration and nothing else; None of another.

    "uM", "µM" (both micro signs), "micromolar", "umol/L".
    """
    text = re.sub("[\u00b5\u03bc]", "u", text.strip()).lower()
    text = _UNIT_NAMES.get(text, _UNIT_NAMES.get(re.sub(r"[\s_]", "", text), text))
    return text if text in MICROMOLAR else None


def concentration(
    text: str,
    where: str,
    sign: str = "",
    unit: str | None = None,
    column: str = "concentration",
) -> float:
    """A concentration in micromoles per litre where it has a unit, else the number as it is.

    Args:
      text: "1,5", "10 nM".
      where: for errors.
      sign: of the column's numbers, by `numbers.decimal_sign`.
      unit: of the column, where its name or another column says it.
      column: what the table calls it, for errors.

    Raises:
      UserError: it is no number or below 0, or its unit is none of MICROMOLAR.
    """
    match = re.fullmatch(
        r"([+-]?[\d.,\s\u00a0]*\d[.,]?(?:[eE][+-]?\d+)?)\s*(\D[^\d]*)", text.strip()
    )
    own = match[2].strip() if match else ""
    known = unit_of(own) if own else unit
    if own and known is None:
        raise UserError(
            f"{where}: concentration {text!r} has the unit {own!r}, and only {_units()} are known."
            " Write micromoles per litre, or leave the column out:"
            f" {rename(column, 'ignore')}."
        )
    try:
        number = parse_number(match[1] if match else text, sign)
    except ValueError as error:
        raise UserError(
            f"{where}: concentration {error}. Write a number (a unit may follow it: {_units()}), or"
            f" leave the column out: {rename(column, 'ignore')}."
        ) from None
    if number < 0:
        raise UserError(
            f"{where}: concentration {text!r} is below 0 (a logarithm, or a mark of no value?)."
            " Write the concentration itself, or nothing, or leave the column out:"
            f" {rename(column, 'ignore')}."
        )
    factor = MICROMOLAR[known] if known else 1.0
    return number / round(1 / factor) if factor < 1 else number * factor


def number_part(text: str) -> str:
    """A concentration without its unit, for `numbers.decimal_sign`."""
    return re.sub(r"\s*[^\d.,eE+-].*$", "", text.strip())


def check_value(column: str, text: str | None, where: str) -> Value:
    """Converts one text to the column's type: float, bool or string; None for an empty one."""
    text = (text or "").strip()
    if not text or text.lower() in ("nan", "null", "none"):
        return None
    if column == "concentration":
        return concentration(text, where)
    if column == "is_control":
        if text.lower() not in TRUE | FALSE:
            raise UserError(
                f"{where}: is_control {text!r} is neither true (1, -1, true, yes) nor false (0,"
                " false, no)."
            )
        return text.lower() in TRUE
    if column == "perturbation_type":
        known = type_of(text)
        if known is None:
            hint = did_you_mean(text, PERTURBATION_TYPES)
            raise UserError(
                f"{where}: perturbation_type {text!r} is unknown.{hint} There are:"
                f" {', '.join(PERTURBATION_TYPES)}."
            )
        return known
    return text


def dates(texts: Iterable[str | None]) -> list[str]:
    """Names that look like the dates that Excel makes of genes (MARCH1, SEPT2, DEC1, OCT4)."""
    return sorted({text for text in texts if text is not None and _DATE.fullmatch(text)})


def _units() -> str:
    return "pM, nM, uM, mM and M"
