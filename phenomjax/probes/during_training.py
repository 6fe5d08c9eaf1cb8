"""Probes of a model while it trains: heads on its frozen parameters, every `probes.every_steps`
steps.

Process 0 computes, on its own devices and from a copy of the parameters, while the others wait; so
nothing of the training's state, random numbers or programs is touched. The computing stands in a
thread: a thread begins without the training's mesh and sharding rules, and the main thread stays
free to hear of signals together with the other processes.
"""

import contextlib
import dataclasses
import json
import logging
import math
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from phenomjax.cluster import messages
from phenomjax.cluster.messages import gather
from phenomjax.inference.sequences.queries import Queries
from phenomjax.probes import metrics
from phenomjax.probes.features import embeddings
from phenomjax.probes.methods import neighbours, training
from phenomjax.probes.suites import dataset, suite_file
from phenomjax.probes.suites.dataset import Dataset
from phenomjax.probes.suites.suite import Mutations
from phenomjax.state import TrainState
from phenomjax.system.errors import UserError, did_you_mean
from phenomjax.system.types import Params
from phenomjax.tasks.language_model import LanguageModel
from phenomjax.trained.model import SequenceModel
from phenomjax.training.context import RunContext

log = logging.getLogger("phenomjax")
THREAD = "probes"
POLL_SECONDS = 0.5  # between two questions whether a signal came


@dataclasses.dataclass(frozen=True)
class ProbedTask:
    """One task.

    Attributes:
      data: its rows.
      encoded: its sequences, in the tokens of the model.
      head: that is trained, the first of the task's.
    """

    data: Dataset
    encoded: Queries
    head: str


