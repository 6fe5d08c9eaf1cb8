"""The evaluation of checkpoints on a suite: tasks x methods, each kept as soon as it is done, then
the report. phenomjax.evaluate is its door.
"""

import argparse
import dataclasses
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from phenomjax.cluster import start
from phenomjax.data.sequences import mmseqs
from phenomjax.probes import metrics
from phenomjax.probes.features import embeddings
from phenomjax.probes.features.embeddings import Stopped
from phenomjax.probes.finished_parts import Part, Parts
from phenomjax.probes.methods import baselines, mutations, neighbours, training
from phenomjax.probes.reports import details, results, write
from phenomjax.probes.suites import alignment, dataset, leakage, suite_file
from phenomjax.probes.suites.dataset import Dataset
from phenomjax.probes.suites.suite import CLASS, RESIDUE, Mutations, Suite, Task
from phenomjax.system import files as system_files
from phenomjax.system import locks
from phenomjax.system import log as system_log
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError, did_you_mean
from phenomjax.system.processes import stop_on_signals
from phenomjax.trained import opening
from phenomjax.trained.model import SequenceModel

log = logging.getLogger("phenomjax")
Scores = dict[str, Any]  # predictions of the test rows, by label


def run(args: argparse.Namespace, command: str) -> int:
    """Evaluates; returns the exit code.

    Args:
      args: of the command line.
      command: to make the report again.

    Raises:
      UserError: a mistake in the arguments or the input.
    """
    begin = time.monotonic()
    # small models take longer to compile, for each length of sequences, than to run
    start.use_compilation_cache()
    suite = chosen(suite_file.load(args.suite, args.data), args.tasks)
    names = model_names(args.checkpoint, args.names)
    if not Path(suite.data).is_dir():
        raise UserError(
            f"The data folder of the suite, {suite.data}, does not exist (looked in"
            f" {Path(suite.data).absolute().parent}). Say with --data where its files are; the"
            " suite's file names each of them and where it is from."
        )
    if args.out.is_file():
        raise UserError(
            f"--out {args.out} is a file; it must be a folder, which is made where there is none."
        )
    with (
        stop_on_signals() as stop,
        locks.hold(
            args.out,
            f"Another process is writing {args.out} now. Wait for it, or give another --out.",
        ),
    ):
        job = Job(args, suite, dict(zip(names, args.checkpoint, strict=True)), stop)
        try:
            job.run()
        except Stopped:
            log.info("stopped; the same command goes on from here")
            return EXIT_STOPPED
    job.details.command, job.details.seconds = command, time.monotonic() - begin
    for path in write.write(args.out, job.rows, job.details, suite):
        log.info("wrote %s", path)
    if job.unread:
        log.warning(
            "%d tasks could not be read, see above: %s", len(job.unread), ", ".join(job.unread)
        )
    return EXIT_FAILED if job.unread else EXIT_DONE


def chosen(suite: Suite, names: Sequence[str] | None) -> Suite:
    """The suite with these tasks only; all of them where none is named."""
    for name in names or ():
        if name not in suite.tasks:
            raise UserError(
                f"--tasks {name} is not in the suite.{did_you_mean(name, suite.tasks)} It has"
                f" {', '.join(suite.tasks)}."
            )
    return (
        dataclasses.replace(suite, tasks={name: suite.tasks[name] for name in names})
        if names
        else suite
    )


def model_names(checkpoints: Sequence[str], names: Sequence[str] | None) -> list[str]:
    """Short names of checkpoints, all different: those given, or the names of the workdirs, with
    the step where it tells two apart.
    """
    if names and len(names) != len(checkpoints):
        raise UserError(
            f"--names has {len(names)} names for the {len(checkpoints)} folders of --checkpoint."
            " Give as many."
        )
    if not names:
        paths = [Path(path).absolute() for path in checkpoints]
        steps = [path.name if path.parent.name == "checkpoints" else "" for path in paths]
        folders = [
            path.parents[1].name if step else path.name
            for path, step in zip(paths, steps, strict=True)
        ]
        names = [
            f"{folder} {step}".strip() if folders.count(folder) > 1 else folder
            for folder, step in zip(folders, steps, strict=True)
        ]
    if len(set(names)) < len(names):
        raise UserError(
            f"Two checkpoints have the same name ({', '.join(names)}). Tell them apart with"
            " --names."
        )
    return list(names)


