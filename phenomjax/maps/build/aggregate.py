"""Aggregate profiles: crops to wells, wells to perturbations, guides to genes.

  python -m phenomjax.maps aggregate --profiles E.zarr --to well --out wells.parquet
  python -m phenomjax.maps aggregate --profiles aligned.parquet --to perturbation --out map.parquet
  python -m phenomjax.maps aggregate --profiles aligned.parquet --to gene --out genes.parquet

Level by level, each unit of a level counting once: crops and sites to a well, wells to a
perturbation at a dose, time point and kind of cells (kept apart unless told: --doses together,
--apart none), guides to a gene (--to gene;
rows that are no genetic perturbation keep their own name). Align wells before they are aggregated
further. Methods:
  mean, median   of each feature
  mad            mean weighted by how typical a profile is: weight min(1, 2 / z), z = its distance
                 to the group's median profile over the median of these distances, which is their
                 MAD about 0 (Huber's weights); one bad well of four counts less

Metadata: a column is kept where it has one value within the group, and empty elsewhere;
num_profiles counts the rows that went in, and columns that count cells are averaged.

Rows may be more than memory holds: features beyond 128 MiB lie in a file without a name beside
--out while the command runs (a kill frees it, too). The metadata of all rows are held.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Shaped

from phenomjax.maps.build.combining import combine
from phenomjax.maps.tables.columns import Columns, prefix_of, query_of, require, shown
from phenomjax.maps.tables.counts import cell_counts
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.names import GENE_KINDS, kinds_of, targets_of
from phenomjax.maps.tables.options import Doses, Table, TableOptions
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.writing import check_out, write
from phenomjax.system import ending
from phenomjax.system.errors import UserError, first_of
from phenomjax.system.log import counted
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    import pandas as pd


def collapse(
    profiles: Profiles, keys: list[str], method: str = "mean", may_differ: Collection[str] = ()
) -> Profiles:
    """One profile for each combination of values of some metadata columns, sorted by them.

    Args:
      profiles: rows of which some become one.
      keys: the columns.
      method: see the first lines of this file.
      may_differ: other columns that are expected to differ within what is averaged; where others
        do, they are named.
    """
    metadata = profiles.metadata
    grouped = metadata.groupby(keys, dropna=False, sort=True, observed=True)
    codes = grouped.ngroup().to_numpy()
    groups = int(codes.max()) + 1
    features = combine(profiles.features, codes, groups, method)
    count = count_column(metadata)
    kept = [name for name in metadata.columns if name != count]
    table = metadata[kept].groupby(codes).first().reset_index(drop=True)
    cells = metadata[cell_counts(kept)].select_dtypes("number")
    varied = metadata[kept].groupby(codes).nunique(dropna=False).reset_index(drop=True) > 1
    varied[cells.columns] = False  # they tell what is toxic
    table[cells.columns] = cells.groupby(codes).mean().to_numpy()
    for name in kept:
        if varied[name].any():
            table[name] = table[name].astype(object).where(~varied[name], None)
    empty = [name for name in kept if name not in keys and varied[name].all()]
    differing = [
        f"{name} ({int(varied[name].sum())})"
        for name in kept
        if varied[name].any() and name not in (*keys, *may_differ)
    ]
    if differing:
        log.info(
            "averaged although they differ, and left empty there (in so many of %d rows by %s): %s",
            groups,
            ", ".join(keys),
            first_of(differing),
        )
    before = (
        metadata[count].to_numpy(np.int64)
        if count in metadata.columns
        else np.ones(len(metadata), np.int64)
    )
    table = table.drop(columns=empty).infer_objects()
    table[count] = np.bincount(codes, weights=before, minlength=groups).astype(np.int64)
    return replace(profiles, features=features, metadata=table)


def count_column(metadata: "pd.DataFrame") -> str:
    """num_profiles, with the prefix of the table's other columns."""
    return prefix_of(metadata.columns) + "num_profiles"


def to_wells(profiles: Profiles, columns: Columns, method: str = "mean") -> Profiles:
    """One profile a well: of a batch, a plate (whatever the batch is), a time point.

    Raises:
      UserError: no column of wells or batches.
    """
    require(profiles.metadata, columns.well, "`well`")
    for name in columns.batch:
        require(profiles.metadata, name, "`batch`")
    keys = columns.identity(profiles.metadata)
    for name in keys:
        if nameless := int(profiles.metadata[name].isna().sum()):
            log.warning(
                "%d of %d profiles have no value in '%s': those of a batch become one row without"
                " one, that may be of several wells",
                nameless,
                len(profiles),
                name,
            )
    if not profiles.metadata.duplicated(keys).any():
        return profiles
    _warn_of_mixed_wells(profiles.metadata, keys, columns)
    wells = collapse(profiles, keys, method)
    log.info("aggregate: %d profiles to %d wells", len(profiles), len(wells))
    return wells


