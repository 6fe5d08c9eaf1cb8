"""What people write for variants, and their tables as published: understood, or named; nothing is
scored at residues that agree by chance.
"""

import csv
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax import score
from phenomjax.inference.variants import measured, notation, whole
from phenomjax.inference.variants import table as variants_table
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained import opening
from tests.lab import tiny_language_models as tiny

WT = "MKTAYIAKQRQISFVKSHFSRQ"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{task: workdir of a tiny model}."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: tiny.write(folder / name, name) for name in tiny.SHAPES}


def understood(text, offset=0):
    return notation.applied(notation.read(text), WT, offset)


@pytest.mark.parametrize(
    "text,expected",
    [
        *((f"K2R{sign}Y5F", [(1, "R"), (4, "F")]) for sign in (*":;,/+|_- &", ", ", " ; ")),
        ("['K2R', 'Y5F']", [(1, "R"), (4, "F")]),
        ("k2r", [(1, "R")]),
        ("K2K", []),
        *((text, [(1, "R")]) for text in ("p.Lys2Arg", "p.(Lys2Arg)", "Lys2Arg", "LYS2ARG")),
        *((f"{name}:p.Lys2Arg", [(1, "R")]) for name in ("NP_000001.1", "NP_1.1(BRCA1)", "G-1")),
        ("c.4A>G (p.Lys2Arg), c.6A>G (p.Lys2Arg), c.9C>A (p.=)", [(1, "R")]),
        ("c.9C>A (p.=)", []),
        ("K2R\u2013Y5F", [(1, "R"), (4, "F")]),
        ("p.[Lys2Arg;Tyr5Phe]", [(1, "R"), (4, "F")]),
        ("p.[(Lys2Arg;Tyr5Phe)]", [(1, "R"), (4, "F")]),
        ("p.Lys2Arg;p.Tyr5Phe", [(1, "R"), (4, "F")]),
        ("Lys2Arg_Tyr5Phe", [(1, "R"), (4, "F")]),
        *((text, []) for text in ("", "WT", "_wt", "_sy", "wild-type", "=", "p.=", "p.(=)")),
        *((text, []) for text in ("p.Lys2=", "p.(Lys2=)", "p.Lys2Lys", "p.Lys2_Tyr5=")),
        ("p.Lys2del", WT[0] + WT[2:]),
        ("K2-", WT[0] + WT[2:]),
        ("p.Lys2_Ala4del", WT[0] + WT[4:]),
        ("p.Met1_Lys2insAlaGly", "MAG" + WT[1:]),
        ("M1_K2insAG", "MAG" + WT[1:]),
        ("p.Lys2delinsGlyAla", "MGA" + WT[2:]),
        ("p.Lys2_Thr3delinsGlyAla", [(1, "G"), (2, "A")]),
        *((text, WT[0] + WT[2:]) for text in ("K2delK", "p.Lys2delLys", "K2del1")),
        ("M1_K2insAlaGly", "MAG" + WT[1:]),
        ("p.Lys2dup", "MKK" + WT[2:]),
        ("p.Lys2_Thr3dup", "MKTKT" + WT[3:]),
        ("p.[Lys2del;Tyr5Phe]", "MTAF" + WT[5:]),
        (WT[:4] + "W" + WT[5:], [(4, "W")]),
        (WT.lower() + "*", []),
        (WT[:6] + "GG" + WT[6:], WT[:6] + "GG" + WT[6:]),
        (WT[:6] + WT[9:], WT[:6] + WT[9:]),
    ],
)
def test_variants_are_understood(text, expected):
    assert understood(text) == expected


