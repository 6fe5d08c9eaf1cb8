"""What is known of a map's rows beside their profiles, as the page of `maps explore` reads it: the
columns of the metadata, scores of `maps filter`, known pairs and sets.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

import numpy as np
from jaxtyping import Shaped

from phenomjax.data import store
from phenomjax.maps.build.aggregate import labels_of
from phenomjax.maps.relations.relationships import Relationships
from phenomjax.maps.tables.columns import Columns, as_texts, bare
from phenomjax.maps.tables.counts import cell_counts
from phenomjax.maps.tables.frames import read_frame
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Json: TypeAlias = dict[str, Any]
LARGEST_COLUMN = 8_000_000  # characters of a column's values in the page
# not worth a search, nor a colour: they hold what all others hold, or are of one well
STRUCTURE = re.compile(r"smiles|inchi$|sequence|path|file|url|checksum|sha\d*", re.IGNORECASE)
PLACE = re.compile(r"well|site|field|row|column|col|plate|barcode|batch|experiment", re.IGNORECASE)
IDENTIFIER = re.compile(r"(^|_)(id|cid|entrez|pubchem|chembl)($|_|id)", re.IGNORECASE)
LINKS = {  # what a link is made of: the columns that hold it
    "pubchem": ("pubchem_cid", "pubchemcid", "cid", "pubchem", "pubchem_id"),
    "inchikey": ("inchikey", "inchi_key", "standard_inchi_key"),
    "entrez": ("entrez", "entrez_id", "entrezid", "entrez_gene_id", "ncbi_gene_id", "gene_id"),
}
SCORES = {  # of `maps filter`: what each is called, and asks
    "activity": ("mAP", "are its replicates nearer to each other than to the controls?"),
    "consistency": ("consistency", "do its replicates agree more than random wells?"),
    "distinctiveness": ("distinctiveness", "is it unlike the other perturbations?"),
    "magnitude": ("magnitude", "how far is it from the controls?"),
}


class Column(TypedDict):
    """A column of the metadata: of text (levels and the level of each row, -1 where it is empty)
    or of numbers.
    """

    name: str
    label: str
    kind: Literal["text", "number"]
    levels: list[str]
    codes: list[int]
    values: list[float | None]
    searched: bool
    colours: bool


def numbers(values: "Iterable[Any]", digits: int = 4) -> list[float | None]:
    """Numbers as JSON holds them: some digits, None for what is no number."""
    return [
        float(f"{value:.{digits}g}") if np.isfinite(value) else None
        for value in np.asarray(values, np.float64)
    ]


def text_column(name: str, values: "pd.Series", *, searched: bool, colours: bool) -> Column:
    """A column of text, with its levels in their order."""
    import pandas as pd

    codes, levels = pd.factorize(values.where(values != "", None), sort=True)
    return {
        **_empty(name, "text"),
        "levels": [str(level) for level in levels],
        "codes": codes.tolist(),
        "searched": searched,
        "colours": colours,
    }


def number_column(name: str, values: "pd.Series | Shaped[np.ndarray, ' rows']") -> Column:
    """A column of numbers."""
    return {**_empty(name, "number"), "values": numbers(values), "colours": True}


def _empty(name: str, kind: Literal["text", "number"]) -> Column:
    label = bare(name).replace("_", " ")
    return {
        "name": name,
        "label": label,
        "kind": kind,
        "levels": [],
        "codes": [],
        "values": [],
        "searched": False,
        "colours": False,
    }


def metadata_columns(metadata: "pd.DataFrame") -> tuple[list[Column], list[str]]:
    """The columns of a map that tell its rows apart, and the names of those that are too large for
    the page.

    A column of text is searched unless it names places or structures, and colours the points where
    its values repeat. Whole numbers that are ids are text.
    """
    import pandas as pd

    found: list[Column] = []
    large: list[str] = []
    for key in metadata.columns:
        name, values = str(key), metadata[key]
        if values.nunique(dropna=True) < 2 and not (values.notna().any() and values.isna().any()):
            continue
        number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        if number and not IDENTIFIER.search(bare(name)):
            found.append(number_column(name, values.to_numpy(np.float64, na_value=np.nan)))
            continue
        text = _texts(values)
        if int(text.str.len().sum()) > LARGEST_COLUMN:
            large.append(name)
            continue
        structure = STRUCTURE.search(bare(name)) is not None
        some = text[text != ""]
        repeats = some.nunique() <= max(12, 0.9 * len(some))
        found.append(
            text_column(
                name,
                text,
                searched=not structure and not PLACE.search(bare(name)),
                colours=not structure and repeats,
            )
        )
    return found, large


def _texts(values: "pd.Series") -> "pd.Series":
    """Values as text, "" where there is none; whole numbers without their point."""
    import pandas as pd

    if pd.api.types.is_float_dtype(values):
        whole = (values.dropna() % 1 == 0).all()
        if whole:
            values = values.astype("Int64")
    return as_texts(values).str.strip()


def column_of(columns: Sequence[Column], names: Iterable[str]) -> int:
    """Index of the first of some names (in any case, with or without a prefix) that is there, or
    -1.
    """
    place = {bare(column["name"]).lower(): k for k, column in reversed(list(enumerate(columns)))}
    return next((place[name] for name in names if name in place), -1)


def row_labels(profiles: Profiles, columns: Columns) -> list[Shaped[np.ndarray, " rows"]]:
    """What other tables may call the rows, the narrowest first: "X @ 24 h @ dose", X, the gene."""
    labels, metadata = [], profiles.metadata
    if columns.perturbation in metadata:
        labels += [labels_of(profiles, columns, doses) for doses in ("apart", "together")]
        labels.append(_texts(metadata[columns.perturbation]).to_numpy(object))
    if columns.gene in metadata:
        labels.append(_texts(metadata[columns.gene]).to_numpy(object))
    return labels


def scores_of(path: str, profiles: Profiles, columns: Columns) -> list[Json]:
    """Scores of `maps filter` for the rows of a map: name, label and question of each, its values
    and its q, None where a row has none.

    Args:
      path: filter.parquet, or the folder that holds it, or a CSV with the same columns.
      profiles, columns: the map.

    Raises:
      UserError: no such file, no known score, or of other perturbations.
    """
    import pandas as pd

    file = Path(path) / "filter.parquet" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(
            f"`activity` {path}: there is no such file.{store.beside(file)} Give the"
            " filter.parquet that `python -m"
            " phenomjax.maps filter --profiles wells.parquet --out active/` writes."
        )
    try:
        table = pd.read_parquet(file) if file.suffix == ".parquet" else read_frame(file)
    except (OSError, ValueError) as error:
        raise UserError(
            f"`activity` {file} cannot be read ({error}). Run `maps filter` again."
        ) from None
    present = [name for name in SCORES if f"{name}_q" in table]
    if "perturbation" not in table or not present:
        raise UserError(
            f"`activity` {file} has the columns {', '.join(map(str, table.columns[:12]))}, but none"
            f" of perturbation with {', '.join(f'{name}_q' for name in SCORES)}. Give the"
            " filter.parquet of `maps filter`."
        )
    index = pd.Index(table["perturbation"].astype(str))
    if index.has_duplicates:
        raise UserError(
            f"`activity` {file} names '{index[index.duplicated()][0]}' twice, so that its rows"
            " cannot be told apart. Run `maps filter` again, with one row a perturbation."
        )
    place = max(
        (index.get_indexer(labels) for labels in row_labels(profiles, columns)),
        key=lambda found: int((found >= 0).sum()),
    )
    if not (place >= 0).any():
        raise UserError(
            f"`activity` {file} scores {', '.join(index[:3])}, …, none of which is in the map"
            f" ({', '.join(map(str, row_labels(profiles, columns)[0][:3]))}, …). Is it of the same"
            " screen, and named by the same column (`perturbation`)?"
        )

    def rows(name: str) -> list[float | None]:
        values = table[name].to_numpy(np.float64, na_value=np.nan)
        return numbers(np.where(place >= 0, values[place], np.nan))

    return [
        {
            "name": name,
            "label": SCORES[name][0],
            "question": SCORES[name][1],
            "values": rows(name),
            "q": rows(f"{name}_q"),
        }
        for name in present
        if name in table and table[f"{name}_q"].notna().any()
    ]


def replicates(metadata: "pd.DataFrame") -> list[float | None] | None:
    """How many profiles went into each row, or None where the map does not tell."""
    for name in metadata.columns:
        if bare(name).lower() == "num_profiles":
            return numbers(metadata[name].to_numpy(np.float64, na_value=np.nan), 7)
    return None


def cells_of_map(metadata: "pd.DataFrame", kinds: Sequence[str]) -> Json | None:
    """Cells a well of each row, and their share of what controls have (of the median row, where
    the map keeps no controls); None where no column counts them.
    """
    names = cell_counts(metadata.columns)
    if not names:
        return None
    counts = metadata[names[0]].to_numpy(np.float64, na_value=np.nan)
    control = np.array([kind == "control" for kind in kinds])
    known = control & np.isfinite(counts)
    usual = np.median(counts[known]) if known.any() else np.nanmedian(counts)
    return {
        "values": numbers(counts),
        "share": numbers(counts / usual if usual > 0 else np.full(len(counts), np.nan)),
        "of": "of the controls" if known.any() else "of this map's median (it keeps no controls)",
    }


def known(
    sources: Sequence[Relationships],
    table: "pd.DataFrame",
    targets: Shaped[np.ndarray, " rows"],
) -> tuple[Json, dict[str, int]]:
    """Known pairs and sets of the map's genes and compounds, and how many pairs each source has.

    The page holds the names that occur ("names"), those that a row goes by ("rows": its gene or
    targets, its perturbation), its targets alone, the pairs of each source as a flat list of
    indices of names, and the sets of which two are in the map.

    Args:
      sources: of known relationships.
      table: of `entities`.
      targets: of `targets_of`.
    """
    own = [
        sorted({*some, name} - {""})
        for some, name in zip(targets, table["perturbation"], strict=True)
    ]
    names = sorted({name for row in own for name in row})
    place = {name: k for k, name in enumerate(names)}
    pairs, found, sets = [], {}, []
    for source in sources:
        codes = source.within(np.array(names, object))
        found[source.name] = len(codes)
        pairs.append({"name": source.name, "pairs": codes.ravel().tolist()})
        for name, members in source.sets.items():
            inside = sorted({place[member] for member in members if member in place})
            if len(inside) > 1:
                sets.append({"source": source.name, "name": name, "members": inside})
    return {
        "names": names,
        "rows": [[place[name] for name in row] for row in own],
        "targets": [sorted(place[name] for name in some) for some in targets],
        "sources": pairs,
        "sets": sets,
    }, found
