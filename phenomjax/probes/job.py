"""The evaluation of checkpoints on a suite: tasks x methods, each kept as soon as it is done, then
the report. phenomjax.evaluate is its door.
"""

import dataclasses
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from phenomjax.cluster import start
from phenomjax.data import store
from phenomjax.data.sequences import mmseqs
from phenomjax.engine import choose
from phenomjax.engine.units import Executor
from phenomjax.inference.options import check_one_process
from phenomjax.probes import figure_arrays, metrics
from phenomjax.probes.features.cache import FeatureCache
from phenomjax.probes.features.embeddings import Stopped
from phenomjax.probes.finished_parts import FinishedPart, FinishedParts
from phenomjax.probes.methods import baselines, mutations, neighbours, training
from phenomjax.probes.metrics import Measured, Scores
from phenomjax.probes.options import Options, chosen, model_names
from phenomjax.probes.reports import details, results, verdicts, write
from phenomjax.probes.suites import alignment, dataset, leakage, suite_file
from phenomjax.probes.suites.dataset import Dataset
from phenomjax.probes.suites.suite import Mutations, Suite, Task
from phenomjax.system import ending, files, locks
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.log import Progress, counted
from phenomjax.system.processes import stop_on_signals
from phenomjax.trained import opening
from phenomjax.trained.model import SequenceModel
from phenomjax.trained.twin import random_twin

log = logging.getLogger("phenomjax")


def run(options: Options, command: str) -> int:
    """Evaluates; returns the exit code.

    Args:
      options: of the command.
      command: to make the report again.

    Raises:
      UserError: a mistake in the options or the input.
    """
    begin = time.monotonic()
    if not options.checkpoint:
        raise UserError("`checkpoint` names no folder: give the workdir of a run.")
    # small models take longer to compile, for each length of sequences, than to run
    start.use_compilation_cache()
    suite = chosen(suite_file.load(options.suite, options.data), options.tasks)
    names = model_names(options.checkpoint, options.names)
    if not Path(suite.data).is_dir():
        raise UserError(
            f"The data folder of the suite, {suite.data}, does not"
            f" exist.{store.beside(suite.data)} Say with `data` where its files are; the"
            " suite's file names each of them and where it is from."
        )
    if options.out.is_file():
        raise UserError(
            f"`out` {options.out} is a file; it must be a folder, which is made where there is"
            " none."
        )
    busy = f"Another process is writing {options.out} now. Wait for it, or give another `out`."
    check_one_process(options)
    if options.engine != "local":
        jax.config.update("jax_platforms", "cpu")  # devices are the workers'
    with (
        stop_on_signals() as stop,
        locks.hold(options.out, busy),
        choose.executor(options, (options.cache or options.out / "cache").absolute()) as executor,
    ):
        checkpoints = dict(zip(names, options.checkpoint, strict=True))
        of_engine = None if options.engine == "local" else executor
        evaluation = Evaluation(options, suite, checkpoints, stop, of_engine)
        try:
            evaluation.run()
        except Stopped:
            log.info("stopped; the same command goes on from here")
            return EXIT_STOPPED
    found, unread = evaluation.details, evaluation.unread
    found.command, found.seconds = command, time.monotonic() - begin
    paths = write.write(options.out, evaluation.rows, found, suite)
    judged = verdicts.judge(evaluation.rows, suite)
    for line in verdicts.summary(judged):
        log.info("%s", line.replace("**", ""))
    page, *others = sorted(paths, key=lambda path: path.suffix != ".html")
    figures = sum(path.suffix == ".png" for path in others)
    ending.wrote(page, f"for a browser, with {counted(figures, 'figure')}; report.md, results.json")
    ending.note(verdicts=[one.as_dict() for one in judged], unread=unread)
    more = ["--data", options.data] if options.data else []
    words = [*options.checkpoint, "runs/other", "--suite", options.suite, *more]
    ending.then(
        "another run beside it; what is done is kept",
        "python -m phenomjax.evaluate --checkpoint" + " {}" * len(words) + " --out {}",
        *words,
        options.out,
    )
    if unread:
        log.warning("%d tasks could not be read, see above: %s", len(unread), ", ".join(unread))
    return EXIT_FAILED if unread else EXIT_DONE


@dataclass(frozen=True)
class Method:
    """One method on one task; `key` is what its part is made of."""

    task: str
    name: str
    key: list[object]
    make: Callable[[], FinishedPart]