@pytest.mark.parametrize(
    "text,reason",
    [
        *((text, "stop") for text in ("K2*", "p.Lys2Ter", "p.Lys2*", "SK2*", "p.Met1_Lys2insTer")),
        *((text, "frameshift") for text in ("p.Lys2fs", "p.Lys2ArgfsTer12", "p.(Lys2fs*12)")),
        *((text, "start or end") for text in ("p.Met1?", "p.Ter23GlnextTer17", "p.0?")),
        *((text, "missing") for text in ("NA", "nan", "p.?", "#N/A")),
        *((text, "no amino acid") for text in ("K2X", "K2U", "p.Lys2Xaa", WT[:5] + "B" + WT[6:])),
        *((text, "date") for text in ("3-Mar", "Mar-03", "2024-03-03 00:00:00", "03/03/2024")),
        *((text, "number") for text in ("1.00E+05", "17", "0,5")),
        *((text, "DNA") for text in ("c.4A>G", "NM_000001.2:c.4A>G", "r.4a>g")),
        ("p.[Lys2Arg];[Tyr5Phe]", "two alleles"),
        ("K52aR", "insertion code"),
        *((text, "twice") for text in ("Y5F:Y5V", "K2_A4del:T3V")),
        *((text, "not read") for text in ("A12", "2R", "K2R:what", "p.Lys2_Thr3ins5")),
        *((text, "not read") for text in ("p.Lys2f", "p.Lys2delinGlyAla", "p.Lys2delinsGlyeAla")),
        *((text, "not read") for text in ("K2del3", "p.Lys2_Ala4dupAla", "Lys2=x", "K2delinsß")),
        *((text, "disagrees") for text in ("K2delR", "p.Lys2_Thr3dupLysAla")),
        *((text, "disagrees") for text in ("R2K", "QRFSHSKVFSIQRQKAIYATKM", "SK1R")),
        ("K200R", "outside"),
        (WT[:8] + "--" + WT[10:], "gaps"),
        (WT[:8] + "*" + WT[9:], "stop"),
    ],
)
def test_what_is_no_variant_is_named(text, reason):
    with pytest.raises(notation.Problem) as problem:
        understood(text)
    assert problem.value.reason == reason


def read(tmp_path, text, *, wild_type=WT, column="", target="", offset=0, **options):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return variants_table.read(path, wild_type, column, target, offset, **options)


@pytest.mark.parametrize(
    "text",
    [
        b"mutant;fitness\nK2R;0,5\nY5F;1,25\n",
        b"sep=;\nmutant;fitness\nK2R;0.5\nY5F;1.25\n",
        "mutant\tfitness\nK2R\t0.5\nY5F\t1.25\n".encode("utf-16"),
        b"\xef\xbb\xbfmutant,fitness\r\nK2R,0.5\r\nY5F,1.25\r\n",
        b'mutant,fitness\nK2R,"0,5"\nY5F,"1,25"\n',
        b"name,aaMutations,DMS_score,DMS_score_bin\na,K2R,0.5,1\nb,Y5F,1.25,0\n",
        b"# Accession: urn:mavedb:1\n# License: CC0\nhgvs_nt,hgvs_pro,score\n"
        b"NA,p.Lys2Arg,0.5\nNA,p.Tyr5Phe,1.25\n",
        b"accession,hgvs_pro,score,se\nu:1,p.Lys2Arg,0.5,0.1\nu:2,p.Tyr5Phe,1.25,0.1\n",
    ],
)
def test_tables_as_published(text, tmp_path):
    found = read(tmp_path, text)
    assert found.mutations == [[(1, "R")], [(4, "F")]]
    np.testing.assert_array_equal(found.targets, [0.5, 1.25])


def shifted(shift, count=22, every=1):
    """Rows of substitutions whose positions are counted from 1 + shift."""
    return [f"{old}{i + 1 + shift}W" for i, old in enumerate(WT[:count:every])]


