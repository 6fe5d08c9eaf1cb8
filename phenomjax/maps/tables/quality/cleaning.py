"""Profiles as they are read, to profiles that a map may be made of: empty wells and features that
are no measurements are left out, what is missing is filled, outliers are bounded. What was done is
said, and recorded in the provenance.
"""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Shaped

from phenomjax.maps.tables import scratch
from phenomjax.maps.tables.columns import Columns, as_texts
from phenomjax.maps.tables.profiles import Profiles, Record
from phenomjax.maps.tables.quality import features as checks
from phenomjax.maps.tables.quality.limits import QualityOptions, check
from phenomjax.maps.tables.quality.rows import MISSING, empty_rows
from phenomjax.system.errors import UserError, first_of

log = logging.getLogger("phenomjax")

RECORDED = 1000  # in the provenance
LACKING, OUT = "lack most features", "are out of bounds in most features"


def clean(profiles: Profiles, columns: Columns, options: QualityOptions) -> Profiles:
    """Profiles without what is no measurement; the same object where all of it is.

    Profiles that were aligned before were checked then: their features are no longer what a
    microscope gave, and only missing values are looked for.

    Args:
      profiles: as they were read.
      columns: of their metadata.
      options: the bounds.

    Raises:
      UserError: a bound that makes no sense, values are missing that `nan` error refuses, or
        nothing would be left.
    """
    check(options)
    on = options.quality == "on" and not _aligned(profiles.provenance.get("steps", []))
    done: Record = {}
    wells = _wells(profiles, columns)
    empty = empty_rows(profiles.features, wells if on and columns.well else None)
    if not on:
        empty = {kind: rows for kind, rows in empty.items() if kind == MISSING}
    profiles = _without_rows(profiles, empty, wells, done)
    if options.nan != "fill":
        profiles = finite(profiles, options.nan)
    profiles = _checked(profiles, columns, options, on, done)
    if not done:
        return profiles
    limits = {
        name: getattr(options, name) for name in ("max_missing", "max_deviation", "min_spread")
    }
    return profiles.after("quality", limits=limits, **done)


def _checked(
    profiles: Profiles, columns: Columns, options: QualityOptions, on: bool, done: Record
) -> Profiles:
    """Without rows that lack most features and features that are wrong; the rest is mended."""
    import pandas as pd

    lacking = _lacking(profiles)
    if lacking.any():
        profiles = _without_rows(profiles, {LACKING: lacking}, _wells(profiles, columns), done)
    rows, dim = profiles.features.shape
    codes, batches = pd.factorize(columns.batches(profiles.metadata), sort=True)
    controls = columns.controls(profiles.metadata)
    bounds = checks.bounds_of(profiles.features, codes, options.max_deviation if on else np.inf)
    if on:
        _tell_other_units(bounds, batches)
    counts = checks.Counts(bounds)
    for some in scratch.blocks(rows, dim):
        counts.add(some.start, profiles.features[some], codes[some], controls[some])
        scratch.release(profiles.features)
    wrong = counts.wrong(options.max_missing, options.min_spread)
    if not on:
        wrong = {kind: mask for kind, mask in wrong.items() if kind == checks.MISSING}
    if counts.out:
        out = np.isin(np.arange(rows), counts.out)
        profiles = _without_rows(profiles, {OUT: out}, _wells(profiles, columns), done)
        codes = codes[~out]
    dropped = np.any([*wrong.values(), np.zeros(dim, bool)], axis=0)
    if dropped.all():
        shown = "; ".join(f"{int(mask.sum())} {kind}" for kind, mask in wrong.items())
        keeps = [
            *(["`max_missing` 1 fills what is missing"] if checks.MISSING in wrong else []),
            *(["`quality` off keeps the others"] if wrong.keys() - {checks.MISSING} else []),
        ]
        raise UserError(
            f"None of the {dim} features of these {rows} rows is a measurement: {shown}. Look at"
            f" the table; {', '.join(keeps)}."
        )
    for kind, mask in wrong.items():
        which = [profiles.names[k] for k in np.flatnonzero(mask)]
        done.setdefault("features", {})[kind] = _recorded(which)
        flags = "--max_missing" if kind == checks.MISSING else "--quality off"
        log.info(
            "quality: %d of %d features left out, %s: %s (%s changes it)",
            *(len(which), dim, kind, first_of(which), flags),
        )
    return _mended(profiles, codes, counts, ~dropped, done, options)


def _tell_other_units(bounds: checks.Bounds, batches: Shaped[np.ndarray, " batches"]) -> None:
    for batch, other in bounds.in_other_units().items():
        log.warning(
            "quality: is batch %s in other units? %d of %d features vary more than %g times as much"
            " there as in all batches, or as little (as a rule %.2g times). Align by a method that"
            " scales each batch on its own first (center_scale, standardize)",
            *(batches[batch], other.sum(), len(other), checks.OTHER_UNITS),
            np.median(bounds.relative[batch, other]),
        )


