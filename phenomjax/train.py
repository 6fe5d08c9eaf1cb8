"""The loop, read from top to bottom: set up, restore, step, log, evaluate, draw, save."""

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from phenomjax import checkpoint, cluster, metrics, optim, report, sharding, tasks
from phenomjax import config as config_lib
from phenomjax import state as state_lib
from phenomjax.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.feed import DeviceFeed, to_devices
from phenomjax.progress import duration
from phenomjax.step import make_step

log = logging.getLogger("phenomjax")


class Diverged(Exception):
    """A step gave a non-finite loss or too large a gradient."""

    def __init__(self, step: int, values: dict[str, float], ids: np.ndarray):
        super().__init__(step, values)
        self.step, self.values, self.ids = step, values, ids


def run(config: ConfigDict, workdir: str | Path) -> int:
    """Trains until `num_steps`, or until a signal asks to stop.

    Args:
      config: from an experiment file; checked here.
      workdir: folder of the run; an interrupted run is continued in it.

    Returns:
      0 when the run is complete, 75 when it was stopped by a signal after saving.

    Raises:
      UserError: a mistake in the configuration, the data or the workdir; or divergence (exit code 1).
    """
    config = config_lib.finalize(config)
    workdir = open_workdir(workdir)
    config = tasks.resolve(config, workdir)
    if (workdir / "config.json").exists() or any((workdir / checkpoint.FOLDER).glob("*")):
        # Checkpoints without their config are an error of `load`: nobody could say whose they are.
        config_lib.check_same_run(config, config_lib.load(workdir / "config.json"), workdir)
    return Trainer(config, workdir).run()


