"""Tables of variants as labs have them: each understood and told, or refused in one sentence."""

import csv

import numpy as np
import pytest

from phenomjax import score
from phenomjax.inference.variants import table as variants_table
from phenomjax.inference.variants import wild_type as wild_types
from phenomjax.system.errors import EXIT_FAILED, UserError
from tests.lab import tiny_language_models as tiny

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("runs") / "xlnet", "permutation_lm")


@pytest.fixture
def cases(shared):
    folder = shared.parent / "cases" / "sequences"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}, which is not on this machine")
    return folder


@pytest.fixture
def run(workdir, cases, tmp_path):
    """Runs a case: (exit code, {variant: score text}, rows that are listed as invalid)."""

    def run(mutants, *options, wild_type="s01_sep/wt.fasta"):
        out = tmp_path / "o.csv"
        words = [
            "--checkpoint",
            workdir,
            "--wild_type",
            cases / wild_type,
            "--out",
            out,
            "--overwrite",
        ]
        code = score.main([str(a) for a in [*words, "--mutants", cases / mutants, *options]])
        with out.open() as file:
            header, *rows = csv.reader(file)
        name = "model_score" if "model_score" in header else "score"
        invalid = tmp_path / "o.invalid.csv"
        listed = len(invalid.read_text().splitlines()) - 1 if invalid.is_file() else 0
        scored = {row[0]: row[header.index(name)] for row in rows}
        assert sum(map(bool, scored.values())) + listed >= len(scored)
        return code, scored, listed

    return run


def read(path, wild_type):
    """(mutations, measured values) of a table of a wild type."""
    sequence = wild_types.read(wild_type, "keep")
    found = variants_table.read(path, sequence, "", "", 0)
    return found.mutations, found.targets


def test_every_separator_gives_the_same_variants(run, cases):
    paths = [path for path in (cases / "s01_sep").glob("*.csv") if path.name != "single.csv"]
    found = [read(path, cases / "s01_sep" / "wt.fasta") for path in paths]
    expected = [[(1, "R"), (4, "F")], [(9, "K"), (29, "A"), (59, "R")], [(19, "A")]]
    assert len(found) == 9 and all(variants == expected for variants, _ in found)
    assert all(values.tolist() == [0.5, 0.1, 0.9] for _, values in found)


def test_hgvs(run):
    assert run("s02_hgvs/three_noprefix.csv")[:2] == (0, {"Lys2Arg": "-1.34714"})
    code, found, _ = run("s02_hgvs/hgvs.csv")
    assert code == 0 and found["p.Arg10="] == "0" and found["p.Lys2Arg"] == "-1.34714"
    with pytest.raises(UserError, match="row 5 has the mutant 'Ile12Ter', a stop codon"):
        run("s02_hgvs/hgvs_all.csv")
    code, found, listed = run("s02_hgvs/hgvs_all.csv", "--skip_invalid")
    assert (code, listed) == (EXIT_FAILED, 1) and not found["p.Ile12Ter"]
    assert [found[name] for name in ("_wt", "_sy", "p.=", "p.Arg10=")] == ["0"] * 4
    assert all(float(found[name]) for name in ("p.Gln9del", "p.[Lys2Arg;Tyr5Phe]", "p.(Tyr5Phe)"))


def test_odd_tables_are_read(run, cases, capsys):
    for name in ("semicolon", "utf16", "deccomma", "bom_crlf", "sepline", "lower"):
        variants, values = read(cases / "s05_odd" / f"{name}.csv", cases / "s01_sep" / "wt.fasta")
        assert variants[:2] == [[(1, "R")], [(4, "F")]] and np.isfinite(values).all(), name
    code, found, _ = run("s05_odd/semicolon.csv")
    assert code == 0 and list(found.values())[:2] == ["-1.34714", "-2.80688"]
    assert "Spearman correlation with fitness: 1.0000 (3 variants)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name,message",
    [
        ("Excel_dates", "row 4 has '3-Mar', a date: a spreadsheet such as Excel"),
        ("dup", "row 2 has the mutant 'Y5F:Y5V', which changes position 5 twice"),
        ("sarkisyan", "With --offset -1 all of them agree"),
        ("stop", "row 3 has the mutant 'Y5[*]', a stop codon"),
        ("twocol", "2 columns 'mutant'"),
        ("wt_U", "row 2 has the mutant 'U10C', but the wild type has R"),
        ("wtrows", "row 8 has 'nan' where the variant should be.*write WT"),
    ],
)
def test_odd_tables_are_named(name, message, run):
    with pytest.raises(UserError, match=message):
        run(f"s05_odd/{name}.csv")


def test_odd_wild_types(run):
    expected = run("s01_sep/colon.csv")[1]
    assert run("s01_sep/colon.csv", wild_type="s05_odd/wt_star.fasta")[1] == expected
    with pytest.raises(UserError, match=r"holds 2 records .* --wild_type_id wt"):
        run("s01_sep/colon.csv", wild_type="s05_odd/two.fasta")
    mended = run("s01_sep/colon.csv", "--wild_type_id", "wt", wild_type="s05_odd/two.fasta")
    assert mended[1] == expected
    assert run("s05_odd/wt_U.csv", wild_type="s05_odd/wt_U.fasta")[0] == 0
    assert run("s05_odd/sarkisyan.csv", "--offset", "-1")[1]["SK1R"] == "-1.34714"


def test_a_construct_is_not_scored_at_wrong_residues(run, cases):
    construct = "s06_blat/construct.fasta"
    for options in ((), ("--skip_invalid",)):
        with pytest.raises(UserError, match=r"Only 6 of 120 .* With --offset 23 all of them agree"):
            run("s06_blat/dms.csv", *options, wild_type=construct)
    code, found, listed = run("s06_blat/dms.csv", "--offset", "23", wild_type=construct)
    assert (code, listed, len(found)) == (0, 0, 120) and all(found.values())
    assert len(read(cases / "s06_blat" / "dms.csv", cases / "s06_blat" / "full.fasta")[0]) == 120


def test_whole_sequences_of_flip(workdir, shared, tmp_path, capsys):
    source, table = shared / "protein" / "dms" / "gb1_one_vs_rest.csv", tmp_path / "gb1.csv"
    with source.open() as file:
        lines = [next(file) for _ in range(9)]
    table.write_text("".join(lines))
    wild_type = tiny.write_fasta(tmp_path / "wt.fasta", [("wt", lines[1].split(",")[0])])
    words = ["--checkpoint", workdir, "--wild_type", wild_type, "--mutants", table]
    assert score.main([str(a) for a in [*words, "--out", tmp_path / "o.csv"]]) == 0
    with (tmp_path / "o.csv").open() as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    assert len(scores) == 8 and scores[0] == 0 and np.abs(scores[1:]).min() > 0
    assert "Spearman correlation with target: " in capsys.readouterr().out
