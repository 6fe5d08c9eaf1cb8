"""Optimisers and schedules against their definitions; every parameter has one decay rule."""

import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax import config, optim, step
from phenomjax.config import schedules
from phenomjax.config.checks import flatten
from phenomjax.system.errors import UserError


def test_one_cycle_rises_for_a_tenth_and_falls():
    c = config.base()
    c.num_steps, c.optimizer.learning_rate = 1000, 1e-4
    rate = optim.schedule(c)
    np.testing.assert_allclose([rate(0), rate(100), rate(1000)], [4e-6, 1e-4, 4e-10], rtol=1e-3)


def test_warmup_cosine():
    c = config.base()
    c.num_steps, c.optimizer.learning_rate, c.optimizer.schedule = 1000, 1e-3, "warmup_cosine"
    rate = optim.schedule(c)
    np.testing.assert_allclose(
        [rate(0), rate(50), rate(100), rate(550), rate(1000)], [0, 5e-4, 1e-3, 5e-4, 0], atol=1e-9
    )


def test_lion_moves_by_the_sign_and_decays_matrices_only():
    c = config.base()
    c.optimizer.schedule, c.optimizer.learning_rate, c.optimizer.weight_decay = "constant", 0.1, 0.5
    tx = optim.make(c)
    params = {"dense": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full((2,), 2.0)}}
    grads = {"dense": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full((2,), -1e-3)}}
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["dense"]["kernel"], -0.1 * (1 + 0.5 * 2.0), rtol=1e-6)
    np.testing.assert_allclose(updates["dense"]["bias"], 0.1, rtol=1e-6)


def test_a_parameter_without_a_rule_is_an_error():
    with pytest.raises(UserError, match="Parameter dense/weird matches 0 weight-decay rules"):
        optim.decay_mask({"dense": {"weird": jnp.zeros(2)}})


def rates(steps, **optimizer):
    c = config.base()
    c.num_steps, c.optimizer.learning_rate = steps, 2.0
    c.optimizer.update(optimizer)
    rate = optim.schedule(c)
    return np.array([rate(step) for step in range(steps + 1)])


def test_wsd_is_stable_and_falls_at_its_end_in_each_shape():
    how = {"schedule": "wsd", "warmup_steps": 4, "cooldown_steps": 8, "final_fraction": 0.1}
    share = np.arange(9) / 8
    shapes = {
        "linear": 1 - share,
        "sqrt": 1 - share**0.5,
        "cosine": (1 + np.cos(np.pi * share)) / 2,
    }
    for shape, left in shapes.items():
        found = rates(20, cooldown_shape=shape, **how)
        np.testing.assert_allclose(found[:5], [0, 0.5, 1, 1.5, 2], rtol=1e-6)
        np.testing.assert_allclose(found[4:13], 2.0, rtol=1e-6)
        np.testing.assert_allclose(found[12:], 0.2 + 1.8 * left, rtol=1e-5)


def test_a_warmup_in_steps_does_not_move_with_the_length_of_the_run():
    how = {"schedule": "warmup_constant", "warmup_steps": 5}
    short, long = rates(20, **how), rates(40, **how)
    np.testing.assert_array_equal(short, long[:21])
    np.testing.assert_allclose(short[:7], [0, 0.4, 0.8, 1.2, 1.6, 2, 2], rtol=1e-6)
    one_cycle = rates(20, schedule="one_cycle", warmup_steps=5)
    np.testing.assert_array_equal(one_cycle, rates(20, schedule="one_cycle", warmup_fraction=0.25))


def test_a_schedule_that_begins_later_is_that_of_the_steps_that_are_left():
    for name in ("one_cycle", "warmup_cosine", "wsd"):
        late = rates(30, schedule=name, schedule_from=10)
        np.testing.assert_array_equal(late[10:], rates(20, schedule=name))
        np.testing.assert_array_equal(late[:10], late[10])


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"cooldown_steps": 5},
         "which nothing reads where config.optimizer.schedule is 'one_cycle'. Set"
         " --config.optimizer.cooldown_steps=0 or --config.optimizer.schedule=wsd."),
        ({"schedule": "constant", "warmup_steps": 5}, "or --config.optimizer.schedule=one_cycle."),
        ({"schedule": "wsd", "warmup_steps": 600, "cooldown_steps": 600},
         "has 1000 steps (config.num_steps 1000), and a warm-up of 600 and a cooldown of 600"),
        ({"warmup_fraction": 1.0}, "and a warm-up of 1000 do not fit into it"),
        ({"schedule_from": 1000}, "there would be no step of the schedule"),
        ({"schedule_from": 100}, "set --config.continue_from, or"),
        ({"schedule": "wsd", "cooldown_shape": "root"}, "It can be linear, sqrt, cosine."),
    ],
)  # fmt: skip
def test_keys_of_the_schedule_that_do_not_fit_are_errors(changes, text):
    c = config.base()
    c.data.simulate.plates = 1
    c.optimizer.update(changes)
    with pytest.raises(UserError) as error:
        config.finalize(c)
    assert text in str(error.value)


@pytest.mark.parametrize("warmup", [True, False])
def test_moving_average_forgets_its_beginning(warmup):
    """Against the recursion by hand; with a warm-up a short run is not judged by where it began."""
    c = config.base()
    c.optimizer.ema_decay, c.optimizer.ema_warmup = 0.9999, warmup
    ema = params = {"kernel": jnp.float32(-100.0)}
    expected = -100.0
    for t in range(300):
        params = {"kernel": jnp.float32(t)}
        ema = step.average(ema, params, jnp.int32(t), c.optimizer)
        kept = min(0.9999, (1 + t) / (10 + t)) if warmup else 0.9999
        expected = kept * expected + (1 - kept) * t
    np.testing.assert_allclose(ema["kernel"], expected, rtol=1e-4)
    assert (expected > 250) == warmup


def test_runs_of_one_course_have_one_shape_whatever_their_length():
    def shape(steps, **changes):
        c = config.base()
        c.num_steps = steps
        c.optimizer.update({"schedule": "wsd", "final_fraction": 0.1, **changes})
        return schedules.shape(flatten(c))

    assert shape(100, warmup_steps=5, cooldown_steps=25) == ("wsd 0.25 sqrt", 0.05, 0.1)
    assert shape(400, warmup_fraction=0.05, cooldown_fraction=0.25) == shape(
        100, warmup_steps=5, cooldown_steps=25
    )
    assert schedules.shape({"optimizer.schedule": "one_cycle"}) == ("one_cycle", 0.0, 0.0)
