"""Files of sequences that are no plain FASTA, embedded: alignments, DNA, PIR, SMILES and names."""

import pytest

from phenomjax import embed
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from tests.inference.test_embed import read
from tests.lab import tiny_language_models as tiny

P, Q = "MALWMRLLPLLALLALWGPDPAAA", "MKSIYFVAGLFVMLVQGSWQRRDE"
DNA = "ATGGCCATTGTAATGGGCCGCTGAAAGGGTGCCCGATAGTAC" * 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("model") / "m", "causal_lm")


def run(model, source, out, *options):
    words = ["--checkpoint", model, "--source", source, "--out", out, "--devices", 1, *options]
    return embed.main([str(word) for word in words])


def embedded(path):
    return read(path)[2]["id"].to_pylist()


def test_alignments_and_dna_are_told_and_the_offered_flags_mend_it(model, tmp_path):
    aligned, dna = tmp_path / "x.a3m", tmp_path / "d.fasta"
    aligned.write_text(f"#A3M#\n>a\n{P}\n>b\n{Q[:4]}--{Q[4:].lower()}\n")
    dna.write_text(f">a\n{P}\n" * 20 + f">d\n{DNA}\n")
    with pytest.raises(UserError, match=r"is an alignment.*--gaps strip"):
        run(model, aligned, tmp_path / "a.zarr")
    assert run(model, aligned, tmp_path / "a.zarr", "--gaps", "strip") == EXIT_DONE
    assert embedded(tmp_path / "a.zarr") == ["a", "b"]
    assert run(model, dna, tmp_path / "d.zarr") == EXIT_FAILED
    assert "d" not in embedded(tmp_path / "d.zarr")
    dna.write_text(f">d\n{DNA}\n")
    with pytest.raises(UserError, match=r"Is this DNA\?.*--accept_nucleotides"):
        run(model, dna, tmp_path / "e.zarr")
    assert run(model, dna, tmp_path / "e.zarr", "--accept_nucleotides") == EXIT_DONE


def test_other_formats(model, tmp_path):
    pir, named = tmp_path / "x.pir", tmp_path / "n.txt"
    pir.write_bytes(f">P1;a\nt\n{P}*\n>P1;b\n\n{Q}*\n".encode("utf-16"))
    assert run(model, pir, tmp_path / "p.zarr") == EXIT_DONE
    assert embedded(tmp_path / "p.zarr") == ["a", "b"]
    named.write_text(f"INS {P}\nGLUC {Q}\n")
    with pytest.raises(UserError, match=r"(?s)several words|All|no sequence"):
        run(model, named, tmp_path / "n.zarr")
    assert run(model, named, tmp_path / "n.zarr", "--format", "named") == EXIT_DONE
    assert embedded(tmp_path / "n.zarr") == ["INS", "GLUC"]


@pytest.mark.parametrize(
    "name, text, options",
    [
        ("a.smi", "CCO a\nCCN b\n", ()),
        ("a.txt", "CCO\nC=O\n", ()),
        ("a.csv", "name,smiles\na,CCO\nb,C=O\n", ("--column", "smiles")),
        ("b.csv", "smiles,y\nCCO,1\nCCC,2\n", ("--column", "smiles")),
        ("a.jsonl", '{"id": "a", "sequence": "CC(=O)O"}\n{"id": "b", "sequence": "CCO"}\n', ()),
    ],
)
def test_smiles_are_no_proteins(model, tmp_path, name, text, options):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="holds SMILES, and the model of --checkpoint reads"):
        run(model, tmp_path / name, tmp_path / "out.h5", *options)
