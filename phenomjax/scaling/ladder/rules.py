"""How batch, learning rate and steps follow size and data in a ladder.

The configuration's own values hold at its own size and length: `Reference`. From there

  batch          * (D / D0)^batch_exponent
  learning rate  * (D0 / D)^rate_exponent * (width0 / width)^width_exponent

with D the units of data that a run reads. The exponents 0.4 and 0.3 belong together: they leave
rate^2 * steps alone, the time of Adam's stochastic differential equation (Malladi et al. 2022,
https://arxiv.org/abs/2205.10287), as steps are D^0.6 where the batch is D^0.4. Warm-up and decay
are shares of the run, as in the configuration, and so is the memory of a moving average.
"""

import math
from dataclasses import dataclass

from ml_collections import ConfigDict


@dataclass(frozen=True)
class Exponents:
    """What batch and learning rate follow the data and the width with."""

    batch: float
    rate: float
    width: float


@dataclass(frozen=True)
class Reference:
    """Where the configuration's own values hold.

    Attributes:
      seen: units of data of its run (D0).
      batch, rate, steps, ema_decay: its values.
    """

    seen: float
    batch: int
    rate: float
    steps: int
    ema_decay: float


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a run learns."""

    steps: int
    batch: int
    rate: float
    ema_decay: float


def schedule(
    reference: Reference,
    exponents: Exponents,
    *,
    seen: float,
    units_per_row: float,
    width_ratio: float,
    multiple: int,
) -> Schedule:
    """The schedule of a run.

    Args:
      reference: where the configuration's values hold.
      exponents: of the rules.
      seen: units of data that the budget pays for.
      units_per_row: of a row of a batch.
      width_ratio: width / width0.
      multiple: that the batch must be a multiple of.
    """
    share = seen / reference.seen
    batch = even(reference.batch * share**exponents.batch, multiple)
    steps = max(1, round(seen / (batch * units_per_row)))
    rate = reference.rate * share**-exponents.rate * width_ratio**-exponents.width
    ema = 1 - (1 - reference.ema_decay) * reference.steps / steps if reference.ema_decay else 0.0
    return Schedule(steps, batch, float(f"{rate:.4g}"), float(f"{max(ema, 0.0):.6g}"))


def even(batch: float, multiple: int) -> int:
    """A batch as four to eight parts of a power of two, so that devices can share it, and a
    multiple of what divides it.

    >>> [even(x, 1) for x in (3.3, 9.1, 23.0, 100.0, 1000.0)]
    [3, 9, 24, 96, 1024]
    """
    grain = math.lcm(multiple, 2 ** max(math.floor(math.log2(max(batch, 1.0))) - 2, 0))
    return max(1, round(batch / grain)) * grain


def batch_multiple(config: ConfigDict, devices: int) -> int:
    """What divides every batch of a configuration: devices, micro-batches, crops of one image,
    parts of a batch of two rows or more.
    """
    data = config.data
    parts = data.groups if "groups" in data else 0
    axis = config.mesh.data if config.mesh.data > 0 else 1
    return math.lcm(
        math.lcm(max(devices, 1), axis) * config.optimizer.accumulate_steps,
        data.crops_per_image if "crops_per_image" in data else 1,
        2 * parts or 1,
    )


def told(exponents: Exponents, depth: str, parametrisation: str) -> list[str]:
    """The rules as sentences, for the plan and `ladder.json`."""
    width = f"and (width0 / width)^{exponents.width:g}" if exponents.width else "at every width"
    aspect = "follows the width" if depth == "aspect" else "is that of the configuration"
    return [
        "sizes: heads keep their width, and MLP, decoder and the like their ratio to the width;"
        f" the depth {aspect}",
        "steps: budget / FLOPs of a step, by the task's own count",
        f"batch: * (D / D0)^{exponents.batch:g}, in parts of a power of two",
        f"learning rate: * (D0 / D)^{exponents.rate:g} {width}"
        + ("" if parametrisation == "standard" else f" (parametrisation {parametrisation})"),
        "warm-up, decay: the shares of the run that the configuration has",
        "validation: the same rows, crops and masks in all runs",
    ]
