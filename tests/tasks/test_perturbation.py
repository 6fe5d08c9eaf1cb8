"""The weakly supervised task: golden losses, the same on any number of devices and micro-batches
with the same running statistics, evaluation by running and by each part's statistics.
"""

import ast
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from phenomjax import config, optim, sharding, state, tasks, train
from phenomjax.checkpoints import loading
from phenomjax.config.perturbation import set_densenet
from phenomjax.data.images.bank import write_bank
from phenomjax.models.batch_norm import Statistics
from phenomjax.step import jit_step
from phenomjax.system.errors import UserError
from phenomjax.tasks.perturbation import Perturbation
from tests.lab.beginning import begin, write
from tests.training.test_train import equal, lines, use_devices

ROWS, CROP = 16, 16
TINY = {
    "block_config": (1, 1),
    "growth_rate": 4,
    "stem_features": 8,
    "neck_dim": 16,
    "channels": ("a", "b"),
    "classes": ("one", "two", "three"),
    "cell_types": ("HUVEC", "RPE"),
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "patch_size": 4,
}
EVERYTHING = {
    "model__arcface_weight": 0.2,
    "model__cutmix": 1.0,
    "model__label_smoothing": 0.1,
    "model__dropout": 0.2,
    "model__cell_type": True,
}
CONTROLLED = {
    "data__controls": "statistics",
    "data__control_share": 0.5,
    "model__control_weight": 0.75,
}
# Losses of the first two steps, pinned on a CPU in float32.
GOLDEN = {"densenet": [4.402055, 3.848843], "vit": [5.139217, 4.834606]}


def make_config(**changes):
    c = config.base("perturbation")
    c.model.update(TINY)
    c.data.crop_size, c.global_batch_size, c.num_steps = CROP, ROWS, 6
    c.data.groups, c.data.simulate.plates = 4, 2
    c.optimizer.learning_rate, c.optimizer.schedule = 1e-3, "constant"
    c.optimizer.name = "adamw"
    c.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config.finalize(c)


def make_batch(rows=ROWS):
    """Each part of four has a brightness and a contrast of its own."""
    random = np.random.default_rng(1)
    part = (np.arange(rows) % 4).reshape(-1, 1, 1, 1)
    pixels = random.normal(60 + 40 * part, 10 + 8 * part, (rows, CROP, CROP, 2))
    number = np.arange(rows, dtype=np.int32)
    batch = {
        "pixels": np.clip(pixels, 0, 255).astype(np.uint8),
        "channels": np.tile(np.arange(2, dtype=np.int32), (rows, 1)),
        "row": number,
        "image": number,
        "label": random.integers(0, 3, rows).astype(np.int32),
        "cell_type": (number % 4 // 2).astype(np.int32),
        "control": number // 4 % 2 == 0,
    }
    return jax.tree.map(jnp.asarray, batch)


def start(c):
    """(task, parameters, first carry)."""
    task = Perturbation(c)
    params = nn.unbox(jax.jit(task.init)(jax.random.key(0), make_batch()))
    return task, params, task.carry(ROWS)


def steps(c, devices=1, count=2):
    """Losses of a few steps of the loop's own program, and the state after them."""
    shape = (devices // 2, 2) if c.mesh.preset == "fsdp_tp" else (devices, 1)
    mesh = sharding.mesh_of(*shape, devices=jax.devices()[:devices])
    task, tx, batch = Perturbation(c), optim.make(c), make_batch(c.global_batch_size)
    spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.rules(c.mesh.preset)):
        init, _, shards = state.abstract(task, tx, c, mesh, spec)
        now = jax.jit(init, out_shardings=shards)(jax.random.key(0))
        step = jit_step(task, tx, c, mesh, shards)
        batch, losses = jax.device_put(batch, sharding.batch_sharding(mesh)), []
        for position in range(count):
            now, values = step(now, batch, jax.random.key(2), np.uint32(position))
            losses.append(float(values["train/loss"]))
    return losses, jax.device_get(now)


@pytest.fixture(scope="module")
def alone():
    """Losses and state of one device."""
    return steps(make_config(**EVERYTHING))


def test_golden_losses(alone):
    np.testing.assert_allclose(alone[0], GOLDEN["densenet"], rtol=1e-4)
    found, _ = steps(make_config(model__backbone="vit", **EVERYTHING))
    np.testing.assert_allclose(found, GOLDEN["vit"], rtol=1e-4)


@pytest.fixture(scope="module")
def controlled():
    """The same, by statistics of controls, which are no class."""
    return steps(make_config(**EVERYTHING, **CONTROLLED))


@pytest.mark.parametrize(
    "devices,micro,preset,more", [(4, 1, "dp", {}), (2, 2, "fsdp", CONTROLLED)]
)
def test_devices_and_micro_batches_change_neither_losses_nor_statistics(
    alone, controlled, devices, micro, preset, more
):
    losses, expected = controlled if more else alone
    more = EVERYTHING | more
    c = make_config(mesh__preset=preset, optimizer__accumulate_steps=micro, **more)
    found, after = steps(c, devices)
    np.testing.assert_allclose(found, losses, rtol=2e-5)
    shared, theirs = (state.shared(each.carry)["batch_stats"] for each in (after, expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), shared, theirs
    )
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(theirs))


