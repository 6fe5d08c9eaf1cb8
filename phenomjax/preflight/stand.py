"""What the checks of a preflight share: one `Bench` a process."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from phenomjax.preflight.runner import Exchange, Result

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
      results: of the checks so far, the same on all processes.
      expect_gbps: Gbit/s of a host's network, 0.0 = not known.
    """

    def __init__(
        self, config: ConfigDict, folder: Path, exchange: Exchange, expect_gbps: float = 0.0
    ):
        self.config, self.folder, self.exchange, self.expect_gbps = (
            config,
            folder,
            exchange,
            expect_gbps,
        )
        self.mesh: Mesh | None = None
        self.unfit = ""  # why the configuration does not fit this host
        self.task: Any = None
        self.loader: Any = None
        self.state: Any = None
        self.results: dict[str, Result] = {}
        self.losses: list[dict[str, float]] = []


def differences(found: list[Any], names: list[str]) -> str:
    """What differs: "x on process 0 on lab0; y on process 1 on lab1", or "" when all found the
    same.
    """
    texts = [str(value) for value in found]
    who = {
        text: [name for name, other in zip(names, texts, strict=True) if other == text]
        for text in texts
    }
    return (
        ""
        if len(who) == 1
        else "; ".join(f"{text or 'none'} on {', '.join(names)}" for text, names in who.items())
    )


def size(count: float) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / MIB:.1f} MiB"
