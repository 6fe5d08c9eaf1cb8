"""The bidirectional task: two texts read from both ends, states that go on, features and
likelihoods of whole sequences, resume.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from phenomjax import config, tasks
from phenomjax.data.sequences.bank import write_token_bank
from phenomjax.data.sequences.lanes import MirroredLaneLoader
from phenomjax.data.sequences.vocabulary import AMINO_ACIDS
from phenomjax.system.errors import UserError
from phenomjax.tasks.bidirectional_lm import BidirectionalLM


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    random = np.random.default_rng(0)
    sequences = [
        (f"p{i}", "".join(random.choice(list(AMINO_ACIDS), random.integers(5, 40))))
        for i in range(40)
    ]
    return write_token_bank(
        tmp_path_factory.mktemp("data") / "bank.zarr",
        {"train": sequences[8:], "validation": sequences[:8]},
        boundary="bos_eos",
    )


def make_config(bank, **changes):
    c = config.base("bidirectional_lm")
    c.data.banks, c.data.segment_len, c.global_batch_size, c.num_steps = (str(bank.path),), 10, 4, 6
    c.model.update(
        char_dim=3,
        filters=((1, 3), (2, 4)),
        max_characters=5,
        projection_dim=4,
        cell_dim=5,
        dtype="float32",
    )
    c.optimizer.schedule = "constant"  # the others depend on num_steps
    c.optimizer.learning_rate, c.eval.every_steps, c.checkpoint.every_steps, c.log.every_steps = (
        1e-2,
        3,
        3,
        1,
    )
    c.eval.num_batches, c.log.tensorboard, c.figures.num_images = 0, False, 1
    c.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return c


def make_task(bank, tmp_path, **changes):
    task = tasks.make(tasks.resolve(config.finalize(make_config(bank, **changes)), tmp_path))
    params = nn.unbox(jax.jit(task.init)(jax.random.key(0), None))
    random = np.random.default_rng(0)  # larger than initial weights, so that differences show
    return task, jax.tree.map(
        lambda x: jnp.asarray(random.normal(0, 0.5, x.shape), jnp.float32), params
    )


def test_mirrored_lanes(bank):
    loader = MirroredLaneLoader([bank], split="train", segment_len=7, seed=1, global_batch_size=3)
    steps = loader.steps_per_epoch
    for epoch in range(2):
        batches = [loader.batch(epoch * steps + s) for s in range(steps)]
        for batch, mirror in zip(batches, reversed(batches), strict=True):
            np.testing.assert_array_equal(batch["backward_tokens"], mirror["tokens"])
            assert batch["weight"].all() and batch["backward_weight"].all()
        assert [batch["fresh"].all() for batch in batches] == [True] + [False] * (steps - 1)
        # The next segment of the backward model ends where the last began.
        for before, after in itertools.pairwise(batches):
            np.testing.assert_array_equal(
                after["backward_tokens"][:, -2:], before["backward_tokens"][:, :2]
            )
    assert {name: (x.shape, x.dtype) for name, x in batches[0].items()} == loader.specs[0]


def test_states_go_on_over_segments(bank, tmp_path):
    """Three short segments in turn have the losses of one long one, in both directions; stateless
    ones have not; a fresh row forgets.
    """
    task, params = make_task(bank, tmp_path)
    random, length, parts = np.random.default_rng(2), 6, 3
    text = random.integers(7, 27, (2, parts * length + 2)).astype(np.uint8)

    def batch(start, stop, backward_start, backward_stop, fresh):
        ones = np.ones((2, stop - start), bool)
        return {
            "tokens": jnp.asarray(text[:, start : stop + 2]),
            "backward_tokens": jnp.asarray(text[:, backward_start : backward_stop + 2]),
            "weight": ones,
            "backward_weight": ones,
            "fresh": jnp.asarray(fresh),
            "row": jnp.arange(2),
        }

    losses = jax.jit(lambda batch, carry: task.token_losses(params, batch, carry, None))
    end = parts * length
    whole = losses(batch(0, end, 0, end, [True, True]), task.carry(2))[0]
    for fresh in ([False, False], [False, True]):
        carry, found = task.carry(2), []
        for part in range(parts):
            start, mirror = part * length, (parts - 1 - part) * length
            one = batch(
                start, start + length, mirror, mirror + length, fresh if part else [True, True]
            )
            nll, _, _, carry = losses(one, carry)
            found.append(nll)
        found = np.concatenate(found, -1)
        np.testing.assert_allclose(found[0], whole[0], rtol=1e-4, atol=1e-5)
        assert np.allclose(found[1], whole[1], rtol=1e-4) == (not fresh[1])
    stateless = BidirectionalLM(make_config(bank, model__vocab_size=32, model__stateful=False))
    assert stateless.carry(2) == ()


def test_loss_is_the_mean_of_both_directions(bank, tmp_path):
    task, params = make_task(bank, tmp_path, model__dropout=0.0)
    loader = task.loader("val", 0, 1)
    batches = [loader.batch(s) for s in range(loader.steps_per_epoch)]
    evaluate, loss = jax.jit(task.evaluate), jax.jit(task.loss)
    carry, sums = task.carry(4, "val"), {}
    for batch in batches:
        value, metrics, _ = loss(params, batch, jax.random.key(0), carry)
        assert value == pytest.approx((metrics["forward"] + metrics["backward"]) / 2)
        result, carry = evaluate(params, batch, carry)
        for name, pair in result.items():
            sums[name] = sums.get(name, 0) + np.array(pair)
    # Every token but the first is predicted forward, and every one but the last backward: the text
    # is not a ring.
    tokens = bank.num_tokens("validation")
    assert sums["forward"][1] == sums["backward"][1] == tokens - 1
    means = tasks.means(sums)
    assert means["loss"] == pytest.approx((means["forward"] + means["backward"]) / 2)
    assert means["perplexity"] == pytest.approx(np.exp(means["loss"]))


def test_features_and_likelihoods_of_whole_sequences(bank, tmp_path):
    task, params = make_task(bank, tmp_path)
    random, lengths = np.random.default_rng(3), jnp.array([4, 9, 1])
    tokens = jnp.asarray(random.integers(7, 27, (3, 9)))
    read = jax.jit(task.layers)
    layers, _ = read(params, tokens, lengths)
    assert layers.shape == (3, 3, 9, 8)
    np.testing.assert_array_equal(layers[:, 0, :, :4], layers[:, 0, :, 4:])
    likelihood = jax.jit(task.log_likelihood)(params, tokens, lengths)
    padded = jnp.where(jnp.arange(9) < lengths[:, None], tokens, 11)  # other padding
    again, _ = read(params, padded, lengths)
    np.testing.assert_array_equal(jax.jit(task.log_likelihood)(params, padded, lengths), likelihood)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(again[row, :, :length], layers[row, :, :length])
    # The likelihood is what the training loss counts on <bos> sequence <eos>.
    text = jnp.concatenate([jnp.array([2]), tokens[1], jnp.array([3])])[None]
    ones = np.ones((1, 10), bool)
    backward = jnp.pad(text, ((0, 0), (0, 1)))[:, -12:]
    batch = {
        "tokens": jnp.pad(text, ((0, 0), (1, 0)))[:, :12],
        "backward_tokens": backward,
        "fresh": np.array([True]),
        "weight": ones,
        "backward_weight": ones,
    }
    nll = jax.jit(lambda b: task.token_losses(params, b, task.carry(1), None)[0])(batch)
    np.testing.assert_allclose(-nll.sum(-1)[0], likelihood[1], rtol=1e-5)


def test_published_size_and_checks():
    c = config.base("bidirectional_lm")
    c.model.update(cell_dim=4096, projection_dim=512, vocab_size=28)
    params = nn.unbox(jax.eval_shape(BidirectionalLM(c).init, jax.random.key(0), None))
    sizes = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in params.items()}
    assert sizes["token_encoder"] == 18_037_840
    assert sizes["layer_0"] + sizes["layer_1"] == 75_563_008
    assert sizes["softmax"] == 14_364
    c.data.simulate.families, c.model.max_characters = 1, 5
    with pytest.raises(
        UserError, match=r"max_characters 5 must hold .* --config.model.max_characters=10"
    ):
        config.finalize(c)
