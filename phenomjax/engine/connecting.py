"""Connections to schedulers of Dask."""

import contextlib
import importlib.util
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from phenomjax.engine import bundles
from phenomjax.engine.cluster import Scheduler
from phenomjax.engine.settings import Running
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

log = logging.getLogger("phenomjax")
CONNECT_SECONDS = 15
SETTINGS = {
    # The driver decides what is tried again.
    "distributed.scheduler.allowed-failures": 0,
    # A worker that dies takes only what it was at with it.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    # Native code may hold the interpreter's lock for minutes.
    "distributed.scheduler.worker-ttl": "10 minutes",
    # Or the last thousand messages to each worker are kept, with the units in them.
    "distributed.admin.low-level-log-length": 0,
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
}


def without_extra(package: str) -> UserError:
    """A package that only clusters need is missing."""
    return UserError(
        f"Work on a cluster needs the package {package}, which is not installed: pip install"
        " 'phenomjax[cluster]', here and in the environment of the workers."
    )


def distributed_settings() -> None:
    """Loads Dask with our settings, its own log silent: what counts is told by us.

    Raises:
      UserError: it is not installed.
    """
    try:
        import dask
        import distributed  # noqa: F401
    except ImportError as error:
        raise without_extra(error.name or "distributed") from error
    dask.config.set(SETTINGS)
    for name in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def client_of(cluster: "LocalCluster") -> "Client":
    """A client of a cluster in this process."""
    from distributed import Client

    return Client(cluster, set_as_default=False)


def tell_dashboard(link: str) -> None:
    """How to see the dashboard of a scheduler of this process: it is only served on this host."""
    if importlib.util.find_spec("bokeh") is None:  # plain pages then
        link = link.replace("/status", "/info/main/workers.html")
    port = link.rpartition(":")[2].partition("/")[0]
    log.info("dashboard: %s (ssh -L %s:127.0.0.1:%s %s)", link, port, port, socket.gethostname())


@contextlib.contextmanager
def connect(place: str, settings: Running, folder: Path) -> Iterator[Scheduler]:
    """A connection to a cluster that runs already.

    Args:
      place: address of the scheduler, or its file.
      settings: of the connection.
      folder: of the engine.

    Raises:
      UserError: nobody answers, or only one of another version.
    """
    distributed_settings()
    from distributed import Client
    from distributed.security import Security

    if "://" not in place and not Path(place).is_file():
        raise UserError(
            f"The scheduler's file {place} (`engine`) is not there: `dask scheduler"
            f" --scheduler-file {place}` writes it."
        )
    given = {
        "tls_ca_file": settings.tls_ca,
        "tls_client_cert": settings.tls_cert,
        "tls_client_key": settings.tls_key,
    }
    try:
        security = Security(**{name: value for name, value in given.items() if value})
        where = {"address": place} if "://" in place else {"scheduler_file": place}
        client = Client(**where, security=security, timeout=CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # of many kinds
        raise UserError(
            f"No Dask scheduler answers at {place} ({_first_line(error)}). Is it running, reached"
            " from this machine, and of the same protocol (tcp://, or tls:// with its"
            " certificates)? Start one with `dask scheduler --host ADDRESS --scheduler-file FILE`."
        ) from error
    with client:
        scheduler = cast(dict[str, Any], client.get_versions())["scheduler"]
        theirs = {
            "Python": ".".join(dict(scheduler["host"])["python"].split(".")[:2]),
            "distributed": str(scheduler["packages"]["distributed"]),
        }
        if differ := bundles.different(theirs, bundles.versions()):
            raise UserError(
                f"The scheduler at {place} has {differ}. Start it from the environment of this"
                " command, and run it again."
            )
        address = client.scheduler.address
        resource = f" --resources {settings.resource}=1" if settings.resource else ""
        start = (
            "Start some, from the environment of this command, without which they end at once:"
            f" `dask worker {address} --nthreads 1 --nworkers CORES{resource}`"
        )
        yield Scheduler(client, address, lambda workers: None, lambda: start)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
