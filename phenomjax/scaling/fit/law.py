"""The law L(N, D) = E + A / N^alpha + B / D^beta of a set of runs: its values, its bootstrap draws,
what is predicted with which interval, and how it is kept in a folder.

Its values are those of the plain law, to be set beside others'. What is predicted comes from the
form of it that `forms` chose for these runs.

A folder holds `fit.json` (for people and scripts) and `fit.npz` (draws and runs, plain arrays).
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from phenomjax.scaling.fit.forms import FORMS, law
from phenomjax.scaling.observations import Curve, Observations
from phenomjax.scaling.observations.runs import COLUMNS
from phenomjax.system import files
from phenomjax.system.errors import UserError

NAMES = ("E", "A", "B", "alpha", "beta")
LEVEL = 0.9  # of every interval, unless said
STABLE = 0.2  # width of an interval of beta / (alpha + beta) that tells where to go
JSON, ARRAYS = "fit.json", "fit.npz"
# How much further the law may be off than its bootstrap says: no law is exact, and what it lacks
# grows beyond the runs. On `overtraining_runs.csv`, fitted below several budgets, 90 % intervals
# held 80 to 87 % of the runs above with 1, 89 to 100 % with 2 (no run below 20 units a parameter).
DOUBT = 2.0
_QUANTILES = (np.arange(24) + 0.5) / 24  # of a run's own scatter
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
      form: of `forms.FORMS`, that predicts.
      forecaster: E, A, B, alpha, beta, D0 of that form.
      forecast_draws: the same of each bootstrap draw.
      scatter: standard deviation of log(loss) of a single run about that form.
      degrees: of freedom that `scatter` was estimated with.
      runs: that were looked at.
      used: which of them were fitted.
      basins: of the objective, best first: NAMES, "objective", "cells" of the grid that end there.
      profiles: of E, alpha, beta and the ratio: values at which the profile likelihood was taken,
        and its deviance (1 at the edge of the 90 % interval).
      scores: what spoke for each form, as of `forms.chosen`.
      settings: how it was fitted.
      half_life: R* of repeated data (`effective`); infinite where no run repeats any.
      half_lives: of each draw; empty where no run repeats any.
    """

    parameters: Float[np.ndarray, "5"]
    draws: Float[np.ndarray, "draws 5"]
    form: str
    forecaster: Float[np.ndarray, "6"]
    forecast_draws: Float[np.ndarray, "draws 6"]
    scatter: float
    degrees: int
    runs: Observations
    used: Bool[np.ndarray, " runs"]
    basins: tuple[Mapping[str, float], ...]
    profiles: Mapping[str, Float[np.ndarray, "2 points"]]
    scores: Mapping[str, Mapping[str, float]]
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
        """The predicted loss at N and D, in nats; where data are repeated, of `unique` units each
        read D / U times.
        """
        if unique is not None:
            seen = effective(seen, unique, self.half_life)
        return law(self.forecaster[None], params, seen)[0]

    def predict(
        self,
        params: Float[np.ndarray, " m"],
        seen: Float[np.ndarray, " m"],
        level: float = LEVEL,
        unique: Float[np.ndarray, " m"] | None = None,
    ) -> Prediction:
        """The loss of single runs, with a prediction interval: what the law does not know (its
        draws about it, `DOUBT` times as far) and how single runs scatter about it (Student's t).

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
        noise = self.scatter * stats.t.ppf(_QUANTILES, self.degrees)
        middle = np.log(self.loss(params, seen, unique))
        draws = self.forecast_draws if len(self.forecast_draws) else self.forecaster[None]
        step = max(1, _AT_ONCE // (len(draws) * len(noise)))
        ends = np.empty((2, len(params)))
        for at in range(0, len(params), step):
            some = slice(at, at + step)
            fresh = effective(seen[some], unique[some], half_lives)
            drawn = np.log(law(draws, params[some], fresh)) - middle[some]
            single = DOUBT * drawn[:, None] + noise[:, None]
            ends[:, some] = np.quantile(single.reshape(-1, drawn.shape[1]), tails, axis=0)
        low, high = np.minimum(ends[0], 0), np.maximum(ends[1], 0)
        return Prediction(np.exp(middle), np.exp(middle + low), np.exp(middle + high))

    def interval(self, name: str) -> tuple[float, float]:
        """The bootstrap interval of a value of the law, or of the "ratio", wider by the degrees of
        freedom that five values take from the runs.
        """
        drawn = self.draws if len(self.draws) else self.parameters[None]
        if name == "ratio":
            value, values = float(ratio(self.parameters[None])[0]), ratio(drawn)
        else:
            value, values = self.values[name], drawn[:, NAMES.index(name)]
        runs = int(self.used.sum())
        wider = np.sqrt(runs / max(runs - len(NAMES), 1))
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - value
        most = {"ratio": 1.0, "E": float(self.runs.loss[self.used].min())}.get(name, np.inf)
        return (
            max(value + wider * min(float(low), 0.0), 0.0),
            min(value + wider * max(float(high), 0.0), max(most, value)),
        )

    def profile_interval(self, name: str) -> tuple[float, float] | None:
        """The interval of a value by its profile likelihood; an end that lies beyond what was
        looked at is the last value there. None where no profile was taken.
        """
        if name not in self.profiles:
            return None
        values, deviance = self.profiles[name]
        inside = values[deviance <= 1]
        ends = []
        for edge, toward in ((inside.min(), -1), (inside.max(), 1)):
            at = int(np.flatnonzero(values == edge)[0])
            beyond = at + toward
            if 0 <= beyond < len(values):
                share = (1 - deviance[at]) / (deviance[beyond] - deviance[at])
                edge = edge + share * (values[beyond] - edge)
            ends.append(float(edge))
        return ends[0], ends[1]

    @property
    def identified(self) -> bool:
        """Whether E is known: neither of its intervals reaches 0, and both are narrower than what
        the best run still had above it.
        """
        reducible = self.runs.loss[self.used].min() - self.values["E"]
        known = [self.interval("E"), self.profile_interval("E") or self.interval("E")]
        return all(low > 0.01 * reducible and high - low < reducible for low, high in known)

    @property
    def explained(self) -> float:
        """The share of the variance of log(loss) that the law explains."""
        runs = self.runs.take(self.used)
        fresh = effective(runs.seen, runs.unique, self.half_life)
        said = np.log(law(self.parameters[None], runs.params, fresh)[0])
        return 1 - float(np.mean((np.log(runs.loss) - said) ** 2) / np.var(np.log(runs.loss)))

    @property
    def domain(self) -> dict[str, tuple[float, float]]:
        """The smallest and the largest N, D and C that were fitted."""
        ranges = {"params": self.runs.params, "seen": self.runs.seen, "flops": self.runs.cost}
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
                name: {
                    "value": value,
                    "low": ends[name][0],
                    "high": ends[name][1],
                    "profile": self.profile_interval(name),
                }
                for name, value in values.items()
            },
            "level": LEVEL,
            "E_identified": self.identified,
            "half_life": self._half_life(),
            "forecast": {
                "form": self.form,
                "law": FORMS[self.form].words,
                **dict(zip((*NAMES, "D0"), map(float, self.forecaster), strict=True)),
                "scatter": self.scatter,
                "degrees_of_freedom": self.degrees,
                "scores": {name: dict(score) for name, score in self.scores.items()},
            },
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
            "forecaster": self.forecaster,
            "forecast_draws": self.forecast_draws,
            "used": self.used,
            "names": np.array(self.runs.names, str),
            **{name: getattr(self.runs, name) for name in COLUMNS},
            **{f"metric_{name}": values for name, values in self.runs.metrics.items()},
            **curves,
        }
        with files.replacing(folder / ARRAYS) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        digest = {"arrays_sha256": files.sha256(folder / ARRAYS)}
        files.write_json(folder / JSON, {**self.report(), **digest, **(also or {})})


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
        if report.get("arrays_sha256") not in (None, files.sha256(folder / ARRAYS)):
            raise ValueError(f"{ARRAYS} is not the one that was written with {JSON}")
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
            **{name: arrays[name] for name in COLUMNS},
            unit=str(report["unit"] or ""),
            metrics={
                name.removeprefix("metric_"): values
                for name, values in arrays.items()
                if name.startswith("metric_")
            },
            curves=curves,
            facts=dict(report["facts"]),
        )
        values = [float(report[name]["value"]) for name in NAMES]
        if not np.allclose(values, arrays["parameters"]):
            raise ValueError(f"the values in {JSON} are not those of {ARRAYS}")
        scatter = float(report["forecast"]["scatter"])
        degrees = int(report["forecast"]["degrees_of_freedom"])
        if not (0 <= scatter < np.inf and degrees > 0 and report["forecast"]["form"] in FORMS):
            raise ValueError(f"`forecast` in {JSON} cannot be")
        return Fit(
            parameters=arrays["parameters"],
            draws=arrays["draws"],
            form=report["forecast"]["form"],
            forecaster=arrays["forecaster"],
            forecast_draws=arrays["forecast_draws"],
            scatter=scatter,
            degrees=degrees,
            runs=runs,
            used=arrays["used"],
            basins=tuple(report["basins"]),
            profiles={
                name: np.array([profile["value"], profile["deviance"]])
                for name, profile in report["profiles"].items()
            },
            scores=report["forecast"]["scores"],
            settings=report["settings"],
            half_life=float(arrays["half_life"]),
            half_lives=arrays["half_lives"],
        )
    except (
        ValueError, LookupError, TypeError, OSError, EOFError, AttributeError, zipfile.BadZipFile
    ) as error:  # fmt: skip
        raise UserError(
            f"The fit in {folder} cannot be read ({type(error).__name__}: {error}): it is damaged,"
            " or of another version. Make it anew: `python -m phenomjax.scaling fit RUNS --out"
            " DIR`."
        ) from error