class Evaluation:
    """All parts of an evaluation.

    Args:
      options: of the command.
      suite: what is evaluated.
      checkpoints: {name: folder}.
      stop: an event.
      executor: of an engine that computes features; None: this process.

    Attributes:
      rows: of results.
      details: for the report.
      unread: tasks whose files have mistakes.
    """

    def __init__(
        self,
        options: Options,
        suite: Suite,
        checkpoints: dict[str, str],
        stop: threading.Event,
        executor: Executor | None = None,
    ):
        self.options, self.suite, self.checkpoints, self.stop = options, suite, checkpoints, stop
        self.parts = FinishedParts(options.out / "parts")
        self.cache = FeatureCache((options.cache or options.out / "cache").absolute(), executor)
        self.rows: list[results.Row] = []
        self.details = details.Details(suite=options.suite, data=suite.data)
        self.unread: list[str] = []
        self._data, self._alignments = Path(suite.data), self.cache.folder / "mmseqs"
        self._datasets: dict[str, Dataset] = {}

    def run(self) -> None:
        """Reads all tasks, then computes what no earlier start has left."""
        dtype = self.options.compute_dtype or ""
        models = {
            name: opening.load_sequences(path, dtype) for name, path in self.checkpoints.items()
        }
        self._read({model.task.words.name for model in models.values()})
        if self.unread and not self.suite.tasks.keys() - self.unread:
            raise UserError("No task could be read; each mistake stands above, with what mends it.")
        methods = list(self._without_model())
        for name, model in models.items():
            size = sum(x.size for x in jax.tree.leaves(model.params))
            self.details.checkpoints.append(
                details.EvaluatedModel(
                    name, str(model.path), model.step, model.fingerprint, size, model.config.task
                )
            )
            methods += self._of_model(name, model)
        bar = Progress("evaluate", len(methods), "parts", every_seconds=0.0)
        for one in methods:
            if self.stop.is_set():
                raise Stopped
            part = self.parts.get(one.key, one.make)
            self._add(one.task, part)
            told = headline(self.suite.tasks[one.task], part.rows)
            log.info("%s, %s: %s", one.task, one.name, told)
            bar.update()
        self._leakage(models)

    def _read(self, alphabets: set[str]) -> None:
        """Reads the data of every task before anything is computed: mistakes are told in the first
        minute.
        """
        for name, task in self.suite.tasks.items():
            alphabet = _alphabet(task)
            if alphabet not in alphabets:
                self.details.notes.append(f"{name} was left out: no checkpoint reads {alphabet}.")
                log.info("%s is left out: no checkpoint reads %s", name, alphabet)
                continue
            try:
                if isinstance(task, Mutations):
                    # reads, and checks every variant
                    (row,) = mutations.baseline_rows(name, task, self._data, 0)
                    self.details.tasks[name] = {"variants": row["count"] or 0}
                else:
                    self._read_dataset(name, task)
            except UserError as error:
                log.error("%s", error)
                self.details.notes.append(f"{name} could not be read: {error}")
                self.unread.append(name)

    def _read_dataset(self, name: str, task: Task) -> None:
        found = dataset.load(name, task, self._data, self._alignments)
        if task.identities and mmseqs.available():
            found = alignment.add_identity_subsets(found, task.identities, cache=self._alignments)
        if (task.identities or "alignment" in task.baselines) and not mmseqs.available():
            told = "so nothing is compared with alignment"
            self.details.notes.append(f"{name}: MMseqs2 is not on the PATH, {told}.")
            log.warning("%s: mmseqs is not on the PATH, %s", name, told)
        counts = {
            split: int((found.split == split).sum())
            for split in ("train", "validation", *found.tests)
        }
        self.details.tasks[name] = {**counts, "fingerprint": found.fingerprint}
        self._datasets[name] = found

    def _without_model(self) -> Iterator[Method]:
        """What stands on no model."""
        for name, task in self.suite.tasks.items():
            if isinstance(task, Mutations):
                if name in self.details.tasks:
                    make = partial(self._substitutions, name, task)
                    yield Method(name, "BLOSUM62", self._key(name, "baselines"), make)
                continue
            for baseline in task.baselines if name in self._datasets else ():
                if baseline != "random_weights" and (baseline != "alignment" or mmseqs.available()):
                    make = partial(self._baseline, name, baseline)
                    called = results.BASELINE_NAMES[baseline]
                    yield Method(name, called, self._key(name, baseline), make)

    def _of_model(self, name: str, model: SequenceModel) -> Iterator[Method]:
        """What stands on a checkpoint, or on its random-weights twin."""
        twin = random_twin(model)
        for task_name, task in self.suite.tasks.items():
            if task_name not in self.details.tasks or model.task.words.name != _alphabet(task):
                continue
            for one, is_twin in ((model, False), (twin, True)):
                who = f"{name}, random weights" if is_twin else name
                key = self._key(task_name, name, is_twin, describe(one))
                if isinstance(task, Mutations):
                    make = partial(self._mutations, task_name, task, name, one, is_twin)
                    yield Method(task_name, who, key, make)
                elif not is_twin or "random_weights" in task.baselines:
                    for head in task.heads:
                        make = partial(self._head, task_name, head, name, one, is_twin)
                        yield Method(task_name, f"{who}: {head}", [*key, head], make)

    def _substitutions(self, name: str, task: Mutations) -> FinishedPart:
        rows = mutations.baseline_rows(name, task, self._data, self.suite.bootstrap_draws)
        return FinishedPart(rows + mutations.published_rows(name, task, self._data))

    def _baseline(self, task: str, name: str) -> FinishedPart:
        data = self._datasets[task]
        if name == "alignment":
            hits, _ = alignment.nearest_hits(data, cache=self._alignments)
            scores = [neighbours.transfer(data, hits)]
        else:
            scores = baselines.predict(name, data, self.suite.training)
        return self._judged(task, scores, lambda row: results.baseline_row(row, task, name))

    def _head(
        self, task: str, head: str, name: str, model: SequenceModel, is_twin: bool
    ) -> FinishedPart:
        data = self._datasets[task]
        features = self.cache.get(model, data.sequences, data.per, self.stop)
        if head == "nearest":
            scores = [neighbours.predict(features, data)]
        else:
            scores = training.fit_predict(features, data, head, self.suite.training, self.stop)
        named = results.twin_row if is_twin else results.model_row
        return self._judged(task, scores, lambda row: named(row, task, name, head, str(model.path)))

    def _mutations(
        self, name: str, task: Mutations, model_name: str, model: SequenceModel, is_twin: bool
    ) -> FinishedPart:
        if np.dtype(model.task.dtype) != np.float32:  # differences of sums
            model = opening.load_sequences(model.path, "float32")
            model = random_twin(model) if is_twin else model
        rows, effects = mutations.run(
            name,
            task,
            model,
            self._data,
            self.suite.bootstrap_draws,
            method=model_name,
            twin=is_twin,
        )
        return FinishedPart(rows, {} if is_twin else figure_arrays.of_map(effects))

    def _judged(
        self, task: str, scores: list[Scores], named: Callable[[Measured], results.Row]
    ) -> FinishedPart:
        """Judges predictions; what the figures need is of the first seed."""
        data = self._datasets[task]
        rows = [named(row) for row in metrics.evaluate(data, scores, self.suite.bootstrap_draws)]
        return FinishedPart(rows, figure_arrays.of_predictions(data, scores[0]))

    def _add(self, task: str, part: FinishedPart) -> None:
        """Takes a part into the report; a run may have been moved since the part was made."""
        paths = {checkpoint.name: checkpoint.path for checkpoint in self.details.checkpoints}
        self.rows += [row | {"checkpoint": paths.get(row["model"])} for row in part.rows]
        if part.rows:
            method, data = part.rows[0]["method"], self._datasets.get(task)
            figure_arrays.add(self.details, task, method, data, part.arrays)

    def _leakage(self, models: dict[str, SequenceModel]) -> None:
        """Counts sequences that training and tests share; the banks are those of `bank`, or of the
        runs where they still are.
        """
        named = {Path(path) for model in models.values() for path in model.config.data.banks}
        banks = sorted(self.options.bank or (path for path in named if store.is_dir(path)))
        if gone := sorted(named - set(banks)) if not self.options.bank else []:
            self.details.notes.append(
                "Pretraining banks that are gone were not searched for test sequences:"
                f" {', '.join(map(str, gone))}. Name them with --bank."
            )
        places = [str(store.absolute(bank)) for bank in banks]
        for data in self._datasets.values():
            if self.stop.is_set():
                raise Stopped
            key = ["leakage", data.fingerprint, places, mmseqs.available()]
            self.details.leakage += self.parts.get(key, partial(_shared, data, banks)).rows

    def _key(self, task: str, *method: object) -> list[object]:
        """What a part is made of."""
        entry, common = self.suite.tasks[task], [task, *method, self.suite.bootstrap_draws]
        if isinstance(entry, Mutations):
            return [*common, dataclasses.asdict(entry), files.sha256(self._data / entry.path)]
        data = self._datasets[task]
        subsets = {
            name: hashlib.sha256(rows.tobytes()).hexdigest() for name, rows in data.subsets.items()
        }
        return [*common, data.fingerprint, subsets, dataclasses.asdict(self.suite.training)]


def _shared(data: Dataset, banks: list[Path]) -> FinishedPart:
    return FinishedPart(leakage.report(data, banks))


def _alphabet(task: Task | Mutations) -> str:
    return task.alphabet if isinstance(task, Task) else "protein"


def headline(task: Task | Mutations, rows: list[results.Row]) -> str:
    """The main metric of each label on each whole test, in one line."""
    found = []
    for row in rows:
        main = (row["metric"], row["average"]) == results.main_metric(task, row["label"])
        if main and ", identity" not in row["split"]:
            low, high = row["interval"] or (None, None)
            between = f" [{low:.3f}, {high:.3f}]" if low is not None else ""
            value = "undefined" if row["value"] is None else f"{row['value']:.3f}{between}"
            found.append(f"{row['label']} {row['metric']} {value} on {row['split']}")
    return "; ".join(found)


def describe(model: SequenceModel) -> list[object]:
    """What decides a model's features and likelihoods."""
    return [
        model.fingerprint,
        model.config.task,
        model.config.model.to_dict(),
        model.task.inference_segment_len,
        np.dtype(model.task.dtype).name,
    ]
