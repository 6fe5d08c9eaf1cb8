"""What was understood of a table: which column is what, and how many wells have which role."""

from typing import TYPE_CHECKING

import numpy as np

from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.metadata import roles
from phenomjax.maps.tables.profiles import Profiles

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 3  # values that are shown of a column
WIDEST = 40  # columns' names that are set below each other
ROLES = {
    **{"control": "negative controls", "positive": "positive controls"},
    **{"study": "under study", "neither": "neither"},
}


def tidied(metadata: "pd.DataFrame") -> "pd.DataFrame":
    """Metadata as every command expects it: categories are what they name, and whole numbers that
    became fractions beside an empty cell are texts again (gene 42.0 is "42").
    """
    metadata = metadata.copy(deep=False)
    for name in metadata.columns:
        values = metadata[name]
        if values.dtype == "category":
            values = values.astype(object).where(values.notna(), None)
        if values.dtype.kind == "f" and _names(name) and _whole(values):
            values = values.map(lambda value: None if np.isnan(value) else f"{value:.0f}")
            values = values.astype(object)
        if values is not metadata[name]:
            metadata[name] = values
    return metadata


def _names(column: object) -> bool:
    """Whether a column of numbers names things rather than measures them."""
    from phenomjax.maps.tables.metadata.detection import NAMES, plain

    known = plain(column)
    roles_of_names = ("plate", "experiment", "well", "perturbation", "gene")
    return known.endswith("id") or any(
        known in tier for role in roles_of_names for tier in NAMES[role]
    )


def _whole(values: "pd.Series") -> bool:
    known = values.dropna()
    return bool(len(known)) and bool((known % 1 == 0).all()) and bool((known.abs() < 2**53).all())


def understood(profiles: Profiles, columns: Columns) -> str:
    """The table that is shown before anything is computed."""
    metadata = profiles.metadata
    lines = [f"profiles: {len(profiles)} rows, {profiles.features.shape[1]} features"]
    named = {
        "batch": columns.batch,
        "plate": (columns.plate,),
        "well": (columns.well,),
        "perturbation": (columns.perturbation,),
        "gene": (columns.gene,),
        "kind": (columns.kind,),
        "dose": (columns.dose,),
        "kept apart": columns.apart,
    }
    rows: list[tuple[str, str, str]] = []
    for role, names in named.items():
        there = [name for name in names if name in metadata]
        values = metadata[there].drop_duplicates().dropna() if there else None
        said = ""
        if values is not None:
            some = [" / ".join(map(str, row)) for row in values.head(EXAMPLES).to_numpy()]
            said = f"{len(values)}: {', '.join(some)}{', …' if len(values) > EXAMPLES else ''}"
        rows.append((role, ", ".join(names) or "-", said))
    found = roles.counts(metadata, columns)
    for role, told in (("control", columns.control), ("positive", columns.positive)):
        rows.append((f"{ROLES[role]} by", told or "nothing tells them", ""))
    width = min(WIDEST, max((len(name) for _, name, said in rows if said), default=0))
    lines += [f"  {role:<21}{name:<{width}}  {said}".rstrip() for role, name, said in rows]
    counted = [
        f"{found[role]} {name}" for role, name in ROLES.items() if found[role] or role != "neither"
    ]
    lines.append(f"  roles: {', '.join(counted)}")
    return "\n".join(lines)
