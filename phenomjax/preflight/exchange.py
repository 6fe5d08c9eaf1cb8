"""What the processes tell each other during a preflight, also when some of them are gone."""

import contextlib
import json
import time
from typing import TypeVar

import jax

from phenomjax.cluster import messages, presence

SILENT_SECONDS = 15.0  # without a word of a process: it is gone or stopped
Value = TypeVar("Value")


class Waiting(Exception):
    """This process could not go on because of another one, which is the one to be named."""


class Exchange:
    """Gathers (`cluster.messages`) that name who is gone; all processes call `gather` in the same
    order.

    Attributes:
      names, full_names: of all processes, without and with their pids.
      gone: {process: why} of those that say nothing any more.
      check: the one that runs now.
    """

    def __init__(self) -> None:
        self.count, self.own, self.check = jax.process_count(), jax.process_index(), ""
        self.names = self.full_names = (
            [f"process {i}" for i in range(self.count)] if self.count > 1 else ["this process"]
        )
        self.gone: dict[int, str] = {}
        self._beats: dict[int, tuple[int, float]] = {}  # the newest number, and when it came
        if self.count > 1:
            self.gather("start", True, 120)  # then all have told their names
            self.full_names = [messages.name(i) for i in range(self.count)]
            self.names = [name.partition(" (")[0] for name in self.full_names]

    def gather(self, label: str, value: Value, seconds: float) -> list[Value | None]:
        """What each process says, None for those that say nothing, who then count as gone.

        Args:
          label: the same on all processes, and used once.
          value: what this process says, as JSON can hold it.
          seconds: how long process 0 waits for the others.

        Raises:
          TimeoutError: process 0 says nothing.
        """

        def give_up(missing: set[int], late: bool) -> dict[int, str] | None:
            expected = missing - self.gone.keys()
            gone = self._stopped(expected)
            if late:
                gone |= dict.fromkeys(expected, f"said nothing for {seconds:.0f} s")
            return gone if gone.keys() >= expected else None

        said = self._gather(label, value, seconds, give_up)
        return [said.get(i) for i in range(self.count)]

    def meet(self, label: str, seconds: float) -> None:
        """Waits for all processes within a check.

        Raises:
          Waiting: some process does not come.
          TimeoutError: process 0 says nothing.
        """

        def give_up(missing: set[int], late: bool) -> dict[int, str] | None:
            # Whoever has told its outcome of the check does not come any more.
            expected = missing - self.gone.keys() - self._told().keys()
            gone = self._stopped(expected)
            return gone if late or gone.keys() >= expected else None

        said = self._gather(f"{self.check}: {label}", True, seconds, give_up)
        if late := [self.names[i] for i in range(self.count) if i not in said]:
            raise Waiting(f"waits for {', '.join(late)}")

    def _gather(
        self, label: str, value: Value, seconds: float, give_up: messages.GiveUp
    ) -> dict[int, Value]:
        found = messages.gather_some(
            f"preflight/{label}", value, seconds, give_up, 2 * seconds + 120
        )
        if 0 not in found.said:
            raise TimeoutError(f"{self.names[0]} says nothing")
        self.gone |= found.why
        return found.said

    def failed(self) -> bool:
        """Whether some process told an outcome of the present check that is no success."""
        return any("value" not in json.loads(text) for text in self._told().values())

    def _told(self) -> dict[int, str]:
        """The outcomes of the present check that were told so far."""
        return messages.heard(f"preflight/{self.check}") if self.count > 1 else {}

    def _stopped(self, expected: set[int]) -> dict[int, str]:
        """Process 0: those of some processes whose heartbeat stands still."""
        return dict.fromkeys(
            self._silent() & expected, "does not answer: killed, stopped, or its node is lost"
        )

    def _silent(self) -> set[int]:
        """Processes whose heartbeat stands still."""
        now, beats = time.monotonic(), dict[int, presence.Beat]()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # nobody said anything yet
            beats = presence.beats()
        for i, said in beats.items():
            if i not in self._beats or self._beats[i][0] != said["beat"]:
                self._beats[i] = (said["beat"], now)
        for i in range(self.count):
            self._beats.setdefault(i, (-1, now))
        return {i for i, (_, since) in self._beats.items() if now - since > SILENT_SECONDS}