def _mended(
    profiles: Profiles,
    codes: Int[np.ndarray, " rows"],
    counts: checks.Counts,
    kept: Bool[np.ndarray, " dim"],
    done: Record,
    options: QualityOptions,
) -> Profiles:
    """The kept features, filled and bounded."""
    filled, far = (counts.missing + counts.wild) * kept, counts.far * kept
    if kept.all() and not filled.any() and not far.any():
        return profiles
    places, mend = np.flatnonzero(kept), np.flatnonzero((filled + far) > 0)
    features = scratch.beside(profiles.features, len(profiles), len(places))
    target = np.searchsorted(places, mend)
    for some in scratch.blocks(*profiles.features.shape):
        features[some] = profiles.features[some][:, places]
        if len(mend):
            features[some, target] = checks.mended(
                profiles.features[some][:, mend], codes[some], counts, mend
            )
        scratch.release(profiles.features, features)
    for number, kind, text in (
        (
            filled,
            "filled",
            f"values {'missing or ' if counts.missing.any() else ''}beyond {checks.WILD:g} robust"
            " deviations filled with the median of their batch"
            if (counts.wild * kept).any()
            else "missing values filled with the median of their batch",
        ),
        (
            far,
            "bounded",
            f"values beyond {options.max_deviation:g} robust deviations from it brought to the"
            " furthest within",
        ),
    ):
        if number.any():
            which = [profiles.names[k] for k in np.argsort(-number, kind="stable") if number[k]]
            done[kind] = {"values": int(number.sum()), "features": _recorded(which)}
            log.info(
                "quality: %d %s, in %d features: %s",
                *(number.sum(), text, len(which), first_of(which)),
            )
    return profiles.with_features(features, [profiles.names[k] for k in places])


def finite(profiles: Profiles, rule: str) -> Profiles:
    """Profiles without NaN or infinite features.

    Args:
      rule: "error"; "drop_features": leave out every feature that is not finite in some row;
        "drop_rows".

    Raises:
      UserError: some are not finite and the rule is "error", or nothing is left.
    """
    rows, features = _missing(profiles)
    if not rows.any():
        return profiles
    bad_rows, bad = rows > 0, features > 0
    if rule == "error":
        name = profiles.names[int(np.argmax(features))]
        raise UserError(
            f"{int(rows.sum())} values are NaN or infinite: in {int(bad_rows.sum())} of {len(rows)}"
            f" rows and {int(bad.sum())} of {len(bad)} features (most in '{name}')."
            " CellProfiler writes them for cells or plates that it could not measure. Leave out"
            " what lacks many and fill the rest with `nan` fill, or leave all those features out"
            " with `nan` drop_features, or the rows with `nan` drop_rows."
        )
    if (bad if rule == "drop_features" else bad_rows).all():
        raise UserError(
            f"`nan` {rule} would leave nothing: each of them has a NaN or infinite value. Try `nan`"
            " fill."
        )
    if rule == "drop_features":
        log.info("features with NaN or infinite values left out: %d of %d", bad.sum(), len(bad))
        kept = np.flatnonzero(~bad)
        cleaned = profiles.with_features(
            scratch.take(profiles.features, columns=kept), [profiles.names[k] for k in kept]
        )
    else:
        log.info("rows with NaN or infinite values left out: %d of %d", bad_rows.sum(), len(rows))
        cleaned = profiles.take(~bad_rows)
    return cleaned.after("nan", rule=rule, rows=int(bad_rows.sum()), features=int(bad.sum()))


def _missing(
    profiles: Profiles, of: Bool[np.ndarray, " dim"] | None = None
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " dim"]]:
    """How many values of some features, or of all, are not finite, by row and by feature."""
    rows, dim = profiles.features.shape
    of_rows, of_features = np.zeros(rows, np.int64), np.zeros(dim, np.int64)
    for some in scratch.blocks(rows, dim):
        bad = ~np.isfinite(profiles.features[some])
        if of is not None:
            bad &= of
        of_rows[some] = bad.sum(1)
        of_features += bad.sum(0)
        scratch.release(profiles.features)
    return of_rows, of_features


def _lacking(profiles: Profiles) -> Bool[np.ndarray, " rows"]:
    """Rows that lack most of the features that most rows have."""
    of_rows, of_features = _missing(profiles)
    usual = of_features <= checks.MOSTLY * len(profiles)
    if not of_rows.any() or not usual.any():
        return np.zeros(len(profiles), bool)
    if not usual.all():
        of_rows, _ = _missing(profiles, usual)
    return of_rows > checks.MOSTLY * usual.sum()


def _without_rows(
    profiles: Profiles,
    found: dict[str, Bool[np.ndarray, " rows"]],
    wells: Shaped[np.ndarray, "rows 2"],
    done: Record,
) -> Profiles:
    if not found:
        return profiles
    out = np.any(list(found.values()), axis=0)
    for kind, mask in found.items():
        which = [" ".join(filter(None, well)) for well in wells[mask]]
        done.setdefault("rows", {})[kind] = {"count": len(which), "names": _recorded(which)}
        log.info(
            "quality: %d of %d rows left out, as empty wells are: they %s (%s)",
            *(len(which), len(mask), kind, first_of(which)),
        )
    if out.all():
        shown = ", ".join(f"{int(mask.sum())} {kind}" for kind, mask in found.items())
        raise UserError(
            f"None of the {len(out)} rows is a measurement: {shown}. Are these the features? Name"
            " them with `features` REGEX; `quality` off takes the table as it is."
        )
    return profiles.take(~out)


def _wells(profiles: Profiles, columns: Columns) -> Shaped[np.ndarray, "rows 2"]:
    """Plate and well of each row as texts, the row's number where no column names wells; object
    [rows, 2].
    """
    metadata, plate = profiles.metadata, columns.batch
    if columns.plate and columns.plate not in plate:
        plate = (*plate, columns.plate)
    well = (
        as_texts(metadata[columns.well]).to_numpy(object)
        if columns.well
        else np.array([f"row {k}" for k in range(len(metadata))], object)
    )
    plates = Columns(batch=plate).batches(metadata) if plate else np.full(len(well), "", object)
    return np.stack([plates, well], axis=1)


def _aligned(steps: Sequence[Record]) -> bool:
    """Whether features were aligned, in one of the tables that were joined at least."""
    return any(
        step.get("command") == "align" or any(map(_aligned, step.get("of", []))) for step in steps
    )


def _recorded(names: Sequence[str]) -> list[str]:
    return [*names[:RECORDED], *(["…"] if len(names) > RECORDED else [])]
