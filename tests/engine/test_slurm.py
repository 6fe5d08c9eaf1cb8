"""Units on a real SLURM: whatever is killed, the result is the one of one process."""

import pytest

from tests.lab.killing import survive
from tests.lab.toy_units import expected_squares

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_killed_at_random(slurm, tmp_path, count, capsys):
    units = count(60, 400)

    def command(number):
        places = tmp_path / f"{number}.partial", tmp_path / f"{number}"
        return ["-m", "tests.lab.toy_units", *places, units, 1, 0.2]

    def check(number):
        assert (tmp_path / f"{number}").read_text() == f"{expected_squares(units)}"
        assert not (tmp_path / f"{number}.partial").exists()

    told = survive(slurm, command, check, count(4, 40))
    with capsys.disabled():
        print(f"\n{told}")
