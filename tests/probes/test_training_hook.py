"""Probes while a model trains: what they log, that training does not notice them, signals, the best
checkpoint, and mistakes in suites.
"""

import importlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax import config, main, sharding, train
from phenomjax.checkpoints import loading
from phenomjax.cluster import messages
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.inference.sequences import segments
from phenomjax.probes import metrics
from phenomjax.probes.methods import training
from phenomjax.probes.suites import suite_file
from phenomjax.runs import reading
from phenomjax.system.errors import UserError
from phenomjax.tasks import causal_lm
from phenomjax.tasks.language_model import LanguageModel
from tests.lab import tiny_language_models, toy_task

SUITE = """
from phenomjax.probes.suites.suite import Label, Mutations, Source, Split, Suite, Task, Training

def get_config(arg=""):
    rows = (Source("rows.csv"),)
    return Suite(
        "nowhere",
        {
            "place": Task(rows, {"side": Label("class")}, heads=("linear",)),
            "residues": Task(
                rows,
                {"letter": Label("residue_class", "letters")},
                heads=("linear",),
                max_length=30,
            ),
            "near": Task(rows, {"size": Label("class", "size")}, heads=("nearest",)),
            "effect": Mutations("gone.csv", "MKV", "y"),
            "drug": Task(rows, {"side": Label("class")}, alphabet="smiles"),
        },
        Training(seeds=2, learning_rate=0.1, max_epochs=10, batch_size=8),
        bootstrap_draws=50,
    )
"""
NAMES = [
    "probe/place/side/accuracy/a",
    "probe/place/side/accuracy/b",
    "probe/residues/letter/accuracy/a",
    "probe/residues/letter/accuracy/b",
    "probe/near/size/accuracy/a",
    "probe/near/size/accuracy/b",
]


class ToyLanguage(toy_task.ToyTask):
    """A linear regression that is also a language model of sorts: the features of a letter are a
    row of its matrix.
    """

    directions, num_feature_layers, dtype, inference_segment_len = 1, 2, jnp.float32, 64
    boundary = ((1,), (2,))
    words, rare = LanguageModel.words, LanguageModel.rare

    def inference_carry(self, rows, *, whole):
        return ()

    def embed(self, params, batch, carry=(), layer=None):
        letters = params["dense"]["kernel"][batch["tokens"] % 8]
        return letters + params["dense"]["bias"], carry


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setattr(causal_lm, "Objective", ToyLanguage)
    mesh = sharding.mesh_of(4, devices=jax.devices()[:4])
    monkeypatch.setattr(sharding, "make_mesh", lambda c: mesh)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The suite and its table."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "mine.py").write_text(SUITE)
    rng, lines = np.random.default_rng(0), ["sequence,target,letters,size,split"]
    for i, sequence in enumerate(tiny_language_models.proteins(rng.integers(5, 25, 60))):
        letters = "".join("HE"[vocabulary("protein").ids[letter] % 8 < 4] for letter in sequence)
        split = ["train", "train", "validation", "a", "b"][i % 5]
        side = "in" if sequence[0] < "K" else "out"
        lines.append(f"{sequence},{side},{letters},{len(sequence) // 10},{split}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder


def make_config(folder, **changes):
    c = config.base("causal_lm")
    c.num_steps, c.global_batch_size, c.mesh.preset = 6, 16, "fsdp"
    c.log.every_steps, c.eval.every_steps, c.eval.num_batches, c.checkpoint.every_steps = 3, 4, 1, 2
    c.model.vocab_size, c.model.alphabet, c.data.simulate.families, c.log.tensorboard = (
        32,
        "protein",
        1,
        False,
    )
    c.optimizer.learning_rate, c.optimizer.ema_decay = 1e-2, 0.5
    c.probes.suite, c.probes.data = str(folder / "mine.py"), str(folder)
    c.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return c


def trained(c, workdir):
    """As phenomjax.main trains."""
    return train.run(c, workdir, main.evaluators_of(c))


def lines(workdir, probes=True):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in found]
    return [line for line in found if probes or not any(name.startswith("probe/") for name in line)]


