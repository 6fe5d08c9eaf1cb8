"""What was understood of a table: which column is what, and how many wells have which role."""

from typing import TYPE_CHECKING

import numpy as np

from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.metadata import roles
from phenomjax.maps.tables.profiles import Profiles

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 3  # values that are shown of a column


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
    for role, names in named.items():
        there = [name for name in names if name in metadata]
        said = ", ".join(names)
        if there:
            values = metadata[there].drop_duplicates().dropna()
            shown = [" / ".join(map(str, row)) for row in values.head(EXAMPLES).to_numpy()]
            more = ", …" if len(values) > EXAMPLES else ""
            said += f"   {len(values)}: {', '.join(shown)}{more}"
        lines.append(f"  {role:<14}{said.strip() or '-'}")
    found = roles.counts(metadata, columns)
    neither = f", {found['neither']} neither" if found["neither"] else ""
    none = "nothing tells them"
    lines.append(
        f"  roles: {found['control']} negative controls ({columns.control or none}),"
        f" {found['positive']} positive controls ({columns.positive or none}),"
        f" {found['study']} under study{neither}"
    )
    return "\n".join(lines)
