"""The forecast of one run as a dated file, which nobody writes to again: what comes of the run is
written beside the run.
"""

import dataclasses
import datetime
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from phenomjax.config import stored
from phenomjax.config.checks import flatten
from phenomjax.system import files
from phenomjax.system.errors import UserError, first_of

if TYPE_CHECKING:  # what only reads runs need not import JAX
    from phenomjax.training.size import Size

KIND = "forecast of phenomjax.scaling"
OUTCOME = "forecast.json"  # in the folder of a run
SAME = 0.01  # parameters and data of a run may differ from the forecast's by this share
COMMAND = "python -m phenomjax.scaling forecast --fit DIR --config FILE"


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What is expected of one run.

    Attributes:
      written: when, UTC, as ISO 8601.
      config: the configuration, finalized, before its data were opened.
      config_sha256: digest of it.
      params: trainable parameters.
      seen: units of data that training reads.
      flops: model FLOPs of the whole run.
      unit: of the data.
      data: {data set: checksum}.
      loss, low, high: val/loss at the end, with the interval that a single run falls into.
      level: of the interval.
      floor: loss that no size and no data get below (E of the law), or None where it is not known.
      extrapolation: FLOPs over those of the largest fitted run.
      fit: where the fit lay, its digest, and the law.
      curve: (share of the run, loss, low, high) while it trains, rising shares; none where the
        fitted runs left no curves.
      cost: devices, hours, price, as far as they were asked for.
      metrics: {metric: value, low, high} of those that follow the loss in the fitted runs.
    """

    written: str
    config: Mapping[str, Any]
    config_sha256: str
    params: int
    seen: float
    flops: float
    unit: str
    data: Mapping[str, str]
    loss: float
    low: float
    high: float
    level: float
    floor: float | None
    extrapolation: float
    fit: Mapping[str, Any]
    curve: tuple[tuple[float, float, float, float], ...] = ()
    cost: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Writes forecast_YYYYMMDDTHHMMSSZ.json; returns its path.

        Raises:
          UserError: a forecast of this second is there already.
        """
        stamp = self.time().strftime("%Y%m%dT%H%M%SZ")
        path = folder / f"forecast_{stamp}.json"
        content = {"kind": KIND} | dataclasses.asdict(self)
        if not files.create_text(path, files.json_text(content)):
            raise UserError(
                f"{path} is there already, and a forecast is never written over. Run the command"
                " again: the name is the time."
            )
        return path

    def time(self) -> datetime.datetime:
        """When it was written."""
        return datetime.datetime.fromisoformat(self.written)

    def at(self, share: float) -> tuple[float, float, float] | None:
        """(loss, low, high) at a share of the run, None where its curve is not known; without any
        curve those of the end.
        """
        if share >= 1 or not self.curve:
            return self.loss, self.low, self.high
        shares, *values = np.asarray(self.curve).T
        if share < shares[0]:
            return None
        loss, low, high = (float(np.interp(share, shares, one)) for one in values)
        return loss, low, high

    def text(self) -> str:
        """Loss and interval in words."""
        interval = f"{100 * self.level:g} % interval {self.low:.4f} to {self.high:.4f}"
        return f"{self.loss:.4f}, {interval}"


class Outcome(TypedDict):
    """What came of a run that was forecast, in its folder's forecast.json.

    Attributes:
      step: the last one.
      loss: val/loss there.
      error: of the forecast, over the loss.
      error_of_reducible: over what the loss is above the floor; None where that is not known.
      held: whether the loss is in the interval.
      measured: when, UTC.
    """

    step: int
    loss: float
    error: float
    error_of_reducible: float | None
    held: bool
    measured: str


