"""XLNet against Hugging Face's, value for value and gradient for gradient; and what must not change
anything.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax import config
from phenomjax.convert import xlnet as converter
from phenomjax.models import vit, xlnet
from phenomjax.models.relative_attention import relative_shift
from phenomjax.models.two_stream import windows

VOCAB, ROWS, SEQ = 32, 2, 10
FIRST_LOGIT = 1.484004  # of test_dropout_and_memory_belong_to_the_row


def tiny(**changes):
    model = config.base("permutation_lm").model
    model.vocab_size, model.embed_dim, model.num_layers, model.num_heads, model.head_dim = (
        VOCAB,
        12,
        2,
        2,
        6,
    )
    model.mlp_dim, model.mem_len, model.reuse_len, model.dropout, model.attention_dropout = (
        20,
        7,
        5,
        0.0,
        0.0,
    )
    model.update(changes)
    return model


def random_params(model):
    """Random everything, biases and norms too, so that a term left out shows; all large enough to
    matter.
    """
    shapes = converter.abstract_params(model)
    leaves, tree = jax.tree.flatten(shapes)
    generator = np.random.default_rng(0)
    values = [jnp.asarray(generator.normal(0, 0.3, leaf.shape), jnp.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, values)


@functools.cache
def inputs():
    generator = np.random.default_rng(1)
    # Three targets a row in a random order, a token among them that is neither predicted nor seen
    # by all; the rest is.
    places = np.stack([generator.permutation(SEQ)[:4] for _ in range(ROWS)])
    rank, targets = np.zeros((ROWS, SEQ), int), np.sort(places[:, [0, 1, 3]])
    np.put_along_axis(rank, places, np.arange(1, 5)[None], 1)
    segment = np.repeat([[0, 1, 2]], ROWS, 0).repeat([5, 4, 1], axis=1)
    tokens = generator.integers(7, VOCAB, (3, ROWS, SEQ))
    return tuple(jnp.asarray(x, jnp.int32) for x in (tokens, segment, rank, targets))


def reference(model, params, **options):
    """Hugging Face's model with these parameters, in evaluation mode."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    settings = transformers.XLNetConfig(
        vocab_size=VOCAB,
        d_model=model.embed_dim,
        n_layer=model.num_layers,
        n_head=model.num_heads,
        d_inner=model.mlp_dim,
        attn_type=model.attention_type,
        mem_len=model.mem_len,
        reuse_len=model.reuse_len,
        clamp_len=model.clamp_len or -1,
        same_length=model.same_length,
        bi_data=model.bi_data,
        dropout=0.0,
        layer_norm_eps=1e-12,
        **options,
    )
    hf = transformers.XLNetLMHeadModel(settings).eval()
    state = converter.to_state_dict(params, model)
    hf.load_state_dict({name: torch.tensor(value) for name, value in state.items()}, strict=True)
    return torch, hf


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1).mean()


