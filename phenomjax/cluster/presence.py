"""Who of a run's processes is alive and where it is, and how all leave together when one fails."""

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
from collections.abc import Callable, Iterator
from typing import TypedDict

import jax

from phenomjax.cluster import messages
from phenomjax.system import ending
from phenomjax.system.errors import EXIT_FAILED, EXIT_STUCK, UserError
from phenomjax.system.log import dump_stacks, leave_files

log = logging.getLogger("phenomjax")
LEAVE = "phenomjax/leave"


class Where(TypedDict):
    """What a process tells of itself: step and phase of its training thread."""

    step: int
    phase: str


class Beat(Where):
    """The same with a number that grows as long as the process lives."""

    beat: int


_here: Where = {"step": 0, "phase": "starting"}
before_leaving: list[Callable[[], None]] = []  # called before this process ends at once


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


def leave(code: int, text: str, quiet: bool = False) -> None:
    """Tells all other processes to leave with this exit code, and leaves by `os._exit`; the first
    one to speak is heard.

    Args:
      code: exit code of all processes.
      text: shown last on stderr by this process, and written into its log.
      quiet: the run's folder is no longer ours: no process writes into its log any more.
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
            "quiet": quiet,
        }
        try:
            messages.store().key_value_set(LEAVE, json.dumps(word))
        except Exception:  # another one was first (or the coordinator is gone): its words count
            first = False
            with contextlib.suppress(Exception):
                code = json.loads(messages.store().key_value_try_get(LEAVE))["code"]
    log.getChild("process").error("%s", text)
    if many:  # the others leave meanwhile, so that this text is the last
        time.sleep(2 * messages.period() + 0.2)
    if first:
        print("\n" + text, file=sys.stderr)
        ending.leave(code, " ".join(text.removeprefix("error: ").split()))
    sys.stderr.flush()
    sys.stdout.flush()
    _end(code)


def follow(stop: threading.Event) -> None:
    """Says all the time that this process is alive and where it is, and leaves when another one
    said so; in a thread.
    """
    # The period is asked for once: at the end of the program JAX's devices are gone before this
    # thread is.
    store, own, number, period = messages.store(), jax.process_index(), 0, messages.period()
    while not stop.wait(period):
        number += 1
        beat: Beat = {"beat": number, **_here}
        with contextlib.suppress(Exception):
            store.key_value_set(f"phenomjax/beat/{own}", json.dumps(beat), allow_overwrite=True)
        try:
            word = json.loads(store.key_value_try_get(LEAVE))
        except Exception:
            continue
        if word["process"] == own:
            return
        if word["quiet"]:
            leave_files()
        because = f"{messages.name(word['process'])}: {word['text']}"
        log.getChild("process").error(
            "leaving with exit code %d, because of %s", word["code"], because
        )
        if word["code"] == EXIT_STUCK:
            dump_stacks(jax.process_index())
        if own == 0:  # it serves the others' messages, so it is the last one
            time.sleep(4 * period)
        _end(word["code"])


def _end(code: int) -> None:
    """Ends the process at once; last it does what must be done even so."""
    for each in list(before_leaving):
        each()
    os._exit(code)


def tell(step: int, phase: str) -> None:
    """Says where this process is, in case another one waits for it."""
    _here.update({"step": step, "phase": phase})


def beats() -> dict[int, Beat]:
    """What each process last said."""
    pairs = messages.store().key_value_dir_get("phenomjax/beat")
    return {int(key.rsplit("/", 1)[1]): json.loads(value) for key, value in pairs}


def silent() -> list[str]:
    """Names of the other processes that say nothing for a while."""
    try:
        before = beats()
        time.sleep(2.5 * messages.period())
        after = beats()
    except Exception:  # the coordinator itself is gone
        return [messages.name(0)]
    others = [i for i in range(jax.process_count()) if i != jax.process_index()]
    return [messages.name(i) for i in others if _number(before, i) == _number(after, i)]


def _number(found: dict[int, Beat], process: int) -> int:
    return found[process]["beat"] if process in found else 0


def behind() -> list[str]:
    """Who the others wait for: processes that do not answer, or else those at the earliest step and
    phase.
    """
    if missing := silent():
        return [f"{who}, which does not answer" for who in missing]
    found = beats()
    reached = {i: (beat["step"], beat["phase"] == "step") for i, beat in found.items()}
    first = min(reached.values())
    return [
        f"{messages.name(i)} at step {found[i]['step']} ({found[i]['phase']})"
        for i in sorted(found)
        if reached[i] == first
    ]
