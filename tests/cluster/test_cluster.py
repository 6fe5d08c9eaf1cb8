"""Start-up from flags and from SLURM's environment, and what processes tell each other; several
processes are toy runs.
"""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from phenomjax.cluster import start
from phenomjax.cluster.place import Place, find_place, first_host
from phenomjax.system.errors import UserError
from tests.lab import ROOT, warm
from tests.lab.slurm import wait_until

STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[07-09]-ib",
    "SLURM_NTASKS": "6",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
    "SLURMD_NODENAME": "gpu08-ib",
}


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("lab0", "lab0"),
        ("lab[0-3]", "lab0"),
        ("gpu[007-012,020]-ib,x", "gpu007-ib"),
        ("a,b", "a"),
        ("n[3,5],m1", "n3"),
    ],
)
def test_first_host(nodes, host):
    assert first_host(nodes) == host


def test_slurm_step_gives_place_and_a_port_of_its_own():
    place = find_place("", 0, 0, STEP)
    host, port = place.coordinator.split(":")
    assert (host, place.num_processes, place.process_id, place.local_device_ids) == (
        "gpu07-ib",
        6,
        3,
        None,
    )
    assert 61000 <= int(port) < 65536
    others = [
        find_place("", 0, 0, STEP | change).coordinator
        for change in ({"SLURM_STEP_ID": "1"}, {"SLURM_RESTART_COUNT": "1"})
    ]
    assert len({place.coordinator, *others}) == 3
    # all ranks agree
    assert find_place("", 0, 0, STEP | {"SLURM_PROCID": "0"}).coordinator == place.coordinator


@pytest.mark.parametrize(
    ("visible", "tasks", "local", "ids"),
    [
        ("0,1", "2(x3)", "1", (1,)),
        ("0,1,2,3", "2(x3)", "1", (2, 3)),
        ("5", "2(x3)", "1", None),
        ("0,1,2,3", "1(x3)", "0", None),
        ("0,1,2,3,4,5,6,7", "8,8(x2)", "7", (7,)),
    ],
)
def test_the_gpus_of_a_node_are_split_over_its_tasks(visible, tasks, local, ids):
    environment = STEP | {
        "CUDA_VISIBLE_DEVICES": visible,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_LOCALID": local,
    }
    assert find_place("", 0, 0, environment).local_device_ids == ids
    # a keeper gives numbers besides
    given = find_place("h:1", 6, 1, environment)
    assert given.local_device_ids is None
    given = find_place("h:1", 6, 1, environment | {"PHENOMJAX_STANDBY": "{}"})
    assert given.local_device_ids == ids


def test_gpus_that_do_not_divide_are_explained():
    with pytest.raises(UserError, match="gpu08-ib runs 2 tasks on 3 GPUs"):
        find_place("", 0, 0, STEP | {"CUDA_VISIBLE_DEVICES": "0,1,2"})


def test_no_silent_single_process():
    with pytest.raises(
        UserError, match=r"SLURM job 7 with 6 tasks, but the program was started outside of srun"
    ):
        find_place("", 0, 0, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "6"})
    assert find_place("", 1, 0, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "6"}) == Place("", 1, 0)
    assert find_place("", 0, 0, {}) == Place("", 1, 0)
    assert find_place("", 0, 0, STEP | {"SLURM_STEP_NUM_TASKS": "1"}).num_processes == 1
    assert find_place("host:1", 4, 2, STEP) == Place("host:1", 4, 2)  # explicit numbers come first
    with pytest.raises(UserError, match="needs --coordinator"):
        find_place("", 2, 0, {})
    with pytest.raises(UserError, match="must be between 0 and 1"):
        find_place("host:1", 2, 2, {})
    for coordinator, said in (("host", "is no address"), ("", "is one of several")):
        with pytest.raises(UserError, match=said):
            find_place(coordinator, 0, 1, {})


def start_toys(workdir, count, *flags, **environment):
    """Starts `count` toy processes; stderr and stdout of process i go to WORKDIR.out<i>."""
    address = f"127.0.0.1:{start.free_port()}"
    command = [
        sys.executable,
        "tests/lab/toy_main.py",
        "--config",
        "configs/mae.py:S/8",
        "--workdir",
        str(workdir),
        "--config.num_steps=300",
        "--config.global_batch_size=12",
        "--config.log.every_steps=10",
        "--config.checkpoint.every_steps=20",
        "--config.eval.every_steps=0",
        "--config.log.tensorboard=False",
        "--coordinator",
        address,
        f"--num_processes={count}",
        *flags,
    ]
    toys = []
    for i in range(count):
        with open(f"{workdir}.out{i}", "w") as out:
            toys.append(
                warm.Popen(
                    [*command, f"--process_id={i}"],
                    cwd=ROOT,
                    env={**os.environ, **environment},
                    stdout=out,
                    stderr=out,
                )
            )
    return toys


