"""Runs checks on all processes together, with a time limit each, and finds out who failed, hangs or
is gone.
"""

import faulthandler
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar

from phenomjax.cluster import messages
from phenomjax.preflight import exchange as exchange_lib
from phenomjax.preflight.exchange import Waiting
from phenomjax.preflight.results import FAIL, NOT_RUN, OK, SKIPPED, Problem, Result, Skip
from phenomjax.preflight.stand import Bench
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
GRACE_SECONDS = 10.0  # that a process waits for another one in a check in which a third one failed
Found = TypeVar("Found")


class Outcome(TypedDict, total=False):
    """What a process has to say of a check: a value, a problem and its mend, why it is skipped,
    what it waits for, or where it hangs; `stuck` when its thread does not end.
    """

    value: object
    problem: str
    mend: str
    skip: str
    waits: str
    hangs: str
    stuck: bool


@dataclass(frozen=True)
class Check(Generic[Found]):
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
      numbers: what each process found -> numbers for scripts.
    """

    name: str
    seconds: float
    collect: Callable[[Bench], Found]
    judge: Callable[[list[Found], list[str]], str]
    mend: str
    needs: tuple[str, ...] = ()
    devices: bool = False
    numbers: Callable[[list[Found]], dict[str, float]] = lambda _: {}


AnyCheck = Check[Any]


class Preflight:
    """Runs checks one after the other, each on all processes.

    Args:
      bench: what the checks share; handed to each `collect`.
    """

    def __init__(self, bench: Bench):
        self.exchange, self.bench = bench.exchange, bench
        self.results = bench.results
        self.stuck: list[str] = []  # processes whose devices may hang in a collective
        self.hung = False  # whether a thread of some process does not end

    def run(self, check: AnyCheck) -> None:
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

    def _obstacle(self, check: AnyCheck) -> str:
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

    def _attempt(self, check: AnyCheck) -> Outcome:
        """Runs this process's part of a check in a thread, as long as it may take."""
        said: Outcome = {}
        thread = threading.Thread(
            target=self._work, args=(check, said), daemon=True, name=check.name
        )
        thread.start()
        end, looked = time.monotonic() + check.seconds, time.monotonic()
        while thread.is_alive() and time.monotonic() < end:
            thread.join(0.2)
            if time.monotonic() - looked > 1:
                looked = time.monotonic()
                if self.exchange.failed():  # the others may wait for that one for ever
                    end = min(end, looked + GRACE_SECONDS)
        if not thread.is_alive() or said:
            return said.copy()
        where = _where(thread)
        log.error("the check '%s' hangs in %s; the stacks of all threads:", check.name, where)
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        if self.exchange.failed():
            return {"waits": where, "stuck": True}
        return {"hangs": where, "stuck": True}

    def _work(self, check: AnyCheck, said: Outcome) -> None:
        """Runs `collect` and fills in what came of it."""
        try:
            said["value"] = check.collect(self.bench)
        except Problem as error:
            said.update({"problem": str(error), "mend": error.mend})
        except UserError as error:
            said.update({"problem": str(error), "mend": ""})
        except Skip as error:
            said["skip"] = str(error)
        except Waiting as error:
            said["waits"] = str(error)
        except Exception as error:
            own = self.exchange.names[self.exchange.own]
            text = traceback.format_exc()
            log.error("%s, in the check '%s':\n%s", own, check.name, text)
            lines = str(error).strip().splitlines() or [""]
            problem = f"{type(error).__name__}: {lines[0][:200]}"
            said.update({"problem": problem, "mend": check.mend})

    def _judge(self, check: AnyCheck, told: list[Outcome | None], seconds: float) -> Result:
        """The row of the table."""
        names = self.exchange.names
        outcomes = {i: outcome for i, outcome in enumerate(told) if outcome is not None}
        stuck = [names[i] for i, outcome in outcomes.items() if "stuck" in outcome]
        self.hung |= bool(stuck)
        if check.devices:
            self.stuck += stuck
        if problems := self._problems(check, outcomes):
            everybody = len(told) if len(told) > 1 else 0
            text = "; ".join(
                f"{'all processes' if len(who) == everybody else ', '.join(who)}: {what}"
                for (what, _), who in problems.items()
            )
            mends = " ".join(dict.fromkeys(mend for _, mend in problems if mend))
            return Result(check.name, FAIL, seconds, text, mends)
        numbers = dict[str, float]()
        try:
            if skips := [outcome["skip"] for outcome in outcomes.values() if "skip" in outcome]:
                raise Skip(skips[0])
            found = [outcome["value"] for outcome in outcomes.values()]
            numbers = check.numbers(found)
            detail = check.judge(found, names)
        except Skip as error:
            return Result(check.name, SKIPPED, seconds, str(error))
        except Problem as error:
            return Result(check.name, FAIL, seconds, str(error), error.mend, numbers)
        return Result(check.name, OK, seconds, detail, "", numbers)

    def _problems(
        self, check: AnyCheck, outcomes: dict[int, Outcome]
    ) -> dict[tuple[str, str], list[str]]:
        """{(what, mend): names of the processes that have it}."""
        names = self.exchange.names
        problems: dict[tuple[str, str], list[str]] = {}

        def add(process: int, what: str, mend: str) -> None:
            problems.setdefault((what, mend), []).append(names[process])

        for i, outcome in outcomes.items():
            if "problem" in outcome:
                add(i, outcome["problem"], outcome["mend"])
            if "hangs" in outcome:
                what = f"is not done after {check.seconds:.0f} s, in {outcome['hangs']}"
                add(i, what, check.mend)
        for i, why in self.exchange.gone.items():
            add(i, why, "See the last lines of its output, and that node.")
        if not problems:
            for i, outcome in outcomes.items():
                if "waits" in outcome:
                    what = f"waits for the others, for more than {check.seconds:.0f} s"
                    add(i, what, check.mend)
        return problems

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and nothing was left out because of a failure."""
        return all(r.status in (OK, SKIPPED) for r in self.results.values())


# where a thread waits for other processes: the check that does is of more interest
_WAITING = {__file__, exchange_lib.__file__, messages.__file__}


def _where(thread: threading.Thread) -> str:
    """Where a thread is: the innermost line of this program, "checkpointer.py:120 (save)"."""
    frame = sys._current_frames().get(thread.ident or 0)
    everything = traceback.extract_stack(frame)
    ours = [f for f in everything if "phenomjax" in f.filename and f.filename not in _WAITING]
    last = (ours or everything)[-1]
    return f"{Path(last.filename).name}:{last.lineno} ({last.name})"
