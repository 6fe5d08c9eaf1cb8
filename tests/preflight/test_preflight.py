"""The preflight finds what is planted, names it, and goes on with what can still be checked."""

import json
import os
import re
import shutil
import subprocess
import sys

import jsonschema
import pytest

from docs.generate import formats
from phenomjax import config
from phenomjax.cluster import start as cluster_start
from phenomjax.preflight import __main__ as preflight
from phenomjax.preflight import checks, files, hosts, steps
from phenomjax.preflight.exchange import Exchange
from phenomjax.preflight.results import FAIL, OK, Problem, Result, Skip, table
from phenomjax.preflight.stand import Bench
from phenomjax.system import ending
from tests.lab import ROOT, warm

PYTHON = sys.executable
NAMES = ["process 0 on lab0", "process 1 on lab1"]
ROWS = [check.name for check in checks.CHECKS]


def statuses(text):
    """{check: status} of a printed table."""
    return {
        m[1].strip(): m[2]
        for m in re.finditer(
            r"^([a-z]+(?: [a-z]+)?) +(ok|FAIL|skipped|not run)\b", text, re.MULTILINE
        )
    }


@pytest.fixture(autouse=True)
def _small_arrays(monkeypatch):
    """Eight devices of one process would take 1.5 GiB to reduce 64 MiB each."""
    monkeypatch.setattr(hosts, "REDUCED_ON_CPU", (1, 8))


def test_alone_on_eight_devices(tmp_path, monkeypatch, capsys):
    c = config.base()
    c.task, c.global_batch_size, c.data.simulate.plates, c.mesh.preset = (
        "tests.lab.toy_task:ToyTask",
        16,
        1,
        "fsdp",
    )
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)  # of a run, which stays as it is
    (tmp_path / "progress").write_text("7\n")
    with ending.told("preflight", as_json=True):
        assert preflight.run(c, tmp_path, program="toy") == 0
    told, said = capsys.readouterr()
    told = json.loads(told)
    schema = formats.schemas(formats.OBJECTS)["preflight_object"]
    jsonschema.Draft202012Validator(schema).validate(told)
    found = {one["check"]: one for one in told["checks"]}
    assert told["passed"] and [*found] == ROWS and found["clocks"]["status"] == "skipped"
    numbers = found["steps"]["numbers"]
    seconds = c.num_steps / numbers["steps_per_second"]
    assert numbers["days_of_all_steps"] == pytest.approx(seconds / 86400)
    assert found["disk"]["numbers"]["needed_bytes"] > 0 and numbers["gib_per_device"] > 0
    assert all(found[one]["numbers"] for one in ("devices", "data", "network", "checkpoint"))
    expected = dict.fromkeys(ROWS, "ok") | {"clocks": "skipped", "stop signal": "skipped"}
    assert statuses(said) == expected and "PASS; skipped: clocks, stop signal" in said
    assert "the same 10 losses on 1 device(s)" in said
    assert (tmp_path / "preflight.txt").read_text() in said
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoints",
        "preflight.txt",
        "progress",
    ]
    assert (tmp_path / "progress").read_text() == "7\n" and not list(
        (tmp_path / "checkpoints" / "7").iterdir()
    )


def test_a_mistake_in_the_configuration_does_not_hide_the_rest(tmp_path, capsys):
    c = config.base()
    c.optimizer.name = "lyon"
    assert preflight.run(c, tmp_path) == 1
    said = capsys.readouterr().out
    found = statuses(said)
    assert "config.optimizer.name is 'lyon'. Did you mean 'lion'?" in said
    assert (found["config"], found["data"], found["steps"], found["network"]) == (
        "FAIL",
        "not run",
        "not run",
        "ok",
    )