def now() -> str:
    """The time, as a forecast is dated."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read(path: Path) -> Forecast:
    """Reads a file that `Forecast.write` wrote.

    Raises:
      UserError: it is not there, is something else, or was damaged.
    """
    mend = f"Write a forecast by `{COMMAND}`, and give the file that it names."
    if path.is_dir():
        there = [one for one in files.names(path) if one.startswith("forecast_")]
        raise UserError(
            f"{path} is a folder, where the file of a forecast is wanted. In it:"
            f" {first_of(there) or 'no forecast'}. {mend}"
        )
    try:
        content = files.json_object(path, path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"There is no forecast {path}. {mend}") from None
    except UserError:
        raise UserError(f"{path} is not JSON: it is no forecast, or is damaged. {mend}") from None
    if "outcome" in content and "file" in content:
        raise UserError(
            f"{path} is what a run made of a forecast. Give the forecast itself, {content['file']}."
        )
    if content.pop("kind", None) != KIND:
        raise UserError(f"{path} is no forecast, but has {first_of(content)}. {mend}")
    try:
        return _of(content)
    except (TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"The forecast {path} is damaged, or was edited: {reason}. Restore it, for a forecast"
            f" counts as it was written; or write another by `{COMMAND}`."
        ) from None


def _of(content: dict[str, Any]) -> Forecast:
    """Raises TypeError, ValueError, KeyError for what cannot be."""
    content["curve"] = tuple(tuple(map(float, point)) for point in content["curve"])
    found = Forecast(**content)
    found.time()
    numbers = np.array([found.seen, found.flops, found.params, found.extrapolation], float)
    if not (np.isfinite(numbers).all() and (numbers > 0).all()):
        raise ValueError("parameters, data and FLOPs must be above 0")
    shares = [0.0, *(point[0] for point in found.curve)]
    if any(len(point) != 4 for point in found.curve) or not (
        np.isfinite(shares).all() and (np.diff(shares) > 0).all() and shares[-1] <= 1
    ):
        raise ValueError("its curve is none")
    for loss, low, high in [(found.loss, found.low, found.high), *(p[1:] for p in found.curve)]:
        if not (math.isfinite(high - low) and low <= loss <= high):
            raise ValueError(f"a loss of {loss} is not between {low} and {high}")
    if found.config_sha256 != digest(found.config):
        raise ValueError("the digest of its configuration does not fit")
    return found


def digest(config: Mapping[str, Any]) -> str:
    """Of a configuration, as a forecast records it."""
    return files.sha256_json(config)


def check_config(forecast: Forecast, config: ConfigDict, path: Path) -> list[str]:
    """Compares the run that begins with the one that was forecast.

    Args:
      forecast: read from `path`.
      config: of the run, finalized, before its data were opened.
      path: named in errors.

    Returns:
      "KEY: forecast for A, is B" for what differs in the mathematics of the run but not in its
      size.

    Raises:
      UserError: it is another task.
    """
    if (task := forecast.config.get("task")) != config.task:
        raise UserError(
            f"config.scaling.forecast {path} is of the task {task}, and this run is of"
            f" {config.task}. Give a forecast of this configuration (`{COMMAND}`), or"
            " --config.scaling.forecast=''."
        )
    before, after = flatten(dict(forecast.config)), flatten(config)
    return [
        f"{key}: forecast for {before.get(key)}, is {after.get(key)}"
        for key in stored.changed(before, after)
    ]


def check_size(forecast: Forecast, size: "Size", steps: int, path: Path) -> None:
    """Raises UserError where a run is of another size, unit or data than was forecast."""
    wrong = list[str]()
    if size.unit != forecast.unit:
        wrong.append(f"it counts {forecast.unit}, this run {size.unit}")
    if abs(size.params / forecast.params - 1) > SAME:
        wrong.append(f"its model has {forecast.params:,} parameters, this one {size.params:,}")
    seen = steps * size.units_per_step
    if abs(seen / forecast.seen - 1) > SAME:
        wrong.append(
            f"its run reads {forecast.seen:.4g} {forecast.unit}, this one {seen:.4g} ({steps} steps"
            f" of {size.units_per_step:,})"
        )
    if sorted(size.data.values()) != sorted(forecast.data.values()):
        names = first_of(f"{name} ({value[:8]})" for name, value in forecast.data.items())
        wrong.append(f"its data are {names}, those of this run {first_of(size.data) or 'none'}")
    if wrong:
        raise UserError(
            f"config.scaling.forecast {path} is of another run: {'; '.join(wrong)}. Give a forecast"
            f" of this configuration (`{COMMAND}`), or --config.scaling.forecast=''."
        )


def error_of_reducible(forecast: Forecast, loss: Float[np.ndarray, ""] | float) -> float | None:
    """The forecast's error over what more size and data can still take from the loss: percent of
    the whole loss flatters, for most of it is the floor.
    """
    if forecast.floor is None or loss <= forecast.floor:
        return None
    return float((forecast.loss - loss) / (loss - forecast.floor))
