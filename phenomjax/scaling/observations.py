"""Runs as a fit sees them: how large, on how much data, and what they reached."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from phenomjax.system.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Curve:
    """val/loss of a run: at which fractions of it, in nats."""

    fraction: Float[np.ndarray, " k"]
    loss: Float[np.ndarray, " k"]


@dataclass(frozen=True)
class Observations:
    """Finished runs.

    Attributes:
      names: of the runs.
      params: N, all trainable parameters.
      seen: D, units of data that training read.
      unique: units of the training split, NaN where unknown.
      flops: C, NaN where unknown.
      loss: of the validation split at the end, nats a unit.
      unit: of the data, "" where unknown.
      metrics: other numbers of each run.
      curves: of those that were read from a work folder.
    """

    names: tuple[str, ...]
    params: Float[np.ndarray, " runs"]
    seen: Float[np.ndarray, " runs"]
    unique: Float[np.ndarray, " runs"]
    flops: Float[np.ndarray, " runs"]
    loss: Float[np.ndarray, " runs"]
    unit: str = ""
    metrics: Mapping[str, Float[np.ndarray, " runs"]] = field(default_factory=dict)
    curves: tuple[Curve | None, ...] = ()


def of_csv(path: Path, columns: Mapping[str, str]) -> Observations:
    """The runs of a table.

    Args:
      path: CSV.
      columns: {"params", "loss", and "tokens" or "flops": name of the column}.

    Raises:
      UserError: no such file or column.
    """
    import pandas as pd

    if not path.is_file():
        raise UserError(f"The table {path} of `runs` is not there. Correct the path.")
    table = pd.read_csv(path)
    for what, name in columns.items():
        if name not in table:
            raise UserError(
                f"{path} has no column '{name}', which `columns` names as {what}."
                f"{did_you_mean(name, map(str, table.columns))}"
            )
    arrays = {what: table[name].to_numpy(float) for what, name in columns.items()}
    unknown = np.full(len(table), np.nan)
    params, flops = arrays["params"], arrays.get("flops", unknown)
    seen = arrays["tokens"] if "tokens" in arrays else flops / 6 / params
    names = tuple(f"row {row + 2}" for row in range(len(table)))
    return Observations(
        names, params, seen, unknown, flops, arrays["loss"], curves=(None,) * len(table)
    )
