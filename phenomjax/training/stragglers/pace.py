"""How the steps of each process go by, and what the processes tell each other of it.

The training thread only notes times. A thread beside it hands them to the key-value store of the
run's processes; that of process 0 also reads those of all others, judges, and asks all to look at
their devices for some steps.
"""

import contextlib
import json
import logging
import queue
import threading
import time
from typing import NamedTuple, TypeVar

import jax

from phenomjax.cluster import messages
from phenomjax.step import Programs
from phenomjax.training.context import RunContext
from phenomjax.training.divergence import Readings
from phenomjax.training.stragglers import judging, looking
from phenomjax.training.stragglers.judging import Judge, Report, Straggler, Window

log = logging.getLogger("phenomjax")
own = log.getChild("process")
Kept = TypeVar("Kept")
KEPT = 8  # windows and looks that a process tells again, in case one word of it was not heard


class Passed(NamedTuple):
    """A step that a window ends with, or that was asked for.

    Attributes:
      step: which one.
      at: when it was done, in ns since the epoch.
      window: of the steps before, or None.
    """

    step: int
    at: int
    window: Window | None


class Pace:
    """Notes how the steps of this process go by, until it is closed.

    Args:
      run: that is watched, as `config.stragglers` says.
      readings, programs: of it, which know how long the devices were waited for.
      number: of the loop, another one after a roll-back.

    Attributes:
      metrics: for the log of process 0.
      marks: steps whose time is asked for.
      passed: what the thread reads.
    """

    def __init__(self, run: RunContext, readings: Readings, programs: Programs, number: int):
        self._spent, self._readings, self._programs = run.goodput.seconds, readings, programs
        self._cpu = jax.default_backend() == "cpu"  # which may compute where it is called
        self.metrics: dict[str, float] = {}
        self.marks: frozenset[int] = frozenset()
        self.passed: queue.SimpleQueue[Passed | None] = queue.SimpleQueue()
        self._sums, self._count = [0.0, 0.0, 0.0], 0
        self._before: tuple[float, float, float] | None = None  # the first step compiles
        gpus = 1 if self._cpu else jax.local_device_count()
        self._thread: threading.Thread | None = None
        if run.config.stragglers.watch != "off" and jax.process_count() * gpus > 1:
            talk = _Talk(self, run, number)
            self._thread = threading.Thread(target=talk.run, daemon=True, name="stragglers")
            self._thread.start()

    def restart(self) -> None:
        """Something else than steps went before, which does not count."""
        self._before = self._now()

    def step(self, step: int) -> None:
        """A step is done."""
        if not self._thread:
            return
        now, before = self._now(), self._before
        if before:
            for i in range(3):
                self._sums[i] += now[i] - before[i]
            self._count += 1
        self._before = now
        window: Window | None = None
        if step % judging.STEPS == 0:
            if self._count:
                seconds, data, wait = (total / self._count for total in self._sums)
                window = {"step": seconds, "data": data, "wait": wait}
            self._sums, self._count = [0.0, 0.0, 0.0], 0
        if window or step in self.marks:
            self.passed.put(Passed(step, time.time_ns(), window))

    def _now(self) -> tuple[float, float, float]:
        apart = self._spent["compilation"] + self._spent["profile"]
        wait = self._readings.waited + (self._programs.calling if self._cpu else 0.0)
        return time.perf_counter() - apart, self._spent["data"], wait

    def close(self) -> None:
        """Ends the thread."""
        if self._thread:
            self.passed.put(None)
            self._thread.join()


