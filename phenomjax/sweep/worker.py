"""A worker: takes trials until none is left. A trial is `python -m phenomjax.main` in
DIR/trials/NNNN, told by its exit code (phenomjax/system/errors.py).

0 and 75 with a val/loss at the rung: it got there. 1: it diverged or crashed, 2: its values make no
valid configuration; both are closed. Anything else (killed, stuck, out of memory) is started again
from its checkpoint, until three starts in a row made no progress. SIGTERM to the worker goes on to
the trial, which saves; the trial is given back and the worker exits with 75.
"""

import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from phenomjax.checkpoints.workdir import record_step, saved_step
from phenomjax.config.experiment import without
from phenomjax.sweep import halving, sampling
from phenomjax.sweep import study as study_lib
from phenomjax.sweep.claims import Claims
from phenomjax.sweep.halving import Assignment
from phenomjax.sweep.study import Study
from phenomjax.system.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from phenomjax.system.processes import die_with_parent, stop_on_signals
from phenomjax.training import metrics

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

    def run(self) -> int:
        """Returns 0 when no work is left, 75 when a signal asked to stop."""
        text = "the trial is saved at its next step and given back"
        with stop_on_signals(text, patient=True) as self._stop:
            waited = False
            while not self._stop.is_set():
                if self.settings.points:  # others may have been added since
                    self.settings = self.study.settings = study_lib.load(self.settings.path)
                standings, s = self.study.standings(), self.settings
                underway = [e.number for e in standings if e.underway]
                busy = {number for number in underway if self.claims.held(_thing(number))}
                work = halving.decide(standings, s.num_rungs, s.eta, s.num_trials, busy)
                if work == halving.DONE:
                    self.study.finish()
                    log.info("no trial is left")
                    return EXIT_DONE
                if isinstance(work, Assignment) and self._take(work):
                    waited = False
                    continue
                if work == halving.WAIT and not waited:
                    others = ", ".join(f"trial {n:04d}" for n in sorted(busy))
                    log.info("waiting for the results of %s", others)
                    waited = True
                time.sleep(WAIT_SECONDS if work == halving.WAIT else POLL_SECONDS)
            return EXIT_STOPPED

    def _take(self, work: Assignment) -> bool:
        """Does what was decided; False when another worker has it."""
        thing = "new" if work.number is None else _thing(work.number)
        if not self.claims.take(thing):
            return False
        try:
            if work.number is None:
                trials, s = self.study.trials(), self.settings
                if len(trials) < s.num_trials:
                    self.study.create(sampling.propose(s.sampler, self.study.space, s.seed, trials))
                return True
            now = next(e for e in self.study.standings() if e.number == work.number)
            if now.closed or len(now.losses) > work.heading:
                return True  # another worker was there between the decision and the claim
            if now.heading != work.heading:
                self.study.set(work.number, heading=work.heading)
            if self._run_trial(work.number, work.heading):
                self._reached(work.number, work.heading)
            return True
        finally:
            self.claims.release(thing)

    def _run_trial(self, number: int, heading: int) -> bool:
        """Brings a trial to a rung; False when it was closed or given back before."""
        workdir, step = self.settings.workdir(number), self.settings.rungs_of(number)[heading]
        workdir.mkdir(parents=True, exist_ok=True)
        trial = self.study.trial(number)
        known, starts, fails = dict(trial.intermediate_values), trial.user_attrs["starts"], 0
        command = self._command(trial, heading)
        # A worker that was killed after its trial had paused leaves nothing to run.
        while not (step in metrics.val_losses(workdir) and saved_step(workdir) >= step):
            before, starts = saved_step(workdir), starts + 1
            self.study.set(number, starts=starts)
            values = " ".join(self._flags(trial))
            log.info("trial %04d, start %d, to step %d: %s", number, starts, step, values)
            code = self._start(command, workdir, lambda: self._tell(number, workdir, step, known))
            finite = self._tell(number, workdir, step, known)
            fails = 0 if saved_step(workdir) > before else fails + 1
            outcome = _broken(workdir, code, finite)
            if not outcome and step in known and code in (EXIT_DONE, EXIT_STOPPED):
                break
            if not outcome and (self._stop.is_set() or _thing(number) not in self.claims.mine):
                log.info("trial %04d is given back at step %d", number, saved_step(workdir))
                return False
            outcome = outcome or _hopeless(workdir, code, step, fails)
            if outcome:
                log.info("trial %04d %s", number, outcome)
                bad = outcome.startswith("diverged")
                self.study.close(
                    number, TrialState.PRUNED if bad else TrialState.FAIL, None, outcome
                )
                return False
        self._tell(number, workdir, step, known)
        return True

    def _command(self, trial: FrozenTrial, heading: int) -> list[str]:
        """What runs a trial to a rung."""
        s = self.settings
        stop_at = 0 if heading == s.num_rungs - 1 else s.rungs[heading]
        words = [*s.program, "--config", s.config, *without(s.overrides, s.values(trial))]
        words += self._flags(trial)
        folder = str(s.workdir(trial.number))
        return [*words, f"--config.stop_at_step={stop_at}", "--workdir", folder]

    def _flags(self, trial: FrozenTrial) -> list[str]:
        """The values of a trial as they stand in its command."""
        return [f"--config.{key}={value}" for key, value in self.settings.values(trial).items()]

    def _reached(self, number: int, heading: int) -> None:
        """Records that a trial is at a rung."""
        rungs, known = (
            self.settings.rungs_of(number),
            self.study.trial(number).intermediate_values,
        )
        losses = [known[step] for step in rungs[: heading + 1]]
        self.study.set(number, losses=losses)
        log.info("trial %04d: val/loss %.4f at step %d", number, losses[-1], rungs[heading])
        if self.workdir:
            record_step(self.workdir, saved_step(self.workdir) + 1)
        if heading == len(rungs) - 1:
            self.study.close(number, TrialState.COMPLETE, losses[-1], "complete")

    def _tell(self, number: int, workdir: Path, step: int, known: dict[int, float]) -> bool:
        """Passes new values of val/loss on to the study; False when one is not finite."""
        losses = metrics.val_losses(workdir)
        new = {s: loss for s, loss in losses.items() if s <= step and s not in known}
        finite = {s: loss for s, loss in new.items() if math.isfinite(loss)}
        self.study.add_losses(number, finite)
        known |= finite
        return len(finite) == len(new)

    def _start(self, command: list[str], workdir: Path, tell: Callable[[], bool]) -> int:
        """Runs a command until it ends, is told to stop, or loses its claim.

        Args:
          command: its output goes to WORKDIR/trial.log.
          workdir: of the trial.
          tell: called when there are new metrics; False ends the trial.

        Returns:
          The exit code.
        """
        with (workdir / "trial.log").open("a") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.settings.directory,
                # where W&B shows the trials of a sweep together
                env={"WANDB_RUN_GROUP": "/".join(self.settings.path.parts[-2:]), **os.environ},
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
                if self._stop.is_set() and not told:
                    process.terminate()
                    told = True
                if time.monotonic() - looked > 1.0 and (now := _stamp(workdir)) != stamp:
                    looked, stamp = time.monotonic(), now
                    if not tell() and not told:
                        process.terminate()
                        told = True
                time.sleep(POLL_SECONDS)
        finally:
            # also when the storage is gone: nobody may be left in the folder when the claim is
            # given back
            if process.poll() is None:
                process.kill()
            code = process.wait()
        log.info("ended with code %d", code)
        return code


def _thing(number: int) -> str:
    """What is claimed for a trial."""
    return f"trial_{number:04d}"


def _broken(workdir: Path, code: int, finite: bool) -> str:
    """Why a start that ended closes its trial, or ""."""
    if not finite:
        return "diverged: val/loss is not finite"
    if code not in (EXIT_FAILED, EXIT_CONFIG):
        return ""
    message = last_error(workdir)
    diverged = code == EXIT_FAILED and "diverged" in message
    return f"{'diverged' if diverged else 'failed'}: {message}"


def _hopeless(workdir: Path, code: int, step: int, fails: int) -> str:
    """Why another start would not help a trial that is not at its rung, or ""."""
    if code == EXIT_DONE:
        return f"failed: it reported no val/loss at step {step}: is anything held out?"
    if fails < MAX_STARTS_WITHOUT_PROGRESS:
        return ""
    return (
        f"failed: {fails} starts without progress, the last ended with code {code}; see"
        f" {workdir}/trial.log"
    )


def _stamp(workdir: Path) -> int:
    """Changes when the metrics do."""
    try:
        return (workdir / metrics.FILE).stat().st_mtime_ns
    except FileNotFoundError:
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
