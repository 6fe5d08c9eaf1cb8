"""The loop, read from top to bottom: set up, restore, step, log, evaluate, save."""

import functools
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from phenomjax import optim, sharding, tasks
from phenomjax import state as state_lib
from phenomjax.checkpoints import checkpointer, init_from
from phenomjax.checkpoints.workdir import open_workdir, workdir_error
from phenomjax.cluster import messages, ownership
from phenomjax.cluster.start import use_compilation_cache
from phenomjax.config import keys, stored
from phenomjax.state import TrainState
from phenomjax.step import Programs
from phenomjax.system import files
from phenomjax.system.log import log_to_file
from phenomjax.system.versions import versions
from phenomjax.training import banner, branch, course, lr_find, memory_use, schedule
from phenomjax.training.context import RunContext, make_context
from phenomjax.training.divergence import Diverged, Readings, RollBacks
from phenomjax.training.evaluators import STANDARD, Evaluators, Factory
from phenomjax.training.feed import DeviceFeed, check_same_data
from phenomjax.training.keeping import Keeping
from phenomjax.training.metrics import Window
from phenomjax.training.profile import Profile
from phenomjax.training.rates import Lap, Rates
from phenomjax.training.stopping import EarlyStop
from phenomjax.training.stragglers.pace import Pace
from phenomjax.training.writers.opening import open_writers


def run(config: ConfigDict, workdir: str | Path, evaluators: Sequence[Factory] = STANDARD) -> int:
    """Trains until `num_steps`, or until a signal asks to stop.

    Args:
      config: from an experiment file; checked here.
      workdir: folder of the run; an interrupted run is continued in it.
      evaluators: make what is measured and drawn now and then: validation and figures, if not
        given.

    Returns:
      0 when the run is complete, 75 when it was stopped by a signal after saving.

    Raises:
      UserError: a mistake in the configuration, the data or the workdir; or divergence (exit code
        1).
    """
    config, folder = keys.finalize(config), Path(workdir).absolute()
    if config.lr_find:
        folder /= lr_find.FOLDER
    with ownership.owned(folder):
        return _run(config, open_workdir(folder), evaluators)


def _run(config: ConfigDict, workdir: Path, evaluators: Sequence[Factory]) -> int:
    """The same in a folder that is this run's own."""
    log_to_file(workdir / "logs" / f"process_{jax.process_index():03d}.log")
    banner.this_process()
    init_from.look(config, workdir)
    config = init_from.resolve(tasks.resolve(config, workdir), workdir)
    config = branch.begin(config, workdir)
    config = course.going_on(config, workdir)
    messages.barrier("configuration checked")  # before process 0 writes it
    try:
        use_compilation_cache()
        return Trainer(make_context(config, workdir), evaluators).run()
    except OSError as error:  # metrics, figures or a checkpoint on a full or read-only disk
        if told := workdir_error(error, workdir):
            raise told from error
        raise


