"""Which column of a table is its plate, its well, its perturbation: by the names that the field
uses (JUMP, CPJUMP1 and pycytominer, CellProfiler, CytoTable, DeepProfiler, RxRx, OpenPhenom, LINCS,
IDR and our banks), in any case, with and without Metadata_ and Image_Metadata_. A flag always wins.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from phenomjax.data.images.words import role_of, type_of
from phenomjax.maps.tables.columns import DETECT, Columns, bare, require
from phenomjax.maps.tables.metadata import roles

if TYPE_CHECKING:
    import pandas as pd

# the first that fits wins: levels made of doses that are measured and differ a little from well to
# well, then moles, then weights
_DOSES = (
    re.compile("doserecode"),
    re.compile(
        r"(log(10|2)?)?(final|compound|cpd|drug|perti?|perturbation|treatment|nominal|sample|molar)?"
        r"([munp]?mol)?(concentration|conc|dose)s?(in)?"
        r"([pnumµμ]?m(olar)?|micromolar|nanomolar|[munp]gperml|value|level|index)?"
        r"|[munp]?molesper(liter|litre|l)"
    ),
    re.compile(r"[munp]?gper(liter|litre|ml|l)"),
)
TIME = re.compile(
    r"(pert|perturbation|treat|treatment|incubation|exposure|culture|stimulation|infection)?i?"
    r"(timepoints?|times?|duration|hours?|hrs?|days?)(in)?(h|hrs?|hours?|d|days?|min|minutes?)?"
    r"((post|after)\w*)?|[hd]p[ti]"
)
CELL = re.compile(
    r"cell|(parental|characteristics)?cell(lines?|types?|models?)(name|id|code)?|cell(name|id)|donor(id)?|strain"
)
MOST_TIMES = 24  # more of them are moments, not the time points of a design
# tiers of names as `plain` writes them, the first that fits wins
NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "plate": (
        ("plate",),
        ("assayplatebarcode", "platebarcode", "barcode", "assayplate", "platedapi"),
        ("plateid", "platename", "plateno", "platenumber"),
        ("destinationplatebarcode", "destinationplatename", "destinationplate"),
    ),
    "experiment": (
        ("experiment", "experimentname", "experimentid"),
        ("source",),
        ("batch", "batchid", "batchname", "platebatch"),
        ("run", "runid", "screen", "study"),
    ),
    "well": (
        ("well",),
        ("wellposition", "wellname", "wellcode", "welllocation", "assaywell", "welldapi"),
        ("address", "wellid", "position", "destinationwell"),
    ),
    "perturbation": (
        ("perturbation",),
        ("jcp2022", "broadsample"),
        (
            *("pertid", "perturbationid", "compoundid", "drugid", "cpdid", "broadid", "cid"),
            *("sirnaid", "sgrnaid", "guideid", "grnaid", "orfid", "treatmentid", "reagentid"),
            *("substanceid", "catalogid", "catalognumber", "idr0000compound"),
        ),
        (
            *("treatment", "compound", "drug", "sirna", "sgrna", "guide", "grna", "reagent"),
            *("perturbagen", "substance", "pert", "molecule", "orf", "barcode", "peptide"),
            *("focibarcodematchedtobarcode",),
        ),
        (
            *("pertiname", "pertname", "perturbationname", "compoundname", "drugname"),
            *("treatmentname", "reagentname", "moleculename", "name", "condition"),
        ),
        ("inchikey",),
        ("smiles", "canonicalsmiles", "sampleid", "sample"),
    ),
    "gene": (
        ("gene",),
        (
            *("genesymbol", "symbol", "genename", "hgncsymbol", "targetgene", "genetarget"),
            *("targetgenesymbol", "focibarcodematchedtogenecode", "genecode", "targetsymbol"),
        ),
        ("target", "targets", "targetname", "targetgenes", "genes", "targetlist"),
        (
            "ncbigeneid",
            "entrezid",
            "entrezgeneid",
            "geneid",
            "entrez",
            "ensemblid",
            "ensemblgeneid",
        ),
    ),
    "kind": (
        ("perturbationtype", "perturbagentype", "perturbationmodality", "modality"),
        ("perttype", "perturbation", "librarytype", "type"),
    ),
}


def plain(column: object) -> str:
    """A column's name as it is compared: "Metadata_Well Position" -> "wellposition"."""
    return re.sub(r"[\W_]", "", bare(column).lower())


