"""Where metrics and figures go, on process 0: JSON lines always, TensorBoard when it is installed,
W&B and MLflow when they are asked for.
"""

import importlib.util
import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TextIO

import jax
import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from phenomjax.cluster import messages
from phenomjax.system import files
from phenomjax.system.errors import UserError
from phenomjax.training.context import RunContext
from phenomjax.training.evaluators import Found
from phenomjax.training.feed import ItemIds
from phenomjax.training.metrics import FILE, MetricsLine, read_metrics
from phenomjax.training.mlflow_writer import MLflow

log = logging.getLogger("phenomjax")


class Writer(Protocol):
    """Takes scalars and figures of a step."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...
    def figure(self, step: int, name: str, figure: Figure) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class WorkdirFiles:
    """WORKDIR/metrics.jsonl, one object a line with `step` first, and WORKDIR/figures.

    Args:
      workdir: folder of the run.
      resume_step: the step that was restored: lines beyond it are cut and written again; None for a
        new run.
      redo: evaluators that are to run again at that step: lines of theirs are cut too.
    """

    def __init__(self, workdir: Path, resume_step: int | None, redo: Collection[str] = ()):
        self._figures, path = workdir / "figures", workdir / FILE
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

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")

    def figure(self, step: int, name: str, figure: Figure) -> None:
        path = files.save_figure(figure, self._figures / f"{name}_{step:07d}.png", dpi=110)
        log.info("wrote %s", path)

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()


def _of(line: MetricsLine, evaluators: Collection[str]) -> bool:
    """Whether a line holds metrics of one of some evaluators."""
    return any(name.split("/")[0] in evaluators for name in line.values)


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


class Writers:
    """All writers of this process, as one.

    Args:
      writers: where metrics and figures go; none but in process 0.
      samples: where this process records the items of every step, or None.
      first_row: of the global batch that this process reads.
    """

    def __init__(self, writers: Sequence[Writer], samples: Path | None, first_row: int):
        self.writers, self._first_row = writers, first_row
        self._samples = samples.open("a") if samples else None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the metrics of a step."""
        for writer in self.writers:
            writer.scalars(step, values)

    def found(self, step: int, found: Found) -> dict[str, float]:
        """Writes, and logs, what an evaluator found; returns its metrics without the figures."""
        figures = {name: each for name, each in found.items() if isinstance(each, Figure)}
        values = {name: each for name, each in found.items() if not isinstance(each, Figure)}
        if values:
            # the ends of intervals are for the files
            said = {n: v for n, v in values.items() if not n.endswith(("_low", "_high"))}
            log.info("step %d  %s", step, "  ".join(f"{n} {v:.4f}" for n, v in said.items()))
            self.scalars(step, values)
        for name, figure in figures.items():
            for writer in self.writers:
                writer.figure(step, name, figure)
        return values

    def samples(self, step: int, ids: ItemIds) -> None:
        """Records the items of this process's rows of a step, if that is asked for."""
        if self._samples:
            line = {"step": step, "first_row": self._first_row, "ids": ids.tolist()}
            self._samples.write(json.dumps(line) + "\n")

    def flush(self) -> None:
        """Brings to the disk, or sends, what was written."""
        for each in self._all():
            each.flush()

    def close(self) -> None:
        """Writes the rest, and ends."""
        for each in self._all():
            each.close()

    def _all(self) -> list[Writer | TextIO]:
        return [*([self._samples] if self._samples else []), *self.writers]


def open_writers(run: RunContext, resume_step: int | None, redo: Collection[str] = ()) -> Writers:
    """Opens the writers of this process.

    Args:
      run: that is written about; `log.*` of its configuration is read.
      resume_step: step that was restored; None for a new run.
      redo: evaluators that are to run again at `resume_step`.

    Raises:
      UserError: W&B or MLflow was asked for and is not installed, or cannot be used.
    """
    main = messages.is_main()
    samples = run.workdir / "logs" / f"samples_{jax.process_index():03d}.jsonl"
    return Writers(
        main_writers(run.workdir, run.config, resume_step, redo) if main else [],
        samples if run.config.log.sample_ids else None,
        run.first_row,
    )


def main_writers(
    workdir: Path, config: ConfigDict, resume_step: int | None, redo: Collection[str] = ()
) -> list[Writer]:
    """The writers of process 0; arguments and errors as of `open_writers`."""
    result: list[Writer] = [WorkdirFiles(workdir, resume_step, redo)]
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
