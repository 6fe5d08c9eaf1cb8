"""Transformer-XL against Hugging Face's module: log-probabilities over segments with memory, loss,
every gradient, round trips.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from phenomjax import config
from phenomjax.convert import transformer_xl as layout
from phenomjax.models import transformer_xl
from phenomjax.models.transformer_xl import remember
from phenomjax.system.errors import UserError

CASES = {
    "plain": {},
    "same_length": {"same_length": "kimiyoung", "clamp_len": 5, "untie_bias": True},
    "pre_norm": {"norm": "pre"},
    "adaptive": {"cutoffs": (6, 11), "div_val": 2, "untie_bias": True},
    "clusters": {"cutoffs": (6, 11)},
}
MEMORY = 7


def make_model(**changes):
    model = config.base("causal_lm").model
    (
        model.vocab_size,
        model.embed_dim,
        model.num_layers,
        model.num_heads,
        model.head_dim,
        model.mlp_dim,
    ) = (
        16,
        24,
        2,
        3,
        8,
        20,
    )
    model.mem_len, model.dropout = MEMORY, 0.0
    model.update(changes)
    return model


def random_params(model, seed=0):
    shapes = traverse_util.flatten_dict(layout.abstract_params(model), sep="/")
    rng = np.random.default_rng(seed)
    draws = {
        p: jnp.asarray(rng.normal(0, 0.3, x.shape) + p.endswith("scale"), jnp.float32)
        for p, x in shapes.items()
    }
    return traverse_util.unflatten_dict(draws, sep="/")


@pytest.mark.parametrize("their_layout", layout.LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_round_trip_is_exact(case, their_layout):
    model = make_model(**CASES[case])
    params = random_params(model)
    state = layout.to_state_dict(params, model, their_layout)
    assert layout.layout_of(state) == their_layout
    found = layout.infer_model(state, cutoffs=model.cutoffs)
    assert {key: found[key] for key in layout.INFERRED} == {
        key: model[key] for key in layout.INFERRED
    }
    back = layout.from_state_dict(state, found)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    model.scan_layers = True
    stacked = layout.from_state_dict(state, model)
    again = layout.to_state_dict(stacked, model, their_layout)
    assert again.keys() == state.keys() and all(
        np.array_equal(again[name], state[name]) for name in state
    )


def test_clusters_are_reversed_in_the_original_layout():
    model = make_model(**CASES["clusters"])
    params = random_params(model)
    first, second = (
        layout.to_state_dict(params, model, name)["crit.cluster_weight"] for name in layout.LAYOUTS
    )
    np.testing.assert_array_equal(first, second[::-1])


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_hugging_face(case):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    transformers = pytest.importorskip(
        "transformers", reason="compares with Hugging Face's module, which is not installed"
    )
    model = make_model(**CASES[case])
    theirs = transformers.TransfoXLLMHeadModel(
        transformers.TransfoXLConfig(
            vocab_size=16,
            cutoffs=list(model.cutoffs),
            d_model=24,
            d_embed=24,
            n_head=3,
            d_head=8,
            d_inner=20,
            div_val=model.div_val,
            pre_lnorm=model.norm == "pre",
            n_layer=2,
            mem_len=MEMORY,
            clamp_len=model.clamp_len or -1,
            same_length=model.same_length != "none",
            untie_r=model.untie_bias,
            dropout=0.0,
            dropatt=0.0,
        )
    )
    params = random_params(model)
    state = layout.to_state_dict(params, model)
    missing, unexpected = theirs.load_state_dict(
        {name: torch.tensor(x) for name, x in state.items()}, strict=False
    )
    assert not missing and not unexpected

    tokens = np.random.default_rng(1).integers(0, 16, (2, 15))
    segments = [tokens[:, :5], tokens[:, 5:9], tokens[:, 9:]]  # the memory fills, and overflows
    mems, logs = None, []
    for segment in segments:
        out = theirs(torch.tensor(segment), mems=mems)
        mems, logs = out.mems, [*logs, out.prediction_scores]
    # They mean over the labels but the first; the mean of all segments' losses has a gradient
    # through the last segment alone.
    loss = -logs[-1][:, :-1].gather(2, torch.tensor(segments[-1][:, 1:, None])).mean()
    loss.backward()

    module = transformer_xl.build(model, jnp.float32, MEMORY)

    def run(params):
        memory, valid = (
            jnp.zeros((2, 2, MEMORY, 24)),
            jnp.full(2, MEMORY),
        )  # they attend to zeros where the memory is empty
        found = []
        for segment in segments:
            logits, _, inputs = module.apply(
                {"params": params}, jnp.asarray(segment), memory, valid
            )
            memory, valid = remember(memory, valid, inputs)
            found.append(jax.nn.log_softmax(logits, -1))
        return -jnp.take_along_axis(found[-1][:, :-1], segments[-1][:, 1:, None], 2).mean(), (
            found,
            memory,
        )

    (ours, (found, memory)), gradients = jax.jit(jax.value_and_grad(run, has_aux=True))(params)
    for mine, reference in zip(found, logs, strict=True):
        np.testing.assert_allclose(
            mine, reference.detach().numpy().reshape(mine.shape), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(ours, loss.item(), rtol=1e-5)
    for layer in range(2):
        np.testing.assert_allclose(
            memory[:, layer], mems[layer].transpose(0, 1).numpy(), rtol=1e-4, atol=1e-5
        )
    ours = layout.to_state_dict(gradients, model)
    reference = {
        name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None
    }
    assert len(reference) >= len(layout._entries(model, "huggingface")[0])
    for name, gradient in reference.items():
        np.testing.assert_allclose(
            ours[name], gradient, rtol=1e-4, atol=1e-4 * np.abs(gradient).max(), err_msg=name
        )


def test_errors():
    model = make_model()
    state = layout.to_state_dict(random_params(model), model)
    with pytest.raises(UserError, match=r"transformer.layers.1.pos_ff.CoreNet.0.bias is missing"):
        layout.from_state_dict(
            {n: x for n, x in state.items() if "1.pos_ff.CoreNet.0.bias" not in n}, model
        )
    with pytest.raises(
        UserError,
        match=(
            r"r_net.weight has the shape \(24, 24\), the model has blocks/layer_0/position/kernel"
            r" \(24, 3, 4\)"
        ),
    ):
        layout.from_state_dict(state, make_model(head_dim=4))
    with pytest.raises(
        UserError,
        match=(
            r"crit.out_layers.0.weight and transformer.word_emb.emb_layers.0.weight should be the"
            r" same"
        ),
    ):
        layout.from_state_dict(
            {**state, "crit.out_layers.0.weight": state["crit.out_layers.0.weight"] + 1}, model
        )
    with pytest.raises(UserError, match=r"This is not a Transformer-XL"):
        layout.infer_model({"bert.weight": np.zeros(1)})
    clusters = make_model(cutoffs=(6, 11))
    with pytest.raises(UserError, match=r"The softmax has 2 clusters, and 0 cutoffs are known"):
        layout.infer_model(layout.to_state_dict(random_params(clusters), clusters))
