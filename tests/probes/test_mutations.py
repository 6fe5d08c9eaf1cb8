"""Mutation effects: correlations of all three families, BLOSUM62 and published rows on real assays,
and mistakes in files.
"""

import numpy as np
import pytest
from scipy import stats

from phenomjax.data.sequences.vocabulary import AMINO_ACIDS
from phenomjax.inference.variants import likelihood
from phenomjax.probes.methods import blosum, mutations
from phenomjax.probes.suites.suite import Mutations
from phenomjax.system.errors import UserError
from phenomjax.trained import opening
from tests.lab import tiny_language_models as tiny

WILD_TYPE = "MKVU" + tiny.proteins([20], 5)[0]  # with a rare letter


def other(place, shift):
    old = AMINO_ACIDS.find(WILD_TYPE[place])
    return place, AMINO_ACIDS[(old + shift) % 20]


VARIANTS = [[other(place, shift)] for place in range(0, 24, 2) for shift in (1, 7)] + [
    [other(3, 4), other(9, 5)]
]


@pytest.fixture
def assay(tmp_path):
    """An assay of VARIANTS, numbered from 11, with a row without a number; the wild type in a FASTA
    file.
    """
    values = np.random.default_rng(0).integers(0, 9, len(VARIANTS)).astype(float)  # with ties
    texts = [":".join(f"{WILD_TYPE[p]}{p + 11}{new}" for p, new in v) for v in VARIANTS]
    rows = [f"{text},{value}" for text, value in zip(texts, values, strict=True)]
    (tmp_path / "dms.csv").write_text(
        "\n".join(["mutant,effect", f"{WILD_TYPE[1]}12A,", *rows]) + "\n"
    )
    tiny.write_fasta(tmp_path / "wt.fasta", [("wt", WILD_TYPE)])
    return tmp_path, Mutations("dms.csv", "wt.fasta", "effect", offset=10), values


@pytest.mark.parametrize("name", tiny.SHAPES)
def test_a_model_is_correlated_with_what_was_measured(name, assay, tmp_path):
    data, entry, values = assay
    model = opening.load_sequences(tiny.write(tmp_path / "run", name), "float32")
    rows, found = mutations.run("scan", entry, model, data, 50, "tiny", twin=name == "causal_lm")
    scores = likelihood.variant_scores(model, WILD_TYPE.replace("U", "X"), VARIANTS).sum(1)
    assert np.unique(scores).size == len(VARIANTS)
    (row,) = rows
    assert row["value"] == pytest.approx(stats.spearmanr(scores, values).statistic, abs=1e-9)
    assert row["interval"][0] < row["value"] < row["interval"][1] and row["count"] == len(VARIANTS)
    assert (row["task"], row["label"], row["head"], row["split"]) == (
        "scan",
        "effect",
        "zero-shot",
        "all variants",
    )
    twin = ("baseline", "tiny, random weights: zero-shot")
    assert (row["kind"], row["method"]) == (
        twin if name == "causal_lm" else ("model", "tiny: zero-shot")
    )
    # The map holds single substitutions at their places, and nothing of the double one.
    assert (
        np.isfinite(found.predicted).sum() == np.isfinite(found.measured).sum() == len(VARIANTS) - 1
    )
    ((place, letter),) = VARIANTS[5]
    assert found.predicted[AMINO_ACIDS.index(letter), place] == pytest.approx(scores[5], abs=1e-5)
    assert (
        found.measured[AMINO_ACIDS.index(letter), place] == values[5]
        and found.wild_type == WILD_TYPE
    )


