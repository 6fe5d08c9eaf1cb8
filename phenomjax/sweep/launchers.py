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

from phenomjax.sweep.study import Study
from phenomjax.sweep.worker import saved_step
from phenomjax.system.errors import EXIT_CONFIG, EXIT_DONE, EXIT_STOPPED, UserError
from phenomjax.system.processes import die_with_parent

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
        rungs = self.study.settings.rungs
        for trial in self.study.trials():
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


class Stop:
    """Whether SIGTERM or Ctrl-C came."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


def local(study: Study, workers: int, gpus_per_worker: int) -> int:
    """Runs worker processes on this machine; one that is killed is started again.

    Args:
      study: open.
      workers: how many at once.
      gpus_per_worker: GPUs of each, the next ones of CUDA_VISIBLE_DEVICES or of the machine; 0
        leaves the environment as it is.

    Returns:
      0 when no work is left, 75 when a signal stopped the workers after saving, else the code of a
      worker that gave up.
    """
    stop, news, told = Stop(), News(study), False
    running = {i: _start(study, i, gpus_per_worker) for i in range(workers)}
    restarts, seen, codes = dict.fromkeys(running, 0), dict.fromkeys(running, 0), []
    log.info("%d workers started; their logs: %s/workers/*/log", workers, study.settings.folder)
    while running:
        time.sleep(0.3)
        if stop.asked and not told:
            log.info("stopping: each trial is saved at its next step")
            for process in running.values():
                process.terminate()
            told = True
        for i, process in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            progress = saved_step(_folder(study, i))
            restarts[i], seen[i] = 0 if progress > seen[i] else restarts[i], progress
            if (
                code in (EXIT_DONE, EXIT_STOPPED, EXIT_CONFIG)
                or stop.asked
                or restarts[i] == MAX_RESTARTS
            ):
                codes.append(code)
                del running[i]
            else:
                restarts[i] += 1
                log.warning(
                    "worker %d ended with code %d; starting it again (%d of %d)",
                    i,
                    code,
                    restarts[i],
                    MAX_RESTARTS,
                )
                running[i] = _start(study, i, gpus_per_worker)
        news.tell()
    if stop.asked or EXIT_STOPPED in codes:
        return EXIT_STOPPED
    return EXIT_DONE if EXIT_DONE in codes else max(codes, key=abs)


def _folder(study: Study, index: int) -> Path:
    """Where a worker has its log and counts its progress."""
    return study.settings.path / "workers" / str(index)


def _start(study: Study, index: int, gpus: int) -> subprocess.Popen:
    """Starts worker `index`; when this process is killed, the worker is told to stop."""
    folder = _folder(study, index)
    folder.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if gpus:
        visible = [d for d in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
        mine = range(index * gpus, (index + 1) * gpus)
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(
            visible[i] if visible else str(i) for i in mine if not visible or i < len(visible)
        )
    with (folder / "log").open("a") as output:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "phenomjax.sweep",
                "--worker",
                "--study",
                study.settings.folder,
                "--workdir",
                str(folder),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )


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
    s = study.settings
    known = s.path / "slurm_job"
    job = known.read_text().strip() if known.exists() else ""
    stop, news = Stop(), News(study)
    if job and _tasks(job):
        log.info("the workers of this sweep are SLURM job %s; following it", job)
    else:
        if not SBATCH.exists():
            raise UserError(
                f"{SBATCH} is not in {Path.cwd()}: run --launcher slurm in the folder of the"
                " repository."
            )
        logs = s.path / "workers" / "slurm_%a.log"
        logs.parent.mkdir(parents=True, exist_ok=True)
        command = [
            "sbatch",
            "--parsable",
            f"--array=0-{workers - 1}",
            f"--job-name=sweep-{s.path.name}",
            f"--output={logs}",
            *shlex.split(options),
            str(SBATCH),
            sys.executable,
            s.folder,
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            raise UserError(
                "There is no sbatch on this machine: submit from a login node of the cluster, or"
                " take --launcher local."
            ) from None
        if done.returncode:
            raise UserError(
                f"SLURM refuses the job: {done.stderr.strip()}. The command was"
                f" `{shlex.join(command)}`."
            )
        job = done.stdout.strip().split(";")[0]
        known.write_text(job + "\n")
        log.info(
            "SLURM job %s: %d workers; their logs: %s; `scancel %s` stops them, after saving",
            job,
            workers,
            logs,
            job,
        )
    while _tasks(job):
        if stop.asked:
            log.info(
                "no longer following; job %s goes on. The same command follows it again, `scancel"
                " %s` stops it",
                job,
                job,
            )
            return EXIT_STOPPED
        time.sleep(poll_seconds)
        news.tell()
    news.tell()
    return EXIT_DONE


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
