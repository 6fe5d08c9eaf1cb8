"""Which column of the metadata is the batch, the control, the perturbation: names and queries."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Shaped

from phenomjax.system.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Columns:
    """Names of the metadata columns; the defaults are those of our banks.

    Attributes:
      batch: columns that together name a batch; a plate's name is unique only within its
        experiment.
      control: a column of booleans, or a pandas query such as 'Metadata_control_type == "negcon"'.
      treatment: a pandas query for the rows that are perturbations under study, "all" for all rows
        but the controls, or "" for the rule of `treatments`.
      perturbation, gene, well, plate, dose, kind: of a row; `kind` is crispr, compound, … .
    """

    batch: tuple[str, ...] = ("experiment", "plate")
    control: str = "is_control"
    treatment: str = ""
    perturbation: str = "perturbation"
    gene: str = "gene"
    well: str = "well"
    plate: str = "plate"
    dose: str = "concentration"
    kind: str = "perturbation_type"

    def batches(self, metadata: "pd.DataFrame") -> Shaped[np.ndarray, " rows"]:
        """Name of each row's batch, str [rows].

        Raises:
          UserError: a batch column that the table has not.
        """
        if (
            self.batch == Columns.batch
            and "experiment" not in metadata.columns
            and "Metadata_Plate" in metadata.columns
        ):
            raise UserError(
                "These profiles name their plates in Metadata_Plate. Say so: `batch` Metadata_Plate"
                " (and see `control`, `perturbation`)."
            )
        parts = [require(metadata, name, "`batch`").fillna("").astype(str) for name in self.batch]
        if not parts:
            return np.full(len(metadata), "all", object)
        joined = parts[0]
        for part in parts[1:]:
            joined = joined + "/" + part
        return joined.to_numpy(object)

    def controls(self, metadata: "pd.DataFrame") -> Bool[np.ndarray, " rows"]:
        """Which rows are negative controls, bool [rows].

        Raises:
          UserError: a column that is not there or holds no booleans, or a query that pandas cannot
            answer.
        """
        if self.control in metadata.columns:
            return _booleans(metadata, self.control)
        if re.fullmatch(r"\w+", self.control):
            require(metadata, self.control, "`control`")
        return query_rows(metadata, self.control, "`control`")

    def treatments(self, metadata: "pd.DataFrame") -> Bool[np.ndarray, " rows"]:
        """Which rows are perturbations under study, bool [rows].

        Not the negative controls, nor rows without a name of a perturbation; by default also not
        the positive controls, where the table tells them by the JUMP convention (Metadata_pert_type
        is "trt" for treatments and "control" for controls of all kinds) or by ours
        (perturbation_type is "control"): they are repeated on every plate, so that they look more
        consistent than the library and fill the null with themselves.
        """
        named = require(metadata, self.perturbation, "`perturbation`").notna().to_numpy()
        chosen = named & ~self.controls(metadata)
        if self.treatment and self.treatment != "all":
            return chosen & query_rows(metadata, self.treatment, "`treatments`")
        if not self.treatment:
            if (
                "Metadata_pert_type" in metadata.columns
                and (metadata["Metadata_pert_type"] == "trt").any()
            ):
                chosen &= (metadata["Metadata_pert_type"] == "trt").to_numpy()
            elif self.kind in metadata.columns:
                chosen &= (metadata[self.kind] != "control").to_numpy()
        return chosen


def require(metadata: "pd.DataFrame", name: str, flag: str) -> "pd.Series":
    """A column of the metadata, or an error that lists those there are."""
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


def _booleans(metadata: "pd.DataFrame", name: str) -> Bool[np.ndarray, " rows"]:
    values = metadata[name]
    if values.dtype == bool:
        return values.to_numpy()
    text = values.fillna(False).astype(str).str.lower()
    unknown = ~text.isin(["true", "false", "1", "0", "1.0", "0.0"])
    if unknown.any():
        raise UserError(
            f"`control` {name}: the column holds {values[unknown].iloc[0]!r}, not true or false."
            f" Give a query instead, `control` '{name} == \"{values[unknown].iloc[0]}\"'."
        )
    return text.isin(["true", "1", "1.0"]).to_numpy()


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
