"""Units on Dask: workers that die, poison, notes that show late, and what users can get wrong."""

import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import distributed
import pytest

from phenomjax.engine import bundles, choose, cluster, connecting, settings, slurm
from phenomjax.engine.options import EngineOptions
from phenomjax.engine.units import Notes, Unit
from phenomjax.system.errors import EXIT_FAILED, EXIT_STOPPED, UserError
from tests.lab.toy_units import (
    expected_squares,
    fail,
    read_squares,
    slow_square,
    square,
    square_of_file,
)


@pytest.fixture(scope="module")
def dask():
    """A running cluster of two workers."""
    connecting.distributed_settings()
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(cluster, "ALONE_SECONDS", 0.5)
    monkeypatch.setattr(connecting, "CONNECT_SECONDS", 1)


def squares(count):
    return (Unit(f"square-{number}", number) for number in range(count))


def run(engine, work, function=square, units=12, words=(), stop=None, **more):
    units = squares(units) if isinstance(units, int) else units
    with choose.executor(EngineOptions(engine=engine, engine_option=words), work) as executor:
        return list(executor.run(work, function, units, stop or threading.Event(), **more))


def test_units_are_done_once_in_bundles_that_grow(dask, tmp_path, monkeypatch):
    sizes, submit = [], cluster._Run._submit
    monkeypatch.setattr(
        cluster._Run, "_submit", lambda self, units: (sizes.append(len(units)), submit(self, units))
    )
    done = run(dask.scheduler_address, tmp_path, units=500)
    assert dict(done) == {f"square-{n}": {"rejected": [n] if n % 2 else []} for n in range(500)}
    assert len(done) == 500 and read_squares(tmp_path) == expected_squares(500)
    assert len(sizes) < 40 and sizes[0] == 1
    # Nothing is to be done: nobody is asked.
    assert run("tcp://127.0.0.1:1", tmp_path, units=500) == []
    Notes(tmp_path).forget("square-3")
    assert [name for name, _ in run(dask.scheduler_address, tmp_path, units=500)] == ["square-3"]


def test_a_bundle_ends_with_its_time(dask, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "BUNDLE_SECONDS", 0.2)
    units = (Unit(f"square-{n}", (n, 0.06)) for n in range(30))
    assert len(run(dask.scheduler_address, tmp_path, slow_square, units)) == 30
    assert read_squares(tmp_path) == expected_squares(30)


def test_a_unit_that_ends_its_workers_is_set_aside_and_no_other(dask, tmp_path, caplog):
    poison = functools.partial(square, dies_at=(7,))
    done = dict(
        run(
            dask.scheduler_address,
            tmp_path,
            poison,
            units=60,
            words=("deaths=2",),
            aside=lambda unit, reason: {"reason": reason},
        )
    )
    assert len(done) == 60 and len((tmp_path / "died-7").read_text()) == 2
    assert done["square-7"]["reason"].startswith(
        "tried 2 times (more often: --engine_option deaths=N): its worker on 127.0.0.1 died"
    )
    assert caplog.text.count("is tried again") == 1
    with pytest.raises(
        UserError, match=r"of the units .* be done: square-60, tried 1 time \(more.*deaths=N\): its"
    ):
        poison = functools.partial(square, dies_at=(60,))
        run(dask.scheduler_address, tmp_path, poison, units=62, words=("deaths=1",))
    assert Notes(tmp_path).is_committed("square-61")


def test_workers_that_are_killed_cost_nothing_but_time(dask, tmp_path):
    units, stop = (Unit(f"square-{n}", (n, 0.03)) for n in range(80)), threading.Event()
    with choose.executor(EngineOptions(engine=dask.scheduler_address), tmp_path) as executor:
        for number, _ in enumerate(executor.run(tmp_path, slow_square, units, stop)):
            if number in (10, 40):
                os.kill(next(iter(dask.workers.values())).pid, signal.SIGKILL)
    assert number == 79 and read_squares(tmp_path) == expected_squares(80)