def wait_for(path, text, processes):
    for _ in range(3000):
        if path.exists() and text in path.read_text():
            return
        assert any(p.poll() is None for p in processes), path.read_text()
        time.sleep(0.05)
    raise TimeoutError(f"no '{text}' in {path}")


def output(workdir, i):
    return (workdir.parent / f"{workdir.name}.out{i}").read_text()


def log(workdir, i):
    return (workdir / "logs" / f"process_{i:03d}.log").read_text()


@pytest.mark.slow
def test_a_crash_ends_all_with_its_traceback_last(tmp_path):
    run = tmp_path / "run"
    toys = start_toys(run, 3, TOY_RAISE="1:30")
    assert [p.wait(timeout=120) for p in toys] == [1, 1, 1]
    assert output(run, 1).rstrip().endswith("ValueError: planted at step 30")
    assert "Traceback" not in output(run, 0) + output(run, 2)
    assert "because of process 1 on" in log(run, 0) and "planted at step 30" in log(run, 2)


@pytest.mark.slow
def test_a_killed_process_is_named(tmp_path):
    run = tmp_path / "run"
    toys = start_toys(run, 2, TOY_STEP_SECONDS="0.05")
    wait_for(tmp_path / "run.out0", "step 10/", toys)
    toys[1].kill()
    assert toys[0].wait(timeout=60) == 1
    assert f"No answer from process 1 on {socket.gethostname()} (pid {toys[1].pid})" in output(
        run, 0
    )


@pytest.mark.slow
@pytest.mark.parametrize("stop", [False, True], ids=["stuck", "stopped"])
def test_a_process_that_does_not_go_on_is_named(tmp_path, stop):
    run = tmp_path / "run"
    trouble = {"TOY_STEP_SECONDS": "0.05"} if stop else {"TOY_STUCK": "1:30"}
    toys = start_toys(run, 2, "--config.watchdog.min_seconds=8", **trouble)
    if stop:
        wait_for(tmp_path / "run.out0", "step 10/", toys)
        toys[1].send_signal(signal.SIGSTOP)
    assert toys[0].wait(timeout=120) == 76
    toys[1].kill()
    where = "which does not answer" if stop else "at step 30 (data)"
    said = output(run, 0) + output(run, 1)
    assert (
        f"The others wait for process 1 on {socket.gethostname()} (pid {toys[1].pid})" in said
        and where in said
    )
    assert "stacks of process 0" in log(run, 0)
    if not stop:
        # where it hangs
        assert "stacks of process 1" in log(run, 1) and "toy_main.py" in log(run, 1)


@pytest.mark.slow
def test_broken_promises_are_errors(tmp_path):
    toys = start_toys(tmp_path / "devices", 2, "--local_devices=8")
    assert [p.wait(timeout=120) for p in toys] == [1, 1]
    said = output(tmp_path / "devices", 0) + output(tmp_path / "devices", 1)
    assert "sees 1 device(s) of kind cpu" in said and "promised 8 device(s)" in said.replace(
        "\n", " "
    )


@pytest.mark.slow
def test_a_barrier_names_who_is_late(tmp_path):
    program = (
        "import sys, time, jax; from phenomjax.cluster import messages, start\n"
        "from phenomjax.system import errors\n"
        "start.start(sys.argv[1], 2, int(sys.argv[2]))\n"
        "if int(sys.argv[2]): time.sleep(30)\n"
        "errors.exit_on_user_error(lambda: messages.barrier('meeting', 2.0))"
    )
    address = f"127.0.0.1:{start.free_port()}"
    command = [sys.executable, "-c", program, address]
    late = warm.Popen([*command, "1"], cwd=ROOT, stderr=subprocess.DEVNULL)
    told = tmp_path / "told"
    with told.open("w") as file:
        first = warm.Popen([*command, "0"], cwd=ROOT, stderr=file)
    wait_until(lambda: told.read_text().count("\n") >= 3, told.read_text)
    for p in (first, late):
        p.kill()
    assert "have not come to 'meeting': process 1 on" in told.read_text().replace("\n", " ")
