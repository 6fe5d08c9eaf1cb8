"""Runs checks on all processes together, with a time limit each, and finds out who failed, hangs or
is gone.
"""

import contextlib
import faulthandler
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from phenomjax.cluster import messages
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
SILENT_SECONDS = 15.0  # without a word of a process: it is gone or stopped
GRACE_SECONDS = 10.0  # that a process waits for another one in a check in which a third one failed
OK, FAIL, SKIPPED, NOT_RUN = "ok", "FAIL", "skipped", "not run"


class Problem(Exception):
    """What a check found.

    Attributes:
      mend: what to do about it.
    """

    def __init__(self, what: str, mend: str = ""):
        super().__init__(what)
        self.mend = mend


class Skip(Exception):
    """Why a check says nothing here."""


class Waiting(Exception):
    """This process could not go on because of another one, which is the one to be named."""


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
      name: in the table.
      seconds: time limit.
      collect: runs on every process; returns what it found, as JSON. Raises Problem, UserError,
        Skip, or anything.
      judge: (what each process found, their names) -> detail; raises Problem or Skip. The same on
        all processes.
      mend: what to do when `collect` fails with anything but a Problem or UserError, or takes
        longer than `seconds`.
      needs: checks without which this one cannot run.
      devices: whether it runs collectives.
    """

    name: str
    seconds: float
    collect: Callable[[Any], Any]
    judge: Callable[[list[Any], list[str]], str]
    mend: str
    needs: tuple[str, ...] = ()
    devices: bool = False


@dataclass(frozen=True)
class Result:
    """How a check went: `status` is OK, FAIL, SKIPPED or NOT_RUN."""

    check: str
    status: str
    seconds: float
    detail: str
    mend: str = ""


class Exchange:
    """Messages between the processes that need no devices; all call `gather` in the same order,
    process 0 decides who is late.

    Attributes:
      names, full_names: of all processes, without and with their pids.
      gone: {process: why} of those that say nothing any more.
      check: the one that runs now.
    """

    def __init__(self) -> None:
        self.count, self.own, self.check = jax.process_count(), jax.process_index(), ""
        self.names = self.full_names = (
            [f"process {i}" for i in range(self.count)] if self.count > 1 else ["this process"]
        )
        self.gone: dict[int, str] = {}
        self.client: Any = messages.client() if self.count > 1 else None
        self._beats: dict[int, tuple[int, float]] = {}
        if self.count > 1:
            self.gather("start", True, 120)  # then all have told their names
            self.full_names = [messages.name(i) for i in range(self.count)]
            self.names = [name.partition(" (")[0] for name in self.full_names]

    def gather(self, label: str, value: Any, seconds: float) -> list[Any]:
        """What each process says, None for those that say nothing.

        Args:
          label: the same on all processes, and used once.
          value: what this process says, as JSON.
          seconds: how long process 0 waits for the others.
        """
        if self.count == 1:
            return [value]
        key = f"phenomjax/preflight/{label}"
        self.client.key_value_set(f"{key}/of/{self.own}", json.dumps(value))
        if self.own == 0:
            text = json.dumps(self._collect(key, label, seconds))
            self.client.key_value_set(f"{key}/all", text)
        else:
            text = self.wait(f"{key}/all", 2 * seconds + 120)
        answer = json.loads(text)
        self.gone |= {int(i): why for i, why in answer["gone"].items()}
        return [answer["said"].get(str(i)) for i in range(self.count)]

    def meet(self, label: str, seconds: float, value: Any = True) -> list[Any]:
        """`gather` within a check.

        Raises:
          Waiting: some process does not come.
        """
        found = self.gather(f"{self.check}: {label}", value, seconds)
        if None in found:
            late = [self.names[i] for i, said in enumerate(found) if said is None]
            raise Waiting(f"waits for {', '.join(late)}")
        return found

    def wait(self, key: str, seconds: float) -> str:
        """The value of a key as soon as there is one.

        Raises:
          TimeoutError: there was none.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                return self.client.blocking_key_value_get(key, 1000)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE" not in str(error):
                    raise
                if time.monotonic() > end:
                    raise TimeoutError(f"{self.names[0]} says nothing") from None

    def _collect(self, key: str, label: str, seconds: float) -> dict[str, Any]:
        """Process 0: what came, and who is gone."""
        end, gone = time.monotonic() + seconds, {}
        while True:
            said = self._of(key)
            missing = [i for i in range(self.count) if i not in said and i not in self.gone]
            if not missing:
                break
            silent = self._silent()
            gone = {
                i: "does not answer: killed, stopped, or its node is lost"
                for i in missing
                if i in silent
            }
            # In a check, whoever has told its outcome does not come any more.
            never = set(gone) | (
                self._of(f"phenomjax/preflight/{self.check}").keys() if ": " in label else set()
            )
            if never.issuperset(missing):
                break
            if time.monotonic() > end:
                if ": " not in label:
                    gone |= {i: f"said nothing for {seconds:.0f} s" for i in missing}
                break
            time.sleep(0.05)
        return {"said": said, "gone": gone}

    def _of(self, key: str) -> dict[int, Any]:
        pairs = self.client.key_value_dir_get(f"{key}/of/")
        return {int(name.rsplit("/", 1)[1]): json.loads(text) for name, text in pairs}

    def failed(self) -> bool:
        """Whether some process told an outcome that is no success."""
        if self.count == 1:
            return False
        return any(
            "value" not in outcome
            for outcome in self._of(f"phenomjax/preflight/{self.check}").values()
        )

    def _silent(self) -> set[int]:
        """Processes whose heartbeat stands still."""
        now, beats = time.monotonic(), {}
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # nobody said anything yet
            beats = messages.beats()
        for i, said in beats.items():
            if self._beats.get(i, (None, 0.0))[0] != said["beat"]:
                self._beats[i] = (said["beat"], now)
        for i in range(self.count):
            self._beats.setdefault(i, (-1, now))
        return {i for i, (_, since) in self._beats.items() if now - since > SILENT_SECONDS}


