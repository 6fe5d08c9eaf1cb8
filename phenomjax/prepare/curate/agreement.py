"""Do the replicates of a perturbation agree, in the eyes of each model?

In every experiment (and cell type and time point of it): wells are centred on the mean of their
plate, so that plates do not look like perturbations, and divided by the standard deviation of the
experiment; then the consistency test (statistics/consistency.py) with random sets of wells of
different perturbations of that experiment, or of wells that share their position as the replicates
do. The p-values of the experiments become one (statistics/combination.py).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Shaped

from phenomjax.prepare.curate.metadata import Labels
from phenomjax.prepare.curate.wells import NONE, Wells, distinct
from phenomjax.prepare.curate.witnesses import Witness
from phenomjax.statistics.combination import cauchy_combination
from phenomjax.statistics.consistency import FEW_NAMES, Null, Placed, consistency
from phenomjax.system.errors import UserError, first_of
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")
LEAST_WELLS = 8  # of a plate whose mean is its own


class Agreement(NamedTuple):
    """What one model says of each perturbation.

    Attributes:
      p: over all experiments; NaN where no experiment could be asked.
      experiments: that could be asked.
      cosine: mean over them of the mean cosine of replicates.
    """

    p: Float64[np.ndarray, " labels"]
    experiments: Int[np.ndarray, " labels"]
    cosine: Float64[np.ndarray, " labels"]

    def passes(self, max_p: float) -> Bool[np.ndarray, " labels"]:
        """The perturbations that it finds consistent."""
        return self.p < max_p  # NaN is not


@dataclass(frozen=True)
class Blocks:
    """Within which wells are compared: experiment, cell type and time point.

    Attributes:
      of_well: the block of each well; NONE of wells that take no part.
      names: of the blocks.
      plates: of each well, the number of its plate.
      positions: of each well, its name on its plate.
    """

    of_well: Int[np.ndarray, " wells"]
    names: Sequence[str]
    plates: Int[np.ndarray, " wells"]
    positions: Shaped[np.ndarray, " wells"]


def blocks_of(wells: Wells, taking_part: Bool[np.ndarray, " wells"]) -> Blocks:
    """The blocks of the wells that take part."""
    columns = [wells.columns[name] for name in ("experiment", "cell_type", "time")]
    codes = np.stack([one.codes for one in columns])[:, taking_part]
    numbers = distinct(codes)
    of_well = np.full(len(wells), NONE, np.int32)
    of_well[taking_part] = numbers
    _, first = np.unique(numbers, return_index=True)
    parts = [
        [one.texts[code] for one, code in zip(columns, some, strict=True) if code != NONE]
        for some in codes[:, first].T
    ]
    plates = distinct(np.stack([wells.columns[name].codes for name in ("experiment", "plate")]))
    positions = np.array([*wells.columns["well"].texts, ""])[wells.columns["well"].codes]
    return Blocks(of_well, [" ".join(words) for words in parts], plates, positions)


def agreement(
    witness: Witness,
    labels: Labels,
    blocks: Blocks,
    alive: Bool[np.ndarray, " rows"],
    *,
    null: Null = "random",
    draws: int,
    seed: int,
) -> Agreement:
    """Asks one model.

    Args:
      witness: the model.
      labels: of the wells.
      blocks: of the wells that take part: those under study, and negative controls.
      alive: images that take part.
      null: of wells anywhere, or of wells that lie as the replicates do.
      draws, seed: of the null.
    """
    p, of, cosines = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    few, progress = [], Progress(f"consistency by {witness.name}", len(blocks.names), "experiments")
    for block, wells, values in witness.blocks(blocks.of_well, alive):
        studied = labels.of_well[wells] != NONE
        names, positions = labels.of_well[wells][studied], blocks.positions[wells]
        counts = np.unique(names, return_counts=True)[1]
        progress.update()
        if len(counts) < FEW_NAMES or counts.max() < 2:
            few.append(blocks.names[block])
            continue
        scaled = standardised(values, blocks.plates[wells])
        placed = Placed(positions[studied], scaled[~studied], positions[~studied])
        try:
            found = consistency(
                scaled[studied],
                names,
                placed=placed if null == "position" else None,
                draws=draws,
                seed=seed,
            )
        except UserError:  # no other wells lie as the replicates do
            few.append(blocks.names[block])
            continue
        p.append(found.honest_p)
        of.append(found.names.astype(np.int64))
        cosines.append(found.cosine)
    if few:
        log.warning(
            "%s could not ask %d of %d experiments (%s): a null needs wells of at least %d"
            " perturbations (that of position wells that lie alike), and a perturbation two wells",
            witness.name,
            len(few),
            len(blocks.names),
            first_of(few, 4),
            FEW_NAMES,
        )
    all_p, all_of, all_cosines = (np.concatenate([np.zeros(0), *one]) for one in (p, of, cosines))
    known = ~np.isnan(all_p)
    tests = all_of.astype(np.int64)
    asked = np.bincount(tests[known], minlength=len(labels))
    total = np.bincount(tests[known], weights=all_cosines[known], minlength=len(labels))
    mean = np.divide(total, asked, out=np.full(len(labels), np.nan), where=asked > 0)
    together = cauchy_combination(all_p, tests, len(labels), 1 / (1 + draws))
    return Agreement(together, asked, mean)


def standardised(
    values: Float64[np.ndarray, "wells dim"], plates: Int[np.ndarray, " wells"]
) -> Float64[np.ndarray, "wells dim"]:
    """Wells less the mean of their plate (of all, where it has fewer than LEAST_WELLS), divided by
    the standard deviation of what remains.
    """
    _, codes, counts = np.unique(plates, return_inverse=True, return_counts=True)
    out = values - values.mean(0)
    for plate in np.flatnonzero(counts >= LEAST_WELLS):
        mine = codes == plate
        out[mine] -= out[mine].mean(0)
    deviation = out.std(0)
    return out / np.where(deviation > 0, deviation, 1)


def in_one_position(labels: Labels, blocks: Blocks) -> float:
    """Share of the perturbations with several wells in an experiment that lie in the same position
    of all plates there.
    """
    mine = (labels.of_well != NONE) & (blocks.of_well != NONE)
    groups = distinct(np.stack([blocks.of_well[mine], labels.of_well[mine]]))
    _, places = np.unique(blocks.positions[mine], return_inverse=True)
    both = np.unique(np.stack([groups, places]), axis=1)
    several = np.bincount(groups) > 1
    alone = np.bincount(both[0]) == 1
    return float((several & alone).sum() / max(several.sum(), 1))
