"""Controls are many, and alike: of each experiment a share of their wells is enough."""

import hashlib

import numpy as np
from jaxtyping import Bool

from phenomjax.prepare.curate.wells import NONE, Wells
from phenomjax.statistics.groups import rows_of_groups


def kept(
    wells: Wells, controls: Bool[np.ndarray, " wells"], share: float, seed: int
) -> Bool[np.ndarray, " wells"]:
    """The wells of controls that stay: in each experiment this share, rounded up, of the smallest
    hashes of their names, so that a smaller share lies within a larger one.

    Args:
      wells: all of them.
      controls: of one kind, that are good.
      share: from 0 to 1.
      seed: another one keeps others.
    """
    chosen = np.zeros(len(wells), bool)
    places = np.flatnonzero(controls)
    experiments = wells.columns["experiment"].codes[places]
    for mine in rows_of_groups(experiments - NONE, 1):
        hashes = [
            hashlib.sha256(f"curate {seed} {wells.name(int(well))}".encode()).digest()
            for well in places[mine]
        ]
        order = sorted(range(len(mine)), key=hashes.__getitem__)
        # a share of 0.1 of 30 is 3, and not what 3.0000000000000004 is rounded up to
        count = int(np.ceil(round(share * len(mine), 9)))
        chosen[places[mine[order[:count]]]] = True
    return chosen
