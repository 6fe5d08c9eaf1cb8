"""Judges who is slow by what all processes tell of their steps. Knows no JAX and no clock.

Looks at the devices tell exactly who waits for whom; they cost something, so they are taken when
windows of steps, which cost nothing, give a reason to. Where nothing can be looked at, windows
alone judge: they see hosts that keep their devices waiting, but not by how much the others could be
faster.
"""

import collections
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from phenomjax.training.stragglers import rule

STEPS = 5  # of a window
LOOKED = 2  # steps that a look takes
APART = 4  # steps from a look to the next
TOGETHER = rule.LEAST  # looks that are asked for at once
SHARE = 0.002  # of the time may be spent on looks,
SAVED = 3 * TOGETHER  # and the cost of so many can be saved up; a run begins with it
SLOWER = 1.12  # steps that take this much longer than they did are a reason to look
Unit = tuple[int, str]  # a process, or one device of it
History = dict[Unit, list[tuple[int, float]]]  # {who: [(step, excess)]}


class Window(TypedDict):
    """Means over some steps of one process, in seconds.

    Attributes:
      step: of a step, all in all.
      data: that the next batch was waited for.
      wait: that the training thread waited for its devices.
    """

    step: float
    data: float
    wait: float


class Report(TypedDict):
    """What a process tells.

    Attributes:
      devices: what it computes with.
      windows: {its last step: a window}.
      looks: {its first step: {device: share of the time in which it waited for others}}.
      cost: CPU seconds of a look.
    """

    devices: str
    windows: dict[int, Window]
    looks: dict[int, dict[str, float]]
    cost: float


@dataclass(frozen=True)
class Straggler:
    """A process that the others wait for.

    Attributes:
      process: which one.
      device: of it, where one of several is slow; else "".
      unit: what was compared: a device, or "" for the process.
      since: the first step that says so.
      named: the last one.
      excess: share of a step that it costs all others.
      what: is slow: "input", "host" or "compute".
      there, elsewhere: seconds of a step that this takes there, and the median of the others; 0
        where only shares are known.
      step: seconds of a step.
    """

    process: int
    device: str
    unit: str
    since: int
    named: int
    excess: float
    what: str
    there: float
    elsewhere: float
    step: float


def _data(window: Window) -> float:
    return window["data"]


def _host(window: Window) -> float:
    return window["step"] - window["data"] - window["wait"]


