"""Model FLOPs of a step whose parameters are partly frozen."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from phenomjax.config import keys
from phenomjax.models import flops
from phenomjax.tasks.work import step_flops
from tests.lab.toy_task import ToyTask
from tests.tasks.test_mae import make_batch, make_config, start


class Network(nn.Module):
    """Products of 2 x 6, twice 6 x 6 in a loop, a convolution, and 6 x 4, in this order."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="first")(x)
        loop = nn.scan(Turn, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        x, _ = loop(name="loop")(x, None)
        x = nn.Conv(6, (1,), name="convolution")(x[:, None])[:, 0]
        return nn.Dense(4, name="last")(jax.checkpoint(jnp.tanh)(x))


class Turn(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(6, name="dense")(x)), None


class Sum(ToyTask):
    def carry(self, global_batch_size, split="train"):
        return ()

    def loss(self, params, batch, key, carry):
        return Network().apply({"params": params}, batch["x"]).sum(), {}, carry

    def flops(self, batch):
        return 1000.0


@pytest.mark.parametrize(
    "frozen,work",
    [
        # first 12, two turns of 36 that are alike, convolution 36, last 24; nobody wants the
        # gradient of the batch
        ((), 2 * 12 + 3 * (72 + 36 + 24)),
        (("last/.*",), 2 * 12 + 3 * (72 + 36) + 2 * 24),
        (("first/.*",), 12 + 3 * (72 + 36 + 24)),
        (("first/.*", "loop/.*"), 12 + 72 + 2 * 36 + 3 * 24),
        (("first/.*", "loop/.*", "convolution/.*"), 12 + 72 + 36 + 2 * 24),
        ((".*/kernel",), 12 + 2 * (72 + 36 + 24)),
    ],
)
def test_what_is_frozen_costs_less(frozen, work):
    config, batch = keys.base(), {"x": jnp.ones((5, 2))}
    config.freeze = frozen
    params = jax.eval_shape(lambda: Network().init(jax.random.key(0), batch["x"])["params"])
    found = step_flops(Sum(config), config, params, batch)
    assert found == pytest.approx(1000 * work / (2 * 12 + 3 * (72 + 36 + 24)))


def test_an_encoder_that_is_frozen_is_only_computed():
    config, batch = make_config(model__embed_dim=64, model__fourier_weight=0.0), make_batch()
    config.freeze = ("encoder/.*", "norm/.*")
    task, params = start(config, batch)
    whole, shape = task.flops(batch), batch["pixels"].shape
    found = step_flops(task, config, params, batch)
    config.model.depth = 0
    layers = whole / 3 - flops.masked_autoencoder(config.model, shape)
    patches = 4 * 4 * 2 * 8 * 8 * 3 * 64  # of 4 rows, 4 that are seen; nobody wants their gradient
    left = (whole - 2 * layers - 2 * patches) / (whole - patches)
    assert found == pytest.approx(whole * left, rel=0.01)
