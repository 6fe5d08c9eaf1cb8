"""Where metrics and figures go, on process 0: JSON lines always, TensorBoard when it is installed,
W&B and MLflow when they are asked for.
"""

import importlib.util
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

import jax
from ml_collections import ConfigDict

from phenomjax.cluster import messages
from phenomjax.system.errors import UserError
from phenomjax.system.types import Figure
from phenomjax.training.context import RunContext
from phenomjax.training.feed import ItemIds
from phenomjax.training.metrics import Found
from phenomjax.training.writers.mlflow import MLflow
from phenomjax.training.writers.tensorboard import TensorBoard
from phenomjax.training.writers.weights_and_biases import WeightsAndBiases
from phenomjax.training.writers.workdir import WorkdirFiles

log = logging.getLogger("phenomjax")


class Writer(Protocol):
    """Takes scalars and figures of a step."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...
    def figure(self, step: int, name: str, figure: Figure) -> None: ...
    def flush(self) -> None: ...
    def close(self, done: bool = False) -> None: ...


class Writers:
    """All writers of this process, as one.

    Args:
      writers: where metrics and figures go; none but in process 0.
      samples: where this process records the items of every step, or None.
      block: number of the block of a global batch's rows that this process reads.

    Attributes:
      done: whether the run has come to its end, be it before its last step.
    """

    def __init__(self, writers: Sequence[Writer], samples: Path | None, block: int):
        self.writers, self._block = writers, block
        self._samples = samples.open("a") if samples else None
        self.done = False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the metrics of a step."""
        for writer in self.writers:
            writer.scalars(step, values)

    def found(self, step: int, found: Found) -> dict[str, float]:
        """Writes, and logs, what an evaluator found; returns its metrics without the figures."""
        drawn = [name for name, each in found.items() if hasattr(each, "savefig")]
        values = {n: cast(float, value) for n, value in found.items() if n not in drawn}
        if values:
            # the ends of intervals are for the files
            said = {n: v for n, v in values.items() if not n.endswith(("_low", "_high"))}
            log.info("step %d  %s", step, "  ".join(f"{n} {v:.4f}" for n, v in said.items()))
            self.scalars(step, values)
        for name in drawn:
            for writer in self.writers:
                writer.figure(step, name, cast(Figure, found[name]))
        return values

    def samples(self, step: int, ids: ItemIds) -> None:
        """Records the items of this process's rows of a step, if that is asked for."""
        if self._samples:
            line = {"step": step, "first_row": self._block * len(ids), "ids": ids.tolist()}
            self._samples.write(json.dumps(line) + "\n")

    def flush(self) -> None:
        """Brings to the disk, or sends, what was written."""
        if self._samples:
            self._samples.flush()
        for writer in self.writers:
            writer.flush()

    def close(self) -> None:
        """Writes the rest, and ends."""
        if self._samples:
            self._samples.close()
        for writer in self.writers:
            writer.close(self.done)


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
        run.block,
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