def test_evaluation_is_by_running_statistics_and_by_those_of_each_part():
    """Against each part computed alone; a row of no known class counts in statistics alone."""
    task, params, carry = start(make_config(data__groups=2, model__arcface_weight=1.0))
    random = np.random.default_rng(0)
    stats = jax.tree.map(lambda x: x + random.uniform(0.5, 1.0, x.shape), carry.value)
    judged = jax.tree.map(jnp.asarray, {**params, **stats})
    batch = make_batch()
    batch["label"] = batch["label"].at[3].set(-1)
    sums, _ = jax.jit(task.evaluate)(judged, batch)
    known = np.asarray(batch["label"]) >= 0
    assert all(count == ROWS - 1 for _, count in sums.values())
    running = np.asarray(jax.jit(task.logits)(judged, batch))
    right = (running.argmax(1) == np.asarray(batch["label"]))[known]
    assert sums["accuracy"][0] == right.sum()
    alone = jax.jit(lambda p, b: task.logits(p, b, Statistics(parts=1)))
    right, differ = 0, 0.0
    for part in range(2):
        rows = {name: x[part::2] for name, x in batch.items()}
        found = np.asarray(alone(judged, rows))
        right += (found.argmax(1) == np.asarray(rows["label"])).sum()
        differ = max(differ, np.abs(found - running[part::2]).max())
    assert sums["accuracy_adabn"][0] == right and differ > 0.05
    # where images of all experiments are mixed, no statistics are of one
    mixed = Perturbation(make_config(data__groups=0, model__arcface_weight=1.0))
    assert set(jax.eval_shape(mixed.evaluate, judged, batch)[0]) == {"loss", "accuracy"}


def test_statistics_of_controls_know_nothing_of_the_other_images():
    """Of weight 1, whatever stands beside them: the loss and the answer for an image are as if it
    were alone with the controls; these teach nothing themselves.
    """
    changes = CONTROLLED | {"data__groups": 1, "model__control_weight": 1.0}
    task, params, carry = start(make_config(**changes))
    batch = make_batch()
    batch["label"] = jnp.where(batch["control"], -1, batch["label"])
    other = batch | {
        "pixels": jnp.where(
            batch["control"][:, None, None, None], batch["pixels"], batch["pixels"][::-1]
        )
    }
    loss = jax.jit(task.loss)
    key = jax.random.key(3)
    one, _, moved = loss(params, batch, key, carry)
    _, _, theirs = loss(params, other, key, carry)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), moved, theirs)
    weight = jnp.where(batch["control"], 1.0, 0.0)
    logits = jax.jit(lambda p: task.logits(p, batch, Statistics(parts=1, weight=weight)))(
        {**params, **carry.value}
    )
    told = ~np.asarray(batch["control"])
    expected = -jax.nn.log_softmax(logits)[np.flatnonzero(told), np.asarray(batch["label"])[told]]
    np.testing.assert_allclose(one, expected.mean(), rtol=1e-5)
    sums, _ = jax.jit(task.evaluate)({**params, **carry.value}, batch)
    right = (np.asarray(logits).argmax(1) == np.asarray(batch["label"])).sum()
    assert sums["accuracy_adabn"] == (right, told.sum())


