"""What every command on profiles does first: read what --profiles names, refuse duplicate rows,
treat NaN as told.
"""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt64

from phenomjax.maps.tables import scratch
from phenomjax.maps.tables.columns import Columns, query_rows
from phenomjax.maps.tables.metadata.detection import detect
from phenomjax.maps.tables.metadata.understood import tidied, understood
from phenomjax.maps.tables.options import TableOptions, require_some
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.reading import read
from phenomjax.maps.tables.sources import Wanted
from phenomjax.system.errors import EXIT_DONE, UserError

log = logging.getLogger("phenomjax")


def load(options: TableOptions) -> tuple[Profiles, Columns]:
    """Reads what the options name, and refuses what no map should be made of: duplicate rows, NaN.

    Raises:
      UserError: see `read`, `chosen`, `refuse_duplicates`, `finite`.
      SystemExit: after `dry_run`.
    """
    paths = require_some(options.profiles, "profiles")
    out = getattr(options, "out", None)
    folder = Path(out).absolute().parent if out else Path(tempfile.gettempdir())
    profiles = read(paths, Wanted(options.block, options.features), folder)
    profiles = replace(profiles, metadata=tidied(profiles.metadata))
    if options.where is not None:
        profiles = chosen(profiles, options.where)
    columns = detect(profiles.metadata, options.columns)
    refuse_duplicates(profiles)
    profiles = finite(profiles, options.nan)
    if options.dry_run:
        print(understood(profiles, columns))
        raise SystemExit(EXIT_DONE)
    log.info("%s", understood(profiles, columns))
    return profiles, columns


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

    keys, sums = np.empty(len(profiles), np.uint64), np.empty(len(profiles), np.uint64)
    for rows in scratch.blocks(len(profiles), profiles.features.shape[1]):
        text = profiles.metadata.iloc[rows].astype(str)
        keys[rows] = pd.util.hash_pandas_object(text, index=False)
        sums[rows] = _bits(profiles.features[rows])
        scratch.release(profiles.features)
    twice = pd.DataFrame({"key": keys, "sum": sums}).duplicated().to_numpy()
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


def _bits(features: Float32[np.ndarray, "rows dim"]) -> UInt64[np.ndarray, " rows"]:
    """A number of each row that is the same for equal rows only.

    It is made of whole numbers: a sum of floats depends on where the row stands, and would miss
    duplicates.
    """
    weights = np.random.default_rng(0).integers(2**63, size=features.shape[1], dtype=np.uint64)
    plain = np.nan_to_num(features) + np.float32(0)  # one zero, not two
    return np.einsum("rd,d->r", plain.view(np.uint32), weights, dtype=np.uint64, casting="safe")


def finite(profiles: Profiles, rule: str = "error") -> Profiles:
    """Profiles without NaN or infinite features.

    Args:
      rule: "error"; "drop_features": leave out every feature that is not finite in some row;
        "drop_rows".

    Raises:
      UserError: some are not finite and the rule is "error", or nothing is left.
    """
    rows = np.zeros(len(profiles), bool)
    bad = np.zeros(profiles.features.shape[1], np.int64)  # values of each feature
    for some in scratch.blocks(*profiles.features.shape):
        wrong = ~np.isfinite(profiles.features[some])
        rows[some], bad = wrong.any(1), bad + wrong.sum(0)
        scratch.release(profiles.features)
    features = bad > 0
    if not rows.any():
        return profiles
    if rule == "error":
        name = profiles.names[int(np.argmax(bad))]
        raise UserError(
            f"{int(bad.sum())} values are NaN or infinite: in {int(rows.sum())} of {len(rows)} rows"
            f" and {int(features.sum())} of {len(features)} features (most in '{name}')."
            " CellProfiler writes them for cells or plates that it could not measure. Leave those"
            " features out with `nan` drop_features, or the rows with `nan` drop_rows."
        )
    if (features if rule == "drop_features" else rows).all():
        other = "drop_rows" if rule == "drop_features" else "drop_features"
        raise UserError(
            f"`nan` {rule} would leave nothing: each of them has a NaN or infinite value. Try `nan`"
            f" {other}."
        )
    if rule == "drop_features":
        log.info(
            "features with NaN or infinite values left out: %d of %d", features.sum(), len(features)
        )
        kept = np.flatnonzero(~features)
        cleaned = profiles.with_features(
            scratch.take(profiles.features, columns=kept), [profiles.names[k] for k in kept]
        )
    else:
        log.info("rows with NaN or infinite values left out: %d of %d", rows.sum(), len(rows))
        cleaned = profiles.take(~rows)
    return cleaned.after("nan", rule=rule, rows=int(rows.sum()), features=int(features.sum()))
