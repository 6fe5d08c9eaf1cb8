"""The measured values of a table of variants: which column holds them, which cells hold a number,
and how well scores order them.
"""

import collections
import logging
import math
from collections.abc import Sequence

import numpy as np

from phenomjax.data.numbers import decimal_sign, parse_number

log = logging.getLogger("phenomjax")
# what assays are published with; ProteinGym, MaveDB, FLIP, TAPE
NAMES = ("dms_score", "fitness", "score", "target", "label", "effect", "measured", "activity")
SHARE = 0.5  # of the cells of a column of another name that must be numbers


def number(text: str, sign: str = "") -> float:
    """A finite number, else NaN; `sign` as of `data.numbers`."""
    try:
        value = parse_number(text, sign)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def numbers(cells: Sequence[str]) -> np.ndarray:
    """float64 [cells], NaN where there is no finite number; 0.5 and 0,5 are read."""
    sign = decimal_sign(cells)
    return np.array([number(cell, sign) for cell in cells], float)


def find(
    columns: Sequence[str], rows: Sequence[Sequence[str]], but: Sequence[str], setting: str
) -> str:
    """The column that holds the measured values if it is unmistakable, else ""; says so.

    It is the one with a usual name (NAMES), or the only one beside the variants.

    Args:
      columns, rows: of the table.
      but: names of columns that are something else.
      setting: that names the column.
    """
    numeric = dict[str, int]()
    for place, name in enumerate(columns):
        if name not in but and columns.count(name) == 1:
            values = numbers([row[place] for row in rows])
            numeric |= {name: count} if (count := int(np.isfinite(values).sum())) else {}
    known = [name for name in numeric if name.strip().lower() in NAMES]
    others = [name for name in columns if name not in but]
    only = [name for name in others if numeric.get(name, 0) >= SHARE * len(rows)]
    if len(known) == 1 or len(others) == len(only) == 1:
        (name,) = known or only
        log.info("measured values: column '%s' (%s names another)", name, setting)
        return name
    if numeric:
        log.info(
            "no correlation with measured values: name their column with %s (columns with"
            " numbers: %s)",
            setting,
            ", ".join(list(numeric)[:10]),
        )
    return ""


def report_missing(name: str, cells: Sequence[str], values: np.ndarray) -> None:
    """Says which cells hold no number."""
    texts = [cell.strip() for cell, x in zip(cells, values, strict=True) if not np.isfinite(x)]
    if texts:
        kinds = collections.Counter(text or "empty" for text in texts)
        shown = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common(5))
        log.warning(
            "%d of %d rows have no number in '%s', and have no part in the correlation: %s",
            len(texts),
            len(cells),
            name,
            shown,
        )


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation; ties share their mean rank. NaN if one of them does not vary."""
    from scipy.stats import spearmanr

    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def correlate(name: str, values: np.ndarray, scores: np.ndarray, label: str = "") -> float:
    """Prints Spearman's correlation of scores with measured values, over those that are there; or
    why there is none.

    Returns:
      The correlation, NaN where there is none.
    """
    there = np.isfinite(values)
    rho = spearman(values[there], scores[there])
    if np.isfinite(rho):
        print(f"Spearman correlation with {name}{label}: {rho:.4f} ({there.sum()} variants)")
        return rho
    why = (
        f"{there.sum()} of the scored rows have a number there"
        if there.sum() < 2
        else f"all {there.sum()} values are equal"
        if np.ptp(values[there]) == 0
        else f"all {there.sum()} scores are equal"
    )
    log.error("no Spearman correlation with %s%s: %s", name, label, why)
    return rho
