"""Units on a real SLURM: whatever is killed, the result is the one of one process."""

import re
import threading

import pytest

from phenomjax.engine import choose
from phenomjax.engine.options import EngineOptions
from phenomjax.engine.units import Notes, Unit
from phenomjax.system.errors import UserError
from tests.lab.killing import survive
from tests.lab.slurm import wait_until
from tests.lab.toy_units import expected_squares, read_squares, slow_square

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_killed_at_random(slurm, tmp_path, count, capsys):
    units = count(60, 400)

    def command(number):
        places = tmp_path / f"a {number}.partial", tmp_path / f"{number}"  # blanks are no harm
        return ["-m", "tests.lab.toy_units", *places, units, 1, 0.2]

    def check(number):
        assert (tmp_path / f"{number}").read_text() == f"{expected_squares(units)}"
        assert not (tmp_path / f"a {number}.partial").exists()

    told = survive(slurm, command, check, count(4, 40))
    with capsys.disabled():
        print(f"\n{told}")


@pytest.fixture
def engine(slurm, tmp_path, monkeypatch):
    """Runs units in this process, on SLURM with the words given."""
    monkeypatch.setenv("SLURM_CONF", slurm.conf)

    def run(*words, count=8, after=None):
        options = EngineOptions(engine="slurm", engine_option=("every=0.3", *words))
        units = (Unit(f"square-{number}", (number, 0.05)) for number in range(count))
        stop = threading.Event()
        with choose.executor(options, tmp_path) as executor:
            for number, _ in enumerate(executor.run(tmp_path, slow_square, units, stop)):
                if number == after:
                    stop.set()
        name = re.search(r"job-name=(\S+)", (tmp_path / "engine/worker.sbatch").read_text())[1]
        wait_until(lambda: not slurm.run("squeue", "-h", "-n", name), "the end of the jobs")
        return stop

    return run


def test_encrypted_on_gpus_and_stopped(engine, tmp_path):
    assert engine("tls=true", "gpus=2", "cpus=2", count=10**6, after=30).is_set()
    assert 30 < len(read_squares(tmp_path)) < 2000
    assert len(list(Notes(tmp_path).names())) == len(read_squares(tmp_path))
    script = (tmp_path / "engine" / "worker.sbatch").read_text()
    assert " tls://127.0.0.1:" in script and "--gpus-per-node=2" in script
    assert not list((tmp_path / "engine").glob("tls.*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("partition=nope",), r"SLURM refuses the jobs .*: .*nvalid partition.*worker.sbatch"),
        (("sbatch=--nosuch=1",), r"SLURM refuses the jobs .*unrecognized option"),
        (("interface=nope",), r"No scheduler can listen here .*nope"),
        (
            ("nodes=2", "prologue=echo no module python; exit 3"),
            r"SLURM jobs in a row ended before a worker joined.*\.log, ends: no module python\. W",
        ),
    ],
)
def test_mistakes(engine, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        engine(*words)
    assert read_squares(tmp_path) == []
