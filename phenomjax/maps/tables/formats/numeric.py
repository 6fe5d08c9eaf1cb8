"""Which columns hold numbers, though a few of their cells hold a text ("#DIV/0!", "1,5", "inf")."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from phenomjax.data.numbers import decimal_sign, parse_number
from phenomjax.data.tables import MISSING
from phenomjax.maps.tables.columns import as_texts
from phenomjax.maps.tables.formats.features import CELL_PROFILER
from phenomjax.maps.tables.sources import Block, Note, noted
from phenomjax.system.errors import UserError, first_of

if TYPE_CHECKING:
    import pandas as pd

MOST_BAD = 0.1  # share of the cells of a feature that may hold a text that is no number
_INFINITE = {f"{sign}{word}": f"{sign}inf" for sign in ("", "-") for word in ("1.#INF", "∞")}


@dataclass(frozen=True)
class Cells:
    """What the cells of a column hold.

    Attributes:
      good: how many hold a number.
      bad: how many hold another text.
      texts: how many hold a text that is no number, those too that mean "missing", as "#DIV/0!".
      example: one of these texts.
    """

    good: int = 0
    bad: int = 0
    texts: int = 0
    example: str = ""

    def __add__(self, other: "Cells") -> "Cells":
        return Cells(
            self.good + other.good,
            self.bad + other.bad,
            self.texts + other.texts,
            self.example or other.example,
        )

    @property
    def numeric(self) -> bool:
        """At most a tenth of its cells hold another text."""
        return not self.texts or (self.good > 0 and self.bad <= MOST_BAD * (self.good + self.bad))


def as_numbers(column: "pd.Series") -> tuple[Float64[np.ndarray, " rows"], Cells]:
    """A column of text as numbers (1.5 and 1,5, inf, as Excel and R write them), NaN where there
    is none; and what its cells hold.
    """
    import pandas as pd

    texts = as_texts(column).str.strip()
    values = pd.to_numeric(texts.replace(_INFINITE), errors="coerce").to_numpy(np.float64).copy()
    missing = texts.isin(MISSING).to_numpy()
    commas = texts.str.contains(",", regex=False)
    sign = (
        decimal_sign(texts[commas | texts.str.contains(".", regex=False)]) if commas.any() else ""
    )
    rest = np.flatnonzero(~missing & (np.isnan(values) | (sign == ",")))
    bad = []
    for row in rest:
        try:
            values[row] = parse_number(texts.iloc[row], sign)
        except ValueError:
            if np.isnan(values[row]):
                bad.append(texts.iloc[row])
    written = [text for text in texts[missing] if text]
    good = len(texts) - int(missing.sum()) - len(bad)
    return values, Cells(good, len(bad), len(bad) + len(written), (bad + written + [""])[0])


def numbers_among(names: Sequence[str], metadata: "pd.DataFrame") -> list[str]:
    """Those of some columns that hold numbers."""
    return [name for name in names if metadata[name].dtype.kind in "iuf"]


class Tally:
    """What the columns of a table hold, that may be features; told frame by frame.

    Attributes:
      candidates: their names.
    """

    def __init__(self, candidates: Sequence[str]):
        self.candidates = tuple(candidates)
        self._seen = {name: Cells() for name in candidates}

    def block(self, frame: "pd.DataFrame", names: Sequence[str] | None = None) -> Block:
        """The candidates of some rows, or those of some names, as float32 [rows, names], NaN where
        there is no number.
        """
        names = self.candidates if names is None else names
        block = np.empty((len(frame), len(names)), np.float32)
        numeric = set(frame.select_dtypes("number").columns)
        places = [k for k, name in enumerate(names) if name in numeric]
        with np.errstate(over="ignore"):
            chosen = frame[[names[k] for k in places]]
            block[:, places] = chosen.to_numpy(np.float32, na_value=np.nan)
            for k, name in enumerate(names):
                cells = Cells(good=len(frame))
                if name not in numeric:
                    block[:, k], cells = as_numbers(frame[name])
                self._seen[name] += cells
        return block

    def features(self, path: Path, strict: str | None) -> tuple[tuple[str, ...], tuple[Note, ...]]:
        """The candidates that hold numbers, and what is to be told of them.

        Args:
          path: of the table.
          strict: the regular expression by which the user named the candidates, if he did.

        Raises:
          UserError: one of them that the user named holds none; or none is left.
        """
        texts = [name for name, seen in self._seen.items() if not seen.numeric]
        if texts and strict is not None:
            raise UserError(
                f"`features` {strict!r} matches '{texts[0]}' of {path}, which holds no numbers but"
                f" texts as {self._seen[texts[0]].example!r}. Write a narrower expression."
            )
        left = set(texts)
        names = tuple(name for name in self.candidates if name not in left)
        if not names:
            raise UserError(
                f"The columns of {path} that could be features hold no numbers:"
                f" {first_of(texts, 12)}. Name those that are"
                " features with `features` REGEX."
            )
        gaps = tuple(name for name in names if self._seen[name].texts)
        odd = tuple(name for name in texts if CELL_PROFILER.fullmatch(name))
        notes: list[Note] = []
        for kind, some in (("gaps", gaps), ("text", odd)):
            count = sum(self._seen[name].texts for name in some)
            notes += noted(kind, some, count, self._seen[some[0]].example if some else "")
        return names, tuple(notes)
