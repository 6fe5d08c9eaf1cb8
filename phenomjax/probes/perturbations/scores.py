"""Accuracies from predictions: by split, statistics and cell type, with intervals over experiments
and the spread over seeds.

An experiment is the unit that is drawn again in a bootstrap: images of one share its stains, its
day and its cells. Of one experiment there is no interval. Of few the interval is too narrow, as it
reaches no farther than the experiments at hand: if n of them agree, chance alone would have made
them agree with p = 2^(1 - n), which is below .05 from six on. With fewer nothing is said to beat.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Int64

from phenomjax.statistics import bootstrap
from phenomjax.statistics.comparison import outcome

TOP = (1, 5)
GROUPS = ("cell_type", "perturbation_type")  # that a model can be trained for alone
NO_CHANGE = (0.0, 0.0)
ENOUGH = 6  # experiments, for a verdict


@dataclass(frozen=True)
class Predictions:
    """What one run says of the images of one split.

    Attributes:
      model: name of the run's configuration; runs that differ in their seed alone share it.
      run: of the run.
      statistics: that the batch norms used.
      split: of the images.
      images: one row an image: image (its name, the same for all runs), experiment, cell_type,
        perturbation_type, label (int, -1: a class that training did not have) and rank (int,
        classes that score at least as high as the true one; 0 is right).
      group: {column: value} of a model that was trained on such rows alone.
      twin: whether the network is untrained.
    """

    model: str
    run: str
    statistics: str
    split: str
    images: pd.DataFrame
    group: dict[str, str]
    twin: bool = False


@dataclass(frozen=True)
class Score:
    """Accuracies of one model on the images of one split, or of one cell type of it.

    Attributes:
      model, twin, statistics, split: of `Predictions`.
      cell_type: "" for all.
      images, experiments: how many are scored.
      unknown: images that are not, because training had no such class.
      runs: how many are averaged.
      top1, top5: mean over the runs of the share of the images.
      top1_sd, top5_sd: standard deviation over the runs (n - 1); None of one run.
      top1_interval, top5_interval: 95 %, by bootstrap over experiments; None of one experiment.
      top1_by_run: {run: share}.
    """

    model: str
    twin: bool
    statistics: str
    split: str
    cell_type: str
    images: int
    experiments: int
    unknown: int
    runs: int
    top1: float
    top1_sd: float | None
    top1_interval: list[float] | None
    top5: float
    top5_sd: float | None
    top5_interval: list[float] | None
    top1_by_run: dict[str, float]


@dataclass(frozen=True)
class Difference:
    """What one way is better by than another, in top-1 accuracy on the same images.

    Attributes:
      split, cell_type: of the images; "" for all cell types.
      one, other: what is compared.
      images, experiments: how many both score.
      one_top1, other_top1: accuracies on these images.
      difference: `one` less `other`.
      interval: 95 %, by bootstrap over experiments; None of one experiment.
      outcome: in words; "" of fewer experiments than `ENOUGH`.
    """

    split: str
    cell_type: str
    one: str
    other: str
    images: int
    experiments: int
    one_top1: float
    other_top1: float
    difference: float
    interval: list[float] | None
    outcome: str


def ranks(
    scores: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, " rows"]
) -> Int64[np.ndarray, " rows"]:
    """How many other classes score at least as high as the true one; 0 is right.

    Ties count against the model, so that one that scores all classes alike (or has no finite
    scores) is wrong everywhere. Rows whose label is -1 get -1.
    """
    true = scores[np.arange(len(scores)), np.maximum(labels, 0)]
    others = scores.shape[1] - 1 - (scores < true[:, None]).sum(1)
    return np.where(labels < 0, -1, others)


def score_all(predictions: Iterable[Predictions], draws: int = bootstrap.DRAWS) -> list[Score]:
    """The scores of every model, statistics and split: of all images first, then by cell type
    where there are several.
    """
    found = []
    by = lambda one: (one.model, one.twin, one.statistics, one.split)  # noqa: E731
    for _, same in _grouped(predictions, by):
        found.append(_score(same, "", draws))
        types = sorted({str(name) for one in same for name in one.images.cell_type.unique()})
        if len(types) > 1:
            found += [_score(same, name, draws) for name in types]
    return found


def _score(same: Sequence[Predictions], cell_type: str, draws: int) -> Score:
    """The score of the runs of one model."""
    parts = [_of_cell_type(one.images, cell_type) for one in same]
    known = [part[part.label >= 0] for part in parts]
    together = pd.concat(known)
    top: dict[str, Any] = {}
    for most in TOP:
        by_run = [float((part["rank"] < most).mean()) if len(part) else np.nan for part in known]
        spread = float(np.std(by_run, ddof=1)) if len(by_run) > 1 else None
        top |= {
            f"top{most}": float(np.mean(by_run)),
            f"top{most}_sd": spread,
            f"top{most}_interval": _interval(
                (together["rank"] < most).to_numpy(), together.experiment.to_numpy(), draws
            ),
        }
        if most == 1:
            top["top1_by_run"] = dict(zip([one.run for one in same], by_run, strict=True))
    first = same[0]
    return Score(
        first.model,
        first.twin,
        first.statistics,
        first.split,
        cell_type,
        images=len(known[0]),
        experiments=together.experiment.nunique(),
        unknown=len(parts[0]) - len(known[0]),
        runs=len(same),
        **top,
    )


def between_statistics(
    predictions: Iterable[Predictions], draws: int = bootstrap.DRAWS
) -> list[Difference]:
    """What each kind of statistics is better by than running ones, for each model and split."""
    found = []
    by = lambda one: (one.model, one.split)  # noqa: E731
    for (model, _), same in _grouped((one for one in predictions if not one.twin), by):
        kinds = dict.fromkeys(one.statistics for one in same)
        hits = {kind: _hits([one for one in same if one.statistics == kind]) for kind in kinds}
        if "running" in hits:
            found += [
                _difference(
                    same[0].split,
                    "",
                    (f"{model}, {kind}", hits[kind]),
                    (f"{model}, running", hits["running"]),
                    draws,
                )
                for kind in kinds
                if kind != "running"
            ]
    return found


def separate_models(
    predictions: Iterable[Predictions], draws: int = bootstrap.DRAWS
) -> list[Difference]:
    """Models that were trained for one cell type, or one type of perturbation, each beside every
    model of all, on the images of that group that both know.
    """
    found = []
    by = lambda one: (one.statistics, one.split)  # noqa: E731
    for (statistics, split), same in _grouped((one for one in predictions if not one.twin), by):
        of_model = {
            model: list(ones) for (model,), ones in _grouped(same, lambda one: (one.model,))
        }
        alone = {name: ones for name, ones in of_model.items() if ones[0].group}
        joint = {name: ones for name, ones in of_model.items() if not ones[0].group}
        for other, others in joint.items():
            beside = (f"{other}, {statistics}", _hits(others))
            rows = [(", ".join(ones[0].group.values()), name, ones) for name, ones in alone.items()]
            if len(rows) > 1:  # each image by the model of its group
                rows.append(
                    ("", "separate models", [one for ones in alone.values() for one in ones])
                )
            for group, name, ones in rows:
                one = _difference(
                    split, group, (f"{name}, {statistics}", _hits(ones)), beside, draws
                )
                found += [one] if one.images else []
    return found


def _difference(
    split: str,
    cell_type: str,
    one: tuple[str, pd.DataFrame],
    other: tuple[str, pd.DataFrame],
    draws: int,
) -> Difference:
    """Two ways on the images that both score."""
    both = one[1].join(other[1].hit, rsuffix="_other", how="inner")
    difference = (both.hit - both.hit_other).to_numpy()
    interval = _interval(difference, both.experiment.to_numpy(), draws)
    experiments = both.experiment.nunique()
    mean = lambda values: float(values.mean()) if len(values) else float("nan")  # noqa: E731
    return Difference(
        split,
        cell_type,
        one[0],
        other[0],
        images=len(both),
        experiments=experiments,
        one_top1=mean(both.hit),
        other_top1=mean(both.hit_other),
        difference=mean(difference),
        interval=interval,
        outcome=outcome(interval, NO_CHANGE) if interval and experiments >= ENOUGH else "",
    )


def _hits(same: Sequence[Predictions]) -> pd.DataFrame:
    """For each image the share of the runs that are right, with its experiment; those of classes
    that training did not have are left out.
    """
    known = pd.concat([one.images[one.images.label >= 0] for one in same])
    hit = known.assign(hit=(known["rank"] == 0).astype(float)).groupby("image", sort=True)
    return hit.agg(hit=("hit", "mean"), experiment=("experiment", "first"))


def _interval(values: np.ndarray, experiments: np.ndarray, draws: int) -> list[float] | None:
    if len(np.unique(experiments.astype(str))) < 2:
        return None
    return bootstrap.interval_of_mean(values, experiments, draws)


def _of_cell_type(images: pd.DataFrame, cell_type: str) -> pd.DataFrame:
    return images[images.cell_type == cell_type] if cell_type else images


def _grouped(ones: Iterable[Predictions], key: Any) -> list[tuple[Any, list[Predictions]]]:
    """Predictions of equal keys together, in the order in which keys come first."""
    ones = list(ones)
    place = {k: i for i, k in enumerate(dict.fromkeys(map(key, ones)))}
    ordered = sorted(ones, key=lambda one: place[key(one)])
    return [(k, list(same)) for k, same in groupby(ordered, key)]
