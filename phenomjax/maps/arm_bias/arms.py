"""The chromosome arm of each gene, from the gene positions and the centromeres that the user gives
(human genome hg38).

Rules (those of proxbias, so that numbers compare): a gene whose end lies beyond the centromere's
midpoint is on arm q, else on p; genes on several chromosomes and LOC genes are dropped; chromosomes
without a centromere (the mitochondrial) too.
"""

import gzip
import logging
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from phenomjax.data import store
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("phenomjax")

COLUMNS = ("gene", "chrom", "arm", "start", "end", "position")
# Names that files give to their columns, in lower case and without signs.
NAMES = {
    "gene": (
        "gene",
        "genename",
        "symbol",
        "genesymbol",
        "hgncsymbol",
        "name",
        "metadatagene",
        "metadatasymbol",
    ),
    "chrom": ("chrom", "chromosome", "chr", "seqname", "chromosomename", "chromosomescaffoldname"),
    "start": ("start", "chromstart", "genestart", "genestartbp", "startposition", "txstart"),
    "end": ("end", "chromend", "geneend", "geneendbp", "endposition", "txend"),
    "arm": ("arm", "chromosomearm", "chrarm"),
    "position": ("position", "armposition"),
}
HUMAN_ARMS = tuple(f"{chrom}{arm}" for chrom in (*map(str, range(1, 23)), "X", "Y") for arm in "pq")


def read_arms(genes: str | Path, centromeres: str | Path | None = None) -> "pd.DataFrame":
    """One row a gene with its chromosome arm.

    Args:
      genes: gene positions: a GENCODE or Ensembl GTF (may be gzipped); a table (CSV, TSV, Parquet;
        may be gzipped) with the columns gene, chrom, start, end, or without a header in this order;
        or a table that already has the columns gene, arm (and position, from 0 at the centromere to
        1 at the telomere), such as a simulated screen's truth/genes.parquet.
      centromeres: UCSC's table "centromeres" or "cytoBand" of the same genome; not needed where the
        arms are given.

    Returns:
      Columns gene, chrom, arm (such as "1p"), start, end (bp), position (0 at the centromere, 1 at
      the gene of the arm that is farthest from it); further columns of a ready table, such as
      zfpkm, are kept. Sorted along the genome.

    Raises:
      UserError: the file is not there, or is in none of these formats.
    """
    table = _read_genes(Path(genes))
    if "arm" in table:
        return _ready(table, Path(genes))
    if centromeres is None:
        raise UserError(
            f"{genes} has gene positions, but to tell the arms the centromeres are needed. Give"
            " them with `centromeres` FILE: UCSC's table 'centromeres' or 'cytoBand' of the same"
            " genome (hg38:"
            " https://hgdownload.soe.ucsc.edu/goldenPath/hg38/database/cytoBand.txt.gz)."
        )
    return annotate(table, read_centromeres(centromeres))


def annotate(genes: "pd.DataFrame", midpoints: dict[str, float]) -> "pd.DataFrame":
    """Arms of genes with the columns gene, chrom, start, end, by the midpoints of the centromeres
    in bp.
    """
    import numpy as np

    names = genes["gene"].astype("string")
    keep = names.notna() & ~names.str.fullmatch(r"LOC\d+").fillna(False)
    grouped = genes[keep].groupby("gene", sort=False)
    one = grouped.agg(
        chrom=("chrom", "first"),
        start=("start", "min"),
        end=("end", "max"),
        chroms=("chrom", "nunique"),
    ).reset_index()
    several, unknown = one["chroms"] > 1, ~one["chrom"].isin(list(midpoints))
    log.info(
        "%d genes with a position; dropped: %d LOC genes, %d on several chromosomes, %d on"
        " chromosomes without a centromere",
        len(one) + (~keep).sum(),
        (~keep).sum(),
        several.sum(),
        (unknown & ~several).sum(),
    )
    one = one[~several & ~unknown].copy()
    if one.empty:
        raise UserError(
            "No gene lies on a chromosome with a centromere: the positions name chromosomes"
            f" {_some(genes['chrom'].unique())}, the centromeres {_some(midpoints)}. Give both"
            " files for the same genome (hg38), with names such as chr1 or 1."
        )
    middle = one["chrom"].map(midpoints)
    long_arm = one["end"] > middle
    one["arm"] = one["chrom"] + np.where(long_arm, "q", "p")
    distance = np.where(long_arm, one["end"] - middle, middle - one["start"])
    one["position"] = distance / one.assign(distance=distance).groupby("arm")["distance"].transform(
        "max"
    )
    return _sorted(one[list(COLUMNS)])


def read_centromeres(path: str | Path) -> dict[str, float]:
    """Midpoint of each chromosome's centromere in bp, {"1": ..., "X": ...}, of UCSC's `centromeres`
    or `cytoBand`.
    """
    rows = [line.rstrip("\r\n").split("\t") for line in _lines(Path(path)) if line.strip()]
    bands = any(row[-1] == "acen" for row in rows)
    ends: dict[str, list[int]] = {}
    for row in rows:
        if bands and row[-1] != "acen":
            continue
        first = next(
            (i for i, cell in enumerate(row) if cell.startswith("chr") and cell != "chrom"), None
        )
        if (
            first is not None
            and len(row) > first + 2
            and _whole(row[first + 1])
            and _whole(row[first + 2])
        ):
            ends.setdefault(_chrom(row[first]), []).extend(map(int, row[first + 1 : first + 3]))
    if not ends:
        raise UserError(
            f"{path} is not a table of centromeres: no line has a chromosome (chr1), a start and an"
            " end, separated by tabs. Give UCSC's table 'centromeres' or 'cytoBand' (its rows"
            " `acen`)."
        )
    return {chrom: (min(values) + max(values)) / 2 for chrom, values in ends.items()}


