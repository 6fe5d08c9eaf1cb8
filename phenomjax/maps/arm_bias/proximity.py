"""Chromosome-arm proximity bias: scores a map, corrects it by the unexpressed genes of each arm,
and draws before and after.

Knock-outs on one chromosome arm look alike, because a cut can lose the rest of the arm. The score
is the Brunner-Munzel probability P(cosine within an arm > cosine between arms), 0.5 without bias.
Writes into OUT: proximity.json, arms.parquet, genes.parquet, corrected.parquet (the map without the
bias), and the figures arms.png, chromosomes.png, telomere.png.

  python -m phenomjax.maps proximity --profiles map.parquet --genes gencode.gtf.gz \\
      --centromeres cytoBand.txt.gz --expression expression.csv --unexpressed 'HeLa == 0' \\
      --out bias/
  python -m phenomjax.maps proximity --edges network.csv --genes gencode.gtf.gz \\
      --centromeres cytoBand.txt.gz --out bias/
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import tyro

from phenomjax.data import store
from phenomjax.maps.arm_bias import arms
from phenomjax.maps.arm_bias import scores as arm_bias_scores
from phenomjax.maps.arm_bias.assessment import (
    Assessment,
    assess,
    correct,
    genome_rows,
    locate,
    prepare,
    unexpressed,
)
from phenomjax.maps.tables.frames import read_frame
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.options import File, Folder, TableOptions, Tables, Unexpressed
from phenomjax.maps.tables.profiles import Profiles, Record
from phenomjax.maps.tables.unexpressed import BY_EXPRESSION
from phenomjax.maps.tables.writing import write
from phenomjax.statistics.cosines import unit_rows
from phenomjax.system import ending
from phenomjax.system.errors import UserError
from phenomjax.system.files import save_figure, write_json, write_table
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Options(TableOptions, Overwrite):
    """Of `python -m phenomjax.maps proximity`."""

    MAKES: ClassVar[tuple[str, ...]] = ("proximity.json",)
    GROUPS: ClassVar[dict[str, str]] = {"transform": "method"}

    profiles: Tables = ()
    """a map, one row a gene: E.zarr, .parquet, .csv[.gz] or .h5ad; several are joined"""
    genes: File
    """GTF, or a table gene, chrom, start, end; or gene, arm, position"""
    centromeres: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """UCSC's `centromeres` or `cytoBand`; not needed where --genes has arms"""
    out: Folder
    """of results and figures"""
    edges: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """a network instead of profiles: its first two columns are genes (CSV, TSV)"""
    transform: Literal["sqrt", "log1p"] | None = None
    """of all features before anything else: sqrt for counts"""
    standardize: bool = False
    """each feature to mean 0, standard deviation 1 over the genes found"""
    expression: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """table with a column of genes, and columns for --unexpressed"""
    unexpressed: Unexpressed = BY_EXPRESSION
    """genes that are not expressed: one a line, or a query on the columns of --expression, --genes
    or the profiles, as 'TPM == 0'"""
    min_unexpressed: int = 20
    """an arm is corrected if it has more unexpressed genes"""
    min_genes: int = arm_bias_scores.MIN_GENES
    """arms with so many genes or fewer are dropped"""
    trials: int = 200
    """of the genome-wide score"""
    samples: int = 500
    """pairs within and between in each trial"""
    seed: int = 42
    """of the trials"""


