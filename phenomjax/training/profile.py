"""Records some steps with `jax.profiler`, as `config.profile` says: the trace for xprof and
Perfetto, and a small table of where the time went.
"""

import dataclasses
import logging
import shutil
import time

import jax
from jax.profiler import ProfileOptions, StepTraceAnnotation

from phenomjax.cluster import messages
from phenomjax.state import TrainState
from phenomjax.system import files
from phenomjax.system.errors import UserError
from phenomjax.system.log import table
from phenomjax.training import trace
from phenomjax.training.context import RunContext

log = logging.getLogger("phenomjax")


class Profile:
    """Records the steps from `profile.start_step` on, in the processes that are to.

    WORKDIR/profile/plugins/profile/steps_A_B holds process_*.xplane.pb and .trace.json.gz, as
    TensorBoard wants them; WORKDIR/profile/steps_A_B_process_*.json the numbers of the table.

    Args:
      run: that is recorded.
      start: number of steps that are finished already.

    Raises:
      UserError: the run has no such process.
    """

    def __init__(self, run: RunContext, start: int):
        c = run.config.profile
        self._run, self._recording = run, False
        self._step: StepTraceAnnotation | None = None
        self._first, self._last = max(c.start_step, start + 1), c.start_step + c.num_steps - 1
        lacking = [process for process in c.processes if process >= jax.process_count()]
        if c.start_step and lacking:
            raise UserError(
                f"config.profile.processes names {lacking[0]}, but this run has"
                f" {jax.process_count()} process(es), counted from 0. Set"
                ' --config.profile.processes="(0,)", or "()" for all.'
            )
        self._mine = bool(c.start_step) and jax.process_index() in (
            c.processes or range(jax.process_count())
        )
        if c.start_step and self._last <= start:
            log.warning(
                "nothing is profiled: config.profile asks for steps %d to %d, and this run goes on"
                " at step %d. Set --config.profile.start_step=%d or later.",
                c.start_step,
                self._last,
                start + 1,
                start + 1,
            )

    def next(self, step: int, state: TrainState) -> None:
        """The next step begins: begins or ends the recording, if it is time to.

        Args:
          step: number of steps that are finished or under way.
          state: after these.
        """
        last = self._recording and step >= self._last
        if last:  # what this step began belongs to it
            jax.block_until_ready(state)
        self._end_step()
        if last:
            self._end(step)
        if self._mine and not self._recording and self._first <= step + 1 <= self._last:
            jax.block_until_ready(state)
            self._begin(step + 1)
        if self._recording:
            self._step = StepTraceAnnotation(trace.STEP, step_num=step + 1)
            self._step.__enter__()
            self._at = step + 1

    def close(self) -> None:
        """Ends the recording where the loop ends before it."""
        self._end_step()
        if self._recording:
            self._end(self._at)

    def _end_step(self) -> None:
        if self._step:
            self._step.__exit__(None, None, None)
            self._step = None

    def _begin(self, first: int) -> None:
        self._first, self._folder = first, self._run.workdir / "profile"
        self._partial = self._folder / f".process_{jax.process_index():03d}"
        options = ProfileOptions()
        options.python_tracer_level = 0  # a call of every function would be most of the trace
        with self._run.phase("profile", slow=True):
            jax.profiler.start_trace(self._partial, profiler_options=options)
        self._recording = True

    def _end(self, last: int) -> None:
        """Writes the trace under its name and reads it."""
        self._recording, self._mine, begin = False, False, time.perf_counter()
        steps = f"steps_{self._first}_{last}"
        process = f"process_{jax.process_index():03d}"
        with self._run.phase("profile", slow=True):
            jax.profiler.stop_trace()
            place = self._folder / "plugins" / "profile" / steps
            place.mkdir(parents=True, exist_ok=True)
            for path in self._partial.rglob("*.*"):
                for ending in (".xplane.pb", ".trace.json.gz"):
                    if path.name.endswith(ending):
                        path.replace(place / (process + ending))
            shutil.rmtree(self._partial)
            found = trace.read(place / f"{process}.xplane.pb")
            say = log if messages.is_main() else log.getChild("process")
            if found is None:
                say.warning(
                    "the trace in %s holds no operation of a device. On a GPU the usual cause is"
                    " that only root may profile (NVreg_RestrictProfilingToAdminUsers), or another"
                    " profiler at work.",
                    place,
                )
                return
            files.write_json(self._folder / f"{steps}_{process}.json", dataclasses.asdict(found))
            say.info(
                "%s\nto look at it: `xprof --logdir %s` (pip install xprof), or %s at"
                " https://ui.perfetto.dev; written in %.1f s",
                described(found, self._first, last),
                self._folder,
                place / f"{process}.trace.json.gz",
                time.perf_counter() - begin,
            )


def described(found: trace.Shares, first: int, last: int) -> str:
    """The table for the log."""
    rows = {
        "compute": found.compute,
        "collectives": found.collectives,
        "input wait": found.input_wait,
        **found.phases,
        "host": found.host,
    }
    shown = [
        [name, f"{1e3 * seconds:.2f}", f"{100 * seconds / found.seconds:.1f} %"]
        for name, seconds in rows.items()
        if seconds > 0 or name not in found.phases
    ]
    operations = [
        [each.name, f"{1e3 * each.seconds:.2f}", f"{each.count:g} x"] for each in found.largest
    ]
    hidden = (
        f"; collectives took {1e3 * found.hidden:.2f} ms more beside compute"
        if found.hidden
        else ""
    )
    return (
        f"profile of steps {first} to {last}, process {jax.process_index()}: where the time of"
        f" {', '.join(found.devices)} went{hidden}\n"
        + table(["", "ms a step", "share"], shown)
        + "\nlargest operations:\n"
        + table(["", "ms a step", "a step"], operations)
    )
