"""Mutation effects: equal to brute force over whole sequences, whatever is shared; tables, offsets
and mistakes.
"""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax import score
from phenomjax.data.sequences.vocabulary import AMINO_ACIDS, PAD
from phenomjax.inference.variants import likelihood
from phenomjax.inference.variants import table as variants_table
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained import opening
from tests.lab import tiny_language_models as tiny
from tests.lab.doors import offered

WILD_TYPE = tiny.proteins([70], 5)[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{task: workdir of a tiny model}; Transformer-XL's memory is longer than the protein."""
    folder = tmp_path_factory.mktemp("runs")
    changes = {"causal_lm": {"model__eval_mem_len": 96}}
    return {name: tiny.write(folder / name, name, **changes.get(name, {})) for name in tiny.SHAPES}


def other(place, shift=1):
    """A mutation of the wild type, such as (3, "K")."""
    return place, AMINO_ACIDS[(AMINO_ACIDS.index(WILD_TYPE[place]) + shift) % 20]


VARIANTS = [
    [],
    [other(0)],
    [other(69)],
    [other(15)],
    [other(16)],
    [other(14), other(40, 2)],
    [other(33)],
]


def run(workdir, folder, rows, *options, wild_type=WILD_TYPE, header="mutant"):
    wt, table = tiny.write_fasta(folder / "wt.fasta", [("wt", wild_type)]), folder / "mutants.csv"
    table.write_text("\n".join([header, *rows]) + "\n")
    code = score.main(
        [
            str(a)
            for a in [
                "--checkpoint",
                workdir,
                "--wild_type",
                wt,
                "--mutants",
                table,
                "--out",
                folder / "out.csv",
                "--overwrite",
                "--segment_len",
                16,
                "--batch_tokens",
                64,
                *options,
            ]
        ]
    )
    with (folder / "out.csv").open() as file:
        return code, list(csv.DictReader(file))


def text(mutations):
    return ":".join(f"{WILD_TYPE[place]}{place + 1}{new}" for place, new in mutations) or "WT"


@pytest.mark.parametrize("name", ["causal_lm", "bidirectional_lm"])
def test_sequence_scores_equal_whole_sequences(name, runs):
    model = opening.load_sequences(runs[name])
    ids = model.task.words.encode(WILD_TYPE)
    rows = jnp.array(
        np.stack([ids, *(likelihood.mutate(ids, v, model.task.words.ids) for v in VARIANTS)])
    )
    if name == "bidirectional_lm":
        whole = jax.jit(model.task.log_likelihood)(
            model.params, rows, jnp.full(len(rows), len(ids))
        )
    else:
        (first,), (last,) = model.task.boundary
        framed = jnp.pad(
            jnp.pad(rows, ((0, 0), (1, 0)), constant_values=first),
            ((0, 0), (0, 1)),
            constant_values=last,
        )
        carry = model.task.inference_carry(len(rows), whole=True)
        found, _ = jax.jit(model.task.segment_log_probs)(
            model.params, framed[:, None, :-1], framed[:, None, 1:], carry
        )
        whole = found.sum(-1)
    expected = np.asarray(whole[1:] - whole[:1])
    found = likelihood.sequence_scores(model, WILD_TYPE, VARIANTS, 16, 48)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.abs(expected[1:]).min() > 1e-3
    np.testing.assert_allclose(
        likelihood.sequence_scores(model, WILD_TYPE, VARIANTS[1:3], 128, 2000),
        expected[1:3],
        atol=2e-4,
    )


def test_masked_scores_equal_one_pass_a_position(runs):
    model = opening.load_sequences(runs["permutation_lm"])
    ids, (before, after) = model.task.words.encode(WILD_TYPE), model.task.boundary
    tokens = np.concatenate([before, ids, after]).astype(np.uint8)
    places = sorted({place for v in VARIANTS for place, _ in v})
    step, table = jax.jit(model.task.masked_log_probs), {}
    for place in places:
        changed = tokens.copy()
        changed[place + 1] = 8  # what stands at a hidden place has no say
        table[place] = np.asarray(
            step(model.params, jnp.asarray(changed)[None], jnp.array([[place + 1]]))
        )[0, 0]
    expected = [
        sum(table[p][model.task.words.ids[new]] - table[p][ids[p]] for p, new in v)
        for v in VARIANTS
    ]
    found = likelihood.masked_scores(model, WILD_TYPE, VARIANTS, 300)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-4)
    assert PAD not in tokens and np.abs(found[1:]).min() > 1e-4
    # runs, and is another function
    windowed = likelihood.masked_scores(model, WILD_TYPE, VARIANTS, 300, window=64)
    assert np.isfinite(windowed).all() and np.abs(windowed[1:] - found[1:]).max() > 1e-4


def test_table_in_table_out(runs, tmp_path, capsys):
    rows = [f"{i},{text(v)},{'' if i == 2 else 10 - i}" for i, v in enumerate(VARIANTS)]
    code, out = run(
        runs["bidirectional_lm"],
        tmp_path,
        rows,
        "--target_column",
        "dms",
        header="\ufeff,mutant,dms",
    )
    assert (
        code == 0
        and [row["mutant"] for row in out] == [text(v) for v in VARIANTS]
        and out[0]["score"] == "0"
    )
    parts = [float(row["score_forward"]) + float(row["score_backward"]) for row in out]
    np.testing.assert_allclose([float(row["score"]) for row in out], parts, atol=1e-3)
    assert "Spearman correlation with dms:" in capsys.readouterr().out


