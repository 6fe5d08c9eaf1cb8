"""Where a process stands among the others of its run: by explicit numbers, by SLURM's step, or
alone.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from phenomjax.standby.client import STANDBY
from phenomjax.system.errors import UserError


@dataclass(frozen=True)
class Place:
    """Where this process stands among the others.

    Attributes:
      coordinator: host:port of process 0; "" for a single process.
      num_processes, process_id: how many there are, and which this is.
      local_device_ids: the GPUs of the node that are this process's own; None = all that it sees.
    """

    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: tuple[int, ...] | None = None


def find_place(
    coordinator: str, num_processes: int, process_id: int, environment: Mapping[str, str]
) -> Place:
    """Where this process stands: explicit numbers first, then SLURM's step, else alone.

    Raises:
      UserError: the numbers contradict each other, or a SLURM job of several tasks runs this
        outside of srun.
    """
    if num_processes < 0:
        raise UserError(f"--num_processes={num_processes} must be 0 (what SLURM says) or more.")
    if num_processes > 1 and not coordinator:
        raise UserError(
            f"--num_processes={num_processes} needs --coordinator=HOST:PORT of process 0, in all of"
            " them."
        )
    if coordinator and not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(
            f"--coordinator={coordinator} is no address: give --coordinator=HOST:PORT of process 0."
        )
    if process_id and not (coordinator or num_processes):
        raise UserError(
            f"--process_id={process_id} is one of several: give --num_processes and --coordinator,"
            " too."
        )
    if coordinator or num_processes:
        count = num_processes or 1
        if not 0 <= process_id < count:
            raise UserError(
                f"--process_id={process_id} must be between 0 and {count - 1}"
                f" (--num_processes={num_processes})."
            )
        # A keeper gives numbers, and says as srun would how the node's GPUs are shared out.
        own = _own_devices(environment) if STANDBY in environment else None
        return Place(coordinator, count, process_id, own)
    nodes, tasks = environment.get("SLURM_STEP_NODELIST"), int(environment.get("SLURM_NTASKS") or 1)
    if not nodes:
        if tasks > 1:
            raise UserError(
                f"This is SLURM job {environment.get('SLURM_JOB_ID')} with {tasks} tasks, but the"
                " program was started outside of srun, so only one process would run. Start it"
                " with `srun` or `sbatch launch/train.sbatch …`; for one process alone give"
                " --num_processes=1."
            )
        return Place("", 1, 0)
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS") or tasks)
    if tasks == 1:
        return Place("", 1, 0)
    # Linux gives out no port above 61000. One for each step: none meets the step before, or (by
    # srun's own port) another SLURM's on the host.
    keys = ("JOB_ID", "STEP_ID", "RESTART_COUNT", "SRUN_COMM_PORT")
    name = ".".join(environment.get("SLURM_" + key, "") for key in keys)
    port = 61000 + zlib.crc32(name.encode()) % 4500
    return Place(
        f"{first_host(nodes)}:{port}",
        tasks,
        int(environment["SLURM_PROCID"]),
        _own_devices(environment),
    )


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list: "gpu[007-012,020]-ib,login" -> "gpu007-ib"."""
    match = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\]([^\[,]*))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


def _own_devices(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """Splits the GPUs of a node evenly over its tasks; JAX would give one to each, whatever the
    number.
    """
    node = int(environment.get("SLURM_NODEID", 0))
    counts: list[int] = []
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):  # "2(x3),1"
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        counts += [int(match[1])] * int(match[2] or 1) if match else []
    tasks = counts[node] if node < len(counts) else 1
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    gpus = len(visible.split(",")) if visible else 0
    if tasks == 1 or gpus == 1:  # all are its own, or SLURM bound one to each task
        return None
    if gpus % tasks:
        raise UserError(
            f"Node {environment.get('SLURMD_NODENAME', node)} runs {tasks} tasks on {gpus} GPUs"
            f" (CUDA_VISIBLE_DEVICES={visible}), which do not divide. Ask for --ntasks-per-node"
            " equal to --gpus-per-node (launch/train.sbatch), or one task a node"
            " (launch/train_node.sbatch)."
        )
    each, first = gpus // tasks, int(environment.get("SLURM_LOCALID", 0)) * (gpus // tasks)
    return tuple(range(first, first + each)) or None
