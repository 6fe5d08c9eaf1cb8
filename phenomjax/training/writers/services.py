"""Metrics and figures to TensorBoard and to Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ml_collections import ConfigDict


class TensorBoard:
    """Event files in WORKDIR/tensorboard."""

    def __init__(self, workdir: Path, resume_step: int | None):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            str(workdir / "tensorboard"),
            purge_step=None if resume_step is None else resume_step + 1,
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def figure(self, step: int, name: str, figure: Figure) -> None:
        self._writer.add_image(name, _pixels(figure), step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _pixels(figure: Figure) -> UInt8[np.ndarray, "height width 3"]:
    """A drawn figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


class WeightsAndBiases:
    """A W&B run named after the workdir; resumed under the same id."""

    def __init__(self, workdir: Path, config: ConfigDict):
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=config.log.wandb_project,
            id=workdir.name,
            resume="allow",
            dir=str(workdir),
            config=config.to_dict(),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(values, step=step)

    def figure(self, step: int, name: str, figure: Figure) -> None:
        self._run.log({name: self._wandb.Image(_pixels(figure))}, step=step)

    def flush(self) -> None:
        """W&B sends by itself."""

    def close(self) -> None:
        self._run.finish()
