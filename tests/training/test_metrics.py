"""Windows, writers and what a resume does to metrics.jsonl."""

import json
import sys
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from phenomjax import config
from phenomjax.config import checks
from phenomjax.system.errors import UserError
from phenomjax.training import metrics, rates
from phenomjax.training.writers import opening
from phenomjax.training.writers.workdir import WorkdirFiles
from tests.lab import ROOT


def test_a_window_continues_where_it_was_saved():
    straight, first = metrics.Window(), metrics.Window()
    for value in (0.1, 0.2, 0.3):
        straight.add({"loss": value})
    first.add({"loss": 0.1})
    second = metrics.Window(json.loads(json.dumps(first.state())))
    for value in (0.2, 0.3):
        second.add({"loss": value})
    assert second.mean() == straight.mean() and second.count == 0


def test_lines_after_the_restored_step_and_torn_lines_go(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    lines = WorkdirFiles(tmp_path, resume_step=2)
    lines.scalars(3, {"x": 0.5})  # on the disk at once, for those who look on
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "x": 0.5},
    ]
    lines.close()
    WorkdirFiles(tmp_path, resume_step=None).close()
    assert path.read_text() == ""  # a new run begins an empty file


def test_the_reader_tells_sound_lines_from_damaged_ones(tmp_path):
    path = tmp_path / metrics.FILE
    assert metrics.read_metrics(path) == ([], [])
    sound = '{"step": 2, "train/loss": 3.0, "train/rollbacks": 1}'
    path.write_text(
        f'garbage\n{{"val/loss": 1}}\n{sound}\n[3]\n{{"step": 4, "a": "x"}}\n\n{{"step": 5, "va'
    )
    lines, damaged = metrics.read_metrics(path)
    assert lines == [metrics.MetricsLine(2, {"train/loss": 3.0, "train/rollbacks": 1.0}, sound)]
    assert damaged == [1, 2, 4, 5, 6, 7]


def test_a_resume_cuts_what_is_to_be_measured_again(tmp_path, caplog):
    path = tmp_path / metrics.FILE
    kept = '{"step": 2, "train/loss": 1.0}\n'
    path.write_text(kept + 'damaged\n{"step": 2, "val/loss": NaN, "val/perplexity": 2.0}\n')
    WorkdirFiles(tmp_path, resume_step=2, redo=["val"]).close()
    assert path.read_text() == kept and "line 2 of" in caplog.text
    WorkdirFiles(tmp_path, resume_step=2, redo=["probe"]).close()
    assert path.read_text() == kept


def test_tensorboard_gets_scalars_and_figures(tmp_path):
    pytest.importorskip("tensorboardX")
    found = opening.main_writers(tmp_path, config.base(), None)
    figure = Figure()
    figure.subplots().plot([1, 2])
    for writer in found:
        writer.scalars(1, {"train/loss": 1.0})
        writer.figure(1, "curve", figure)
        writer.flush()
        writer.close()
    assert (
        len(found) == 2
        and sum(p.stat().st_size for p in (tmp_path / "tensorboard").iterdir()) > 1000
    )


def test_wandb_that_is_not_installed(tmp_path, monkeypatch):
    c = config.base()
    c.log.tensorboard, c.log.wandb_project = False, "cells"
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError,
        match=r"log.wandb_project is 'cells' but wandb is not installed. Run `pip install wandb`",
    ):
        opening.main_writers(tmp_path, c, None)


class WandB:
    """What is used of W&B; nobody is logged in until `key` is given."""

    class Error(Exception):
        pass

    def __init__(self):
        self.errors, self.key, self.inits, self.said = self, "", [], []

    def Settings(self, **settings):
        return settings

    def init(self, **settings):
        if "/" in settings["project"]:
            raise ValueError("invalid project name: it has a '/'.")
        if not self.key and settings.get("mode") != "offline":
            raise self.Error("No API key configured. Use `wandb login` to log in.")
        self.inits.append(settings)
        return self

    def log(self, values, step):
        self.said.append((step, dict(values)))

    def finish(self, exit_code):
        self.said.append(exit_code)


