"""muP and Complete-P: rules against the shapes of wider models, rates and first values, errors."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from phenomjax import config, optim, tasks
from phenomjax.checkpoints import loading
from phenomjax.models import parametrisation
from phenomjax.system.errors import UserError
from tests.lab import tiny_language_models
from tests.lab.beginning import begin

BASE = 32  # width


def make_config(task, width=BASE, depth=2, **changes):
    """A model of a family: all widths in proportion, heads of 8."""
    c = config.base(task)
    m = c.model
    m.embed_dim, m.num_heads = width, width // 8
    if task in ("mae", "perturbation"):
        m.depth, m.drop_path, m.patch_size, m.channels = depth, 0.0, 4, ("a", "b")
        c.data.crop_size = 16
    else:
        m.num_layers, m.head_dim, m.mlp_dim, m.mem_len, m.vocab_size = depth, 8, 2 * width, 0, 40
        m.dropout, c.data.segment_len = 0.0, 8
    if task == "mae":
        m.decoder_dim, m.decoder_depth, m.decoder_num_heads = width // 2, 1, width // 16
    if task == "perturbation":
        m.backbone, m.classes, m.cell_types = "vit", ("x", "y", "z"), ("HEPG2",)
        m.neck_dim, c.optimizer.name = 24, "adamw"
    o = c.optimizer
    o.schedule, o.learning_rate, o.clip_norm = "constant", 1e-2, 0.0
    c.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return c


def make_batch(c, rows=4):
    """Anything of the shapes."""
    random, row = np.random.default_rng(0), np.arange(rows, dtype=np.int32)
    if c.task in ("mae", "perturbation"):
        pixels = random.integers(0, 256, (rows, 16, 16, 2)).astype(np.uint8)
        channels = np.tile(np.arange(2, dtype=np.int32), (rows, 1))
        batch = {"pixels": pixels, "channels": channels, "row": row, "image": row}
    else:
        tokens = random.integers(0, 11, (rows, 10)).astype(np.uint8)
        batch = {"tokens": tokens, "weight": np.ones((rows, 8), bool), "row": row}
    return jax.tree.map(jnp.asarray, batch)


def fresh(c):
    """{name: first value}."""
    params = nn.unbox(jax.jit(tasks.make(c).init)(jax.random.key(0), make_batch(c)))
    return params, flat(params)


def flat(tree):
    return {parametrisation.name_of(path): x for path, x in jax.tree.leaves_with_path(tree)}


ADAPTIVE = {"model__cutoffs": (10, 20), "model__div_val": 2}
FIXED_DECODER = {"dim": 64, "num_heads": 4, "base_width": 64}
FIXED_DECODER = {f"model__decoder_{key}": value for key, value in FIXED_DECODER.items()}
FAMILIES = [
    ("mae", {}),
    ("mae", {"model__channel_agnostic": True, "model__scan_layers": True}),
    ("mae", {"model__block": "prenorm", **FIXED_DECODER}),
    ("causal_lm", {}),
    ("causal_lm", ADAPTIVE | {"model__scan_layers": True}),
    ("permutation_lm", {}),
    ("perturbation", {"model__arcface_weight": 0.5}),
    ("perturbation", {"model__neck_dim": 0, "model__cell_type": True}),
]


@pytest.mark.parametrize(("task", "changes"), FAMILIES)
def test_rules_say_what_grows_as_the_shapes_of_a_wider_model_do(task, changes):
    shapes = []
    for width in (4 * BASE, 8 * BASE):
        c = make_config(task, width, model__parametrisation="mup", model__base_width=BASE)
        c.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
        made = tasks.make(c)
        shapes.append(flat(jax.eval_shape(made.init, jax.random.key(0), make_batch(c))))
    narrow, wide = shapes
    ends = "out", "mlp_out"  # two axes of inputs where they are (heads, kv)
    for name, leaf in narrow.items():
        grown = [b >= 1.9 * a for a, b in zip(leaf.shape, wide[name].shape, strict=True)]
        found = parametrisation.multipliers(name, leaf.shape, c.model)
        if not name.endswith("kernel"):
            assert found == (1.0, 1.0), name
            continue
        lead = ("/layers/" in name) + ("/channel_blocks/" in name)
        split = len(grown) - 1 if name.split("/")[-2] in ends else lead + 1
        root = 8.0**0.5 if "cross_attention/query" in name else 1.0
        tied = "cluster_kernel" in name  # which reads hidden states that are divided
        inputs = any(grown[lead:split]) and not tied
        assert found.rate == pytest.approx((1 / 8 if inputs else 1.0) / root), name
        if "init_std" in c.model:
            outputs = any(grown[split:])
            expected = 8.0 ** (-0.5 if outputs else -1.0) if inputs else 1.0
            assert found.init == pytest.approx(expected), name


@functools.cache
def first_step(task, how, **changes):
    """Config, parameters, loss and gradients of a model that is its own base; for any optimizer."""
    base = {"model__base_width": BASE} if how == "complete_p" else {}
    c = make_config(task, model__parametrisation=how, **base, **changes)
    made, batch = tasks.make(c), make_batch(c)
    params, _ = fresh(c)
    step = jax.value_and_grad(lambda p: made.loss(p, batch, jax.random.key(1), ())[0])
    return c, params, *jax.jit(step)(params)


@pytest.mark.parametrize(("task", "changes"), [("mae", {}), ("causal_lm", {"model__norm": "pre"})])
@pytest.mark.parametrize("optimizer", ["lion", "adamw", "adam"])
def test_a_model_that_is_its_own_base_is_the_standard_one_bit_for_bit(task, changes, optimizer):
    ends = []
    for how in ("standard", "complete_p"):
        c, params, loss, grads = first_step(task, how, **changes)
        c.optimizer.name = optimizer
        tx = optim.make(c)
        updates, state = tx.update(grads, tx.init(params), params)
        ends.append((loss, updates, state))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    # and the state is optax's own, so that older checkpoints fit
    published = {
        "lion": optax.lion(lambda step: 0.1, mask=optim.decay_mask),
        "adamw": optax.adamw(lambda step: 0.1, mask=optim.decay_mask),
        "adam": optax.adam(lambda step: 0.1),
    }[optimizer]
    theirs = jax.tree.structure((published.init(params),))
    assert jax.tree.structure(ends[0][2]) == theirs


def test_first_values_have_the_spread_of_the_base_and_wider_ones_less():
    made = {
        width: fresh(
            make_config("mae", width, model__parametrisation="mup", model__base_width=BASE)
        )[1]
        for width in (BASE, 8 * BASE)
    }
    for name, power in (
        ("encoder/patch_embed/kernel", 0.0),
        ("encoder/blocks/layer_0/mlp/in/kernel", -0.5),
        ("decoder/embed/kernel", -0.5),
        ("decoder/predict/kernel", -1.0),
        ("decoder/mask_token", 0.0),
    ):
        narrow, wide = (float(made[width][name].std()) for width in (BASE, 8 * BASE))
        assert wide / narrow == pytest.approx(8.0**power, rel=0.3), name


def test_rates_and_decay_of_a_wider_and_deeper_model():
    how = {"model__parametrisation": "complete_p", "model__base_width": BASE}
    how |= {"model__base_depth": 1, "optimizer__name": "adamw", "model__decoder_base_depth": 1}
    c = make_config("mae", 4 * BASE, model__layer_scale=0.1, optimizer__weight_decay=0.5, **how)
    params, names = fresh(c)
    tx = optim.make(c)
    grads = jax.tree.map(jnp.ones_like, params)
    update = jax.jit(lambda params: tx.update(grads, tx.init(params), params)[0])
    rates = flat(update(jax.tree.map(jnp.zeros_like, params)))
    decayed = flat(update(grads))
    for name, share in (
        ("encoder/patch_embed/kernel", 1.0),
        ("encoder/blocks/layer_1/attention/out/kernel", 1 / 4),
        ("encoder/blocks/layer_1/scale/gamma", 1 / 2),
        ("decoder/blocks/layer_0/mlp/out/kernel", 1 / 4),
        ("decoder/predict/kernel", 1 / 4),
        ("norm/scale", 1.0),
    ):
        np.testing.assert_allclose(rates[name], -0.01 * share, rtol=1e-4, err_msg=name)
        if name.endswith("kernel"):  # the decay is that of the base
            np.testing.assert_allclose(
                decayed[name] - rates[name], -0.01 * 0.5, rtol=1e-4, err_msg=name
            )
    np.testing.assert_allclose(names["encoder/blocks/layer_0/scale/gamma"], 0.05, rtol=1e-6)


def activations(c, steps=4):
    """{what: root mean square} of what layers and outputs are after a few steps of Adam."""
    c.optimizer.name, batch = "adam", make_batch(c)
    task, tx = tasks.make(c), optim.make(c)

    def outputs(params):
        if c.task == "mae":
            noise = task.evaluation_noise(batch)
            out = {"output": task.predict(params, batch, noise, None, True).prediction}
            found = task.embed(params, batch, blocks=(1,))[0].swapaxes(0, 1)
        else:
            logits, hidden, inputs, _ = task.read(params, batch["tokens"][:, 1:-1], ())
            out, found = {"output": logits}, [*inputs.swapaxes(0, 1), hidden]
        return out | {f"layer {number}": x for number, x in enumerate(found)}

    def step(state, _):
        params, opt_state = state
        grads = jax.grad(lambda p: task.loss(p, batch, jax.random.key(1), ())[0])(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def run():
        params = nn.unbox(task.init(jax.random.key(0), batch))
        (after, _), _ = jax.lax.scan(step, (params, tx.init(params)), None, length=steps)
        found = outputs(after)
        return {name: jnp.sqrt(jnp.square(x).mean()) for name, x in found.items()}

    return {name: float(x) for name, x in run().items()}


@pytest.mark.parametrize(
    ("task", "changes"), [("mae", {"model__layer_scale": 0.1}), ("causal_lm", {})]
)
def test_coordinates_from_width_64_to_1024_do_not_drift(task, changes):
    """The coordinate check of Yang et al. 2022, appendix D.1, of one layer (and decoder) each."""
    how = {"model__parametrisation": "mup", "model__base_width": 64}

    def check(width, **how):
        mlp = {"mlp_ratio": 1.0} if task == "mae" else {"mlp_dim": width}
        mlp = {f"model__{key}": value for key, value in mlp.items()}
        return activations(make_config(task, width, depth=1, **changes, **mlp, **how))

    narrow, wide = (check(width, **how) for width in (64, 1024))
    standard = check(1024)
    for name, value in narrow.items():
        least = 0.3 if name == "output" else 0.6  # outputs begin the smaller the wider
        assert least < wide[name] / value < 1.4, name
    assert standard["output"] > 5 * wide["output"]


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("mae", {"parametrisation": "muP"}, "Did you mean 'mup'"),
        ("mae", {"base_width": 32}, "base_width is 32, which .* 'standard' does not read"),
        ("mae", {"parametrisation": "mup", "decoder_base_depth": 2}, "'mup' does not read"),
        ("causal_lm", {"base_width": -1}, "it must be at least 0. 0 = its own"),
        ("causal_lm", {"parametrisation": "complete_p"}, "they come behind the residual"),
        ("permutation_lm", {"parametrisation": "complete_p"}, "they come behind the residual"),
        ("perturbation", {"parametrisation": "mup"}, "model.backbone is 'densenet'"),
        ("perturbation", {"parametrisation": "mup", "backbone": "vit"}, "are for lion, adamw"),
    ],
)
def test_what_cannot_be_is_said_with_mends_that_work(task, changes, message):
    c = config.base(task)
    c.data.simulate["plates" if task in ("mae", "perturbation") else "families"] = 2
    c.optimizer.name = "lamb" if "backbone" in changes else "adamw"
    c.model.update(changes)
    with pytest.raises(UserError, match=message) as caught:
        config.finalize(c)
    offered = re.findall(r"--config\.([\w.]+)=(\w+)", str(caught.value))
    for key, value in offered or [("model.parametrisation", "mup")]:
        mended = c.copy_and_resolve_references()
        mended.update_from_flattened_dict({key: int(value) if value.isdigit() else value})
        config.finalize(mended)


def test_a_kernel_without_a_rule_is_an_error():
    model = make_config("mae", model__parametrisation="mup", model__base_width=8).model
    with pytest.raises(UserError, match="odd/kernel matches 0 of its rules"):
        parametrisation.multipliers("odd/kernel", (4, 4), model)


def test_parameters_of_a_wider_model_start_no_other_one(tmp_path):
    how = {"model__parametrisation": "mup", "model__base_width": 4}
    folder = tiny_language_models.write(tmp_path / "run", "causal_lm", **how)
    other = tiny_language_models.make_config("causal_lm")
    with pytest.raises(UserError, match="the logits of the same parameters") as caught:
        begin(folder, other)
    offered = re.findall(r"--config\.([\w.]+)=(\w+)", str(caught.value))
    other.update_from_flattened_dict(
        {key: int(value) if value.isdigit() else value for key, value in offered}
    )
    assert parametrisation.scales(other.model) == 0.25
    params, _, _ = begin(folder, other)
    jax.tree.map(np.testing.assert_array_equal, params, loading.load(folder)[1])
