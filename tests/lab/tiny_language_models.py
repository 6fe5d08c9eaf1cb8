"""Tiny random language models as checkpoints, for the tests of what is done with trained ones."""

import functools

import flax.linen as nn
import jax
import numpy as np

from phenomjax import config, tasks
from phenomjax.checkpoints import loading

SHAPES = {
    "causal_lm": {
        "embed_dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "head_dim": 8,
        "mlp_dim": 32,
        "mem_len": 64,
        "init_std": 0.3,
    },
    "permutation_lm": {
        "embed_dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "head_dim": 8,
        "mlp_dim": 32,
        "mem_len": 16,
        "reuse_len": 8,
        "perm_size": 8,
        "num_predict": 3,
        "init_std": 0.3,
    },
    "bidirectional_lm": {
        "filters": ((1, 4), (2, 4)),
        "num_highway": 1,
        "max_characters": 5,
        "projection_dim": 8,
        "cell_dim": 16,
    },
}


@functools.cache
def _parameters(name: str):
    c = make_config(name)
    batch = {"tokens": np.zeros((1, 18), np.uint8)}
    params = nn.meta.unbox(jax.jit(tasks.make(c).init)(jax.random.key(0), batch))
    # Zeros (biases) would hide mistakes.
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: np.asarray(x + 0.1 * rng.standard_normal(x.shape), np.float32),
        jax.device_get(params),
    )


def make_config(name: str, **changes):
    """The resolved config of a tiny model whose bank is gone."""
    c = config.base(name)
    c.model.update(SHAPES[name])
    c.model.vocab_size, c.data.segment_len, c.data.banks = 32, 16, ("gone.zarr",)
    c.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return c


def write(folder, name: str, **changes):
    """Writes a checkpoint; returns the workdir."""
    loading.write(folder, make_config(name, **changes), _parameters(name))
    return folder


def proteins(lengths, seed: int = 0) -> list[str]:
    """Random sequences."""
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), n)) for n in lengths]


def write_fasta(path, sequences, prefix: str = "p"):
    """Writes sequences as p0, p1, …; or (name, sequence) pairs as they are."""
    named = [s if isinstance(s, tuple) else (f"{prefix}{i}", s) for i, s in enumerate(sequences)]
    path.write_text("".join(f">{name} about {name}\n{sequence}\n" for name, sequence in named))
    return path
