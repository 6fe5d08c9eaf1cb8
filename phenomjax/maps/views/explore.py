"""One interactive HTML page of a whole map: search, neighbours, scatter, heat map, what is known.
Needs no network, no server.

The page holds the map itself (16-bit, or 8-bit where it would grow large) and computes cosines in
the browser, so it can be sent by mail and opened from disk by somebody who does not code. 17,000
genes and 100,000 compounds at 128 numbers a profile make a page of 25 MB, which opens in 2 s.

  python -m phenomjax.maps explore --profiles map.parquet --out map.html
  python -m phenomjax.maps explore --profiles map.parquet --corrected bias/corrected.parquet \\
      --activity active/filter.parquet --wells wells.parquet --relationships CORUM.txt \\
      --bank screen.zarr --out map.html

All columns of the map's metadata can be searched and colour the points. --activity shows which
perturbations are active (of `maps filter`), and warns of neighbours of those that are not;
--relationships marks known pairs, and files of complexes or pathways are sets that a selection is
tested for (hypergeometric, FDR by Benjamini-Hochberg; so are the values of the metadata). --wells,
the wells that the map was made of, with their controls, tell which features and channels differ and
how many cells are left. Fewer than 1,000 points lie on two main axes, more in a UMAP, which takes a
minute to compile.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from phenomjax.maps.arm_bias import arms
from phenomjax.maps.relations.relationships import Relationships, read_relationships
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.names import choose, entities, readable, targets_of
from phenomjax.maps.tables.options import Files, Names, TableOptions, of_others
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.views import annotations, differences, layouts, thumbnails
from phenomjax.maps.views.annotations import Json, bare
from phenomjax.maps.views.differences import Differences
from phenomjax.maps.views.draw import read_names, second_map
from phenomjax.maps.views.html_page import page
from phenomjax.system import ending
from phenomjax.system.errors import UserError
from phenomjax.system.files import write_text
from phenomjax.system.log import counted
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Options(TableOptions, Overwrite):
    """Of `python -m phenomjax.maps explore`."""

    GROUPS: ClassVar[dict[str, str]] = {
        "bank": "picture",
        "genes": "",
        "precision": "page",
        "out": "",
    }

    corrected: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """a second map of the same rows: the page switches between the two"""
    what: Annotated[tuple[str, str], tyro.conf.arg(metavar="RAW CORRECTED")] = (
        "before correction",
        "after correction",
    )
    """their names"""
    names: Names = ()
    """shown first: the first is chosen, all are in the heat map; or @FILE"""
    layout: layouts.Layout = "auto"
    """of the scatter; auto: pca below 1,000 points, else umap"""
    activity: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """filter.parquet of `maps filter`, or its folder: which perturbations are active"""
    relationships: Files = ()
    """known pairs (entity1, entity2), or complexes and pathways (GMT, clusters)"""
    wells: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")] = ()
    """the wells of the map, with controls: which features differ, how many cells are left"""
    toxic_below: float = 0.5
    """warn of perturbations with a smaller share of the controls' cells"""
    max_fdr: float = 0.05
    """q up to which a perturbation is called active, and a set enriched"""
    clusters: int | None = None
    """of k-means, to colour by; by default sqrt(rows / 2), at most 20; 0: none"""
    organism: str = "human"
    """whose genes NCBI is asked for"""
    bank: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """image bank of the wells: pictures of each perturbation's cells"""
    thumbnails: int = 3
    """pictures a perturbation"""
    thumbnail_px: int = 128
    """their side"""
    max_thumbnails: int = 3000
    """in all; 128 px take about 8 kB each"""
    genes: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """gene positions, to tell chromosome arms: see `maps proximity --help`"""
    centromeres: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """see `maps proximity --help`"""
    precision: Literal["auto", "float16", "int8"] = "auto"
    """of the profiles in the page"""
    max_mb: float = 100.0
    """profiles are reduced to fit; pictures come on top"""
    title: str = "Map of biology"
    """of the page"""
    seed: int = 42
    """of the UMAP and of the choice of pictures"""
    out: Annotated[str, tyro.conf.arg(metavar="FILE.html")]
    """the page"""