def start(workdir, plant="", *flags, prefix=()):
    """Runs two processes of the toy task; (exit codes, stdout of process 0, both outputs). `prefix`
    is put before the command of process 1.
    """
    address = f"127.0.0.1:{cluster_start.free_port()}"
    command = [
        PYTHON,
        "tests/lab/preflight_main.py",
        "--config",
        "configs/mae.py:S/8",
        "--workdir",
        str(workdir),
        "--config.global_batch_size=8",
        "--config.data.banks=('toy.zarr',)",
        "--coordinator",
        address,
        "--num_processes=2",
        *flags,
    ]
    environment = {**os.environ, "PLANT": plant}
    both = [
        (subprocess.Popen if prefix and i else warm.Popen)(
            [*(prefix if i else ()), *command, f"--process_id={i}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    said = [p.communicate(timeout=300) for p in both]
    return [p.returncode for p in both], said[0][0], "".join(map("".join, said))


@pytest.mark.slow
def test_two_processes_pass_through_the_launcher(tmp_path):
    environment = {
        **os.environ,
        "PHENOMJAX_MAIN": f"{PYTHON} {ROOT / 'tests' / 'lab' / 'preflight_main.py'}",
    }
    command = [
        PYTHON,
        "launch/local.py",
        "-n",
        "2",
        "--",
        "--config",
        "configs/mae.py:S/8",
        "--workdir",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        [*command, "--config.global_batch_size=8"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert statuses(done.stdout) == dict.fromkeys(ROWS, "ok") and done.stdout.rstrip().endswith(
        "PASS"
    )
    assert "2 process(es) x 1 of kind cpu" in done.stdout and "SIGTERM to process 1" in done.stdout
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["preflight.txt"]


@pytest.mark.slow
def test_planted_faults_are_all_found_in_one_go(tmp_path):
    codes, said, everything = start(
        tmp_path / "run", "version:1,clock:1,rows:1", "--expect_gbps=1e6"
    )
    found = {name for name, status in statuses(said).items() if status != "ok"}
    assert codes == [1, 1], everything
    assert found == {"clocks", "versions", "network", "one process"}
    assert re.search(r"that of process 1 on \S+ is 5\.0 s ahead of that of process 0", said)
    assert re.search(r"jax: \S+ on process 0 on \S+; 0\.9\.0 on process 1 on ", said)
    assert "less than half of --expect_gbps=1e+06" in " ".join(said.split())
    # rows of one step are other ones
    assert re.search(r"step 4 has \S+ on all, \S+ on process 0 ", said)
    assert said.rstrip().endswith("FAIL: clocks, versions, network, one process")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["preflight.txt"]


@pytest.mark.slow
def test_a_workdir_that_is_not_shared(tmp_path):
    """Process 1 has another file system in the place of the workdir."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    prefix = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {workdir} && exec "$@"', "sh"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*prefix, "true"], capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount")
    codes, said, everything = start(workdir, prefix=prefix)
    assert codes == [1, 1], everything
    text = " ".join(said.split())
    assert (
        "process 0 on" in text
        and "does not see what process 1 on" in text
        and "does not see what process 0 on" in text
    )
    assert "on a file system that all hosts share" in text
    found = statuses(said)
    assert (found["workdir"], found["data"], found["one process"], found["checkpoint"]) == (
        FAIL,
        OK,
        OK,
        "not run",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (
            "unreadable:1",
            (
                r"process 1 on \S+: PermissionError: \[Errno 13\] Permission denied:"
                r" '/data/screen.zarr'"
            ),
        ),
        ("hang:1", r"process 1 on \S+: is not done after 5 s, in files.py:\d+ \(look_at_data\)"),
        ("gone:1", r"process 1 on \S+: does not answer: killed, stopped, or its node is lost"),
    ],
)
def test_the_process_that_cannot_read_hangs_or_is_gone_is_named(tmp_path, plant, what):
    codes, said, everything = start(tmp_path / "run", plant)
    assert codes == [1, -9 if plant == "gone:1" else 1], everything
    assert re.search(what, said), said
    found = statuses(said)
    assert found["data"] == "FAIL" and found["steps"] == found["checkpoint"] == "not run"
    assert found["network"] == ("not run" if plant == "gone:1" else "ok")


def device(**changes):
    return {"kind": "H100", "count": 8, "GiB": 71.2} | changes


METRICS = [{"train/loss": 2.0, "train/grad_norm": 1.0}, {"train/loss": 1.5, "train/grad_norm": 1.0}]
NETWORK = {"n": 2, "seconds": {"1": 0.001, "64": 0.05}, "expect": 0.0, "host": "lab0"}


@pytest.mark.parametrize(
    ("judge", "found", "text"),
    [
        (
            hosts.judge_devices,
            [device(), device(count=7)],
            r"the count of devices differs: 8 on process 0 on lab0; 7 on process 1 on lab1",
        ),
        (
            hosts.judge_devices,
            [device(), device(GiB=33.1)],
            r"71.2 on process 0 on lab0; 33.1 on process 1",
        ),
        (hosts.judge_clocks, [[-2.0, 0.1], None], r"process 1 on lab1 is 2.0 s behind"),
        (hosts.judge_all_reduce, [NETWORK | {"seconds": {"1": 0.0}}] * 2, "n = 2 devices"),
        (
            hosts.judge_all_reduce,
            [NETWORK | {"expect": 100.0}] * 2,
            "less than half of --expect_gbps=100",
        ),
        (
            files.judge_config,
            [{"config": {"seed": "0"}, "unfit": ""}, {"config": {"seed": "1"}, "unfit": ""}],
            "seed: 0 on process 0",
        ),
        (
            files.judge_data,
            [{"fingerprints": {"0 a": "1"}}, {"fingerprints": {"0 a": "2"}}],
            "the fingerprints of the banks differ",
        ),
        (
            files.judge_disk,
            [{"need": 2**30, "free": 2**30, "total": 2**31, "copies": 4}],
            "4 checkpoints of 1.0 GiB need 4.0 GiB",
        ),
        (
            steps.judge_steps,
            [{"metrics": METRICS}, {"metrics": METRICS[::-1]}],
            "the processes have different losses",
        ),
        (
            steps.judge_steps,
            [{"metrics": [{"train/loss": float("nan"), "train/grad_norm": 1.0}]}] * 2,
            "step 1 has loss nan",
        ),
    ],
)
def test_what_a_judge_does_not_let_pass(judge, found, text):
    with pytest.raises(Problem, match=text):
        judge(found, NAMES)


def test_what_a_judge_lets_pass():
    text = hosts.judge_all_reduce([NETWORK, NETWORK | {"host": "lab1"}], NAMES)
    assert (
        "64 MiB 1.34 GB/s; at best 10.7 Gbit/s = 2 (n - 1) / n x bytes / median seconds, n = 2"
        " devices, between 2 hosts" in text
    )
    assert "within 500.0 ms of process 0 (known to 700.0 ms)" in hosts.judge_clocks(
        [[0.5, 0.7], None], NAMES
    )
    both = {"all": METRICS, "seconds": 0.1, "limit": 1e-5, "devices": 1}
    close = [m | {"train/loss": m["train/loss"] * (1 + 5e-6)} for m in METRICS]
    assert "to 5.0e-06 (limit 1e-05)" in steps.judge_alone([both | {"alone": close}, None], NAMES)
    with pytest.raises(Problem, match=r"step 1 has 2 on all, 2\.00004 on process 0 on lab0 alone"):
        steps.judge_alone(
            [
                both | {"alone": [m | {"train/loss": m["train/loss"] * 1.00002} for m in METRICS]},
                None,
            ],
            NAMES,
        )
    with pytest.raises(Problem, match=r"gradient norm of the first step: 2\.0e-01"):
        steps.judge_alone(
            [both | {"alone": [m | {"train/grad_norm": 1.25} for m in METRICS]}, None], NAMES
        )


def test_one_process_says_why_it_is_skipped(monkeypatch, tmp_path):
    class Big:
        specs = ({"pixels": ((2**20, 2**20), "float32")},)

    c = config.base()
    c.global_batch_size = 2**20
    bench = Bench(c, tmp_path, Exchange())
    bench.loader = Big
    with pytest.raises(
        Skip,
        match=(
            r"a whole batch of 4096.0 GiB does not fit into .* compare with a smaller"
            r" --config.global_batch_size"
        ),
    ):
        steps.run_alone(bench)


def test_table():
    rows = [
        Result("devices", OK, 1.25, "all there"),
        Result("disk", FAIL, 0.5, "x " * 90, "Make space."),
        Result("steps", "not run", 0, "needs disk"),
    ]
    text = table(rows, "head")
    assert text.startswith(
        "head\n\ncheck    result   seconds  detail\ndevices  ok           1.2  all there\n"
    )
    assert max(map(len, text.splitlines())) <= 150 and "mend:  Make space." in text
    assert text.endswith("FAIL: disk; not run: steps\n")
