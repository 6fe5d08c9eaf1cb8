"""What the checks of a preflight share: one `Bench` a process."""

from collections.abc import Sequence
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from phenomjax.preflight.exchange import Exchange
from phenomjax.preflight.results import Result
from phenomjax.state import TrainState
from phenomjax.tasks import Loader, Task

MIB = 2**20
# Time limits of the checks in seconds.
LIMITS = {
    "devices": 180.0,
    "clocks": 120.0,
    "versions": 120.0,
    "config": 60.0,
    "workdir": 120.0,
    "data": 1200.0,
    "disk": 300.0,
    "network": 300.0,
    "steps": 3600.0,
    "one process": 3600.0,
    "checkpoint": 1200.0,
    "stop signal": 60.0,
}


class Bench:
    """What one check finds and later ones use; each process has its own.

    Attributes:
      config: as read; finalized and resolved by the checks "config" and "data".
      folder: WORKDIR/preflight-…, for everything that is written.
      exchange: connects the processes.
      expect_gbps: Gbit/s of a host's network, 0.0 = not known.
      mesh: None as long as the configuration does not fit.
      unfit: why it does not fit this host.
      results: of the checks so far, the same on all processes.
      task, loader: of the check "data".
      state, losses: of the check "steps"; the metrics of each step.
    """

    task: Task
    loader: Loader
    state: TrainState

    def __init__(
        self, config: ConfigDict, folder: Path, exchange: Exchange, expect_gbps: float = 0.0
    ):
        self.config, self.folder, self.exchange = config, folder, exchange
        self.expect_gbps = expect_gbps
        self.mesh: Mesh | None = None
        self.unfit = ""
        self.results: dict[str, Result] = {}
        self.losses: list[dict[str, float]] = []


def differences(found: Sequence[object], names: list[str]) -> str:
    """What differs: "x on process 0 on lab0; y on process 1 on lab1", or "" when all found the
    same.
    """
    texts = [str(value) for value in found]
    who = {
        text: [name for name, other in zip(names, texts, strict=True) if other == text]
        for text in texts
    }
    if len(who) == 1:
        return ""
    return "; ".join(f"{text or 'none'} on {', '.join(names)}" for text, names in who.items())
