"""Where metrics and figures go, on process 0: JSON lines always, TensorBoard when it is installed, W&B and MLflow when they are asked for."""

import contextlib
import fcntl
import importlib.util
import json
import logging
import os
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from ml_collections import ConfigDict

from phenomjax.config import flatten
from phenomjax.errors import UserError

log = logging.getLogger("phenomjax")


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


class MLflow:
    """A run of an MLflow experiment. Its id stands in WORKDIR/mlflow_run, so that a run that is continued goes on in it.

    Its store is MLFLOW_TRACKING_URI, or an SQLite file beside the workdir, which all runs of that folder share. Metrics are sent when the loop
    flushes, that is before a checkpoint; a store that does not answer costs no training: they are kept and sent later.

    Raises:
      UserError: the store cannot be opened, or no longer has the run.
    """

    def __init__(self, workdir: Path, config: ConfigDict):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing is told to anybody unless the user wants it
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._metric, self._error = Metric, MlflowException
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        artifacts = None if uri else (workdir.parent / "mlflow_artifacts").as_uri()
        uri = uri or f"sqlite:///{workdir.parent / 'mlflow.db'}"
        self._num_steps, self._step = config.num_steps, 0
        self._waiting: list[Any] = []
        marker, params = workdir / "mlflow_run", {key: str(value) for key, value in flatten(config).items()}
        try:
            with self._alone(
                workdir.parent / "mlflow.lock"
            ):  # two that begin at once would both make the tables, or the experiment
                self._client = MlflowClient(uri)
                found = self._client.get_experiment_by_name(config.log.mlflow_experiment)
                experiment = (
                    found.experiment_id
                    if found
                    else self._client.create_experiment(config.log.mlflow_experiment, artifacts)
                )
            if marker.exists():
                self._id = marker.read_text().strip()
                stored = self._client.get_run(self._id).data
                self._client.update_run(self._id, status="RUNNING")
                # The steps since the checkpoint are done again, with the same values: what the store has is not sent twice.
                self._there = {
                    name: max(m.step for m in self._client.get_metric_history(self._id, name))
                    for name in stored.metrics
                }
                for key, value in params.items():  # params of MLflow never change; what changed goes into tags
                    if stored.params.get(key) != value[:6000]:
                        self._client.set_tag(self._id, f"continued with {key}", value[:5000])
            else:
                self._id, self._there = self._client.create_run(experiment, run_name=workdir.name).info.run_id, {}
                items = [Param(key, value[:6000]) for key, value in params.items()]
                for start in range(0, len(items), 100):  # MLflow takes no more at once
                    self._client.log_batch(self._id, params=items[start : start + 100])
                marker.write_text(self._id + "\n")
        except MlflowException as error:
            raise UserError(
                f"MLflow at {uri} cannot be used: {' '.join(str(error).split())[:300].rstrip('.')}. Check MLFLOW_TRACKING_URI; if the run was "
                f"deleted there, delete {marker} to begin a new one; or go on without: --config.log.mlflow_experiment=''."
            ) from None

    @staticmethod
    @contextlib.contextmanager
    def _alone(path: Path):
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._step, now = step, int(1000 * time.time())
        self._waiting += [
            self._metric(name, value, now, step) for name, value in values.items() if step > self._there.get(name, -1)
        ]

    def figure(self, step: int, name: str, figure: Any) -> None:
        try:
            self._client.log_figure(self._id, figure, f"{name}_{step:07d}.png")
        except (self._error, OSError) as error:
            log.warning(
                "MLflow did not take figure %s of step %d (%s); it is in WORKDIR/figures",
                name,
                step,
                _first_line(error),
            )

    def flush(self) -> None:
        try:
            while self._waiting:
                self._client.log_batch(self._id, metrics=self._waiting[:1000])
                del self._waiting[:1000]
        except self._error as error:
            log.warning(
                "MLflow did not take %d values (%s); they are sent later", len(self._waiting), _first_line(error)
            )

    def close(self) -> None:
        """Sends the rest; FINISHED at the last step, FAILED after an error, KILLED when the run was stopped before."""
        self.flush()
        failed = sys.exc_info()[0] is not None
        with contextlib.suppress(self._error):
            self._client.set_terminated(
                self._id, "FAILED" if failed else "FINISHED" if self._step >= self._num_steps else "KILLED"
            )


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def open_writers(
    workdir: Path, config: ConfigDict, resume_step: int | None, redo: Collection[str] = ()
) -> list[Writer]:
    """Makes the writers on process 0, none elsewhere.

    Args:
      workdir: folder of the run.
      config: `log.*` is read.
      resume_step: step that was restored; None for a new run.
      redo: what the run stopped before at `resume_step`, "val" or "probe": lines of it of that step are cut too.

    Raises:
      UserError: W&B or MLflow was asked for and is not installed, or cannot be used.
    """
    if jax.process_index() != 0:
        return []
    result: list[Writer] = [
        JsonLines(
            workdir / "metrics.jsonl",
            resume_step,
            lambda d: d["step"] != resume_step or not any(name.split("/")[0] in redo for name in d),
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
    if config.log.mlflow_experiment:
        missing = [name for name in ("mlflow", "sqlalchemy", "alembic") if not importlib.util.find_spec(name)]
        if missing:
            raise UserError(
                f"config.log.mlflow_experiment is '{config.log.mlflow_experiment}' but {' and '.join(missing)} is not installed. Run `pip install "
                "-r requirements-logging.txt` (or `pip install 'phenomjax[logging]'`), or set --config.log.mlflow_experiment=''."
            )
        result.append(MLflow(workdir, config))
    return result