def test_blosum_is_summed_and_variants_are_chosen_by_hash(assay):
    data, entry, values = assay
    (row,) = mutations.baseline_rows("scan", entry, data, 0)
    scores = [sum(blosum.score(WILD_TYPE[p], new) for p, new in v) for v in VARIANTS]
    assert (
        row["value"] == pytest.approx(stats.spearmanr(scores, values).statistic)
        and row["method"] == "baseline: BLOSUM62"
    )
    few = Mutations("dms.csv", WILD_TYPE, "effect", offset=10, max_variants=9, published={"x": 0.5})
    (row,) = mutations.baseline_rows("scan", few, data, 0)
    assert row["count"] == 9 and row["split"] == f"9 of {len(VARIANTS)} variants"
    shuffled = (data / "dms.csv").read_text().splitlines()
    (data / "dms.csv").write_text("\n".join([shuffled[0], *shuffled[:0:-1]]) + "\n")
    assert mutations.baseline_rows("scan", few, data, 0)[0]["value"] == pytest.approx(row["value"])
    (published,) = mutations.published_rows("scan", few, data)
    assert (
        published["split"] == row["split"]
        and published["source"] == "given in the suite; of all variants"
    )


def test_mistakes(assay):
    data, entry, _ = assay

    def fails(message, **changes):
        with pytest.raises(UserError, match=message) as error:
            mutations.baseline_rows("scan", Mutations(**{**vars(entry), **changes}), data, 0)
        assert "--" not in str(error.value)  # a suite has no options

    fails(
        r"dms.csv, row 2 has the mutant 'K12A', but the wild type has M at position 12.*With"
        r" offset=10 all",
        offset=11,
    )
    fails("no column 'effects' .target.*Did you mean 'effect'", target="effects")
    fails("There is no file .*dsm.csv .path.", path="dsm.csv")
    fails(
        "is no protein sequence in capital letters, no file TABLE.csv:NAME and no FASTA",
        wild_type="wild.fasta",
    )
    (data / "ref.csv").write_text("DMS_id,target_seq\nBLAT_2015,MK\n")
    fails("no row whose DMS_id is 'BLAT'.*Did you mean 'BLAT_2015'", wild_type="ref.csv:BLAT")
    fails("has no column 'DMS_id'", wild_type="dms.csv:BLAT")
    (data / "dms.csv").write_text(f"mutant,effect\n{WILD_TYPE[0]}11A,1\n{WILD_TYPE[1]}12A,n/a\n")
    fails("has 1 variants with a number in the column 'effect'")


@pytest.mark.shared_data
def test_real_assays(shared):
    """BLOSUM62's correlations, which stand on no program of ours, and published numbers as the
    tables have them.
    """
    folder, tables = shared / "protein", "dms/proteingym_zero_shot_spearman_per_assay.csv:{}"
    esm1v = "dms/esm1v_paper_rho_per_protein.csv:{}"
    for path, target, gym, paper, rho, unirep, source in (
        (
            "BLAT_ECOLX_Ranganathan2015",
            "2500",
            "BLAT_ECOLX_Stiffler_2015",
            "BLAT_ECOLX_Ranganathan2015",
            0.346,
            (0.115, 0.032),
            "",
        ),
        (
            "PABP_YEAST_Fields2013-singles",
            "linear",
            "PABP_YEAST_Melamed_2013",
            "PABP_YEAST_Fields2013-singles",
            0.297,
            (0.474, 0.352),
            "of other variants than here: 37,708",
        ),
    ):
        entry = Mutations(
            f"dms/{path}.csv",
            f"dms/proteingym_DMS_substitutions_reference.csv:{gym}",
            target,
            published=(tables.format(gym), esm1v.format(paper)),
        )
        (row,) = mutations.baseline_rows("scan", entry, folder, 200)
        assert round(row["value"], 3) == rho and row["interval"][0] < rho < row["interval"][1]
        published = {r["method"]: r for r in mutations.published_rows("scan", entry, folder)}
        assert published["UniRep (ProteinGym)"]["value"] == unirep[0]
        assert round(published["UniRep (ESM-1v paper)"]["value"], 3) == unirep[1]
        assert published["RITA S (ProteinGym)"]["source"].endswith(source or gym)
