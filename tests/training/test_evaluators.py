"""The evaluators of a run: their order, signals, and those that come from outside."""

import contextlib
import json
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from phenomjax import config
from phenomjax.system.errors import UserError
from phenomjax.training.evaluators import Evaluators
from phenomjax.training.writers.opening import Writers
from phenomjax.training.writers.workdir import WorkdirFiles

CALLED = []


class Fixed:
    """An evaluator that finds the same every time."""

    def __init__(self, name, found, every_steps=1):
        self.name, self.found, self.every_steps = name, found, every_steps

    def run(self, state, step):
        CALLED.append(self.name)
        return self.found


def made(*evaluators, **probes):
    CALLED.clear()
    c = config.base()
    c.probes.update(probes)
    run = SimpleNamespace(config=c, phase=lambda name: contextlib.nullcontext())
    return Evaluators([lambda run, each=each: each for each in evaluators], run)


def test_metrics_and_figures_are_written_and_metrics_judge(tmp_path, caplog):
    figure = Figure()
    figure.subplots().plot([1, 2])
    found = {"mine/x": 0.5, "mine/x_low": 0.25, "curve": figure}
    evaluators = made(Fixed("mine", found, 7), None, Fixed("silent", {}))
    assert evaluators.every_steps == {"mine": 7, "silent": 1}
    writers = Writers([WorkdirFiles(tmp_path, None)], None, 0)
    with caplog.at_level("INFO", "phenomjax"):
        scores, redo = evaluators.run(3, None, writers, ["silent", "mine", "gone"])
    writers.close()
    assert (scores, redo) == ({"mine/x": 0.5, "mine/x_low": 0.25}, [])
    assert CALLED == ["mine", "silent"]
    assert "step 3  mine/x 0.5000\n" in caplog.text and (tmp_path / "figures").is_dir()
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["curve_0000003.png"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [{"step": 3, "mine/x": 0.5, "mine/x_low": 0.25}]


@pytest.mark.parametrize(
    "stop,called,scores,redo",
    [
        (False, ["val", "probe"], {"val/loss": 1.0}, ["probe", "figures"]),
        (True, [], {}, ["val", "probe", "figures"]),
    ],
)
def test_after_a_signal_the_rest_is_done_again(stop, called, scores, redo):
    evaluators = made(Fixed("val", {"val/loss": 1.0}), Fixed("probe", None), Fixed("figures", {}))
    names = evaluators.every_steps
    assert evaluators.run(3, None, Writers([], None, 0), names, stop) == (scores, redo)
    assert called == CALLED


def test_probes_that_are_wanted_and_not_given():
    with pytest.raises(UserError, match=r"probes.every_steps is 2, but this run was given no prob"):
        made(Fixed("val", {}), every_steps=2)
    assert made(Fixed("probe", {}, 2), every_steps=2).every_steps == {"probe": 2}