def test_training_does_not_notice_the_probes(folder, tmp_path, monkeypatch, caplog):
    """With probes, stopped by signals before and in one and continued, a run gives what it gives
    without; and the probes are the same again.
    """
    without, straight, broken = tmp_path / "without", tmp_path / "straight", tmp_path / "broken"
    assert trained(make_config(folder), without) == 0
    best = {"probes__every_steps": 2, "checkpoint__best_metric": NAMES[0]}
    caplog.set_level("INFO", "phenomjax")
    assert trained(make_config(folder, **best), straight) == 0
    assert "probes every 2 steps: " + ", ".join(NAMES) + "; left out: effect, drug" in caplog.text
    stopped, real, seen = [False], training.fit_predict, []

    def fit_predict(features, data, *args):
        seen.append(data.name)
        if (
            data.name == "place" and seen.count("place") == 2
        ):  # in the second probe, at step 4, a signal comes and is heard
            stopped[0] = True
            assert args[-1].wait(60)
        return real(features, data, *args)

    def stop_requested():
        was, stopped[0] = stopped[0], False  # it is told once
        return was

    monkeypatch.setattr(training, "fit_predict", fit_predict)
    monkeypatch.setattr(messages, "stop_requested", stop_requested)
    assert trained(make_config(folder, **best), broken) == 75
    assert loading.load(broken)[2] == 4 and not any(
        "probe/" in str(line) for line in lines(broken) if line["step"] == 4
    )
    stopped[0] = True  # and again, before the probe that is to be done anew
    assert trained(make_config(folder, **best), broken) == 75
    assert trained(make_config(folder, **best), broken) == 0
    assert lines(broken) == lines(straight) and lines(straight, probes=False) == lines(without)
    for workdir in (straight, broken):
        jax.tree.map(
            np.testing.assert_array_equal, loading.load(workdir)[1], loading.load(without)[1]
        )
    probed = [line for line in lines(straight) if NAMES[0] in line]
    assert [line["step"] for line in probed] == [2, 4, 6]
    for line in probed:
        assert set(line) == {
            "step",
            *(name + end for name in NAMES for end in ("", "_low", "_high")),
        }
        assert all(line[f"{name}_low"] <= line[name] <= line[f"{name}_high"] for name in NAMES)
    assert probed[0][NAMES[2]] > 0.9  # the classes differ in the rows of the matrix


def test_the_best_moving_average_stays(folder, tmp_path, monkeypatch):
    """What is probed is what a checkpoint gives to inference; the largest value says which one is
    kept, and so does the list of runs.
    """
    used, use, evaluate, values = (
        [],
        segments.SegmentFeatures.use,
        metrics.evaluate,
        iter((0.2, 0.9, 0.5)),
    )
    monkeypatch.setattr(
        segments.SegmentFeatures,
        "use",
        lambda self, params: (used.append(params), use(self, params))[1],
    )

    def judge(data, *args):
        rows = evaluate(data, *args)
        return [
            row | {"value": next(values)} if row["split"] == "a" and row["label"] == "size" else row
            for row in rows
            if data.name != "near" or row["metric"] == "accuracy"
        ]

    monkeypatch.setattr(metrics, "evaluate", judge)
    changes = {
        "probes__every_steps": 2,
        "checkpoint__best_metric": NAMES[4],
        "checkpoint__keep_latest": 1,
    }
    assert trained(make_config(folder, **changes), tmp_path) == 0
    assert {int(path.name) for path in (tmp_path / "checkpoints").iterdir()} == {4, 6}
    jax.tree.map(
        np.testing.assert_array_equal, [x for x in used if x][-1], loading.load(tmp_path)[1]
    )
    best = reading.read(tmp_path).best
    assert best[NAMES[4]] == 0.9 and {"val/loss", "val/loss_raw", *NAMES} == set(best)