def run(options: Options) -> int:
    """Writes the page; returns the exit code."""
    out = Path(options.out)
    if out.suffix not in (".html", ".htm"):
        raise UserError(
            f"`out` {out}: the page is one HTML file; name it {out.with_suffix('.html')}."
        )
    raw, columns = load(options)
    maps = {options.what[0] if options.corrected else "this map": raw}
    if options.corrected:
        maps[options.what[1]] = second_map(raw, options, options.corrected)
    table = entities(raw, columns)
    if options.genes:
        arm = arms.read_arms(options.genes, options.centromeres).set_index("gene")["arm"]
        table["arm"] = table["gene"].map(arm).where(table["kind"] == "gene").fillna("").astype(str)
    names = choose(read_names(options.names), table)
    images = None
    if options.bank:
        images = thumbnails.collect(
            options.bank,
            table,
            raw.metadata,
            columns,
            each=options.thumbnails,
            side=options.thumbnail_px,
            most=options.max_thumbnails,
            seed=options.seed,
        )
    sources = [read_relationships(path) for path in options.relationships]
    facts, different = gather(raw, columns, table, sources, options)
    text = page(
        maps,
        table,
        facts=facts,
        different=different,
        title=options.title,
        start=names,
        place=options.layout,
        images=images,
        precision=options.precision,
        max_bytes=options.max_mb * 1e6,
        seed=options.seed,
    )
    write_text(out, text)
    count = sum(map(len, images.rows.values())) if images else 0
    ending.wrote(
        out,
        f"{counted(len(table), 'perturbation')}, {counted(count, 'picture')},"
        f" {out.stat().st_size / 1e6:.1f} MB. Open it in a browser: it needs no network.",
    )
    ending.then(
        "the neighbours of one",
        "python -m phenomjax.maps query {} --profiles" + " {}" * len(options.profiles),
        table["name"].iloc[names[0] if names else 0],
        *options.profiles,
    )
    return 0


def gather(
    raw: Profiles,
    columns: Columns,
    table: "pd.DataFrame",
    sources: Sequence[Relationships],
    options: Options,
) -> tuple[Json, Differences | None]:
    """What is known of the rows, for the page; and how their features differ, where they have
    names.

    Raises:
      UserError: see `annotations`, `differences`.
    """
    found, large = annotations.metadata_columns(raw.metadata)
    if large:
        log.warning("left out of the page, for their size: %s", ", ".join(large))
    different, cells = differences.of_map(raw), None
    if options.wells:
        wells, of_wells = load(of_others(options, options.wells))
        from_wells, cells = differences.of_wells(wells, of_wells, raw, columns)
        different = from_wells or different
    cells = cells or annotations.cells_of_map(raw.metadata, table["kind"].tolist())
    known, counts = annotations.known(sources, table, targets_of(raw, columns))
    for name, pairs in counts.items():
        log.info("known pairs of %s in the map: %d", name, pairs)
    if sources and not any(counts.values()):
        raise UserError(
            f"`relationships`: none of the pairs of {', '.join(counts)} has both partners in the"
            f" map, whose first names are {', '.join(known['names'][:3])}. Are these the same kind"
            " of symbols? Name the column with `gene`."
        )
    if "arm" in table:
        found.append(
            annotations.text_column("chromosome arm", table["arm"], searched=False, colours=True)
        )
    scores = annotations.scores_of(options.activity, raw, columns) if options.activity else []
    if cells:
        cells["below"] = options.toxic_below
    return {
        "columns": found,
        "readable": annotations.column_of(found, [bare(readable(raw.metadata, columns)).lower()]),
        "links": {
            name: annotations.column_of(found, names) for name, names in annotations.LINKS.items()
        },
        "scores": scores,
        "replicates": annotations.replicates(raw.metadata),
        "cells": cells,
        "known": known,
        "fdr": options.max_fdr,
        "organism": options.organism,
        "clusters": options.clusters,
    }, different