@dataclasses.dataclass(frozen=True)
class Work:
    """One method on one task; `key` is what its part is made of."""

    task: str
    method: str
    key: Any
    make: Callable[[], Part]


class Job:
    """All parts of an evaluation.

    Args:
      args: of the command line.
      suite: what is evaluated.
      checkpoints: {name: folder}.
      stop: an event.

    Attributes:
      rows: of results.
      details: for the report.
      unread: tasks whose files have mistakes.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        suite: Suite,
        checkpoints: dict[str, str],
        stop: threading.Event,
    ):
        self.args, self.suite, self.checkpoints, self.stop = args, suite, checkpoints, stop
        self.parts = Parts(args.out / "parts")
        self.cache = embeddings.Cache(args.cache or args.out / "cache")
        self.rows: list[dict[str, Any]] = []
        self.details = details.Details(suite=args.suite, data=suite.data)
        self.unread: list[str] = []
        self._data, self._alignments = Path(suite.data), self.cache.folder / "mmseqs"
        self._datasets: dict[str, Dataset] = {}

    def run(self) -> None:
        """Reads all tasks, then computes what no earlier start has left."""
        models = {
            name: opening.load_sequences(path, self.args.compute_dtype)
            for name, path in self.checkpoints.items()
        }
        alphabets = {model.task.words.name for model in models.values()}
        self._read(alphabets)
        if self.unread and not self.suite.tasks.keys() - self.unread:
            raise UserError("No task could be read; each mistake stands above, with what mends it.")
        work = list(self._baselines())
        for name, model in models.items():
            size = sum(x.size for x in jax.tree.leaves(model.params))
            self.details.checkpoints.append(
                details.Checkpoint(
                    name, str(model.path), model.step, model.fingerprint, size, model.config.task
                )
            )
            work += self._of_model(name, model)
        bar = system_log.Progress("evaluate", len(work), "parts", every_seconds=0.0)
        for one in work:
            if self.stop.is_set():
                raise Stopped
            part = self.parts.get(one.key, one.make)
            self._add(one.task, part)
            log.info(
                "%s, %s: %s", one.task, one.method, headline(self.suite.tasks[one.task], part.rows)
            )
            bar.update()
        self._leakage(models)

    def _read(self, alphabets: set[str]) -> None:
        """Reads the data of every task before anything is computed: mistakes are told in the first
        minute.
        """
        for name, task in self.suite.tasks.items():
            alphabet = task.alphabet if isinstance(task, Task) else "protein"
            if alphabet not in alphabets:
                self.details.notes.append(f"{name} was left out: no checkpoint reads {alphabet}.")
                log.info("%s is left out: no checkpoint reads %s", name, alphabet)
                continue
            try:
                if isinstance(task, Mutations):
                    # reads, and checks every variant
                    rows = mutations.baseline_rows(name, task, self._data, 0)
                    self.details.tasks[name] = {"variants": rows[0]["count"]}
                    continue
                found = dataset.load(name, task, self._data, self._alignments)
                if task.identities and mmseqs.available():
                    found = alignment.add_identity_subsets(
                        found, task.identities, cache=self._alignments
                    )
            except UserError as error:
                log.error("%s", error)
                self.details.notes.append(f"{name} could not be read: {error}")
                self.unread.append(name)
                continue
            if (task.identities or "alignment" in task.baselines) and not mmseqs.available():
                self.details.notes.append(
                    f"{name}: MMseqs2 is not on the PATH, so nothing is compared with alignment."
                )
                log.warning(
                    "%s: mmseqs is not on the PATH, so nothing is compared with alignment", name
                )
            counts = {
                split: int((found.split == split).sum())
                for split in ("train", "validation", *found.tests)
            }
            self.details.tasks[name] = {**counts, "fingerprint": found.fingerprint}
            self._datasets[name] = found

    def _baselines(self) -> Iterator[Work]:
        """What stands on no model."""
        for name, task in self.suite.tasks.items():
            if isinstance(task, Mutations) and name in self.details.tasks:
                yield Work(
                    name,
                    "BLOSUM62",
                    self._key(name, "baselines"),
                    partial(self._substitutions, name, task),
                )
            for baseline in (
                task.baselines if isinstance(task, Task) and name in self._datasets else ()
            ):
                if baseline != "random_weights" and (baseline != "alignment" or mmseqs.available()):
                    make = partial(self._baseline, name, baseline)
                    yield Work(
                        name, results.BASELINE_NAMES[baseline], self._key(name, baseline), make
                    )

    def _of_model(self, name: str, model: SequenceModel) -> Iterator[Work]:
        """What stands on a checkpoint, or on its random-weights twin."""
        twin = embeddings.random_twin(model)
        for task_name, task in self.suite.tasks.items():
            alphabet = task.alphabet if isinstance(task, Task) else "protein"
            if task_name not in self.details.tasks or model.task.words.name != alphabet:
                continue
            for one, is_twin in ((model, False), (twin, True)):
                who, key = (
                    f"{name}{', random weights' * is_twin}",
                    self._key(task_name, name, is_twin, describe(one)),
                )
                if isinstance(task, Mutations):
                    yield Work(
                        task_name,
                        who,
                        key,
                        partial(self._mutations, task_name, task, name, one, is_twin),
                    )
                elif not is_twin or "random_weights" in task.baselines:
                    for head in task.heads:
                        make = partial(self._head, task_name, head, name, one, is_twin)
                        yield Work(task_name, f"{who}: {head}", [*key, head], make)

    def _substitutions(self, name: str, task: Mutations) -> Part:
        rows = mutations.baseline_rows(name, task, self._data, self.suite.bootstrap_draws)
        return Part(rows + mutations.published_rows(name, task, self._data))

    def _baseline(self, task: str, name: str) -> Part:
        data = self._datasets[task]
        if name == "alignment":
            scores = [
                neighbours.transfer(data, alignment.nearest_hits(data, cache=self._alignments)[0])
            ]
        else:
            scores = baselines.predict(name, data, self.suite.training)
        return self._judged(task, scores, lambda row: results.baseline_row(row, task, name))

    def _head(self, task: str, head: str, name: str, model: SequenceModel, is_twin: bool) -> Part:
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
    ) -> Part:
        if np.dtype(model.task.dtype) != np.float32:  # differences of sums
            model = opening.load_sequences(model.path, "float32")
            model = embeddings.random_twin(model) if is_twin else model
        rows, effects = mutations.run(
            name,
            task,
            model,
            self._data,
            self.suite.bootstrap_draws,
            method=model_name,
            twin=is_twin,
        )
        if is_twin:
            return Part(rows)
        letters = np.array(list(effects.wild_type))
        arrays = {
            "measured": effects.measured,
            "predicted": effects.predicted,
            "offset": np.array(effects.offset),
        }
        return Part(
            rows, {f"map/{key}": array for key, array in (arrays | {"wild_type": letters}).items()}
        )

    def _judged(self, task: str, scores: list[Scores], named: Callable[[dict], dict]) -> Part:
        """Judges predictions; what the figures need is of the first seed."""
        data = self._datasets[task]
        rows = [named(row) for row in metrics.evaluate(data, scores, self.suite.bootstrap_draws)]
        return Part(rows, figure_arrays(data, scores[0]))

    def _add(self, task: str, part: Part) -> None:
        """Takes a part into the report; a run may have been moved since the part was made."""
        paths = {checkpoint.name: checkpoint.path for checkpoint in self.details.checkpoints}
        self.rows += [row | {"checkpoint": paths.get(row["model"])} for row in part.rows]
        if not part.rows:
            return
        method, arrays = part.rows[0]["method"], part.arrays
        for name in arrays:
            kind, _, place = name.partition("/")
            if kind == "confusion":
                label, split = place.split("/", 1)
                classes = self._datasets[task].labels[label].classes
                self.details.confusion[task, label, split, method] = details.Confusion(
                    arrays[name], classes
                )
            elif kind == "probability":
                label, split = place.split("/", 1)
                right = arrays[f"right/{place}"]
                self.details.reliability[task, label, split, method] = details.Reliability(
                    arrays[name], right
                )
        if "map/measured" in arrays:
            self.details.mutations[task, method] = details.MutationMap(
                "".join(arrays["map/wild_type"]),
                int(arrays["map/offset"]),
                arrays["map/measured"],
                arrays["map/predicted"],
            )

    def _leakage(self, models: dict[str, SequenceModel]) -> None:
        """Counts sequences that training and tests share; the banks are those of `--bank`, or of
        the runs where they still are.
        """
        named = {Path(path) for model in models.values() for path in model.config.data.banks}
        banks = sorted(self.args.bank or (path for path in named if path.is_dir()))
        if gone := sorted(named - set(banks)) if not self.args.bank else []:
            self.details.notes.append(
                "Pretraining banks that are gone were not searched for test sequences:"
                f" {', '.join(map(str, gone))}. Name them with --bank."
            )
        for data in self._datasets.values():
            if self.stop.is_set():
                raise Stopped
            key = [
                "leakage",
                data.fingerprint,
                [str(bank.absolute()) for bank in banks],
                mmseqs.available(),
            ]
            self.details.leakage += self.parts.get(key, partial(_shared, data, banks)).rows

    def _key(self, task: str, *method: Any) -> list[Any]:
        """What a part is made of."""
        entry, common = self.suite.tasks[task], [task, *method, self.suite.bootstrap_draws]
        if isinstance(entry, Mutations):
            return [
                *common,
                dataclasses.asdict(entry),
                system_files.sha256(self._data / entry.path),
            ]
        data = self._datasets[task]
        subsets = {
            name: hashlib.sha256(rows.tobytes()).hexdigest() for name, rows in data.subsets.items()
        }
        return [*common, data.fingerprint, subsets, dataclasses.asdict(self.suite.training)]


def _shared(data: Dataset, banks: list[Path]) -> Part:
    return Part(leakage.report(data, banks))


def headline(task: Task | Mutations, rows: list[dict[str, Any]]) -> str:
    """The main metric of each label on each whole test, in one line."""
    found = []
    for row in rows:
        if (row["metric"], row["average"]) == results.main_metric(
            task, row["label"]
        ) and ", identity" not in row["split"]:
            low, high = row["interval"] or (None, None)
            between = f" [{low:.3f}, {high:.3f}]" if low is not None else ""
            value = "undefined" if row["value"] is None else f"{row['value']:.3f}{between}"
            found.append(f"{row['label']} {row['metric']} {value} on {row['split']}")
    return "; ".join(found)


def figure_arrays(data: Dataset, scores: Scores) -> dict[str, np.ndarray]:
    """Confusion counts and, where the predictions are probabilities, those of the predicted
    classes; by label and test set.
    """
    arrays: dict[str, np.ndarray] = {}
    rows = data.test_rows
    for name, labels in data.labels.items():
        if labels.kind not in (CLASS, RESIDUE):
            continue
        for test in data.tests:
            places = np.flatnonzero(data.split[rows] == test)
            if labels.kind == RESIDUE:
                true = np.concatenate([labels.values[i] for i in rows[places]])
                found = np.concatenate([scores[name][place] for place in places])
            else:
                true, found = labels.values[rows[places]], scores[name][places]
            found, true = found[true >= 0], true[true >= 0]
            size = len(labels.classes)
            predicted = metrics.named(found)
            answered = predicted < size
            counts = np.bincount(true[answered] * size + predicted[answered], minlength=size * size)
            arrays[f"confusion/{name}/{test}"] = counts.reshape(size, size)
            if np.any((found > 0) & (found < 1)):
                arrays[f"probability/{name}/{test}"] = found.max(1).astype(np.float32)
                arrays[f"right/{name}/{test}"] = predicted == true
    return arrays


def describe(model: SequenceModel) -> list[Any]:
    """What decides a model's features and likelihoods."""
    return [
        model.fingerprint,
        model.config.task,
        model.config.model.to_dict(),
        model.task.inference_segment_len,
        np.dtype(model.task.dtype).name,
    ]