def wells_of(profiles: Profiles, columns: Columns) -> Profiles:
    """`to_wells` where a column names wells, else the rows as they are."""
    return to_wells(profiles, columns) if columns.well in profiles.metadata else profiles


def _warn_of_mixed_wells(metadata: "pd.DataFrame", keys: list[str], columns: Columns) -> None:
    """Warns of wells that hold several perturbations: then they are no wells."""
    if columns.perturbation not in metadata:
        return
    held = metadata.groupby(keys, dropna=False, observed=True)[columns.perturbation].nunique()
    if several := int((held > 1).sum()):
        log.warning(
            "%d of %d wells by %s hold several values of '%s' (the first: %s), which are averaged:"
            " do these columns name a well? Name those that do with --plate, --well and --batch",
            several,
            len(held),
            ", ".join(keys),
            columns.perturbation,
            held.index[int(np.argmax(held > 1))],
        )


def genetic(profiles: Profiles, columns: Columns) -> Bool[np.ndarray, " rows"]:
    """Which rows perturb a gene itself (all that name one, where the table does not tell its
    kinds), bool [rows].
    """
    metadata = profiles.metadata
    if columns.gene not in metadata:
        return np.zeros(len(metadata), bool)
    named = (
        metadata[columns.gene].notna().to_numpy()
        & (metadata[columns.gene].astype(str) != "").to_numpy()
    )
    if columns.kind not in metadata.columns:
        return named
    return named & np.isin(kinds_of(metadata, columns).astype(str), GENE_KINDS)


def to_perturbations(
    profiles: Profiles, columns: Columns, method: str = "mean", doses: str = "together"
) -> Profiles:
    """One profile a perturbation (and time point, and kind of cells), or also a dose of it."""
    metadata = profiles.metadata
    require(metadata, columns.perturbation, "`perturbation`")
    keys = [columns.perturbation, *(name for name in columns.apart if name in metadata)]
    may_differ = [*columns.identity(metadata), columns.dose]
    if columns.dose in metadata:
        profiles = collapse(profiles, [*keys, columns.dose], method, may_differ)
        if doses == "apart":
            return profiles
        several = int(profiles.metadata.groupby(keys, dropna=False).size().gt(1).sum())
        if several:
            log.info("the doses of %d perturbations are averaged", several)
    return collapse(profiles, keys, method, may_differ)


def to_genes(
    perturbations: Profiles, columns: Columns, method: str = "mean", doses: str = "together"
) -> Profiles:
    """Guides of a gene to one profile named by the gene; rows that perturb no gene stay as they
    are.

    Raises:
      UserError: no row names a gene.
    """
    require(perturbations.metadata, columns.gene, "`gene`")
    mask = genetic(perturbations, columns)
    if not mask.any():
        raise UserError(
            f"No row perturbs a gene: the column of genes, {shown(columns.gene)}, is empty, or that"
            f" of kinds, {shown(columns.kind)}, names no genetic perturbation"
            f" ({', '.join(GENE_KINDS)}). Name the right columns with"
            " `gene` and `kind`, or use `to` perturbation."
        )
    genes = named_by_gene(perturbations, columns, mask)
    also = [*columns.apart, *([columns.dose] if doses == "apart" else [])]
    keys = [columns.perturbation, *(name for name in also if name in genes.metadata)]
    return collapse(genes, keys, method, may_differ=genes.metadata.columns)


def named_by_gene(
    profiles: Profiles, columns: Columns, mask: Bool[np.ndarray, " rows"] | None = None
) -> Profiles:
    """Rows named by their gene in the column of perturbations; one of several targets is there
    once for each.

    Args:
      profiles: the rows.
      columns: of their metadata.
      mask: rows to be named so, the others stay as they are; all by default.
    """
    targets = [
        sorted(genes) if mask is None or mask[row] else []
        for row, genes in enumerate(targets_of(profiles, columns))
    ]
    rows = np.repeat(np.arange(len(targets)), [max(1, len(genes)) for genes in targets])
    many = profiles if len(rows) == len(targets) else profiles.take(rows)
    own = profiles.metadata[columns.perturbation].to_numpy(object)
    names = [name for row, genes in enumerate(targets) for name in (genes or [own[row]])]
    metadata = many.metadata.assign(**{columns.perturbation: np.array(names, object)})
    metadata[columns.gene] = [
        gene
        for row, genes in enumerate(targets)
        for gene in (genes or [profiles.metadata[columns.gene].iat[row]])
    ]
    return replace(many, metadata=metadata)


