"""Serves the pieces that a keeper holds to training processes."""

from multiprocessing.connection import Connection
from typing import Any

from phenomjax.standby import wire
from phenomjax.standby.pieces import Piece, Pieces

MOST_PROGRAMS = 8


class Server:
    """Answers requests, each {"do": name of a method, "round": …} with its arguments.

    Attributes:
      pieces: what is held.
      programs: compiled, by name; the latest few.
      round: number of the present start; processes of an earlier one are turned away.
    """

    def __init__(self) -> None:
        self.pieces, self.round = Pieces(), 0
        self.programs: dict[str, bytes] = {}

    def begin(self, number: int, failed: int) -> None:
        """A start begins.

        Args:
          number: of it.
          failed: how many before it, in a row, came to no new step: after one its program is not
            trusted, after two the copies are not either.
        """
        self.round = number
        if failed > 0:
            self.programs.clear()
        if failed > 1:
            self.pieces.only(-1)

    def serve(self, connection: Connection) -> None:
        """Serves a training process, of this node or another, until it goes."""
        while True:
            message = wire.receive(connection)
            if message.get("round") != self.round:  # of a start that is over
                wire.send(connection, {"error": "this start of the run is over"})
                return
            wire.send(connection, getattr(self, f"_{message['do']}")(connection, **message))

    def _put(
        self,
        connection: Connection,
        step: int,
        name: str,
        header: dict[str, Any],
        size: int,
        **_: Any,
    ) -> dict[str, Any]:
        try:
            room = self.pieces.room(size)
        except MemoryError as error:
            wire.send(connection, {"error": f"{wire.node()} has no memory for it: {error}"})
            raise EOFError from error
        wire.send(connection, {})
        wire.receive_all(connection, room)
        self.pieces.put(step, name, Piece(header, room))
        return {}

    def _get(
        self, connection: Connection, step: int, name: str, offset: int, size: int, **_: Any
    ) -> dict[str, Any]:
        piece = self.pieces.get(step, name)
        if piece is None:
            return {"error": f"{wire.node()} does not hold {name} of step {step}"}
        wire.send(connection, {})
        wire.send_all(connection, piece.data[offset : offset + size])
        return {}

    def _store(self, connection: Connection, name: str, size: int, **_: Any) -> dict[str, Any]:
        data = bytearray(size)
        wire.send(connection, {})
        wire.receive_all(connection, memoryview(data))
        self.programs.pop(name, None)
        self.programs[name] = bytes(data)
        while len(self.programs) > MOST_PROGRAMS:
            self.programs.pop(next(iter(self.programs)))
        return {}

    def _fetch(self, connection: Connection, name: str, **_: Any) -> dict[str, Any]:
        data = self.programs.get(name, b"")
        wire.send(connection, {"size": len(data)})
        if data:
            wire.send_all(connection, memoryview(data))
        return {}

    def _list(self, connection: Connection, **_: Any) -> dict[str, Any]:
        return {"pieces": self.pieces.list()}

    def _keep(self, connection: Connection, step: int, **_: Any) -> dict[str, Any]:
        self.pieces.keep(step)
        return {}

    def _only(self, connection: Connection, step: int, **_: Any) -> dict[str, Any]:
        self.pieces.only(step)
        return {}