def run(options: Options) -> int:
    """Scores, corrects and draws; returns the exit code."""
    out = Path(options.out)
    table = arms.read_arms(options.genes, options.centromeres)
    log.info("chromosome arms: %d genes on %d arms", len(table), table["arm"].nunique())
    if bool(options.profiles) == bool(options.edges):
        raise UserError(
            "Give either `profiles` (a map, one row a gene) or `edges` (a network of genes), not"
            " both and not neither."
        )
    if options.edges:
        return run_edges(options, options.edges, table)
    profiles, columns = load(options)
    located = locate(profiles, table, columns, options.min_genes)
    profiles = prepare(profiles, located, options.transform, options.standardize)
    drawn = {"trials": options.trials, "samples": options.samples, "seed": options.seed}
    before, after, corrected = assess(profiles, located, **drawn), None, None
    result = {
        "arms": _arms_record(options, table),
        "genes": {
            "in_map": int(located["gene"].notna().sum()),
            "with_arm": int(located["arm"].notna().sum()),
            "scored": int(located["scored"].sum()),
        },
        "before": _record(before),
    }
    silent, why = unexpressed(profiles, located, options.unexpressed, options.expression, columns)
    if silent is None:
        log.warning("not corrected: %s", why)
        result["correction"] = {"corrected": False, "why": why}
    else:
        corrected, used = correct(profiles, located, silent, options.min_unexpressed)
        result["correction"] = {
            "corrected": bool(used),
            "query": options.unexpressed,
            "min_unexpressed": options.min_unexpressed,
            "unexpressed_genes": int(silent.sum()),
            "arms": used,
        }
        log.info(
            "%d unexpressed genes on the arms; %d arms have more than %d and are corrected",
            silent.sum(),
            len(used),
            options.min_unexpressed,
        )
        if not used:
            most = int(located["arm"][silent].value_counts().max()) if silent.any() else 0
            log.warning(
                "no arm was corrected: the richest has %d unexpressed genes. A small screen may"
                " lower --min_unexpressed.",
                most,
            )
        after = assess(corrected, located, **drawn)
        result["after"] = _record(after)
        result["correction"]["raised_bias"] = raised(before, after)
        write(corrected, out / "corrected.parquet")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "proximity.json", result)
    written = [out / "proximity.json", *_write_tables(out, before, after)]
    written += draw(out, profiles, corrected, before, after)
    for name, one in (("before", before), ("after", after)):
        if one is not None:
            log.info(
                "%s correction: P(within > between) = %.4f (%d trials; all pairs: %.4f), p = %.1e;"
                " %d of %d arms above chance",
                name,
                one.genome["probability"],
                one.genome["trials"],
                one.genome["all_pairs"]["probability"],
                one.genome["p"],
                (one.arms["p_bonferroni"] < 0.05).sum(),
                one.arms["p"].notna().sum(),
            )
    for path in written:
        ending.wrote(path)
    if corrected is not None:
        ending.wrote(out / "corrected.parquet")
    if corrected is not None and result["correction"]["corrected"]:
        ending.then(
            "both maps in a browser",
            "python -m phenomjax.maps explore --profiles {} --corrected {} --out map.html",
            options.profiles[0],
            out / "corrected.parquet",
        )
    return 0


def raised(before: Assessment, after: Assessment) -> bool:
    """Whether a correction left more bias than there was (of all pairs, which no draw moves), and
    says so.
    """
    was, now = (one.genome["all_pairs"]["probability"] for one in (before, after))
    if abs(now - 0.5) <= abs(was - 0.5):
        return False
    log.warning(
        "the correction raised the bias: P(within > between) of all pairs is %.4f, farther from"
        " 0.5 than the %.4f before it. The mean of an arm's unexpressed genes is not what its genes"
        " share here: they are too few or differ among themselves, so that the subtraction gives"
        " all genes of the arm the same noise. Keep the map as it was, or correct only arms with"
        " more unexpressed genes (--min_unexpressed).",
        now,
        was,
    )
    return True


def run_edges(options: Options, path: str, table: "pd.DataFrame") -> int:
    """Scores a network instead of a map; returns the exit code."""
    out = Path(options.out)
    edges = score_edges(path, table)
    record = {"arms": _arms_record(options, table), "edges": edges}
    write_json(out / "proximity.json", record)
    log.info(
        "%d of %d edges have both genes on a known arm (%d genes): %.1f %% lie within one arm,"
        " %.2f %% are expected; enrichment %.1f",
        edges["mapped"],
        edges["edges"],
        edges["genes"],
        100 * edges["within"],
        100 * edges["expected"],
        edges["enrichment"],
    )
    ending.wrote(out / "proximity.json")
    return 0


