"""The loop, read from top to bottom: set up, restore, step, log, evaluate, draw, save."""

import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from phenomjax import optim, sharding, tasks
from phenomjax import state as state_lib
from phenomjax.checkpoints import checkpointer, loading
from phenomjax.checkpoints.workdir import open_workdir, workdir_error
from phenomjax.cluster import messages
from phenomjax.cluster import start as cluster_start
from phenomjax.config import keys, stored
from phenomjax.step import jit_step
from phenomjax.system import versions
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.log import duration, log_to_file
from phenomjax.training import banner, metrics, rates
from phenomjax.training.divergence import Diverged
from phenomjax.training.evaluators import Evaluation
from phenomjax.training.feed import DeviceFeed
from phenomjax.training.goodput import FILE, Goodput, describe, process_began
from phenomjax.training.watchdog import Watchdog
from phenomjax.training.writers import open_writers

log = logging.getLogger("phenomjax")
own = log.getChild("process")  # what each process says into its own file


def run(config: ConfigDict, workdir: str | Path) -> int:
    """Trains until `num_steps`, or until a signal asks to stop.

    Args:
      config: from an experiment file; checked here.
      workdir: folder of the run; an interrupted run is continued in it.

    Returns:
      0 when the run is complete, 75 when it was stopped by a signal after saving.

    Raises:
      UserError: a mistake in the configuration, the data or the workdir; or divergence (exit code
        1).
    """
    config = keys.finalize(config)
    workdir = open_workdir(workdir)
    log_to_file(workdir / "logs" / f"process_{jax.process_index():03d}.log")
    own.info(
        "process %d of %d on %s (pid %d), %d device(s) of %d; SLURM job %s",
        jax.process_index(),
        jax.process_count(),
        socket.gethostname(),
        os.getpid(),
        jax.local_device_count(),
        jax.device_count(),
        os.environ.get("SLURM_JOB_ID", "none"),
    )
    config = tasks.resolve(config, workdir)
    if (workdir / "config.json").exists() or any((workdir / checkpointer.FOLDER).glob("*")):
        # Checkpoints without their config are an error of `load`: nobody could say whose they are.
        stored.check_same_run(config, stored.load(workdir / "config.json"), workdir)
    messages.barrier("configuration checked")  # before process 0 writes it
    try:
        return Trainer(config, workdir).run()
    except OSError as error:  # metrics, figures or a checkpoint on a full or read-only disk
        if told := workdir_error(error, workdir):
            raise told from error
        raise


