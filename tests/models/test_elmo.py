"""ELMo against a restatement in PyTorch (outputs, loss, every gradient), and the rules its authors
left in code only.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.models import draws, elmo, lstm

TOKENS = vocabulary("protein").tokens
ROWS, TIME, CELL, WIDTH, LAYERS = 3, 7, 6, 4, 2
FILTERS = ((1, 4), (2, 4), (3, 6))


def make(**changes):
    options = {
        "characters": elmo.character_table(TOKENS, len(TOKENS), 6),
        "num_layers": LAYERS,
        "cell_dim": CELL,
        "cell_clip": 0.4,
        "projection_clip": 0.3,
        "skip_connections": True,
        "dropout": 0.0,
        "dtype": jnp.float32,
        "encoder": {"char_dim": 5, "filters": FILTERS, "num_highway": 2, "projection_dim": WIDTH},
    }
    options |= changes
    options["characters"] = tuple(map(tuple, options["characters"].tolist()))
    return elmo.ELMo(**options)


def make_params(model, scale=0.5):
    zeros = jnp.zeros((1, 2, 1), jnp.int32)
    state = elmo.initial_state(1, LAYERS, CELL, WIDTH)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), zeros, state))["params"]
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(scale * random.standard_normal(x.shape), jnp.float32), shapes
    )


def make_batch(rows=ROWS, time=TIME, seed=1):
    random = np.random.default_rng(seed)
    tokens, targets = jnp.asarray(random.integers(2, len(TOKENS), (2, rows, 2, time)))
    state = {
        "cell": random.uniform(-0.4, 0.4, (rows, LAYERS, 2, CELL)),
        "hidden": random.uniform(-0.3, 0.3, (rows, LAYERS, 2, WIDTH)),
    }
    return tokens, targets, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), state)


def torch_elmo(params, characters, tokens, state, cell_clip=0.4, projection_clip=0.3):
    """The model again, one step at a time in PyTorch: ([token vectors, layer 1, …], logits), all
    (rows, 2, time, …).
    """
    import torch
    from torch.nn import functional

    p = {name: x for name, x in params.items()}

    def linear(x, name):
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    x = p["token_encoder/embedding"][
        torch.tensor(np.asarray(characters)[np.asarray(tokens)], dtype=torch.long)
    ]
    words = x.reshape(-1, *x.shape[-2:]).swapaxes(1, 2)
    pooled = []
    for k in range(len(FILTERS)):
        kernel = p[f"token_encoder/filter_{k}/kernel"].permute(2, 1, 0)
        convolved = functional.conv1d(words, kernel, p[f"token_encoder/filter_{k}/bias"])
        pooled.append(functional.relu(convolved.max(-1).values))
    h = torch.cat(pooled, -1)
    for k in range(2):
        carry = torch.sigmoid(linear(h, f"token_encoder/highway_{k}_carry"))
        h = (
            carry * functional.relu(linear(h, f"token_encoder/highway_{k}_transform"))
            + (1 - carry) * h
        )
    outputs = [linear(h, "token_encoder/projection").reshape(*tokens.shape, -1)]
    for layer in range(LAYERS):
        directions = []
        for d in range(2):
            inward, recurrent, outward, bias = (
                p[f"layer_{layer}/{name}"][d]
                for name in ("input/kernel", "state/kernel", "projection/kernel", "bias")
            )
            c, h = (
                torch.tensor(np.asarray(state[name]))[:, layer, d] for name in ("cell", "hidden")
            )
            steps = []
            for t in range(tokens.shape[-1]):
                x = outputs[-1][:, d, t]
                i, f, g, o = (x @ inward[:, k] + h @ recurrent[:, k] + bias[k] for k in range(4))
                c = (torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)).clamp(
                    -cell_clip, cell_clip
                )
                h = ((torch.sigmoid(o) * torch.tanh(c)) @ outward).clamp(
                    -projection_clip, projection_clip
                )
                steps.append(h + x if layer else h)
            directions.append(torch.stack(steps, 1))
        outputs.append(torch.stack(directions, 1))
    return outputs, linear(outputs[-1], "softmax")


@pytest.mark.torch
def test_equals_torch_with_every_gradient():
    torch = pytest.importorskip("torch", reason="the restatement needs PyTorch")
    model = make()
    params, (tokens, targets, state) = make_params(model), make_batch()

    @jax.jit
    def loss(params):
        outputs, after = model.apply({"params": params}, tokens, state, method="read")
        logits = model.apply(
            {"params": params}, outputs[-1], method=lambda model, x: model.softmax(x)
        )
        true = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)
        return -true.mean(), (outputs, logits, after)

    (value, (outputs, logits, after)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    flat = {
        name: torch.tensor(np.asarray(x), requires_grad=True)
        for name, x in traverse_util.flatten_dict(params, sep="/").items()
    }
    their_outputs, their_logits = torch_elmo(flat, model.characters, tokens, state)
    their_loss = torch.nn.functional.cross_entropy(
        their_logits.reshape(-1, len(TOKENS)),
        torch.tensor(np.asarray(targets), dtype=torch.long).reshape(-1),
    )
    their_loss.backward()
    close = {"rtol": 1e-4, "atol": 1e-6}
    for ours, theirs in zip([*outputs, logits], [*their_outputs, their_logits], strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), **close)
    np.testing.assert_allclose(value, their_loss.item(), **close)
    hit = np.abs(np.asarray(after["cell"])) == np.float32(0.4)
    assert 0.05 < hit.mean() < 0.95  # both sides of the clip are tested
    for name, gradient in traverse_util.flatten_dict(gradients, sep="/").items():
        theirs = flat[name].grad.numpy()
        assert np.abs(theirs).max() > 0, name
        np.testing.assert_allclose(
            gradient, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max(), err_msg=name
        )


def test_table_is_the_direct_computation():
    """The character CNN on the vocabulary, looked up, equals the CNN on every token of the text."""
    model, (tokens, _, state) = make(), make_batch()
    params = make_params(model)
    vectors = jax.jit(lambda p: model.apply({"params": p}, tokens, state, method="read")[0][0])(
        params
    )
    spelled = jnp.asarray(model.characters)[tokens.reshape(-1)]
    direct = jax.jit(elmo.TokenEncoder(**model.encoder).apply)(
        {"params": params["token_encoder"]}, spelled
    )
    np.testing.assert_allclose(vectors.reshape(-1, WIDTH), direct, rtol=1e-5, atol=1e-6)


def test_three_characters_and_the_widest_filter_are_enough():
    encoder = elmo.TokenEncoder(**make().encoder)
    params = {"params": make_params(make())["token_encoder"]}
    words = [i for i, name in enumerate(TOKENS) if len(name) == 1 or name in ("<bos>", "<eos>")]
    spelled = {
        width: jnp.asarray(elmo.character_table(TOKENS, len(TOKENS), width)[words])
        for width in (50, 6, 5)
    }
    whole, enough, short = (jax.jit(encoder.apply)(params, spelled[width]) for width in (50, 6, 5))
    np.testing.assert_array_equal(enough, whole)
    assert (short != whole).any()


def test_spelling():
    table = elmo.character_table(TOKENS, len(TOKENS) + 1, 6)
    expected = {
        "A": [258, 65, 259, 260, 260, 260],
        "<bos>": [258, 256, 259, 260, 260, 260],
        "<eos>": [258, 257, 259, 260, 260, 260],
        "<mask>": [258, *b"<mas", 259],
    }
    for name, word in expected.items():
        assert table[TOKENS.index(name)].tolist() == word
    assert table[-1].tolist() == [258, 259, 260, 260, 260, 260]
    assert elmo.character_table(vocabulary("bytes").tokens, 256, 4).max() < elmo.CHARACTERS


def test_state_carries_a_long_text_and_padding_changes_nothing():
    model, (tokens, _, state) = make(), make_batch(time=6)
    params = {"params": make_params(model)}
    read = jax.jit(lambda tokens, state, lengths: model.apply(params, tokens, state, None, lengths))
    everything = jnp.full(ROWS, 6)
    whole, end = read(tokens, state, everything)
    lengths, rest = jnp.array([4, 1, 0]), jnp.array([2, 5, 6])
    random = jnp.asarray(np.random.default_rng(5).integers(7, 27, tokens.shape))
    place = jnp.arange(6)
    first, middle = read(jnp.where(place < lengths[:, None, None], tokens, random), state, lengths)
    moved = jnp.take_along_axis(tokens, (place + lengths[:, None, None]) % 6, 2)
    second, last = read(jnp.where(place < rest[:, None, None], moved, random), middle, rest)
    for row in range(ROWS):
        parts = [first[row, :, : lengths[row]], second[row, :, : rest[row]]]
        np.testing.assert_allclose(jnp.concatenate(parts, 1), whole[row], rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), last, end)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[2], b[2]), middle, state
    )  # a row without tokens keeps its state


def test_both_ways():
    tokens = jnp.array([[1, 2, 3, 0], [4, 5, 6, 7]])
    expected = [[[1, 2, 3, 0], [3, 2, 1, 0]], [[4, 5, 6, 7], [7, 6, 5, 4]]]
    np.testing.assert_array_equal(elmo.both_ways(tokens, jnp.array([3, 4])), expected)


def test_directions_are_independent_and_batched_they_are_the_same(monkeypatch):
    model, (tokens, _, state) = make(num_layers=1), make_batch()
    params = {"params": make_params(model)}

    def make_run():
        def losses(p, tokens):
            each = jnp.square(model.apply(p, tokens, state)[0]).mean((0, 2, 3))
            return each, each

        return jax.jit(jax.jacrev(losses, has_aux=True))

    run = make_run()
    gradients, losses = run(params, tokens)
    layer = gradients["params"]["layer_0"]["state"][
        "kernel"
    ]  # of (forward, backward) losses by (forward, backward) kernels
    assert (
        not layer[0, 1].any() and not layer[1, 0].any() and layer[0, 0].any() and layer[1, 1].any()
    )
    changed = run(params, tokens.at[:, 1].set(9))[1]
    assert changed[0] == losses[0] and changed[1] != losses[1]
    # there one scan runs both, and products keep their axes
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    again, losses_again = make_run()(params, tokens)
    np.testing.assert_allclose(losses_again, losses, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), again, gradients
    )


def test_bfloat16_stays_close():
    model, (tokens, _, state) = make(), make_batch()
    params = {"params": make_params(model)}
    logits, _ = jax.jit(model.apply)(params, tokens, state)
    half, after = jax.jit(make(dtype=jnp.bfloat16).apply)(params, tokens, state)
    assert half.dtype == after["cell"].dtype == after["hidden"].dtype == jnp.float32
    assert 0 < np.abs(half - logits).max() < 0.05 * np.abs(logits).max()


def test_clipping():
    random = np.random.default_rng(0)
    inputs, kernel, projection = (
        jnp.asarray(random.standard_normal(shape), jnp.float32)
        for shape in ((5, 2, 4, CELL), (WIDTH, 4, CELL), (CELL, WIDTH))
    )
    start = jnp.zeros((2, CELL)), jnp.zeros((2, WIDTH))
    run = jax.jit(lstm.recurrence, static_argnums=(5, 6))
    (free, free_cell), (wide, _), (tight, tight_cell) = (
        run(inputs, kernel, projection, *start, *clip)
        for clip in ((0.0, 0.0), (50.0, 50.0), (0.2, 0.1))
    )
    np.testing.assert_allclose(free, wide, rtol=1e-5)
    assert np.abs(free).max() > 0.1 and np.abs(free_cell).max() > 0.2
    assert np.abs(tight).max() == np.float32(0.1) and np.abs(tight_cell).max() == np.float32(0.2)


def test_dropout_depends_on_key_and_row_alone():
    model, (tokens, _, state) = make(dropout=0.3), make_batch()
    params, row = {"params": make_params(model)}, jnp.array([5, 2, 9])
    keys = draws.row_keys(jax.random.key(0), row)
    run = jax.jit(model.apply)
    logits, _ = run(params, tokens, state, keys)
    order = jnp.array([1, 2, 0])
    moved, _ = run(params, tokens[order], jax.tree.map(lambda x: x[order], state), keys[order])
    np.testing.assert_allclose(moved, logits[order], rtol=1e-4, atol=1e-5)
    other, _ = run(params, tokens, state, draws.row_keys(jax.random.key(1), row))
    assert np.abs(other - logits).max() > 0.1
