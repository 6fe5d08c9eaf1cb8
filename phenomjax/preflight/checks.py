"""The checks of a preflight, in the order of the table."""

from collections.abc import Callable

from phenomjax.preflight import files, hosts, steps
from phenomjax.preflight.runner import AnyCheck, Check, Found
from phenomjax.preflight.stand import LIMITS, Bench

_NCCL = (
    "NCCL_DEBUG=INFO says which network is taken, NCCL_SOCKET_IFNAME and NCCL_IB_HCA choose"
    " another; is there a firewall between the hosts?"
)
_WORKDIR = (
    "Give a --workdir on a disk with space that you own, on a file system that all hosts share."
)
_MEMORY = (
    "Where memory is short, a smaller --config.global_batch_size or --config.mesh.preset=fsdp;"
    " where it hangs, NCCL_DEBUG=INFO."
)

_HOSTS = "See the network between the hosts."


def _check(
    name: str,
    collect: Callable[[Bench], Found],
    judge: Callable[[list[Found], list[str]], str],
    mend: str,
    needs: tuple[str, ...] = (),
    devices: bool = False,
    numbers: Callable[[list[Found]], dict[str, float]] = lambda _: {},
) -> AnyCheck:
    return Check(name, LIMITS[name], collect, judge, mend, needs, devices, numbers)


# The text is the mend of a check that hangs or fails in an unforeseen way; the foreseen ones have
# their own.
CHECKS = (
    _check(
        "devices",
        hosts.look_at_devices,
        hosts.judge_devices,
        "See `nvidia-smi` there: a driver or a GPU hangs.",
        numbers=hosts.numbers_of_devices,
    ),
    _check("clocks", hosts.look_at_clock, hosts.judge_clocks, _HOSTS),
    _check(
        "versions",
        hosts.look_at_versions,
        hosts.judge_versions,
        "Install the same packages on all hosts.",
    ),
    _check("config", files.look_at_config, files.judge_config, "Correct the experiment file."),
    _check("workdir", files.look_at_workdir, files.judge_workdir, _WORKDIR),
    _check(
        "data",
        files.look_at_data,
        files.judge_data,
        "See that the banks are mounted and readable there.",
        needs=("config",),
        numbers=files.numbers_of_data,
    ),
    _check(
        "disk",
        files.look_at_disk,
        files.judge_disk,
        "Correct the model of the configuration.",
        needs=("data",),
        numbers=files.numbers_of_disk,
    ),
    _check(
        "network",
        hosts.all_reduce,
        hosts.judge_all_reduce,
        _NCCL,
        devices=True,
        numbers=hosts.numbers_of_all_reduce,
    ),
    _check(
        "steps",
        steps.run_steps,
        steps.judge_steps,
        _MEMORY,
        needs=("data",),
        devices=True,
        numbers=steps.numbers_of_steps,
    ),
    _check(
        "one process",
        steps.run_alone,
        steps.judge_alone,
        "See the traceback above the table.",
        needs=("steps",),
    ),
    _check(
        "checkpoint",
        files.save_and_restore,
        files.judge_checkpoint,
        _WORKDIR,
        needs=("workdir", "steps"),
        devices=True,
        numbers=files.numbers_of_checkpoint,
    ),
    _check("stop signal", hosts.stop_together, hosts.judge_stop, _HOSTS),
)