def is_of_identity(known: str) -> bool:
    """Whether a column of some plain name is a part of what names a well, or a site of it."""
    tiers = (*NAMES["plate"], *NAMES["experiment"], *NAMES["well"], ("site", "field", "fov"))
    return any(known in tier for tier in tiers) or bool(
        TIME.fullmatch(known) or CELL.fullmatch(known)
    )


def detect(metadata: "pd.DataFrame", told: Columns) -> Columns:
    """The columns of a table, by name and by what they hold.

    Args:
      metadata: one row a profile.
      told: with `DETECT` where the user named nothing.

    Returns:
      Columns whose every name is of the table, or "" (and () for several) where it has none, or
      what the user named.

    Raises:
      UserError: the user named a column that is not there.
    """
    called = {name: plain(name) for name in map(str, metadata.columns)}
    for role in ("perturbation", "gene", "well", "plate", "dose", "kind", "batch", "apart"):
        given = getattr(told, role)
        for name in (given,) if isinstance(given, str) else given:
            if name not in (DETECT, ""):
                require(metadata, name, f"`{role}`")

    def first(role: str, fits: Callable[[str], bool] = lambda name: True) -> str:
        for tier in NAMES[role]:
            for wanted in tier:
                for name, known in called.items():
                    if known == wanted and metadata[name].notna().any() and fits(name):
                        return name
        return ""

    def named(given: str, found: Callable[[], str]) -> str:
        return found() if given == DETECT else given

    def _is_of_many(name: str) -> bool:  # else a barcode is of a guide, and no plate's
        return called[name] != "barcode" or 4 * metadata[name].nunique() <= len(metadata)

    kinds = roles.column_of_words(metadata, type_of)
    words = roles.column_of_words(metadata, role_of)
    plate = named(told.plate, lambda: first("plate", _is_of_many))
    gene = named(told.gene, lambda: first("gene", lambda name: not words(name)))
    perturbation = named(
        told.perturbation,
        lambda: (
            first(
                "perturbation", lambda name: not words(name) and not kinds(name) and name != plate
            )
            or gene
        ),
    )

    def of_most(name: str) -> bool:  # a table of controls tells the kinds of these alone
        return kinds(name) and bool(metadata[name].notna().mean() > 0.5)

    own = _batch(metadata, plate, called, first)
    batch = told.batch if told.batch != (DETECT,) else own
    columns = replace(
        told,
        plate=plate,
        within=tuple(name for name in own if name not in (*batch, plate)),
        well=named(told.well, lambda: first("well")),
        perturbation=perturbation,
        gene=gene,
        dose=named(told.dose, lambda: _dose(metadata, called)),
        kind=named(told.kind, lambda: first("kind", of_most)),
        batch=batch,
        apart=told.apart if told.apart != (DETECT,) else _apart(metadata, called),
    )
    return roles.find(metadata, columns, called)


def _dose(metadata: "pd.DataFrame", called: dict[str, str]) -> str:
    """The column of doses; "" where none holds one."""
    found = (name for doses in _DOSES for name, known in called.items() if doses.fullmatch(known))
    return next((name for name in found if metadata[name].notna().any()), "")


def _batch(
    metadata: "pd.DataFrame",
    plate: str,
    called: dict[str, str],
    first: Callable[[str], str],
) -> tuple[str, ...]:
    """The plate, behind what tells plates of one name apart (plate 1 of each experiment)."""
    if plate == "":
        return (found,) if (found := first("experiment")) else ()
    # a bank of ours has the column, which is empty where the source knew no experiment
    found = first("experiment") if plate == "plate" and "experiment" in called else ""
    parents = [found] if found else []
    candidates = [
        name
        for tier in NAMES["experiment"]
        for wanted in tier
        for name, known in called.items()
        if known == wanted and name not in parents
    ]
    for name in candidates:
        keys = [*parents, plate]
        together = metadata[[*keys, name]].drop_duplicates()
        if len(together) > len(together.drop_duplicates(keys)):
            parents.append(name)
    return (*parents, plate)


def _apart(metadata: "pd.DataFrame", called: dict[str, str]) -> tuple[str, ...]:
    """Time points and kinds of cells, where there are several."""
    found = []
    for names, most in ((TIME, MOST_TIMES), (CELL, len(metadata))):
        for name, known in called.items():
            if names.fullmatch(known) and 1 < metadata[name].nunique(dropna=False) <= most:
                found.append(name)
    return tuple(found)
