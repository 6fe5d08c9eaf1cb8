"""Which column of a table is which of the bank's, by the names that the field uses.

A name of the bank's own is taken first, in any case and with "Metadata_" before it; then the
synonyms, tier by tier. What was taken for what is said; two columns of one tier that differ are an
error that names the flag.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from phenomjax.data.images.wells import looks_like_well
from phenomjax.data.images.words import FALSE, TRUE, plain, type_of
from phenomjax.prepare.images.annotation import roles, values
from phenomjax.prepare.images.annotation.sheet import Sheet
from phenomjax.prepare.images.annotation.sheet import rename as flag
from phenomjax.system.errors import UserError

KEYS = ("experiment", "plate", "well", "site")
VALUES = ("cell_type", "perturbation", "perturbation_type", "gene", "concentration", "is_control")
# what --rename may name; "role" holds words such as negcon, "ignore" leaves a column out
TARGETS = (*KEYS, *VALUES, "row", "column", "role", "ignore")
LOOKED_AT = 2000  # different values of a column
SYNONYMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "experiment": (("experimentname", "experimentid"),),
    "plate": (
        ("assayplatebarcode", "platebarcode", "assayplate", "barcode"),
        ("destinationplatebarcode", "destinationplatename", "destinationplate"),
        ("plateid", "platename", "plateno", "platenumber"),
    ),
    "well": (
        ("wellposition", "wellid", "wellname", "wellcode", "welllocation", "assaywell", "address"),
        ("position", "wells", "destinationwell"),
    ),
    "row": (("wellrow", "platerow", "rowid"),),
    "column": (("col", "wellcolumn", "wellcol", "platecolumn", "platecol", "columnid"),),
    "site": (("field", "fieldid", "fov", "siteid", "imagesite", "fieldofview"),),
    "cell_type": (("cellline", "cell", "cellname"),),
    "perturbation": (
        ("jcp2022",),
        (
            *("broadsample", "pertid", "perturbationid", "compoundid", "drugid", "sirnaid"),
            *("sgrnaid", "guideid", "grnaid", "treatmentid", "reagentid", "substanceid"),
        ),
        (
            *("compound", "drug", "treatment", "sirna", "sgrna", "guide", "grna", "reagent"),
            *("perturbagen", "substance", "pert", "molecule"),
        ),
        (
            *("pertiname", "pertname", "perturbationname", "compoundname", "drugname"),
            *("treatmentname", "reagentname", "moleculename"),
        ),
        ("inchikey",),
        ("smiles",),
    ),
    "perturbation_type": (("perturbagentype", "perturbationmodality", "modality", "perttype"),),
    "gene": (("genesymbol", "symbol", "genename", "targetgene", "hgncsymbol", "targetgenesymbol"),),
    "concentration": (
        (
            *(
                "concentration",
                "conc",
                "dose",
                "finalconcentration",
                "finalconc",
                "compoundconcentration",
            ),
            *("compoundconc", "drugconcentration", "drugconc", "pertdose", "concentrations"),
        ),
        ("molesperliter",),
    ),
    "is_control": (("isnegativecontrol", "isnegcon", "isnegctrl", "negativecontrol"), ("control",)),
}
_UNIT_COLUMNS = frozenset(
    {
        *("concentrationunit", "concentrationunits", "concunit", "concunits", "doseunit"),
        *("doseunits", "pertdoseunit"),
    }
)


@dataclass
class Columns:
    """Where in a table the bank's columns are.

    Attributes:
      places: by name of KEYS, VALUES, "row" and "column".
      roles: columns with words such as negcon.
      unit: of the concentrations, by the name of their column.
      unit_column: the column with the unit of each concentration.
      unused: names of the others.
    """

    places: dict[str, int] = field(default_factory=dict)
    roles: list[int] = field(default_factory=list)
    unit: str | None = None
    unit_column: int | None = None
    unused: list[str] = field(default_factory=list)

    @property
    def has_well(self) -> bool:
        return "well" in self.places or {"row", "column"} <= self.places.keys()


def find_columns(sheet: Sheet, rename: Mapping[str, str]) -> Columns:
    """Finds the bank's columns in a table.

    Args:
      sheet: the table.
      rename: {column of the table: name of TARGETS}; these columns are nothing else.

    Raises:
      UserError: two columns for one name.
    """
    found = Columns()
    free: dict[int, str] = {}
    for place, column in enumerate(sheet.columns):
        target = rename.get(column)
        if target == "role":
            found.roles.append(place)
        elif target is not None:
            if target in found.places:
                raise _doubled(sheet, target, [found.places[target], place])
            found.places[target] = place
        elif column:
            free[place] = column
    looked = {place: _sample(sheet, place) for place in free}
    for name in (*KEYS, *VALUES, "row", "column"):
        if same := [p for p, column in free.items() if plain(column) == plain(name)]:
            if name == "perturbation" and _only(type_of, looked[same[0]]):
                continue  # CPJUMP1 calls the kind of library so; a tier below takes it
            if name in found.places:
                continue  # --rename has said which it is
            if name == "well" and _counts_wells(free, looked[same[0]]):
                continue
            found.places[name] = _one(sheet, name, same)
            for place in same:
                free.pop(place)
    _find_roles(found, free, looked)
    for name in (*KEYS, *VALUES, "row", "column"):
        if name in found.places or (name in ("row", "column") and "well" in found.places):
            continue
        for tier in SYNONYMS[name]:
            fits = [p for p, column in free.items() if _fits(name, tier, column, looked[p])]
            if fits:
                found.places[name] = _one(sheet, name, fits)
                free.pop(found.places[name])
                break
    if "concentration" in found.places:
        found.unit = _unit_in_name(sheet.columns[found.places["concentration"]])[1]
        units = [
            place
            for place, column in free.items()
            if plain(column) in _UNIT_COLUMNS
            or (plain(column) in ("unit", "units") and any(map(values.unit_of, looked[place])))
        ]
        if len(units) == 1 and found.unit is None:
            found.unit_column = units[0]
            free.pop(units[0])
    found.unused = list(free.values())
    return found


def _counts_wells(free: dict[int, str], looked: list[str]) -> bool:
    """Whether a column "well" only counts (1 to 96), beside a row and a column that name it."""
    there = {plain(column) for column in free.values()}
    names = [
        (name, *(one for tier in SYNONYMS[name] for one in tier)) for name in ("row", "column")
    ]
    named = all(there & {plain(one) for one in synonyms} for synonyms in names)
    return named and not any(map(looks_like_well, looked))


def said(sheet: Sheet, found: Columns) -> str:
    """ "Metadata_Well as well, broad_sample as perturbation"; '' where all names are the bank's."""
    parts = [
        f"{sheet.columns[place]} as {name}"
        for name, place in found.places.items()
        if sheet.columns[place] != name
    ]
    return ", ".join(parts)


