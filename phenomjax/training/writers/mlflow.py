"""Metrics and figures to an MLflow experiment."""

import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from phenomjax.config.checks import flatten
from phenomjax.system import locks
from phenomjax.system.errors import UserError
from phenomjax.system.types import Figure
from phenomjax.training.writers.workdir import run_name

log = logging.getLogger("phenomjax")
SEND_SECONDS = 60.0


class MLflow:
    """A run of an MLflow experiment. Its id stands in WORKDIR/mlflow_run, so that a run that is
    continued goes on in it.

    Its store is MLFLOW_TRACKING_URI, or an SQLite file beside the workdir, which all runs of that
    folder share. Metrics are sent once a minute and before a checkpoint; a store that does not
    answer costs no training: they are kept and sent before the next checkpoint.

    Raises:
      UserError: the store cannot be opened, or no longer has the run.
    """

    def __init__(self, workdir: Path, config: ConfigDict):
        # nothing is told to anybody unless the user wants it
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._metric, self._error = Metric, MlflowException
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        artifacts = None if uri else (workdir.parent / "mlflow_artifacts").as_uri()
        uri = uri or f"sqlite:///{workdir.parent / 'mlflow.db'}"
        self._waiting: list[Metric] = []
        self._next = time.monotonic() + SEND_SECONDS
        marker = workdir / "mlflow_run"
        params = {key: str(value) for key, value in flatten(config).items()}
        try:
            # two that begin at once would both make the tables, or the experiment
            with locks.wait_for(workdir.parent, file="mlflow.lock"):
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
                # The steps since the checkpoint are done again, with the same values: what the
                # store has is not sent twice.
                self._there = {
                    name: max(m.step for m in self._client.get_metric_history(self._id, name))
                    for name in stored.metrics
                }
                # params of MLflow never change; what changed goes into tags
                for key, value in params.items():
                    if stored.params.get(key) != value[:6000]:
                        self._client.set_tag(self._id, f"continued with {key}", value[:5000])
            else:
                created = self._client.create_run(experiment, run_name=run_name(workdir))
                self._id, self._there = created.info.run_id, {}
                items = [Param(key, value[:6000]) for key, value in params.items()]
                for start in range(0, len(items), 100):  # MLflow takes no more at once
                    self._client.log_batch(self._id, params=items[start : start + 100])
                marker.write_text(self._id + "\n")
        except MlflowException as error:
            raise UserError(
                f"MLflow at {uri} cannot be used: {' '.join(str(error).split())[:300].rstrip('.')}."
                f" Check MLFLOW_TRACKING_URI; if the run was deleted there, delete {marker} to"
                " begin a new one; or go on without: --config.log.mlflow_experiment=''."
            ) from None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self._waiting += [
            self._metric(name, value, now, step)
            for name, value in values.items()
            if step > self._there.get(name, -1)
        ]
        if time.monotonic() > self._next:
            self.flush()

    def figure(self, step: int, name: str, figure: Figure) -> None:
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
        self._next = math.inf
        try:
            while self._waiting:
                self._client.log_batch(self._id, metrics=self._waiting[:1000])
                del self._waiting[:1000]
            self._next = time.monotonic() + SEND_SECONDS
        except self._error as error:
            log.warning(
                "MLflow did not take %d values (%s); they are sent later",
                len(self._waiting),
                _first_line(error),
            )

    def close(self, done: bool = False) -> None:
        """Sends the rest, and how it ended: FINISHED where it is done, at the last step or by
        `stop_early`, FAILED after an error, else KILLED.
        """
        self.flush()
        failed = sys.exc_info()[0] is not None
        with contextlib.suppress(self._error):
            self._client.set_terminated(
                self._id,
                "FAILED" if failed else "FINISHED" if done else "KILLED",
            )


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