@pytest.mark.parametrize(
    "rows,message",
    [
        (shifted(23), r"Only \d of 22 rows agree .*With `offset` 23 all of them agree.*with it\."),
        ([*shifted(23), "A50*"], r"`offset` 23 all of them agree.* and `skip_invalid`"),
        ([*shifted(23), "A24W"], r"`offset` 23 22 of 23 agree.* and `skip_invalid`"),
        ([f"S{row}" for row in shifted(-1, 3)], "With `offset` -1 all of them agree"),
        (["W1A", "W2A", "K2R"], "Only 1 of 3 rows agree .* fewer than 50%, so nothing is scored"),
        (
            [*shifted(0, 12), *(f"{old}{i + 2}W" for i, old in enumerate(WT) if i > 12)],
            r"Only 12 of 21 rows agree .* 9 of the others would with `offset` 1: .* jump.*"
            "`offset_column`",
        ),
        (["p.Lys2Arg", "QRFSHSKVFSIQRQKAIYATKM", "KVKVQVAKEAGSLNDQTGDGV"], "Only 0 of 2 sequences"),
    ],
)
def test_what_agrees_by_chance_is_never_scored(rows, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(tmp_path, "\n".join(["mutant", *rows]), skip_invalid=True)


def test_offsets_by_row_mend_a_jump(tmp_path):
    rows = [f"{old}{i + 1 + (i > 9)}W,{int(i > 9)}" for i, old in enumerate(WT)]
    found = read(tmp_path, "\n".join(["mutant,shift", *rows]), offset_column="shift")
    assert found.mutations == [[(i, "W")] for i in range(22)]
    found = read(tmp_path, "mutant,o\nK3R,1\nWT,\n", offset_column="o")  # the wild type needs none
    assert found.mutations == [[(1, "R")], []]


@pytest.mark.parametrize(
    "text,options,message",
    [
        ("mutant,fitness\n", {}, "no row below its header"),
        ("a,b\n1,2\n", {}, "Which column of .* has the variants cannot be told.*`mutant_column`"),
        ("mutant,mutant\nK2R,Y5F\n", {}, "2 columns 'mutant'.*Rename all but one"),
        ("hgvs_pro\nA:p.Lys2Arg\nB:p.Met1Val\n", {}, r"2 proteins \(A: 1, B: 1 rows\)"),
        (">a\nMKV\n", {}, "is FASTA, not a table"),
        ("K2R,0.5\nY5F,1\n", {}, "no header: its first line begins with 'K2R', a variant, which"),
        ("K2R\nY5F\n", {"column": "K2R"}, "no header"),
        ("mutant,x\nK2R,high\n", {"target": "x"}, "holds no number.*'high'"),
        ("mutant,x\nK2R,1\nY5F,1,2\n", {}, "row 3 is damaged: 3 fields"),
        ("mutant\nK2R\n3-Mar\nY5*\n", {}, r"Excel.* 2 rows cannot be scored \(date: 1, stop: 1\)"),
        ("hgvs_pro,score\np.Lys2Arg,1\n,2\n", {}, "row 3 has an empty cell in 'hgvs_pro'"),
        ("mutant,o\nK2R,1.5\n", {"offset_column": "o"}, "no whole number"),
        ("mutant,o\nK2R,1e300\n", {"offset_column": "o"}, "no whole number"),
        ("mutant\nK99999999999999999999R\n", {}, "which is not wild type, position"),
        ("mutant\n" + "K2R:" * 9999 + "Y5F\n", {}, "'K2R:K2R:[^']{20,60}…', which changes"),
    ],
)
def test_tables_that_cannot_be_scored(text, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text, **options)


def test_missing_measurements_are_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    rows = "mutant,fitness\nK2R,0.5\nY5F,NA\nR10K,#DIV/0!\nS13K,inf\nWT,1\n,2\nK2R,0.1\n"
    found = read(tmp_path, rows)
    assert np.isfinite(found.targets).tolist() == [True, False, False, False, True, True, True]
    assert "3 of 7 rows have no number in 'fitness'" in caplog.text
    assert "wild type or synonymous: 2" in caplog.text and "1 of them because" in caplog.text
    assert "repeat a variant of another row: 1" in caplog.text
    caplog.clear()
    assert read(tmp_path, "mutant,a,b\nK2R,1,2\nY5F,2,3\n").targets is None
    assert "--target_column (columns with numbers: a, b)" in caplog.text


def command(runs, folder, rows, *options, task="causal_lm", wild_type=WT):
    """(exit code, rows of the output, rows of the list of invalid ones)."""
    table = folder / "mutants.csv"
    table.write_text("\n".join(rows) + "\n")
    wt = tiny.write_fasta(folder / "wt.fasta", [("wt", wild_type)])
    words = ["--checkpoint", runs[task], "--wild_type", wt, "--mutants", table]
    code = score.main(
        [str(a) for a in [*words, "--out", folder / "o.csv", "--overwrite", *options]]
    )
    invalid = folder / "o.invalid.csv"
    return code, *(
        list(csv.DictReader(file.read_text().splitlines())) if file.is_file() else None
        for file in (folder / "o.csv", invalid)
    )


def test_the_offset_that_an_error_offers_is_the_right_one(runs, tmp_path):
    rows = ["mutant", *shifted(23)]
    with pytest.raises(UserError, match="With --offset 23 all of them agree"):
        command(runs, tmp_path, rows, "--skip_invalid")
    assert not (tmp_path / "o.csv").exists()
    code, found, _ = command(runs, tmp_path, rows, "--offset", 23)
    _, plain, _ = command(runs, tmp_path, ["mutant", *shifted(0)])
    assert code == 0 and [r["score"] for r in found] == [r["score"] for r in plain]
    zero = ["aaMutations", "", *(f"S{row}" for row in shifted(-1, 3))]
    with pytest.raises(UserError, match="With --offset -1 all of them agree"):
        command(runs, tmp_path, zero)
    assert command(runs, tmp_path, zero, "--offset", -1)[0] == 0


def test_every_row_is_scored_or_listed(runs, tmp_path):
    rows = ["mutant,fitness", "K2R,1", "Y5*,2", "3-Mar,1", "p.Tyr5Phe,0", "WT,1", "K2fs,", "T3V,"]
    code, found, invalid = command(runs, tmp_path, rows, "--skip_invalid")
    assert code == EXIT_FAILED and len(found) == 7
    assert [(r["row"], r["reason"]) for r in invalid] == [
        ("3", "stop"),
        ("4", "date"),
        ("7", "frameshift"),
    ]
    assert [bool(r["score"]) for r in found] == [True, False, False, True, True, False, True]
    # of an earlier run nothing stays
    assert command(runs, tmp_path, ["mutant", "K2R"])[2] is None
    for rows in (["mutant", "WT"], ["mutant", "WT", "K2*"]):
        with pytest.raises(UserError, match="is a variant of the wild type"):
            command(runs, tmp_path, rows, "--skip_invalid")


def test_a_correlation_that_cannot_be_computed_is_a_failure(runs, tmp_path, capsys):
    rows = ["mutant,fitness", "K2R,1", "Y5F,1"]
    assert command(runs, tmp_path, rows, "--target_column", "fitness")[0] == EXIT_FAILED
    assert "nan" not in capsys.readouterr().out
    assert np.isnan(measured.correlate("x", np.array([1.0, np.nan]), np.zeros(2)))


def test_the_name_of_the_scores(runs, tmp_path, capsys):
    rows = ["hgvs_pro,score", "p.Lys2Arg,0.5", "p.Tyr5Phe,0.4"]
    _, found, _ = command(runs, tmp_path, rows)
    assert list(found[0]) == ["hgvs_pro", "score", "model_score"]
    assert "Spearman correlation with score:" in capsys.readouterr().out
    assert "ours" in command(runs, tmp_path, rows, "--score_column", "ours")[1][0]
    with pytest.raises(UserError, match="with --target_column score"):
        command(runs, tmp_path, rows, "--score_column", "score")
    assert command(runs, tmp_path, rows, "--target_column", "score")[0] == 0


def test_rare_letters_of_the_wild_type_are_compared_as_written(runs, tmp_path):
    wild_type = WT[:9] + "U" + WT[10:] + "*"
    code, found, _ = command(runs, tmp_path, ["mutant", "U10C", "K2R"], wild_type=wild_type)
    assert code == 0 and all(float(r["score"]) for r in found)


def test_one_of_several_records_is_the_wild_type(runs, tmp_path):
    two = tiny.write_fasta(tmp_path / "two.fasta", [("other", WT[::-1]), ("wt", WT)])
    rows = ["mutant", "K2R"]
    with pytest.raises(UserError, match="with --wild_type_id other"):
        command(runs, tmp_path, rows, "--wild_type", two)
    words = ("--wild_type", two, "--wild_type_id")
    with pytest.raises(UserError, match=r"no records 'wx'.*Did you mean 'wt'"):
        command(runs, tmp_path, rows, *words, "wx")
    one, other = command(runs, tmp_path, rows, *words, "wt"), command(runs, tmp_path, rows)
    assert one[1] == other[1]


@pytest.mark.parametrize(
    "name,text,options",
    [
        ("wt.csv", "DMS_id,target_seq\nother,MKW\nwt,{}\n", ("--wild_type_id", "wt")),
        ("wt.csv", "who;what\nwt;{}\n", ("--wild_type_column", "what")),
        ("wt.txt", "{}\n", ()),
        ("wt.unknown", ">wt\n{}\n", ()),
    ],
)
def test_wild_types_of_other_files(name, text, options, runs, tmp_path):
    (tmp_path / name).write_text(text.format(WT))
    found = command(runs, tmp_path, ["mutant", "K2R"], "--wild_type", tmp_path / name, *options)
    assert found[1] == command(runs, tmp_path, ["mutant", "K2R"])[1]


@pytest.mark.parametrize(
    "name,text,message",
    [
        ("wt.csv", b"who,what\nwt,MKV\n", "Name it with --wild_type_column"),
        ("z.fasta", b"PK\x03\x04", "is a zip archive"),
        ("dna.fasta", b">wt\n" + b"ATGCGATTGA" * 4, "Is this DNA or RNA"),
        ("aln.fasta", b">wt\nMK--V\n", "is a gap of an alignment"),
        ("gone.fasta", None, r"There is no file of the wild type \(--wild_type\)"),
    ],
)
def test_files_that_hold_no_wild_type(name, text, message, runs, tmp_path):
    if text is not None:
        (tmp_path / name).write_bytes(text)
    with pytest.raises(UserError, match=message):
        command(runs, tmp_path, ["mutant", "K2R"], "--wild_type", tmp_path / name)


def test_what_is_read_is_not_overwritten(runs, tmp_path):
    with pytest.raises(UserError, match="is what is read"):
        command(runs, tmp_path, ["mutant", "K2R"], "--out", tmp_path / "mutants.csv")


SEQUENCES = [
    WT,
    WT[:4] + "W" + WT[5:],
    WT[:3] + WT[5:],
    WT[:7] + "GGSGG" + WT[7:],
    WT[:1] + WT[14:] + WT[1:14],
]


@pytest.mark.parametrize("task", tiny.SHAPES)
def test_indels_are_scored_as_whole_sequences(task, runs, tmp_path):
    variants = [understood(text) for text in SEQUENCES]
    model = opening.load_sequences(runs[task], "float32")
    sums, means = whole.scores(model, WT, variants, 16, 64)
    alone = [whole.log_likelihoods(model, [text], 128)[0] for text in SEQUENCES]
    np.testing.assert_allclose(sums, np.array(alone) - alone[0], atol=2e-4)
    assert np.abs(sums[1:]).min() > 1e-4
    ends = task != "permutation_lm"
    by_residue = [x / (len(text) + ends) for x, text in zip(alone, SEQUENCES, strict=True)]
    np.testing.assert_allclose(means, np.array(by_residue) - by_residue[0], atol=1e-5)
    code, found, _ = command(
        runs, tmp_path, ["mutated_sequence", *SEQUENCES], "--batch_tokens", 64, task=task
    )
    assert code == 0
    np.testing.assert_allclose([float(r["score"]) for r in found], sums.sum(1), atol=2e-4)
    np.testing.assert_allclose(
        [float(r["score_per_residue"]) for r in found], means.sum(1), atol=2e-5
    )


def test_a_pseudo_log_likelihood_hides_every_residue_in_turn(runs):
    model = opening.load_sequences(runs["permutation_lm"], "float32")
    words, (before, after) = model.task.words, model.task.boundary
    ids = words.encode(WT)
    tokens = np.concatenate([before, ids, after]).astype(np.uint8)[None]
    places = len(before) + np.arange(len(ids))
    step = jax.jit(model.task.masked_log_probs)
    table = np.asarray(step(model.params, jnp.asarray(tokens), jnp.asarray(places[None])))[0]
    expected = table[np.arange(len(ids)), ids].sum()
    found = whole.log_likelihoods(model, [WT])
    np.testing.assert_allclose(found, [[expected]], atol=1e-3)


def test_sequences_of_equal_length_are_substitutions(runs, tmp_path):
    _, whole_rows, _ = command(runs, tmp_path, ["sequence,target", f"{SEQUENCES[1]},1", f"{WT},2"])
    _, named, _ = command(runs, tmp_path, ["mutant,target", "Y5W,1", "WT,2"])
    assert [r["score"] for r in whole_rows] == [r["score"] for r in named]
