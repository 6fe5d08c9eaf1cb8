"""ELMo against a restatement in PyTorch (outputs, loss, every gradient), and the rules its authors left in code only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from phenomjax.data.vocabulary import vocabulary
from phenomjax.models import elmo

TOKENS = vocabulary("protein").tokens
ROWS, TIME, CELL, WIDTH, LAYERS = 3, 7, 6, 4, 3
FILTERS = ((1, 4), (2, 4), (3, 6))


def make(**changes):
    options = {
        "characters": elmo.character_table(TOKENS, len(TOKENS), 6), "num_layers": LAYERS, "cell_dim": CELL, "cell_clip": 0.4,
        "projection_clip": 0.3, "skip_connections": True, "dropout": 0.0, "dtype": jnp.float32,
        "encoder": {"char_dim": 5, "filters": FILTERS, "num_highway": 2, "projection_dim": WIDTH},
    }  # fmt: skip
    options |= changes
    options["characters"] = tuple(map(tuple, options["characters"].tolist()))
    return elmo.ELMo(**options)


def make_params(model, scale=0.5):
    zeros = jnp.zeros((1, 2, 1), jnp.int32)
    state = elmo.initial_state(1, LAYERS, CELL, WIDTH)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), zeros, state))["params"]
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(scale * random.standard_normal(x.shape), jnp.float32), shapes)


def make_batch(rows=ROWS, time=TIME, seed=1):
    random = np.random.default_rng(seed)
    tokens, targets = jnp.asarray(random.integers(2, len(TOKENS), (2, rows, 2, time)))
    state = {
        "cell": random.uniform(-0.4, 0.4, (rows, LAYERS, 2, CELL)),
        "hidden": random.uniform(-0.3, 0.3, (rows, LAYERS, 2, WIDTH)),
    }
    return tokens, targets, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), state)


def torch_elmo(params, characters, tokens, state, cell_clip=0.4, projection_clip=0.3):
    """The model again, one step at a time in PyTorch: ([token vectors, layer 1, …], logits), all (rows, 2, time, …)."""
    import torch
    from torch.nn import functional

    p = {name: x for name, x in params.items()}

    def linear(x, name):
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    x = p["token_encoder/embedding"][torch.tensor(np.asarray(characters)[np.asarray(tokens)], dtype=torch.long)]
    words = x.reshape(-1, *x.shape[-2:]).swapaxes(1, 2)
    pooled = []
    for k in range(len(FILTERS)):
        kernel = p[f"token_encoder/filter_{k}/kernel"].permute(2, 1, 0)
        convolved = functional.conv1d(words, kernel, p[f"token_encoder/filter_{k}/bias"])
        pooled.append(functional.relu(convolved.max(-1).values))
    h = torch.cat(pooled, -1)
    for k in range(2):
        carry = torch.sigmoid(linear(h, f"token_encoder/highway_{k}_carry"))
        h = carry * functional.relu(linear(h, f"token_encoder/highway_{k}_transform")) + (1 - carry) * h
    outputs = [linear(h, "token_encoder/projection").reshape(*tokens.shape, -1)]
    for layer in range(LAYERS):
        directions = []
        for d in range(2):
            inward, recurrent, outward, bias = (
                p[f"layer_{layer}/{name}"][d] for name in ("input/kernel", "state/kernel", "projection/kernel", "bias")
            )
            c, h = (torch.tensor(np.asarray(state[name]))[:, layer, d] for name in ("cell", "hidden"))
            steps = []
            for t in range(tokens.shape[-1]):
                x = outputs[-1][:, d, t]
                i, f, g, o = (x @ inward[:, k] + h @ recurrent[:, k] + bias[k] for k in range(4))
                c = (torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)).clamp(-cell_clip, cell_clip)
                h = ((torch.sigmoid(o) * torch.tanh(c)) @ outward).clamp(-projection_clip, projection_clip)
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
        logits, _ = model.apply({"params": params}, tokens, state)
        true = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)
        return -true.mean(), (outputs, logits, after)

    (value, (outputs, logits, after)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    flat = {
        name: torch.tensor(np.asarray(x), requires_grad=True)
        for name, x in traverse_util.flatten_dict(params, sep="/").items()
    }
    their_outputs, their_logits = torch_elmo(flat, model.characters, tokens, state)
    their_loss = torch.nn.functional.cross_entropy(
        their_logits.reshape(-1, len(TOKENS)), torch.tensor(np.asarray(targets), dtype=torch.long).reshape(-1)
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
        np.testing.assert_allclose(gradient, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max(), err_msg=name)