class Trainer:
    """One run: everything that is made once, and the loop over it."""

    def __init__(self, config: ConfigDict, workdir: Path):
        self.config, self.workdir = config, workdir
        _use_compilation_cache()
        self.mesh = sharding.make_mesh(config)
        self.task = tasks.make(config)
        self.loader = self.task.loader("train", jax.process_index(), jax.process_count())
        self.val_loader = self.task.loader("val", jax.process_index(), jax.process_count())
        self.rows, self.everywhere = sharding.batch_sharding(self.mesh), NamedSharding(self.mesh, P())
        self.learning_rate = optim.schedule(config)
        self.tx = optim.make(config)
        self.compiled: dict[Any, Any] = {}
        self.rollbacks: list[dict[str, int]] = []
        self.compile_seconds = self.work = 0.0  # compilation is not part of a log line's rates; model FLOPs are
        self.started = time.monotonic()

    def run(self) -> int:
        """Restores or initialises, then trains, rolling back after divergence if the config says so."""
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(sharding.rules(self.config.mesh.preset)):
            spec = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in self.loader.specs[0].items()}
            self.init, self.abstract, self.shards = state_lib.abstract(self.task, self.tx, self.config, self.mesh, spec)
            report.banner(self.config, self.workdir, self.mesh, self.abstract, self.shards, self.task.flops(spec))
            log.info("data: %s", self.loader.describe())
            log.info(
                "data: %s", self.val_loader.describe() if self.val_loader else "validation: none, nothing is held out"
            )
            self.checkpoints = checkpoint.Checkpointer(self.workdir, self.config)
            if cluster.is_main():
                config_lib.save(self.config, self.workdir / "config.json")
                (self.workdir / "versions.json").write_text(json.dumps(report.versions(), indent=2) + "\n")
            try:
                while True:
                    state, meta = self.restore()
                    try:
                        return self.loop(state, meta)
                    except Diverged as error:
                        self.roll_back(error)
            finally:
                self.checkpoints.close()

    def restore(self) -> tuple[state_lib.TrainState, dict[str, Any]]:
        """The newest checkpoint, or random (or `init_from`) parameters."""
        step = self.checkpoints.latest_step()
        if step is not None:
            state, meta = self.checkpoints.restore(step, self.abstract)
            changed = [
                name for name, value in meta["data"].items() if self.loader.fingerprints.get(name, value) != value
            ]
            if changed or len(meta["data"]) != len(self.loader.fingerprints):
                raise UserError(
                    f"The data changed since {self.workdir} was saved at step {step}: {', '.join(changed) or 'another number of banks'} (checksum of "
                    "metadata differs). A run continues on the data it began with: restore that bank, or start a new --workdir, with "
                    f"--config.init_from={self.workdir} to begin from these parameters."
                )
            self.rollbacks = max(self.rollbacks, meta["rollbacks"], key=len)
            log.info("continuing at step %d from %s", step, self.workdir / checkpoint.FOLDER / str(step))
            return state, meta
        key = jax.device_put(jax.random.key(self.config.seed), self.everywhere)
        state = jax.jit(self.init, out_shardings=self.shards)(key)
        if self.config.init_from:
            params = checkpoint.load_params(self.config.init_from, self.abstract.params)
            # The average must be a copy of its own: the step donates both.
            ema = jax.tree.map(jnp.copy, params) if self.config.optimizer.ema_decay else ()
            state = state.replace(params=params, ema=ema)
        return state, {"window": None, "redo_eval": False}

    def loop(self, state: state_lib.TrainState, meta: dict[str, Any]) -> int:
        """Steps from the state's step to the end; returns the exit code."""
        c, start = self.config, int(state.step)
        resumed = self.checkpoints.latest_step() is not None
        writers = metrics.writers(self.workdir, c, start if resumed else None, meta["redo_eval"])
        window, pending, val_loss = metrics.Window(meta["window"]), None, None
        key = jax.device_put(jax.random.key(c.seed), self.everywhere)
        if c.divergence.action == "rollback" and not resumed:
            self.save(state, window, None, redo_eval=False)
        feed = DeviceFeed(self.loader, self.data_step, start, c.num_steps, self.rows)
        since, since_step, saved_at = time.perf_counter(), start, time.monotonic()
        redo_eval, stop = meta["redo_eval"], False
        try:
            if redo_eval:  # the run was stopped between this step and its evaluation
                val_loss = self.evaluate(state, writers)
                stop = val_loss is None
                if not stop:
                    self.draw(state, start, writers)
            step = start
            while step < c.num_steps and not stop:
                position, batch, ids = next(feed)
                function, flops = self.step_function(state, batch)
                state, values = function(state, batch, key, np.uint32(position))
                step, self.work = step + 1, self.work + flops
                if step == start + 1:
                    begin = time.perf_counter()
                    jax.block_until_ready(values)
                    log.info("first step done, %.1f s after its dispatch", time.perf_counter() - begin)
                if pending:
                    window.add(self.read(*pending))
                pending, val_loss = (step, values, ids), None
                last = step == c.num_steps
                stop = cluster.stop_requested() and not last
                log_due = step % c.log.every_steps == 0 or last
                eval_due = (
                    self.val_loader is not None
                    and bool(c.eval.every_steps)
                    and (step % c.eval.every_steps == 0 or last)
                )
                draw_due = last or (bool(c.figures.every_steps) and step % c.figures.every_steps == 0)
                save_due = step % c.checkpoint.every_steps == 0 or last or (eval_due and c.checkpoint.keep_best > 0)
                if log_due and c.checkpoint.every_minutes and not save_due:
                    save_due = cluster.agree(time.monotonic() - saved_at > 60 * c.checkpoint.every_minutes)
                if log_due or eval_due or draw_due or save_due or stop:
                    window.add(self.read(*pending))
                    pending = None
                if log_due:
                    now = time.perf_counter()
                    self.log_line(writers, step, window.mean(), now - since, step - since_step, feed)
                    since, since_step, feed.waited, self.work = now, step, 0.0, 0.0
                redo_eval = eval_due and stop
                if eval_due and not stop:
                    val_loss = self.evaluate(state, writers)
                    redo_eval = stop = val_loss is None  # a signal came while evaluating
                if draw_due and not stop:
                    self.draw(state, step, writers)
                if save_due or stop:
                    for writer in writers:
                        writer.flush()
                    self.save(state, window, val_loss, redo_eval)
                    saved_at = time.monotonic()
                if eval_due or draw_due or save_due:
                    since, since_step, feed.waited, self.work = time.perf_counter(), step, 0.0, 0.0
                    self.compile_seconds = 0.0
            self.checkpoints.wait()
        finally:
            feed.close()
            for writer in writers:
                writer.close()
        return self.finish(int(state.step), stop)

    def data_step(self, step: int) -> int:
        """Position in the data of an optimiser step: the step itself, moved on by what roll-backs skipped."""
        return step + sum(r["skip"] for r in self.rollbacks if step >= r["at"])

    def step_function(self, state: state_lib.TrainState, batch: dict[str, jax.Array]) -> tuple[Any, float]:
        """The compiled step for the shapes of this batch (one program for each channel set) and its model FLOPs."""
        shapes = tuple((name, x.shape, str(x.dtype)) for name, x in sorted(batch.items()))
        if shapes not in self.compiled:
            name, largest = max(batch.items(), key=lambda item: item[1].size)
            log.info("compiling the step for %s %s …", name, "x".join(map(str, largest.shape)))
            begin = time.perf_counter()
            step = make_step(self.task, self.tx, self.config)
            jitted = jax.jit(
                step, in_shardings=(self.shards, self.rows, self.everywhere, self.everywhere), out_shardings=(self.shards, self.everywhere),
                donate_argnums=0,
            )  # fmt: skip
            compiled = jitted.lower(state, batch, jax.random.key(0), np.uint32(0)).compile()
            memory = compiled.memory_analysis()
            need = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30 if memory else float("nan")
            flops = self.task.flops(batch)
            seconds = time.perf_counter() - begin
            log.info("compiled in %.1f s: %.3g model FLOPs a step, %.2f GiB per device", seconds, flops, need)
            self.compiled[shapes] = (compiled, flops)
            self.compile_seconds += time.perf_counter() - begin
        return self.compiled[shapes]

    def read(self, step: int, values: dict[str, jax.Array], ids: np.ndarray) -> dict[str, float]:
        """Fetches the metrics of a step and raises Diverged when they are not sound."""
        host = {name: float(x) for name, x in jax.device_get(values).items()}
        limit = self.config.divergence.max_grad_norm or np.inf
        if not all(np.isfinite([host["train/loss"], host["train/grad_norm"]])) or host["train/grad_norm"] > limit:
            raise Diverged(step, host, ids)
        return host

    def log_line(
        self, writers: list, step: int, means: dict[str, float], seconds: float, steps: int, feed: DeviceFeed
    ) -> None:
        """One line on the screen and one in metrics.jsonl."""
        c = self.config
        seconds, self.compile_seconds = seconds - self.compile_seconds, 0.0
        rate = steps * c.global_batch_size * self.loader.units_per_row / seconds if steps else float("nan")
        wait = min(feed.waited / seconds, 1.0)
        unit = self.loader.unit
        means |= {"train/lr": float(self.learning_rate(step - 1)), f"perf/{unit}_per_s": rate, "perf/data_wait": wait}
        if peak := metrics.peak_flops():
            means["perf/mfu"] = self.work / seconds / peak
        if self.rollbacks:
            means["train/rollbacks"] = len(self.rollbacks)
        if self.loader.bad_items:
            means["data/bad_items"] = self.loader.bad_items
        left = duration((c.num_steps - step) * seconds / steps) if steps else "?"
        log.info("step %d/%d  loss %.4f  grad norm %.3g  lr %.3g  %.4g %s/s  data wait %.0f %%  ETA %s", step, c.num_steps,
                 means["train/loss"], means["train/grad_norm"], means["train/lr"], rate, unit, 100 * wait, left)  # fmt: skip
        for writer in writers:
            writer.scalars(step, means)

    def evaluate(self, state: state_lib.TrainState, writers: list) -> float | None:
        """Means over the held-out batches; None when a signal came in between (the evaluation is repeated after the restart)."""
        sums: dict[str, np.ndarray] = {}
        function = self.cached(
            "evaluate",
            lambda: jax.jit(self.task.evaluate, out_shardings=(self.everywhere, self.rows), donate_argnums=2),
        )
        params = state.ema if self.config.optimizer.ema_decay else state.params
        carry = self.first_carry("val")
        for index in range(self.config.eval.num_batches or self.val_loader.steps_per_epoch):
            if cluster.stop_requested():
                return None
            batch = to_devices(self.val_loader.batch(index), self.rows)
            result, carry = function(params, batch, carry)
            for name, pair in jax.device_get(result).items():
                sums[name] = sums.get(name, np.zeros(2)) + np.array(pair, np.float64)
        means = {name: float(total / count) for name, (total, count) in sums.items()}
        means = {f"val/{name}": value for name, value in (means | self.task.derive(means)).items()}
        step = int(state.step)
        log.info("step %d  %s", step, "  ".join(f"{name} {value:.4f}" for name, value in means.items()))
        for writer in writers:
            writer.scalars(step, means)
        return means["val/loss"]

    def draw(self, state: state_lib.TrainState, step: int, writers: list) -> None:
        """Writes figures of the first held-out images."""
        count = self.config.figures.num_images

        def arrays(params: Any, batch: Any) -> Any:
            return jax.tree.map(lambda x: x[:count], self.task.figure_arrays(params, batch))

        function = self.cached("figures", lambda: jax.jit(arrays, out_shardings=self.everywhere))
        loader = self.val_loader or self.loader
        local = loader.batch(0)
        batch = to_devices(local, self.rows)
        result = jax.device_get(function(state.ema if self.config.optimizer.ema_decay else state.params, batch))
        if not cluster.is_main():
            return
        folder = self.workdir / "figures"
        folder.mkdir(exist_ok=True)
        for name, figure in self.task.figures(result, loader.names(local[loader.item_key][:count])).items():
            path = folder / f"{name}_{step:07d}.png"
            figure.savefig(path, dpi=110)
            log.info("wrote %s", path)
            for writer in writers:
                writer.figure(step, name, figure)

    def first_carry(self, split: str) -> Any:
        """The carry that a split starts from, on the devices."""
        carry = lambda: self.task.carry(self.config.global_batch_size, split)  # noqa: E731
        return jax.jit(carry, out_shardings=self.rows)()

    def cached(self, name: str, make: Callable[[], Any]) -> Any:
        """A jitted function that is made once."""
        if name not in self.compiled:
            self.compiled[name] = make()
        return self.compiled[name]

    def save(
        self, state: state_lib.TrainState, window: metrics.Window, val_loss: float | None, redo_eval: bool
    ) -> None:
        """Starts writing a checkpoint."""
        meta = {
            "window": window.state(),
            "rollbacks": self.rollbacks,
            "redo_eval": redo_eval,
            "data": self.loader.fingerprints,
        }
        self.checkpoints.save(int(state.step), state, meta, val_loss)

    def roll_back(self, error: Diverged) -> None:
        """Skips the window between the last good checkpoint and the bad step, or gives up.

        Raises:
          UserError: always with action "stop"; after `max_rollbacks` with action "rollback".
        """
        c, v = self.config, error.values
        names = ", ".join(self.loader.names(error.ids[:8]))
        more = f" and {len(error.ids) - 8} more" if len(error.ids) > 8 else ""
        what = (
            f"Training diverged at step {error.step}: loss {v['train/loss']:.4g}, gradient norm {v['train/grad_norm']:.4g}, learning rate "
            f"{float(self.learning_rate(error.step - 1)):.3g}; the batch held the {self.loader.items} {names}{more}."
        )
        self.checkpoints.wait()
        good = self.checkpoints.latest_step()
        if c.divergence.action == "stop" or len(self.rollbacks) >= c.divergence.max_rollbacks:
            tried = f" after {len(self.rollbacks)} roll-backs" if self.rollbacks else ""
            raise UserError(
                f"{what} Stopped{tried}; the last good checkpoint is step {good} in {self.workdir}. Usual mends: a lower "
                f"--config.optimizer.learning_rate (now {c.optimizer.learning_rate:g}), --config.optimizer.clip_norm=1.0, "
                "--config.divergence.action=rollback to skip such windows, or `python -m phenomjax.prepare inspect` of their bank.",
                EXIT_FAILED,
            )
        assert good is not None  # a roll-back run saves step 0
        self.rollbacks = [*self.rollbacks, {"at": good, "skip": error.step - good}]
        log.warning("%s Rolling back to step %d and skipping the data of %d steps (roll-back %d of at most %d).", what, good,
                    error.step - good, len(self.rollbacks), c.divergence.max_rollbacks)  # fmt: skip

    def finish(self, step: int, stopped: bool) -> int:
        """The last lines: what was written where, and what to do next."""
        best = self.checkpoints.best_step()
        log.info(
            "%s at step %d after %s",
            "stopped by a signal" if stopped else "done",
            step,
            duration(time.monotonic() - self.started),
        )
        log.info("wrote %s: checkpoints of steps %s%s, metrics.jsonl, config.json, figures", self.workdir, self.checkpoints.steps(),
                 "" if best is None else f" (lowest val/loss: {best})")  # fmt: skip
        if stopped:
            log.info("run the same command again to continue at step %d", step)
            return EXIT_STOPPED
        log.info("next: look at %s, or run `%s`", self.workdir / "figures", self.task.next_command(self.workdir))
        return EXIT_DONE


def open_workdir(workdir: str | Path) -> Path:
    """Makes the folder of the run and writes a probe into it: a save that fails later would cost the run.

    Raises:
      UserError: it cannot be made or written.
    """
    path = Path(workdir).absolute()
    probe = path / f".probe-{jax.process_index()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_text("probe")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--workdir {path} cannot be written ({error.strerror or error}). Give a folder on a disk with space that you own."
        ) from None
    return path


def _use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless the user chose a folder or several CPU processes would disagree about it."""
    if jax.config.jax_compilation_cache_dir is None and not (
        jax.default_backend() == "cpu" and jax.process_count() > 1
    ):
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/phenomjax/xla"))
