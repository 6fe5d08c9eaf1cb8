"""The forecast of a run beside its validation: the band in its curves, a word when it leaves the
band, and forecast against outcome at the end.
"""

import dataclasses
import functools
import logging
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from phenomjax.cluster import messages
from phenomjax.config import keys
from phenomjax.figures import style
from phenomjax.scaling import prefix
from phenomjax.scaling.forecast import record
from phenomjax.scaling.forecast.ending import rates_of
from phenomjax.scaling.forecast.record import Forecast
from phenomjax.state import TrainState
from phenomjax.system import files
from phenomjax.system.errors import UserError, first_of
from phenomjax.tasks import Loader
from phenomjax.training import metrics
from phenomjax.training.context import RunContext
from phenomjax.training.evaluators import Factory, Validation
from phenomjax.training.size import params_of

log = logging.getLogger("phenomjax")
WIDE = 0.5  # of the loss: an interval of that width holds almost anything


def factory(config: ConfigDict) -> Factory:
    """Makes the validation of a run that was forecast.

    Args:
      config: as read from an experiment file; `scaling.forecast` is set.

    Raises:
      UserError: the forecast cannot be read, or is of another task.
    """
    path = Path(config.scaling.forecast)
    forecast = record.read(path)
    differ = record.check_config(forecast, keys.finalize(config), path)
    if differ:
        log.warning(
            "The forecast %s was made for another configuration of this size: %s",
            path,
            first_of(differ, 8),
        )
    return functools.partial(ForecastValidation.of_run, forecast, path)


