"""Frozen parameters and learning rates by layer."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from phenomjax import config, optim, tasks, train
from phenomjax.checkpoints import loading
from phenomjax.cluster import messages
from phenomjax.models import parameter_names, vit
from phenomjax.system.errors import UserError
from tests.training.test_train import equal, lines, make_config, use_devices

FROZEN = {"freeze": ("dense/kernel",), "optimizer__weight_decay": 0.1, "optimizer__ema_decay": 0.3}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A straight run whose kernel is frozen, and its state before the first step."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 1)
        assert train.run(make_config(**FROZEN), folder / "run") == 0
    task = tasks.make(make_config())
    return folder / "run", nn.unbox(task.init(jax.random.key(0), None))


def test_what_is_frozen_stays_as_it_is(frozen):
    (workdir, first), reader = frozen, ocp.StandardCheckpointer()
    for item in ("params", "ema"):
        last = reader.restore(workdir / "checkpoints" / "12" / item)
        np.testing.assert_array_equal(last["dense"]["kernel"], first["dense"]["kernel"])
        assert np.abs(last["dense"]["bias"]).min() > 0
    kept = reader.metadata(workdir / "checkpoints" / "12" / "rest")
    names = [
        jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(kept.item_metadata.tree)
    ]
    assert any("bias" in name for name in names) and not any("kernel" in name for name in names)
    size = json.loads((workdir / "size.json").read_text())
    # of the product of pixels and kernel and the gradient of the kernel the product is left
    assert (size["params"], size["flops_per_step"]) == (first["dense"]["bias"].size, 0.5)


@pytest.mark.parametrize(
    "devices,changes", [(1, {"optimizer__accumulate_steps": 2}), (2, {"mesh__preset": "fsdp"})]
)
def test_frozen_parameters_on_other_devices_and_in_micro_batches(
    frozen, tmp_path, monkeypatch, devices, changes
):
    use_devices(monkeypatch, devices)
    assert train.run(make_config(**FROZEN, **changes), tmp_path) == 0
    mine, other = (loading.load(path)[1]["dense"] for path in (tmp_path, frozen[0]))
    np.testing.assert_array_equal(mine["kernel"], other["kernel"])
    np.testing.assert_allclose(mine["bias"], other["bias"], rtol=1e-4, atol=1e-6)


def test_a_run_with_frozen_parameters_goes_on_bit_for_bit(frozen, tmp_path, monkeypatch):
    use_devices(monkeypatch, 1)
    calls = iter(range(1, 1000))
    monkeypatch.setattr(messages, "stop_requested", lambda: next(calls) == 8)
    assert train.run(make_config(**FROZEN), tmp_path) == 75
    monkeypatch.setattr(messages, "stop_requested", lambda: False)
    assert train.run(make_config(**FROZEN), tmp_path) == 0
    assert lines(tmp_path) == lines(frozen[0])
    equal(loading.load(tmp_path)[1], loading.load(frozen[0])[1])


@pytest.mark.parametrize(
    "patterns,text",
    [
        (("dens/.*",), r"'dens/.*', which describes no parameter. Did you mean 'dense/.*'\?"),
        ((".*",), "describes all 2 parameters: nothing is left to train"),
        (("[",), r"no regular expression .* --config.freeze=\"\('dense/.*',\)\""),
    ],
)
def test_patterns_that_freeze_nothing_or_all(tmp_path, patterns, text):
    with pytest.raises(UserError, match=text):
        train.run(make_config(freeze=patterns), tmp_path)


def test_layers_that_have_no_name_of_their_own():
    names = ["encoder/blocks/layers/norm/scale", "norm/scale"]
    with pytest.raises(UserError, match=r"--config.model.scan_layers=False gives each a name"):
        parameter_names.matching(("encoder/blocks/layer_0/.*",), names, "freeze")


# Rates by layer

MODELS = {
    "mae": {
        "encoder/patch_embed/kernel": 3,
        "encoder/cls_token": 3,
        "encoder/blocks/layer_0/mlp/in/kernel": 2,
        "encoder/blocks/layer_1/norm/scale": 1,
        "norm/scale": 0,
        "decoder/blocks/layer_0/norm1/scale": 0,
    },
    "causal_lm": {
        "vocabulary/bin_0_embedding": 3,
        "blocks/layer_0/out/kernel": 2,
        "blocks/layer_1/mlp_norm/bias": 1,
    },
    "permutation_lm": {"word_embedding/embedding": 3, "blocks/layer_1/mlp_norm/bias": 1},
    "bidirectional_lm": {
        "token_encoder/embedding": 3,
        "layer_0/bias": 2,
        "layer_1/input/kernel": 1,
        "softmax/kernel": 0,
    },
    "perturbation": {
        "backbone/conv0/kernel": 3,
        "backbone/block1_layer2/conv1/kernel": 2,
        "backbone/transition1_conv/kernel": 2,
        "backbone/block2_layer1/norm1/scale": 1,
        "backbone/norm5/scale": 0,
        "head/classifier/kernel": 0,
    },
}


def small(task, **changes):
    c = config.base(task)
    for key in ("depth", "num_layers"):
        if key in c.model:
            c.model[key] = 2
    if task == "perturbation":
        c.model.block_config = (2, 1)
    c.optimizer.layer_decay = 0.5
    c.update_from_flattened_dict({key.replace("__", "."): x for key, x in changes.items()})
    return c


@pytest.mark.parametrize("task", MODELS)
def test_layers_behind_a_parameter(task):
    c = small(task)
    for name, behind in MODELS[task].items():
        assert optim.layer_rate(name, c) == 0.5**behind, name


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_steps_are_smaller_the_nearer_the_input(name):
    rng = np.random.default_rng(0)
    draw = lambda: {"kernel": jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)}  # noqa: E731
    blocks = {"layer_0": {"mlp": draw()}, "layer_1": {"mlp": draw()}}
    params = {"encoder": {"patch_embed": draw(), "blocks": blocks}, "norm": draw()}

    def step(params, layer_decay=0.5):
        how = {"optimizer__name": name, "optimizer__schedule": "constant"}
        tx = optim.make(small("mae", **how, optimizer__layer_decay=layer_decay))
        return tx.update(params, tx.init(params), params)[0]

    mine, plain = step(params), step(params, 1.0)
    for (path, x), y in zip(jax.tree.leaves_with_path(mine), jax.tree.leaves(plain), strict=True):
        rate = optim.layer_rate(parameter_names.name_of(path), small("mae"))
        np.testing.assert_allclose(x, rate * y, rtol=1e-6)
    if name != "lamb":  # it measures a stack as a whole
        equal(vit.stack_layers(mine), step(vit.stack_layers(params)))
