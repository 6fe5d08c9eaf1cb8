"""Which column of the metadata is the batch, the control, the perturbation: names and queries."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Shaped

from phenomjax.data.images.words import FALSE, TRUE, role_of
from phenomjax.system.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd


PREFIX = re.compile(r"^(image[_. ])?meta(data)?[_. :]", re.IGNORECASE)  # dots as of R
DETECT = "detect"  # what a setting says until metadata/detection has looked at the table


@dataclass(frozen=True)
class Columns:
    """Names of the metadata columns; the defaults are those of our banks.

    As `input.load` gives them, each name is of a column that there is, or "" (and () for several)
    where the table has none; what a user named stays as it was said.

    Attributes:
      batch: columns that together name a batch; a plate's name is unique only within its
        experiment.
      control: negative controls: a column of booleans, or a pandas query such as
        'Metadata_control_type == "negcon"'; "" where nothing tells them.
      positive: positive controls, likewise.
      treatment: a pandas query for the rows that are perturbations under study, "all" for all rows
        but the negative controls, or "" for the rule of `treatments`.
      perturbation, gene, well, plate, dose, kind: of a row; `kind` is crispr, compound, … .
      within: columns without which a plate's name is not unique, where `batch` does not say so.
      apart: time points and kinds of cells, across which nothing is averaged.
      separators: signs, each of which parts the genes of a list of targets.
    """

    batch: tuple[str, ...] = ("experiment", "plate")
    control: str = "is_control"
    positive: str = ""
    treatment: str = ""
    perturbation: str = "perturbation"
    gene: str = "gene"
    well: str = "well"
    plate: str = "plate"
    dose: str = "concentration"
    kind: str = "perturbation_type"
    within: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    separators: str = "|;,"

    def identity(self, metadata: "pd.DataFrame") -> list[str]:
        """The columns that together name a well: batch, plate (always), time point, well."""
        others = [name for name in (*self.within, self.plate, *self.apart) if name in metadata]
        return list(dict.fromkeys([*self.batch, *others, self.well]))

    def batches(self, metadata: "pd.DataFrame") -> Shaped[np.ndarray, " rows"]:
        """Name of each row's batch, str [rows].

        Raises:
          UserError: a batch column that the table has not.
        """
        parts = [require(metadata, name, "`batch`") for name in self.batch]
        if not parts:
            return np.full(len(metadata), "all", object)
        # one text for all rows of a batch: of cells there may be millions
        by = [part.to_numpy() for part in parts]
        codes = metadata.groupby(by, dropna=False, sort=False, observed=True).ngroup().to_numpy()
        _, first = np.unique(codes, return_index=True)
        texts = [as_texts(part.iloc[first]) for part in parts]
        joined = texts[0]
        for text in texts[1:]:
            joined = joined + "/" + text
        return joined.to_numpy(object)[codes]

    def controls(self, metadata: "pd.DataFrame") -> Bool[np.ndarray, " rows"]:
        """Which rows are negative controls, bool [rows].

        Raises:
          UserError: a column that is not there or holds no booleans, or a query that pandas cannot
            answer.
        """
        return _told(metadata, self.control, "`control`")

    def positives(self, metadata: "pd.DataFrame") -> Bool[np.ndarray, " rows"]:
        """Which rows are positive controls, and no negative ones, bool [rows].

        Raises:
          UserError: as `controls`.
        """
        return _told(metadata, self.positive, "`positive`") & ~self.controls(metadata)

    def treatments(self, metadata: "pd.DataFrame") -> Bool[np.ndarray, " rows"]:
        """Which rows are perturbations under study, bool [rows].

        Not the negative controls, nor rows without a name of a perturbation; but for `treatment`
        "all" also not the positive controls: they are repeated on every plate, so that they look
        more consistent than the library and fill the null with themselves.
        """
        named = require(metadata, self.perturbation, "`perturbation`").notna().to_numpy()
        chosen = named & ~self.controls(metadata)
        if self.treatment == "all":
            return chosen
        chosen &= ~self.positives(metadata)
        if self.treatment:
            chosen &= query_rows(metadata, self.treatment, "`treatments`")
        return chosen


UNTOLD = Columns(
    batch=(DETECT,),
    control=DETECT,
    positive=DETECT,
    treatment=DETECT,
    perturbation=DETECT,
    gene=DETECT,
    well=DETECT,
    plate=DETECT,
    dose=DETECT,
    kind=DETECT,
    apart=(DETECT,),
)


def require(metadata: "pd.DataFrame", name: str, flag: str) -> "pd.Series":
    """A column of the metadata, or an error that lists those there are."""
    if name == "":
        raise UserError(
            f"No column of the profiles is known to be what {flag} names. There are:"
            f" {', '.join(map(str, metadata.columns[:40]))}. Name it with {flag} COLUMN, or"
            " join a table that has it: `metadata` FILE."
        )
    if name not in metadata.columns:
        close = did_you_mean(name, map(str, metadata.columns)) or did_you_mean(
            f"Metadata_{name}", map(str, metadata.columns)
        )
        raise UserError(
            f"The profiles have no column '{name}', which {flag} names (or is its default).{close}"
            f" There are: {', '.join(map(str, metadata.columns[:40]))}. Name the right one with"
            f" {flag}."
        )
    return metadata[name]


def _told(metadata: "pd.DataFrame", told: str, flag: str) -> Bool[np.ndarray, " rows"]:
    """Rows that a column of yes and no, or a query, names; none where nothing is told."""
    if told == "":
        return np.zeros(len(metadata), bool)
    if told not in metadata.columns:
        if re.fullmatch(r"\w+", told):
            require(metadata, told, flag)
        return query_rows(metadata, told, flag)
    if metadata[told].isna().all():  # such as the wells under study, where only controls are told
        return np.zeros(len(metadata), bool)
    rows = truths(metadata[told])
    if rows is not None:
        return rows
    words = [str(word) for word in metadata[told].dropna().unique()]
    other = next(word for word in words if word.strip().lower() not in TRUE | FALSE)
    role = {"`control`": "negative", "`positive`": "positive"}[flag]
    meant = next((word for word in words if role_of(word) == role), "")
    mend = (
        f"Give a query instead: {flag} '{told} == \"{meant}\"'."
        if meant
        else f"Give a query instead that says which of its values are {role} controls."
    )
    raise UserError(
        f"{flag} {told}: the column holds {other!r}, which is neither yes nor no. {mend}"
    )


def as_texts(values: "pd.Series") -> "pd.Series":
    """A column as texts, "" where nothing is said."""
    return values.astype(object).where(values.notna(), "").astype(str)


def truths(values: "pd.Series") -> Bool[np.ndarray, " rows"] | None:
    """A column of yes and no as booleans, no where nothing is said; None of any other column.

    True and false, yes and no, Y and N, 1 and 0, t and f, as text or numbers, in any case.
    """
    if values.dtype == bool:
        return values.to_numpy()
    known = values.dropna()
    text = known.astype(str).str.strip().str.lower()
    if known.empty or not text.isin(TRUE | FALSE).all():
        return None
    rows = np.zeros(len(values), bool)
    rows[values.notna().to_numpy()] = text.isin(TRUE).to_numpy()
    return rows


def query_rows(
    table: "pd.DataFrame", query: str, flag: str, example: str = 'Metadata_control_type == "negcon"'
) -> Bool[np.ndarray, " rows"]:
    """Rows for which a pandas query holds.

    Args:
      table: of the metadata, or what else is known of the rows.
      query: on its columns.
      flag: that holds the query, for the message.
      example: of a query.

    Raises:
      UserError: the table cannot answer it, or not with yes or no.
    """
    try:
        answer = np.asarray(table.eval(query, engine="python"))
    except Exception as error:  # pandas raises a dozen kinds
        raise UserError(
            f"{flag} {query!r} is no query that the columns"
            f" {', '.join(map(str, table.columns[:40]))} can answer ({type(error).__name__}:"
            f" {error}). Write a pandas query on them, as {flag} {example!r}."
        ) from None
    if answer.dtype != bool or answer.shape != (len(table),):
        raise UserError(
            f"{flag} {query!r} does not say yes or no for every row. Compare: {flag} {example!r}."
        )
    return answer


def bare(name: object) -> str:
    """A column's name without the prefix that says that it is no feature."""
    return PREFIX.sub("", str(name))


def prefix_of(names: Iterable[object]) -> str:
    """The prefix of a table's columns that are no features: a new one without it would be read as
    a feature. "" where they have none.
    """
    return "Metadata_" if any(PREFIX.match(str(name)) for name in names) else ""


def shown(name: str) -> str:
    """A column's name in a sentence."""
    return f"'{name}'" if name else "unknown"


def query_of(name: str, values: Sequence[str | int | float | bool], how: str = "in") -> str:
    """A query for the rows of some values of a column: '`Control Type` == "negative"'.

    Args:
      name: of the column.
      values: of the rows.
      how: "in", or "not in".
    """
    texts = [json.dumps(v, ensure_ascii=False) if isinstance(v, str) else repr(v) for v in values]
    if len(values) == 1:
        return f"{quoted(name)} {'==' if how == 'in' else '!='} {texts[0]}"
    return f"{quoted(name)} {how} [{', '.join(texts)}]"


def quoted(name: str) -> str:
    """A column's name as pandas queries want it."""
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else f"`{name}`"
