"""The restart policy, the launchers without a cluster, and the container files: that their commands
are those that are tested.
"""

import ast
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib

import kubernetes_validate
import pytest
import yaml

from phenomjax.cluster import flags
from phenomjax.system import errors
from tests.lab import ROOT
from tests.lab.slurm import number, processes, ranks, toy_arguments, toy_environment, wait_until

sys.path.insert(0, str(ROOT / "launch"))
import local
import supervise

PYTHON = sys.executable


@pytest.mark.parametrize(
    ("code", "before", "after", "fails", "stop_at", "action", "new_fails"),
    [
        (0, 10, 20, 2, 0, "end", 0),
        (0, 20, 20, 2, 0, "end", 2),
        (2, 0, 0, 0, 0, "end", 0),
        (75, 10, 15, 1, 0, "requeue", 0),
        (75, 10, 10, 1, 0, "requeue", 1),  # told to stop while it started: nobody's fault
        (75, 10, 15, 0, 15, "end", 0),
        (75, 10, 12, 0, 15, "requeue", 0),
        (1, 10, 20, 2, 0, "restart", 0),
        (76, 10, 20, 0, 0, "restart", 0),
        (137, 10, 10, 0, 0, "requeue", 1),
        (76, 10, 10, 1, 0, "requeue", 2),
        (1, 10, 10, 2, 0, "end", 3),
        (1, -1, 0, 2, 0, "restart", 0),
        (1, 20, 10, 2, 0, "end", 3),  # the newest checkpoint was damaged and set aside
    ],
)
def test_policy(code, before, after, fails, stop_at, action, new_fails):
    assert supervise.decide(code, before, after, fails, stop_at)[:2] == (action, new_fails)


def test_policy_knows_the_program_s_exit_codes():
    assert (supervise.DONE, supervise.CONFIG, supervise.STOPPED) == (
        errors.EXIT_DONE,
        errors.EXIT_CONFIG,
        errors.EXIT_STOPPED,
    )


@pytest.mark.parametrize(
    "file", ["launch/supervise.py", "launch/standby.py", "phenomjax/standby/wire.py"]
)
def test_the_host_s_python_may_be_old(file):
    ast.parse((ROOT / file).read_text(), feature_version=(3, 8))


def test_flags_of_the_command_are_found(tmp_path):
    assert supervise.flag(["srun", "--workdir", "a b", "x"], "workdir") == "a b"
    assert supervise.flag(["-workdir=a", "--workdir=b"], "workdir") == "b"
    assert supervise.flag(["--workdirs=a"], "workdir") is None
    assert supervise.stop_at_step(["--config.stop_at_step=7"], tmp_path) == 7
    # of which the program says what is wrong
    assert supervise.stop_at_step(["--config.stop_at_step=1e3"], tmp_path) == 0
    assert supervise.stop_at_step([], tmp_path) == 0
    (tmp_path / "config.json").write_text('{"stop_at_step": 9}')
    assert supervise.stop_at_step([], tmp_path) == 9


def test_time_left_of_a_job():
    assert supervise.seconds("2:03") == 123
    assert supervise.seconds("1-00:00:10") == 86410
    assert supervise.seconds("12:00:00") == 43200
    assert supervise.seconds("UNLIMITED") == supervise.seconds("INVALID") == float("inf")


def stand_in(tmp_path, *codes, progress=()):
    """A program that exits with these codes, start by start, after it wrote these numbers into
    WORKDIR/progress.
    """
    script = tmp_path / "program.sh"
    script.write_text(
        "n=$(cat count 2>/dev/null || echo 0); echo $((n + 1)) >count\n"
        f"codes=({' '.join(map(str, codes))}); progress=({' '.join(map(str, progress))})\n"
        '[ -n "${progress[n]}" ] && echo ${progress[n]} >progress; exit ${codes[n]:-99}\n'
    )
    return ["bash", str(script), "--workdir", str(tmp_path)]


