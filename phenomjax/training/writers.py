"""Where metrics and figures go, on process 0: JSON lines always, TensorBoard when it is installed,
W&B and MLflow when they are asked for.
"""

import importlib.util
import json
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from ml_collections import ConfigDict

from phenomjax.system import files
from phenomjax.system.errors import UserError
from phenomjax.training.metrics import FILE, MetricsLine, read_metrics
from phenomjax.training.mlflow_writer import MLflow

log = logging.getLogger("phenomjax")


@runtime_checkable
class Writer(Protocol):
    """Takes scalars and figures of a step."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...
    def figure(self, step: int, name: str, figure: Any) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """metrics.jsonl: one object a line with `step` first. After a resume at step s, lines beyond s
    are cut and written again.
    """

    def __init__(self, path: Path, resume_step: int | None, redo: Collection[str] = ()):
        if resume_step is None:
            path.unlink(missing_ok=True)
        elif path.exists():
            lines, damaged = read_metrics(path)
            lines = [line for line in lines if line.step <= resume_step]
            lines = [line for line in lines if line.step < resume_step or not _of(line, redo)]
            torn_at_its_end = path.read_bytes()[-1:] != b"\n"
            for number in damaged[:-1] if torn_at_its_end else damaged:
                log.warning("line %d of %s is damaged, and is left out", number, path)
            files.write_text(path, "".join(line.text + "\n" for line in lines))
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


def _of(line: MetricsLine, groups: Collection[str]) -> bool:
    """Whether a line holds metrics of one of some groups, such as "val"."""
    return any(name.split("/")[0] in groups for name in line.values)


class TensorBoard:
    """Event files in WORKDIR/tensorboard."""

    def __init__(self, workdir: Path, resume_step: int | None):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            str(workdir / "tensorboard"),
            purge_step=None if resume_step is None else resume_step + 1,
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
            project=config.log.wandb_project,
            id=workdir.name,
            resume="allow",
            dir=str(workdir),
            config=config.to_dict(),
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def figure(self, step: int, name: str, figure: Any) -> None:
        self._run.log({name: self._wandb.Image(_pixels(figure))}, step=step)

    def flush(self) -> None:
        """W&B sends by itself."""

    def close(self) -> None:
        self._run.finish()


def open_writers(
    workdir: Path, config: ConfigDict, resume_step: int | None, redo: Collection[str] = ()
) -> list[Writer]:
    """Makes the writers on process 0, none elsewhere.

    Args:
      workdir: folder of the run.
      config: `log.*` is read.
      resume_step: step that was restored; None for a new run.
      redo: what the run stopped before at `resume_step`, "val" or "probe": lines of it of that step
        are cut too.

    Raises:
      UserError: W&B or MLflow was asked for and is not installed, or cannot be used.
    """
    if jax.process_index() != 0:
        return []
    result: list[Writer] = [JsonLines(workdir / FILE, resume_step, redo)]
    if config.log.tensorboard and importlib.util.find_spec("tensorboardX"):
        result.append(TensorBoard(workdir, resume_step))
    if config.log.wandb_project:
        if not importlib.util.find_spec("wandb"):
            raise UserError(
                f"config.log.wandb_project is '{config.log.wandb_project}' but wandb is not"
                " installed. Run `pip install wandb` and `wandb login`, or set"
                " --config.log.wandb_project=''."
            )
        result.append(WeightsAndBiases(workdir, config))
    if config.log.mlflow_experiment:
        missing = [
            name
            for name in ("mlflow", "sqlalchemy", "alembic")
            if not importlib.util.find_spec(name)
        ]
        if missing:
            raise UserError(
                f"config.log.mlflow_experiment is '{config.log.mlflow_experiment}' but"
                f" {' and '.join(missing)} is not installed. Run `pip install -e"
                " '.[logging]'` in the checkout, or set"
                " --config.log.mlflow_experiment=''."
            )
        result.append(MLflow(workdir, config))
    return result
