"""`prepare images` on a real SLURM: whatever is killed, the bank is that of one process."""

import pytest

from tests.lab.killing import ENGINE, TWO_NODES, survive
from tests.prepare.test_images import contents, prepare, write_jump

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_killed_on_slurm(slurm, tmp_path, count, capsys):
    wells = 20
    for batch in "ab":
        plates = [f"{batch}{number}" for number in range(3)]
        write_jump(tmp_path / "raw" / batch, wells=wells, plates=plates)
    for images in (1, 7):
        options = {"images_per_shard": images}
        assert prepare(tmp_path / "raw", tmp_path / f"one{images}.zarr", "jump", **options) == 0

    def command(number):
        words = ["--source", tmp_path / "raw", "--layout", "jump"]
        words += [
            "--out",
            tmp_path / f"{number}.zarr",
            "--images_per_shard",
            7 if number % 2 else 1,
        ]
        return ["-m", "tests.lab.toy_images", *words]

    def check(number):
        one = tmp_path / f"one{7 if number % 2 else 1}.zarr"
        assert contents(tmp_path / f"{number}.zarr") == contents(one)

    # of the few units that read a source, one may be met by chance as often as a poisonous one
    engine = (*count(TWO_NODES, ENGINE), "deaths=50")
    told = survive(slurm, command, check, count(3, 40), engine=engine)
    with capsys.disabled():
        print(f"\n{told}")
