"""`prepare mirror` on a real SLURM: whatever is killed, all files are copied and verified."""

import pytest

from tests.lab.killing import ENGINE, TWO_NODES, survive
from tests.prepare.test_mirror_kill import PROGRAM, is_whole, source  # noqa: F401  a fixture

pytestmark = pytest.mark.slow


def test_killed_on_slurm(slurm, source, tmp_path, count):  # noqa: F811
    """Workers, nannies, whole jobs, once the driver."""

    def command(number):
        words = [PROGRAM, "mirror", source, tmp_path / f"{number}"]
        return [*words, "--rate", count("15MB/s", "6MB/s")]

    def check(number):
        target = tmp_path / f"{number}"
        is_whole(source, target, f"{target}.manifest.parquet")

    # a large file takes some seconds, so it may well be killed five times
    engine = (*count(TWO_NODES, ENGINE), "deaths=50")
    pace = count(1.5, 8.0)
    print(survive(slurm, command, check, count(2, 40), engine=engine, pace=pace))