def score_edges(path: str | Path, table: "pd.DataFrame") -> Record:
    """How many edges of a network lie within one chromosome arm, and how many would by chance."""
    import pandas as pd

    if not Path(path).is_file():
        raise UserError(f"There is no file {path} (`edges`).{store.beside(path)}")
    edges = read_frame(Path(path))
    if edges.shape[1] < 2:
        raise UserError(
            f"{path} has one column, but edges need two columns of genes, separated by commas (tabs"
            " in .tsv)."
        )
    arm = table.set_index("gene")["arm"]
    names = edges.iloc[:, :2].astype(str)
    places = names.apply(lambda column: column.map(arm))
    known = places.notna().all(axis=1)
    if not known.any():
        raise UserError(
            f"{path}: no edge has two genes with a chromosome arm; the first is"
            f" {'-'.join(names.iloc[0])}. Give symbols."
        )
    genes = pd.unique(names[known].to_numpy().ravel())
    observed, expected = arm_bias_scores.within_share(
        places[known].iloc[:, 0], places[known].iloc[:, 1], arm[genes]
    )
    return {
        "file": Path(path).name,
        "edges": len(edges),
        "mapped": int(known.sum()),
        "genes": len(genes),
        "within": observed,
        "expected": expected,
        "enrichment": observed / expected if expected else None,
    }


def draw(
    out: Path,
    raw: Profiles,
    corrected: Profiles | None,
    before: Assessment,
    after: Assessment | None,
) -> list[Path]:
    """Writes arms.png, chromosomes.png, telomere.png; returns their paths."""
    from phenomjax.maps.arm_bias import figures as drawings

    figures = {"arms.png": drawings.arm_bars(before.arms, None if after is None else after.arms)}
    order = genome_rows(before.genes)
    rows, arm = before.genes["row"].to_numpy()[order], before.genes["arm"].to_numpy(str)[order]
    vectors = None if corrected is None else unit_rows(corrected.features[rows], np.float32)
    figures["chromosomes.png"] = drawings.chromosome_map(
        unit_rows(raw.features[rows], np.float32), arm, vectors
    )
    if np.isfinite(before.genes["position"]).any():
        scores = {"before correction": before.genes["score"].to_numpy()}
        if after is not None:
            scores["after correction"] = after.genes["score"].to_numpy()
        sure = before.arms[before.arms["rho_p_bonferroni"] < 0.05]
        tested = int(before.arms["rho"].notna().sum())
        note = (
            f"arms with a trend before correction: {len(sure)} of {tested}\n(Spearman, p < 0.05,"
            " Bonferroni)"
            if tested
            else ""
        )
        figures["telomere.png"] = drawings.telomere_trend(
            scores, before.genes["rank"].to_numpy(), note
        )
    return [save_figure(figure, out / name) for name, figure in figures.items()]


def _arms_record(options: Options, table: "pd.DataFrame") -> Record:
    from phenomjax.system.files import sha256

    files = [Path(name) for name in (options.genes, options.centromeres) if name]
    return {
        "genes": len(table),
        "arms": int(table["arm"].nunique()),
        "files": {file.name: sha256(file) for file in files},
    }


def _record(one: Assessment) -> Record:
    arms_found = one.arms.astype(object).where(one.arms.notna(), None).to_dict("records")
    return {"genome": one.genome, "arms": arms_found}


def _write_tables(out: Path, before: Assessment, after: Assessment | None) -> Sequence[Path]:
    for name, key in (("arms", "arm"), ("genes", "row")):
        table = getattr(before, name)
        if after is not None:
            mean = (
                ["score"]
                if name == "genes"
                else [c for c in table.columns if c not in ("arm", "genes", "pairs_within")]
            )
            table = table.merge(
                getattr(after, name)[[key, *mean]], on=key, suffixes=("_before", "_after")
            )
        write_table(out / f"{name}.parquet", table)
    return out / "arms.parquet", out / "genes.parquet"
