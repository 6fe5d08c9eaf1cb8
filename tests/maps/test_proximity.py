"""Chromosome arms, the proximity score against SciPy, the correction's unit cases, and the numbers
known of public screens.
"""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from phenomjax.data.simulated.screen import Screen
from phenomjax.data.simulated.screen_config import SimulationConfig
from phenomjax.maps.arm_bias import arms, assessment, figures, scores
from phenomjax.maps.tables.profiles import Profiles, feature_names
from phenomjax.maps.tables.reading import read
from phenomjax.maps.tables.writing import write
from phenomjax.statistics.cosines import unit_rows
from phenomjax.system.errors import UserError
from tests.lab.maps import run

CENTROMERES = (
    "#bin\tchrom\tchromStart\tchromEnd\tname\n"
    "1\tchr1\t100\t140\tA\n1\tchr1\t140\t200\tB\n2\tchr2\t100\t200\tC\n"
)


def simulated_map(arm_bias=2.0, noise=0.7):
    """A map of a simulated screen's true phenotypes with noise, as embeddings of many wells would
    give it.
    """
    config = SimulationConfig(
        num_complexes=12,
        genes_per_complex=4,
        num_single_genes=192,
        inactive_fraction=0.8,
        num_arms=6,
        arm_bias=arm_bias,
        num_compounds=12,
        num_doses=1,
    )
    screen, random = Screen(config), np.random.default_rng(0)
    axes = random.normal(size=(len(screen.phenotypes.column_names) - 2, 32)) / 6
    rows = [
        {
            "perturbation": t.perturbation,
            "perturbation_type": t.perturbation_type,
            "gene": t.gene,
            "concentration": t.concentration,
            "is_control": False,
        }
        for t in screen.treatments
    ]
    features = (
        np.array([screen.phenotype(t) @ axes for t in screen.treatments])
        + noise * random.normal(size=(len(rows), 32)) / 2
    )
    return screen, Profiles(
        features.astype(np.float32),
        pd.DataFrame(rows),
        feature_names(32),
        {"sources": [], "steps": []},
    )


def test_arms_of_genes_from_every_format(tmp_path):
    """Gene end beyond the middle of the centromere: q. LOC genes, genes on two chromosomes, and
    chromosomes without a centromere drop out.
    """
    (tmp_path / "centromeres.tsv").write_text(CENTROMERES)
    (tmp_path / "bands.txt").write_text(
        "chr1\t0\t100\tp1\tgneg\nchr1\t100\t150\tp11\tacen\nchr1\t150\t200\tq11\tacen\nchr2\t100\t200\tq\tacen\n"
    )
    genes = [
        ("SHORT", "chr1", 10, 40),
        ("UNTIL", "chr1", 120, 150),
        ("OVER", "chr1", 140, 151),
        ("LONG", "chr1", 300, 400),
        ("LOC12", "chr1", 5, 6),
        ("BOTH", "chr1", 1, 2),
        ("BOTH", "chr2", 1, 2),
        ("MITO", "chrM", 1, 2),
        ("TWO", "chr2", 400, 500),
    ]
    table = pd.DataFrame(
        genes, columns=["Gene name", "Chromosome", "Gene start (bp)", "Gene end (bp)"]
    )
    table.to_csv(tmp_path / "a.csv", index=False)
    lines = ["\t".join(map(str, gene)) for gene in genes]
    (tmp_path / "b.txt").write_text(
        "\r\n".join([lines[0] + "\t", *lines[1:]]) + "\r\n"
    )  # no header, a stray tab, Windows line ends
    with gzip.open(tmp_path / "c.gtf.gz", "wt") as file:
        file.write("##comment\n")
        for name, chrom, start, end in genes:
            for kind in ("gene", "transcript"):
                file.write(
                    f'{chrom}\tHAVANA\t{kind}\t{start}\t{end}\t.\t+\t.\tgene_id "E"; gene_name'
                    f' "{name}"; level 2;\n'
                )
    expected = {"SHORT": "1p", "UNTIL": "1p", "OVER": "1q", "LONG": "1q", "TWO": "2q"}
    for file, centromeres in (
        ("a.csv", "centromeres.tsv"),
        ("b.txt", "bands.txt"),
        ("c.gtf.gz", "centromeres.tsv"),
    ):
        found = arms.read_arms(tmp_path / file, tmp_path / centromeres)
        assert dict(zip(found["gene"], found["arm"], strict=True)) == expected
        # along the genome
        assert found["gene"].tolist() == ["SHORT", "UNTIL", "OVER", "LONG", "TWO"]
        # 0 at the centromere
        assert found["position"].tolist() == pytest.approx([1.0, 30 / 140, 1 / 250, 1.0, 1.0])
    with pytest.raises(UserError, match="Give them with `centromeres`"):
        arms.read_arms(tmp_path / "a.csv")
    with pytest.raises(UserError, match="is not a table of centromeres"):
        arms.read_centromeres(tmp_path / "a.csv")
    table.rename(columns={"Gene end (bp)": "x"}).to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(UserError, match="no column end"):
        arms.read_arms(tmp_path / "d.csv", tmp_path / "bands.txt")