@pytest.mark.torch
@pytest.mark.parametrize(
    "changes",
    [
        {"attention_type": "bi", "bi_data": True, "clamp_len": 6},
        {"attention_type": "bi", "bi_data": False, "gelu": "tanh"},
        {"attention_type": "uni", "bi_data": False, "reuse_len": 0, "same_length": True},
    ],
)
def test_agrees_with_hugging_face(changes):
    model = tiny(**changes)
    params = random_params(model)
    activation = {"exact": "gelu", "tanh": "gelu_new"}[model.gelu]
    torch, hf = reference(model, params, use_mems_eval=True, ff_activation=activation)
    tokens, segment, rank, targets = inputs()
    module = xlnet.build(model, jnp.float32)
    reverse = jnp.array([False, True]) if model.bi_data else None
    tensor = lambda x: torch.tensor(np.array(x, np.int64))  # noqa: E731

    # Hugging Face's "uni" takes no permutation of more than one row.
    sees = None if model.attention_type == "uni" else xlnet.permutation_mask(rank, targets)
    mask = None if sees is None else torch.tensor(1.0 - np.array(sees, np.float32))

    @jax.jit
    def value_and_grad(params, tokens, memory):
        def loss(params):
            logits, following = module.apply(
                {"params": params}, tokens, segment, sees, targets, memory, reverse
            )
            return cross_entropy(logits, jnp.take_along_axis(tokens, targets, 1)), (
                logits,
                following,
            )

        return jax.value_and_grad(loss, has_aux=True)(params)

    memory, mems = xlnet.first_memory(model, ROWS, jnp.float32), None
    mapping = np.eye(SEQ, dtype=np.float32)[np.array(targets)]
    for step in range(3):
        (loss, (logits, following)), grads = value_and_grad(params, tokens[step], memory)
        hf.zero_grad()
        out = hf(
            tensor(tokens[step]),
            mems=mems,
            perm_mask=mask,
            target_mapping=torch.tensor(mapping),
            token_type_ids=tensor(segment),
            labels=tensor(jnp.take_along_axis(tokens[step], targets, 1)),
            use_mems=True,
        )
        out.loss.backward()
        # there a query without memory sees itself alone, whatever mem_len is
        if model.same_length and step == 0:
            mems = [
                torch.tensor(np.array(layer)).swapaxes(0, 1)
                for layer in following["memory"].swapaxes(0, 1)
            ]
            memory = following
            continue
        np.testing.assert_allclose(logits, out.logits.detach(), rtol=1e-4, atol=1e-5)
        assert float(loss) == pytest.approx(out.loss.item(), rel=1e-5)
        theirs = {name: p.grad.numpy() for name, p in hf.named_parameters() if p.grad is not None}
        ours = converter.to_state_dict(grads, model)
        assert theirs.keys() == ours.keys() - {converter.OUTPUT}  # a tied matrix has one gradient
        for name, value in theirs.items():
            np.testing.assert_allclose(
                ours[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max(), err_msg=name
            )
        memory, mems = following, out.mems
        count = int(memory["valid"][0])
        assert (
            count == mems[0].shape[0] == min((step + 1) * (model.reuse_len or SEQ), model.mem_len)
        )
        for layer, hidden in enumerate(mems):
            np.testing.assert_allclose(
                memory["memory"][:, layer, -count:], hidden.swapaxes(0, 1), rtol=1e-4, atol=1e-5
            )


@pytest.mark.torch
def test_features_of_padded_proteins_agree_with_hugging_face():
    model = tiny(bi_data=False)
    params = random_params(model)
    torch, hf = reference(model, params)
    tokens = inputs()[0][0]
    valid = np.arange(SEQ) >= np.array([[0], [4]])
    sees = jnp.broadcast_to(valid[:, None], (ROWS, SEQ, SEQ))
    features, memory = jax.jit(xlnet.build(model, jnp.float32).apply)(
        {"params": params}, tokens, None, sees
    )
    assert memory is None
    expected = hf.transformer(
        torch.tensor(np.array(tokens, np.int64)),
        attention_mask=torch.tensor(valid.astype(np.float32)),
    )[0]
    np.testing.assert_allclose(
        np.where(valid[..., None], features, 0),
        np.where(valid[..., None], expected.detach(), 0),
        rtol=1e-4,
        atol=1e-5,
    )


def run(params, **changes):
    """Loss, gradients (unstacked layers) and memory of one step with a memory."""
    tokens, segment, rank, targets = inputs()
    module = xlnet.build(tiny(**changes), jnp.float32)
    generator = np.random.default_rng(5)
    hidden = jnp.asarray(generator.normal(size=(ROWS, 2, 7, 12)), jnp.float32)
    memory = {"memory": hidden, "valid": jnp.array([0, 4], jnp.int32)}

    @jax.jit
    def value_and_grad(params):
        def loss(params):
            sees = xlnet.permutation_mask(rank, targets)
            reverse = jnp.array([True, False])
            logits, following = module.apply(
                {"params": params}, tokens[0], segment, sees, targets, memory, reverse
            )
            return cross_entropy(logits, jnp.take_along_axis(tokens[0], targets, 1)), following

        return jax.value_and_grad(loss, has_aux=True)(params)

    if changes.get("scan_layers"):
        params = vit.stack_layers(params)
    (loss, following), grads = value_and_grad(params)
    return loss, vit.unstack_layers(grads), following


def test_scan_and_remat_change_nothing():
    params = random_params(tiny())
    plain, other = run(params), run(params, scan_layers=True, remat="dots")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), plain, other)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_dropout_and_memory_belong_to_the_row(scan_layers):
    model = tiny(dropout=0.3, attention_dropout=0.3, scan_layers=scan_layers, num_layers=1)
    params, module = random_params(model), xlnet.build(model, jnp.float32)
    params = vit.stack_layers(params) if scan_layers else params
    tokens, segment, rank, targets = inputs()
    hidden, reverse = jnp.ones((ROWS, 1, 7, 12)), jnp.array([False, True])

    @jax.jit
    def logits(tokens, segment, rank, targets, hidden, valid, reverse, row):
        sees, memory = xlnet.permutation_mask(rank, targets), {"memory": hidden, "valid": valid}
        key = jax.random.key(1)
        return module.apply(
            {"params": params}, tokens, segment, sees, targets, memory, reverse, key, row
        )[0]

    def call(order, hidden=hidden):
        arrays = (
            tokens[0],
            segment,
            rank,
            targets,
            hidden,
            jnp.array([0, 3]),
            reverse,
            jnp.arange(ROWS),
        )
        return logits(*(x[jnp.array(order)] for x in arrays))

    both = call([0, 1])
    np.testing.assert_allclose(call([1, 0])[::-1], both, rtol=1e-5, atol=1e-6)
    # What the memory of a fresh row holds is not seen; that of the other row is.
    changed = call([0, 1], hidden * 5.0)
    np.testing.assert_array_equal(changed[0], both[0])
    assert np.abs(changed[1] - both[1]).max() > 1e-3
    # The same draws, scanned or not.
    assert float(both[0, 0, 0]) == pytest.approx(FIRST_LOGIT, rel=1e-4)


def test_no_target_sees_itself_or_what_comes_later():
    model = tiny(bi_data=False)
    params, module = random_params(model), xlnet.build(model, jnp.float32)
    tokens, segment, rank, targets = inputs()
    sees = xlnet.permutation_mask(rank, targets)
    call = jax.jit(
        lambda tokens: module.apply({"params": params}, tokens, segment, sees, targets)[0]
    )
    before, rank, targets = call(tokens[0]), np.array(rank), np.array(targets)
    for row in range(ROWS):
        for number, place in enumerate(targets[row]):
            other = np.array(tokens[0])
            other[row, place] = (other[row, place] + 3) % VOCAB
            moved = np.abs(call(other) - before).max(-1)
            later = rank[row][targets[row]] > rank[row][place]
            assert moved[row, number] == 0
            assert (moved[row][~later] == 0).all() and (moved[row][later] > 0).all()


def test_windows_are_the_shift_seen_from_any_place():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 11))  # 7 keys, 5 queries
    weight = jax.random.normal(jax.random.key(1), (2, 3, 5, 7))
    start = 4 - jnp.broadcast_to(jnp.arange(5), (2, 5))
    shifted, to_shift = jax.vjp(lambda x: relative_shift(x)[..., :7], x)
    taken, to_window = jax.vjp(lambda x: windows(x, start, 7), x)
    np.testing.assert_array_equal(shifted, taken)
    np.testing.assert_array_equal(to_shift(weight)[0], to_window(weight)[0])
