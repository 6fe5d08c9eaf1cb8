"""What the processes of a run tell each other: gathers, barriers that name who is late, the stop
signal.

JAX's coordination service (its key-value store, which process 0 serves) carries all messages. They
need no devices, and may be sent from a thread.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from phenomjax.system.errors import EXIT_STUCK, UserError

log = logging.getLogger("phenomjax")
REMIND_SECONDS = 30.0  # between two lines about who is late
Value = TypeVar("Value")
# (processes that did not come yet, whether the time is up) -> None to wait on, or what is known of
# some of them
GiveUp = Callable[[set[int], bool], dict[int, str] | None]
_rounds: dict[str, int] = {}
_polls = 0


class Store(Protocol):
    """What is used of the client of JAX's coordination service."""

    def key_value_set(self, key: str, value: str, *, allow_overwrite: bool = False) -> None: ...
    def key_value_try_get(self, key: str) -> str: ...
    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...
    def blocking_key_value_get(self, key: str, milliseconds: int, /) -> str: ...


def _client() -> Store | None:
    """JAX has no public name for it."""
    from jax._src import distributed

    return cast(Store | None, distributed.global_state.client)


def has_store() -> bool:
    """Whether this process is connected to the others, or to itself."""
    return _client() is not None


def store() -> Store:
    """The key-value store of a process that is connected."""
    client = _client()
    assert client is not None, "start.start was not called"
    return client


def period() -> float:
    """Seconds between two words of a process; process 0 serves some thousand a second."""
    return max(0.5, jax.process_count() / 500)


def introduce(process: int, text: str) -> None:
    """Tells the others what this process is called."""
    store().key_value_set(f"phenomjax/name/{process}", text)


def name(process: int) -> str:
    """What a process is called in messages: "process 3 on lab1 (pid 77)"."""
    try:
        return f"process {process} on {store().key_value_try_get(f'phenomjax/name/{process}')}"
    except Exception:  # it did not introduce itself, or the coordinator is gone
        return f"process {process}"


def is_main() -> bool:
    """Whether this process writes logs, metrics and figures."""
    return jax.process_index() == 0


def stop_requested() -> bool:
    """Whether any process was told to stop; all processes must call it equally often, and all get
    the same answer.

    The service counts calls, not steps, so the loop can also ask between evaluation batches.
    """
    global _polls
    _polls += 1
    return multihost_utils.reached_preemption_sync_point(_polls)


def agree(flag: bool) -> bool:
    """The answer of process 0, for decisions that depend on a clock; a collective, which is quick
    enough for every step.
    """
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.int32(flag)))


def say(key: str, text: str) -> None:
    """Leaves a text for whoever hears `key`; a key is used once."""
    store().key_value_set(f"phenomjax/{key}", text)


def hear(key: str, seconds: float) -> str:
    """The text of a key, as soon as somebody said it.

    Raises:
      TimeoutError: nobody did.
    """
    # Short waits: Python cannot interrupt one.
    end, longest = time.monotonic() + seconds, 2 * period()
    while True:
        wait = min(longest, end - time.monotonic())
        try:
            return store().blocking_key_value_get(f"phenomjax/{key}", max(1, round(1000 * wait)))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE" not in str(error):
                raise
            if time.monotonic() >= end:
                raise TimeoutError(f"nobody said {key} within {seconds:g} s") from None


def _said(key: str) -> dict[int, str]:
    """What was said so far in a round, by process."""
    pairs = store().key_value_dir_get(f"phenomjax/{key}/of/")
    return {int(one.rsplit("/", 1)[1]): text for one, text in pairs}


def heard(label: str) -> dict[int, str]:
    """What others have said, as JSON, in the next gather of a label, which this process has not
    come to yet.
    """
    return _said(f"gather/{label}/{_rounds.get(label, -1) + 1}")


