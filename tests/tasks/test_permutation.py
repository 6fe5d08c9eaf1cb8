"""The permutation language model as a task: published size, resume with memories, scores and
embeddings that mean what they say.
"""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax import config, tasks
from phenomjax.data.sequences.bank import write_token_bank
from phenomjax.data.sequences.vocabulary import AMINO_ACIDS, CLS, EOS, PAD, SEP
from phenomjax.models.xlnet import permutation_mask
from phenomjax.system.errors import UserError
from tests.lab import ROOT


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    generator = np.random.default_rng(0)
    motifs = ["".join(generator.choice(list(AMINO_ACIDS), 6)) for _ in range(4)]
    draw = lambda: "".join(generator.choice(motifs, generator.integers(3, 8)))  # noqa: E731
    splits = {
        "train": [(f"p{i}", draw()) for i in range(80)],
        "validation": [(f"v{i}", draw()) for i in range(12)],
    }
    return str(write_token_bank(tmp_path_factory.mktemp("bank") / "bank.zarr", splits).path)


def small(bank, **changes):
    c = config.base("permutation_lm")
    c.data.banks, c.data.segment_len, c.global_batch_size, c.num_steps = (bank,), 32, 8, 6
    m = c.model
    m.embed_dim, m.num_layers, m.num_heads, m.head_dim, m.mlp_dim = 16, 1, 2, 8, 32
    m.mem_len, m.reuse_len, m.perm_size, m.num_predict = 12, 16, 8, 6
    # draws take long to compile; tests/models/test_xlnet.py has both kinds
    m.attention_dropout = 0.0
    c.optimizer.learning_rate, c.log.tensorboard = 3e-3, False
    c.log.every_steps, c.eval.every_steps, c.eval.num_batches, c.checkpoint.every_steps = 1, 3, 2, 3
    c.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return c


def task_and_params(bank, **changes):
    task = tasks.make(tasks.resolve(config.finalize(small(bank, **changes)), Path(bank).parent))
    shapes = jax.eval_shape(lambda key: task.init(key, {}), jax.random.key(0))
    generator = np.random.default_rng(1)
    return task, jax.tree.map(
        lambda x: jnp.asarray(generator.normal(0, 0.3, x.shape), jnp.float32), unboxed(shapes)
    )


def unboxed(tree):
    return jax.tree.map(lambda box: box.value, tree, is_leaf=lambda x: hasattr(x, "value"))


def test_published_size_exactly(bank):
    spec = importlib.util.spec_from_file_location("prot_xlnet", ROOT / "configs" / "prot_xlnet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    c = module.get_config("uniref")
    c.data.banks = (bank,)
    shapes = jax.eval_shape(
        lambda key: tasks.make(config.finalize(c)).init(key, {}), jax.random.key(0)
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 409_413_669


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in lines]


def test_memory_is_carried_and_forgotten(bank):
    task, params = task_and_params(bank, model__dropout=0.0)
    batch = {
        name: jnp.asarray(value) for name, value in task.loader("train", 0, 1).batch(1).items()
    }
    first, loss = task.carry(8), jax.jit(task.loss)
    value, metrics, carry = loss(params, batch, jax.random.key(0), first)
    assert set(metrics) == {"accuracy"}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), carry) == jax.tree.map(
        lambda x: (x.shape, x.dtype), first
    )
    np.testing.assert_array_equal(carry["valid"], [12] * 8)
    again = loss(params, batch, jax.random.key(0), carry)[0]
    fresh = loss(params, batch | {"fresh": jnp.ones(8, bool)}, jax.random.key(0), carry)[0]
    assert float(again) != float(value) == float(fresh)
    assert tasks.means({"loss": (2.0, 2.0), "perplexity": (2.0, 2.0)}) == {
        "loss": 1.0,
        "perplexity": pytest.approx(np.e),
    }


def protein(length, seq, seed=0):
    ids = np.random.default_rng(seed).integers(7, 27, length)
    return np.concatenate([np.full(seq - length - 2, PAD), ids, [SEP, CLS]])[None].astype(np.int32)


def test_scores_do_not_see_what_they_score(bank):
    task, params = task_and_params(bank)
    tokens = jnp.asarray(protein(10, 14))
    places = jnp.array([[2, 9]])
    score = jax.jit(task.masked_log_probs)
    log_probs = score(params, tokens, places)
    assert log_probs.shape == (1, 2, 32)
    np.testing.assert_allclose(jnp.exp(log_probs).sum(-1), 1.0, rtol=1e-5)
    changed = score(params, tokens.at[0, 9].set(8), places)
    np.testing.assert_array_equal(changed[0, 1], log_probs[0, 1])
    assert np.abs(changed[0, 0] - log_probs[0, 0]).max() > 1e-4
    padding = score(params, tokens.at[0, :2].set(PAD), places)
    np.testing.assert_array_equal(padding, log_probs)
    # The same as the training objective with one target.
    rank = jnp.zeros((1, 14), jnp.int32).at[0, 9].set(1)
    target = jnp.array([[9]])
    sees = permutation_mask(rank, target) & (tokens != PAD)[:, None]
    segment = jnp.where(tokens == CLS, 2, 0)
    logits, _ = jax.jit(task.model.apply)({"params": params}, tokens, segment, sees, target)
    np.testing.assert_allclose(
        jax.nn.log_softmax(logits[0, 0]), log_probs[0, 1], rtol=1e-4, atol=1e-5
    )


def test_embeddings_do_not_depend_on_padding_and_continue(bank):
    task, params = task_and_params(bank, model__mem_len=14)
    alone, long = (jnp.asarray(protein(10, seq)) for seq in (12, 14))
    embed = jax.jit(task.features, static_argnums=3)
    features, none = embed(params, alone)
    assert features.shape == (1, 12, 16) and features.dtype == jnp.float32 and none == ()
    padded, carry = embed(params, long, task.carry(1))
    np.testing.assert_allclose(padded[:, 2:], features, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(carry["valid"], [12])
    following, _ = embed(params, alone, carry)
    assert np.abs(following - features).max() > 1e-3

    # The interface of the front doors: padding last, another layer by number.
    right = {"tokens": jnp.roll(long, -2, 1)[:, None], "lengths": jnp.array([12])}
    segment = jax.jit(task.embed, static_argnums=3)
    last, none = segment(params, right, task.inference_carry(1, whole=True))
    np.testing.assert_allclose(last[:, 0, :12], features, rtol=1e-4, atol=1e-5)
    first, _ = segment(params, right, task.inference_carry(1, whole=False), 0)
    np.testing.assert_allclose(
        first[0, 0, :12], params["word_embedding"]["embedding"][alone[0]], rtol=1e-6
    )
    assert task.boundary == ((EOS,), (EOS, SEP, CLS)) and task.scoring == "masked"


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"model__perm_size": 6}, "not a multiple of config.model.perm_size 6"),
        ({"model__reuse_len": 30}, "cannot hold"),
        ({"model__num_predict": 1}, "num_predict is 1; it must be at least 2"),
        ({"model__embed_dim": 15}, "must be even"),
        ({"model__gelu": "relu"}, "config.model.gelu is 'relu'"),
        ({"model__attention_type": "both"}, "It can be bi, uni"),
    ],
)
def test_configurations_that_cannot_be(bank, changes, message):
    with pytest.raises(UserError, match=message):
        config.finalize(small(bank, **changes))