class ForecastValidation:
    """An evaluator in the place of `Validation`: the same, and the forecast beside it.

    Args:
      run: of the configuration that was forecast.
      loader: of held-out data.
      forecast: of this run.
      path: of its file.
    """

    name = Validation.name

    def __init__(self, run: RunContext, loader: Loader, forecast: Forecast, path: Path):
        self._run, self._validation = run, Validation(run, loader)
        self.every_steps = self._validation.every_steps
        self.forecast, self._path = forecast, path
        self._sha256 = files.sha256(path)
        self._losses: dict[int, float] | None = None
        starts = [*run.goodput.earlier, run.goodput.now]
        self._late = forecast.time().timestamp() > starts[0]["began"]
        log.info(
            "forecast %s of %s: val/loss %s at the end", path, forecast.written, forecast.text()
        )
        if self._late:
            log.warning(
                "The forecast %s was written at %s, after this run began: it is kept, and called"
                " so, but says nothing of what could be known before.",
                path,
                forecast.written,
            )

    @classmethod
    def of_run(cls, forecast: Forecast, path: Path, run: RunContext) -> "ForecastValidation":
        """A factory.

        Raises:
          UserError: the run has no held-out data, or is of another size, unit or data.
        """
        if run.val_loader is None:
            raise UserError(
                f"config.scaling.forecast is {path}, a forecast of val/loss, but nothing is held"
                " out. Hold data out (config.data.val_groups, config.data.val_fraction), or set"
                " --config.scaling.forecast=''."
            )
        size = run.size(params_of(run.task, run.spec))
        record.check_size(forecast, size, run.config.num_steps, path)
        return cls(run, run.val_loader, forecast, path)

    def run(self, state: TrainState, step: int) -> dict[str, "float | Figure"] | None:
        """Means over the held-out batches, and where the forecast expects them."""
        measured = self._validation.run(state, step)
        if measured is None:
            return None
        found: dict[str, float | Figure] = dict(measured)
        if expected := self._expected(step):
            found |= dict(
                zip(("forecast/loss", "forecast/low", "forecast/high"), expected, strict=True)
            )
        if messages.is_main():
            found |= self._judge(step, measured["val/loss"])
        return found

    def _expected(self, step: int) -> tuple[float, float, float] | None:
        return self.forecast.at(step / self._run.config.num_steps)

    def _outside(self, step: int, loss: float) -> bool:
        """Whether the run is outside the band; without a curve only its end is judged."""
        expected = self._expected(step)
        if expected is None or not (self.forecast.curve or step == self._run.config.num_steps):
            return False
        return not expected[1] <= loss <= expected[2]

    def _judge(self, step: int, loss: float) -> dict[str, Figure]:
        """In process 0: what is said, written and drawn."""
        c = self._run.config
        if self._losses is None:  # of the starts before this one
            self._losses = metrics.val_losses(self._run.workdir)
        # after a roll-back what comes later is measured again
        self._losses = {at: value for at, value in self._losses.items() if at < step}
        before = [self._outside(at, value) for at, value in sorted(self._losses.items())][-1:]
        self._losses[step] = loss
        outside, last = self._outside(step, loss), step == c.num_steps
        if outside != any(before) and not last:
            self._tell(step, loss, outside)
        self._write(step, loss)
        if last:
            self._tell_outcome(step, loss)
        due = last or (c.figures.every_steps and step % c.figures.every_steps == 0)
        return {"forecast": self._figure()} if due else {}

    def _tell(self, step: int, loss: float, outside: bool) -> None:
        """The run left the band, or came back."""
        _, low, high = self._expected(step) or (0.0, 0.0, 0.0)
        if not outside:
            log.info("step %d: val/loss %.4f is back in the forecast's band", step, loss)
            return
        side = "below" if loss < low else "above"
        log.warning(
            "step %d: val/loss %.4f is %s the forecast's band, %.4f to %.4f at this share of the"
            " run; %g %% of runs like the fitted ones are inside at any time.%s %s",
            step,
            loss,
            side,
            low,
            high,
            100 * self.forecast.level,
            self._heading(),
            "Look at train/loss and train/grad_norm, and at what differs from the ladder: data,"
            " learning rate, batch."
            if side == "above"
            else "Is the held-out data that of the ladder, and is none of it trained on?",
        )

    def _heading(self) -> str:
        """Where the run's own curve leads, if enough of it is known."""
        assert self._losses is not None
        steps, losses = np.array(sorted(self._losses.items()), float).T
        try:
            end = prefix.from_schedule(steps, losses, rates_of(self._run.config))
        except UserError:
            return ""
        interval = f"{100 * end.level:g} % interval {end.low:.4f} to {end.high:.4f}"
        return f" By its own curve it will end at {end.loss:.4f}, {interval}."

    def _tell_outcome(self, step: int, loss: float) -> None:
        forecast, outcome = self.forecast, self._outcome(step, loss)
        share = outcome["error_of_reducible"]
        log.info(
            "forecast against outcome: val/loss %.4f; forecast %s; error %+.2f %%%s: the forecast"
            " %s; wrote %s",
            loss,
            forecast.text(),
            100 * outcome["error"],
            "" if share is None else f", {100 * share:+.1f} % of what was reducible",
            "did not hold"
            if not outcome["held"]
            else "held, in an interval so wide that this says little"
            if forecast.high - forecast.low > WIDE * forecast.loss
            else "held",
            self._run.workdir / record.OUTCOME,
        )

    def _outcome(self, step: int, loss: float) -> record.Outcome:
        forecast = self.forecast
        return record.Outcome(
            step=step,
            loss=loss,
            error=forecast.loss / loss - 1,
            error_of_reducible=record.error_of_reducible(forecast, loss),
            held=not self._outside(step, loss),
            measured=record.now(),
        )

    def _write(self, step: int, loss: float) -> None:
        """WORKDIR/forecast.json; its `outcome` comes with the last step."""
        assert self._losses is not None
        losses = sorted(self._losses.items())
        last = step == self._run.config.num_steps
        content = {
            "file": str(self._path),
            "sha256": self._sha256,
            "written_before_the_run": not self._late,
            "forecast": dataclasses.asdict(self.forecast),
            "val_loss": losses,
            "outside": [at for at, value in losses if self._outside(at, value)],
            "outcome": self._outcome(step, loss) if last else None,
        }
        files.write_json(self._run.workdir / record.OUTCOME, content)

    def _figure(self) -> Figure:
        """val/loss over the steps, and the forecast with its band."""
        assert self._losses is not None
        forecast, steps = self.forecast, self._run.config.num_steps
        figure = Figure(figsize=(6, 3.8), layout="constrained")
        axis = figure.subplots()
        style.open_frame(axis)
        if forecast.curve:
            shares, expected, low, high = zip(*forecast.curve, strict=True)
            at = [share * steps for share in shares]
            axis.fill_between(
                at, low, high, color=style.LIGHT, linewidth=0, label="band of the forecast"
            )
            axis.plot(at, expected, "--", color=style.DARK, linewidth=1, label="forecast")
        errors = [[forecast.loss - forecast.low], [forecast.high - forecast.loss]]
        axis.errorbar(
            [steps],
            [forecast.loss],
            errors,
            fmt="D",
            markersize=4,
            color=style.DARK,
            capsize=4,
            label=f"forecast of the end, {100 * forecast.level:g} %",
        )
        steps_done, losses = zip(*sorted(self._losses.items()), strict=True)
        axis.plot(steps_done, losses, "o-", color=style.COLOURS[0], markersize=3, label="this run")
        seen = [
            (low, high) for share, _, low, high in forecast.curve if share * steps >= steps_done[0]
        ]
        values = [*losses, forecast.low, forecast.high, *(x for pair in seen for x in pair)]
        margin = 0.05 * (max(values) - min(values) or 1)
        axis.set_ylim(min(values) - margin, max(values) + margin)
        axis.set_xlim(0, 1.03 * steps)
        axis.set(xlabel="step", ylabel="val/loss")
        axis.legend(frameon=False)
        return figure