@dataclass(frozen=True)
class Gathered(Generic[Value]):
    """What came of a gather.

    Attributes:
      said: by process; without those that did not come.
      why: {process: what process 0 found out about it} for some of those.
    """

    said: dict[int, Value]
    why: dict[int, str]

    def missing(self) -> list[int]:
        """The processes that did not come."""
        return [i for i in range(jax.process_count()) if i not in self.said]


def gather_some(
    label: str, value: Value, seconds: float, give_up: GiveUp, patience: float
) -> Gathered[Value]:
    """What each process says, as far as they come; process 0 decides how long it waits for them.

    Args:
      label: all processes gather in the same order under a label; threads need labels of their own.
      value: what this process says, as JSON can hold it.
      seconds: how long process 0 waits.
      give_up: asked by process 0 about once a second. What it returns is told to all.
      patience: how long the others wait for process 0's word.

    Returns:
      The same on all processes, unless process 0 said nothing: then what this one could see.
    """
    if jax.process_count() == 1:
        return Gathered({0: value}, {})
    _rounds[label] = _rounds.get(label, -1) + 1
    key = f"gather/{label}/{_rounds[label]}"
    say(f"{key}/of/{jax.process_index()}", json.dumps(value))
    if is_main():
        texts, why = _collect(key, seconds, give_up)
        say(f"{key}/all", json.dumps({"said": texts, "why": why}))
        return Gathered({i: json.loads(text) for i, text in texts.items()}, why)
    try:
        all_said = json.loads(hear(f"{key}/all", patience))
    except TimeoutError:
        said = _said(key)
        if len(said) == jax.process_count():
            del said[0]  # it came, and then it said nothing
        return Gathered({i: json.loads(text) for i, text in said.items()}, {})
    return Gathered(
        {int(i): json.loads(text) for i, text in all_said["said"].items()},
        {int(i): text for i, text in all_said["why"].items()},
    )


def _collect(key: str, seconds: float, give_up: GiveUp) -> tuple[dict[int, str], dict[int, str]]:
    """Process 0: the texts that came, and what is known of those that did not come."""
    end, said = time.monotonic() + seconds, dict[int, str]()
    everybody = range(jax.process_count())
    for process in everybody:
        while process not in said:
            try:
                wait = min(2 * period(), max(end - time.monotonic(), 0.0))
                said[process] = hear(f"{key}/of/{process}", wait)
            except TimeoutError:
                said = _said(key)
                missing, late = set(everybody) - said.keys(), time.monotonic() >= end
                if not missing:
                    break
                why = give_up(missing, late)
                if late or why is not None:
                    return said, why or {}
    return said, {}


def gather(label: str, value: Value, seconds: float = 1800.0) -> list[Value]:
    """What each process says, in order.

    Args:
      label: as in `gather_some`.
      value: what this process says, as JSON can hold it.
      seconds: how long to wait for all of them.

    Raises:
      TimeoutError: some said nothing for so long; names them.
    """
    found = gather_some(label, value, seconds, lambda missing, late: None, seconds)
    if missing := found.missing():
        who = ", ".join(map(name, missing))
        raise TimeoutError(f"{who} did not come to '{label}' within {seconds:g} s")
    return [found.said[i] for i in range(jax.process_count())]


def barrier(label: str, seconds: float = 1800.0) -> None:
    """Waits for all processes; process 0 says every half minute who is late.

    Raises:
      UserError: after `seconds`, with the names of those that did not come (exit code 76).
    """
    reminded = time.monotonic()

    def remind(missing: set[int], late: bool) -> None:
        nonlocal reminded
        if not late and time.monotonic() - reminded > REMIND_SECONDS:
            reminded = time.monotonic()
            who = ", ".join(map(name, sorted(missing)))
            log.warning("waiting at '%s' for %s", label, who)

    if missing := gather_some(label, "", seconds, remind, seconds).missing():
        raise UserError(
            f"After {seconds:.0f} s these processes have not come to '{label}':"
            f" {', '.join(map(name, missing))}. Their own files in WORKDIR/logs say where they are;"
            " a slow disk or a lost node is the usual cause. Run the same command again.",
            EXIT_STUCK,
        )
