"""What was understood of a table: which column is what, and how many wells have which role."""

from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.metadata import roles
from phenomjax.maps.tables.profiles import Profiles

EXAMPLES = 3  # values that are shown of a column
WIDEST = 40  # columns' names that are set below each other
ROLES = {
    **{"control": "negative controls", "positive": "positive controls"},
    **{"study": "under study", "neither": "neither"},
}


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
        rows.append((ROLES[role] + " by" * bool(told), told or "- (no column tells them)", ""))
    width = min(WIDEST, max((len(name) for _, name, said in rows if said), default=0))
    lines += [f"  {role:<21}{name:<{width}}  {said}".rstrip() for role, name, said in rows]
    counted = [
        f"{found[role]} {name}" for role, name in ROLES.items() if found[role] or role != "neither"
    ]
    lines.append(f"  roles: {', '.join(counted)}")
    return "\n".join(lines)