def test_scores_are_those_of_scipy():
    """Brunner-Munzel of samples, of every arm and of all pairs, and the scores of genes, against
    SciPy and the definition.
    """
    random = np.random.default_rng(1)
    # with ties
    one, other = np.round(random.normal(size=60) + 0.4, 1), np.round(random.normal(size=90), 1)
    ours, peer = (
        scores.brunner_munzel(one, other),
        stats.brunnermunzel(other, one, "less", "normal"),
    )
    assert (ours.statistic, ours.p) == (pytest.approx(peer.statistic), pytest.approx(peer.pvalue))
    assert ours.probability == pytest.approx((np.sign(one[:, None] - other).mean() + 1) / 2)

    arm = np.repeat(["1p", "1q", "2p"], (9, 12, 15))[random.permutation(36)]
    features = (
        random.normal(size=(36, 8))
        + 0.6 * random.normal(size=(3, 8))[np.unique(arm, return_inverse=True)[1]]
    )
    cosine = unit_rows(features) @ unit_rows(features).T
    each, every = scores.arm_scores(features, arm)
    first, second = np.triu_indices(36, 1)
    same = arm[first] == arm[second]
    for name in ("1p", "1q", "2p"):
        mine = (arm[first] == name), (arm[second] == name)
        peer = stats.brunnermunzel(
            cosine[first, second][mine[0] ^ mine[1]],
            cosine[first, second][mine[0] & mine[1]],
            "less",
            "normal",
        )
        assert each[name].statistic == pytest.approx(peer.statistic, abs=1e-3)
        assert each[name].p == pytest.approx(peer.pvalue, rel=1e-2)
    assert every.within == same.sum() and every.between == (~same).sum()
    greater = (
        np.sign(cosine[first, second][same][:, None] - cosine[first, second][~same]).mean() + 1
    ) / 2
    assert every.probability == pytest.approx(greater, abs=1e-4)
    by_gene = scores.gene_scores(features, arm)
    inside = (arm == arm[5]) & (np.arange(36) != 5)
    assert by_gene[5] == pytest.approx(
        (np.sign(cosine[5, inside][:, None] - cosine[5, arm != arm[5]]).mean() + 1) / 2, abs=2e-3
    )

    genome = scores.genome_score(features, arm, trials=50, samples=200, seed=3)
    assert genome == scores.genome_score(features, arm, trials=50, samples=200, seed=3)
    assert (
        genome["probability"] == pytest.approx(every.probability, abs=0.05) and genome["p"] < 1e-10
    )
    shuffled = scores.genome_score(
        features, random.permutation(arm), trials=50, samples=200, seed=3
    )
    assert abs(shuffled["probability"] - 0.5) < 0.06 < genome["probability"] - 0.5
    assert scores.on_large_arms(["1p"] * 5 + ["1q"] * 6 + [None]).tolist() == [False] * 5 + [
        True
    ] * 6 + [False]


