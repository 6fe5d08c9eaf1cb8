"""Windows, writers and what a resume does to metrics.jsonl."""

import json
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from phenomjax import config, metrics
from phenomjax.errors import UserError


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
    lines = metrics.JsonLines(path, resume_step=2)
    lines.scalars(3, {"x": 0.5})
    lines.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "x": 0.5},
    ]
    metrics.JsonLines(path, resume_step=None).close()
    assert path.read_text() == ""  # a new run begins an empty file


def test_tensorboard_gets_scalars_and_figures(tmp_path):
    pytest.importorskip("tensorboardX")
    found = metrics.writers(tmp_path, config.base(), None, redo_eval=False)
    figure = Figure()
    figure.subplots().plot([1, 2])
    for writer in found:
        writer.scalars(1, {"train/loss": 1.0})
        writer.figure(1, "curve", figure)
        writer.flush()
        writer.close()
    assert len(found) == 2 and sum(p.stat().st_size for p in (tmp_path / "tensorboard").iterdir()) > 1000


def test_wandb_that_is_not_installed(tmp_path, monkeypatch):
    c = config.base()
    c.log.tensorboard, c.log.wandb_project = False, "cells"
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"log.wandb_project is 'cells' but wandb is not installed. Run `pip install wandb`"
    ):
        metrics.writers(tmp_path, c, None, redo_eval=False)


@pytest.mark.parametrize("kind,peak", [("NVIDIA H100 80GB HBM3", 989e12), ("TPU v5 lite", 197e12), ("cpu", None)])
def test_peak_rate_of_known_devices(monkeypatch, kind, peak):
    monkeypatch.setattr(metrics.jax, "devices", lambda: [SimpleNamespace(device_kind=kind)])
    monkeypatch.setattr(metrics.jax, "device_count", lambda: 2)
    assert metrics.peak_flops() == (None if peak is None else 2 * peak)
