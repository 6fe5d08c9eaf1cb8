"""Metrics and figures to TensorBoard."""

from collections.abc import Mapping
from pathlib import Path

from phenomjax.system.types import Figure
from phenomjax.training.writers.pixels import pixels


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
        self._writer.add_image(name, pixels(figure), step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self, done: bool = False) -> None:
        self._writer.close()