def supervised(tmp_path, command):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("SLURM_")
    }
    environment["PHENOMJAX_LOST_NODE_SECONDS"] = "0"
    return subprocess.run(
        [PYTHON, ROOT / "launch" / "supervise.py", *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_supervise_starts_again_after_progress_and_ends_when_done(tmp_path):
    done = supervised(tmp_path, stand_in(tmp_path, 1, 76, 1, 1, 0, progress=(5, 9, 9, 12)))
    assert done.returncode == 0 and number(tmp_path / "count") == 5
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "launch: exit code 1, checkpoint of step none -> 5",
        "launch: failed after progress; starting again",
    ]
    assert lines[-2:] == ["launch: exit code 0, checkpoint of step 12 -> 12", "launch: done"]


def test_supervise_gives_up_after_three_starts_without_progress(tmp_path):
    done = supervised(tmp_path, stand_in(tmp_path, 1, 1, 1, 1, 0, progress=(5,)))
    assert done.returncode == 1 and number(tmp_path / "count") == 4
    assert done.stdout.splitlines()[-1] == "launch: 3 starts in a row without progress: giving up"
    assert number(tmp_path / "fails") == 3


def test_supervise_never_tries_a_configuration_error_again(tmp_path):
    done = supervised(tmp_path, stand_in(tmp_path, 2, 0))
    assert done.returncode == 2 and number(tmp_path / "count") == 1
    assert "not tried again" in done.stdout
    assert not (tmp_path / "fails").exists()  # the folder may be another run's
    (tmp_path / "fails").write_text("2 41\n")  # of another job
    supervised(tmp_path, stand_in(tmp_path, 1, 0))
    assert number(tmp_path / "fails") == 0


def test_supervise_keeps_the_folder_from_start_to_start(tmp_path):
    """The program names its launcher in owner.json; that takes the file away at the very end."""
    command = stand_in(tmp_path, 1, 0, progress=(5,))
    script = tmp_path / "program.sh"
    keep = 'echo "{\\"launcher\\": \\"${PHENOMJAX_LAUNCHER% *}\\"}" >owner.json; ls >>seen\n'
    script.write_text("ls owner.json >>seen 2>/dev/null\n" + keep + script.read_text())
    assert supervised(tmp_path, command).returncode == 0
    assert (tmp_path / "seen").read_text().splitlines().count("owner.json") == 3
    assert not (tmp_path / "owner.json").exists()
    (tmp_path / "owner.json").write_text('{"launcher": "another"}')
    script.write_text("exit 2")
    supervised(tmp_path, command)
    assert (tmp_path / "owner.json").exists()


def test_supervise_says_what_it_needs(tmp_path):
    done = supervised(tmp_path, ["true"])
    assert done.returncode == 2 and "names no --workdir" in done.stdout
    (tmp_path / "file").touch()
    done = supervised(tmp_path, ["true", f"--workdir={tmp_path}/file/run"])
    assert done.returncode == 2 and "cannot be written" in done.stdout


def dry_run(script, *arguments, **environment):
    base = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "XLA_", "JAX_", "PHENOMJAX"))
    }
    done = subprocess.run(
        ["bash", ROOT / "launch" / script, "--dry-run", *arguments],
        cwd=ROOT,
        env=base | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    settings = dict(line.split("=", 1) for line in done.stdout.splitlines()[:-1])
    return shlex.split(done.stdout.splitlines()[-1]), settings


GPU_NODES = {
    "SLURM_JOB_NUM_NODES": "16",
    "SLURM_GPUS_ON_NODE": "8",
    "SLURM_CPUS_ON_NODE": "128",
    "JAX_PLATFORMS": "",
}


def test_sbatch_starts_one_task_a_gpu_or_a_node():
    command, settings = dry_run(
        "train.sbatch", "--config", "configs/mae.py:S/8", "--workdir", "runs/a b", **GPU_NODES
    )
    assert command[:3] == ["python3", "launch/supervise.py", "srun"]
    for option in (
        "--nodes=16",
        "--ntasks=128",
        "--ntasks-per-node=8",
        "--cpus-per-task=16",
        "--gpus-per-node=8",
        "--local_devices=1",
    ):
        assert option in command
    assert command[-4:] == ["--config", "configs/mae.py:S/8", "--workdir", "runs/a b"]
    assert settings["JAX_COMPILATION_CACHE_DIR"].endswith(".cache/phenomjax/xla")
    command, _ = dry_run("train_node.sbatch", "--workdir", "w", **GPU_NODES)
    for option in (
        "--ntasks=16",
        "--ntasks-per-node=1",
        "--cpus-per-task=128",
        "--local_devices=8",
    ):
        assert option in command


def test_sbatch_starts_keepers_where_spares_are_asked_for():
    more = {"PHENOMJAX_PREFIX": "apptainer exec x.sif", "PHENOMJAX_SRUN": "--container-image=x"}
    command, _ = dry_run(
        "train.sbatch", "--workdir", "runs/a b", **GPU_NODES, **more, PHENOMJAX_SPARES="2"
    )
    middle = command.index("--")
    assert command[:middle] == [
        *("python3", "launch/standby.py", "--spares", "2", "--tasks", "8"),
        *("--srun=--cpus-per-task=128", "--srun=--gpus-per-node=8", "--srun=--container-image=x"),
        *("--srun=apptainer", "--srun=exec", "--srun=x.sif"),
    ]
    program = ["python", "-m", "phenomjax.main", "--local_devices=1", "--workdir", "runs/a b"]
    assert command[middle + 1 :] == program


def test_sbatch_options_come_from_variables():
    command, settings = dry_run(
        "train.sbatch",
        "--workdir",
        "runs/seed{task}",
        **GPU_NODES,
        SLURM_ARRAY_TASK_ID="3",
        PHENOMJAX_PREFIX="apptainer exec --nv x.sif",
        PHENOMJAX_SRUN="--container-image=x",
        PHENOMJAX_STAGING="/dev/shm",
        PHENOMJAX_MAIN="python -m other",
        USER="me",
    )
    text = " ".join(command)
    assert (
        "--container-image=x apptainer exec --nv x.sif python -m other --local_devices=1 --workdir"
        " runs/seed3" in text
    )
    assert text.endswith(" --config.data.staging=/dev/shm/phenomjax-me")
    command, settings = dry_run("train.sbatch", "--workdir", "w", JAX_PLATFORMS="cpu")
    assert settings == {"JAX_PLATFORMS": "cpu"} and "--gpus-per-node" not in " ".join(command)


def test_both_sbatch_files_ask_slurm_for_the_same():
    options = [
        [
            line
            for line in (ROOT / "launch" / name).read_text().splitlines()
            if line.startswith("#SBATCH")
        ]
        for name in ("train.sbatch", "train_node.sbatch")
    ]
    assert options[0] == options[1] and "#SBATCH --signal=TERM@120" in options[0]


def test_sbatch_outside_of_a_job_says_how_to_submit():
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("SLURM_")
    }
    done = subprocess.run(
        ["bash", "launch/train.sbatch", "--workdir", "w"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "sbatch --nodes=2" in done.stderr


def xla_flags():
    jobset = load_jobset()["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"][
        "containers"
    ][0]
    values = [pair["value"] for pair in jobset["env"] if pair["name"] == "XLA_FLAGS"]
    return set(values) | set(
        re.findall(r"--xla_\w+=true", (ROOT / "launch" / "train.sbatch").read_text())
    )


def test_xla_knows_the_flags():
    (flag,) = xla_flags()  # JAX ends a process that is given a flag it does not know
    _, settings = dry_run("train.sbatch", **GPU_NODES)
    assert settings["XLA_FLAGS"].split() == [flag]
    _, settings = dry_run("train.sbatch", **GPU_NODES, PHENOMJAX_NETWORK_GBPS="400")
    network, same = settings["XLA_FLAGS"].split()
    assert network.endswith("nic_speed_gbps=50") and same == flag  # bytes
    done = subprocess.run(
        [PYTHON, "-c", "import jax; jax.devices()"],
        env={**os.environ, "XLA_FLAGS": f"{network} {flag}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_local_gives_each_process_its_share():
    plan = local.plan(["--workdir", "w"], 2, 0, {"CUDA_VISIBLE_DEVICES": "4,5,6,7"})
    assert [environment["CUDA_VISIBLE_DEVICES"] for _, environment in plan] == ["4,5", "6,7"]
    assert plan[1][0][:3] == [PYTHON, "-m", "phenomjax.main"]
    assert {"--num_processes=2", "--process_id=1", "--local_devices=2"} < set(plan[1][0])
    assert plan[0][0][3] == plan[1][0][3] and plan[0][0][3].startswith("--coordinator=127.0.0.1:")
    with pytest.raises(ValueError, match="2 processes of 3 GPUs need more than the 4"):
        local.plan([], 2, 3, {"CUDA_VISIBLE_DEVICES": "4,5,6,7"})
    with pytest.raises(ValueError, match="give a smaller -n"):
        local.plan([], 8, 0, {"CUDA_VISIBLE_DEVICES": "4,5,6,7"})
    (command, environment), _ = local.plan(
        [], 2, 4, {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "0"}
    )
    assert "--local_devices=4" in command and environment["XLA_FLAGS"].endswith("device_count=4")


def load_jobset():
    return yaml.safe_load((ROOT / "launch" / "k8s" / "jobset.yaml").read_text())


def test_jobset_holds_a_valid_job():
    (replicated,) = load_jobset()["spec"]["replicatedJobs"]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train"},
        **replicated["template"],
    }
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


def test_jobset_runs_the_tested_command():
    jobset = load_jobset()
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert [PYTHON, *container["command"][1:]] == local.plan([], 1, 1, {"JAX_PLATFORMS": "cpu"})[0][
        0
    ][:3]
    given = dict(argument[2:].split("=", 1) for argument in container["args"])
    assert {name for name in given if not name.startswith("config.")} == {
        *flags.FLAGS,
        "config",
        "workdir",
    }
    assert (ROOT / given["config"]).is_file()
    first = f"{jobset['metadata']['name']}-{replicated['name']}-0-0"
    host = f"{first}.{jobset['spec']['network']['subdomain']}"
    assert (
        given["coordinator"].split(":")[0] == host
        and host in pod["initContainers"][0]["command"][-1]
    )
    assert int(given["num_processes"]) == job["completions"] == job["parallelism"]
    assert int(given["local_devices"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert given["process_id"] == "$(INDEX)" and container["env"][0]["name"] == "INDEX"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    rules = {
        rule["onExitCodes"]["values"][0]: rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert rules == {errors.EXIT_CONFIG: "FailJob", errors.EXIT_STOPPED: "Ignore"}
    assert jobset["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"


def test_dockerfile_copies_what_is_there_and_runs_the_tested_command():
    text = re.sub(r"\\\n", "", (ROOT / "launch" / "Dockerfile").read_text())
    copied = [
        source for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for source in line.split()
    ]
    assert {"phenomjax", "configs", "launch", "pyproject.toml"} < set(copied)
    assert all(list(ROOT.glob(source)) for source in copied)
    kept = set(
        re.findall(r"^!(\S+)$", (ROOT / "launch" / "Dockerfile.dockerignore").read_text(), re.M)
    )
    assert kept == set(copied)
    extras = re.search(r'ARG EXTRAS="--extra (\S+)"', text)[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extras in project["optional-dependencies"] and "uv.lock" in copied
    container = load_jobset()["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"][
        "containers"
    ][0]
    assert yaml.safe_load(re.search(r"^ENTRYPOINT (.*)$", text, re.M)[1]) == container["command"]


def start_local(workdir, *options, n=2, log=None, **environment):
    """launch/local.py with a toy run; what all processes print goes to WORKDIR.log."""
    arguments = [arg for arg in toy_arguments(workdir) if arg not in options]
    command = [PYTHON, "launch/local.py", "-n", str(n), "--", *arguments, *options]
    with open(f"{workdir}.log", "ab") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=toy_environment(**environment), stdout=log, stderr=log
        )


@pytest.mark.slow
def test_a_raising_process_ends_all_with_its_traceback_last_and_they_start_again(tmp_path):
    """And the second start is told to stop, saves, and leaves with 75."""
    run = tmp_path / "run"
    process = start_local(run, TOY_RAISE="1:25", TOY_STEP_SECONDS=0.05)
    wait_until(lambda: number(run / "progress") >= 40, "progress after the failure")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75
    text = (tmp_path / "run.log").read_text()
    first, second = text.split("launch: failed after progress; starting again\n")
    lines = [line for line in first.splitlines() if line]
    assert lines[-1] == "launch: exit code 1, checkpoint of step none -> 20"
    assert (
        lines[-2] == "ValueError: planted at step 25"
        and "Traceback (most recent call last):" in lines
    )
    assert second.rstrip().endswith(
        "launch: stopped by a signal, saved; the same command continues"
    )
    reached = int(re.search(r"to continue at step (\d+)", second)[1])
    assert number(run / "progress") == reached >= 40


@pytest.mark.slow
def test_a_dead_local_launcher_leaves_no_process(tmp_path):
    process = start_local(tmp_path / "run")
    wait_until(lambda: len(ranks(tmp_path / "run")) == 2, "two processes")
    time.sleep(random.uniform(0, 3))
    process.kill()
    process.wait()
    wait_until(lambda: not processes(str(tmp_path)), lambda: str(processes(str(tmp_path))), 20)
