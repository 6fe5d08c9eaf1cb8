"""How fast a run is between two log lines: items a second, waiting for data, MFU, time left."""

import time
from dataclasses import dataclass

import jax

from phenomjax.system.log import duration
from phenomjax.training.goodput import Goodput

# Dense bf16 peak in TFLOP/s by a part of jax's device_kind (vendors' data sheets).
PEAK_TFLOPS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "B200": 2250.0,
    "V100": 125.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5p": 459.0,
    "TPU v6": 918.0,
}


def peak_flops() -> float | None:
    """Peak bf16 FLOP/s of all devices together; None for unknown ones, such as a CPU."""
    kind = jax.devices()[0].device_kind
    found = [tflops for name, tflops in PEAK_TFLOPS.items() if name in kind]
    return found[0] * 1e12 * jax.device_count() if found else None


@dataclass(frozen=True)
class Lap:
    """The steps since the last stop.

    Attributes:
      steps: how many.
      seconds: that they took, without compilation and profiles.
      waited: seconds of these in which the next batch was not there.
      flops: model FLOPs of these steps.
      rows: that they read.
    """

    steps: int
    seconds: float
    waited: float
    flops: float
    rows: int

    def metrics(self, unit: str, units_per_row: int) -> dict[str, float]:
        """Rates for the log.

        Args:
          unit: what is counted: "images", "residues".
          units_per_row: how many of these a row has.
        """
        values = {
            f"perf/{unit}_per_s": self.rows * units_per_row / self.seconds,
            "perf/data_wait": min(self.waited / self.seconds, 1.0),
        }
        if peak := peak_flops():
            values["perf/mfu"] = self.flops / self.seconds / peak
        return values

    def left(self, steps: int) -> str:
        """How long this many more steps take, as h:mm:ss."""
        return duration(steps * self.seconds / self.steps)


class Rates:
    """Counts steps; log lines, evaluations and checkpoints do not count, nor do compilation and
    profiles.

    Args:
      goodput: knows what was spent on data and compilation.
    """

    def __init__(self, goodput: Goodput):
        self._goodput = goodput
        self.restart()

    def restart(self) -> None:
        """The next step is the first to count."""
        self._since, self._before = time.perf_counter(), dict(self._goodput.seconds)
        self._steps, self._flops, self._rows = 0, 0.0, 0

    def step(self, flops: float, rows: int) -> None:
        """Counts a step of so many model FLOPs and rows."""
        self._steps, self._flops = self._steps + 1, self._flops + flops
        self._rows += rows

    def lap(self) -> Lap:
        """What was counted so far."""
        spent = {name: s - self._before[name] for name, s in self._goodput.seconds.items()}
        seconds = time.perf_counter() - self._since - spent["compilation"] - spent["profile"]
        return Lap(self._steps, max(seconds, 1e-9), spent["data"], self._flops, self._rows)