class Judge:
    """Keeps what was told.

    Args:
      processes: of the run.
      looking: whether devices may be looked at.

    Attributes:
      named: {process: what is slow of it} at present.
      asked_until: the step until which all were asked to look; whoever asks them sets it.
    """

    def __init__(self, processes: int, looking: bool):
        self._processes, self._looking = processes, looking
        self.named: dict[int, Straggler] = {}
        self._host: History = collections.defaultdict(list)
        self._device: History = collections.defaultdict(list)
        self._window, self._look = 0, 0  # the last steps that were judged
        self._last: Mapping[int, Window] = {}
        self._seconds: collections.deque[float] = collections.deque(maxlen=100)
        self.asked_until, self._in_vain = 0, 0
        self._cost, self._saved = 0.0, 0.0

    def hear(self, reports: Mapping[int, Report]) -> list[Straggler]:
        """Judges the windows and looks that all processes have told.

        Returns:
          Those who are called slow from now on.
        """
        if len(reports) < self._processes:
            return []
        found = list[Straggler]()
        windows = [set(report["windows"]) for report in reports.values()]
        for step in sorted(set.intersection(*windows)):
            if step > self._window:
                self._window = step
                found += self._judge_window({i: r["windows"][step] for i, r in reports.items()})
        looks = [set(report["looks"]) for report in reports.values()]
        for step in sorted(set.intersection(*looks)):
            if step > self._look:
                self._look, self._in_vain = step, 0
                cost = max(report["cost"] for report in reports.values())
                self._saved += (0.0 if self._cost else SAVED * cost) - cost
                self._cost = cost
                found += self._judge_look({i: r["looks"][step] for i, r in reports.items()})
        return found

    def _judge_window(self, windows: Mapping[int, Window]) -> list[Straggler]:
        self._last = windows
        self._seconds.append(statistics.median(w["step"] for w in windows.values()))
        self._saved += SHARE * STEPS * self._seconds[-1]
        self._saved = min(self._saved, SAVED * self._cost)
        waits = {(i, ""): w["wait"] / w["step"] for i, w in windows.items()}
        found = self._add(self._host, rule.host_excesses(waits), self._window - STEPS + 1)
        return [] if self._looking else self._name(found)

    def _judge_look(self, looks: Mapping[int, Mapping[str, float]]) -> list[Straggler]:
        own = {(i, name): 1 - x for i, found in looks.items() for name, x in found.items()}
        return self._name(self._add(self._device, rule.excesses(own), self._look))

    @staticmethod
    def _add(history: History, excesses: Mapping[Unit, float], step: int) -> list[Unit]:
        """Adds a sample of all; returns those who are slow by it."""
        for unit, excess in excesses.items():
            history[unit].append((step, excess))
            del history[unit][: -rule.MOST]
        return [u for u in excesses if rule.is_slow([x for _, x in history[u]], len(excesses))]

    def _name(self, units: list[Unit]) -> list[Straggler]:
        """Names the processes that were not named yet."""
        found = list[Straggler]()
        for unit in units:
            if unit[0] not in self.named:
                history = self._device if self._looking else self._host
                self.named[unit[0]] = self._describe(unit, history[unit])
                found.append(self.named[unit[0]])
        return found

    def better(self) -> list[int]:
        """Processes that were called slow and no longer are."""
        gone = []
        for process, slow in list(self.named.items()):
            history = self._device if self._looking else self._host
            last = [x for step, x in history[slow.process, slow.unit] if step > slow.named]
            if len(last) >= rule.LEAST and np.mean(last) < rule.LIMIT / 2:
                gone.append(process)
                del self.named[process]
        return gone

    def _describe(self, unit: Unit, history: list[tuple[int, float]]) -> Straggler:
        """What is slow of a process or device that is."""
        process, device = unit
        # the samples that stand out, without those of the time before
        slow = [(step, x) for step, x in history if x >= rule.LIMIT / 2]
        there = self._last.get(process, {"step": 1.0, "data": 0.0, "wait": 1.0})
        others = [w for i, w in self._last.items() if i != process] or [there]
        excess = float(np.mean([x for _, x in slow]))
        what, here, elsewhere = "compute", 0.0, 0.0
        for name, part in (("input", _data), ("host", _host)):
            mine, theirs = part(there), statistics.median(map(part, others))
            # what the training thread did while its devices computed explains nothing
            if mine - theirs >= max(0.5 * excess * there["step"], here - elsewhere):
                what, here, elsewhere = name, mine, theirs
        several = sum(1 for one in self._device if one[0] == process) > 1
        return Straggler(
            process=process,
            device=device if what == "compute" and several else "",
            unit=device,
            since=slow[0][0],
            named=history[-1][0],
            excess=excess,
            what=what,
            there=here,
            elsewhere=elsewhere,
            step=there["step"],
        )

    def ask(self, step: int) -> bool:
        """Whether all are to look at their devices now, `TOGETHER` times: the first time, when
        steps got slower or a device seems slow, and when nothing was looked at for long; as far as
        looks are paid for.

        Args:
          step: that is done.
        """
        # so early that there is no gap
        if not self._looking or not self._seconds or step <= self.asked_until - 2 * APART:
            return False
        if self.asked_until and self._look < self.asked_until - 2 * TOGETHER * APART:
            self._in_vain += 1
        if self._in_vain == 3:
            self._looking = False  # a process cannot look
            return False
        first = not self.asked_until
        needed = TOGETHER if self._suspicious() else SAVED
        return first or self._saved >= needed * self._cost

    def _suspicious(self) -> bool:
        slower = self._seconds[-1] > SLOWER * min(self._seconds)
        host = [mine[-1][1] for mine in self._host.values()]
        return slower or bool(self.named) or max(*host, *self._means(self._device)) > rule.LIMIT / 2

    @staticmethod
    def _means(history: History) -> list[float]:
        return [0.0, *(float(np.mean([x for _, x in m[-rule.LEAST :]])) for m in history.values())]

    def metrics(self) -> dict[str, float]:
        """For the log: the process that the others wait for most, and the share of a step that
        this costs; and who is called slow.
        """
        history = self._device or self._host
        if not history:
            return {}
        means = {
            unit[0]: float(np.mean([x for _, x in mine[-rule.LEAST :]]))
            for unit, mine in sorted(history.items(), key=lambda one: one[1][-1][1])
        }
        slowest = max(means, key=lambda process: means[process])
        values = {"perf/slowest_process": float(slowest), "perf/slowest_excess": means[slowest]}
        inputs = [w["data"] / w["step"] for w in self._last.values()]
        values["perf/data_wait_most"] = min(max(inputs), 1.0)
        if self.named:
            values["perf/straggler"] = float(max(self.named, key=lambda i: self.named[i].excess))
        return values
