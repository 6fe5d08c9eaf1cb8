"""The evaluation from files to report: every method has its rows, parts are kept, mistakes cost one
task, several checkpoints are compared.
"""

import contextlib
import io
import json
import re
import shlex
import shutil
import signal

import numpy as np
import pytest

from phenomjax import evaluate
from phenomjax.data.sequences.vocabulary import AMINO_ACIDS
from phenomjax.probes import job, options
from phenomjax.probes.methods import baselines, training
from phenomjax.probes.suites import leakage
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.options import parse
from tests.lab import tiny_language_models as tiny

SUITE = """
from phenomjax.probes.suites.suite import Label, Mutations, Source, Suite, Task, Training

def get_config(arg=""):
    structure = Task(
        sources=(Source("structure.fasta"),),
        labels={"q2": Label("residue_class", classes=("H", "C"))},
        heads=("linear",),
        baselines=("majority", "one_hot", "random_weights"),
    )
    label = {"place": Label("class")}
    place = Task(
        sources=(Source("place.csv"),),
        labels=label,
        heads=("linear", "nearest"),
        baselines=("majority", "composition"),
    )
    molecules = Task((Source("none.csv"),), {"y": Label("value")}, alphabet="smiles")
    effects = Mutations("dms.csv", "WILD", "fitness")
    tasks = {"structure": structure, "place": place, "dms": effects, "smiles": molecules}
    if arg == "broken":
        source = Source("broken.csv")
        tasks["broken"] = Task((source,), label, heads=(), baselines=("majority",))
    training = Training(seeds=2, max_epochs=4, batch_size=16, learning_rate=3e-2)
    return Suite("DATA", tasks, training, bootstrap_draws=50)
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A suite file and its data: residues whose label is their letter's, proteins whose class is
    their commonest letter.
    """
    folder, rng = tmp_path_factory.mktemp("suite"), np.random.default_rng(0)
    sets = ["train"] * 30 + ["val"] * 8 + ["test"] * 12
    with (folder / "structure.fasta").open("w") as file:
        for i, (part, sequence) in enumerate(
            zip(sets, tiny.proteins(rng.integers(20, 40, 50)), strict=True)
        ):
            labels = "".join("H" if letter in "AELKMQR" else "C" for letter in sequence)
            file.write(f">s{i} TARGET={labels} SET={part}\n{sequence}\n")
    rows = []
    for part in sets:
        kind = rng.integers(2)
        letters = rng.choice(
            list(AMINO_ACIDS),
            25,
            p=np.where(np.isin(list(AMINO_ACIDS), list("LK"[kind])), 0.62, 0.02),
        )
        place, split = ("membrane", "nucleus")[kind], "train" if part == "val" else part
        rows.append(f"{''.join(letters)},{place},{split},{part == 'val'}")
    (folder / "place.csv").write_text("\n".join(["sequence,target,set,validation", *rows]))
    wild = tiny.proteins([20], 3)[0]
    (folder / "dms.csv").write_text(
        "\n".join(
            [
                "mutant,fitness",
                *(f"{wild[i]}{i + 1}{'W' if wild[i] != 'W' else 'A'},{i % 7}" for i in range(20)),
            ]
        )
    )
    (folder / "broken.csv").write_text(
        "sequence,target,set,validation\nACDEF,x,train,\nAC1EF,y,test,\n"
    )
    path = folder / "suite.py"
    path.write_text(SUITE.replace("DATA", str(folder)).replace("WILD", wild))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [tiny.write(folder / name, name) for name in ("causal_lm", "bidirectional_lm")]


def run(suite, out, *checkpoints, arg="", options=()):
    return evaluate.main(
        [
            "--suite",
            f"{suite}{arg}",
            "--out",
            str(out),
            *options,
            "--checkpoint",
            *map(str, checkpoints),
        ]
    )


def results(out):
    return json.loads((out / "results.json").read_text())["results"]


@pytest.fixture(scope="module")
def straight(suite, runs, tmp_path_factory):
    """A report of the first run, made without a stop, and what was said."""
    out, said = tmp_path_factory.mktemp("straight") / "report", io.StringIO()
    with contextlib.redirect_stderr(said):
        assert run(suite, out, runs[0]) == EXIT_DONE
    return out, said.getvalue()