def test_a_run_of_wandb_is_that_of_its_folder(tmp_path, monkeypatch, caplog):
    """Folders of the same name are two runs, a continued one is one; without a login it is kept."""
    fake = WandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: name)
    c = config.base()
    c.log.tensorboard, c.log.wandb_project, c.log.wandb_tags = False, "cells", ("a", "b")

    def start(name, resume=None):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        _, writer = opening.main_writers(tmp_path / name, c, resume)
        writer.scalars(3, {"train/loss": 0.5})
        writer.close()
        return fake.inits[-1]

    one = start("a/l8")
    assert one["mode"] == "offline" and fake.said == [(3, {"train/loss": 0.5}), 0]
    sync = f"`wandb sync {tmp_path}/a/l8/wandb/offline-run-*`"
    assert "No API key configured" in caplog.text and sync in caplog.text
    fake.key = "known"
    caplog.clear()
    other, trial = start("b/l8"), start("b/study/trials/0003")
    assert "mode" not in other and not caplog.text
    assert len({one["id"], other["id"], trial["id"]}) == 3
    assert start("a/l8", resume=3)["id"] == one["id"]
    assert (other["name"], trial["name"]) == ("l8", "study/0003")
    assert (other["tags"], other["entity"], other["group"]) == (("a", "b"), None, None)
    c.log.wandb_name, c.log.wandb_entity, c.log.wandb_group = "n", "e", "g"
    named = start("b/l8")
    assert (named["name"], named["entity"], named["group"]) == ("n", "e", "g")
    (tmp_path / "old" / "wandb").mkdir(parents=True)  # of a version that took the folder's name
    assert start("old", resume=3)["id"] == "old"
    (tmp_path / "a/l8/wandb_run").write_text("")
    assert start("a/l8", resume=3)["id"]
    c.log.wandb_project = "cells/l8"
    with pytest.raises(UserError, match=r"W&B does not take the config.log.wandb_\*.*it has a '/'"):
        start("c/l8")


def test_mlflow_that_is_not_installed(tmp_path, monkeypatch):
    c = config.base()
    c.log.tensorboard, c.log.mlflow_experiment = False, "cells"
    monkeypatch.setattr(
        opening.importlib.util, "find_spec", lambda name: None if name == "mlflow" else name
    )
    with pytest.raises(
        UserError,
        match=(
            r"log.mlflow_experiment is 'cells' but mlflow is not installed. Run `pip install -e"
            r" '.\[logging\]'"
        ),
    ):
        opening.main_writers(tmp_path, c, None)


def test_a_continued_run_is_one_run_of_mlflow(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workdir = tmp_path / "run"
    workdir.mkdir()
    c = config.base()
    c.log.tensorboard, c.log.mlflow_experiment, c.num_steps = False, "cells", 3

    def part(steps, resume, done=False):
        figure = Figure()
        figure.subplots().plot([1, 2])
        _, writer = opening.main_writers(workdir, c, resume)
        for step in steps:
            writer.scalars(step, {"train/loss": 1 / step, "val/loss": float("nan")})
        writer.figure(steps[-1], "curve", figure)
        writer.flush()
        writer.close(done)
        return writer

    writer = part([1, 2], None)
    run = writer._client.get_run(writer._id)
    assert run.info.status == "KILLED" and run.info.run_name == "run"
    assert run.data.params["optimizer.learning_rate"] == "0.0001" and len(run.data.params) == len(
        checks.flatten(c)
    )
    c.num_steps = 4
    writer = part([2, 3, 4], 1, done=True)  # step 2 was not yet in a checkpoint
    run = writer._client.get_run(writer._id)
    history = writer._client.get_metric_history(writer._id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert run.info.status == "FINISHED" and run.data.tags["continued with num_steps"] == "4"
    assert len(writer._client.search_runs([run.info.experiment_id])) == 1
    assert {a.path for a in writer._client.list_artifacts(writer._id)} == {
        "curve_0000002.png",
        "curve_0000004.png",
    }
    assert (tmp_path / "mlflow.db").exists() and not (ROOT / "mlruns").exists()
    # A store that does not answer costs no training, and a run that was deleted is not begun anew
    # in silence.
    monkeypatch.setattr(
        writer._client, "log_batch", lambda *a, **k: (_ for _ in ()).throw(writer._error("gone"))
    )
    writer._next = 0.0  # a minute passed
    writer.scalars(9, {"train/loss": 1.0})
    assert len(writer._waiting) == 1 and writer._next > 1e9  # it is asked at a checkpoint again
    writer.flush()
    assert len(writer._waiting) == 1
    (workdir / "mlflow_run").write_text("0" * 32)
    with pytest.raises(
        UserError,
        match=(
            r"MLflow at sqlite:.* cannot be used: .*not found.* delete .*mlflow_run to begin a"
            r" new one"
        ),
    ):
        opening.main_writers(workdir, c, 1)


@pytest.mark.parametrize(
    "kind,peak", [("NVIDIA H100 80GB HBM3", 989e12), ("TPU v5 lite", 197e12), ("cpu", None)]
)
def test_peak_rate_of_known_devices(monkeypatch, kind, peak):
    monkeypatch.setattr(rates.jax, "devices", lambda: [SimpleNamespace(device_kind=kind)])
    monkeypatch.setattr(rates.jax, "device_count", lambda: 2)
    assert rates.peak_flops() == (None if peak is None else 2 * peak)
