"""biotrainer itself, installed beside this environment by .ci/run, trains and judges on our
vectors.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from phenomjax import embed, score
from phenomjax.probes import biotrainer
from phenomjax.system.errors import UserError
from phenomjax.trained import opening
from tests.lab import tiny_language_models as tiny

# It needs another transformers than our parity tests, so it lies in a folder of its own; its torch
# is that of this environment.
FOLDER = Path(sys.prefix) / "biotrainer"
MAIN = """
import importlib, json, sys
from phenomjax.probes import biotrainer_embedder as adapter
from biotrainer.embedders import EmbeddingService
checkpoint, sequences, jobs, named = json.loads(sys.argv[1])
for module, *arguments in jobs:
    assert importlib.import_module(module).main(arguments) == 0, arguments
service = EmbeddingService(embedder=adapter.embedder(checkpoint))
generated = service.generate_embeddings(sequences, reduce=False)
found = {record.seq: vector.tolist() for record, vector in generated}
try:
    adapter.train(checkpoint, named)
except adapter.UserError as error:
    print("\\n" + json.dumps([found, str(error)]))
"""
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
HELIX = "AEKLMQR"  # letters of class H in the made data
KINDS = {
    "conservation": "letters",
    "disorder": "values",
    "scl": "composition",
    "secondary_structure": "letters",
}
CONFIG = """input_file: {kind}.fasta
protocol: {protocol}
output_dir: out_{kind}
model_choice: FNN
num_epochs: 40
learning_rate: 0.05
scaling_method: standard
bootstrapping_iterations: 5
external_writer: none
"""


def write_labelled(path: Path, kind: str, count: int) -> Path:
    """Records whose letters decide their labels; a fifth each are for validation and test."""
    rng = np.random.default_rng(3)
    records = []
    for number in range(count):
        rich = 0.3 * (number % 2)  # in alanine
        letters = rng.choice(
            list(AMINO_ACIDS), rng.integers(20, 40), p=[rich, *[(1 - rich) / 19] * 19]
        )
        target = {
            "letters": "".join("H" if letter in HELIX else "L" for letter in letters),
            "values": ";".join("1.0" if letter in HELIX else "0.0" for letter in letters),
            "composition": "rich" if rich else "poor",
        }[kind]
        split = ("train", "train", "train", "val", "test")[number // 2 % 5]
        records.append(f">p{number} TARGET={target} SET={split}\n{''.join(letters)}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(records))
    return path


def write_protein_gym(folder: Path, checkpoint: Path) -> None:
    """ProteinGym's layout; what was "measured" is the score of `phenomjax.score`."""
    wild_type = tiny.proteins([12], 5)[0]
    fasta, table, scored = (
        folder / name for name in ("wild_type.fasta", "mutants.csv", "scored.csv")
    )
    tables = folder / "PGYM" / "DMS_ProteinGym_substitutions"
    tables.mkdir(parents=True)
    (folder / "PGYM" / "reference").mkdir()
    tiny.write_fasta(fasta, [wild_type])
    rows = [
        (f"{old}{place + 1}{new}", place, new)
        for place, old in enumerate(wild_type)
        for new in "ACW"
        if new != old
    ]
    lines = [
        f"{name},{wild_type[:place]}{new}{wild_type[place + 1 :]}" for name, place, new in rows
    ]
    table.write_text("\n".join(["mutant,mutated_sequence", *lines, ""]))
    assert (
        score.main(
            [
                "--checkpoint",
                str(checkpoint),
                "--wild_type",
                str(fasta),
                "--mutants",
                str(table),
                "--out",
                str(scored),
            ]
        )
        == 0
    )
    names = [f"ASSAY{number}" for number in range(4)]
    # biotrainer takes standard deviations over at least two of viruses and two of others
    for name in names:
        (tables / f"{name}.csv").write_text(scored.read_text().replace("score", "DMS_score", 1))
    taxa = [f"{name},{'Virus' if number < 2 else 'Human'}" for number, name in enumerate(names)]
    (folder / "PGYM" / "reference" / "reference.csv").write_text(
        "\n".join(["DMS_id,taxon", *taxa, ""])
    )


