"""A scheduler in this process, and workers in SLURM jobs that are kept running.

The keeper has no books: it counts the jobs of this name in SLURM's queue, and submits what is
missing. So a job may be killed, time out or be cancelled at any time, and so may this process: the
next one cancels what it left. Workers without a scheduler end by themselves.
"""

import contextlib
import hashlib
import logging
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phenomjax.engine.certificate import make_certificate
from phenomjax.engine.cluster import Scheduler
from phenomjax.engine.connecting import client_of, distributed_settings, tell_dashboard
from phenomjax.engine.settings import Slurm
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError

if TYPE_CHECKING:
    from distributed import LocalCluster
    from distributed.security import Security

log = logging.getLogger("phenomjax")
MOST_AT_ONCE = 1000  # SLURM's default limit of an array
DEATH_SECONDS = 60  # after which a worker without a scheduler ends
RESTING = 20.0  # seconds since units were last waited for: then the job may be at its end

SCRIPT = """#!/bin/bash
#SBATCH --job-name={name} --nodes=1 --ntasks=1 --cpus-per-task={cpus} --time={time} --no-requeue
#SBATCH --output="{folder}/%A_%a.log" --open-mode=append
{more}
export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False PYTHONUNBUFFERED=1
export DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH=0
{prologue}
work() {{
  {python} -m distributed.cli.dask_worker {address} --nthreads 1 --memory-limit 0 --no-dashboard \\
    {network} --local-directory "${{TMPDIR:-/tmp}}" --death-timeout {death} \\
    --lifetime {lifetime}s --lifetime-stagger {stagger}s {tls} "$@"
}}
{start}
"""
# The address by which this node reaches the scheduler.
REACH = (
    "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
    " s.connect(({host!r}, 1)); print(s.getsockname()[0])"
)
# Each worker has a GPU of its own; when one is gone, the job is.
ON_GPUS = """name=${ROCR_VISIBLE_DEVICES:+ROCR}; name=${name:-CUDA}_VISIBLE_DEVICES
gpus=${!name//,/ }
for gpu in $gpus; do (export $name=$gpu; work --nworkers 1) & done
for gpu in $gpus; do wait -n || exit 1; done"""


@contextlib.contextmanager
def start(settings: Slurm, folder: Path) -> Iterator[Scheduler]:
    """A scheduler in this process, and its workers, until the end.

    Args:
      settings: of the jobs.
      folder: of the engine; logs of the workers go there.

    Raises:
      UserError: there is no SLURM here, or it refuses the jobs.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "`engine` slurm needs SLURM's commands, and there is no sbatch on this machine. Run it"
            " on a login node of the cluster; or give `engine` local."
        )
    distributed_settings()
    from distributed.security import Security

    name = "phenomjax-" + hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:10]
    slurm("scancel", "--name", name)  # what a driver left that was killed
    security, tls = Security(require_encryption=False), ""
    try:
        if settings.tls:
            ca, key = make_certificate(folder)
            security = Security(
                require_encryption=True,
                **{"tls_ca_file": str(ca)},
                **{f"tls_{who}_cert": str(ca) for who in ("client", "scheduler", "worker")},
                **{f"tls_{who}_key": str(key) for who in ("client", "scheduler", "worker")},
            )
            tls = shlex.join(
                ["--tls-ca-file", f"{ca}", "--tls-cert", f"{ca}", "--tls-key", f"{key}"]
            )
        with _scheduler(settings, security) as cluster, client_of(cluster) as client:
            address = cluster.scheduler_address
            tell_dashboard(cluster.dashboard_link)
            script = files.write_text(
                folder / "worker.sbatch", script_of(settings, name, folder, address, tls)
            )
            with Keeper(settings, name, folder, script) as keeper:
                yield Scheduler(client, f"{address} (SLURM jobs {name})", keeper.look, keeper.why)
    finally:
        for path in (folder / "tls.crt", folder / "tls.key"):
            path.unlink(missing_ok=True)


def _scheduler(settings: Slurm, security: "Security") -> "LocalCluster":
    from distributed import LocalCluster

    where = {"interface": settings.interface} if settings.interface else {"host": own_address()}
    try:
        return LocalCluster(
            n_workers=0,
            dashboard_address="127.0.0.1:0",
            protocol="tls://" if settings.tls else "tcp://",
            security=security,
            silence_logs=logging.CRITICAL,
            **where,
        )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"No scheduler can listen here ({error}). Give the network of the cluster,"
            " `engine_option` interface=ib0 for instance."
        ) from error


def script_of(settings: Slurm, name: str, folder: Path, address: str, tls: str) -> str:
    """The batch script of a job with workers."""
    more = [
        f"#SBATCH --{option}={value}"
        for option, value in (
            ("mem", settings.mem),
            ("partition", settings.partition),
            ("account", settings.account),
            ("gpus-per-node", settings.gpus),
        )
        if value
    ]
    if settings.sbatch:
        more.append(f"#SBATCH {settings.sbatch}")
    host = address.rpartition("//")[2].rpartition(":")[0]
    reach = f'--host "$({shlex.quote(sys.executable)} -c {shlex.quote(REACH.format(host=host))})"'
    lifetime = max(settings.seconds * 0.85, settings.seconds - 600)
    return SCRIPT.format(
        name=name,
        cpus=settings.cpus,
        time=settings.time,
        folder=folder.absolute(),
        more="\n".join(more),
        prologue=settings.prologue,
        python=shlex.quote(sys.executable),
        address=address,
        network=f"--interface {settings.interface}" if settings.interface else reach,
        death=DEATH_SECONDS,
        lifetime=int(lifetime),
        stagger=int(min(300, (settings.seconds - lifetime) / 2)),
        tls=tls,
        start=ON_GPUS
        if settings.gpus and not settings.workers
        else f"work --nworkers {settings.workers or settings.cpus}",
    )


def own_address() -> str:
    """The address of this machine in the network of SLURM's controller."""
    told = slurm("scontrol", "show", "config").stdout
    host = next((line.split("=")[1] for line in told.splitlines() if "SlurmctldHost" in line), "")
    host = host.strip().partition("(")[2].rstrip(")") or host.strip()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 1))  # sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UserError(
            f"SLURM's controller {host or '(scontrol show config names none)'} is not reached"
            f" from here ({error}), so the network of the cluster is not known: give it,"
            " `engine_option` interface=ib0 for instance."
        ) from error


