"""Negative controls that are unlike the others of their batch: out of focus, sick, or no controls.
An alignment takes mean and spread from all of them, and a few that are far off make all wells of
the batch look alike.
"""

import logging

import numpy as np
from jaxtyping import Int

from phenomjax.maps.tables import scratch
from phenomjax.maps.tables.columns import Columns, query_of
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.quality.features import MAD, MOSTLY

log = logging.getLogger("phenomjax")

FAR = 10.0  # robust deviations, of the median feature; on CPJUMP1 the furthest control has 4.6
LEAST_CONTROLS = 8  # of a batch
NAMED = 12  # wells


def tell_far_controls(profiles: Profiles, columns: Columns) -> None:
    """Says which they are and how they are left out."""
    controls = columns.controls(profiles.metadata)
    batches = columns.batches(profiles.metadata).astype(str)
    for batch in np.unique(batches[controls]):
        rows = np.flatnonzero(controls & (batches == batch))
        if len(rows) < LEAST_CONTROLS:
            continue
        values = scratch.gather(profiles.features, rows).astype(np.float64)
        distance = np.abs(values - np.median(values, axis=0))
        spread = MAD * np.median(distance, axis=0)
        if (spread > 0).mean() < MOSTLY:  # of a sparse table nothing is usual
            continue
        typical = np.median(distance[:, spread > 0] / spread[spread > 0], axis=1)
        if (far := rows[typical > FAR]).size:
            log.warning(
                "controls: %d of %d negative controls of batch %s are far from the others (%.0f"
                " robust deviations in the median feature), and rule its mean and spread: are they"
                " sick, or no controls?%s",
                *(len(far), len(rows), batch, np.median(typical[typical > FAR])),
                _mend(profiles, columns, far),
            )


def _mend(profiles: Profiles, columns: Columns, rows: Int[np.ndarray, " far"]) -> str:
    """The flag that leaves some wells out, where it is short."""
    metadata = profiles.metadata.iloc[rows]
    names = [name for name in dict.fromkeys((*columns.batch, columns.plate)) if name in metadata]
    if not columns.well or len(rows) > NAMED or (metadata[names].nunique() > 1).any():
        return ""
    parts = [query_of(name, metadata[name].iloc[:1].tolist()) for name in names]
    query = " and ".join([*parts, query_of(columns.well, metadata[columns.well].tolist())])
    return f" Without them: --where 'not ({query})'"
