"""The end of a run that trains, from its own curve so far."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64
from ml_collections import ConfigDict

from phenomjax import optim
from phenomjax.config import stored
from phenomjax.scaling import prefix
from phenomjax.scaling.fit.law import Fit
from phenomjax.scaling.forecast.curves import of_schedule, schedule_of
from phenomjax.scaling.prefix import End
from phenomjax.system.errors import UserError
from phenomjax.training import metrics


def end_of(workdir: Path, fit: Fit | None, level: float) -> End:
    """The loss at the end of the run in a folder.

    Args:
      workdir: of a run that trains, or was stopped.
      fit: of runs whose curves are known, if there is one; those of the run's schedule are used.
      level: of the interval.

    Raises:
      UserError: there is no run, it has ended, or it has too few evaluations.
    """
    config = stored.load(workdir / "config.json")
    losses = metrics.val_losses(workdir)
    if losses.get(config.num_steps) is not None:
        raise UserError(
            f"The run {workdir} has ended, with a val/loss of {losses[config.num_steps]:.4f}: there"
            " is nothing left to forecast. Give a run that still trains to `run`."
        )
    losses = {step: loss for step, loss in losses.items() if step < config.num_steps}
    steps = np.array(sorted(losses), float)
    values = np.array([losses[step] for step in sorted(losses)], float)
    curves = of_schedule(fit, schedule_of(config)) if fit else []
    if len(steps) and len(curves) >= prefix.EARLIER:
        floor = float(fit.forecaster[0]) if fit else 0.0
        return prefix.from_earlier(steps / config.num_steps, values, curves, level, floor)
    return prefix.from_schedule(steps, values, rates_of(config), level)


def rates_of(config: ConfigDict) -> Float64[np.ndarray, " steps"]:
    """The learning rate of every step of a run."""
    rate = optim.schedule(config)
    rates = jax.vmap(lambda step: jnp.asarray(rate(step), float))(jnp.arange(config.num_steps))
    return np.asarray(rates, np.float64)
