"""The flags of a program that runs in several processes."""

import os
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

from tyro.conf import arg

Count = Annotated[int, arg(metavar="N")]


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """The place of this process among the others of its run; SLURM's steps say it themselves."""

    SHOWN_LAST: ClassVar[bool] = True
    GROUPS: ClassVar[dict[str, str]] = {"coordinator": "process"}

    coordinator: Annotated[str, arg(metavar="HOST:PORT")] = ""
    """of process 0, where no SLURM step says it"""
    num_processes: Count = 0
    """number of processes; 0: what SLURM's step says, or 1"""
    process_id: Count = 0
    """which of them this is"""
    local_devices: Count = 0
    """devices that each process must see, as the launcher promised; 0: any"""


FLAGS = tuple(field.name for field in fields(ProcessOptions))


def speaks(options: ProcessOptions) -> bool:
    """Whether this process is the one that tells how the run ends: the first."""
    if options.coordinator or options.num_processes or "SLURM_STEP_NODELIST" not in os.environ:
        return options.process_id == 0
    return os.environ.get("SLURM_PROCID", "0") == "0"


def start_as_told(options: ProcessOptions) -> None:
    """Connects this process as the options or SLURM's environment say, and checks the devices that
    the launcher promised.
    """
    from phenomjax.cluster.start import start  # with JAX, which who reads an experiment needs not

    start(options.coordinator, options.num_processes, options.process_id, options.local_devices)