def test_report(straight, suite, runs, tmp_path, monkeypatch):
    out, said = shutil.copytree(straight[0], tmp_path / "report"), straight[1]
    (words,) = re.findall(r"next, .*: python -m phenomjax\.evaluate (.*)", said)
    beside = parse(options.Options, shlex.split(words), "evaluate", "")
    assert beside.checkpoint == (str(runs[0]), "runs/other")
    assert (beside.suite, beside.out) == (str(suite), straight[0])
    first = results(out)
    methods = {(row["task"], row["method"]) for row in first}
    assert methods >= {
        ("structure", "causal_lm: linear"),
        ("structure", "causal_lm, random weights: linear"),
        ("structure", "baseline: one-hot"),
        ("place", "causal_lm: nearest"),
        ("place", "causal_lm: linear"),
        ("place", "baseline: composition"),
        ("dms", "causal_lm: zero-shot"),
        ("dms", "baseline: BLOSUM62"),
    }
    # its entry does not ask for it
    assert not any(task == "place" and "random" in method for task, method in methods)
    value = {
        (r["task"], r["method"]): r["value"]
        for r in first
        if r["metric"] == "accuracy" and r["average"] in ("", "residue")
    }
    assert (
        value["structure", "baseline: one-hot"]
        > 0.9
        > value["structure", "baseline: majority class"]
    )
    assert value["structure", "causal_lm: linear"] > value["structure", "baseline: majority class"]
    text = (out / "report.md").read_text()
    assert "smiles was left out: no checkpoint reads smiles" in text
    assert "structure, one-hot: q2 accuracy 1.000 [1.000, 1.000] on test" in said
    assert "evaluate: 11/11 parts" in said

    # Everything is there: nothing is computed again, and another checkpoint costs its own parts
    # only.
    heads = []
    fit_predict = training.fit_predict
    monkeypatch.setattr(baselines, "predict", None)
    monkeypatch.setattr(
        training, "fit_predict", lambda *a, **k: heads.append(a[2]) or fit_predict(*a, **k)
    )
    assert run(suite, out, *runs) == EXIT_DONE
    assert heads == ["linear"] * 3  # structure, its twin, place: of the second checkpoint
    both = results(out)
    assert [row for row in both if row["model"] != "bidirectional_lm"] == first
    assert {row["task"] for row in both if row["model"] == "bidirectional_lm"} == {
        "structure",
        "place",
        "dms",
    }


def test_stopped_and_continued(straight, suite, runs, tmp_path, monkeypatch):
    stopped = tmp_path / "stopped"
    options = ("--tasks", "structure", "--cache", str(tmp_path / "cache"))
    monkeypatch.setattr(leakage, "report", lambda data, banks: [])  # as before
    add, calls = job.Evaluation._add, []

    def stop_after_two(self, task, part):
        add(self, task, part)
        calls.append(task)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(job.Evaluation, "_add", stop_after_two)
    assert run(suite, stopped, runs[0], options=options) == EXIT_STOPPED
    assert len(calls) == 2
    assert len(list((stopped / "parts").glob("*.npz"))) == 2
    assert not (stopped / "results.json").exists()
    part = next(iter(sorted((stopped / "parts").glob("*.npz"))))
    part.write_bytes(part.read_bytes()[:100])  # damaged: made anew
    monkeypatch.setattr(job.Evaluation, "_add", add)
    assert run(suite, stopped, runs[0], options=options) == EXIT_DONE
    expected = [row for row in results(straight[0]) if row["task"] == "structure"]
    assert results(stopped) == expected


def test_a_mistake_costs_one_task(suite, runs, tmp_path, capsys):
    code = run(
        suite, tmp_path / "report", runs[0], arg=":broken", options=("--tasks", "dms", "broken")
    )
    assert code == EXIT_FAILED
    assert {row["task"] for row in results(tmp_path / "report")} == {"dms"}
    message = capsys.readouterr().err
    assert (
        "broken.csv" in message
        and "'1'" in message
        and "1 tasks could not be read, see above: broken" in message
    )
    with pytest.raises(UserError, match="No task could be read"):
        run(suite, tmp_path / "none", runs[0], arg=":broken", options=("--tasks", "broken"))
    with pytest.raises(
        UserError, match=r"--tasks strcture is not in the suite. Did you mean 'structure'?"
    ):
        run(suite, tmp_path / "none", runs[0], options=("--tasks", "strcture"))
    with pytest.raises(
        UserError,
        match=r"The data folder of the suite, nowhere, does not exist\. In .* Say with --data",
    ):
        run(suite, tmp_path / "none", runs[0], options=("--data", "nowhere"))
    with pytest.raises(UserError, match=r"--out .* is a file"):
        run(suite, suite, runs[0])


def test_names_of_checkpoints():
    assert options.model_names(["runs/a", "runs/b/checkpoints/200"], ()) == ["a", "b"]
    assert options.model_names(["a/checkpoints/1", "a/checkpoints/2"], ()) == ["a 1", "a 2"]
    assert options.model_names(["a", "b"], ["x", "y"]) == ["x", "y"]
    with pytest.raises(
        UserError,
        match=r"Two checkpoints have the same name \(t, t\). Tell them apart with `names`",
    ):
        options.model_names(["a/t", "b/t"], ())
    with pytest.raises(
        UserError, match=r"`names` has 1 names for the 2 folders of `checkpoint`. Give as many"
    ):
        options.model_names(["a", "b"], ["x"])