def test_paths_are_relative_to_where_the_driver_is(dask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("seven").write_text("7")
    units = [Unit("square-7", Path("seven"))]
    assert len(run(dask.scheduler_address, Path("work"), square_of_file, units)) == 1
    assert read_squares(tmp_path / "work") == [49]


class UnreadableArgument:
    """Cannot be made again where it arrives."""

    def __reduce__(self):
        return int, ("no number",)


def test_a_scheduler_of_another_phenomjax(dask, tmp_path):
    units = [Unit("a", UnreadableArgument())]
    with pytest.raises(UserError, match=r"scheduler at tcp:.* cannot read the units"):
        run(dask.scheduler_address, tmp_path, units=units)


def test_a_work_folder_that_is_removed(tmp_path):
    terms = bundles.Terms(tmp_path, "abc", {}, "", tmp_path)
    token, run_of = tmp_path / bundles.TOKEN, SimpleNamespace(terms=terms)
    token.write_text("abc")
    cluster._Run._check_folder(run_of)
    for change in (lambda: token.write_text("def"), token.unlink):
        change()
        with pytest.raises(UserError, match=r"removed meanwhile.* Run the same command again"):
            cluster._Run._check_folder(run_of)


def test_errors_of_units_are_raised_and_faults_of_hosts_are_tried_again(dask, tmp_path):
    with pytest.raises(UserError, match="planted") as error:
        run(dask.scheduler_address, tmp_path, functools.partial(fail, UserError))
    assert error.value.exit_code == EXIT_FAILED
    other = tmp_path / "other"
    assert run(dask.scheduler_address, other, lambda work, number: None) == []
    assert len(run(dask.scheduler_address, other, functools.partial(fail, OSError))) == 12


def test_stopped(dask, tmp_path):
    stop = threading.Event()
    units = (Unit(f"square-{n}", (n, 0.02)) for n in range(10**6))
    with choose.executor(EngineOptions(engine=dask.scheduler_address), tmp_path) as executor:
        for number, _ in enumerate(executor.run(tmp_path, slow_square, units, stop)):
            if number == 20:
                stop.set()
    assert 20 < len(read_squares(tmp_path)) < 1000
    assert len(list(Notes(tmp_path).names())) == len(read_squares(tmp_path)) == number + 1


def test_notes_that_show_late(dask, tmp_path, monkeypatch):
    read, asked = Notes.read, []

    def late(self, name):
        asked.append(name)
        if asked.count(name) < 3:
            raise FileNotFoundError(name)
        return read(self, name)

    monkeypatch.setattr(Notes, "read", late)
    assert len(run(dask.scheduler_address, tmp_path)) == 12
    monkeypatch.setattr(bundles, "SEEN_SECONDS", 0)
    monkeypatch.setattr(Notes, "read", lambda self, name: late(self, str(len(asked))))
    with pytest.raises(
        UserError, match=r"square-12 is done, but its note does not show in .*units"
    ):
        run(dask.scheduler_address, tmp_path, units=13, words=("deaths=1",))


def test_a_cluster_without_workers_and_one_that_ends(tmp_path, caplog):
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    command += ["--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    caplog.set_level(logging.INFO, "phenomjax")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not file.exists():
            time.sleep(0.05)
        threading.Timer(2.5, process.kill).start()
        with pytest.raises(UserError, match=r"The scheduler at tcp://.* is gone.*is kept") as error:
            run(str(file), tmp_path)
    assert error.value.exit_code == EXIT_STOPPED
    assert "no workers at tcp://127.0.0.1" in caplog.text and "dask worker tcp" in caplog.text


def test_a_worker_of_a_driver_that_is_gone_commits_nothing(tmp_path, monkeypatch):
    terms = bundles.Terms(tmp_path, "abc", bundles.versions(), "", tmp_path)
    (tmp_path / "token").write_text("abc")
    monkeypatch.setattr(bundles, "_agreed", {"abc"})

    def another_begins(work, number):
        (work / "token").write_text("def")
        return square(work, number)

    bundles.do_bundle(tmp_path, another_begins, list(squares(3)), terms, 60)
    assert list(Notes(tmp_path).names()) == [] and read_squares(tmp_path) == [0]
    bundles.do_bundle(tmp_path, square, list(squares(3)), terms, 60)
    assert list(Notes(tmp_path).names()) == [] and read_squares(tmp_path) == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"versions": {"phenomjax": "9", "Python": "2.7"}},
            "has phenomjax .* instead of 9, Python",
        ),
        ({"threads": 4}, "has 4 threads.*--nthreads 1.*`engine_option` resource=UNIT"),
        ({"token": "another"}, "does not see .*token.*on a file system that all workers share"),
    ],
)
def test_workers_that_do_not_fit(tmp_path, monkeypatch, change, message):
    (tmp_path / "token").write_text("abc")
    state = SimpleNamespace(nthreads=change.get("threads", 1))
    worker = SimpleNamespace(address="tcp://10.0.0.1:7", state=state)
    monkeypatch.setattr(distributed, "get_worker", lambda: worker)
    monkeypatch.setattr(bundles, "SEEN_SECONDS", 0)
    mine = {**bundles.versions(), **change.get("versions", {})}
    terms = bundles.Terms(tmp_path, change.get("token", "abc"), mine, "", Path.cwd())
    with pytest.raises(UserError, match=f"The worker tcp://10.0.0.1:7 on .* {message}"):
        bundles.do_bundle(tmp_path, square, [Unit("a", 1)], terms, 1)
    assert not (tmp_path / "units").exists()


@pytest.mark.parametrize(
    ("engine", "words", "message"),
    [
        ("slrum", (), "Unknown `engine` 'slrum'. Did you mean 'slurm'"),
        ("local", ("nodes=3",), "this engine has no 'nodes'.* It has deaths"),
        ("slurm", ("node=3",), "has no 'node'. Did you mean 'nodes'"),
        ("slurm", ("nodes",), "'nodes' must be nodes=VALUE, the value an integer"),
        ("slurm", ("nodes=many",), "must be nodes=VALUE, the value an integer"),
        ("slurm", ("nodes=0",), "nodes=0 must be 1 or more"),
        ("slurm", ("time=4h",), "time=4h is no time of SLURM"),
        ("slurm", ("tls=maybe",), "must be tls=VALUE, the value true or false"),
        ("slurm", (), "there is no sbatch on this machine"),
        ("tcp://127.0.0.1:1", (), "No Dask scheduler answers at tcp://127.0.0.1:1"),
        ("tls://127.0.0.1:1", (), "No Dask scheduler answers at tls://127.0.0.1:1"),
        ("nonsense://x", (), "No Dask scheduler answers at nonsense://x"),
        ("there_is_none.json", (), "there_is_none.json.* is not there"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, engine, words, message):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=message):
        run(engine, tmp_path, words=words)


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"pip install 'phenomjax\[cluster\]'"):
        run("tcp://127.0.0.1:1", tmp_path)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("30", 1800), ("1:30", 90), ("4:00:00", 14400), ("1-0", 86400), ("1-2:03:04", 93784)],
)
def test_times_of_slurm(time, seconds):
    assert settings.parse(settings.Slurm, [f"time={time}"]).seconds == seconds
