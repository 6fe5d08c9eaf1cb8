"""Starts the processes of one run: who they are, where they meet, and what is wrong when they do
not.
"""

import atexit
import logging
import os
import signal
import socket
import sys
import threading

import jax

from phenomjax.cluster import messages, presence
from phenomjax.cluster.place import Place, find_place
from phenomjax.system import ending
from phenomjax.system.errors import EXIT_FAILED, UserError

log = logging.getLogger("phenomjax")
HEARTBEAT_SECONDS = 30  # a process whose node died is noticed after this time
CONNECT_SECONDS = 180


def started() -> bool:
    """Whether `start` connected this process (a notebook need not)."""
    return messages.has_store()


def start(
    coordinator: str = "", num_processes: int = 0, process_id: int = 0, local_devices: int = 0
) -> None:
    """Connects this process to the others, or to itself: JAX saves on SIGTERM only after
    `jax.distributed.initialize`.

    Args:
      coordinator: host:port of process 0; "" for what SLURM says, or a single process on a free
        loopback port.
      num_processes: how many processes the run has; 0 for what SLURM says, or 1.
      process_id: which of them this one is.
      local_devices: how many devices the launcher promised to each process; 0 = no promise.

    Raises:
      UserError: contradicting numbers, or other devices than promised. Processes that do not find
        each other exit with 1.
    """
    place = find_place(coordinator, num_processes, process_id, os.environ)
    address = place.coordinator or f"127.0.0.1:{free_port()}"
    # JAX would end the process without an explanation.
    alone = threading.Timer(CONNECT_SECONDS - 5, _nobody_came, (place, address))
    alone.daemon = True
    alone.start()
    jax.distributed.initialize(
        address,
        place.num_processes,
        place.process_id,
        place.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=CONNECT_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=60,
        coordinator_bind_address=address,
    )
    alone.cancel()
    # JAX owns SIGTERM now. Ctrl-C asks for the same clean stop; a second Ctrl-C ends at once.
    signal.signal(signal.SIGINT, _interrupt)
    if place.process_id:
        log.setLevel(logging.WARNING)  # process 0 speaks for all
        ending.silence()
    if place.num_processes > 1:
        messages.introduce(place.process_id, f"{socket.gethostname()} (pid {os.getpid()})")
        stop = threading.Event()
        thread = threading.Thread(
            target=presence.follow, args=(stop,), daemon=True, name="follow the others"
        )
        thread.start()
        # Python ends daemon threads by an exception that would abort the process (exit code 134)
        # while this one is in JAX's C++ code.
        atexit.register(thread.join, 10)
        atexit.register(stop.set)  # called before the one above
    with presence.connected():
        _check_devices(place, local_devices)


def _nobody_came(place: Place, address: str) -> None:
    """Ends a process that cannot join the others."""
    print(
        f"error: process {place.process_id} of {place.num_processes} on {socket.gethostname()}"
        f" could not join the others at {address} within {CONNECT_SECONDS - 5} s. Some process was"
        " not started or died early (the output of the processes that do not say this tells"
        " which), or a firewall, a wrong --coordinator or a *_proxy variable stands between the"
        " hosts.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(EXIT_FAILED)


def _check_devices(place: Place, promised: int) -> None:
    """Raises UserError when JAX sees other processes or devices than the launcher promised."""
    seen = jax.local_device_count()
    if jax.process_count() != place.num_processes or (promised and seen != promised):
        raise UserError(
            f"Process {place.process_id} on {socket.gethostname()} sees {seen} device(s) of kind"
            f" {jax.local_devices()[0].device_kind} and {jax.process_count()} process(es); the"
            f" launcher promised {promised or 'any number of'} device(s) in each of"
            f" {place.num_processes} process(es). Usual causes: jax without CUDA on that host (pip"
            " install -e '.[cuda]'), a GPU that is down (nvidia-smi),"
            f" CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '(not set)')}, or"
            " another number of tasks than GPUs.",
            EXIT_FAILED,  # another node may have them
        )


def free_port() -> int:
    """A port of this host that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(
        "\nstopping: the run is saved at the next step; press Ctrl-C again to end at once without"
        " saving",
        file=sys.stderr,
        flush=True,
    )
    os.kill(os.getpid(), signal.SIGTERM)


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, in a folder of the user's choice or one of ours.
    Several CPU processes keep none: each looks for another name, and only process 0 would ever find
    what it wrote, so that the others come late.
    """
    if jax.default_backend() == "cpu" and jax.process_count() > 1:
        jax.config.update("jax_compilation_cache_dir", None)
    elif jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/phenomjax/xla"))
