"""What all commands on profiles ask: the tables, their feature columns, and what their metadata
columns are called.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import tyro

from phenomjax.maps.tables.columns import Columns
from phenomjax.system.errors import UserError

Column = Annotated[str, tyro.conf.arg(metavar="COLUMN")]
File = Annotated[str, tyro.conf.arg(metavar="FILE")]
Files = Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE ...")]
Folder = Annotated[str, tyro.conf.arg(metavar="FOLDER")]
Table = Annotated[str, tyro.conf.arg(metavar="PATH")]
Tables = Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")]
Query = Annotated[str, tyro.conf.arg(metavar="QUERY")]
Unexpressed = Annotated[str, tyro.conf.arg(metavar="FILE|QUERY")]
Doses = Literal["apart", "together"]
DEFAULT = Columns()
Word = TypeVar("Word")


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Of every command that reads profiles; `input.load` reads them."""

    profiles: Tables
    """E.zarr, .parquet, .csv[.gz] or .h5ad; several are joined"""
    block: int | None = None
    """encoder block, where E.zarr holds several"""
    features: Annotated[str | None, tyro.conf.arg(metavar="REGEX")] = None
    """feature columns of a foreign table"""
    nan: Literal["error", "drop_features", "drop_rows"] = "error"
    """what to do with features that are NaN or infinite"""
    batch: Annotated[str | None, tyro.conf.arg(metavar="COLUMNS")] = None
    """column, or several joined by commas, that name a batch; by default experiment,plate"""
    control: Annotated[str, tyro.conf.arg(metavar="COLUMN|QUERY")] = DEFAULT.control
    """negative controls: a column of booleans, or a pandas query ('Metadata_control_type ==
    "negcon"')"""
    treatments: Annotated[str, tyro.conf.arg(metavar="QUERY|all")] = ""
    """rows under study; by default not the negative controls, nor other controls as told by
    Metadata_pert_type or perturbation_type"""
    perturbation: Column = DEFAULT.perturbation
    """its name"""
    gene: Column = DEFAULT.gene
    """target gene"""
    well: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """by default well, or Metadata_Well where there is one"""
    dose: Column = DEFAULT.dose
    """of compounds"""
    kind: Column = DEFAULT.kind
    """crispr, compound, …"""

    @property
    def columns(self) -> Columns:
        """The columns that these options name."""
        batch = DEFAULT.batch if self.batch is None else tuple(filter(None, self.batch.split(",")))
        return Columns(
            batch=batch,
            control=self.control,
            treatment=self.treatments,
            perturbation=self.perturbation,
            gene=self.gene,
            well=self.well or DEFAULT.well,
            dose=self.dose,
            kind=self.kind,
        )


def require_some(words: tuple[Word, ...], name: str) -> tuple[Word, ...]:
    """The words behind a flag.

    Raises:
      UserError: there are none.
    """
    if not words:
        raise UserError(f"`{name}` is empty: give at least one.")
    return words