class _Talk:
    """The thread beside the training thread."""

    def __init__(self, pace: Pace, run: RunContext, number: int):
        self._pace, self._key = pace, f"phenomjax/pace/{number}"
        self._many, self._main = jax.process_count() > 1, messages.is_main()
        # not more often, so that the store can serve all processes
        self._pause = max(0.4, jax.process_count() / 250)
        devices = jax.local_devices()
        ids = ", ".join(str(device.local_hardware_id) for device in devices)
        told = f"{devices[0].platform} {ids} ({devices[0].device_kind})"
        self._mine = Report(devices=told, windows={}, looks={}, cost=0.0)
        self._judge = Judge(jax.process_count(), run.config.stragglers.watch == "devices")
        self._asked: tuple[int, ...] = ()  # first steps of looks
        self._look: looking.Look | None = None
        self._since, self._looks = 0, 0
        first = run.config.profile.start_step  # only one profiler can be at work
        self._taken = range(first - 2 * judging.LOOKED, first + run.config.profile.num_steps + 1)

    def run(self) -> None:
        next_word, news, step = 0.0, False, 0
        while True:
            try:
                passed = self._pace.passed.get(timeout=self._pause)
            except queue.Empty:
                passed = Passed(0, 0, None)
            if passed is None:
                self._say_cost(step)
                return
            step = max(step, passed.step)
            if passed.window:
                self._keep(self._mine["windows"], passed.step, passed.window)
                news = True
            if passed.step in self._pace.marks:
                news |= self._look_at(passed.step, passed.at)
            if time.monotonic() >= next_word:
                with contextlib.suppress(jax.errors.JaxRuntimeError):  # the run is at its end
                    if news:
                        self._tell()
                    if not self._main:
                        self._hear_of_looks()
                    news, next_word = False, time.monotonic() + self._pause

    def _say_cost(self, step: int) -> None:
        own.info(
            "stragglers: looked %d times, %.3f CPU seconds in all until step %d",
            self._looks,
            time.thread_time(),
            step,
        )

    @staticmethod
    def _keep(kept: dict[int, Kept], step: int, value: Kept) -> None:
        kept[step] = value
        for old in list(kept)[:-KEPT]:
            del kept[old]

    def _look_at(self, step: int, at: int) -> bool:
        """A marked step was done: goes on with a look; whether one is whole."""
        if step in self._asked:
            self._look = None
            with contextlib.suppress(RuntimeError):  # another profiler is at work
                self._look = looking.Look()
        elif self._look and step - 1 in self._asked:
            self._since = at
        elif self._look:
            found, self._mine["cost"] = self._look.end(self._since, at)
            self._look, self._looks = None, self._looks + 1
            self._keep(self._mine["looks"], step, found)
            return True
        return False

    def _tell(self) -> None:
        """Tells what is new; process 0 judges."""
        mine = jax.process_index()
        if self._many:
            messages.store().key_value_set(
                f"{self._key}/of/{mine}", json.dumps(self._mine), allow_overwrite=True
            )
        if not self._main:
            return
        reports = {mine: self._mine}
        if self._many:
            for key, text in messages.store().key_value_dir_get(f"{self._key}/of/"):
                reports[int(key.rsplit("/", 1)[1])] = _read(text)
        for slow in self._judge.hear(reports):
            log.warning("%s", described(slow, reports[slow.process]["devices"]))
        for process in self._judge.better():
            log.info("%s keeps pace with the others again", messages.name(process))
        self._pace.metrics = self._judge.metrics()
        self._ask_for_looks()

    def _ask_for_looks(self) -> None:
        if not self._mine["windows"]:
            return
        step, window = list(self._mine["windows"].items())[-1]
        first = step + 2 + int((self._pause + 0.2) / window["step"])
        first = max(first, self._judge.asked_until)
        last = first + judging.TOGETHER * judging.APART
        if self._judge.ask(step) and not any(i in self._taken for i in range(first, last)):
            self._judge.asked_until = last
            if self._many:
                messages.store().key_value_set(
                    f"{self._key}/look", str(first), allow_overwrite=True
                )
            self._mark(first)

    def _hear_of_looks(self) -> None:
        try:
            first = int(messages.store().key_value_try_get(f"{self._key}/look"))
        except jax.errors.JaxRuntimeError:  # not yet
            return
        if first not in self._asked:
            self._mark(first)

    def _mark(self, first: int) -> None:
        looks = range(first, first + judging.TOGETHER * judging.APART, judging.APART)
        self._asked = (*self._asked[-judging.TOGETHER :], *looks)  # some may be under way
        self._pace.marks = frozenset(
            step + i for step in self._asked for i in (0, 1, 1 + judging.LOOKED)
        )


def _read(text: str) -> Report:
    """A report, whose steps JSON made texts of."""
    told = json.loads(text)
    for name in ("windows", "looks"):
        told[name] = {int(step): value for step, value in told[name].items()}
    return told


CAUSES = {
    "input": "a slow disk or network share there, or other programs on its processors; more"
    " --config.data.threads, or --config.data.staging, helps if all hosts read alike",
    "host": "other programs on its processors, or a slow disk under what it writes",
    "compute": "a device that is hot, throttled or faulty (`nvidia-smi -q -d PERFORMANCE` there),"
    " or other programs on it",
}


def described(slow: Straggler, devices: str) -> str:
    """A straggler in words."""
    who = f"{messages.name(slow.process)}, {devices}"
    if slow.device:
        who += f", device {slow.device}"
    told = f"{slow.what} is slow there"
    if slow.there:
        told += f" ({1e3 * slow.there:.0f} ms a step, {1e3 * slow.elsewhere:.0f} ms elsewhere)"
    return (
        f"all processes wait for {who}: {told}. Since step {slow.since} it takes"
        f" {100 * slow.excess:.0f} % of a step ({1e3 * slow.step:.0f} ms) longer than the others,"
        f" outside of waiting. Usual causes: {CAUSES[slow.what]}."
    )