def labels_of(
    wells: Profiles, columns: Columns, doses: str = "together"
) -> Shaped[np.ndarray, " wells"]:
    """What the replicates of a well share: the perturbation; with a time point or a kind of cells
    where it is there at several, and with "apart" likewise its dose ("X @ 0.3"); object [rows].
    """
    metadata = wells.metadata
    perturbation = require(metadata, columns.perturbation, "`perturbation`").astype(str)
    names = perturbation
    for name in (*columns.apart, *([columns.dose] if doses == "apart" else [])):
        if name not in metadata:
            continue
        values = metadata[name]
        several = values.groupby(perturbation).transform("nunique") > 1
        names = names.where(values.isna() | ~several, names + " @ " + values.astype(str))
    return names.to_numpy(object)


def require_one_context(profiles: Profiles, columns: Columns) -> None:
    """Refuses rows under study of several time points or kinds of cells, of which one map with one
    row a perturbation cannot be made.

    Raises:
      UserError: there are several.
    """
    if not columns.apart:
        return
    under_study = profiles.metadata[columns.treatments(profiles.metadata)]
    for name in columns.apart:
        values = require(under_study, name, "`apart`").dropna().unique()
        if len(values) > 1:
            value = values[0].item() if hasattr(values[0], "item") else values[0]
            one = query_of(name, [value])
            raise UserError(
                f"The rows under study are of {len(values)} values of '{name}'"
                f" ({', '.join(map(str, values[:4]))}{', …' if len(values) > 4 else ''}), and a map"
                f" with one row a perturbation is of one. Measure them one at a time: `where`"
                f" '{one}'; or average over them: `apart` none."
            )


def chosen(profiles: Profiles, columns: Columns) -> Profiles:
    """The rows under study (`Columns.treatments`).

    Raises:
      UserError: there are none.
    """
    rows = columns.treatments(profiles.metadata)
    if not rows.any():
        raise UserError(
            "No row is a perturbation under study: none has a name in the column of perturbations,"
            f" {shown(columns.perturbation)}, and"
            f" is no control by {columns.control!r}. Look at `perturbation`, `control` and"
            " `treatments`."
        )
    left = int((~rows & ~columns.controls(profiles.metadata)).sum())
    if left:
        log.info(
            "%d rows are neither negative controls nor under study (other controls; --treatments"
            " all counts them as perturbations)",
            left,
        )
    return profiles.take(rows)


@dataclass(frozen=True, kw_only=True)
class Options(TableOptions, Overwrite):
    """Of `python -m phenomjax.maps aggregate`."""

    to: Literal["well", "perturbation", "gene"] = "perturbation"
    """level"""
    method: Literal["mean", "median", "mad"] = "mean"
    """how the rows of a group become one"""
    doses: Doses = "apart"
    """a compound at each dose is a row of its own, or not"""
    keep_controls: bool = False
    """controls become rows of the map too"""
    out: Table
    """.parquet, .csv[.gz] or .h5ad"""


def run(options: Options) -> int:
    """Aggregates and writes."""
    out = check_out(options.out)
    profiles, columns = load(options)
    rows = len(profiles)
    if options.to == "well" or columns.well in profiles.metadata.columns:
        profiles = to_wells(profiles, columns, options.method)
    if options.to != "well":
        if not options.keep_controls:
            profiles = chosen(profiles, columns)
        profiles = to_perturbations(profiles, columns, options.method, options.doses)
    if options.to == "gene":
        profiles = to_genes(profiles, columns, options.method, options.doses)
    done = profiles.after(
        "aggregate", to=options.to, method=options.method, doses=options.doses, rows=rows
    )
    write(done, out)
    ending.wrote(out, f"{counted(len(done), 'row')}, one a {options.to}, of {rows:,}")
    if options.to == "well":
        what, command = "align plates and batches", "align --profiles {} --out aligned.parquet"
    else:
        what, command = "look at it in a browser", "explore --profiles {} --out map.html"
    ending.then(what, f"python -m phenomjax.maps {command}", out)
    return 0
