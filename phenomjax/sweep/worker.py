"""A worker: takes trials until none is left. A trial is `python -m phenomjax.main` in
DIR/trials/NNNN, told by its exit code (errors.py).

0 and 75 with a val/loss at the rung: it got there. 1: it diverged or crashed, 2: its values make no
valid configuration; both are closed. Anything else (killed, stuck, out of memory) is started again
from its checkpoint, until three starts in a row made no progress. SIGTERM to the worker goes on to
the trial, which saves; the trial is given back and the worker exits with 75.
"""

import json
import logging
import math
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from optuna.trial import TrialState

from phenomjax.sweep import halving, sampling
from phenomjax.sweep.study import Study
from phenomjax.system.claims import Claims
from phenomjax.system.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from phenomjax.system.processes import die_with_parent

log = logging.getLogger("phenomjax")
POLL_SECONDS = 0.2
WAIT_SECONDS = 0.5  # between two looks at the study, when the others' results decide
MAX_STARTS_WITHOUT_PROGRESS = 3


class Worker:
    """Works on a study until it is done or a signal comes.

    Args:
      study: open.
      workdir: its file `progress` counts the rungs that this worker brought trials to, for
        launch/supervise.py; None = nobody asks.
    """

    def __init__(self, study: Study, workdir: Path | None = None):
        self.study, self.settings, self.workdir = study, study.settings, workdir
        self.claims = Claims(self.settings.path / "claims")
        self.stopping = False

    def run(self) -> int:
        """Returns 0 when no work is left, 75 when a signal asked to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        s, waited = self.settings, False
        while not self.stopping:
            entries = self.study.entries()
            busy = {
                e.number
                for e in entries
                if e.underway and self.claims.held(f"trial_{e.number:04d}")
            }
            job = halving.decide(entries, len(s.rungs), s.eta, s.num_trials, busy)
            if job == halving.DONE:
                self.study.finish()
                log.info("no trial is left")
                return EXIT_DONE
            if isinstance(job, halving.Job) and self._take(job):
                waited = False
                continue
            if job == halving.WAIT and not waited:
                log.info(
                    "waiting for the results of %s",
                    ", ".join(f"trial {n:04d}" for n in sorted(busy)),
                )
                waited = True
            time.sleep(WAIT_SECONDS if job == halving.WAIT else POLL_SECONDS)
        return EXIT_STOPPED

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _take(self, job: halving.Job) -> bool:
        """Does a job; False when another worker has it."""
        thing = "new" if job.number is None else f"trial_{job.number:04d}"
        if not self.claims.take(thing):
            return False
        try:
            if job.number is None:
                trials = self.study.trials()
                if len(trials) < self.settings.num_trials:
                    s = self.settings
                    self.study.create(sampling.propose(s.sampler, self.study.space, s.seed, trials))
                return True
            now = next(e for e in self.study.entries() if e.number == job.number)
            if now.closed or len(now.losses) > job.heading:
                return True  # another worker was there between the decision and the claim
            if now.heading != job.heading:
                self.study.set(job.number, heading=job.heading)
            self._run_trial(job.number, job.heading)
            return True
        finally:
            self.claims.release(thing)

    def _run_trial(self, number: int, heading: int) -> None:
        """Runs a trial to a rung and records what came of it."""
        s, workdir = self.settings, self.settings.workdir(number)
        step, last = s.rungs[heading], heading == len(s.rungs) - 1
        workdir.mkdir(parents=True, exist_ok=True)
        trial = self.study.trial(number)
        values = [f"--config.{key}={value}" for key, value in trial.params.items()]
        command = [*s.program, "--config", s.config, *s.overrides, *values]
        command += [f"--config.stop_at_step={0 if last else step}", "--workdir", str(workdir)]
        known, starts, fails = dict(trial.intermediate_values), trial.user_attrs["starts"], 0
        code = EXIT_DONE
        # A worker that was killed after its trial had paused leaves nothing to run.
        while not self._arrived(workdir, step):
            before = saved_step(workdir)
            starts += 1
            self.study.set(number, starts=starts)
            log.info("trial %04d, start %d, to step %d: %s", number, starts, step, " ".join(values))
            code = self._start(command, workdir, lambda: self._report(number, workdir, step, known))
            diverged = self._report(number, workdir, step, known)
            if diverged or code == EXIT_FAILED:
                message = "val/loss is not finite" if diverged else last_error(workdir)
                bad = diverged or "diverged" in message
                self._close(
                    number,
                    TrialState.PRUNED if bad else TrialState.FAIL,
                    ("diverged: " if bad else "failed: ") + message,
                )
                return
            if code == EXIT_CONFIG:
                self._close(number, TrialState.FAIL, "failed: " + last_error(workdir))
                return
            if step in known and code in (EXIT_DONE, EXIT_STOPPED):
                break
            if self.stopping or f"trial_{number:04d}" not in self.claims.mine:
                log.info("trial %04d is given back at step %d", number, saved_step(workdir))
                return
            if code == EXIT_DONE:
                self._close(
                    number,
                    TrialState.FAIL,
                    f"failed: it reported no val/loss at step {step}: is anything held out?",
                )
                return
            fails = 0 if saved_step(workdir) > before else fails + 1
            if fails == MAX_STARTS_WITHOUT_PROGRESS:
                self._close(
                    number,
                    TrialState.FAIL,
                    f"failed: {fails} starts without progress, the last ended with code {code}; see"
                    f" {workdir}/trial.log",
                )
                return
        self._report(number, workdir, step, known)
        losses = [known[r] for r in s.rungs[: heading + 1]]
        self.study.set(number, losses=losses)
        log.info("trial %04d: val/loss %.4f at step %d", number, losses[-1], step)
        if self.workdir:
            self.workdir.mkdir(parents=True, exist_ok=True)
            (self.workdir / "progress").write_text(f"{saved_step(self.workdir) + 1}\n")
        if last:
            self.study.close(number, TrialState.COMPLETE, losses[-1], "complete")

    def _close(self, number: int, state: TrialState, outcome: str) -> None:
        log.info("trial %04d %s", number, outcome)
        self.study.close(number, state, None, outcome)

    def _arrived(self, workdir: Path, step: int) -> bool:
        """Whether an earlier start got to the step and saved there."""
        return step in read_losses(workdir) and saved_step(workdir) >= step

    def _report(self, number: int, workdir: Path, step: int, known: dict[int, float]) -> bool:
        """Passes new values of val/loss on to the study; True when one is not finite."""
        new = {s: loss for s, loss in read_losses(workdir).items() if s <= step and s not in known}
        bad = [loss for loss in new.values() if not math.isfinite(loss)]
        new = {s: loss for s, loss in new.items() if math.isfinite(loss)}
        self.study.report(number, new)
        known |= new
        return bool(bad)

    def _start(self, command: list[str], workdir: Path, report: Callable[[], bool]) -> int:
        """Runs a command until it ends, is told to stop, or loses its claim; its output goes to
        WORKDIR/trial.log.
        """
        with (workdir / "trial.log").open("a") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.settings.directory,
                # Ctrl-C in the terminal reaches the front door alone, which passes it on in order
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
        told, looked, stamp = False, time.monotonic(), 0
        try:
            while process.poll() is None:
                if not self.claims.beat():
                    log.warning(
                        "this worker was silent for so long that another one took its trial;"
                        " stopping it here"
                    )
                    break
                if self.stopping and not told:
                    process.terminate()
                    told = True
                if time.monotonic() - looked > 1.0 and (now := _stamp(workdir)) != stamp:
                    looked, stamp = time.monotonic(), now
                    if report() and not told:
                        process.terminate()
                        told = True
                time.sleep(POLL_SECONDS)
        # also when the storage is gone: nobody may be left in the folder when the claim is given
        # back
        finally:
            if process.poll() is None:
                process.kill()
            code = process.wait()
        log.info("ended with code %d", code)
        return code


def read_losses(workdir: Path) -> dict[int, float]:
    """{step: val/loss} of a run's metrics.jsonl as it is now; a line that is being written is left
    out.
    """
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return {}
    losses = {}
    for line in lines:
        if '"val/loss"' in line:
            try:
                values = json.loads(line)
            except ValueError:
                continue
            losses[int(values["step"])] = float(values["val/loss"])
    return losses


def _stamp(workdir: Path) -> int:
    """Changes when metrics.jsonl does."""
    try:
        return (workdir / "metrics.jsonl").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def saved_step(workdir: Path) -> int:
    """Step of the newest whole checkpoint, as the run notes it in WORKDIR/progress; 0 without any."""
    try:
        return int((workdir / "progress").read_text().split()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return 0


def last_error(workdir: Path) -> str:
    """The paragraph with which a run ended, or its last line."""
    text = (workdir / "trial.log").read_text(errors="replace")[-4000:]
    found = (
        text.rpartition("\nerror: ")[2]
        if "\nerror: " in text
        else (text.strip().splitlines() or ["no output"])[-1]
    )
    return " ".join(found.split())[:400]
