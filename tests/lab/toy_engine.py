"""An engine in this process that stops, or sets units aside, as it is told."""

import contextlib

from phenomjax.engine import choose
from phenomjax.engine.local import Pool
from phenomjax.engine.units import Notes, do


class ToyEngine(Pool):
    """Does units one by one, in this process.

    Attributes:
      poison: names of units that are set aside, where they can be.
      limit: units of such a job after which it stops; None: none.
    """

    def __init__(self):
        super().__init__(1)
        self.poison, self.limit = frozenset(), None

    def run(self, work, function, units, stop, *, aside=None, at_most=None):
        """Does what is not committed, or as much as `limit`."""
        left = (unit for unit in units if not Notes(work).is_committed(unit.name))
        for done, unit in enumerate(left):
            if done == self.limit:
                stop.set()
                return
            if unit.name in self.poison and aside:
                yield unit.name, aside(unit, "it ends its process")
            else:
                yield do(work, function, unit)


def replace(monkeypatch):
    """Every command gets the engine that is returned, whatever `engine` it is told."""
    engine = ToyEngine()
    monkeypatch.setattr(choose, "executor", lambda options, folder: contextlib.nullcontext(engine))
    return engine