def test_a_run_without_evaluators_does_not_forget_the_probes(folder, tmp_path):
    with pytest.raises(
        UserError,
        match=r"probes.every_steps is 2, but this run was given no probes. Start it by `python -m"
        r" phenomjax.main`; .*evaluators=main.evaluators_of\(config\)",
    ):
        train.run(make_config(folder, probes__every_steps=2), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    "changes,text",
    [
        (
            {"probes__every_steps": 2, "checkpoint__best_metric": "probe/place/side/acuracy/a"},
            (
                r"best_metric is 'probe/place/side/acuracy/a'. Did you mean"
                r" 'probe/place/side/accuracy/a'\? It can be val/loss, probe/place"
            ),
        ),
        (
            {"checkpoint__best_metric": "probe/x"},
            "but nothing is probed. Set --config.probes.every_steps",
        ),
        (
            {"checkpoint__best_metric": "val/los"},
            r"best_metric is 'val/los'. Did you mean 'val/loss'\?",
        ),
        ({"probes__every_steps": -1}, "must be at least 0"),
        ({"probes__every_steps": 2, "task": "mae"}, "config.task 'mae' reads no sequences"),
        ({"probes__every_steps": 2, "probes__data": "gone"}, "gone"),
        (
            {"probes__every_steps": 2, "probes__suite": "gone.py:quick"},
            "The suite gone.py does not exist",
        ),
        (
            {"probes__every_steps": 2, "model__alphabet": "bytes"},
            "has no task to probe this model with: it reads bytes.*Left out: place, residues",
        ),
    ],
)
def test_mistakes_are_told_before_the_first_step(folder, tmp_path, changes, text):
    c = make_config(folder)
    if changes.get("task") == "mae":
        c = config.base("mae")
        c.data.simulate.plates = 1
    c.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    with pytest.raises(UserError, match=text):
        trained(c, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_old_place_of_entries(tmp_path, caplog):
    """Suite files of before find what they import, and are told the new name."""
    path = tmp_path / "mine.py"
    path.write_text(SUITE.replace("phenomjax.probes.suites.suite", "phenomjax.probes.suite"))
    for name in ("phenomjax.probes.suite", "phenomjax.probes.published"):
        sys.modules.pop(name, None)
    assert suite_file.load(str(path)).tasks == suite_file.load(str(_suite(tmp_path))).tasks
    assert "which is `phenomjax.probes.suites.suite` now" in caplog.text
    assert importlib.import_module("phenomjax.probes.published").rows("q3", "t", "q3")


def _suite(folder):
    path = folder / "today.py"
    path.write_text(SUITE)
    return path


@pytest.mark.parametrize(
    "old,new,text",
    [
        (
            "def get_config",
            "def get_confg",
            r"has no function get_config\(\). Did you mean 'get_confg'\?",
        ),
        (
            'heads=("nearest",)',
            'head=("nearest",)',
            (
                r"mine.py, line 16: Task has no key 'head'. Did you mean 'heads'\? Keys of Task:"
                r" sources, labels"
            ),
        ),
        (
            'Source("rows.csv")',
            "Source()",
            (
                "mine.py, line 5: Source is missing 1 required positional argument: 'path'. Keys of"
                " Source: path, sequence"
            ),
        ),
        (
            '("nearest",)',
            '("neerest",)',
            r"task 'near': heads has 'neerest'. Did you mean 'nearest'\?",
        ),
        ('("nearest",)', '("nearest")', "heads is the text 'nearest' where names are listed"),
        (
            '"residue_class"',
            '"residue"',
            r"task 'residues', label 'letter': kind has 'residue'. Did you mean 'residue_class'\?",
        ),
        ("return Suite(", "return dict(tasks=", "cannot be read: SyntaxError"),
        (
            '"nowhere",',
            "1 / 0,",
            "mine.py, line 7: the suite .* cannot be read: ZeroDivisionError: division by zero",
        ),
    ],
)
def test_mistakes_in_a_suite(tmp_path, old, new, text):
    path = tmp_path / "mine.py"
    path.write_text(SUITE.replace(old, new, 1))
    with pytest.raises(UserError, match=text):
        suite_file.load(str(path))


def test_suite_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SUITE)
    assert suite_file.load(f"{path}:x").data == "nowhere"
    assert suite_file.load(str(path), "there").data == "there"
    with pytest.raises(
        UserError, match=rf"The suite {tmp_path}/min.py does not exist. Did you mean '{path}'\?"
    ):
        suite_file.load(f"{tmp_path}/min.py")
