"""`prepare sequences` on a real SLURM: whatever is killed, the bank is that of one process."""

import gzip
import subprocess
import sys

import pytest

from tests.lab import ROOT
from tests.lab.killing import ENGINE, TWO_NODES, survive
from tests.lab.slurm import toy_environment
from tests.prepare.test_sequence_scale import bgzf
from tests.prepare.test_sequences import contents, fasta, made_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_killed_on_slurm(slurm, tmp_path, count, capsys):
    texts = [fasta(made_up(2000, number)) for number in range(3)]
    names = [tmp_path / name for name in ("a.fasta", "b.fasta.bgz", "c.fasta.gz")]
    packed = [texts[0].encode(), bgzf(texts[1].encode()), gzip.compress(texts[2].encode())]
    for path, content in zip(names, packed, strict=True):
        path.write_bytes(content)

    def command(number):
        out = tmp_path / f"{number}.zarr"
        return ["-m", "tests.lab.toy_sequences", "--source", *names, "--out", out]

    words = [*map(str, command("one")), "--jobs", "1"]
    straight = subprocess.run([sys.executable, *words], cwd=ROOT, env=toy_environment())
    assert straight.returncode == 0

    def check(number):
        assert contents(tmp_path / f"{number}.zarr") == contents(tmp_path / "one.zarr")

    # kills at random hit the units of new workers again and again, which are none the worse for it
    engine = (*count(TWO_NODES, ENGINE), "deaths=40")
    told = survive(slurm, command, check, count(3, 40), engine=engine)
    with capsys.disabled():
        print(f"\n{told}")
