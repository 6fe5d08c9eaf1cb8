"""Where the wall time of a run went."""

import json

import pytest

from phenomjax.training import goodput
from phenomjax.training.goodput import Goodput, describe, summary


def a_start(began, until, first, step, step_seconds, **other):
    seconds = dict.fromkeys(goodput.CATEGORIES, 0.0) | {"step": step_seconds, **other}
    return {"began": began, "until": until, "first_step": first, "step": step, "seconds": seconds}


def test_steps_that_were_redone_and_pauses_do_not_count():
    # 100 steps in 50 s, killed; the second start begins at step 80 after 30 s: 20 steps (10 s) were
    # lost.
    starts = [a_start(0, 60, 0, 100, 50, data=10), a_start(90, 140, 80, 180, 40, compilation=10)]
    result = summary(starts)
    assert result["wall"] == 140 and result["restarts"] == 30
    assert result["redone"] == pytest.approx(10) and result["step"] == pytest.approx(80)
    assert result["goodput"] == pytest.approx(80 / 140)
    assert result["data"] == 10 and result["compilation"] == 10
    assert "redone 7.1 %" in describe(result, 2) and "57.1 % of 140 s were steps" in describe(
        result, 2
    )


def test_a_start_that_was_redone_wholly_counts_nothing():
    starts = [a_start(0, 10, 0, 10, 8), a_start(10, 20, 5, 15, 8), a_start(20, 30, 0, 20, 10)]
    assert summary(starts)["redone"] == pytest.approx(16) and summary(starts)["step"] == 10


def test_the_stopwatch_adds_up_and_survives_a_torn_file(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(goodput.time, "time", lambda: now[0])
    path = tmp_path / goodput.FILE
    path.write_text('{"starts": [')
    watch = Goodput(path, began=995.0)
    watch.begin(0)
    now[0] += 3
    with watch.spent("data"):
        now[0] += 2
        with watch.spent("compilation"):
            now[0] += 4
    now[0] += 1
    result = watch.write(10)
    assert {k: result[k] for k in ("start-up", "step", "data", "compilation", "wall")} == {
        "start-up": 5,
        "step": 4,
        "data": 2,
        "compilation": 4,
        "wall": 15,
    }
    assert sum(result[k] for k in goodput.CATEGORIES) == result["wall"]
    assert json.loads(path.read_text())["starts"][0]["step"] == 10
    assert Goodput(path, began=now[0]).earlier[0]["step"] == 10