class Trainer:
    """One run: everything that is made once, and the loop over it."""

    def __init__(self, config: ConfigDict, workdir: Path):
        self.config, self.workdir = config, workdir
        cluster_start.use_compilation_cache()
        self.mesh = sharding.make_mesh(config)
        self.task = tasks.make(config)
        block = sharding.row_block(self.mesh)
        self.loader = self.task.loader("train", *block)
        self.val_loader = self.task.loader("val", *block)
        self.first_row = block[0] * config.global_batch_size // block[1]
        self.rows, self.everywhere = (
            sharding.batch_sharding(self.mesh),
            NamedSharding(self.mesh, P()),
        )
        self.learning_rate = jax.jit(optim.schedule(config))
        self.tx = optim.make(config)
        self.compiled: dict[Any, Any] = {}
        self.rollbacks: list[dict[str, int]] = []
        # compilation is not part of a log line's rates; model FLOPs are
        self.compile_seconds = self.work = 0.0
        self.watchdog = Watchdog(config.watchdog.min_seconds, config.watchdog.slow_seconds)
        self.goodput = Goodput(workdir / FILE, _began(), messages.is_main())
        self.evaluation = Evaluation(
            self.task,
            config,
            self.loader,
            self.val_loader,
            self.rows,
            self.everywhere,
            self.watchdog,
        )
        self.started = time.monotonic()

    def run(self) -> int:
        """Restores or initialises, then trains, rolling back after divergence if the config says
        so.
        """
        with (
            jax.set_mesh(self.mesh),
            nn.logical_axis_rules(sharding.rules(self.config.mesh.preset)),
        ):
            spec = {
                name: jax.ShapeDtypeStruct(shape, dtype)
                for name, (shape, dtype) in self.loader.specs[0].items()
            }
            self.init, self.abstract, self.shards = state_lib.abstract(
                self.task, self.tx, self.config, self.mesh, spec
            )
            banner.banner(
                self.config,
                self.workdir,
                self.mesh,
                self.abstract,
                self.shards,
                self.task.flops(spec),
            )
            log.info("data: %s", self.loader.describe())
            log.info(
                "data: %s",
                (
                    self.val_loader.describe()
                    if self.val_loader
                    else "validation: none, nothing is held out"
                ),
            )
            self.checkpoints = checkpointer.Checkpointer(self.workdir, self.config)
            if messages.is_main():
                stored.save(self.config, self.workdir / "config.json")
                (self.workdir / "versions.json").write_text(
                    json.dumps(versions.versions(), indent=2) + "\n"
                )
            try:
                while True:
                    with self.watchdog.slow("restoring"):
                        state, meta = self.restore()
                    try:
                        return self.loop(state, meta)
                    except Diverged as error:
                        self.roll_back(error)
            finally:
                self.watchdog.stop()
                self.checkpoints.close()

    def restore(self) -> tuple[state_lib.TrainState, dict[str, Any]]:
        """The newest checkpoint, or random (or `init_from`) parameters."""
        step = self.checkpoints.newest_good()
        if step is not None:
            state, meta = self.checkpoints.restore(step, self.abstract)
            changed = [
                name
                for name, value in meta["data"].items()
                if self.loader.fingerprints.get(name, value) != value
            ]
            if changed or len(meta["data"]) != len(self.loader.fingerprints):
                raise UserError(
                    f"The data changed since {self.workdir} was saved at step {step}:"
                    f" {', '.join(changed) or 'another number of banks'} (checksum of metadata"
                    " differs). A run continues on the data it began with: restore that bank, or"
                    f" start a new --workdir, with --config.init_from={self.workdir} to begin from"
                    " these parameters."
                )
            self.rollbacks = max(self.rollbacks, meta["rollbacks"], key=len)
            log.info(
                "continuing at step %d from %s",
                step,
                self.workdir / checkpointer.FOLDER / str(step),
            )
            return state, meta
        key = jax.device_put(jax.random.key(self.config.seed), self.everywhere)
        state = jax.jit(self.init, out_shardings=self.shards)(key)
        if self.config.init_from:
            params = loading.load_params(self.config.init_from, self.abstract.params)
            # The average must be a copy of its own: the step donates both.
            ema = jax.tree.map(jnp.copy, params) if self.config.optimizer.ema_decay else ()
            state = state.replace(params=params, ema=ema)
        return state, {"window": None, "redo": []}

    def loop(self, state: state_lib.TrainState, meta: dict[str, Any]) -> int:
        """Steps from the state's step to the end; returns the exit code."""
        c, start = self.config, int(state.step)
        resumed = self.checkpoints.latest_step() is not None
        # an older checkpoint's name for it
        redo = meta.get("redo", ["val"] * meta.get("redo_eval", False))
        writers = open_writers(self.workdir, c, start if resumed else None, redo)
        window, pending = metrics.Window(meta["window"]), None
        key = jax.device_put(jax.random.key(c.seed), self.everywhere)
        if c.divergence.action == "rollback" and not resumed:
            self.save(state, window, {}, [])
        feed = DeviceFeed(self.loader, self.data_step, start, c.num_steps, self.rows)
        samples = self.open_samples(start)
        since, since_step, saved_at = time.perf_counter(), start, time.monotonic()
        self.goodput.begin(start)
        self.watchdog.beat(start)
        stop = False
        try:
            if redo:  # the run was stopped between this step and its evaluation
                stop = bool(self.measure(state, writers, redo, stop)[1])
                if not stop:
                    self.draw(state, writers)
            stop = stop or 0 < c.stop_at_step <= start < c.num_steps  # it was paused here before
            step = start
            while step < c.num_steps and not stop:
                self.watchdog.enter("data")
                with self.goodput.spent("data"):
                    position, batch, ids = next(feed)
                self.watchdog.enter("step")
                function, flops = self.step_function(state, batch)
                state, values = function(state, batch, key, np.uint32(position))
                step, self.work = step + 1, self.work + flops
                if step == start + 1:
                    begin = time.perf_counter()
                    jax.block_until_ready(values)
                    log.info(
                        "first step done, %.1f s after its dispatch", time.perf_counter() - begin
                    )
                    own.info("first step done: %d", step)
                if pending:
                    window.add(self.read(*pending))
                pending = (step, values, ids)
                self.watchdog.beat(step)
                self.checkpoints.check()
                if samples:
                    samples.write(
                        json.dumps({"step": step, "first_row": self.first_row, "ids": ids.tolist()})
                        + "\n"
                    )
                last = step == c.num_steps
                stop = messages.stop_requested() and not last
                # unlike a signal, it waits for the evaluation
                pause = step == c.stop_at_step and not last
                log_due = step % c.log.every_steps == 0 or last
                eval_due = (
                    self.val_loader is not None
                    and bool(c.eval.every_steps)
                    and (step % c.eval.every_steps == 0 or last)
                )
                probe_due = bool(c.probes.every_steps) and (
                    step % c.probes.every_steps == 0 or last
                )
                best_due = probe_due if c.checkpoint.best_metric.startswith("probe/") else eval_due
                draw_due = last or (
                    bool(c.figures.every_steps) and step % c.figures.every_steps == 0
                )
                save_due = (
                    step % c.checkpoint.every_steps == 0
                    or last
                    or (best_due and c.checkpoint.keep_best > 0)
                )
                if log_due and c.checkpoint.every_minutes and not save_due:
                    save_due = messages.agree(
                        time.monotonic() - saved_at > 60 * c.checkpoint.every_minutes
                    )
                if log_due or eval_due or probe_due or draw_due or save_due or stop or pause:
                    window.add(self.read(*pending))
                    pending = None
                if log_due:
                    now = time.perf_counter()
                    self.log_line(
                        writers, step, window.mean(), now - since, step - since_step, feed
                    )
                    since, since_step, feed.waited, self.work = now, step, 0.0, 0.0
                scores, redo = self.measure(
                    state, writers, ["val"] * eval_due + ["probe"] * probe_due, stop
                )
                stop = stop or bool(redo)
                if draw_due and not stop:
                    self.draw(state, writers)
                stop = stop or pause
                if save_due or stop:
                    for writer in (*writers, *([samples] if samples else [])):
                        writer.flush()
                    self.save(state, window, scores, redo)
                    saved_at = time.monotonic()
                if eval_due or probe_due or draw_due or save_due:
                    since, since_step, feed.waited, self.work = time.perf_counter(), step, 0.0, 0.0
                    self.compile_seconds = 0.0
            with self.goodput.spent("checkpoints"), self.watchdog.slow("writing a checkpoint"):
                self.checkpoints.wait()
        finally:
            if samples:
                samples.close()
            feed.close()
            for writer in writers:
                writer.close()
        return self.finish(int(state.step), stop)

    def data_step(self, step: int) -> int:
        """Position in the data of an optimiser step: the step itself, moved on by what roll-backs
        skipped.
        """
        return step + sum(r["skip"] for r in self.rollbacks if step >= r["at"])

    def step_function(
        self, state: state_lib.TrainState, batch: dict[str, jax.Array]
    ) -> tuple[Any, float]:
        """The compiled step for the shapes of this batch (one program for each channel set) and its
        model FLOPs.
        """
        shapes = tuple((name, x.shape, str(x.dtype)) for name, x in sorted(batch.items()))
        if shapes not in self.compiled:
            with self.goodput.spent("compilation"), self.watchdog.slow("compiling"):
                self.compiled[shapes] = self.compile(state, batch)
        return self.compiled[shapes]

    def compile(
        self, state: state_lib.TrainState, batch: dict[str, jax.Array]
    ) -> tuple[Any, float]:
        """Compiles the step for the shapes of a batch."""
        name, largest = max(batch.items(), key=lambda item: item[1].size)
        log.info("compiling the step for %s %s …", name, "x".join(map(str, largest.shape)))
        begin = time.perf_counter()
        jitted = jit_step(self.task, self.tx, self.config, self.mesh, self.shards)
        compiled = jitted.lower(state, batch, jax.random.key(0), np.uint32(0)).compile()
        memory = compiled.memory_analysis()
        need = (
            (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30
            if memory
            else float("nan")
        )
        flops = self.task.flops(batch)
        seconds = time.perf_counter() - begin
        log.info(
            "compiled in %.1f s: %.3g model FLOPs a step, %.2f GiB per device", seconds, flops, need
        )
        # The first collective of a program gives up when processes come more than half a minute
        # apart.
        messages.barrier("compiled", self.config.watchdog.slow_seconds)
        self.compile_seconds += time.perf_counter() - begin
        return compiled, flops

    def read(self, step: int, values: dict[str, jax.Array], ids: np.ndarray) -> dict[str, float]:
        """Fetches the metrics of a step and raises Diverged when they are not sound."""
        host = {name: float(x) for name, x in jax.device_get(values).items()}
        limit = self.config.divergence.max_grad_norm or np.inf
        if (
            not all(np.isfinite([host["train/loss"], host["train/grad_norm"]]))
            or host["train/grad_norm"] > limit
        ):
            raise Diverged(step, host, ids)
        return host

    def log_line(
        self,
        writers: list,
        step: int,
        means: dict[str, float],
        seconds: float,
        steps: int,
        feed: DeviceFeed,
    ) -> None:
        """One line on the screen and one in metrics.jsonl."""
        c = self.config
        seconds, self.compile_seconds = seconds - self.compile_seconds, 0.0
        rate = (
            steps * c.global_batch_size * self.loader.units_per_row / seconds
            if steps
            else float("nan")
        )
        wait = min(feed.waited / seconds, 1.0)
        unit = self.loader.unit
        means |= {
            "train/lr": float(self.learning_rate(step - 1)),
            f"perf/{unit}_per_s": rate,
            "perf/data_wait": wait,
        }
        if peak := rates.peak_flops():
            means["perf/mfu"] = self.work / seconds / peak
        if self.rollbacks:
            means["train/rollbacks"] = len(self.rollbacks)
        if self.loader.bad_items:
            means["data/bad_items"] = self.loader.bad_items
        left = duration((c.num_steps - step) * seconds / steps) if steps else "?"
        log.info(
            "step %d/%d  loss %.4f  grad norm %.3g  lr %.3g  %.4g %s/s  data wait %.0f %%  ETA %s",
            step,
            c.num_steps,
            means["train/loss"],
            means["train/grad_norm"],
            means["train/lr"],
            rate,
            unit,
            100 * wait,
            left,
        )
        means["perf/goodput"] = self.goodput.write(step)["goodput"]
        for writer in writers:
            writer.scalars(step, means)

    def measure(
        self, state: state_lib.TrainState, writers: list, due: list[str], stop: bool
    ) -> tuple[dict[str, float], list[str]]:
        """Evaluates ("val") and probes ("probe"); returns what was found, and what a signal (or
        `stop`, before) kept from being done.
        """
        scores: dict[str, float] = {}
        redo: list[str] = []
        for name in due:
            self.watchdog.beat(int(state.step), "evaluation")
            with self.goodput.spent("evaluation"):
                function = self.evaluation.evaluate if name == "val" else self.evaluation.probe
                found = None if stop or redo else function(state, writers)
            self.watchdog.enter("step")
            scores |= found or {}
            redo += [name] * (found is None)
        return scores, redo

    def draw(self, state: state_lib.TrainState, writers: list) -> None:
        """Writes figures."""
        with self.goodput.spent("evaluation"), self.watchdog.slow("drawing"):
            self.evaluation.draw(state, self.workdir, writers)

    def open_samples(self, start: int) -> Any:
        """The file of this process in which every step's items are recorded, or None."""
        if not self.config.log.sample_ids:
            return None
        return (self.workdir / "logs" / f"samples_{jax.process_index():03d}.jsonl").open("a")

    def save(
        self,
        state: state_lib.TrainState,
        window: metrics.Window,
        scores: dict[str, float],
        redo: list[str],
    ) -> None:
        """Starts writing a checkpoint."""
        meta = {
            "window": window.state(),
            "rollbacks": self.rollbacks,
            "redo": redo,
            "data": self.loader.fingerprints,
        }
        with self.goodput.spent("checkpoints"), self.watchdog.slow("saving"):
            self.checkpoints.save(int(state.step), state, meta, scores)

    def roll_back(self, error: Diverged) -> None:
        """Skips the window between the last good checkpoint and the bad step, or gives up.

        Raises:
          UserError: always with action "stop"; after `max_rollbacks` with action "rollback".
        """
        c, v = self.config, error.values
        ids = (
            np.ravel(multihost_utils.process_allgather(error.ids))
            if jax.process_count() > 1
            else error.ids
        )
        names = ", ".join(self.loader.names(ids[:8]))
        more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
        what = (
            f"Training diverged at step {error.step}: loss {v['train/loss']:.4g}, gradient norm"
            f" {v['train/grad_norm']:.4g}, learning rate"
            f" {float(self.learning_rate(error.step - 1)):.3g}; the batch held the"
            f" {self.loader.items} {names}{more}."
        )
        self.checkpoints.wait()
        good = self.checkpoints.latest_step()
        if c.divergence.action == "stop" or len(self.rollbacks) >= c.divergence.max_rollbacks:
            tried = f" after {len(self.rollbacks)} roll-backs" if self.rollbacks else ""
            raise UserError(
                f"{what} Stopped{tried}; the last good checkpoint is step {good} in {self.workdir}."
                " Usual mends: a lower --config.optimizer.learning_rate (now"
                f" {c.optimizer.learning_rate:g}), --config.optimizer.clip_norm=1.0,"
                " --config.divergence.action=rollback to skip such windows, or `python -m"
                " phenomjax.prepare inspect` of their bank.",
                EXIT_FAILED,
            )
        assert good is not None  # a roll-back run saves step 0
        self.rollbacks = [*self.rollbacks, {"at": good, "skip": error.step - good}]
        say = log if messages.is_main() else own  # all do the same; one says it on the screen
        say.warning(
            "%s Rolling back to step %d and skipping the data of %d steps (roll-back %d of at most"
            " %d).",
            what,
            good,
            error.step - good,
            len(self.rollbacks),
            c.divergence.max_rollbacks,
        )

    def finish(self, step: int, stopped: bool) -> int:
        """The last lines: what was written where, and what to do next."""
        best = self.checkpoints.best_step()
        log.info(
            "%s at step %d after %s",
            "stopped" if stopped else "done",
            step,
            duration(time.monotonic() - self.started),
        )
        log.info(
            "wrote %s: checkpoints of steps %s%s, metrics.jsonl, config.json, figures",
            self.workdir,
            self.checkpoints.steps(),
            "" if best is None else f" (best {self.config.checkpoint.best_metric}: {best})",
        )
        log.info("goodput: %s", describe(self.goodput.write(step), len(self.goodput.earlier) + 1))
        own.info("%s at step %d", "stopped" if stopped else "done", step)
        if stopped:
            log.info("run the same command again to continue at step %d", step)
            return EXIT_STOPPED
        log.info(
            "next: look at %s, or run `%s`",
            self.workdir / "figures",
            self.task.next_command(self.workdir),
        )
        return EXIT_DONE


def _began() -> float:
    """When this run's process began; a notebook's process is older than its run."""
    return process_began() if cluster_start.started() else time.time()
