"""What a reader sees of a map's rows: a name that occurs once, and whether it is a gene, a compound
or a control.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Shaped

from phenomjax.data.images.words import type_of
from phenomjax.maps.tables.columns import Columns, as_texts, shown
from phenomjax.maps.tables.metadata.detection import plain
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.system.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

# names that people use, where rows are named by ids; the first that a table has
READABLE = (
    *("pertiname", "iname", "compoundname", "commonname", "drugname", "treatmentname"),
    *("perturbationname", "pertname", "compound", "treatment", "drug", "genesymbol", "symbol"),
)
# of targets, what a program or a person writes where there is none
NO_GENE = {"", "-", "?", "na", "n/a", "nan", "none", "null", "unknown", "undefined", "not known"}
GENE_KINDS = ("crispr", "sirna", "orf", "gene", "cas9", "shrna", "knockout")


def entities(profiles: Profiles, columns: Columns) -> "pd.DataFrame":
    """One row a row of the map.

    name (unique, never empty), kind ("gene", "compound", "control"), perturbation, gene (the gene
    itself or the compound's target; "" where unknown), dose (as text with its unit; "" where there
    is none), called (what people call it, where that is another name; else "").

    Raises:
      UserError: no column names the perturbations, or the rows are wells rather than perturbations.
    """
    import pandas as pd

    table = profiles.metadata

    def text(name: str) -> pd.Series:
        return as_texts(table[name]) if name in table else pd.Series([""] * len(table))

    gene = text(columns.gene)
    if columns.perturbation not in table and columns.gene not in table:
        close = did_you_mean(columns.perturbation, map(str, table.columns))
        raise UserError(
            "The map has no column to name its rows by: that of perturbations is"
            f" {shown(columns.perturbation)}, that of genes {shown(columns.gene)}.{close} Name one"
            " with `perturbation` or `gene`; there are:"
            f" {', '.join(map(str, table.columns[:20]))}."
        )
    perturbation = text(columns.perturbation) if columns.perturbation in table else gene
    kind = pd.Series(np.where((perturbation == gene) & (gene != ""), "gene", "compound"))
    if columns.kind in table:
        given = pd.Series(kinds_of(table, columns))
        kind = kind.where(~given.isin(GENE_KINDS), "gene").where(given != "compound", "compound")
        kind = kind.where(given != "control", "control")
    name = perturbation.where((kind != "gene") | (gene == ""), gene).where(perturbation != "", gene)
    dose = doses_of(table, columns)
    for also in (dose, *(text(column) for column in columns.apart)):
        several = name.duplicated(keep=False)
        name = name.where(~(several & (also != "")), name + " " + also)
    name = name.where(name != "", "(no name)")
    again = name.groupby(name).cumcount()
    most = int(again.max()) if len(again) else 0
    if most >= 3 and (again > 0).mean() > 0.5:
        raise UserError(
            f"{len(table)} rows carry only {name.nunique()} names, so they are wells or guides"
            " rather than a map with one row a perturbation. Aggregate first: python -m"
            " phenomjax.maps aggregate."
        )
    name = name.where(again == 0, name + " #" + (again + 1).astype(str))
    called = text(readable(table, columns))
    called = called.where(called != perturbation, "")
    known = {"name": name, "kind": kind, "perturbation": perturbation, "gene": gene, "dose": dose}
    return pd.DataFrame({**known, "called": called})


def readable(metadata: "pd.DataFrame", columns: Columns) -> str:
    """The column with the names that people use: one of READABLE that is not what rows are named
    by; "" where there is none.
    """
    ids = metadata.get(columns.perturbation, metadata.get(columns.gene))
    for wanted in READABLE:
        for name in metadata.columns:
            texts = metadata[name]
            other = plain(name) == wanted and texts.dtype.kind == "O" and texts.notna()
            if np.any(other & (texts != ids)):
                return str(name)
    return ""


def kinds_of(metadata: "pd.DataFrame", columns: Columns) -> Shaped[np.ndarray, " rows"]:
    """What kind of perturbation each row is, as our banks say it ("cp" is "compound"), other words
    in small letters, "" where nothing is said; object [rows].
    """
    if columns.kind not in metadata:
        return np.full(len(metadata), "", object)
    words = as_texts(metadata[columns.kind])
    known = {word: type_of(word) or word.lower() for word in words.unique()}
    return words.map(known).to_numpy(object)


def doses_of(metadata: "pd.DataFrame", columns: Columns) -> "pd.Series":
    """The dose of each row as a reader wants it, with its unit where the column's name tells it
    ("concentration" is in µM, as in our banks and RxRx); "" where there is none, or none of it.
    """
    import pandas as pd

    if columns.dose not in metadata:
        return pd.Series([""] * len(metadata))
    known = re.sub(r"[\W_]", "", columns.dose.lower()).replace("μ", "u").replace("µ", "u")
    molar = re.search(r"([munp]?)(?:molesperl|m$|molar)", known)
    unit = ""
    if known.endswith(("concentration", "concentrationum")):
        unit = " µM"
    elif "gperml" in known:
        unit = f" {known[known.index('gperml') - 1].replace('u', 'µ')}g/ml"
    elif molar:
        unit = f" {molar[1].replace('u', 'µ')}M"
    numbers = pd.to_numeric(metadata[columns.dose], errors="coerce")
    shown = numbers.map(lambda value: f"{value:.3g}{unit}")
    return shown.where(numbers.notna(), as_texts(metadata[columns.dose])).where(numbers != 0, "")


def choose(names: Sequence[str], table: "pd.DataFrame") -> list[int]:
    """Rows of the map that the names mean: a row's own name, or all rows of a perturbation, of what
    people call it, or of a gene (or of a target among several), in the order given.

    Raises:
      UserError: a name that is not in the map.
    """
    rows: list[int] = []
    lower = [table[column].str.lower() for column in ("name", "perturbation", "gene", "called")]
    for name in names:
        found = next(filter(len, (np.flatnonzero(column == name.lower()) for column in lower)), ())
        if not len(found):
            found = np.flatnonzero(
                [name.lower() in targets_in(genes) for genes in table["gene"].str.lower()]
            )
        if not len(found):
            texts = dict.fromkeys([*table["called"], *table["name"], *table["gene"]])
            holding = [text for text in texts if name.lower() in text.lower()][:5]
            offered = f" In part it is in: {', '.join(holding)}." if holding else ""
            raise UserError(
                f"'{name}' is not in the map of {len(table)} perturbations."
                f"{offered or did_you_mean(name, texts)} Names are those of the genes and"
                " compounds, in capitals or not."
            )
        rows += [int(row) for row in found if row not in rows]
    return rows


def targets_of(profiles: Profiles, columns: Columns) -> Shaped[np.ndarray, " rows"]:
    """Target genes of each row, a frozenset each, empty where there are none; object [rows].

    "A|B", "A; B" and "A, B" are two genes (`Columns.separators`).
    """
    found = np.full(len(profiles), frozenset(), object)
    if columns.gene not in profiles.metadata:
        return found
    genes = profiles.metadata[columns.gene]
    known = {text: targets_in(str(text), columns.separators) for text in genes.dropna().unique()}
    found[:] = [known.get(text, frozenset()) for text in genes]
    return found


def targets_in(text: str, separators: str = Columns.separators) -> frozenset[str]:
    """The genes of a list of targets, without the brackets and quotes of a list of Python, and
    without words that say that none is known.
    """
    parts = re.split(f"[{re.escape(separators)}]", text) if separators else [text]
    genes = frozenset(part.strip(" \t\n[]{}()'\"") for part in parts)
    return frozenset(gene for gene in genes if gene.lower() not in NO_GENE)


def are_named(targets: Shaped[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """Which rows have a target, bool [rows]."""
    return np.fromiter((len(some) > 0 for some in targets), bool, len(targets))