def test_correction_unit_cases():
    """Arm means of the unexpressed genes p = 1 and q = 6; what is left is -1, 1, -2, 0, 2, 4. Arms
    with too few stay, and so do compounds.
    """
    features = np.array([0, 2, 4, 6, 8, 10, 7], np.float32)[:, None]
    arm, silent = ["1p", "1p", "1q", "1q", "1q", "1q", None], np.array([1, 1, 1, 1, 1, 0, 1], bool)
    corrected, used = scores.centre_arms(features, arm, silent, min_unexpressed=1)
    assert corrected.ravel().tolist() == [-1, 1, -2, 0, 2, 4, 7]
    assert used == {"1p": 2, "1q": 3}
    # more than two are needed
    corrected, used = scores.centre_arms(features, arm, silent, min_unexpressed=2)
    assert corrected.ravel().tolist() == [0, 2, -2, 0, 2, 4, 7] and used == {"1q": 3}
    assert scores.centre_arms(features, arm, silent)[1] == {}  # by default more than 20
    assert features[0] == 0  # the input is left alone


def test_a_correction_that_raises_the_bias_is_said(tmp_path, capsys):
    """Three unexpressed genes an arm, of a map without bias: their mean is noise, and what all
    genes of the arm lose makes them alike.
    """
    genes = [f"G{k:02d}" for k in range(40)]
    table = pd.DataFrame({"gene": genes, "arm": np.repeat(["1p", "1q"], 20), "position": range(40)})
    table["zfpkm"] = np.where(np.arange(40) % 20 < 3, -4.0, 1.0)
    table.to_parquet(tmp_path / "genes.parquet")
    features = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    metadata = pd.DataFrame({"perturbation": genes, "gene": genes})
    write(Profiles(features, metadata, feature_names(8)), tmp_path / "map.parquet")
    words = ["--profiles", tmp_path / "map.parquet", "--genes", tmp_path / "genes.parquet"]
    words += ["--trials", 5, "--min_unexpressed", 2, "--out", tmp_path / "out"]
    assert run("proximity", *words) == 0
    result = json.loads((tmp_path / "out" / "proximity.json").read_text())
    was, now = (result[when]["genome"]["all_pairs"]["probability"] for when in ("before", "after"))
    assert abs(now - 0.5) > abs(was - 0.5) and result["correction"]["raised_bias"] is True
    text = capsys.readouterr().err
    assert f"raised the bias: P(within > between) of all pairs is {now:.4f}" in text
    assert f"than the {was:.4f} before it" in text