class Trainer:
    """One run: everything that is made once, and the loop over it."""

    def __init__(self, run: RunContext, evaluators: Sequence[Factory]):
        self.context, self.config, self.task, self.loader = run, run.config, run.task, run.loader
        self.phase, self.tx = run.phase, optim.make(run.config)
        self.learning_rate = jax.jit(optim.schedule(run.config))
        self.roll_backs = RollBacks(run, self.learning_rate)
        self.evaluators = Evaluators(evaluators, run)
        self.early = EarlyStop(run.config, self.evaluators.every_steps)

    def run(self) -> int:
        """Restores or initialises, then trains; after divergence rolls back, if it may."""
        c, run = self.config, self.context
        with jax.set_mesh(run.mesh), nn.logical_axis_rules(sharding.rules(c.mesh.preset)):
            self.init, self.abstract, self.shards = state_lib.abstract(
                self.task, self.tx, c, run.mesh, run.spec
            )
            banner.first_lines(run, self.abstract, self.shards)
            compiling = functools.partial(self.phase, "compiling", slow=True)
            self.programs = Programs(self.task, self.tx, c, run.mesh, self.shards, compiling)
            if c.lr_find:
                with run.watchdog:
                    return lr_find.find(run, self.programs, self.fresh(), self.learning_rate)
            if messages.is_main():
                stored.save(c, run.workdir / "config.json")
                files.write_json(run.workdir / "versions.json", versions())
                run.size(self.abstract.params).write(run.workdir)
            self.checkpoints = checkpointer.Checkpointer(run.workdir, c)
            made = self.abstract, self.shards, self.programs, self.checkpoints
            with closing(self.checkpoints), run.watchdog, memory_use.explained(run, *made):
                while True:
                    with self.phase("restoring", slow=True):
                        state, memory = self.restore()
                    try:
                        return self.loop(state, memory)
                    except Diverged as error:
                        self.checkpoints.wait()
                        self.roll_backs.go_back(error, self.checkpoints.latest_step())

    def restore(self) -> tuple[TrainState, Mapping[str, Any]]:
        """The newest checkpoint, or what the run begins with; and what `save` kept."""
        found = self.checkpoints.resume(self.abstract)
        if found is not None:
            state, memory = found
            step = int(state.step)
            check_same_data(self.loader, memory["data"], self.context.workdir, step)
            self.roll_backs.done = max(self.roll_backs.done, memory["rollbacks"], key=len)
            banner.continuing(step, self.checkpoints.source)
            return state, memory
        if self.config.continue_from:
            state, memory = branch.restore(self.context, self.checkpoints, self.tx, self.abstract)
            self.roll_backs.done = memory["rollbacks"]
            return state, memory
        # what is due before the first step is as good as not yet done
        redo = ["val", "probe"] * self.config.eval.at_start
        return self.fresh(), {"window": None, "redo": redo}

    def fresh(self) -> TrainState:
        """The state before the first step: random parameters, or those of `init_from`."""
        key = jax.device_put(jax.random.key(self.config.seed), self.context.everywhere)
        state = jax.jit(self.init, out_shardings=self.shards)(key)
        if self.config.init_from:
            parts = getattr(self.task, "begins_with", ())
            state, told = init_from.begun(state, self.abstract, parts, self.config)
            init_from.write(told, self.context.workdir)
        return state

    def loop(self, state: TrainState, memory: Mapping[str, Any]) -> int:
        """Steps from the state's step to the end; returns the exit code."""
        c, run, start = self.config, self.context, int(state.step)
        step, redo = start, memory.get("redo", [])
        resumed = bool(self.checkpoints.source)
        key = jax.device_put(jax.random.key(c.seed), run.everywhere)
        self.early.restore(memory.get("early", {}))
        readings = Readings(Window(memory["window"]), c.divergence.max_grad_norm)
        writers = open_writers(run, start if resumed else None, redo)
        first, count = self.roll_backs.data_step(start), c.num_steps - start
        feed = DeviceFeed(self.loader, first, count, run.rows)
        profile = Profile(run, start)
        self.pace = Pace(run, readings, self.programs, len(self.roll_backs.done))
        with (
            closing(writers) as self.writers,
            closing(feed),
            closing(profile),
            closing(self.pace),
        ):
            rates, window = Rates(run.goodput), readings.window
            keep = Keeping(run, self.checkpoints, writers, window, self.roll_backs, self.early)
            run.goodput.begin(start)
            self.phase.beat(start)
            # The run was stopped between this step and these evaluators, or it was paused here.
            scores, redo = self.evaluators.run(step, state, writers, redo)
            enough = self.early.reason(step, scores)
            if not resumed and (scores or c.continue_from or c.divergence.action == "rollback"):
                keep.save(step, state, scores, redo)
            stop = bool(redo) or (0 < c.stop_at_step <= step < c.num_steps and not enough)
            while step < c.num_steps and not stop and not enough:
                profile.next(step, state)
                with self.phase("data"):
                    position, batch, ids = next(feed)
                rows = len(batch[self.loader.item_key])
                state = state_lib.with_rows(state, rows, self.task, run.mesh)  # they may grow
                program = self.programs.get(state, batch)
                state, values = program.step(state, batch, key, np.uint32(position))
                step += 1
                if step == start + 1:
                    banner.first_step(step, values)
                readings.next(step, values, ids)
                self.phase.beat(step)
                rates.step(program.flops, rows)
                self.pace.step(step)
                self.checkpoints.check()
                writers.samples(step, ids)
                every = self.evaluators.every_steps
                due = schedule.due(step, c, every, messages.stop_requested())
                if not due.anything:
                    continue
                readings.catch_up()
                ownership.confirm()
                if due.log:
                    self.log(step, window.mean(), rates.lap())
                names = due.evaluators
                scores, redo = self.evaluators.run(step, state, writers, names, due.stop)
                if enough := self.early.reason(step, scores):  # the rest of what is due at the end
                    if not due.log:
                        self.log(step, window.mean(), rates.lap())
                    rest = every.keys() - set(names)
                    more, later = self.evaluators.run(step, state, writers, rest, bool(redo))
                    scores, redo = scores | more, redo + later
                stop = due.stop or bool(redo) or (due.pause and not enough)
                if due.save or stop or enough or (due.ask_clock and keep.minutes_are_over()):
                    keep.save(step, state, scores, redo)
                if due.copy and not stop:
                    keep.copy(step, state)
                rates.restart()
                self.pace.restart()
            writers.done = not stop
            with self.phase("writing a checkpoint", slow=True):
                self.checkpoints.wait()
        return banner.last_lines(run, self.checkpoints, step, stop, enough)

    def log(self, step: int, means: dict[str, float], lap: Lap) -> None:
        """Says and writes the metrics of the steps since the last time."""
        values = means | {"train/lr": float(self.learning_rate(step - 1))}
        values |= lap.metrics(self.loader.unit, self.loader.units_per_row) | self.pace.metrics
        values |= memory_use.metrics()
        if self.roll_backs.done:
            values["train/rollbacks"] = len(self.roll_backs.done)
        if self.loader.bad_items:
            values["data/bad_items"] = self.loader.bad_items
        banner.step_line(self.context, step, values, lap)
        values["perf/goodput"] = self.context.goodput.write(step)["goodput"]
        self.writers.scalars(step, values)