def _find_roles(found: Columns, free: dict[int, str], looked: dict[int, list[str]]) -> None:
    """Takes the columns of roles out of those that are free."""
    for place, column in list(free.items()):
        if not roles.holds_roles(column, looked[place]):
            continue
        kinds = plain(column) == "perttype" and _only(type_of, looked[place])
        if kinds and "control" not in map(type_of, looked[place]):
            continue  # of library, not of wells
        found.roles.append(place)
        if not kinds:
            free.pop(place)


def _fits(name: str, tier: tuple[str, ...], column: str, looked: list[str]) -> bool:
    """Whether a column is one of the tier by its name, and its values can be such."""
    called = plain(column)
    if name == "perturbation_type" and called == "perturbation":
        return _only(type_of, looked)
    if name == "concentration":
        called = _unit_in_name(column)[0]
    if called not in tier or not looked:
        return called in tier and name not in ("well", "is_control")
    checks: dict[str, Callable[[str], object]] = {
        "well": looks_like_well,
        "site": str.isdigit,
        "perturbation_type": type_of,
        "cell_type": lambda text: not text.isdigit(),
        "is_control": lambda text: text.lower() in TRUE | FALSE,
    }
    return name not in checks or _only(checks[name], looked)


def _only(check: Callable[[str], object], looked: list[str]) -> bool:
    return bool(looked) and all(check(text) for text in looked)


def _sample(sheet: Sheet, place: int) -> list[str]:
    """The different values of a column, the first LOOKED_AT of them."""
    found: dict[str, None] = {}
    for row in sheet.rows:
        value = row[place]
        if value is not None and value not in found:
            found[value] = None
            if len(found) == LOOKED_AT:
                break
    return list(found)


def _unit_in_name(column: str) -> tuple[str, str | None]:
    """("dose", "nm") of "Dose (nM)", "dose_nM"; ("molesperliter", "mm") of "mmoles_per_liter"."""
    if match := re.fullmatch(r"(?:metadata_)?([mun]?)moles_per_liter", column.lower()):
        return "molesperliter", (match[1] or "") + "m"
    match = re.fullmatch(r"(.*?)[\s_(\[]+([^\s_(\[)\]]+)[)\]]?", column.strip())
    unit = values.unit_of(match[2]) if match else None
    return (plain(match[1]), unit) if match and unit else (plain(column), None)


def _one(sheet: Sheet, name: str, places: list[int]) -> int:
    """The first of columns that say the same."""
    first = sheet.values(places[0])
    if any(sheet.values(place) != first for place in places[1:]):
        raise _doubled(sheet, name, places)
    return places[0]


def _doubled(sheet: Sheet, name: str, places: list[int]) -> UserError:
    columns = [sheet.columns[place] for place in places]
    if len(set(columns)) < len(columns):
        return UserError(
            f"{sheet.name}: two columns are named {columns[-1]!r}. Rename or remove one of them, or"
            f" leave them out: {flag(columns[-1], 'ignore')}."
        )
    choices = " or ".join(flag(column, name) for column in columns if column != name)
    others = " ".join(flag(column, "ignore") for column in columns[1:])
    return UserError(
        f"{sheet.name}: the columns {', '.join(columns)} may each be the {name}, and they differ."
        f" Say which it is: {choices or others}; or leave one out: {others}."
    )
