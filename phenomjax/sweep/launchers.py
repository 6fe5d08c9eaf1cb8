"""Starts the workers of a sweep, on this machine or as a SLURM job array, and follows them until no
work is left.
"""

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from phenomjax.checkpoints.workdir import saved_step
from phenomjax.sweep.study import Study
from phenomjax.system import files
from phenomjax.system.errors import EXIT_CONFIG, EXIT_DONE, EXIT_STOPPED, UserError
from phenomjax.system.processes import die_with_parent, stop_on_signals

log = logging.getLogger("phenomjax")
MAX_RESTARTS = 3  # of a worker, in a row without bringing any trial to a rung
SBATCH = Path("launch/sweep.sbatch")


class News:
    """Says on the screen what became of the trials since it was asked last."""

    def __init__(self, study: Study):
        self.study, self.said = study, set[str]()
        self.tell(silent=True)

    def tell(self, silent: bool = False) -> None:
        """Logs one line for each rung that was reached and each trial that was closed."""
        for trial in self.study.trials():
            rungs = self.study.settings.rungs_of(trial.number)
            lines = [
                f"trial {trial.number:04d}: val/loss {loss:.4f} at step {rungs[i]}"
                for i, loss in enumerate(trial.user_attrs["losses"])
            ]
            if (
                trial.state.is_finished()
                and trial.user_attrs.get("outcome", "complete") != "complete"
            ):
                lines.append(f"trial {trial.number:04d} {trial.user_attrs['outcome']}")
            for line in lines:
                if line not in self.said and not silent:
                    log.info(line)
                self.said.add(line)