@pytest.mark.parametrize("backbone", ["densenet", "vit"])
def test_every_parameter_has_names_a_rule_and_float32(backbone):
    c = make_config(model__backbone=backbone, model__arcface_weight=0.2, model__dtype="bfloat16")
    boxes = jax.eval_shape(Perturbation(c).init, jax.random.key(0), make_batch())
    leaves = jax.tree.leaves_with_path(
        boxes, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    )
    for path, box in leaves:
        assert len(box.names) == box.value.ndim and box.value.dtype == jnp.float32, path
        assert set(box.names) - {None} <= set(sharding.RULES["fsdp_tp"]), path
    decayed = optim.decay_mask(nn.unbox(boxes))
    assert decayed["head"] == {
        "arcface_kernel": True,
        "classifier": {"kernel": True, "bias": False},
    }


@pytest.mark.parametrize("backbone", ["densenet", "vit"])
def test_flops_are_those_of_the_compiled_forward_pass(backbone):
    c = make_config(model__backbone=backbone, model__neck_dim=64)
    c.unlock()
    c.model.update(block_config=(3, 2), growth_rate=16, stem_features=32, embed_dim=64, depth=2)
    c.data.crop_size = 64
    task = Perturbation(c)
    batch = {
        "pixels": jax.ShapeDtypeStruct((2, 64, 64, 2), jnp.uint8),
        "label": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    params = nn.unbox(jax.eval_shape(task.init, jax.random.key(0), batch))
    judged = {**params, **jax.eval_shape(lambda: task.carry(2)).value}
    cost = jax.jit(task.logits).lower(judged, batch).compile().cost_analysis()
    # beside the products: standardisation, norms, pooling; without them: what pads an image
    assert 0.95 < cost["flops"] / (task.flops(batch) / 3) < 1.15


# The loop


def write_screen(folder):
    """Three experiments of 12 wells and three genes."""
    random = np.random.default_rng(0)
    rows = [
        {"experiment": f"E{number // 12}", "plate": "1", "well": f"A{number % 12 + 1:02}",
         "site": "1", "perturbation": f"g{number % 3}", "cell_type": "U2OS"}
        for number in range(36)
    ]  # fmt: skip
    images = [
        random.normal(80, 10 + 20 * (n % 3), (CROP, CROP, 2)).clip(0, 255).astype(np.uint8)
        for n in range(36)
    ]
    write_bank(folder / "screen.zarr", images, pa.Table.from_pylist(rows), ("a", "b"))
    return str(folder / "screen.zarr")


def run_config(bank, **changes):
    c = config.base("perturbation")
    c.model.update(TINY | {"classes": (), "cell_types": (), "channels": ()})
    c.data.banks, c.data.crop_size, c.data.threads = (bank,), CROP, 1
    c.data.groups, c.data.val_groups, c.global_batch_size, c.num_steps = 2, ("E2",), 8, 4
    c.optimizer.ema_decay, c.log.tensorboard, c.figures.num_images = 0.5, False, 2
    c.log.every_steps, c.eval.every_steps, c.eval.num_batches, c.checkpoint.every_steps = 1, 4, 0, 4
    c.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return c


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(bank, workdir of a straight run of four steps)."""
    folder = tmp_path_factory.mktemp("screen")
    bank = write_screen(folder)
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 1)
        assert train.run(run_config(bank), folder / "run") == 0
    return bank, folder / "run"


def test_an_interrupted_run_goes_on_bit_for_bit(trained, tmp_path, monkeypatch):
    bank, straight = trained
    use_devices(monkeypatch, 1)
    assert train.run(run_config(bank, stop_at_step=2), tmp_path) == 75
    assert train.run(run_config(bank), tmp_path) == 0
    assert lines(tmp_path) == lines(straight)
    (config_of_run, found), (_, expected) = (loading.load(p)[:2] for p in (tmp_path, straight))
    equal(found, expected)
    assert config_of_run.model.norm_rows == 4  # what statistics of experiments are taken over
    assert set(found) == {"backbone", "neck", "head", "batch_stats"}
    last = next(line for line in lines(straight) if "val/loss" in line)
    assert {"val/accuracy", "val/accuracy_adabn"} <= set(last)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["predictions_0000004.png"]


def test_a_run_begins_with_what_another_has_learnt(trained, tmp_path, caplog, monkeypatch):
    bank, straight = trained
    use_devices(monkeypatch, 1)
    changes = {"num_steps": 1, "optimizer__learning_rate": 0.0}
    changes |= {"model__norm_momentum": 0.999, "optimizer__ema_decay": 0.0}
    changes |= {"eval__every_steps": 0, "figures__num_images": 0}
    caplog.set_level("INFO", "phenomjax")
    # of other classes
    c = run_config(bank, init_from=str(straight), data__label="well", **changes)
    assert train.run(c, tmp_path / "wells", ()) == 0
    assert "fresh      head" in caplog.text and "left       head" in caplog.text
    mine, theirs = (loading.load(path)[1] for path in (tmp_path / "wells", straight))
    equal(mine["backbone"], theirs["backbone"])
    moved = mine["batch_stats"]["backbone"]["norm0"]["mean"]
    began = theirs["batch_stats"]["backbone"]["norm0"]["mean"]
    np.testing.assert_allclose(moved, began, rtol=1e-2, atol=1e-4)
    # of a masked autoencoder
    mae = config.base("mae")
    mae.model.update({name: value for name, value in TINY.items() if name in mae.model})
    mae.model.update(decoder_dim=16, decoder_depth=1, decoder_num_heads=2)
    mae.data.simulate.plates, mae.data.crop_size = 1, CROP
    mae = config.finalize(mae)
    params = write(tmp_path / "mae", mae)
    of = lambda **how: tasks.resolve(config.finalize(run_config(bank, **how)), tmp_path)  # noqa: E731
    vit = of(model__backbone="vit", **changes).unlock()
    equal(begin(tmp_path / "mae", vit)[0]["encoder"], params["encoder"])
    for line in ("fresh      neck", "fresh      head", "left       decoder"):
        assert line in caplog.text
    with pytest.raises(UserError, match="do not fit this configuration"):  # nothing of it does
        begin(tmp_path / "mae", of(**changes).unlock())


# Mistakes


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"model__backbone": "densnet"}, "Did you mean 'densenet'?"),
        (
            {"model__label_smoothing": 1.0},
            "config.model.label_smoothing is 1.0; it must be at least 0",
        ),
        (
            {"model__cutmix": -1.0},
            "-1.0; it must be at least 0. 0.0 = off: set --config.model.cutmix=0.0.",
        ),
        (
            {"model__control_share": 1.5},
            "config.model.control_share is 1.5; it must be at least 0 and at most 1.",
        ),
        (
            {"model__cutmix": float("inf")},
            "cutmix is inf; it must be a finite number, at least 0. Its default: ",
        ),
        (
            {"model__arcface_scale": float("nan")},
            "scale is nan; it must be a finite number, above 0. Its default: ",
        ),
        (
            {
                "checkpoint__best_metric": "val/accuracy_adabn",
                "model__backbone": "vit",
                "model__neck_dim": 0,
            },
            "without a neck a ViT has none: config.model.neck_dim is 0. Set --config.model.neck_d",
        ),
        ({"model__arcface_scale": 0.0}, "config.model.arcface_scale is 0.0; it must be above 0."),
        (
            {"model__arcface_margin": 2.0},
            "arcface_margin is 2.0; it must be at least 0 and below 1.58.",
        ),
        ({"model__block_config": ()}, 'set --config.model.block_config="(6, 12, 24, 16)".'),
        ({"data__crop_size": 4}, "Set --config.data.crop_size=8 or more."),
        ({"model__channel_agnostic": True}, "Set --config.model.channel_agnostic=False, or"),
        ({"data__controls": "drop", "data__control_share": 0.1}, "--config.data.controls=keep, or"),
        (
            CONTROLLED | {"data__control_share": 0.0},
            "Set --config.data.control_share=0.5, or --config.model.control_weight=0.0",
        ),
        ({"eval__batch_size": 7}, "config.eval.batch_size 7 cannot be divided into"),
        ({"global_batch_size": 18}, "Set --config.global_batch_size=20."),
        ({"global_batch_size": 12, "model__cutmix": 1.0}, "Set --config.global_batch_size=16."),
        ({"data__groups": 1, "optimizer__accumulate_steps": 2}, "Set --config.data.groups=2 or"),
        (
            {"model__backbone": "vit", "model__patch_size": 0},
            "patch_size is 0; it must be at least",
        ),
        (
            {"model__backbone": "vit", "model__embed_dim": 24, "model__num_heads": 0},
            "num_heads is 0; it must be at least 1",
        ),
        ({"model__backbone": "vit", "model__drop_path": 1.0}, "drop_path is 1.0; it must be at"),
        ({"model__backbone": "vit", "data__crop_size": 18}, "Set --config.data.crop_size=16."),
    ],
)
def test_mistakes_are_named_with_their_mend(changes, text):
    with pytest.raises(UserError, match=re.escape(text)) as error:
        make_config(**changes)
    if mend := re.search(r"(?:Set|default:) --config\.([\w.]+)=(\w+(?:\.\d+)?)", str(error.value)):
        key, value = mend.groups()
        mended = value if value.isalpha() and value.islower() else ast.literal_eval(value)
        make_config(**changes | {key.replace(".", "__"): mended})


def test_a_size_that_is_none():
    with pytest.raises(UserError, match=r"There is no DenseNet-12.*Sizes: 121, 161, 169, 201"):
        set_densenet(config.base("perturbation"), "12")


def test_parts_that_devices_would_divide_are_refused_with_a_batch_that_fits():
    changes = {"optimizer__accumulate_steps": 2, "model__cutmix": 1.0, "global_batch_size": 24}
    with pytest.raises(UserError, match=r"Set --config\.global_batch_size=32") as error:
        steps(make_config(**changes), devices=4)
    assert "rows of a micro-batch, which are not a multiple of the 4" in str(error.value)


def test_a_model_that_is_told_the_cell_type_asks_for_it():
    task, params, carry = start(make_config(model__cell_type=True))
    with pytest.raises(UserError, match="Give a bank whose metadata have cell_type, or train"):
        task.embed({**params, **carry.value}, {"pixels": make_batch()["pixels"]})
    with pytest.raises(UserError, match="Leave channelwise out"):
        task.embed(params, make_batch(), channelwise=True)


def test_held_out_images_that_are_of_no_known_class_are_refused(trained, tmp_path):
    bank, _ = trained
    c = run_config(bank, model__classes=("g0", "g1"), data__label="perturbation")
    task = Perturbation(tasks.resolve(config.finalize(c), tmp_path))
    assert task.loader("val", 0, 1).num_images == 12  # of which a third counts as nothing
    c = run_config(bank, data__label="experiment", data__groups=0)
    with pytest.raises(UserError, match="of none of the 2 classes, but of 1 other") as error:
        Perturbation(tasks.resolve(config.finalize(c), tmp_path)).loader("val", 0, 1)
    assert '--config.data.val_groups="()" --config.data.val_fraction=0.0' in str(error.value)
    c.data.val_groups, c.data.val_fraction = (), 0.0
    assert Perturbation(tasks.resolve(config.finalize(c), tmp_path)).loader("val", 0, 1) is None
