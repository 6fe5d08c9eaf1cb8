"""What every command on profiles does first: read what --profiles names, refuse duplicate rows,
leave out what is no measurement.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from phenomjax.maps.tables import scratch
from phenomjax.maps.tables.columns import Columns, query_rows, require
from phenomjax.maps.tables.metadata.detection import detect, plain
from phenomjax.maps.tables.metadata.doses import as_meant
from phenomjax.maps.tables.metadata.joining import join
from phenomjax.maps.tables.metadata.roles import counts
from phenomjax.maps.tables.metadata.symbols import read_aliases, with_current
from phenomjax.maps.tables.metadata.tidying import tidied
from phenomjax.maps.tables.metadata.understood import understood
from phenomjax.maps.tables.options import TableOptions, require_some
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.quality.cleaning import clean
from phenomjax.maps.tables.quality.controls import tell_far_controls
from phenomjax.maps.tables.quality.rows import LEAST_FEATURES, digests
from phenomjax.maps.tables.reading import read
from phenomjax.system.errors import EXIT_DONE, UserError, first_of

log = logging.getLogger("phenomjax")


def load(options: TableOptions) -> tuple[Profiles, Columns]:
    """Reads what the options name, refuses duplicate rows, and leaves out what is no measurement.

    Raises:
      UserError: see `read`, `join`, `chosen`, `with_current_symbols`, `refuse_duplicates`, `clean`.
      SystemExit: after `dry_run`.
    """
    paths = require_some(options.profiles, "profiles")
    out = getattr(options, "out", None)
    folder = Path(out).absolute().parent if out else Path(tempfile.gettempdir())
    profiles = read(paths, options.wanted, folder)
    profiles = replace(profiles, metadata=tidied(profiles.metadata))
    if options.metadata:
        profiles = joined(profiles, options.metadata)
    if options.where is not None:
        profiles = chosen(profiles, options.where)
    columns = detect(profiles.metadata, options.columns)
    if options.aliases is not None:
        profiles = with_current_symbols(profiles, columns, options.aliases)
    profiles = with_doses_as_meant(profiles, columns)
    refuse_duplicates(profiles)
    profiles = clean(profiles, columns, options)
    tell_copied_plates(profiles, columns)
    tell_far_controls(profiles, columns)
    tell_capitals(profiles, columns)
    known = {"columns": asdict(columns), "roles": counts(profiles.metadata, columns)}
    profiles = replace(profiles, provenance={**profiles.provenance, "understood": known})
    if options.dry_run:
        print(understood(profiles, columns))
        raise SystemExit(EXIT_DONE)
    log.info("%s", understood(profiles, columns))
    return profiles, columns


def joined(profiles: Profiles, tables: Sequence[str]) -> Profiles:
    """Profiles with what other tables know of their rows."""
    metadata, done = join(profiles.metadata, tables)
    for table in done:
        profiles = profiles.after("join", **asdict(table))
    return replace(profiles, metadata=tidied(metadata))  # ids with gaps are fractions now


def with_doses_as_meant(profiles: Profiles, columns: Columns) -> Profiles:
    """Profiles whose doses are the same where they are meant to be."""
    if columns.dose not in profiles.metadata:
        return profiles
    doses, one = as_meant(profiles.metadata[columns.dose])
    if not one:
        return profiles
    log.info(
        "doses: %d values of %s differ by less than 2 %% from others and are taken as %d: %s",
        *(sum(one.values()), columns.dose, len(one)),
        first_of(f"{dose:g}" for dose in one),
    )
    metadata = profiles.metadata.assign(**{columns.dose: doses})
    return replace(profiles, metadata=metadata).after("doses", column=columns.dose, as_one=one)


def with_current_symbols(profiles: Profiles, columns: Columns, path: str) -> Profiles:
    """Profiles whose genes, and perturbations that are named by their gene, have current symbols.

    Raises:
      UserError: no column of genes, or see `read_aliases`.
    """
    aliases = read_aliases(path)
    before = require(profiles.metadata, columns.gene, "`gene`")
    genes, changed = with_current(before, aliases, columns.separators)
    metadata = profiles.metadata.assign(**{columns.gene: genes})
    if columns.perturbation != columns.gene and columns.perturbation in metadata:
        names = metadata[columns.perturbation]
        metadata[columns.perturbation] = names.where(names != before, genes)
    rows = int((genes.notna() & (genes != before)).sum())
    shown = first_of(f"{old} is {new}" for old, new in sorted(changed.items()))
    log.info(
        "aliases: %d gene symbols of %d rows are brought to current ones%s",
        *(len(changed), rows, f": {shown}" if shown else ""),
    )
    done = replace(profiles, metadata=metadata)
    return done.after("aliases", file=Path(path).name, symbols=changed, rows=rows)


def chosen(profiles: Profiles, where: str) -> Profiles:
    """The rows that a query names.

    Raises:
      UserError: it names none.
    """
    rows = query_rows(profiles.metadata, where, "`where`", "Metadata_Time == 24")
    if not rows.any():
        raise UserError(f"`where` {where!r} is true of none of the {len(rows)} rows.")
    log.info("where %s: %d of %d rows", where, rows.sum(), len(rows))
    return profiles.take(rows).after("where", query=where, rows=int(rows.sum()))


def refuse_duplicates(profiles: Profiles) -> None:
    """Rows that are there twice, features and metadata alike, would make replicates agree that are
    one.

    Raises:
      UserError: there are such rows.
    """
    import pandas as pd

    # of a file and its copy each is a run
    metadata = profiles.metadata[[n for n in profiles.metadata.columns if plain(n) != "run"]]
    keys = np.empty(len(profiles), np.uint64)
    for rows in scratch.blocks(len(profiles), len(profiles.metadata.columns)):
        text = metadata.iloc[rows].astype(str)
        keys[rows] = pd.util.hash_pandas_object(text, index=False)
    sums = digests(profiles.features)
    twice = pd.DataFrame({"key": keys, "sum": sums}).duplicated().to_numpy().copy()
    if twice.any() and profiles.features.shape[1] > 1:  # empty wells are alike
        twice[twice] = np.ptp(profiles.features[twice], axis=1) != 0
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        shown = ", ".join(
            f"{k}={v}" for k, v in list(profiles.metadata.iloc[row].dropna().items())[:4]
        )
        raise UserError(
            f"{int(twice.sum())} of {len(profiles)} rows are there twice, features and metadata"
            f" alike (the first: row {row}, {shown}); they would count as replicates that agree"
            " perfectly. Was a file given twice, or one that is part of another? Give each row"
            " once."
        )


def tell_copied_plates(profiles: Profiles, columns: Columns) -> None:
    """Says which plates hold the very numbers of another: replicates that agree because they are
    one.
    """
    import pandas as pd

    plates = pd.Series(columns.batches(profiles.metadata).astype(str))
    if plates.nunique() < 2:
        return
    rows = pd.DataFrame({"plate": plates, "sum": digests(profiles.features)})
    held = rows.groupby("sum")["plate"].transform("nunique")
    shared = rows[held > 1]
    many = [len(np.unique(profiles.features[row])) >= LEAST_FEATURES for row in shared.index]
    shared = shared[many]
    if len(shared):
        of_plates = shared["plate"].value_counts()
        log.warning(
            "%d rows are the same in every feature as one of another batch (%s): is a plate there"
            " under two names? They count as replicates that agree perfectly. Give each once",
            len(shared),
            first_of(f"{name}: {count}" for name, count in of_plates.items()),
        )


def tell_capitals(profiles: Profiles, columns: Columns) -> None:
    """Says which perturbations are spelt in two ways."""
    import pandas as pd

    if columns.perturbation not in profiles.metadata or "smiles" in columns.perturbation.lower():
        return
    names = pd.Series(profiles.metadata[columns.perturbation].dropna().astype(str).unique())
    alike = names[names.str.lower().duplicated(keep=False)]
    if len(alike):
        log.warning(
            "%d perturbations differ from another in capitals only, and count as others (the first:"
            " %s). Spell those alike that are the same",
            len(alike),
            ", ".join(sorted(alike, key=str.lower)[:2]),
        )
