"""Process start-up, stop signals, barriers."""

import logging
import os
import signal
import socket
import sys
import traceback
from types import TracebackType

import jax
from jax.experimental import multihost_utils

from phenomjax.errors import UserError

log = logging.getLogger("phenomjax")
_polls = 0


def start(coordinator: str = "", num_processes: int = 1, process_id: int = 0) -> None:
    """Connects this process to the others, or to itself: JAX saves on SIGTERM only after `jax.distributed.initialize`.

    Args:
      coordinator: host:port of process 0; "" for a single process, which binds a free loopback port.
      num_processes: how many processes the run has.
      process_id: which of them this one is.

    Raises:
      UserError: the numbers contradict each other.
    """
    if num_processes > 1 and not coordinator:
        raise UserError(
            f"--num_processes={num_processes} needs --coordinator=HOST:PORT of process 0, the same for all processes."
        )
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id} must be between 0 and {num_processes - 1} (--num_processes={num_processes})."
        )
    single = not coordinator
    if single:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{s.getsockname()[1]}"
    jax.distributed.initialize(
        coordinator, num_processes, process_id, coordinator_bind_address=coordinator if single else None
    )
    # JAX owns SIGTERM now. Ctrl-C asks for the same clean stop; a second Ctrl-C ends at once.
    signal.signal(signal.SIGINT, _interrupt)
    sys.excepthook = exit_at_once if num_processes > 1 else sys.excepthook


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(
        "\nstopping: the run is saved at the next step; press Ctrl-C again to end at once without saving",
        file=sys.stderr,
        flush=True,
    )
    os.kill(os.getpid(), signal.SIGTERM)


def exit_at_once(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Leaves at once after an unhandled error: JAX's exit barrier would hold the process, and with it the other hosts, for minutes."""
    traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    os._exit(1)


def stop_requested() -> bool:
    """Whether any process was told to stop; all processes must call it equally often, and all get the same answer.

    The service counts calls, not steps, so the loop can also ask between evaluation batches.
    """
    global _polls
    _polls += 1
    return multihost_utils.reached_preemption_sync_point(_polls)


def is_main() -> bool:
    """Whether this process writes logs, metrics and figures."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agree(flag: bool) -> bool:
    """The answer of process 0, for decisions that depend on a clock."""
    if jax.process_count() == 1:
        return flag
    import numpy as np

    return bool(multihost_utils.broadcast_one_to_all(np.int32(flag)))
