"""What is due after a step."""

import pytest

from phenomjax import config
from phenomjax.training.schedule import Due, due

EVERY = {"val": 4, "probe": 6, "figures": 0}
NOTHING = Due(False, (), False, False, False, False)


@pytest.fixture
def c():
    c = config.base()
    c.num_steps, c.log.every_steps, c.checkpoint.every_steps = 24, 3, 8
    c.checkpoint.keep_best, c.checkpoint.every_minutes = 0, 0.0
    return c


def test_nothing_but_the_next_step(c):
    assert due(1, c, EVERY, False) == NOTHING and not NOTHING.anything


@pytest.mark.parametrize(
    "step,log,evaluators,save",
    [
        (3, True, (), False),
        (4, False, ("val",), False),
        (8, False, ("val",), True),
        (12, True, ("val", "probe"), False),
        (18, True, ("probe",), False),
        (24, True, ("val", "probe", "figures"), True),
    ],
)
def test_intervals(c, step, log, evaluators, save):
    found = due(step, c, EVERY, False)
    assert found == Due(log, evaluators, save, False, False, False) and found.anything


def test_all_is_due_at_the_last_step_and_nothing_stops_it(c):
    c.num_steps = c.stop_at_step = 23
    assert due(23, c, EVERY, True) == Due(True, tuple(EVERY), True, False, False, False)


@pytest.mark.parametrize("metric,steps", [("val/loss", [4, 8]), ("probe/a/b/accuracy", [6, 8])])
def test_what_may_be_the_best_is_saved(c, metric, steps):
    c.checkpoint.keep_best, c.checkpoint.best_metric = 1, metric
    assert [step for step in range(1, 9) if due(step, c, EVERY, False).save] == steps


def test_copies_in_memory_need_nothing_else_and_none_is_made_at_the_end(c):
    c.checkpoint.memory_every_steps = 4
    assert [step for step in range(1, 25) if due(step, c, EVERY, False).copy] == [4, 8, 12, 16, 20]
    assert due(20, c, {}, False) == Due(False, (), False, False, False, False, copy=True)
    assert due(20, c, {}, False).anything


def test_the_clock_is_asked_at_log_steps_where_nothing_is_saved_anyway(c):
    c.checkpoint.every_minutes = 5.0
    asked = [step for step in range(1, 25) if due(step, c, EVERY, False).ask_clock]
    assert asked == [3, 6, 9, 12, 15, 18, 21]


def test_a_signal_stops_and_a_pause_waits(c):
    c.stop_at_step = 4
    assert due(2, c, EVERY, True) == Due(False, (), False, False, True, False)
    assert due(4, c, EVERY, False) == Due(False, ("val",), False, False, False, True)
    assert due(4, c, EVERY, True) == Due(False, ("val",), False, False, True, True)