def test_spearman_with_ties_and_offsets():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, 50).astype(float), rng.normal(size=50)
    assert variants_table.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert np.isnan(variants_table.spearman(np.ones(4), np.arange(4)))
    assert variants_table.parse("A102G:K104R", "MACK", 100) == [(1, "G"), (3, "R")]


def test_scan_writes_every_substitution_and_a_figure(runs, tmp_path):
    short = WILD_TYPE[:9] + "X"
    wt = tiny.write_fasta(tmp_path / "wt.fasta", [("wt", short)])
    arguments = [
        "--checkpoint",
        runs["permutation_lm"],
        "--wild_type",
        wt,
        "--scan",
        "--out",
        tmp_path / "scan.csv",
        "--offset",
        5,
    ]
    beside = offered(lambda: score.main([str(a) for a in arguments]), "phenomjax.score", score)
    assert (beside.mutants, beside.target_column) == (tmp_path / "scan.csv", "score")
    again = dataclasses.replace(
        beside, checkpoint=str(runs["permutation_lm"]), out=tmp_path / "both.csv"
    )
    assert score.run(again) == 0  # another model's scores beside these: here the same
    with (tmp_path / "both.csv").open() as file:
        assert all(row["other"] == row["score"] for row in csv.DictReader(file))
    with (tmp_path / "scan.csv").open() as file:
        rows = list(csv.DictReader(file))
    with pytest.raises(UserError, match=r"is there already.* or add --overwrite"):
        score.main([str(a) for a in arguments])
    assert len(rows) == 9 * 19 + 20 and rows[0]["mutant"].startswith(f"{short[0]}6")
    assert (tmp_path / "scan.png").stat().st_size > 5000


def test_mistakes(runs, tmp_path):
    wrong = f"{other(4)[1]}5{WILD_TYPE[4]}"
    for rows, options, message in [
        (
            [wrong],
            (),
            rf"row 2 has the mutant '{wrong}', but the wild type has {WILD_TYPE[4]} at position 5",
        ),
        (["A12"], (), "row 2 has the mutant 'A12'"),
        ([text([other(3)]), f"{WILD_TYPE[3]}4*"], (), "row 3 has the mutant"),
        (["M999A"], (), "the wild type has 70 residues"),
        (
            [text([other(3)])],
            ("--mutant_column", "mutants"),
            "has no column 'mutants'.*Did you mean 'mutant'",
        ),
        ([text([other(3)])], ("--target_column", "dms"), "has no column 'dms'"),
    ]:
        with pytest.raises(UserError, match=message):
            run(runs["causal_lm"], tmp_path, rows, *options)
    shifted = [f"{WILD_TYPE[p]}{p + 31}{other(p)[1]}" for p in range(8, 20)]
    with pytest.raises(UserError, match="With --offset 30 all of them agree"):
        run(runs["causal_lm"], tmp_path, shifted)
    code, out = run(runs["causal_lm"], tmp_path, [wrong, text([other(3)])], "--skip_invalid")
    assert code == EXIT_FAILED and out[0]["score"] == "" and float(out[1]["score"])
    (tmp_path / "two.fasta").write_text(">a\nMKV\n>b\nMKV\n")
    with pytest.raises(UserError, match="holds 2 records"):
        score.main(
            [
                str(a)
                for a in [
                    "--checkpoint",
                    runs["causal_lm"],
                    "--wild_type",
                    tmp_path / "two.fasta",
                    "--scan",
                    "--out",
                    tmp_path / "o.csv",
                ]
            ]
        )


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "file,name,target",
    [
        ("BLAT_ECOLX_Ranganathan2015.csv", "BLAT_ECOLX_Stiffler_2015", "2500"),
        ("PABP_YEAST_Fields2013-singles.csv", "PABP_YEAST_Melamed_2013", "linear"),
    ],
)
def test_real_assays_agree_with_their_wild_types(
    file, name, target, shared, runs, tmp_path, capsys
):
    folder = shared / "protein" / "dms"
    with (folder / "proteingym_DMS_substitutions_reference.csv").open(
        encoding="utf-8-sig"
    ) as table:
        wild_type = next(
            row["target_seq"] for row in csv.DictReader(table) if row["DMS_id"] == name
        )
    wt = tiny.write_fasta(tmp_path / "wt.fasta", [("wt", wild_type)])
    arguments = [
        "--checkpoint",
        runs["permutation_lm"],
        "--wild_type",
        wt,
        "--mutants",
        folder / file,
        "--out",
        tmp_path / "o.csv",
        "--target_column",
        target,
    ]
    assert score.main([str(a) for a in arguments]) == 0
    with (tmp_path / "o.csv").open() as found, (folder / file).open() as given:
        assert sum(1 for _ in found) == sum(1 for _ in given) > 1000
    assert f"Spearman correlation with {target}" in capsys.readouterr().out
