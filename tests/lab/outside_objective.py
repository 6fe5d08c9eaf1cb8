"""An objective that is none of ours, in one file with its keys: two views of a crop are to be known
as one among all (SimCLR, Chen et al. 2020), on our images.

It runs with `config.task = "tests.lab.outside_objective:Contrastive"`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from phenomjax.config import image_data
from phenomjax.config.ranges import whole
from phenomjax.models import draws
from phenomjax.system.errors import UserError
from phenomjax.tasks.image_objective import ImageObjective, row_sums


def add_sections(c):
    image_data.add_sections(c)
    c.model.dim = whole(8, least=1)  # of an embedding
    c.model.temperature = 0.2
    c.optimizer.learning_rate = 1e-3


def check(c):
    if c.model.temperature <= 0:
        raise UserError(
            f"config.model.temperature is {c.model.temperature}; it must be above 0, e.g. 0.2."
        )
    image_data.check(c)


class Contrastive(ImageObjective):
    def init(self, key, batch):
        init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("patch", "embed"))
        size = batch["pixels"][0].size
        return {"encoder": {"kernel": init(key, (size, self.config.model.dim), jnp.float32)}}

    def encode(self, params, pixels):
        x = pixels.astype(jnp.float32).reshape(len(pixels), -1) / 255
        return (x - x.mean(1, keepdims=True)) @ params["encoder"]["kernel"]

    def losses(self, params, batch, key):
        """Each row's, and whether its other view is the nearest."""
        noise = draws.uniform_rows(key, batch["row"], (2, *batch["pixels"].shape[1:]))
        views = batch["pixels"] + 64 * noise.swapaxes(0, 1)
        first, second = (self.encode(params, view) for view in views)
        unit = lambda y: y / jnp.linalg.norm(y, axis=1, keepdims=True)  # noqa: E731
        logits = unit(first) @ unit(second).T / self.config.model.temperature
        labels = jnp.arange(len(logits))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses, (logits.argmax(1) == labels).astype(jnp.float32)

    def loss(self, params, batch, key, carry):
        losses, right = self.losses(params, batch, key)
        return losses.mean(), {"accuracy": right.mean()}, carry

    def evaluate(self, params, batch, carry):
        losses, right = self.losses(params, batch, jax.random.key(0))
        return row_sums({"loss": losses, "accuracy": right}, batch), carry

    def embed(self, params, batch, carry=()):
        return self.encode(params, batch["pixels"]), carry

    def figure(self, params, batch, names):
        return {}

    def flops(self, batch):
        return 12.0 * batch["pixels"].size * self.config.model.dim
