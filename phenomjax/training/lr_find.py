"""Finds a learning rate: some steps with a rate that rises from far too small to far too large (the
range test of Smith 2015, https://arxiv.org/abs/1506.01186).

It starts as the run would, from random parameters or those of `init_from`, on the run's first
batches and with its optimiser, and writes into WORKDIR/lr_find alone. Between two rates, in the
valley of the curve, nine tenths of the fall of the loss are done; suggested, as a peak, is a third
of the valley's middle (of the logarithms). Of the rules in use, the steepest place gives rates far
too low for transformers, whose first and steepest fall is that to the mean; and a tenth of the rate
with the lowest loss hangs on where a flat valley happens to be deepest.
"""

import csv
import io
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass

import jax
import numpy as np
from jaxtyping import Float

from phenomjax.cluster import messages
from phenomjax.config.schedules import SEARCHED
from phenomjax.figures import style
from phenomjax.state import TrainState
from phenomjax.step import Programs
from phenomjax.system import files
from phenomjax.system.errors import EXIT_DONE, EXIT_STOPPED
from phenomjax.system.types import Figure
from phenomjax.training.context import RunContext
from phenomjax.training.feed import DeviceFeed

log = logging.getLogger("phenomjax")
FOLDER = "lr_find"  # in the workdir
WIDTH = 4.0  # steps; standard deviation of the Gaussian that smooths the losses
DIVERGED = 4.0  # times the lowest loss, in the mean of the last few steps
DONE = 0.9  # of the fall
SHARE = 1 / 3  # of the middle of the valley
CLEAR = 3.0  # a fall by so many times the noise of its ends is one


@dataclass(frozen=True)
class Suggestion:
    """What the losses say.

    Attributes:
      rate: to train with; None where the loss does not fall.
      valley: lowest and highest rate at which `DONE` of the fall are done.
      fall: from the mean of the first losses to the lowest.
      noise: of a smoothed loss, one standard deviation.
    """

    rate: float | None
    valley: tuple[float, float]
    fall: float
    noise: float


def smoothed(losses: Sequence[float]) -> Float[np.ndarray, " steps"]:
    """Losses as a mean over neighbouring steps; those far above the first ones count as just above
    them, so that a divergence does not hide what was before it.
    """
    from scipy.ndimage import gaussian_filter1d

    values = np.array(losses, np.float64)
    first = float(np.mean(values[: _first(values)]))
    ceiling = first + max(first - float(values.min()), 0.0)
    return gaussian_filter1d(np.minimum(values, ceiling), WIDTH, mode="nearest")


def suggest(rates: Sequence[float], losses: Sequence[float]) -> Suggestion:
    """Where to train.

    Args:
      rates: of each step, rising by a constant factor.
      losses: of each step, finite.
    """
    curve, values = smoothed(losses), np.array(losses, np.float64)
    lowest, first = int(np.argmin(curve)), _first(values)
    # of two neighbours, whose rates are nearly the same; the median bears the few that diverge
    steps = np.abs(np.diff(values[: max(lowest, first)]))
    one = float(np.median(steps)) / (0.6745 * math.sqrt(2)) if len(steps) else 0.0
    noise = one / math.sqrt(2 * WIDTH * math.sqrt(math.pi))
    begin = float(values[:first].mean())
    # the lowest of many noisy values lies below the curve, by about twice their noise
    fall = begin - float(curve[lowest]) - 2 * noise
    clear = lowest >= first and fall > CLEAR * math.hypot(noise, one / math.sqrt(first))
    inside = np.flatnonzero(curve <= max(begin - DONE * fall, curve[lowest]))
    low, high = rates[inside[0]], rates[inside[-1]]
    return Suggestion(math.sqrt(low * high) * SHARE if clear else None, (low, high), fall, noise)


