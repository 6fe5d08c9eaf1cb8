"""How the launcher, keepers and training processes talk: JSON and bytes over TCP, each end having
proved that it knows the run's token. For Python 3.8 too: launch/standby.py runs on the host's own.

The proof is that of `multiprocessing.connection` (HMAC of a random challenge, both ways), so the
token is never sent. What follows is not encrypted, as nothing is that MPI, gloo or NCCL send.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Client,
    Connection,
    Listener,
    answer_challenge,
    deliver_challenge,
)
from typing import Any

# Of all of a run: the secret by which its keepers know one another.
TOKEN = "PHENOMJAX_TOKEN"
# Where keepers find the launcher (HOST:PORT).
LAUNCHER = "PHENOMJAX_STANDBY_LAUNCHER"
# Name of a node, where it is not SLURM's.
NODE = "PHENOMJAX_NODE"
CHUNK = 1 << 24  # bytes of one message, so that a receiver needs no second copy of a whole state
HANDSHAKE_SECONDS = 20.0
Address = tuple  # (host, port)


def node() -> str:
    """What this node is called."""
    name = os.environ.get(NODE) or os.environ.get("SLURMD_NODENAME")
    return name or socket.gethostname()


def token() -> bytes:
    """The run's secret."""
    return os.environ[TOKEN].encode()


def serve(host: str, handle: Callable[[Connection], None]) -> tuple[str, int]:
    """Listens on a free port, and calls `handle` in a thread for each connection that proves
    itself.

    Args:
      host: address of this machine to listen on.
      handle: serves a connection; an end of file or a broken connection in it is its end.

    Returns:
      (host, port).
    """
    listener, secret = Listener((host, 0), backlog=256), token()

    def welcome(connection: Connection) -> None:
        # A stranger that says nothing must not hold up anybody, nor a thread for ever.
        late = threading.Timer(HANDSHAKE_SECONDS, _shut, (connection,))
        late.daemon = True
        late.start()
        try:
            deliver_challenge(connection, secret)
            answer_challenge(connection, secret)
        except (AuthenticationError, OSError, EOFError, ValueError, AssertionError):
            connection.close()
            return
        finally:
            late.cancel()
        _quick(connection)
        with contextlib.suppress(EOFError, OSError), connection:
            handle(connection)

    def accept() -> None:
        while True:
            with contextlib.suppress(OSError):
                threading.Thread(target=welcome, args=(listener.accept(),), daemon=True).start()

    threading.Thread(target=accept, daemon=True, name="accept").start()
    return listener.address


def connect(address: Address) -> Connection:
    """A connection to a server of `serve`.

    Raises:
      OSError, EOFError, AuthenticationError: nobody is there, or it is not one of the run's.
    """
    connection = Client((address[0], int(address[1])), authkey=token())
    _quick(connection)
    return connection


def own_address(connection: Connection) -> str:
    """By which of its addresses this machine reaches the other end."""
    with socket.socket(fileno=os.dup(connection.fileno())) as s:
        return s.getsockname()[0]


def free_port(host: str) -> int:
    """A port of this host that nobody listens on now."""
    with socket.socket() as s:
        s.bind((host, 0))
        return s.getsockname()[1]


def send(connection: Connection, message: dict[str, Any]) -> None:
    """Sends a message."""
    connection.send_bytes(json.dumps(message).encode())


def receive(connection: Connection) -> dict[str, Any]:
    """The next message.

    Raises:
      EOFError, OSError: the other end is gone.
    """
    return json.loads(connection.recv_bytes())


def send_all(connection: Connection, data: memoryview) -> None:
    """Sends bytes whose number the other end knows."""
    for begin in range(0, len(data), CHUNK):
        connection.send_bytes(data[begin : begin + CHUNK])


def receive_all(connection: Connection, into: memoryview) -> None:
    """Fills `into` with what `send_all` sends.

    Raises:
      EOFError, OSError: the other end is gone.
    """
    at = 0
    while at < len(into):
        at += connection.recv_bytes_into(into[at:])


def _quick(connection: Connection) -> None:
    """Small messages go at once; a lost host is noticed even where nothing is sent."""
    with socket.socket(fileno=os.dup(connection.fileno())) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _shut(connection: Connection) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as s:
        s.shutdown(socket.SHUT_RDWR)
