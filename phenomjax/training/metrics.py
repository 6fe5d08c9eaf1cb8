"""Metrics: windows of step metrics, and peak rates for MFU. Where they are written stands in
writers.py.
"""

from typing import Any

import jax

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
    """Peak bf16 FLOP/s of all devices together, or None when the device is not known (a CPU, say)."""
    kind = jax.devices()[0].device_kind
    found = [tflops for name, tflops in PEAK_TFLOPS.items() if name in kind]
    return found[0] * 1e12 * jax.device_count() if found else None


class Window:
    """Sums of scalar metrics since the last log line.

    It travels in the checkpoint, so a resumed run logs the same means.
    """

    def __init__(self, state: dict[str, Any] | None = None):
        self.sums: dict[str, float] = dict(state["sums"]) if state else {}
        self.count: int = state["count"] if state else 0

    def add(self, metrics: dict[str, float]) -> None:
        """Adds one step's metrics."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def mean(self) -> dict[str, float]:
        """Means over the window; the window starts anew."""
        means = {name: value / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"sums": dict(self.sums), "count": self.count}
