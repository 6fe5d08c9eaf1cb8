"""The checks of a preflight, in the order of the table."""

from phenomjax.preflight import files, hosts, steps
from phenomjax.preflight.runner import Check
from phenomjax.preflight.stand import LIMITS

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

# What stands here is the mend of a check that hangs or fails in an unforeseen way; the foreseen
# ones have their own.
CHECKS = tuple(
    Check(name, LIMITS[name], collect, judge, mend, needs, devices)  # type: ignore[arg-type]
    for name, collect, judge, mend, needs, devices in (
        (
            "devices",
            hosts.look_at_devices,
            hosts.judge_devices,
            "See `nvidia-smi` there: a driver or a GPU hangs.",
            (),
            False,
        ),
        (
            "clocks",
            hosts.look_at_clock,
            hosts.judge_clocks,
            "See the network between the hosts.",
            (),
            False,
        ),
        (
            "versions",
            hosts.look_at_versions,
            hosts.judge_versions,
            "Install the same packages on all hosts.",
            (),
            False,
        ),
        (
            "config",
            files.look_at_config,
            files.judge_config,
            "Correct the experiment file.",
            (),
            False,
        ),
        ("workdir", files.look_at_workdir, files.judge_workdir, _WORKDIR, (), False),
        (
            "data",
            files.look_at_data,
            files.judge_data,
            "See that the banks are mounted and readable there.",
            ("config",),
            False,
        ),
        (
            "disk",
            files.look_at_disk,
            files.judge_disk,
            "Correct the model of the configuration.",
            ("data",),
            False,
        ),
        ("network", hosts.all_reduce, hosts.judge_all_reduce, _NCCL, (), True),
        ("steps", steps.run_steps, steps.judge_steps, _MEMORY, ("data",), True),
        (
            "one process",
            steps.run_alone,
            steps.judge_alone,
            "See the traceback above the table.",
            ("steps",),
            False,
        ),
        (
            "checkpoint",
            files.save_and_restore,
            files.judge_checkpoint,
            _WORKDIR,
            ("workdir", "steps"),
            True,
        ),
        (
            "stop signal",
            hosts.stop_together,
            hosts.judge_stop,
            "See the network between the hosts.",
            (),
            False,
        ),
    )
)
