"""Figures of a map: clustered heat map of chosen genes, scatter of all perturbations, recall
curves, the map in the order of the genome.

Draws what the flags allow, into OUT: heatmap.png (--names), pca.png or umap.png (--layout),
recall.png (--relationships), chromosomes.png (--genes); each with its numbers beside it
(heatmap.csv, pca.parquet or umap.parquet, recall.json).

  python -m phenomjax.maps pictures --profiles map.parquet --corrected bias/corrected.parquet \\
      --names COMPLEX1 GENE2 ... --out pictures/
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import tyro
from jaxtyping import Float32

from phenomjax.data import store
from phenomjax.maps.arm_bias import arms, assessment
from phenomjax.maps.arm_bias import figures as arm_bias_figures
from phenomjax.maps.relations import recall, relationships
from phenomjax.maps.tables.columns import as_texts
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.metadata.tidying import tidied
from phenomjax.maps.tables.names import choose, entities
from phenomjax.maps.tables.options import Files, Folder, Names, TableOptions
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.views import figures, layouts
from phenomjax.statistics import bootstrap
from phenomjax.statistics.cosines import exact_cosines, unit_rows
from phenomjax.system import ending
from phenomjax.system.errors import UserError
from phenomjax.system.files import save_figure, write_json, write_table, write_text
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DRAWS = 200  # of their intervals
PICTURES = tuple(f"{name}.png" for name in ("heatmap", "pca", "umap", "recall", "chromosomes"))
MAX_ROWS = 300  # of a heat map whose names can be read


@dataclass(frozen=True, kw_only=True)
class Options(TableOptions, Overwrite):
    """Of `python -m phenomjax.maps pictures`."""

    MAKES: ClassVar[tuple[str, ...]] = PICTURES

    corrected: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """a second map of the same rows: above the diagonal, and a second recall curve"""
    what: Annotated[tuple[str, str], tyro.conf.arg(metavar="RAW CORRECTED")] = ("raw", "corrected")
    """what the two maps are called"""
    names: Names = ()
    """genes and compounds of the heat map, or @FILE with one a line"""
    color: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """metadata column that colours the scatter; by default gene, compound, control"""
    label: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="NAME ...")] = None
    """names written into the scatter; by default those of --names"""
    relationships: Files = ()
    """known relationships (entity1, entity2) for the recall curves"""
    genes: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """gene positions, or arms: see `maps proximity --help`"""
    centromeres: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """see `maps proximity --help`"""
    layout: layouts.Layout = "auto"
    """of the scatter of all perturbations; auto: pca below 1,000 of them, else umap"""
    title: str = ""
    """of the figures"""
    seed: int = 42
    """of the UMAP"""
    out: Folder
    """of the figures"""


def run(options: Options) -> int:
    """Draws what can be drawn; returns the exit code.

    Raises:
      UserError: the folder is called as a picture, no such name or column; or of `load`.
    """
    if Path(options.out).suffix:
        raise UserError(
            f"`out` {options.out}: several pictures are drawn, into a folder. Give its name, for"
            f" instance `out` {Path(options.out).with_suffix('')}."
        )
    raw, columns = load(options)
    corrected = None
    if options.corrected is not None:
        corrected = second_map(raw, options, options.corrected)
    table, out = entities(raw, columns), Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    names, what, written = read_names(options.names), options.what, []
    if names:
        figure, cosines = clustered(
            raw, corrected, table, choose(names, table), what=what, title=options.title
        )
        written.append(save_figure(figure, out / "heatmap.png"))
        write_text(out / "heatmap.csv", cosines.to_csv())
    shown = raw if corrected is None else corrected
    xy, method = layouts.place(shown.features, options.layout, options.seed)
    if xy is not None:
        groups = table["kind"].to_numpy(str)
        if options.color:
            if options.color not in raw.metadata:
                raise UserError(
                    f"`color` {options.color}: no such column; there are"
                    f" {', '.join(map(str, raw.metadata.columns))}."
                )
            groups = raw.metadata[options.color].fillna("other").astype(str).to_numpy()
        labels = names if options.label is None else read_names(options.label)
        figure = figures.scatter(
            xy,
            groups,
            names=table["name"].tolist(),
            named=choose(labels, table),
            title=options.title or f"{method.upper()} of {len(xy):,} perturbations",
        )
        written.append(save_figure(figure, out / f"{method}.png"))
        points = {f"{method}_1": xy[:, 0], f"{method}_2": xy[:, 1]}
        write_table(out / f"{method}.parquet", table.assign(**points))
    if options.relationships:
        maps = {what[0]: raw} if corrected is None else {what[0]: raw, what[1]: corrected}
        curves = recall_curves(maps, table, options.relationships)
        written.append(save_figure(figures.recall_curves(curves), out / "recall.png"))
        write_json(out / "recall.json", curves)
    if options.genes:
        located = assessment.locate(
            raw, arms.read_arms(options.genes, options.centromeres), columns, min_genes=0
        )
        genes = located[located["scored"]].rename_axis("row").reset_index()
        order = assessment.genome_rows(genes)
        rows, arm = genes["row"].to_numpy()[order], genes["arm"].to_numpy(str)[order]
        above = None if corrected is None else unit_rows(corrected.features[rows], np.float32)
        figure = arm_bias_figures.chromosome_map(
            unit_rows(raw.features[rows], np.float32), arm, above
        )
        written.append(save_figure(figure, out / "chromosomes.png"))
    for path in written:
        ending.wrote(path)
    if written:
        ending.then(
            "the whole map in a browser",
            "python -m phenomjax.maps explore --profiles"
            + " {}" * len(options.profiles)
            + " --out map.html",
            *options.profiles,
        )
    if not written:
        log.warning("nothing was drawn: give --names, --relationships or --genes")
    return 0


def second_map(raw: Profiles, options: TableOptions, path: str) -> Profiles:
    """The second map, read by the options of the first, and with its rows.

    Raises:
      UserError: of `load`, and of `same_rows`.
    """
    other, _ = load(replace(options, profiles=(path,)))
    return same_rows(raw, other, path)


def same_rows(raw: Profiles, other: Profiles, path: str) -> Profiles:
    """The second map, whose rows must be those of the first; it may have more of them (empty ones,
    which were left out of the first).

    Raises:
      UserError: they are not.
    """
    import pandas as pd

    mine, theirs = _words(raw.metadata), _words(other.metadata)
    shared = [name for name in mine if name in theirs and not name.startswith("num_")]
    if len(raw) < len(other):
        here, there = (pd.MultiIndex.from_frame(table[shared]) for table in (mine, theirs))
        rows = np.array([]) if there.has_duplicates else there.get_indexer(here)
        if len(rows) and (rows >= 0).all():
            return other.take(rows)
    if len(raw) != len(other):
        raise UserError(
            f"{path} has {len(other)} rows, the map itself {len(raw)}: they must be the same"
            " perturbations in the same order. Take the corrected.parquet that `maps proximity`"
            " made of this very map."
        )
    for name in shared:
        differ = (mine[name] != theirs[name]).to_numpy()
        if differ.any():
            row = int(np.flatnonzero(differ)[0])
            raise UserError(
                f"{path} holds other rows than the map itself: in row {row}, {name} is"
                f" {theirs[name].iloc[row]!r}, not {mine[name].iloc[row]!r}. Take the"
                " corrected.parquet that `maps proximity` made of this very map."
            )
    return other


def _words(metadata: "pd.DataFrame") -> "pd.DataFrame":
    """Metadata as text, "" where there is nothing."""
    return tidied(metadata).apply(as_texts)


def read_names(words: Sequence[str]) -> list[str]:
    """Names as given, those of @FILE one a line."""
    names: list[str] = []
    for word in words:
        if not word.startswith("@"):
            names.append(word)
            continue
        if not Path(word[1:]).is_file():
            raise UserError(
                f"There is no file {word[1:]} with names, one a line.{store.beside(word[1:])}"
            )
        names += [line.strip() for line in Path(word[1:]).read_text().splitlines() if line.strip()]
    return names


def clustered(
    raw: Profiles,
    corrected: Profiles | None,
    table: "pd.DataFrame",
    rows: list[int],
    *,
    what: tuple[str, str] = ("raw", "corrected"),
    title: str = "",
) -> tuple["Figure", "pd.DataFrame"]:
    """Heat map of chosen rows, clustered by average linkage of 1 - cosine (of the corrected map,
    where there is one).

    Returns:
      (figure; the cosines as drawn: a square table with named rows, raw below the diagonal,
      corrected above).
    """
    import pandas as pd
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    if not 2 <= len(rows) <= MAX_ROWS:
        raise UserError(
            f"A heat map shows 2 to {MAX_ROWS} rows, not {len(rows)}. Give other `names`; `maps"
            " explore` shows all of them."
        )
    lower = _square(raw, rows)
    upper = lower if corrected is None else _square(corrected, rows)
    tree = hierarchy.linkage(
        squareform(np.maximum(1 - upper, 0) * (1 - np.eye(len(rows))), checks=False),
        "average",
        optimal_ordering=True,
    )
    order = hierarchy.leaves_list(tree)
    names = [table["name"].iloc[rows[k]] for k in order]
    lower, upper = lower[np.ix_(order, order)], upper[np.ix_(order, order)]
    figure = figures.heat_map(
        names,
        lower,
        None if corrected is None else upper,
        tree=tree,
        what=what,
        title=title or f"{len(rows)} chosen perturbations",
    )
    return figure, pd.DataFrame(np.tril(lower) + np.triu(upper, 1), names, names)


def recall_curves(
    maps: dict[str, Profiles], table: "pd.DataFrame", paths: Sequence[str]
) -> dict[str, dict[str, recall.Curve]]:
    """Recall of each source in each map, {source: {map: curve}}, over `recall.TAILS`.

    Raises:
      UserError: no known pair of a file is in the map.
    """
    rows = np.flatnonzero(table["kind"] == "gene")
    if not len(rows):
        rows = np.arange(len(table))
    names = table["name"].to_numpy(object)[rows]
    curves: dict[str, dict[str, recall.Curve]] = {}
    for path in paths:
        known = relationships.read_relationships(path)
        pairs = known.within(names)
        if not len(pairs):
            raise UserError(
                f"{path}: none of its {len(known.pairs)} pairs has both partners in the map, whose"
                f" first names are {', '.join(map(str, names[:3]))}. Are these the same kind of"
                " symbols? Name the column with `gene`."
            )
        curves[known.name] = {}
        for name, one in maps.items():
            vectors = unit_rows(one.features[rows], np.float32)
            hit = recall.recalled(vectors, pairs, [(tail, 1 - tail) for tail in recall.TAILS])
            intervals = [
                bootstrap.interval_of_pairs(flags, pairs, DRAWS) or [0.0, 1.0] for flags in hit
            ]
            curves[known.name][name] = {
                "share": [2 * tail for tail in recall.TAILS],
                "recall": hit.mean(1).tolist(),
                "low": [low for low, _ in intervals],
                "high": [high for _, high in intervals],
                "pairs": len(pairs),
            }
    return curves


def _square(profiles: Profiles, rows: list[int]) -> Float32[np.ndarray, "some some"]:
    # exact: the order of the tree hangs on which of two cosines is greater
    vectors = unit_rows(profiles.features[rows], np.float32)
    return np.clip(exact_cosines(vectors, vectors), -1, 1).astype(np.float32)
