"""What a training process asks of keepers: to hold bytes for it, and to give them back."""

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from phenomjax.standby import wire

# Set by a keeper for the processes that it starts: number of the start, addresses of the keepers.
STANDBY = "PHENOMJAX_STANDBY"
ANSWER_SECONDS = 60.0


class Refused(Exception):
    """A keeper says why it does not do what it was asked to."""


class Keepers:
    """Those of a run, for one thread.

    Args:
      standby: what the keeper of this node said.

    Attributes:
      own: address of the keeper of this node.
      next: of the one that holds copies for this node, in a ring over all; None where there is one
        keeper alone.
      all: addresses of all, this node's first.
    """

    def __init__(self, standby: Mapping[str, Any]):
        self._round, self.own = standby["round"], tuple(standby["keeper"])
        addresses = {name: tuple(address) for name, address in standby["keepers"].items()}
        names = sorted(addresses)
        at = names.index(wire.node())
        ring = [addresses[name] for name in names[at + 1 :] + names[:at]]
        self.next = ring[0] if ring else None
        self.all = [self.own, *ring]
        self._connections: dict[wire.Address, Connection] = {}

    def ask(self, address: wire.Address, do: str, **message: Any) -> dict[str, Any]:
        """The answer of a keeper.

        Raises:
          OSError, EOFError: it is gone.
          TimeoutError: it does not answer.
          Refused: it says why not.
        """
        connection = self._connections.get(address)
        if connection is None:
            connection = self._connections[address] = wire.connect(address)
        try:
            wire.send(connection, message | {"do": do, "round": self._round})
            return self._answer(address)
        except Exception:
            self._connections.pop(address).close()  # what comes next on it is not known
            raise

    def _answer(self, address: wire.Address) -> dict[str, Any]:
        connection = self._connections[address]
        if not connection.poll(ANSWER_SECONDS):
            raise TimeoutError(f"the keeper at {address[0]}:{address[1]} does not answer")
        answer = wire.receive(connection)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def put(
        self,
        address: wire.Address,
        step: int,
        name: str,
        header: Mapping[str, Any],
        data: memoryview,
    ) -> None:
        """Has a keeper hold a piece. Raises as `ask`."""
        self.ask(address, "put", step=step, name=name, header=header, size=len(data))
        wire.send_all(self._connections[address], data)
        self._answer(address)

    def get(
        self, address: wire.Address, step: int, name: str, offset: int, into: memoryview
    ) -> None:
        """Fills `into` with a part of a piece. Raises as `ask`."""
        self.ask(address, "get", step=step, name=name, offset=offset, size=len(into))
        wire.receive_all(self._connections[address], into)
        self._answer(address)

    def store(self, address: wire.Address, name: str, data: memoryview) -> None:
        """Has a keeper hold a program. Raises as `ask`."""
        self.ask(address, "store", name=name, size=len(data))
        wire.send_all(self._connections[address], data)
        self._answer(address)

    def fetch(self, name: str) -> bytes | None:
        """A program, if a keeper has it. Raises as `ask`."""
        for address in self.all:
            size = self.ask(address, "fetch", name=name)["size"]
            data = bytearray(size)
            wire.receive_all(self._connections[address], memoryview(data))
            self._answer(address)
            if data:
                return bytes(data)
        return None

    def lists(self, keepers: Iterable[wire.Address]) -> list[tuple[wire.Address, Any]]:
        """[(keeper, its pieces, or the error why it does not say)]."""

        def pieces(address: wire.Address) -> tuple[wire.Address, Any]:
            try:
                return address, self.ask(address, "list")["pieces"]
            except Exception as error:
                return address, error

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(pieces, list(keepers)))


def open_keepers() -> Keepers | None:
    """Those of this run; None where launch/standby.py did not start it."""
    return Keepers(json.loads(os.environ[STANDBY])) if STANDBY in os.environ else None