@pytest.mark.slow
@pytest.mark.skipif(
    not FOLDER.is_dir(), reason="biotrainer is not installed in .venv/biotrainer; .ci/run does that"
)
def test_biotrainer_runs_on_our_models(tmp_path):
    txl, xlnet, elmo = (tiny.write(tmp_path / task, task) for task in tiny.SHAPES)
    me, jobs = "phenomjax.probes.biotrainer", []
    for kind, protocol, per in (
        ("letters", "residue_to_class", "residue"),
        ("composition", "sequence_to_class", "protein"),
    ):
        fasta = write_labelled(tmp_path / f"{kind}.fasta", kind, 60)
        (tmp_path / f"{kind}.yml").write_text(CONFIG.format(kind=kind, protocol=protocol))
        out = str(tmp_path / f"{per}.npz")
        jobs.append(
            [
                "phenomjax.embed",
                "--checkpoint",
                str(txl),
                "--source",
                str(fasta),
                "--per",
                per,
                "--out",
                out,
            ]
        )
        jobs.append([me, "--checkpoint", str(txl), "--config", str(tmp_path / f"{kind}.yml")])
    for name, kind in KINDS.items():
        write_labelled(tmp_path / "data" / "PBC" / "supervised" / name / f"{name}.fasta", kind, 20)
    for framework, model in (("pbc", xlnet), ("pgym", xlnet), ("pgym", elmo)):
        if framework == "pgym":
            write_protein_gym(tmp_path / model.name, model)
        data = tmp_path / (model.name if framework == "pgym" else "data")
        arguments = ["--data", str(data), "--out", str(tmp_path / "auto")]
        jobs.append([me, "--checkpoint", str(model), "--autoeval", framework, *arguments])
    sequences = tiny.proteins([7, 40, 30])
    named = tmp_path / "named.yml"
    named.write_text((tmp_path / "letters.yml").read_text() + "embedder_name: one_hot_encoding\n")
    command = [sys.executable, "-c", MAIN, json.dumps([str(txl), sequences, jobs, str(named)])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    # Its protocols: our vectors, bit for bit, and a head that learns from them.
    model = biotrainer.name_of(opening.load_sequences(txl))
    for kind, per in (("letters", "residue"), ("composition", "protein")):
        ours, theirs = (
            np.load(tmp_path / f"{per}.npz"),
            tmp_path / f"out_{kind}" / f"{model}_{per}.h5",
        )
        records = (tmp_path / f"{kind}.fasta").read_text().split(">")[1:]
        with h5py.File(theirs) as file:
            assert len(file) == len(records) == len(ours.files)
            for record in records:
                name, sequence = record.split()[0], record.split()[-1]
                np.testing.assert_array_equal(file[biotrainer.sequence_hash(sequence)], ours[name])
        report = (tmp_path / f"out_{kind}" / "out.yml").read_text()
        assert f"phenomjax_model: {model}" in report
        accuracy = float(re.search(r"test_results:.*?accuracy: ([\d.]+)", report, re.S)[1])
        assert accuracy > 0.75, (kind, accuracy)  # the more frequent class has 0.58 and 0.5

    # Its benchmarks.
    for model in (xlnet, elmo):
        name = biotrainer.name_of(opening.load_sequences(model))
        report = json.loads((tmp_path / "auto" / name / f"autoeval_report_{name}.json").read_text())
        if model == xlnet:
            tasks = report["supervised_results"]["PBC"]["results"]
            assert sorted(tasks) == [f"PBC-{task}" for task in KINDS]
        gym = report["zeroshot_results"]["PGYM"]
        assert gym["method"] == ("MASKED_MARGINALS" if model == xlnet else "PERPLEXITY")
        for task in ("virus", "nonvirus", "total"):
            assert gym["aggregated_results"][f"PGYM-{task}"]["scc"]["mean"] == pytest.approx(1)

    # Its embedding service; and a config that names another embedder.
    found, error = json.loads(done.stdout.splitlines()[-1])
    assert f"{named} names an embedder of its own, and `checkpoint` gives another" in error
    expected = tmp_path / "expected.npz"
    fasta = tiny.write_fasta(tmp_path / "sequences.fasta", sequences)
    arguments = [
        "--checkpoint",
        str(txl),
        "--source",
        str(fasta),
        "--per",
        "residue",
        "--out",
        str(expected),
    ]
    assert embed.main(arguments) == 0
    # another number of devices, and so of rows in a batch
    for number, sequence in enumerate(sequences):
        np.testing.assert_allclose(
            found[sequence], np.load(expected)[f"p{number}"], rtol=1e-4, atol=1e-5
        )


def test_vectors_without_biotrainer(tmp_path):
    model = tiny.write(tmp_path / "run", "causal_lm")
    fasta, out = tmp_path / "proteins.fasta", tmp_path / "vectors.h5"
    fasta.write_text(">a SET=train\nMKVLA\nGHU\n>b\nwwcd\n>c\nMKVLAGHU\n")
    arguments = [
        "--checkpoint",
        str(model),
        "--source",
        str(fasta),
        "--per",
        "protein",
        "--out",
        str(out),
    ]
    assert biotrainer.main(arguments) == 0
    assert embed.main([*arguments[:-1], str(tmp_path / "ours.npz")]) == 0
    with h5py.File(out) as file, np.load(tmp_path / "ours.npz") as ours:
        assert len(file) == 2  # a and c are one sequence
        hashed = hashlib.sha256(b"MKVLAGHU_8").hexdigest()  # as biotrainer 1.4 names it
        np.testing.assert_allclose(file[hashed], ours["a"], rtol=1e-5)
        np.testing.assert_allclose(
            file[hashlib.sha256(b"wwcd_4").hexdigest()], ours["b"], rtol=1e-5
        )
    before = out.stat().st_mtime_ns
    # it is there already
    assert biotrainer.main(arguments) == 0 and out.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"is there already\..*add --overwrite"):
        biotrainer.main([*arguments, "--per", "residue"])
    assert biotrainer.main([*arguments, "--per", "residue", "--overwrite"]) == 0
    with h5py.File(out) as file:
        assert file[hashed].shape == (8, 16)

    fasta.write_text(">a\nMKVLA\n>b\nMK1VLA\n")
    with pytest.raises(
        UserError,
        match=r"^1 of 2 sequences cannot be read by the model of .*run, the first 'MK1VLA'",
    ):
        biotrainer.main([*arguments[:-1], str(tmp_path / "none.h5")])
    assert not (tmp_path / "none.h5").exists()
    with pytest.raises(
        UserError, match=r"--source needs --per protein or residue, and --out NAME\.h5"
    ):
        biotrainer.main(arguments[:4])
    with pytest.raises(UserError, match=r"There is no file .*none\.fasta"):
        biotrainer.main([*arguments[:3], str(tmp_path / "none.fasta"), *arguments[4:]])
    with pytest.raises(
        UserError,
        match=r"biotrainer cannot be imported .*pip install 'biotrainer>=1\.4,<2'.*--source FASTA",
    ):
        biotrainer.main(["--checkpoint", str(model), "--config", str(tmp_path / "c.yml")])
