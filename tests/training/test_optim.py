"""Optimisers and schedules against their definitions; every parameter has one decay rule."""

import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax import config, optim
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
