"""The flags of a program that runs in several processes."""

from absl import flags

from phenomjax.cluster.start import start

FLAGS = ("coordinator", "num_processes", "process_id", "local_devices")


def define_flags() -> None:
    """Defines the flags of a front door that runs on several processes."""
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, where no SLURM step says it.")
    flags.DEFINE_integer(
        "num_processes", 0, "Number of processes; 0 = what SLURM's step says, or 1."
    )
    flags.DEFINE_integer("process_id", 0, "Which of them this is.")
    flags.DEFINE_integer(
        "local_devices", 0, "Devices that each process must see, as the launcher promised; 0 = any."
    )


def start_from_flags() -> None:
    """Connects this process as the flags or SLURM's environment say, and checks the devices that
    the launcher promised.
    """
    f = flags.FLAGS
    start(f.coordinator, f.num_processes, f.process_id, f.local_devices)
