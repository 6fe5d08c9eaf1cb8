"""What position on the plate does to consistency: are replicates always in the same well of their
plates, and how often would nothing but that pass for a perturbation?

The cost is measured on the negative controls: each position that holds controls on several plates
is taken for a perturbation, its controls for the replicates, and tested against random sets of
controls in different positions, at most as many of them as a perturbation has replicates. Controls
do nothing, so a share of .05 passes p < .05 by chance; what is above it, position does.

An alignment that whitens the very controls (tvn, sphering) with few of them per dimension takes
their own positions out and not those of the perturbations: there the share is too low (on CPJUMP1,
.453 after pca_center_scale, .047 after rank-starved tvn, of the same components).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Shaped

from phenomjax.maps.positions.places import positions_of
from phenomjax.maps.tables.columns import Columns, shown
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.statistics.bootstrap import interval_of_mean
from phenomjax.statistics.consistency import DRAWS, Consistency, Placed, consistency
from phenomjax.statistics.matched_sets import patterns_of
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")

LEVEL = 0.05
MOST_POSITIONS = 2000
LEAST_POSITIONS = 5  # with controls on several plates: fewer say nothing about a share


@dataclass(frozen=True)
class Confounding:
    """How far perturbations and positions are the same thing, and what that costs.

    Attributes:
      perturbations: with at least 2 replicates whose positions are known.
      in_one_position: those with all replicates in one position.
      controls: consistency of the control wells of each position; None where it cannot be had.
    """

    perturbations: int
    in_one_position: int
    controls: Consistency | None

    @property
    def share(self) -> float | None:
        """Share of control positions that pass p < .05."""
        if self.controls is None:
            return None
        return float((self.controls.p < LEVEL).mean())

    @property
    def interval(self) -> Sequence[float] | None:
        """95 % interval of `share`, bootstrap over positions."""
        if self.controls is None:
            return None
        return interval_of_mean((self.controls.p < LEVEL).astype(float))

    @property
    def confounded(self) -> bool:
        """Whether most perturbations have all replicates in one position."""
        return 2 * self.in_one_position > self.perturbations > 0

    def sentence(self) -> str:
        """What a reader should know."""
        where = (
            f"{self.in_one_position} of {self.perturbations} perturbations have all their"
            " replicates in the same well position"
        )
        if self.controls is None:
            return (
                f"{where}, and what position alone does is unknown, because controls do not lie in"
                f" at least {LEAST_POSITIONS} positions on several plates each"
            )
        return (
            f"{where}; position alone makes {int((self.controls.p < LEVEL).sum())} of"
            f" {len(self.controls.names)} positions with nothing but controls pass p < .05 (a share"
            f" of {self.share:.3f} where chance is .05)"
        )


def confounding(
    aligned: Profiles,
    wells: Profiles,
    labels: Shaped[np.ndarray, " wells"],
    columns: Columns,
    *,
    null: str = "random",
    draws: int = DRAWS,
    seed: int = 0,
) -> Confounding:
    """Measures it, and says it where most perturbations lie in one position.

    Args:
      null: that consistency is going to be compared with.
      aligned: all wells; wells: those under study; labels: their perturbations.
    """
    codes = np.unique(labels.astype(str), return_inverse=True)[1]
    patterns = patterns_of(codes, positions_of(wells.metadata, columns.well))
    repeated = [pattern for pattern in patterns if sum(pattern) > 1]
    positions = positions_of(aligned.metadata, columns.well)
    replicates = int(np.median([sum(pattern) for pattern in repeated])) if repeated else 2
    rows = _controls_of_positions(
        positions, columns.controls(aligned.metadata), replicates, np.random.default_rng(seed)
    )
    measured = None
    if len(set(positions[rows].tolist())) >= LEAST_POSITIONS:
        measured = consistency(aligned.features[rows], positions[rows], draws=draws, seed=seed)
    found = Confounding(len(repeated), sum(len(one) == 1 for one in repeated), measured)
    if found.confounded:
        interval = found.interval
        costs = interval is None or interval[0] > LEVEL
        (log.warning if costs else log.info)(
            "positions: %s.%s",
            found.sentence(),
            " Compare with wells of the same position (--null position), or take position out first"
            " (python -m phenomjax.maps align --correct_positions)."
            if costs and null != "position"
            else "",
        )
    return found


def _controls_of_positions(
    positions: Shaped[np.ndarray, " rows"],
    controls: Bool[np.ndarray, " rows"],
    most: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, " some"]:
    """Rows of controls in positions that hold at least 2 of them, at most so many of each position,
    of at most `MOST_POSITIONS`.
    """
    import pandas as pd

    rows = rng.permutation(np.flatnonzero(controls & (positions != "")))
    names = positions[rows].astype(str)
    _, place, counts = np.unique(names, return_inverse=True, return_counts=True)
    rank = pd.Series(place).groupby(place).cumcount().to_numpy()
    usable = rng.permutation(np.flatnonzero(counts > 1))[:MOST_POSITIONS]
    return np.sort(rows[(rank < most) & np.isin(place, usable)])


def placed(aligned: Profiles, wells: Profiles, columns: Columns) -> Placed:
    """Where the wells under study and the controls lie.

    Raises:
      UserError: no position is known.
    """
    if not (positions_of(wells.metadata, columns.well) != "").any():
        raise UserError(
            f"`null` position: no row says in which well it is; the column of wells is"
            f" {shown(columns.well)}. Name it with `well`, or use `null` random."
        )
    controls = columns.controls(aligned.metadata)
    return Placed(
        positions_of(wells.metadata, columns.well),
        aligned.features[controls],
        positions_of(aligned.metadata, columns.well)[controls],
    )
