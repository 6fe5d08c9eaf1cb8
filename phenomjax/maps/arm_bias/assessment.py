"""How biased a map is by chromosome arms, genome-wide, arm by arm and gene by gene; and the map
corrected for it.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from phenomjax.data import store
from phenomjax.maps.arm_bias import arms, scores
from phenomjax.maps.build.align import TRANSFORMS
from phenomjax.maps.tables.columns import Columns, require
from phenomjax.maps.tables.frames import read_frame
from phenomjax.maps.tables.profiles import Profiles, Record
from phenomjax.maps.tables.unexpressed import BY_EXPRESSION, unexpressed_rows
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    import pandas as pd

# perturbation types whose column `gene` is a target, not the place of a cut
NOT_GENES = ("compound", "control")


@dataclass(frozen=True)
class Assessment:
    """How biased a map is.

    Attributes:
      genes: row (of the map), gene, arm, position, rank (0 at the centromere to 1 at the telomere),
        score.
      arms: arm, genes, probability, statistic, p, p_bonferroni, pairs_within, rho, rho_p,
        rho_p_bonferroni (trend to the telomere).
      genome: of `bias.genome_score`, and all_pairs: the same from every pair.
    """

    genes: "pd.DataFrame"
    arms: "pd.DataFrame"
    genome: Record


def locate(
    profiles: Profiles, table: "pd.DataFrame", columns: Columns, min_genes: int = scores.MIN_GENES
) -> "pd.DataFrame":
    """The arm of each row of a map: gene, arm, position and the other columns of the arms' table,
    NaN where the gene is unknown or no knock-out, index as in the map; column `scored` tells the
    rows on arms with more than `min_genes` genes.

    Raises:
      UserError: no gene is known, or a gene has several rows.
    """
    genes = require(profiles.metadata, columns.gene, "`gene`")
    if columns.kind in profiles.metadata:
        genes = genes.where(~profiles.metadata[columns.kind].isin(NOT_GENES))
    located = genes.rename("gene").to_frame().merge(table, on="gene", how="left")
    known = located["arm"].notna()
    twice = located["gene"][known & located["gene"].duplicated()]
    if len(twice):
        raise UserError(
            f"{len(twice)} rows of the profiles are a second row of their gene, the first is"
            f" {twice.iloc[0]!r}; a proximity score needs one row a gene, or replicates of a gene"
            " would count as neighbours. Aggregate first: python -m phenomjax.maps aggregate"
            " (guides to genes)."
        )
    if not known.any():
        examples = genes.dropna().astype(str).unique()[:3].tolist()
        raise UserError(
            f"None of the genes of column '{columns.gene}' ({', '.join(examples)}, ...) is in the"
            f" table of chromosome arms ({', '.join(table['gene'].head(3))}, ...). Are these"
            " symbols of the same species, and is `gene` the right column?"
        )
    located["scored"] = scores.on_large_arms(located["arm"].to_numpy(object), max(1, min_genes))
    log.info(
        "%d of %d genes have a chromosome arm; %d are on arms with more than %d genes",
        known.sum(),
        genes.nunique(),
        located["scored"].sum(),
        min_genes,
    )
    if located["arm"][located["scored"]].nunique() < 2:
        raise UserError(
            f"Fewer than two chromosome arms have more than {min_genes} of the map's genes, so"
            " there is nothing to compare. Of a small screen `python -m phenomjax.maps proximity"
            " --min_genes N` takes arms with fewer."
        )
    return located


def prepare(
    profiles: Profiles, located: "pd.DataFrame", transform: str | None, standardize: bool
) -> Profiles:
    """Transforms features, and standardises them over the rows with an arm (or leaves them as they
    are).
    """
    features = profiles.features
    if transform:
        if features.min() < 0:
            raise UserError(
                f"`transform` {transform} needs features of zero or more, as counts are; these have"
                f" {features.min():.3g}. Leave it out."
            )
        features = TRANSFORMS[transform](features)
    if standardize:
        rows = features[located["arm"].notna().to_numpy()].astype(np.float64)
        spread = rows.std(0)
        features = (features - rows.mean(0)) / np.where(spread > 0, spread, 1)
    if transform or standardize:
        return profiles.with_features(features, profiles.names).after(
            "transform", transform=transform, standardize=standardize
        )
    return profiles


def assess(
    profiles: Profiles,
    located: "pd.DataFrame",
    *,
    trials: int = 200,
    samples: int = 500,
    seed: int = 42,
) -> Assessment:
    """Scores of the genome, of each arm and of each gene, from the rows that `locate` marks as
    scored.
    """
    import pandas as pd

    rows = np.flatnonzero(located["scored"])
    arm, features = located["arm"].to_numpy(object)[rows], profiles.features[rows]
    each, every = scores.arm_scores(features, arm)
    genome = {
        **scores.genome_score(features, arm, trials=trials, samples=samples, seed=seed),
        "all_pairs": asdict(every),
    }
    position = located["position"].to_numpy(float)[rows]
    genes = pd.DataFrame(
        {
            "row": rows,
            "gene": located["gene"].to_numpy(object)[rows],
            "arm": arm,
            "position": position,
        }
    )
    genes["rank"] = _ranks(genes)
    genes["score"] = scores.gene_scores(features, arm)
    trend = scores.telomere_trend(genes["score"].to_numpy(), arm, position)
    tests = sum(one is not None for one in each.values())
    records = []
    for name in sorted(each, key=arms.genome_order):
        one, along = each[name], trend.get(name, {})
        records.append(
            {
                "arm": name,
                "genes": int((arm == name).sum()),
                "probability": one.probability if one else np.nan,
                "statistic": one.statistic if one else np.nan,
                "p": one.p if one else np.nan,
                "p_bonferroni": min(1.0, one.p * tests) if one else np.nan,
                "pairs_within": one.within if one else 0,
                "rho": along.get("rho", np.nan),
                "rho_p": along.get("p", np.nan),
                "rho_p_bonferroni": along.get("p_bonferroni", np.nan),
            }
        )
    return Assessment(genes, pd.DataFrame(records), genome)


def unexpressed(
    profiles: Profiles,
    located: "pd.DataFrame",
    query: str,
    expression: str | None = None,
    columns: Columns | None = None,
) -> tuple[Bool[np.ndarray, " rows"] | None, str]:
    """Which rows are knock-outs of unexpressed genes, by a file or a query: (bool [rows], ""), or
    (None, why it cannot be told).

    Raises:
      UserError: an expression table that does not fit, or a query that it cannot answer.
    """
    import pandas as pd

    columns = columns or Columns()
    if expression:
        values = _expression(Path(expression))
        frame = located[["gene"]].merge(values, on="gene", how="left")
        if not frame["gene"].isin(values["gene"]).any():
            raise UserError(
                f"`expression` {expression}: none of the map's genes is in it. Its first gene is"
                f" {values['gene'].iloc[0]!r}; give symbols."
            )
    else:
        more = [name for name in profiles.metadata.columns if name not in located.columns]
        frame = pd.concat([located, profiles.metadata[more]], axis=1)
    if query == BY_EXPRESSION and not expression and "zfpkm" not in frame:
        return (
            None,
            "which genes are not expressed is unknown: neither --genes nor the profiles have a"
            " column zfpkm. Give --expression FILE and --unexpressed 'COLUMN == 0', or"
            " --unexpressed with a query on the columns there are, or with a file of one gene a"
            " line",
        )
    chosen = unexpressed_rows(query, located["gene"].to_numpy(object), frame)
    return chosen & located["arm"].notna().to_numpy(), ""


def correct(
    profiles: Profiles,
    located: "pd.DataFrame",
    silent: Bool[np.ndarray, " rows"],
    min_unexpressed: int = 20,
) -> tuple[Profiles, dict[str, int]]:
    """The map without the bias (`bias.centre_arms`), and the arms that were corrected with their
    numbers of unexpressed genes.
    """
    features, used = scores.centre_arms(
        profiles.features, located["arm"].to_numpy(object), silent, min_unexpressed
    )
    return (
        profiles.with_features(features, profiles.names).after(
            "proximity", min_unexpressed=min_unexpressed, arms=used
        ),
        used,
    )


def genome_rows(genes: "pd.DataFrame") -> Int[np.ndarray, " genes"]:
    """Order of the rows along the genome: arm after arm, on p from the telomere inwards, on q
    outwards.
    """
    along = (
        genes["position"]
        .fillna(0.0)
        .where(genes["arm"].str.endswith("q"), -genes["position"].fillna(0.0))
    )
    place = {
        name: number
        for number, name in enumerate(sorted(genes["arm"].unique(), key=arms.genome_order))
    }
    return np.lexsort((along.to_numpy(), genes["arm"].map(place).to_numpy()))


def _ranks(genes: "pd.DataFrame") -> Float[np.ndarray, " genes"]:
    """Rank along the arm, from 0 at the centromere to 1 at the telomere; NaN without a position."""
    groups = genes.groupby("arm")["position"]
    return ((groups.rank() - 1) / (groups.transform("count") - 1).clip(lower=1)).to_numpy()


def _expression(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if not path.is_file():
        raise UserError(f"There is no file {path} (`expression`).{store.beside(path)}")
    values = pd.read_parquet(path) if path.suffix == ".parquet" else read_frame(path)
    name = next(
        (
            column
            for column in values
            if str(column).lower() in ("gene", "symbol", "gene_name", "gene_symbol")
        ),
        None,
    )
    if name is None:
        raise UserError(
            f"`expression` {path} has no column of genes (gene, symbol, gene_name) among"
            f" {', '.join(map(str, values.columns[:8]))}. Rename it."
        )
    return values.rename(columns={name: "gene"}).dropna(subset=["gene"]).drop_duplicates("gene")
