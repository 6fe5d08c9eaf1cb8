"""What is doubtful of profiles as they are aligned, said once: few features that rule all cosines,
controls too few to scale by or for TVN, an alignment of what was aligned before.
"""

import logging

import numpy as np
from jaxtyping import Float64

from phenomjax.maps.build.methods.typical_variation import RIDGE
from phenomjax.maps.tables import scratch
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.system.errors import first_of

log = logging.getLogger("phenomjax")

LEAST_FEATURES = 20  # of fewer each may well rule
FEW = 0.05  # of the features
RULING = 1 / 3  # of the cosines; on CPJUMP1 the first 5 % make a sixth at most, however aligned
ROWS = 10_000  # that are looked at
ENOUGH_CONTROLS = 8  # of a batch


def tell_doubts(profiles: Profiles) -> None:
    """Says them; nothing where there are none."""
    steps = [s for s in profiles.provenance.get("steps", []) if s.get("command") == "align"]
    methods = [step["method"] for step in steps]
    before = [method for method in methods[:-1] if method != "none"]
    if before and methods[-1] != "none":
        log.info(
            "align: these profiles had been aligned before (%s), and are once more by %s (python -m"
            " phenomjax.maps benchmark --align none takes them as they are)",
            *(", ".join(before), methods[-1]),
        )
    fewest = steps[-1].get("fewest_controls_in_a_batch", ENOUGH_CONTROLS) if steps else np.inf
    if fewest < ENOUGH_CONTROLS:
        log.warning(
            "align: a batch has %d controls, which tell the spread of a feature within %.0f %%;"
            " noise of the scales hides what replicates share (share_p05 of three plates of CPJUMP1"
            " falls from .76 to .50 with 4 of their 64 controls). Join batches that were handled"
            " together (--batch); where most wells do nothing, scale by all of them (python -m"
            " phenomjax.maps align --align standardize)",
            *(fewest, 100 / np.sqrt(2 * (fewest - 1))),
        )
    if steps and steps[-1].get("rank_starved_batches"):
        log.warning(
            "align: TVN is rank-starved: %d of %d batches have no more controls than the %d"
            " dimensions (the fewest: %d), so that their covariance is unknown in most directions"
            " and the constant %.1f I stands for it; consistency falls. Use python -m"
            " phenomjax.maps align --align pca_center_scale, --dims %d or fewer, or a coarser"
            " --batch, whose controls are more",
            *(steps[-1][key] for key in ("rank_starved_batches", "batches", "dimensions")),
            *(fewest, RIDGE, max(2, fewest // 3)),
        )
    if profiles.features.shape[1] < LEAST_FEATURES or "tvn" in methods:
        return
    if any("dims" in step for step in steps):  # components are few that rule by nature
        return
    share = share_of_cosines(profiles)
    first = np.argsort(-share)[: max(1, round(FEW * len(share)))]
    if share[first].sum() > RULING:
        log.warning(
            "%d of %d features make %.0f %% of the cosines between wells as they are scaled,"
            " whatever the others say: %s. Do they measure cells? python -m phenomjax.maps align"
            " --align pca_center_scale scales features by all wells first, --features REGEX chooses"
            " them",
            *(len(first), len(share), 100 * share[first].sum()),
            first_of(profiles.names[k] for k in first),
        )


def share_of_cosines(profiles: Profiles) -> Float64[np.ndarray, " dim"]:
    """How much of a row's length each feature makes, in squares: their mean over rows."""
    rows, dim = profiles.features.shape
    total = np.zeros(dim)
    some = np.unique(np.linspace(0, rows - 1, min(rows, ROWS)).astype(np.int64))
    for part in scratch.blocks(len(some), dim):
        squares = scratch.gather(profiles.features, some[part]).astype(np.float64) ** 2
        total += (squares / np.maximum(squares.sum(1, keepdims=True), 1e-300)).sum(0)
    return total / len(some)
