"""Embedding on a real SLURM: whatever is killed, the bytes are those of one process."""

import os

import pytest

from phenomjax import embed
from tests.inference.test_embed_images import CHANNELS, contents, write_images, write_run
from tests.lab import tiny_language_models as tiny
from tests.lab.killing import ENGINE, survive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def killed(slurm, folder, words, count, capsys):
    """Embeds in one process, then under fire."""
    words = [str(word) for word in [*words, "--devices", 1]]
    assert embed.main([*words, "--out", str(folder / "one.zarr")]) == 0

    def command(number):
        return ["-m", "phenomjax.embed", *words, "--out", folder / f"{number}.zarr"]

    def check(number):
        assert contents(folder / f"{number}.zarr") == contents(folder / "one.zarr")
        assert not list(folder.glob(f"{number}.zarr.*"))

    compiler = {"XLA_FLAGS": os.environ["XLA_FLAGS"]}  # with other flags other roundings
    # a unit that is alone, as what workers are is, is hit by many kills and no poison
    engine = *count(("nodes=2", "every=1"), ENGINE), "deaths=50"
    told = survive(slurm, command, check, count(2, 40), engine=engine, pace=8, **compiler)
    with capsys.disabled():
        print(f"\n{told}")


def test_images(slurm, tmp_path, count, capsys):
    write_run(tmp_path / "run")
    bank = write_images(tmp_path / "b.zarr", count(60, 600), CHANNELS, (256, 256))
    words = ["--checkpoint", tmp_path / "run", "--bank", bank, "--batch_size", 8]
    killed(slurm, tmp_path, [*words, "--unit_crops", 256, "--stride", 16], count, capsys)


def test_sequences(slurm, tmp_path, count, capsys):
    if not count(False, True):
        pytest.skip("with --full; the workers of an engine in test_embed_shares do the same units")
    run = tiny.write(tmp_path / "run", "causal_lm")
    source = tiny.write_fasta(tmp_path / "a.fasta", tiny.proteins([50] * 20000))
    words = ["--checkpoint", run, "--source", source, "--batch_tokens", 64, "--segment_len", 64]
    killed(slurm, tmp_path, words, count, capsys)
