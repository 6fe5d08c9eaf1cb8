"""Simulated families: reproducible, conserved where they say so, held out as they say."""

import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.data.simulated import families as sf
from phenomjax.system.errors import UserError
from tests.lab import warm

CONFIG = sf.FamilyConfig(families=3, members=20, length=60, indel_rate=0.0)


def test_conserved_sites_stay_and_free_sites_change():
    ancestors, members = sf.simulate(CONFIG)
    for (ancestor, rates), proteins in zip(ancestors, members, strict=True):
        aligned = np.array([list(p) for p in proteins])
        same = (aligned == np.array(list(ancestor))).mean(0)
        assert (same[rates == 0] == 1).all() and ancestor[0] == "M"
        assert same[rates > 1].mean() < 0.7 < same[(rates > 0) & (rates < 0.3)].mean()
        assert 0.2 < (rates == 0).mean() < 0.6
    assert sf.simulate(CONFIG)[1] == members
    with_indels = sf.simulate(
        sf.FamilyConfig(families=1, members=30, length=60, indel_rate=0.01, test_families=0)
    )[1][0]
    assert len({len(p) for p in with_indels}) > 1


def test_command_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "phenomjax.prepare",
        "simulate",
        "--kind",
        "proteins",
        "--out",
        str(tmp_path / "f.zarr"),
    ]
    done = warm.run([*command, "--families", "2", "--members", "4", "--length", "20"])
    assert done.returncode == 0 and "8 proteins" in done.stderr, done.stderr
    assert len(open_token_bank(tmp_path / "f.zarr")) == 8
    done = warm.run([*command, "--families", "1"])
    assert done.returncode == 2 and "leaves too little to train on" in " ".join(done.stderr.split())


def test_bank_holds_out_members_and_families(tmp_path):
    sf.write_families(tmp_path / "f.zarr", CONFIG)
    bank = open_token_bank(tmp_path / "f.zarr")
    family = {
        split: {name[:4] for name in bank.names(range(*span))}
        for split, span in bank.splits.items()
    }
    assert family == {"train": {"F001", "F002"}, "validation": {"F001", "F002"}, "test": {"F000"}}
    assert [b - a for a, b in bank.splits.values()] == [36, 4, 20]
    truth = pq.read_table(tmp_path / "f.zarr/truth/families.parquet")
    assert dict(zip(*truth.to_pydict().values(), strict=True))["F002_0003"] == 2
    before = bank.fingerprint
    sf.write_families(tmp_path / "f.zarr", CONFIG)
    assert open_token_bank(tmp_path / "f.zarr").fingerprint == before
    with pytest.raises(UserError, match=r"was made with other settings"):
        sf.write_families(tmp_path / "f.zarr", sf.FamilyConfig())
    with pytest.raises(UserError, match=r"leaves too little to train on"):
        sf.write_families(tmp_path / "g.zarr", sf.FamilyConfig(families=1))