def genome_order(arm: str) -> tuple:
    """Sorts arms along the genome: 1p, 1q, ..., 22q, Xp, Xq, Yp, Yq, then others by name."""
    return (HUMAN_ARMS.index(arm), "") if arm in HUMAN_ARMS else (len(HUMAN_ARMS), arm)


def _ready(table: "pd.DataFrame", path: Path) -> "pd.DataFrame":
    table = table.dropna(subset=["gene", "arm"])
    twice = table["gene"][table.duplicated("gene")]
    if len(twice):
        raise UserError(
            f"{path}: {len(twice)} genes have several rows, the first is {twice.iloc[0]!r}. A table"
            " with a column `arm` needs one row a gene; remove the others."
        )
    table = table.assign(arm=table["arm"].astype(str).str.removeprefix("chr"))
    if "position" not in table:
        table["position"] = float("nan")
    if "chrom" not in table:
        table["chrom"] = table["arm"].str.removesuffix("p").str.removesuffix("q")
    for name in ("start", "end"):
        if name not in table:
            table[name] = float("nan")
    return _sorted(table[[*COLUMNS, *(c for c in table if c not in COLUMNS)]])


def _sorted(table: "pd.DataFrame") -> "pd.DataFrame":
    """Along the genome: on p from the telomere to the centromere, on q outwards."""
    along = table["position"].where(table["arm"].str.endswith("q"), -table["position"])
    arms = {
        arm: number for number, arm in enumerate(sorted(table["arm"].unique(), key=genome_order))
    }
    order = (
        table.assign(_arm=table["arm"].map(arms), _along=along)
        .sort_values(["_arm", "_along", "gene"])
        .index
    )
    return table.loc[order].reset_index(drop=True)


def _read_genes(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if not path.is_file():
        raise UserError(
            f"There is no file {path} with gene positions.{store.beside(path)} Give `genes` a GTF"
            " or a table gene,"
            " chrom, start, end."
        )
    if path.suffix == ".parquet":
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise _not_positions(path, str(error)) from None
        return _named(table, path)
    if re.search(r"\.g[tf]f3?(\.gz)?$", path.name):
        return _read_gtf(path)
    lines = _lines(path)
    first = next(lines, "").rstrip("\r\n")
    lines.close()
    separator = "\t" if "\t" in first else ","
    cells = [cell.strip('"') for cell in first.split(separator)]
    try:
        if len(cells) > 3 and _whole(cells[2]) and _whole(cells[3]):  # no header
            # Only four columns are asked for: a stray tab at the end of a line does no harm then.
            table = pd.read_csv(
                path,
                sep=separator,
                header=None,
                usecols=[0, 1, 2, 3],
                names=["gene", "chrom", "start", "end"],
                dtype={"gene": str, "chrom": str},
                keep_default_na=False,
            )
        else:
            table = pd.read_csv(path, sep=separator)
        return _named(table, path)
    except (ValueError, UnicodeDecodeError) as error:
        raise _not_positions(path, str(error)) from None


def _named(table: "pd.DataFrame", path: Path) -> "pd.DataFrame":
    import pandas as pd

    plain = {re.sub(r"[^a-z]", "", str(column).lower()): column for column in table}
    found = {}
    for name, others in NAMES.items():
        column = next((plain[other] for other in others if other in plain), None)
        if column is not None:
            found[column] = name
    table = table.rename(columns=found)
    needed = ("gene", "arm") if "arm" in table else ("gene", "chrom", "start", "end")
    if table.columns.duplicated().any():
        twice = table.columns[table.columns.duplicated()][0]
        raise _not_positions(path, f"two columns are called {twice}")
    missing = [name for name in needed if name not in table]
    if missing:
        raise _not_positions(path, f"no column {', '.join(missing)} among {_some(plain.values())}")
    if "chrom" in table:
        table["chrom"] = table["chrom"].astype(str).map(_chrom)
    for name in {"start", "end", "position"} & set(table):
        try:
            table[name] = pd.to_numeric(table[name])
        except (ValueError, TypeError) as error:
            raise _not_positions(path, f"column '{name}' holds no numbers ({error})") from None
    return table


def _read_gtf(path: Path) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for line in _lines(path):
        cells = line.split("\t", 8)
        if len(cells) == 9 and cells[2] == "gene" and _whole(cells[3]) and _whole(cells[4]):
            name = re.search(r'gene_name[ =]"?([^";]+)', cells[8])
            if name:
                rows.append((name[1].strip(), _chrom(cells[0]), int(cells[3]), int(cells[4])))
    if not rows:
        raise _not_positions(path, "no line of a 'gene' has a 'gene_name'")
    return pd.DataFrame(rows, columns=["gene", "chrom", "start", "end"])


def _lines(path: Path):
    if not path.is_file():
        raise UserError(f"There is no file {path}.{store.beside(path)}")
    with open(path, "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rt") if zipped else open(path) as file:
            yield from file
    except (UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise _not_positions(path, str(error)) from None


def _whole(text: str) -> bool:
    """Whether a text is a whole number; "²" is a digit too."""
    return text.isascii() and text.isdigit()


def _chrom(name: str) -> str:
    return name.removeprefix("chr")


def _some(names) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _not_positions(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} cannot be read as gene positions: {why}. Give a GTF of GENCODE (*.gtf, *.gtf.gz),"
        " a table with the columns gene, chrom, start, end (CSV, TSV, Parquet; a TSV without a"
        " header has these four in this order), or a table with the columns gene, arm."
    )
