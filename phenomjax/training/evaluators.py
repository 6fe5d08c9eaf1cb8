"""What the loop does now and then with the parameters: means over held-out batches, and figures."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from phenomjax.cluster import messages
from phenomjax.state import TrainState
from phenomjax.tasks import Loader, Task
from phenomjax.training.feed import to_devices
from phenomjax.training.watchdog import Watchdog

log = logging.getLogger("phenomjax")


class Evaluation:
    """Evaluates and draws, on all processes together.

    Args:
      task: the pretraining objective.
      config: of the run.
      loader: training data, drawn where nothing is held out.
      val_loader: held-out data, or None.
      rows, everywhere: shardings of a batch and of what all processes read.
      watchdog: told of each batch.
    """

    def __init__(
        self,
        task: Task,
        config: ConfigDict,
        loader: Loader,
        val_loader: Loader | None,
        rows: NamedSharding,
        everywhere: NamedSharding,
        watchdog: Watchdog,
    ):
        self.task, self.config, self.loader, self.val_loader = task, config, loader, val_loader
        self.rows, self.watchdog, self._compiled = rows, watchdog, False
        count = config.figures.num_images
        self.probes: Any = None
        if config.probes.every_steps:
            # The loop's only way up to what stands on trained models. Imported here, a run without
            # probes needs nothing of it.
            from phenomjax.probes.during_training import Probes

            self.probes = Probes(config, task)

        def arrays(params: Any, batch: Any) -> Any:
            return jax.tree.map(lambda x: x[:count], task.figure_arrays(params, batch))

        self._evaluate = jax.jit(task.evaluate, out_shardings=(everywhere, rows), donate_argnums=2)
        self._arrays = jax.jit(arrays, out_shardings=everywhere)

    def params(self, state: TrainState) -> Any:
        """The moving average where there is one."""
        return state.ema if self.config.optimizer.ema_decay else state.params

    def first_carry(self, split: str) -> Any:
        """The carry that a split starts from, on the devices."""
        carry = lambda: self.task.carry(self.config.global_batch_size, split)  # noqa: E731
        return jax.jit(carry, out_shardings=self.rows)()

    def evaluate(self, state: TrainState, writers: list) -> dict[str, float] | None:
        """Means over the held-out batches; None when a signal came in between (the evaluation is
        repeated after the restart).
        """
        assert self.val_loader is not None
        sums: dict[str, np.ndarray] = {}
        params, carry = self.params(state), self.first_carry("val")
        for index in range(self.config.eval.num_batches or self.val_loader.steps_per_epoch):
            if messages.stop_requested():
                return None
            with (
                contextlib.nullcontext()
                if self._compiled
                else self.watchdog.slow("compiling the evaluation")
            ):
                batch = to_devices(self.val_loader.batch(index), self.rows)
                result, carry = self._evaluate(params, batch, carry)
                result = jax.device_get(result)
            self._compiled = True
            for name, pair in result.items():
                sums[name] = sums.get(name, np.zeros(2)) + np.array(pair, np.float64)
            self.watchdog.beat(self.watchdog.step, "evaluation")
        means = {name: float(total / count) for name, (total, count) in sums.items()}
        means = {f"val/{name}": value for name, value in (means | self.task.derive(means)).items()}
        step = int(state.step)
        log.info(
            "step %d  %s", step, "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        )
        for writer in writers:
            writer.scalars(step, means)
        return means

    def probe(self, state: TrainState, writers: list) -> dict[str, float] | None:
        """Probes of the parameters as they are; None when a signal came in between (they are
        repeated after the restart).
        """
        # they were due when the run was stopped, and have been turned off since
        if self.probes is None:
            return {}
        step = int(state.step)
        with self.watchdog.slow("probing"):
            values = self.probes.measure(step, self.params(state))
        if values is None:
            return None
        log.info(
            "step %d  %s",
            step,
            "  ".join(
                f"{name} {value:.4f}"
                for name, value in values.items()
                if not name.endswith(("_low", "_high"))
            ),
        )
        for writer in writers:
            writer.scalars(step, values)
        return values

    def draw(self, state: TrainState, workdir: Path, writers: list) -> None:
        """Writes figures of the first held-out items."""
        loader, step = self.val_loader or self.loader, int(state.step)
        local = loader.batch(0)
        result = jax.device_get(self._arrays(self.params(state), to_devices(local, self.rows)))
        if not messages.is_main():
            return
        folder = workdir / "figures"
        folder.mkdir(exist_ok=True)
        names = loader.names(local[loader.item_key][: self.config.figures.num_images])
        for name, figure in self.task.figures(result, names).items():
            path = folder / f"{name}_{step:07d}.png"
            figure.savefig(path, dpi=110)
            log.info("wrote %s", path)
            for writer in writers:
                writer.figure(step, name, figure)