def slurm(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of SLURM."""
    return subprocess.run(command, capture_output=True, text=True, check=False)


class Keeper:
    """Keeps jobs running, from a thread.

    Args:
      settings: of the jobs.
      name: of the jobs.
      folder: where their logs are.
      script: what is submitted.
    """

    def __init__(self, settings: Slurm, name: str, folder: Path, script: Path):
        self.settings, self.name, self.folder, self.script = settings, name, folder, script
        self.failure: UserError | None = None
        self._ended, self._thread = threading.Event(), threading.Thread(target=self._keep)
        self._submitted: list[float] = []  # when, within the last hour
        self._asked = time.monotonic()
        self._total = self._gone = self._gone_before = self._workers = 0
        self._reasons = ""

    def __enter__(self) -> "Keeper":
        self._mend()
        if self.failure:
            raise self.failure
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        slurm("scancel", "--name", self.name)

    def look(self, workers: int) -> None:
        """Is told how many workers there are.

        Raises:
          UserError: jobs end before their workers join.
        """
        if workers:
            self._gone_before = self._gone
        self._workers, self._asked = workers, time.monotonic()
        if self.failure:
            raise self.failure

    def why(self) -> str:
        """Why there are no workers."""
        return f"SLURM's queue of them: {self._reasons or 'empty'}."

    def _keep(self) -> None:
        while not self._ended.wait(self.settings.every) and not self.failure:
            if time.monotonic() - self._asked < RESTING:
                self._mend()

    def _mend(self) -> None:
        """Submits what is missing."""
        queue = slurm("squeue", "-h", "-r", "-n", self.name, "-o", "%T %r")
        if queue.returncode:  # the controller is away: ask again
            self._reasons = queue.stderr.strip()
            return
        jobs = queue.stdout.splitlines()
        self._reasons = ", ".join(sorted({" ".join(job.split()) for job in jobs}))
        missing, now = self.settings.nodes - len(jobs), time.monotonic()
        self._gone = self._total - len(jobs)
        if self._gone - self._gone_before > 2 * self.settings.nodes + 4 and not self._workers:
            self.failure = self._all_die()
            return
        self._submitted = [when for when in self._submitted if now - when < 3600]
        allowed = 10 * self.settings.nodes + 20 - len(self._submitted)
        if missing > allowed:
            log.warning(
                "%d jobs of workers were submitted within the hour: no more for now (logs: %s)",
                len(self._submitted),
                self.folder,
            )
        count = min(missing, allowed, MOST_AT_ONCE)
        if count <= 0:
            return
        done = slurm("sbatch", "--parsable", f"--array=1-{count}", str(self.script))
        if done.returncode == 0:
            self._submitted += [now] * count
            self._total += count
        elif self._total == 0:
            self.failure = UserError(
                f"SLURM refuses the jobs of workers: {' '.join(done.stderr.split())} The script is"
                f" {self.script}; its options come from `engine_option`.",
            )
        else:
            log.warning("sbatch: %s; asked again later", " ".join(done.stderr.split()))

    def _all_die(self) -> UserError:
        newest = max(self.folder.glob("*.log"), key=os.path.getmtime, default=None)
        lines: Sequence[str] = newest.read_text(errors="replace").splitlines() if newest else ()
        last = " / ".join(line.strip() for line in lines[-5:] if line.strip())
        return UserError(
            f"{self._gone - self._gone_before} SLURM jobs in a row ended before a worker joined, so"
            f" no more are submitted. The newest log, {newest or f'(none in {self.folder})'}, ends:"
            f" {last or 'nothing'}. What is committed is kept. Often the workers do not find this"
            f" Python ({sys.executable}) or do not reach the scheduler (`engine_option`"
            " interface=…).",
            EXIT_FAILED,
        )
