"""The law L(N, D) = E + A / N^alpha + B / D^beta of a set of runs: its values, its bootstrap draws,
what it predicts with which interval, and how it is kept in a folder.

A folder holds `fit.json` (for people and scripts) and `fit.npz` (draws and runs, plain arrays).
"""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm

from phenomjax.scaling.observations import Curve, Observations
from phenomjax.system import files
from phenomjax.system.errors import UserError

NAMES = ("E", "A", "B", "alpha", "beta")
LEVEL = 0.9  # of every interval, unless said
JSON, ARRAYS = "fit.json", "fit.npz"
_NOISE = norm.ppf((np.arange(24) + 0.5) / 24)  # a run's own scatter, in standard deviations
_AT_ONCE = 2**21  # numbers in memory while predicting


@dataclass(frozen=True)
class Prediction:
    """The loss of runs yet to be made, in nats a unit, and the interval of a single run."""

    loss: Float[np.ndarray, " m"]
    low: Float[np.ndarray, " m"]
    high: Float[np.ndarray, " m"]


@dataclass(frozen=True)
class Fit:
    """A law, and what is needed to forecast with it.

    Attributes:
      parameters: E, A, B, alpha, beta; E in nats, N in parameters, D in units of the data.
      draws: the same of each bootstrap draw.
      scatter: standard deviation of log(loss) of a single run about the law.
      runs: that were looked at.
      used: which of them were fitted.
      basins: of the objective, best first: NAMES, "objective", "cells" of the grid that end there.
      profiles: per name, the values at which the profile likelihood was taken and its deviance
        (1 at the edge of the 90 % interval).
      settings: how it was fitted.
      half_life: R* of repeated data (`effective`); infinite where no run repeats any.
      half_lives: of each draw; empty where no run repeats any.
    """

    parameters: Float[np.ndarray, "5"]
    draws: Float[np.ndarray, "draws 5"]
    scatter: float
    runs: Observations
    used: Bool[np.ndarray, " runs"]
    basins: tuple[Mapping[str, float], ...]
    profiles: Mapping[str, Float[np.ndarray, "2 points"]]
    settings: Mapping[str, Any]
    half_life: float = np.inf
    half_lives: Float[np.ndarray, " some"] = field(default_factory=lambda: np.zeros(0))

    @property
    def values(self) -> dict[str, float]:
        """E, A, B, alpha, beta by name."""
        return dict(zip(NAMES, map(float, self.parameters), strict=True))

    def loss(
        self,
        params: Float[np.ndarray, " m"],
        seen: Float[np.ndarray, " m"],
        unique: Float[np.ndarray, " m"] | None = None,
    ) -> Float[np.ndarray, " m"]:
        """The law at N and D, in nats; where data are repeated, of `unique` units each read D / U
        times.
        """
        if unique is not None:
            seen = effective(seen, unique, self.half_life)
        return law(self.parameters[None], params, seen)[0]

    def predict(
        self,
        params: Float[np.ndarray, " m"],
        seen: Float[np.ndarray, " m"],
        level: float = LEVEL,
        unique: Float[np.ndarray, " m"] | None = None,
    ) -> Prediction:
        """The loss of single runs, with a prediction interval: what the law does not know (its
        draws) and how single runs scatter about it.

        Args:
          params: N.
          seen: D, in the fit's unit.
          level: of the interval.
          unique: U, in the fit's unit; NaN, or none at all, where no data are repeated.
        """
        params, seen = np.atleast_1d(params).astype(float), np.atleast_1d(seen).astype(float)
        unique = np.full_like(seen, np.nan) if unique is None else np.atleast_1d(unique)
        half_lives = self.half_lives[:, None] if len(self.half_lives) else np.array([[np.inf]])
        tails = [(1 - level) / 2, (1 + level) / 2]
        step = max(1, _AT_ONCE // (len(self.draws) * len(_NOISE)))
        ends = []
        for at in range(0, len(params), step):
            some = slice(at, at + step)
            fresh = effective(seen[some], unique[some], half_lives)
            drawn = np.log(law(self.draws, params[some], fresh))
            single = drawn[:, None] + self.scatter * _NOISE[:, None]
            ends.append(np.quantile(single.reshape(-1, drawn.shape[1]), tails, axis=0))
        low, high = np.exp(np.concatenate(ends, axis=1)) if ends else np.empty((2, 0))
        loss = self.loss(params, seen, unique)
        return Prediction(loss, np.minimum(low, loss), np.maximum(high, loss))

    def interval(self, name: str) -> tuple[float, float]:
        """The bootstrap interval of a value of the law, or of the "ratio"."""
        drawn = self.draws
        values = ratio(drawn) if name == "ratio" else drawn[:, NAMES.index(name)]
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    @property
    def identified(self) -> bool:
        """Whether E is known: its interval is narrower than what the best run still had above it,
        and does not reach 0.
        """
        low, high = self.interval("E")
        reducible = self.runs.loss[self.used].min() - self.values["E"]
        return low > 0 and high - low < reducible

    @property
    def flops(self) -> Float[np.ndarray, " runs"]:
        """FLOPs of the runs; 6 N D where they were not given."""
        return np.where(
            np.isfinite(self.runs.flops), self.runs.flops, 6 * self.runs.params * self.runs.seen
        )

    @property
    def domain(self) -> dict[str, tuple[float, float]]:
        """The smallest and the largest N, D and C that were fitted."""
        ranges = {"params": self.runs.params, "seen": self.runs.seen, "flops": self.flops}
        return {
            name: (float(all_[self.used].min()), float(all_[self.used].max()))
            for name, all_ in ranges.items()
        }

    def report(self) -> dict[str, Any]:
        """What `fit.json` holds of it."""
        values = {**self.values, "ratio": float(ratio(self.parameters[None])[0])}
        ends = {name: self.interval(name) for name in values}
        return {
            **{
                name: {"value": value, "low": ends[name][0], "high": ends[name][1]}
                for name, value in values.items()
            },
            "level": LEVEL,
            "E_identified": self.identified,
            "half_life": self._half_life(),
            "scatter": self.scatter,
            "basins": [dict(basin) for basin in self.basins],
            "profiles": {
                name: {"value": values.tolist(), "deviance": deviance.tolist()}
                for name, (values, deviance) in self.profiles.items()
            },
            "runs": len(self.used),
            "fitted": int(self.used.sum()),
            "unit": self.runs.unit,
            "facts": dict(self.runs.facts),
            "schedules": [list(curve.schedule) if curve else [] for curve in self.runs.curves],
            "domain": {name: list(ends) for name, ends in self.domain.items()},
            "settings": dict(self.settings),
        }

    def _half_life(self) -> dict[str, float] | None:
        """R* with its interval; None where no run repeats its data."""
        if not len(self.half_lives):
            return None
        low, high = np.quantile(self.half_lives, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return {"value": self.half_life, "low": float(low), "high": float(high)}

    def save(self, folder: Path, also: Mapping[str, Any] | None = None) -> None:
        """Writes `fit.npz`, then `fit.json`.

        Args:
          folder: made if it is not there.
          also: further keys of `fit.json`.
        """
        curves = {
            f"curve_{row}": np.stack([curve.fraction, curve.loss])
            for row, curve in enumerate(self.runs.curves)
            if curve is not None
        }
        arrays = {
            "parameters": self.parameters,
            "draws": self.draws,
            "half_life": np.array(self.half_life),
            "half_lives": self.half_lives,
            "used": self.used,
            "names": np.array(self.runs.names, str),
            **{name: getattr(self.runs, name) for name in _COLUMNS},
            **{f"metric_{name}": values for name, values in self.runs.metrics.items()},
            **curves,
        }
        with files.replacing(folder / ARRAYS) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        files.write_json(folder / JSON, {**self.report(), **(also or {})})


_COLUMNS = ("params", "seen", "unique", "flops", "loss")


def effective(
    seen: Float[np.ndarray, "*m"],
    unique: Float[np.ndarray, "*m"],
    half_life: Float[np.ndarray, "draws 1"] | float,
) -> Float[np.ndarray, "..."]:
    """What repeated data are worth, in fresh ones.

    D' = U + U R* (1 - exp(-R / R*)) with U units read once and R = D / U - 1 repetitions
    (Muennighoff et al. 2023, https://arxiv.org/abs/2305.16264, equation 5): the first repetitions
    count almost as fresh data, and no number of them for more than R* U.

    Args:
      seen: D.
      unique: U; NaN where nothing is known to be repeated.
      half_life: R*, in repetitions; infinite where a repetition is as good as fresh data.
    """
    once = np.where(np.isnan(unique), seen, np.minimum(seen, unique))
    repetitions = seen / once - 1
    with np.errstate(invalid="ignore"):
        worth = -np.asarray(half_life) * np.expm1(-repetitions / half_life)
    return once * (1 + np.where(np.isinf(half_life), repetitions, worth))


def law(
    parameters: Float[np.ndarray, "k 5"],
    params: Float[np.ndarray, " m"],
    seen: Float[np.ndarray, " m"] | Float[np.ndarray, "#k m"],
) -> Float[np.ndarray, "k m"]:
    """E + A / N^alpha + B / D^beta of several laws at several N and D (D of each law, if need
    be).
    """
    floor, size, data, alpha, beta = (column[:, None] for column in parameters.T)
    return floor + size * params**-alpha + data * seen**-beta


def ratio(parameters: Float[np.ndarray, "k 5"]) -> Float[np.ndarray, "k"]:
    """beta / (alpha + beta): the exponent of the best N in C, known where E is not."""
    return parameters[:, 4] / (parameters[:, 3] + parameters[:, 4])


def load(folder: Path) -> Fit:
    """The fit that a folder holds.

    Raises:
      UserError: it holds none, or one that is damaged.
    """
    for name in (JSON, ARRAYS):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} holds no fit: {name} is not there. Give the folder that"
                " `python -m phenomjax.scaling fit RUNS --out DIR` wrote to."
            )
    try:
        report = json.loads((folder / JSON).read_text("utf-8"))
        with np.load(folder / ARRAYS, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        curves = tuple(
            Curve(found[0], found[1], schedule)
            if (found := arrays.get(f"curve_{row}")) is not None
            else None
            for row, schedule in enumerate(map(tuple, report["schedules"]))
        )
        runs = Observations(
            names=tuple(map(str, arrays["names"])),
            **{name: arrays[name] for name in _COLUMNS},
            unit=report["unit"],
            metrics={
                name.removeprefix("metric_"): values
                for name, values in arrays.items()
                if name.startswith("metric_")
            },
            curves=curves,
            facts=report["facts"],
        )
        return Fit(
            parameters=arrays["parameters"],
            draws=arrays["draws"],
            scatter=float(report["scatter"]),
            runs=runs,
            used=arrays["used"],
            basins=tuple(report["basins"]),
            profiles={
                name: np.array([profile["value"], profile["deviance"]])
                for name, profile in report["profiles"].items()
            },
            settings=report["settings"],
            half_life=float(arrays["half_life"]),
            half_lives=arrays["half_lives"],
        )
    except (
        ValueError, KeyError, TypeError, OSError, EOFError, AttributeError, zipfile.BadZipFile
    ) as error:  # fmt: skip
        raise UserError(
            f"The fit in {folder} cannot be read ({type(error).__name__}: {error}): it is damaged,"
            " or of another version. Make it anew: `python -m phenomjax.scaling fit RUNS --out"
            " DIR`."
        ) from error


def with_runs(fit: Fit, runs: Observations) -> Fit:
    """The same law beside other facts of its runs."""
    return dataclasses.replace(fit, runs=runs)
