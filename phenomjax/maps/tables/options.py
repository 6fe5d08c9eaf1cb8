"""What all commands on profiles ask: the tables, their feature columns, and what their metadata
columns are called.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, TypeVar

import tyro

from phenomjax.maps.tables.columns import DETECT, Columns
from phenomjax.maps.tables.quality.limits import QualityOptions
from phenomjax.maps.tables.sources import Wanted
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
Word = TypeVar("Word")
OptionsT = TypeVar("OptionsT", bound="TableOptions")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Which rows and features of which tables; `reading.read` reads them."""

    GROUPS: ClassVar[dict[str, str]] = {"block": "table"}

    profiles: Tables
    """E.zarr, .parquet, .csv[.gz], .h5ad, an AnnData or SpatialData in Zarr, or DeepProfiler's
    folder; several are joined"""
    block: int | None = None
    """encoder block, where E.zarr holds several"""
    features: Annotated[str | None, tyro.conf.arg(metavar="REGEX|common")] = None
    """feature columns of a foreign table, by default found by their names; common: those that all
    tables have"""
    keep_features: Annotated[str | None, tyro.conf.arg(metavar="REGEX")] = None
    """columns that stay features though their names are those of positions or bookkeeping"""
    layer: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """of an .h5ad, instead of X"""
    obsm: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """of an .h5ad, instead of X"""
    objects: Literal["mean", "median", "apart"] = "mean"
    """how the single cells of a table of objects become wells, if they do"""
    metadata: Files = ()
    """tables of the same wells, plates or perturbations, joined by the columns that both have"""
    where: Annotated[str | None, tyro.conf.arg(metavar="QUERY")] = None
    """rows to read, a pandas query ('Metadata_Time == 24'); by default all"""

    @property
    def wanted(self) -> Wanted:
        """What of the tables is read."""
        return Wanted(
            block=self.block,
            features=self.features,
            keep=self.keep_features,
            layer=self.layer,
            obsm=self.obsm,
            objects=self.objects,
        )


@dataclass(frozen=True, kw_only=True)
class TableOptions(ReadOptions, QualityOptions):
    """Of every command that measures profiles; `input.load` reads them."""

    GROUPS: ClassVar[dict[str, str]] = {"batch": "column"}

    aliases: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """current symbols of genes, for the profiles and for known pairs: HGNC's complete set, or a
    table of two columns (name, symbol)"""
    dry_run: bool = False
    """show what is understood of the tables, and stop"""
    batch: Annotated[str, tyro.conf.arg(metavar="COLUMNS")] = DETECT
    """column, or several joined by commas, that name a batch. This and all below are found by the
    names and words that the field uses, and shown; a flag always wins"""
    control: Annotated[str, tyro.conf.arg(metavar="COLUMN|QUERY")] = DETECT
    """negative controls: a column of yes and no, or a pandas query ('Metadata_control_type ==
    "negcon"')"""
    positive: Annotated[str, tyro.conf.arg(metavar="COLUMN|QUERY|none")] = DETECT
    """positive controls, likewise; they are not under study"""
    treatments: Annotated[str, tyro.conf.arg(metavar="QUERY|all")] = DETECT
    """rows under study; by default neither negative nor positive controls nor empty wells"""
    perturbation: Column = DETECT
    """its name"""
    gene: Column = DETECT
    """target gene, or a list of them"""
    target_separators: Annotated[str, tyro.conf.arg(metavar="SIGNS")] = Columns.separators
    """signs that part a list of targets: A|B, A;B, A, B; '' where a name may hold them"""
    plate: Column = DETECT
    """always part of a well's identity"""
    well: Column = DETECT
    """on its plate"""
    dose: Column = DETECT
    """of compounds"""
    kind: Column = DETECT
    """crispr, compound, …"""
    apart: Annotated[str, tyro.conf.arg(metavar="COLUMNS|none")] = DETECT
    """columns, joined by commas, across whose values nothing is averaged; by default time points
    and kinds of cells"""

    @property
    def columns(self) -> Columns:
        """The columns as these options name them, `DETECT` where they name none."""
        return Columns(
            batch=_several(self.batch),
            control=self.control,
            positive="" if self.positive == "none" else self.positive,
            treatment="" if self.treatments == DETECT else self.treatments,
            perturbation=self.perturbation,
            gene=self.gene,
            well=self.well,
            plate=self.plate,
            dose=self.dose,
            kind=self.kind,
            separators=self.target_separators,
            apart=_several("" if self.apart == "none" else self.apart),
        )


def of_others(options: OptionsT, profiles: tuple[str, ...]) -> OptionsT:
    """The same for other tables, without what says where the features of these are."""
    return replace(options, profiles=profiles, block=None, features=None, layer=None, obsm=None)


def _several(words: str) -> tuple[str, ...]:
    return tuple(filter(None, words.split(",")))


def require_some(words: tuple[Word, ...], name: str) -> tuple[Word, ...]:
    """The words behind a flag.

    Raises:
      UserError: there are none.
    """
    if not words:
        raise UserError(f"`{name}` is empty: give at least one.")
    return words