class Preflight:
    """Runs checks one after the other, each on all processes.

    Args:
      exchange: connects the processes.
      bench: what the checks share; handed to each `collect`.
    """

    def __init__(self, exchange: Exchange, bench: Any):
        self.exchange, self.bench = exchange, bench
        self.results: dict[str, Result] = {}
        bench.results = self.results
        self.stuck: list[str] = []  # processes whose devices may hang in a collective
        self.hung = False  # whether a thread of some process does not end

    def run(self, check: Check) -> None:
        """Runs a check, or says why it cannot be run."""
        begin, exchange = time.monotonic(), self.exchange
        if reason := self._obstacle(check):
            self.results[check.name] = Result(check.name, NOT_RUN, 0.0, reason)
        else:
            exchange.check = check.name
            outcomes = exchange.gather(check.name, self._attempt(check), check.seconds + 30)
            self.results[check.name] = self._judge(check, outcomes, time.monotonic() - begin)
        r = self.results[check.name]
        log.info("%s: %s (%.1f s)", r.check, r.status, r.seconds)

    def _obstacle(self, check: Check) -> str:
        """Why a check cannot run."""
        if self.exchange.gone:
            return "; ".join(
                f"{self.exchange.names[i]} {why}" for i, why in self.exchange.gone.items()
            )
        if missing := [
            name for name in check.needs if self.results[name].status not in (OK, SKIPPED)
        ]:
            return f"needs {' and '.join(missing)}"
        if check.devices and self.stuck:
            return f"the devices of {', '.join(self.stuck)} hang in an earlier check"
        return ""

    def _attempt(self, check: Check) -> dict[str, Any]:
        """What this process has to say of a check: {"value"}, {"problem", "mend"}, {"skip"},
        {"waits"} or {"hangs"}.
        """
        said: dict[str, Any] = {}

        def work() -> None:
            try:
                said["value"] = check.collect(self.bench)
            except Problem as error:
                said.update(problem=str(error), mend=error.mend)
            except UserError as error:
                said.update(problem=str(error), mend="")
            except Skip as error:
                said["skip"] = str(error)
            except Waiting as error:
                said["waits"] = str(error)
            except Exception as error:
                log.error(
                    "%s, in the check '%s':\n%s",
                    self.exchange.names[self.exchange.own],
                    check.name,
                    traceback.format_exc(),
                )
                lines = str(error).strip().splitlines() or [""]
                said.update(problem=f"{type(error).__name__}: {lines[0][:200]}", mend=check.mend)

        thread = threading.Thread(target=work, daemon=True, name=check.name)
        thread.start()
        end, looked = time.monotonic() + check.seconds, time.monotonic()
        while thread.is_alive() and time.monotonic() < end:
            thread.join(0.2)
            if time.monotonic() - looked > 1:
                looked = time.monotonic()
                if self.exchange.failed():  # the others may wait for that one for ever
                    end = min(end, looked + GRACE_SECONDS)
        if thread.is_alive() and not said:
            where = _where(thread)
            log.error("the check '%s' hangs in %s; the stacks of all threads:", check.name, where)
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
            return {"waits" if self.exchange.failed() else "hangs": where, "stuck": True}
        return dict(said)

    def _judge(self, check: Check, outcomes: list[Any], seconds: float) -> Result:
        """The row of the table."""
        names = self.exchange.names
        found = {i: outcome for i, outcome in enumerate(outcomes) if outcome is not None}
        self.hung |= any("stuck" in outcome for outcome in found.values())
        if check.devices:
            self.stuck += [names[i] for i, outcome in found.items() if "stuck" in outcome]
        problems: dict[tuple[str, str], list[str]] = {}
        for i, outcome in found.items():
            if "problem" in outcome:
                problems.setdefault((outcome["problem"], outcome["mend"]), []).append(names[i])
            if "hangs" in outcome:
                key = (
                    f"is not done after {check.seconds:.0f} s, in {outcome['hangs']}",
                    check.mend,
                )
                problems.setdefault(key, []).append(names[i])
        for i, why in self.exchange.gone.items():
            problems.setdefault(
                (why, "See the last lines of its output, and that node."), []
            ).append(names[i])
        if not problems and (
            waits := [names[i] for i, outcome in found.items() if "waits" in outcome]
        ):
            problems[f"waits for the others, for more than {check.seconds:.0f} s", check.mend] = (
                waits
            )
        if problems:
            who = lambda names: (  # noqa: E731
                "all processes" if len(names) == len(outcomes) > 1 else ", ".join(names)
            )
            text = "; ".join(f"{who(names)}: {what}" for (what, _), names in problems.items())
            return Result(
                check.name,
                FAIL,
                seconds,
                text,
                " ".join(dict.fromkeys(m for _, m in problems if m)),
            )
        try:
            if skips := [outcome["skip"] for outcome in outcomes if "skip" in outcome]:
                raise Skip(skips[0])
            return Result(
                check.name,
                OK,
                seconds,
                check.judge([outcome["value"] for outcome in outcomes], names),
            )
        except Skip as error:
            return Result(check.name, SKIPPED, seconds, str(error))
        except Problem as error:
            return Result(check.name, FAIL, seconds, str(error), error.mend)

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and nothing was left out because of a failure."""
        return all(r.status in (OK, SKIPPED) for r in self.results.values())


def _where(thread: threading.Thread) -> str:
    """Where a thread is: the innermost line of this program, "checkpoint.py:120 (save)"."""
    frame = sys._current_frames().get(thread.ident or 0)
    stack = (
        [
            f
            for f in traceback.extract_stack(frame)
            if "phenomjax" in f.filename and f.filename != __file__
        ]
        if frame
        else []
    )
    stack = stack or traceback.extract_stack(frame)
    return f"{Path(stack[-1].filename).name}:{stack[-1].lineno} ({stack[-1].name})"