class Probing:
    """An evaluator of a run: the tasks of `probes.suite` that the model can read; those of labels,
    since mutation effects need no training.

    Args:
      run: of which the task is a LanguageModel.

    Raises:
      UserError: the suite, or a file of it, has a mistake; no task is left;
        `checkpoint.best_metric` or `stop_early.metric` is none of the probes.
    """

    name = "probe"

    def __init__(self, run: RunContext):
        self._run, self._config = run, run.config
        self.every_steps: int = run.config.probes.every_steps
        task = cast(LanguageModel, run.task)
        self._model = SequenceModel(Path("step 0"), 0, run.config, task, {}, "")
        self._embedder: embeddings.Embedder | None = None
        self._probes: list[ProbedTask] = []
        if messages.is_main():
            self._read()
        messages.barrier("probes read", self._config.watchdog.slow_seconds)

    def _read(self) -> None:
        """Reads all data once, before the first step."""
        self._suite = suite_file.load(self._config.probes.suite, self._config.probes.data)
        alphabet, left_out = self._model.task.words.name, []
        for name, entry in self._suite.tasks.items():
            if isinstance(entry, Mutations) or entry.alphabet != alphabet:
                left_out.append(name)
                continue
            data = dataset.load(name, entry, Path(self._suite.data))
            try:
                encoded = embeddings.encode(self._model, data.sequences)
            except UserError as error:
                raise UserError(
                    f"Task '{name}' of the suite {self._config.probes.suite}: {error}"
                ) from None
            self._probes.append(ProbedTask(data, encoded, entry.heads[0]))
        names = self.names()
        if not names:
            raise UserError(
                f"The suite {self._config.probes.suite} has no task to probe this model with: it"
                f" reads {alphabet}, and of mutations' effects, which need no head, there are no"
                f" probes. Left out: {', '.join(left_out) or 'nothing'}. Give another"
                " --config.probes.suite, or --config.probes.every_steps=0."
            )
        c = self._config
        for key, metric in (
            ("checkpoint.best_metric", c.checkpoint.best_metric),
            ("stop_early.metric", c.stop_early.metric),
        ):
            if metric not in ("", "val/loss", *names):
                raise UserError(
                    f"config.{key} is '{metric}'.{did_you_mean(metric, names)} It can be val/loss,"
                    f" {', '.join(names)}."
                )
        log.info(
            "probes every %d steps: %s%s",
            self._config.probes.every_steps,
            ", ".join(names),
            f"; left out: {', '.join(left_out)}" if left_out else "",
        )

    def names(self) -> list[str]:
        """What is measured: of every label and test set the metric to judge by."""
        return [
            _name(probe.data, label, labels.metric, test)
            for probe in self._probes
            for label, labels in probe.data.labels.items()
            for test in probe.data.tests
            if labels.known()[probe.data.rows(test)].any()
        ]

    def run(self, state: TrainState, step: int) -> dict[str, float] | None:
        """Probes the parameters of a state; see `measure`."""
        with self._run.phase("probing", slow=True):
            return self.measure(step, self._run.judged(state))

    def measure(self, step: int, params: Params) -> dict[str, float] | None:
        """Probes parameters; all processes call it together.

        Args:
          step: that they are of.
          params: in any sharding; they are not changed.

        Returns:
          In all processes {name: value} with the ends of the 95 % intervals as name_low and
          name_high; what is not defined is left out. None when a signal asked to stop.

        Raises:
          UserError: the features are no numbers.
        """
        host = _gathered(params)
        if messages.stop_requested():
            return None
        stop, seconds = threading.Event(), self._config.watchdog.slow_seconds
        with _quiet(), futures.ThreadPoolExecutor(1, THREAD) as pool:
            future = pool.submit(self._compute, step, host, stop) if messages.is_main() else None
            try:
                word = ""
                while not word:
                    if future and not futures.wait([future], POLL_SECONDS).not_done:
                        word = json.dumps(future.result())
                    word = gather("probes", word, seconds)[0]
                    # The answer of a sync point is given once: who hears it here must stop.
                    if not word and messages.stop_requested():
                        stop.set()
                return None if stop.is_set() else json.loads(word)
            finally:
                stop.set()  # after an error nobody waits for the rest

    def _compute(self, step: int, params: Params, stop: threading.Event) -> dict[str, float]:
        """In the thread of process 0."""
        model = dataclasses.replace(
            self._model, path=Path(f"step {step}"), step=step, params=params
        )
        self._embedder = self._embedder or embeddings.Embedder(model)
        self._embedder.use(model)
        values: dict[str, float] = {}
        try:
            # `measure` set the event, and tells of it
            with contextlib.suppress(embeddings.Stopped):
                for probe in self._probes:
                    features = self._embedder.compute(probe.encoded, probe.data.per, stop)
                    if probe.head == "nearest":
                        scores = [neighbours.predict(features, probe.data)]
                    else:
                        scores = training.fit_predict(
                            features, probe.data, probe.head, self._suite.training, stop
                        )
                    for row in metrics.evaluate(probe.data, scores, self._suite.bootstrap_draws):
                        values |= _values(probe.data, row)
        finally:
            # the copy on the devices is not needed until the next time
            self._embedder.use(self._model)
        return values


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the log to the one line of what was found: progress of embedding and heads is for jobs
    of their own.
    """

    def wanted(record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or not str(record.threadName).startswith(THREAD)

    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)


def _values(data: Dataset, row: metrics.Measured) -> dict[str, float]:
    """What a row of results gives to the log, if it is of the metric to judge by; of residues all
    count alike.
    """
    if (
        row["metric"] != data.labels[row["label"]].metric
        or row["split"] not in data.tests
        or row["average"] == "protein"
    ):
        return {}
    name = _name(data, row["label"], row["metric"], row["split"])
    low, high = row["interval"] or (None, None)
    ends = {name: row["value"], f"{name}_low": low, f"{name}_high": high}
    return {key: value for key, value in ends.items() if value is not None and math.isfinite(value)}


def _name(data: Dataset, label: str, metric: str, test: str) -> str:
    """probe/TASK/LABEL/METRIC, with the test set behind it where there are several."""
    return f"probe/{data.name}/{label}/{metric}" + (f"/{test}" if len(data.tests) > 1 else "")


def _gathered(params: Params) -> Params:
    """A copy of sharded parameters in the memory of each host, array by array: no device ever holds
    them all.
    """

    def fetch(x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable or x.is_fully_replicated:
            # the training step will write over what it was given
            return np.array(jax.device_get(x))
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(fetch, params)
