"""The processes of a run: start-up (SLURM, flags, single), stop signals, barriers that name who is
late, and leaving together.

JAX's coordination service (its key-value store) carries all messages; no collective of devices is
needed to tell others of an error.
"""

import contextlib
import json
import logging
import os
import re
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from phenomjax.cluster import messages
from phenomjax.system.errors import EXIT_FAILED, EXIT_STUCK, UserError

log = logging.getLogger("phenomjax")
LEAVE = "phenomjax/leave"
_polls = 0
_barriers: dict[str, int] = {}
_report: dict[str, Any] = {"step": 0, "phase": "starting"}


def client() -> Any:
    """The key-value store of JAX's coordination service, which has no public name."""
    from jax._src import distributed

    return distributed.global_state.client


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Ends all processes at once when anything inside fails in one of them, with that one's exit
    code and message last.

    Without it the others would wait in a collective, and JAX's exit barrier would hold this one,
    for minutes.
    """
    try:
        yield
    except UserError as error:
        leave(
            error.exit_code,
            textwrap.fill(f"error: {error}", 110, break_long_words=False, break_on_hyphens=False),
        )
    except KeyboardInterrupt:
        leave(128 + signal.SIGINT, "interrupted twice: ended without saving")
    except Exception:
        leave(EXIT_FAILED, traceback.format_exc())


def leave(code: int, text: str) -> None:
    """Tells all other processes to leave with this exit code, and leaves by `os._exit`; the first
    one to speak is heard.

    Args:
      code: exit code of all processes.
      text: shown last on stderr by this process, and written into its log.
    """
    first, many = True, jax.process_count() > 1
    if many:
        if re.search("collective|gloo|nccl", text, re.IGNORECASE) and (missing := silent()):
            text += (
                f"\nNo answer from {', '.join(missing)}: killed, stopped, or its node is lost. This"
                " process failed because of that."
            )
        word = {
            "code": code,
            "process": jax.process_index(),
            "text": text.strip().splitlines()[-1][:300],
        }
        try:
            client().key_value_set(LEAVE, json.dumps(word))
        except Exception:  # another one was first (or the coordinator is gone): its words count
            first = False
            with contextlib.suppress(Exception):
                code = json.loads(client().key_value_try_get(LEAVE))["code"]
    log.getChild("process").error("%s", text)
    if many:
        time.sleep(2 * _period() + 0.2)  # the others leave meanwhile, so that this text is the last
    if first:
        print("\n" + text, file=sys.stderr)
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)


def _period() -> float:
    """Seconds between two words of a process; process 0 serves some thousand a second."""
    return max(0.5, jax.process_count() / 500)


def _follow(stop: threading.Event) -> None:
    """Says all the time that this process is alive and where it is, and leaves when another one
    said so.
    """
    # The period is asked for once: at the end of the program JAX's devices are gone before this
    # thread is.
    store, own, beat, period = client(), jax.process_index(), 0, _period()
    while not stop.wait(period):
        beat += 1
        with contextlib.suppress(Exception):
            store.key_value_set(
                f"phenomjax/beat/{own}", json.dumps({"beat": beat, **_report}), allow_overwrite=True
            )
        try:
            word = json.loads(store.key_value_try_get(LEAVE))
        except Exception:
            continue
        if word["process"] == own:
            return
        because = f"{name(word['process'])}: {word['text']}"
        log.getChild("process").error(
            "leaving with exit code %d, because of %s", word["code"], because
        )
        if word["code"] == EXIT_STUCK:
            from phenomjax.system import log as system_log

            system_log.dump_stacks(jax.process_index())
        if own == 0:  # it serves the others' messages, so it is the last one
            time.sleep(4 * period)
        os._exit(word["code"])


def report(**values: Any) -> None:
    """Says where this process is (`step`, `phase`, `since`) in case another one waits for it."""
    _report.update(values)


def beats() -> dict[int, dict[str, Any]]:
    """What each process last said: {process: {"beat", "step", "phase", …}}."""
    pairs = client().key_value_dir_get("phenomjax/beat")
    return {int(key.rsplit("/", 1)[1]): json.loads(value) for key, value in pairs}


def silent() -> list[str]:
    """Names of the other processes that say nothing for a while."""
    try:
        before = beats()
        time.sleep(2.5 * _period())
        after = beats()
    except Exception:  # the coordinator itself is gone
        return [name(0)]
    others = [i for i in range(jax.process_count()) if i != jax.process_index()]
    return [
        name(i) for i in others if before.get(i, {}).get("beat") == after.get(i, {}).get("beat")
    ]


def behind() -> list[str]:
    """Who the others wait for: processes that do not answer, or else those at the earliest step and
    phase.
    """
    if missing := silent():
        return [f"{who}, which does not answer" for who in missing]
    found = beats()
    order = lambda i: (  # noqa: E731
        found[i]["step"],
        found[i]["phase"] == "step",
    )
    first = min(map(order, found))
    return [
        f"{name(i)} at step {found[i]['step']} ({found[i]['phase']})"
        for i in sorted(found)
        if order(i) == first
    ]


def name(process: int) -> str:
    """What a process is called in messages: "process 3 on lab1 (pid 77)"."""
    try:
        return f"process {process} on {client().key_value_try_get(f'phenomjax/name/{process}')}"
    except Exception:
        return f"process {process}"


def stop_requested() -> bool:
    """Whether any process was told to stop; all processes must call it equally often, and all get
    the same answer.

    The service counts calls, not steps, so the loop can also ask between evaluation batches.
    """
    global _polls
    _polls += 1
    return multihost_utils.reached_preemption_sync_point(_polls)


def is_main() -> bool:
    """Whether this process writes logs, metrics and figures."""
    return jax.process_index() == 0


def barrier(label: str, seconds: float = 1800.0) -> None:
    """Waits for all processes; process 0 says every half minute who is late.

    Raises:
      UserError: after `seconds`, with the names of those that did not come (exit code 76).
    """
    if jax.process_count() == 1:
        return
    number = _barriers[label] = _barriers.get(label, -1) + 1
    key, store = f"phenomjax/barrier/{label}/{number}", client()
    store.key_value_set(f"{key}/came/{jax.process_index()}", "")

    def late() -> list[str]:
        came = {int(k.rsplit("/", 1)[1]) for k, _ in store.key_value_dir_get(f"{key}/came")}
        return [name(i) for i in range(jax.process_count()) if i not in came]

    end, said = time.monotonic() + seconds, time.monotonic()
    while time.monotonic() < end:
        if is_main():
            if not (missing := late()):
                store.key_value_set(f"{key}/open", "")
                return
            if time.monotonic() - said > 30:
                said = time.monotonic()
                log.warning("waiting at '%s' for %s", label, ", ".join(missing))
            time.sleep(0.02)
        else:
            try:
                store.blocking_key_value_get(
                    f"{key}/open", int(1000 * max(end - time.monotonic(), 0.001))
                )
                return
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE" not in str(error):
                    raise
    raise UserError(
        f"After {seconds:.0f} s these processes have not come to '{label}': {', '.join(late())}."
        " Their own files in WORKDIR/logs say where they are; a slow disk or a lost node is the"
        " usual cause. Run the same command again.",
        EXIT_STUCK,
    )


def agree(flag: bool) -> bool:
    """The answer of process 0, for decisions that depend on a clock."""
    if jax.process_count() == 1:
        return flag
    import numpy as np

    return bool(multihost_utils.broadcast_one_to_all(np.int32(flag)))


_gathered: dict[str, int] = {}


def gather(label: str, text: str, seconds: float = 1800.0) -> list[str]:
    """What each process says, in order; it can be called from a thread. Messages go by way of
    process 0 and need no devices.

    Raises:
      TimeoutError: some said nothing for so long; names them.
    """
    count, own = jax.process_count(), jax.process_index()
    if count == 1:
        return [text]
    number = _gathered[label] = _gathered.get(label, -1) + 1
    key, client, end = (
        f"phenomjax/gather/{label}/{number}",
        messages.client(),
        time.monotonic() + seconds,
    )
    client.key_value_set(f"{key}/{own}", text)

    def wait_for(name: str) -> str:
        return client.blocking_key_value_get(
            f"{key}/{name}", max(1, round(1000 * (end - time.monotonic())))
        )

    late = 0
    try:
        if own == 0:
            texts = []
            for late in range(count):
                texts.append(wait_for(str(late)))
            client.key_value_set(f"{key}/all", json.dumps(texts))
            return texts
        return json.loads(wait_for("all"))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE" not in str(error):
            raise
        raise TimeoutError(
            f"{messages.name(late)} did not come to '{label}' within {seconds:g} s"
        ) from None
