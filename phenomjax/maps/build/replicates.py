"""Do the replicates of perturbations agree? What every command that asks it asks first."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import tyro
from jaxtyping import Shaped

from phenomjax.maps.build import aggregate
from phenomjax.maps.build.confounding import Confounding, confounding, placed
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.options import Doses
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.unexpressed import unexpressed_wells
from phenomjax.statistics.consistency import DRAWS, Consistency, Null, check_draws, consistency
from phenomjax.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReplicateOptions:
    """Of commands that compare replicates."""

    GROUPS: ClassVar[dict[str, str]] = {"unexpressed": "replicate"}

    unexpressed: Annotated[str | None, tyro.conf.arg(metavar="FILE|QUERY")] = None
    """genes that are not expressed, the null of consistency and magnitude: one a line, or a query
    on the profiles' columns"""
    null: Null = "random"
    """of consistency: any random sets of wells, or sets that share their position on the plates as
    the replicates do"""
    draws: int = DRAWS
    """of each null"""
    doses: Doses = "apart"
    """replicates share the dose too, or not"""
    seed: int = 0
    """of the draws"""

    def check_null(self) -> None:
        """Refuses what no null can be made of.

        Raises:
          UserError: unexpressed genes are the null, and the position too; or `draws` are too few.
        """
        if self.null == "position" and self.unexpressed is not None:
            raise UserError(
                "`null` position and `unexpressed` are two nulls of one test. Give `unexpressed`,"
                " or `null` position."
            )
        check_draws(self.draws)


@dataclass(frozen=True)
class Replicates:
    """Wells under study, and whether those of a perturbation agree.

    Attributes:
      wells: under study.
      labels: what replicates share, object [wells].
      positions: what their position on the plates does.
      consistency: of each label.
    """

    wells: Profiles
    labels: Shaped[np.ndarray, " wells"]
    positions: Confounding
    consistency: Consistency


def replicates_of(profiles: Profiles, columns: Columns, options: ReplicateOptions) -> Replicates:
    """Compares the replicates of aligned wells.

    Raises:
      UserError: no well is under study, or the null cannot be had.
    """
    wells = aggregate.chosen(profiles, columns)
    labels = aggregate.labels_of(wells, columns, options.doses)
    idle = unexpressed_wells(options.unexpressed, wells, columns)
    drawn = {"draws": options.draws, "seed": options.seed}
    where = confounding(profiles, wells, labels, columns, null=options.null, **drawn)
    near = placed(profiles, wells, columns) if options.null == "position" else None
    found = consistency(wells.features, labels, unexpressed=idle, placed=near, **drawn)
    return Replicates(wells, labels, where, found)
