"""The masked-autoencoder task: draws per row, accumulation, evaluation, embeddings, figures, FLOPs,
and its data.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from flax import linen as nn

from phenomjax import optim, sharding
from phenomjax.config import keys
from phenomjax.config import mae as config_mae
from phenomjax.data.images.bank import write_bank
from phenomjax.models import flops, vit
from phenomjax.system.errors import UserError
from phenomjax.tasks.mae import MaskedAutoencoder

SMALL = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "patch_size": 8,
    "decoder_dim": 32,
    "decoder_depth": 1,
    "decoder_num_heads": 4,
    "drop_path": 0.5,
}


def make_config(channels=3, **changes):
    config = keys.base()
    config.model.update(SMALL)
    config.model.channels = tuple(f"c{i}" for i in range(channels))
    config.data.crop_size = 32
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return config


def make_batch(channels=3, rows=4, size=32, first_channel=0):
    pixels = (
        np.random.default_rng(0).integers(0, 256, (rows, size, size, channels)).astype(np.uint8)
    )
    ids = np.tile(np.arange(first_channel, first_channel + channels, dtype=np.int32), (rows, 1))
    rows = np.arange(rows, dtype=np.int32)
    return jax.tree.map(
        jnp.asarray, {"pixels": pixels, "channels": ids, "row": rows, "image": rows}
    )


def start(config, batch):
    task = MaskedAutoencoder(config)
    return task, nn.unbox(jax.jit(task.init)(jax.random.key(0), batch))


@pytest.mark.parametrize("agnostic", [False, True])
def test_a_batch_is_the_mean_of_its_parts(agnostic):
    """Loss and gradient of a batch equal the means over micro-batches: masks and drop path belong
    to the row.
    """
    batch = make_batch()
    task, params = start(make_config(model__channel_agnostic=agnostic), batch)
    value = jax.jit(jax.value_and_grad(lambda p, b: task.loss(p, b, jax.random.key(5), ())[0]))
    whole, gradient = value(params, batch)
    parts = [
        value(params, {name: x[part] for name, x in batch.items()})
        for part in (slice(0, 2), slice(2, 4))
    ]
    np.testing.assert_allclose((parts[0][0] + parts[1][0]) / 2, whole, rtol=1e-6)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, parts[0][1], parts[1][1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), mean, gradient
    )


@pytest.mark.parametrize("agnostic", [False, True])
def test_scanned_and_rematerialised_models_have_the_unrolled_loss(agnostic):
    batch = make_batch()
    task, params = start(make_config(model__channel_agnostic=agnostic), batch)
    expected = jax.jit(lambda p: task.loss(p, batch, jax.random.key(5), ())[0])(params)
    for remat in ("none", "full"):
        scanned = MaskedAutoencoder(
            make_config(
                model__channel_agnostic=agnostic, model__scan_layers=True, model__remat=remat
            )
        )
        value = jax.jit(lambda p, t=scanned: t.loss(p, batch, jax.random.key(5), ())[0])(
            vit.stack_layers(params)
        )
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_masks_change_with_the_step_and_not_with_the_order_of_rows():
    batch = make_batch()
    task, params = start(make_config(), batch)
    loss = jax.jit(lambda b, key: task.loss(params, b, key, ())[0])
    turned = {name: x[::-1] for name, x in batch.items()}
    np.testing.assert_allclose(
        loss(turned, jax.random.key(1)), loss(batch, jax.random.key(1)), rtol=1e-6
    )
    assert loss(batch, jax.random.key(1)) != loss(batch, jax.random.key(2))


def test_loss_mixes_its_parts_and_reports_them():
    batch = make_batch()
    task, params = start(make_config(model__fourier_weight=0.25), batch)
    loss, metrics, carry = jax.jit(task.loss)(params, batch, jax.random.key(0), task.carry(4))
    np.testing.assert_allclose(
        loss, 0.75 * metrics["squared_error"] + 0.25 * metrics["fourier"], rtol=1e-6
    )
    assert carry == () and loss.dtype == jnp.float32
    plain = MaskedAutoencoder(make_config(model__fourier_weight=0.0))
    loss, metrics, _ = jax.jit(plain.loss)(params, batch, jax.random.key(0), ())
    assert set(metrics) == {"squared_error"} and loss == metrics["squared_error"]


@pytest.mark.parametrize(
    "mode,agnostic,norm_pix",
    [
        ("patch", False, False),
        ("patch", True, True),
        ("image", False, True),
        ("image", True, False),
        ("legacy", False, False),
        ("legacy", True, True),
    ],
)
def test_all_losses_have_finite_gradients(agnostic, mode, norm_pix):
    changes = {
        "model__fourier_mode": mode,
        "model__norm_pix_loss": norm_pix,
        "model__channel_agnostic": agnostic,
        "model__depth": 1,
    }
    batch = make_batch()
    task, params = start(make_config(**changes), batch)
    gradient = jax.jit(jax.grad(lambda p: task.loss(p, batch, jax.random.key(0), ())[0]))(params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize("agnostic", [False, True])
def test_evaluation_is_fixed_by_the_image_and_knows_its_baseline(agnostic):
    batch = make_batch()
    task, params = start(make_config(model__channel_agnostic=agnostic), batch)
    evaluate = jax.jit(task.evaluate)
    sums, _ = evaluate(params, batch)
    assert all(count == 4 for _, count in sums.values())
    moved, _ = evaluate(
        params, {**{name: x[::-1] for name, x in batch.items()}, "row": batch["row"]}
    )
    for name, (total, _) in sums.items():
        np.testing.assert_allclose(moved[name][0], total, rtol=1e-5)
    # The baseline by hand, from what the figures show.
    arrays = jax.tree.map(np.asarray, jax.jit(task.reconstruct)(params, batch))
    original, seen = arrays["original"], arrays["visible"]
    errors = []
    for row in range(4):
        means = [
            original[row, ..., c][seen[row, ..., c]].mean() if seen[row, ..., c].any() else 0.0
            for c in range(3)
        ]
        errors.append(((original[row] - means) ** 2)[~seen[row]].mean())
    np.testing.assert_allclose(sums["loss_visible_mean"][0], np.sum(errors), rtol=1e-4)


def test_embedding_of_channel_subsets():
    config = make_config(channels=5, model__channel_agnostic=True)
    task, params = start(config, make_batch(3))
    pair = make_batch(2, first_channel=3)
    embed = jax.jit(task.embed, static_argnames="channelwise")
    embedding = embed(params, pair)[0][:, 0]
    assert embedding.shape == (4, 32) and embedding.dtype == jnp.float32
    channelwise = embed(params, pair, channelwise=True)[0][:, 0]
    assert channelwise.shape == (4, 64)
    np.testing.assert_allclose(channelwise.reshape(4, 2, 32).mean(1), embedding, atol=1e-5)
    standard, params = start(make_config(), make_batch())
    with pytest.raises(UserError, match="Channelwise embeddings need a channel-agnostic model"):
        standard.embed(params, make_batch(), channelwise=True)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_figures(norm_pix):
    batch = make_batch()
    task, params = start(make_config(model__norm_pix_loss=norm_pix), batch)
    arrays = jax.tree.map(np.asarray, jax.jit(task.reconstruct)(params, batch))
    seen = arrays["visible"]
    assert seen.dtype == bool and seen.mean() == 0.25
    # fused differently
    np.testing.assert_allclose(arrays["reconstruction"][seen], arrays["original"][seen], rtol=1e-5)
    assert not np.allclose(arrays["reconstruction"][~seen], arrays["original"][~seen])
    drawn = task.figure(params, batch, ["a", "b"])["reconstruction"]
    words = " ".join(text.get_text() for axes in drawn.axes for text in axes.texts)
    assert "a\noriginal" in words and "b\noriginal" in words and "image 3" not in words


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("block", ["parallel", "prenorm"])
@pytest.mark.parametrize("scan", [False, True])
def test_every_parameter_has_names_a_rule_and_float32(agnostic, block, scan):
    changes = {
        "model__channel_agnostic": agnostic,
        "model__block": block,
        "model__scan_layers": scan,
    }
    task = MaskedAutoencoder(make_config(**changes, model__dtype="bfloat16"))
    boxes = jax.eval_shape(task.init, jax.random.key(0), make_batch())
    leaves = jax.tree_util.tree_leaves_with_path(
        boxes, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    )
    for path, box in leaves:
        assert isinstance(box, nn.LogicallyPartitioned), path
        assert len(box.names) == box.value.ndim and box.value.dtype == jnp.float32, path
        if path[-1].key == "kernel":
            assert any(box.names), path
        assert set(box.names) - {None} <= set(sharding.RULES["fsdp_tp"]), path
    optim.decay_mask(nn.unbox(boxes))  # raises for a parameter without a rule


def test_flops_of_the_formula_match_the_table():
    """GFLOP of forward and training passes a crop, and of inference (matrix products, 6 channels,
    256 px).
    """
    table = {
        "S/16": (17.4, 52.1, 12.4),
        "B/16": (25.8, 77.5, 46.7),
        "L/16": (54.4, 163.1, 162.5),
        "S/8": (81.5, 244.5, 63.2),
        "B/8": (115.7, 347.0, 213.5),
        "L/8": (231.4, 694.2, 723.2),
    }
    for name, (forward, training, inference) in table.items():
        size, patch = name.split("/")
        config = keys.base()
        config.model.channels, config.model.patch_size = tuple("abcdef"), int(patch)
        config.model.embed_dim, config.model.depth, config.model.num_heads = config_mae.VIT_SIZES[
            size
        ][:3]
        shape = (8, 256, 256, 6)
        assert flops.masked_autoencoder(config.model, shape) / 8e9 == pytest.approx(
            forward, rel=0.01
        ), name
        assert MaskedAutoencoder(config).flops(
            {"pixels": jax.ShapeDtypeStruct(shape, "uint8")}
        ) / 8e9 == pytest.approx(training, rel=0.01)
        assert flops.image_encoder(config.model, shape) / 8e9 == pytest.approx(
            inference, rel=0.01
        ), name


def test_compiled_flops_are_within_five_percent_of_the_table():
    """S/16, unrolled: a training step must cost what the arithmetic says (52.1 GFLOP a crop),
    nothing computed twice.
    """
    config = make_config(channels=6, model__drop_path=0.1)
    config.model.update(embed_dim=384, depth=12, num_heads=6, patch_size=16)
    config.model.update(decoder_dim=512, decoder_depth=8, decoder_num_heads=16, attention="matmul")
    config.data.crop_size = 256
    task, batch = MaskedAutoencoder(config), make_batch(6, rows=2, size=256)
    params = nn.unbox(jax.eval_shape(task.init, jax.random.key(0), batch))
    step = jax.jit(jax.value_and_grad(lambda p, b: task.loss(p, b, jax.random.key(0), ())[0]))
    cost = step.lower(params, batch).compile().cost_analysis()
    assert cost["flops"] / 2 == pytest.approx(52.1e9, rel=0.05)


def bank(path, channels, groups=2):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (48, 48, len(channels))).astype(np.uint8) for _ in range(4)]
    plates = [f"P{i % groups}" for i in range(4)]
    write_bank(
        path, images, pa.table({"plate": plates, "well": ["A01"] * 4, "site": ["1"] * 4}), channels
    )
    return str(path)


def test_resolve_takes_channels_from_the_banks(tmp_path):
    one, two = (
        bank(tmp_path / "one.zarr", ("DNA", "ER")),
        bank(tmp_path / "two.zarr", ("Mito", "DNA")),
    )
    config = make_config(channels=0, data__banks=(one,))
    assert MaskedAutoencoder.resolve(config, tmp_path).model.channels == ("DNA", "ER")
    config.data.banks = (one, two)
    with pytest.raises(
        UserError,
        match=(
            r"The channels do not fit: .*one.zarr has \(DNA, ER\), but the bank .*two.zarr has"
            r" \(Mito, DNA\)"
        ),
    ):
        MaskedAutoencoder.resolve(config, tmp_path)
    config.model.channel_agnostic = True
    assert MaskedAutoencoder.resolve(config, tmp_path).model.channels == ("DNA", "ER", "Mito")
    config.model.channels = ("DNA", "ER")
    with pytest.raises(UserError, match=r"add them to config\.model.channels"):
        MaskedAutoencoder.resolve(config, tmp_path)


def test_loader_feeds_the_loss_and_val_may_be_empty(tmp_path):
    config = make_config(
        channels=0, data__banks=(bank(tmp_path / "one.zarr", ("DNA", "ER")),), global_batch_size=4
    )
    config = MaskedAutoencoder.resolve(config, tmp_path)
    task = MaskedAutoencoder(config)
    batch = jax.tree.map(jnp.asarray, task.loader("train", 0, 1).batch(0))
    assert batch["pixels"].shape == (4, 32, 32, 2)
    params = nn.unbox(jax.jit(task.init)(jax.random.key(0), batch))
    assert np.isfinite(jax.jit(task.loss)(params, batch, jax.random.key(0), ())[0])
    assert task.loader("val", 0, 1).num_images == 2
    with config.unlocked():
        config.data.val_fraction = 0.0
    assert MaskedAutoencoder(config).loader("val", 0, 1) is None


def test_a_mask_that_hides_nothing_or_everything_is_refused_before_any_batch():
    with pytest.raises(UserError, match=r"model\.mask_ratio=0.99 leaves 0 of 16 tokens visible"):
        MaskedAutoencoder(make_config(model__mask_ratio=0.99))