def test_planted_bias_is_found_and_removed(tmp_path):
    """On a simulated screen, through the front door: results, tables and pictures; the complexes
    stay as they were.
    """
    screen, profiles = simulated_map()
    write(profiles, tmp_path / "map.parquet")
    genes = screen.genes.to_pandas()
    genes.to_parquet(tmp_path / "genes.parquet")
    words = (
        "--profiles",
        tmp_path / "map.parquet",
        "--genes",
        tmp_path / "genes.parquet",
        "--trials",
        40,
    )
    assert run("proximity", *words, "--min_unexpressed", 5, "--out", tmp_path / "out") == 0
    result = json.loads((tmp_path / "out" / "proximity.json").read_text())
    before, after = result["before"]["genome"], result["after"]["genome"]
    assert before["probability"] > 0.75 and before["p"] < 1e-30
    assert abs(after["probability"] - 0.5) < 0.06
    assert result["correction"]["raised_bias"] is False
    assert result["correction"]["unexpressed_genes"] == (genes["zfpkm"] < -3).sum()
    assert set(result["correction"]["arms"]) == set(genes["arm"])
    assert sum(row["p_bonferroni"] < 1e-6 for row in result["before"]["arms"]) == 6
    scored = pd.read_parquet(tmp_path / "out" / "genes.parquet")
    near, far = scored["rank"] < 0.3, scored["rank"] > 0.7
    assert (
        scored["score_before"][near].mean() > scored["score_before"][far].mean() + 0.02
    )  # planted: less towards the telomere
    assert pd.read_parquet(tmp_path / "out" / "arms.parquet")["probability_after"].max() < 0.65
    corrected = read(tmp_path / "out" / "corrected.parquet")
    assert corrected.provenance["steps"][-1]["command"] == "proximity"
    compounds = (profiles.metadata["perturbation_type"] == "compound").to_numpy()
    assert np.array_equal(corrected.features[compounds], profiles.features[compounds])
    complexes = screen.relationships.to_pandas()
    place = {name: row for row, name in enumerate(profiles.metadata["perturbation"])}
    pairs = complexes[["entity1", "entity2"]].map(place.get).to_numpy()

    def recall(features):
        rows = unit_rows(features[~compounds])
        cosine = rows @ rows.T
        null = np.sort(cosine[np.triu_indices(len(rows), 1)])
        return np.mean(cosine[pairs[:, 0], pairs[:, 1]] > null[int(0.95 * len(null))])

    assert recall(corrected.features) >= recall(profiles.features) > 0.2
    for name in ("arms.png", "chromosomes.png", "telomere.png"):
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".part")]

    # Expression from a table of its own; and what cannot be done is said.
    pd.DataFrame({"symbol": genes["gene"], "HeLa": genes["expressed"].astype(float)}).to_csv(
        tmp_path / "tpm.csv", index=False
    )
    located = assessment.locate(
        profiles, arms.read_arms(tmp_path / "genes.parquet"), assessment.Columns()
    )
    silent, _ = assessment.unexpressed(profiles, located, "HeLa == 0", str(tmp_path / "tpm.csv"))
    assert silent.sum() == (~genes["expressed"]).sum()
    plain = located.drop(columns=["zfpkm"])
    silent, why = assessment.unexpressed(profiles, plain, "zfpkm < -3")
    assert silent is None and "--expression FILE" in why
    with pytest.raises(UserError, match="no query that the columns"):
        assessment.unexpressed(profiles, plain, "TPM == 0")
    with pytest.raises(UserError, match="Aggregate first"):
        twice = Profiles(
            np.tile(profiles.features, (2, 1)),
            pd.concat([profiles.metadata] * 2, ignore_index=True),
            profiles.names,
        )
        assessment.locate(twice, located.drop(columns=["scored"]), assessment.Columns())
    with pytest.raises(UserError, match="symbols of the same species"):
        mouse = genes.assign(gene=genes["gene"].str.lower())
        assessment.locate(profiles, mouse, assessment.Columns())
    with pytest.raises(UserError, match="proximity --min_genes N` takes"):
        assessment.locate(profiles, genes, assessment.Columns(), min_genes=500)
    with pytest.raises(UserError, match="either --profiles"):
        run("proximity", "--genes", tmp_path / "genes.parquet", "--out", tmp_path / "x")
    with pytest.raises(UserError, match="as counts are"):
        run("proximity", *words, "--transform", "sqrt", "--out", tmp_path / "x")


def test_edges_of_a_network(tmp_path):
    """Two of three edges lie on one arm; 2 of the 6 pairs of the four genes do."""
    pd.DataFrame({"gene": list("ABCDE"), "arm": ["1p", "1p", "2q", "2q", "3p"]}).to_csv(
        tmp_path / "arms.csv", index=False
    )
    pd.DataFrame({"from": list("ACAX"), "to": list("BDCA")}).to_csv(
        tmp_path / "edges.csv", index=False
    )
    assert (
        run(
            "proximity",
            "--edges",
            tmp_path / "edges.csv",
            "--genes",
            tmp_path / "arms.csv",
            "--out",
            tmp_path / "out",
        )
        == 0
    )
    edges = json.loads((tmp_path / "out" / "proximity.json").read_text())["edges"]
    assert (edges["edges"], edges["mapped"], edges["genes"]) == (4, 3, 4)
    assert (edges["within"], edges["expected"], edges["enrichment"]) == pytest.approx(
        (2 / 3, 2 / 6, 2)
    )