class LocalWorker:
    """A worker process on this machine; its log and its progress stand in STUDY/workers/INDEX.

    Args:
      study: open.
      index: which of the workers.
      gpus: how many are its own, the next ones of CUDA_VISIBLE_DEVICES or of the machine; 0 leaves
        the environment as it is.
    """

    def __init__(self, study: Study, index: int, gpus: int):
        self._study, self._index, self._gpus = study, index, gpus
        self._folder = study.settings.path / "workers" / str(index)
        self._restarts = self._seen = 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        """When this process is killed, the worker is told to stop."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "phenomjax.sweep", "--worker"]
        command += ["--study", self._study.settings.folder, "--workdir", str(self._folder)]
        with (self._folder / "log").open("a") as output:
            return subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment(),
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        if self._gpus:
            visible = [d for d in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
            mine = range(self._index * self._gpus, (self._index + 1) * self._gpus)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(
                visible[i] if visible else str(i) for i in mine if not visible or i < len(visible)
            )
        return environment

    def started_again(self, code: int) -> bool:
        """Starts a worker that ended with this code once more, unless that is pointless."""
        step = saved_step(self._folder)
        self._restarts, self._seen = 0 if step > self._seen else self._restarts, step
        if code in (EXIT_DONE, EXIT_STOPPED, EXIT_CONFIG) or self._restarts == MAX_RESTARTS:
            return False
        self._restarts += 1
        log.warning(
            "worker %d ended with code %d; starting it again (%d of %d)",
            self._index,
            code,
            self._restarts,
            MAX_RESTARTS,
        )
        self.process = self._start()
        return True


def work(
    study: Study, launcher: str, workers: int, gpus_per_worker: int = 0, sbatch: str = ""
) -> int:
    """Runs the workers of a study until no work is left.

    Args:
      study: open.
      launcher: "local" or "slurm".
      workers: how many at once.
      gpus_per_worker: see `local`.
      sbatch: options of `slurm`.

    Returns:
      The exit code of `local` or `slurm`; 0 where nothing is to be done.
    """
    if study.done():
        return EXIT_DONE
    if launcher == "local":
        return local(study, workers, gpus_per_worker)
    return slurm(study, workers, sbatch)


def local(study: Study, workers: int, gpus_per_worker: int) -> int:
    """Runs worker processes on this machine; one that is killed is started again.

    Args:
      study: open.
      workers: how many at once.
      gpus_per_worker: GPUs of each; 0 leaves the environment as it is.

    Returns:
      0 when no work is left, 75 when a signal stopped the workers after saving, else the code of a
      worker that gave up.
    """
    text = "each trial is saved at its next step, then the workers stop"
    with stop_on_signals(text, patient=True) as stop:
        news, told, codes = News(study), False, []
        running = [LocalWorker(study, i, gpus_per_worker) for i in range(workers)]
        log.info("%d workers started; their logs: %s/workers/*/log", workers, study.settings.folder)
        while running:
            time.sleep(0.3)
            if stop.is_set() and not told:
                for worker in running:
                    worker.process.terminate()
                told = True
            for worker in list(running):
                code = worker.process.poll()
                if code is not None and (stop.is_set() or not worker.started_again(code)):
                    codes.append(code)
                    running.remove(worker)
            news.tell()
    if stop.is_set() or EXIT_STOPPED in codes:
        return EXIT_STOPPED
    return EXIT_DONE if EXIT_DONE in codes else max(codes, key=abs)


def slurm(study: Study, workers: int, options: str, poll_seconds: float = 2.0) -> int:
    """Submits the workers as a job array, unless one of this study is still there, and follows it.

    Args:
      study: open.
      workers: tasks of the array.
      options: more options for sbatch.
      poll_seconds: between two looks.

    Returns:
      0 when no task is left, 75 when a signal ended the following (the jobs go on).

    Raises:
      UserError: there is no SLURM here, this is not the repository, or sbatch refuses.
    """
    known = study.settings.path / "slurm_job"
    job = known.read_text().strip() if known.exists() else ""
    with stop_on_signals("no longer following", patient=True) as stop:
        news = News(study)
        if job and _tasks(job):
            log.info("the workers of this sweep are SLURM job %s; following it", job)
        else:
            job = _submit(study, workers, options)
            files.write_text(known, job + "\n")
        while _tasks(job):
            if stop.is_set():
                text = "job %s goes on. The same command follows it again, `scancel %s` stops it"
                log.info(text, job, job)
                return EXIT_STOPPED
            time.sleep(poll_seconds)
            news.tell()
        news.tell()
    return EXIT_DONE


def _submit(study: Study, workers: int, options: str) -> str:
    """Submits a job array; returns its number."""
    folder = study.settings.path
    if not SBATCH.exists():
        raise UserError(
            f"{SBATCH} is not in {Path.cwd()}: run `launcher` slurm in a clone of the repository"
            " (git clone https://github.com/phenomjax/phenomjax)."
        )
    logs = folder / "workers" / "slurm_%a.log"
    logs.parent.mkdir(parents=True, exist_ok=True)
    command = ["sbatch", "--parsable", f"--array=0-{workers - 1}"]
    command += [f"--job-name=sweep-{folder.name}", f"--output={logs}", *shlex.split(options)]
    command += [str(SBATCH), sys.executable, study.settings.folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            "There is no sbatch on this machine: submit from a login node of the cluster, or take"
            " `launcher` local."
        ) from None
    if done.returncode:
        raise UserError(
            f"SLURM refuses the job: {done.stderr.strip()}. The command was"
            f" `{shlex.join(command)}`."
        )
    job = done.stdout.strip().split(";")[0]
    text = "SLURM job %s: %d workers; their logs: %s; `scancel %s` stops them, after saving"
    log.info(text, job, workers, logs, job)
    return job


def _tasks(job: str) -> list[str]:
    """States of the tasks of an array that SLURM still has.

    Raises:
      UserError: SLURM cannot be asked.
    """
    for _ in range(10):  # a controller that is busy or changes over does not end the following
        try:
            done = subprocess.run(
                ["squeue", "-h", "-r", "-j", job, "-o", "%T"], capture_output=True, text=True
            )
        except FileNotFoundError:
            raise UserError(
                "There is no squeue on this machine: run this on a login node of the cluster."
            ) from None
        if done.returncode == 0 or "Invalid job id" in done.stderr:
            return [line for line in done.stdout.split() if line != "COMPLETED"]
        time.sleep(3)
    raise UserError(
        f"squeue does not answer ({done.stderr.strip()}); the sweep itself may go on. Run the same"
        " command again to follow it."
    )
