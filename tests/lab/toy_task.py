"""A task that compiles in a second, to test the loop apart from any model: linear regression with a
carry and planted bad batches.
"""

import contextlib
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from phenomjax.config import batches
from phenomjax.config.mae import add_sections, check
from phenomjax.data.batches import Batches
from phenomjax.tasks import pictures

__all__ = ["ToyTask", "add_sections", "check"]  # keys are those of a masked autoencoder
WIDTH = 8


@dataclasses.dataclass
class Loaded:
    arrays: dict

    def release(self):
        self.arrays = {}


class ToyLoader:
    """Batches that are a function of the step; `bad_steps` hold a NaN."""

    bad_steps: tuple = ()
    bad_items, items, item_key, unit, units_per_row, steps_per_epoch = (
        0,
        "images",
        "image",
        "images",
        1,
        3,
    )

    def __init__(self, config, split, process_index, process_count):
        self.size, self.seed, self.split = config.global_batch_size, config.seed, split
        stages = batches.stages(config) if split == "train" else [(0, self.size)]
        self.batches, self.process = Batches(stages), (process_index, process_count)
        self.fingerprints = {"toy": "1"}
        self.specs = [
            {
                "pixels": ((self.size, WIDTH), np.float32),
                "row": ((self.size,), np.int32),
                "image": ((self.size,), np.int32),
            }
        ]

    def batch(self, step):
        size, block = self.batches.rows(step), self.batches.block(step, *self.process)
        x = (
            np.random.default_rng([self.seed, step, self.split == "val"])
            .normal(size=(size, WIDTH))
            .astype(np.float32)
        )
        if self.split == "train" and step in self.bad_steps:
            x[0, 0] = np.nan
        rows = np.array(block, np.int32)
        return {
            "pixels": x[block.start : block.stop],
            "row": rows,
            "image": rows + 1000 * step,
        }

    @contextlib.contextmanager
    def iterate(self, start_step):
        def generate():
            step = start_step
            while True:
                yield Loaded(self.batch(step))
                step += 1

        yield generate()

    def names(self, ids):
        return [f"toy image {i}" for i in ids]

    def describe(self):
        return "toy numbers"


class ToyTask:
    next_command = "look at {workdir}"

    def __init__(self, config):
        self.config = config

    @staticmethod
    def resolve(config, workdir):
        return config

    def loader(self, split, process_index, process_count):
        return ToyLoader(self.config, split, process_index, process_count)

    def init(self, key, batch):
        kernel = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))(
            key, (WIDTH, WIDTH), jnp.float32
        )
        return {
            "dense": {
                "kernel": kernel,
                "bias": nn.with_logical_partitioning(nn.initializers.zeros, ("mlp",))(
                    key, (WIDTH,), jnp.float32
                ),
            }
        }

    def carry(self, global_batch_size, split="train"):
        return jnp.zeros((global_batch_size, WIDTH))

    def loss(self, params, batch, key, carry):
        noise = jax.vmap(lambda r: jax.random.normal(jax.random.fold_in(key, r), (WIDTH,)))(
            batch["row"]
        )
        x = batch["pixels"] + 0.1 * noise
        y = x @ params["dense"]["kernel"] + params["dense"]["bias"] + 0.01 * carry
        error = jnp.mean((y - jnp.flip(batch["pixels"], 1)) ** 2)
        return error, {"mean": jnp.mean(y)}, 0.5 * carry + x

    def evaluate(self, params, batch, carry):
        error = (
            batch["pixels"] @ params["dense"]["kernel"]
            + params["dense"]["bias"]
            - jnp.flip(batch["pixels"], 1)
        ) ** 2
        return {"loss": (error.sum(), jnp.float32(error.size))}, carry

    def embed(self, params, batch, carry=()):
        return batch["pixels"] @ params["dense"]["kernel"], carry

    def pixels(self, params, batch):
        return {"x": batch["pixels"]}

    def figure(self, params, batch, names):
        arrays = pictures.computed(self.pixels, params, batch, len(names))
        from matplotlib.figure import Figure  # only where one is drawn

        figure = Figure()
        figure.subplots().imshow(arrays["x"])
        return {"toy": figure}

    def flops(self, batch):
        return 1.0
