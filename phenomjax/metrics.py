"""Metrics: windows of step metrics, peak rates for MFU, and the writers (JSON lines always, TensorBoard, opt-in W&B) on process 0."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from ml_collections import ConfigDict

from phenomjax.errors import UserError

# Dense bf16 peak in TFLOP/s by a part of jax's device_kind (vendors' data sheets).
PEAK_TFLOPS = {
    "H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "B200": 2250.0, "V100": 125.0,
    "TPU v4": 275.0, "TPU v5 lite": 197.0, "TPU v5p": 459.0, "TPU v6": 918.0,
}  # fmt: skip


def peak_flops() -> float | None:
    """Peak bf16 FLOP/s of all devices together, or None when the device is not known (a CPU, say)."""
    kind = jax.devices()[0].device_kind
    found = [tflops for name, tflops in PEAK_TFLOPS.items() if name in kind]
    return found[0] * 1e12 * jax.device_count() if found else None


class Window:
    """Sums of scalar metrics since the last log line. It travels in the checkpoint, so a resumed run logs the same means."""

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


@runtime_checkable
class Writer(Protocol):
    """Takes scalars and figures of a step."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...
    def figure(self, step: int, name: str, figure: Any) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """metrics.jsonl: one object a line with `step` first. After a resume at step s, lines beyond s are cut and written again."""

    def __init__(self, path: Path, resume_step: int | None, keep: Any = lambda line: True):
        if resume_step is not None and path.exists():
            lines = [line for line in path.read_text().split("\n")[:-1] if line]  # a torn last line has no newline
            lines = [line for line in lines if (d := json.loads(line))["step"] <= resume_step and keep(d)]
            part = path.with_suffix(".part")
            part.write_text("".join(line + "\n" for line in lines))
            os.replace(part, path)
        elif path.exists():
            path.unlink()
        self._file = path.open("a")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")

    def figure(self, step: int, name: str, figure: Any) -> None:
        """Figures are files; the loop writes them."""

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()


class TensorBoard:
    """Event files in WORKDIR/tensorboard."""

    def __init__(self, workdir: Path, resume_step: int | None):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=None if resume_step is None else resume_step + 1
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def figure(self, step: int, name: str, figure: Any) -> None:
        self._writer.add_image(name, _pixels(figure), step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _pixels(figure: Any) -> np.ndarray:
    """A drawn figure as uint8 (height, width, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


class WeightsAndBiases:
    """A W&B run named after the workdir; resumed under the same id."""

    def __init__(self, workdir: Path, config: ConfigDict):
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=config.log.wandb_project, id=workdir.name, resume="allow", dir=str(workdir), config=config.to_dict()
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def figure(self, step: int, name: str, figure: Any) -> None:
        self._run.log({name: self._wandb.Image(_pixels(figure))}, step=step)

    def flush(self) -> None:
        """W&B sends by itself."""

    def close(self) -> None:
        self._run.finish()


def writers(workdir: Path, config: ConfigDict, resume_step: int | None, redo_eval: bool) -> list[Writer]:
    """Makes the writers on process 0, none elsewhere.

    Args:
      workdir: folder of the run.
      config: `log.*` is read.
      resume_step: step that was restored; None for a new run.
      redo_eval: the run stopped before the evaluation of `resume_step` was done, so a val line of that step is cut too.

    Raises:
      UserError: W&B was asked for and is not installed.
    """
    if jax.process_index() != 0:
        return []
    result: list[Writer] = [
        JsonLines(
            workdir / "metrics.jsonl",
            resume_step,
            lambda d: not (redo_eval and d["step"] == resume_step and "val/loss" in d),
        )
    ]
    if config.log.tensorboard and importlib.util.find_spec("tensorboardX"):
        result.append(TensorBoard(workdir, resume_step))
    if config.log.wandb_project:
        if not importlib.util.find_spec("wandb"):
            raise UserError(
                f"config.log.wandb_project is '{config.log.wandb_project}' but wandb is not installed. Run `pip install wandb` and `wandb login`, "
                "or set --config.log.wandb_project=''."
            )
        result.append(WeightsAndBiases(workdir, config))
    return result