def _first(values: Float[np.ndarray, " steps"]) -> int:
    """How many losses tell where it begins: a tenth."""
    return max(len(values) // 10, 1)


def find(
    run: RunContext,
    programs: Programs,
    state: TrainState,
    learning_rate: Callable[[int], jax.typing.ArrayLike],
) -> int:
    """Trains with a rising rate until it diverges, writes the curve, and says what it suggests.

    Args:
      run: whose rate it is; its workdir is the folder for what is written.
      programs: the step, whose optimiser has the rising rate.
      state: to begin with.
      learning_rate: of a step.

    Returns:
      0, or 75 after a signal.
    """
    lowest, highest, steps = SEARCHED
    log.info(
        "learning rates from %g to %g in at most %d steps, none of which is kept",
        lowest,
        highest,
        steps,
    )
    rates, losses = list[float](), list[float]()
    key = jax.device_put(jax.random.key(run.config.seed), run.everywhere)
    feed = DeviceFeed(run.loader, 0, steps, run.rows)
    with closing(feed):
        for step in range(steps):
            if messages.stop_requested():
                return EXIT_STOPPED
            with run.phase("data"):
                position, batch, _ = next(feed)
            program = programs.get(state, batch)
            state, values = program.step(state, batch, key, np.uint32(position))
            # the same in all processes, which come to the same end
            loss = float(values["train/loss"])
            run.phase.beat(step + 1)
            if not math.isfinite(loss):
                break
            rates.append(float(learning_rate(step)))
            losses.append(loss)
            if np.mean(losses[-3:]) > DIVERGED * abs(min(losses)):
                break
            if (step + 1) % (steps // 10) == 0:
                log.info("step %d/%d  lr %.3g  loss %.4f", step + 1, steps, rates[-1], loss)
    if messages.is_main():
        _tell(run, rates, losses)
    return EXIT_DONE


def _tell(run: RunContext, rates: list[float], losses: list[float]) -> None:
    """Writes curve.csv, suggestion.json and the figure, and says what they say."""
    if not losses:
        log.warning("no learning rate is suggested: the first step gave no finite loss")
        return
    where = f"diverged at {rates[-1]:.3g}" if len(rates) < SEARCHED[2] else "never diverged"
    found, curve, folder = suggest(rates, losses), smoothed(losses), run.workdir
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("step", "learning_rate", "loss", "smoothed_loss"))
    rows.writerows(zip(range(1, len(rates) + 1), rates, losses, curve.tolist(), strict=True))
    files.write_text(folder / "curve.csv", table.getvalue())
    files.write_json(folder / "suggestion.json", {**asdict(found), "tried": [rates[0], rates[-1]]})
    path = files.save_figure(_figure(rates, losses, curve, found), folder / "lr_find.png", dpi=110)
    log.info("wrote %s, curve.csv and suggestion.json", path)
    if found.rate is None:
        log.warning(
            "no learning rate is suggested: the loss does not fall (by %.3g, and its noise is"
            " %.3g); it %s. See %s. If the curve is noise, give larger batches"
            " (--config.global_batch_size); if it is flat, look at the data and the model; if it"
            " rises at once, begin with other parameters (--config.init_from).",
            found.fall,
            found.noise,
            where,
            path,
        )
        return
    log.info(
        "suggested: --config.optimizer.learning_rate=%.2g, a third of the middle of %.2g to %.2g,"
        " where %d %% of the fall of the loss are done; it %s",
        found.rate,
        *found.valley,
        100 * DONE,
        where,
    )


def _figure(
    rates: list[float], losses: list[float], curve: np.ndarray, found: Suggestion
) -> Figure:
    """The losses over the rates, and what is suggested."""
    from matplotlib import figure as drawing

    figure = drawing.Figure(figsize=(6, 3.8), layout="constrained")
    axis = figure.subplots()
    style.open_frame(axis)
    axis.plot(rates, losses, ".", color=style.LIGHT, markersize=4, label="steps")
    axis.plot(rates, curve, color=style.COLOURS[0], label="smoothed")
    if found.rate is not None:
        label = f"suggested: {found.rate:.2g}"
        axis.axvline(found.rate, color=style.COLOURS[1], label=label)
        axis.axvspan(*found.valley, color=style.LIGHT, alpha=0.4, linewidth=0, label="valley")
    margin = 0.1 * (float(np.ptp(curve)) or 1.0)
    axis.set_ylim(curve.min() - margin, curve.max() + margin)
    axis.set(xscale="log", xlabel="learning rate", ylabel="train/loss")
    axis.legend(frameon=False)
    return figure