def test_pixels_of_the_genome_are_mean_cosines(monkeypatch):
    """A pixel of the picture is the mean cosine of its genes' pairs, without a gene with itself; no
    pixel holds genes of two arms.
    """
    monkeypatch.setattr(figures, "GENOME_PX", 7)
    arm = np.repeat(["1p", "1q", "2p"], (5, 9, 6))
    rows = unit_rows(np.random.default_rng(0).normal(size=(20, 4)))
    bins, edges = figures._bins(arm, np.array([0, 5, 14]))
    assert all(len(set(arm[bins == number])) == 1 for number in range(edges[-1]))
    shown, cosine = figures._binned(rows, bins), rows @ rows.T
    for a in range(edges[-1]):
        for b in range(edges[-1]):
            block = cosine[np.ix_(bins == a, bins == b)]
            size = len(block)
            expected = (
                (block.sum() - np.trace(block)) / (size * (size - 1)) if a == b else block.mean()
            )
            assert shown[a, b] == pytest.approx(expected, abs=1e-5)


@pytest.mark.shared_data
def test_known_numbers_of_public_screens(shared, tmp_path):
    """shinyDepMap's network and PERISCOPE's counts on hg38, and the JUMP CRISPR library."""
    data = shared / "microscopy"
    genome = (
        "--genes",
        data / "genome/gencode_v27_gene_positions_hg38.txt",
        "--centromeres",
        data / "genome/centromeres_hg38.tsv",
    )
    table = arms.read_arms(genome[1], genome[3])
    assert (len(table), table["arm"].nunique()) == (56572, 46)
    library = pd.read_csv(data / "genome/jump_crispr_genes.csv.gz")
    assert (
        library["Metadata_Symbol"].nunique(),
        library["Metadata_Symbol"].isin(table["gene"]).sum(),
    ) == (7977, 7932)
    assert (
        run(
            "proximity",
            "--edges",
            data / "crispr/shinyDepMap_19Q3_cluster_s.csv",
            *genome,
            "--out",
            tmp_path / "edges",
        )
        == 0
    )
    edges = json.loads((tmp_path / "edges/proximity.json").read_text())["edges"]
    assert (edges["mapped"], edges["genes"]) == (11182, 4478)
    assert (
        round(100 * edges["within"], 1),
        round(100 * edges["expected"], 2),
        round(edges["enrichment"], 1),
    ) == (
        45.3,
        3.37,
        13.4,
    )
    counts = data / "crispr/periscope_HeLa_DMEM_significant_features_expressed_genes.csv"
    words = (
        "--profiles",
        counts,
        "--gene",
        "Gene",
        "--features",
        "Mito|ConA|DAPI|WGA|Phalloidin",
        "--transform",
        "sqrt",
        "--standardize",
        "--trials",
        5,  # of samples; what is told here is of all pairs
    )
    assert run("proximity", *words, *genome, "--out", tmp_path / "periscope") == 0
    result = json.loads((tmp_path / "periscope/proximity.json").read_text())
    assert result["genes"] == {"in_map": 16920, "with_arm": 15796, "scored": 15792}
    # 0.5085 was measured on a sample of the pairs; all 125 million give 0.5083.
    assert result["before"]["genome"]["all_pairs"]["probability"] == pytest.approx(0.5083, abs=5e-5)
    assert result["correction"] == {"corrected": False, "why": result["correction"]["why"]}
    assert "zfpkm" in result["correction"]["why"]
