"""What is measured or drawn now and then while a model trains: the protocol, validation, figures.

Others, such as probes, stand above the loop; they are handed to `train.run`, which knows their
protocol alone.
"""

import collections
import contextlib
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import jax
import numpy as np

from phenomjax import tasks
from phenomjax.cluster import messages
from phenomjax.state import TrainState, carry_shardings
from phenomjax.system.errors import UserError
from phenomjax.system.types import Figure
from phenomjax.tasks import Loader
from phenomjax.training.context import RunContext
from phenomjax.training.feed import to_devices
from phenomjax.training.metrics import Found
from phenomjax.training.writers.opening import Writers


class Evaluator(Protocol):
    """Something that is measured or drawn of the model as it is, by all processes together.

    Attributes:
      name: what its metrics begin with, such as "val", and what a checkpoint knows it by.
      every_steps: how often it is due; 0 = at the last step only.
    """

    name: str
    every_steps: int

    def run(self, state: TrainState, step: int) -> Found | None:
        """Measures.

        Args:
          state: at this step; it is not changed.
          step: number of finished steps.

        Returns:
          What was found, the same metrics in all processes; figures in process 0. None when a
          signal came in between: it is done again after the restart.
        """
        ...


# Makes an evaluator, or None where the configuration wants none.
Factory = Callable[[RunContext], Evaluator | None]


class Evaluators:
    """The evaluators of a run.

    Args:
      factories: make them, in the order in which they run.
      run: what was made before.

    Attributes:
      every_steps: {name: how often it is due}.

    Raises:
      UserError: the configuration wants probes or a forecast, and no factory makes them.
    """

    def __init__(self, factories: Sequence[Factory], run: RunContext):
        self._run, made = run, [factory(run) for factory in factories]
        self._all = [each for each in made if each is not None]
        self.every_steps = {each.name: each.every_steps for each in self._all}
        c, mine = run.config, {each.name for each in self._all}
        mine |= {"forecast" for each in self._all if hasattr(each, "forecast")}
        for name, key, wanted, off in (
            ("probe", "probes.every_steps", c.probes.every_steps, 0),
            ("forecast", "scaling.forecast", c.scaling.forecast, "''"),
        ):
            if wanted and name not in mine:
                raise UserError(
                    f"config.{key} is {wanted}, but this run was given no {name}s. Start it by"
                    " `python -m phenomjax.main`; or hand them over, as it does: train.run(config,"
                    " workdir, evaluators=main.evaluators_of(config)); or set"
                    f" --config.{key}={off}."
                )

    def run(
        self,
        step: int,
        state: TrainState,
        writers: Writers,
        names: Collection[str],
        stop: bool = False,
    ) -> tuple[dict[str, float], list[str]]:
        """Runs some of them, until a signal comes.

        Args:
          step: number of finished steps.
          state: at this step.
          writers: take what is found.
          names: of those that are due; one that this run no longer has is passed over.
          stop: a signal came before.

        Returns:
          (what was measured, names of those that are to be done again after the restart).
        """
        scores, redo = dict[str, float](), list[str]()
        for each in self._all:
            if each.name not in names:
                continue
            found = None
            if not stop and not redo:
                with self._run.phase("evaluation"):
                    found = each.run(state, step)
            if found is None:
                redo.append(each.name)
            else:
                scores |= writers.found(step, found)
        return scores, redo


class Validation:
    """Means over the held-out batches; the carry goes from batch to batch, as in training.

    Where a moving average of the parameters is judged, the parameters themselves are measured on
    the same batches, as `val/NAME_raw`.
    """

    name = "val"

    def __init__(self, run: RunContext, loader: Loader):
        self._run, self._loader, self._compiled = run, loader, False
        self.every_steps: int = run.config.eval.every_steps
        rows, _ = tasks.reading(run.config, "val")
        self._first_carry = functools.partial(run.task.carry, rows, "val")
        self._shardings = carry_shardings(jax.eval_shape(self._first_carry), run.mesh)
        shardings = run.everywhere, self._shardings
        self._evaluate = jax.jit(run.task.evaluate, out_shardings=shardings, donate_argnums=2)

    @classmethod
    def of(cls, run: RunContext) -> "Validation | None":
        """None where nothing is held out, or nothing is to be evaluated."""
        if run.val_loader is None or not run.config.eval.every_steps:
            return None
        return cls(run, run.val_loader)

    def run(self, state: TrainState, step: int) -> dict[str, float] | None:
        """Means over `eval.num_batches`, or all of the split."""
        c, run, measured = self._run.config, self._run, {"": self._run.judged(state)}
        if raw := run.raw(state):
            measured["_raw"] = raw
        first = jax.jit(self._first_carry, out_shardings=self._shardings)
        carries = {suffix: first() for suffix in measured}
        sums: dict[str, dict[str, np.ndarray]] = {
            suffix: collections.defaultdict(lambda: np.zeros(2)) for suffix in measured
        }
        for index in range(c.eval.num_batches or self._loader.steps_per_epoch):
            if messages.stop_requested():
                return None
            with (
                contextlib.nullcontext()
                if self._compiled
                else run.phase("compiling the evaluation", slow=True)
            ):
                batch = to_devices(self._loader.batch(index), run.rows)
                for suffix, params in measured.items():
                    result, carries[suffix] = self._evaluate(params, batch, carries[suffix])
                    for name, pair in jax.device_get(result).items():
                        sums[suffix][name] += np.array(pair, np.float64)
            self._compiled = True
            run.phase.alive()
        return {
            f"val/{name}{suffix}": value
            for suffix, pairs in sums.items()
            for name, value in tasks.means(pairs).items()
        }


class Figures:
    """Pictures of the first held-out items, or of the first ones of training where nothing is held
    out.
    """

    name = "figures"

    def __init__(self, run: RunContext):
        self._run, self._loader = run, run.val_loader or run.loader
        self.every_steps: int = run.config.figures.every_steps
        self._count: int = run.config.figures.num_images

    def run(self, state: TrainState, step: int) -> dict[str, Figure]:
        """Draws, in process 0; the others compute with it."""
        if not self._count:
            return {}
        run, local = self._run, self._loader.batch(0)
        with run.phase("drawing", slow=True):
            ids = local[self._loader.item_key][: self._count]
            # where there are fewer held-out items than these, the rest fills the batch
            told = local.get("weight", np.ones(len(ids)))[: self._count].reshape(len(ids), -1)
            names = self._loader.names(ids[: max(int(told.any(1).sum()), 1)])
            drawn = run.task.figure(run.judged(state), to_devices(local, run.rows), names)
        return drawn if messages.is_main() else {}


STANDARD: tuple[Factory, ...] = (Validation.of, Figures)
