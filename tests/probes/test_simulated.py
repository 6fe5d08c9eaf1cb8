"""Labels of simulated families: what the suite reads is what was simulated, and the same at every
start.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.data.simulated.families import FamilyConfig, evolve_families, write_families
from phenomjax.probes.methods import mutations
from phenomjax.probes.suites import dataset, simulated, suite_file
from phenomjax.probes.suites.suite import Mutations
from phenomjax.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = FamilyConfig(families=3, members=20, length=40, indel_rate=0.01)


def test_files_are_made_once_whole_and_the_same(tmp_path):
    simulated.write(tmp_path / "a", CONFIG)
    simulated.write(tmp_path / "b" / "c", CONFIG)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == [
        "families.csv",
        "mutants.csv",
        "settings.json",
        "sites.fasta",
        "sites_labels.fasta",
        "wild_type.fasta",
    ]
    assert all(
        (tmp_path / "a" / n).read_bytes() == (tmp_path / "b/c" / n).read_bytes() for n in files
    )
    assert not list(tmp_path.glob(".part*"))
    before = (tmp_path / "a" / "families.csv").stat().st_mtime_ns
    simulated.write(tmp_path / "a", CONFIG)
    assert (tmp_path / "a" / "families.csv").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="was not made with these settings"):
        simulated.write(tmp_path / "a", FamilyConfig(families=3))


def test_labels_are_those_of_the_simulation_and_no_test_row_is_in_the_bank(tmp_path):
    simulated.write(tmp_path / "labels", CONFIG)
    write_families(tmp_path / "f.zarr", CONFIG)
    bank = open_token_bank(tmp_path / "f.zarr")
    trained_on = {bank.vocabulary.decode(bank.sequence(i)) for i in range(*bank.splits["train"])}
    with (tmp_path / "labels/families.csv").open() as file:
        rows = list(csv.DictReader(file))
    splits = {row["split"] for row in rows}
    assert (
        splits == {"train", "members", "relatives", "new family"}
        and len(rows) == 60 + 2 * simulated.RELATIVES
    )
    assert all((row["sequence"] in trained_on) == (row["split"] == "train") for row in rows)
    families = evolve_families(CONFIG)
    labels = (tmp_path / "labels/sites_labels.fasta").read_text().splitlines()
    sites = dict(zip(labels[::2], labels[1::2], strict=True))
    for row in (rows[25], rows[30]):
        ancestor, members = families[1]
        member = members[int(row["id"][5:])]
        assert row["family"] == "F001" and row["sequence"] == member.text
        assert sites[f">{row['id']} SPLIT={row['split']}"] == "".join(
            "F" if rate > 0 else "C" for rate in member.rates
        )
        kept = sum(
            ancestor.residues[o] == r
            for o, r in zip(member.origin, member.residues, strict=True)
            if o >= 0
        )
        assert float(row["divergence"]) == pytest.approx(
            1 - kept / len(ancestor.residues), abs=1e-4
        )
    assert len({len(text) for text in sites.values()}) > 3  # there were insertions and deletions
    with (tmp_path / "labels/mutants.csv").open() as file:
        effects = {row["mutant"]: float(row["effect"]) for row in csv.DictReader(file)}
    ancestor = families[-1][0]
    of_site = [
        np.mean([e for m, e in effects.items() if int(m[1:-1]) == site + 1])
        for site in range(1, len(ancestor.rates))
    ]
    conserved = ancestor.rates[1 : len(of_site) + 1] == 0
    assert np.max(np.array(of_site)[conserved]) < np.mean(np.array(of_site)[~conserved])


def test_the_suite_reads_its_own_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = suite_file.load(str(ROOT / "configs/eval/simulated.py"))
    settings = json.loads((tmp_path / suite.data / "settings.json").read_text())
    assert (settings["seed"], settings["families"], settings["members"], settings["length"]) == (
        0,
        20,
        40,
        120,
    )
    tests = {
        "conservation": {"members", "relatives", "new family"},
        "family": {"members", "relatives"},
        "divergence": {"members", "relatives", "new family"},
    }
    for name, task in suite.tasks.items():
        if isinstance(task, Mutations):
            (row,) = mutations.baseline_rows(name, task, Path(suite.data), 0)
            assert row["count"] == 19 * simulated.SITES
        else:
            assert set(dataset.load(name, task, Path(suite.data)).tests) == tests[name]
