"""DenseNet against torchvision's module: features, logits, gradients and running statistics; there
and back by the command; weights of ImageNet for other channels.
"""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax.checkpoints import loading
from phenomjax.config import keys
from phenomjax.convert import __main__ as front
from phenomjax.convert import array_files, compare
from phenomjax.convert import densenet as layout
from phenomjax.models import classifier, vit
from phenomjax.models.batch_norm import RUNNING, Statistics
from phenomjax.system.errors import UserError
from phenomjax.trained import opening
from tests.lab import reference_torchvision
from tests.lab.beginning import begin
from tests.lab.doors import run_as_door

SMALL = {"block_config": (2, 3), "growth_rate": 4, "num_init_features": 8, "num_classes": 5}
SIZES = {
    "121": {"block_config": (6, 12, 24, 16), "growth_rate": 32, "num_init_features": 64},
    "161": {"block_config": (6, 12, 36, 24), "growth_rate": 48, "num_init_features": 96},
}
# as torchvision's
NORM = {"norm_momentum": 0.9, "batch_norm_eps": 1e-5}


def make_config(**changes):
    config = keys.base("perturbation")
    config.model.update(
        {"block_config": (2, 1), "growth_rate": 4, "stem_features": 6, "neck_dim": 10}
    )
    config.model.channels, config.model.classes = ("DNA", "ER", "Actin"), ("a", "b", "c", "d")
    config.data.crop_size = 32
    flat = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(flat)
    return config


def random_variables(model, seed=0):
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "var":
            return random.uniform(0.5, 2, leaf.shape).astype(np.float32)
        shift = float(path[-1].key == "scale")
        return 0.3 * random.standard_normal(leaf.shape, np.float32) + np.float32(shift)

    return jax.tree.map_with_path(draw, layout.abstract_variables(model))


def write_run(folder, **changes):
    """A workdir of a tiny model with random weights."""
    config = make_config(**changes)
    params = random_variables(config.model)
    shared = {RUNNING: params.pop(RUNNING)}
    if config.model.scan_layers:
        params = jax.tree.map(np.asarray, vit.stack_layers(params))
    loading.write(folder, config, params, shared)
    return folder


def convert(*words):
    return run_as_door(front, ["densenet", *words]) or 0


def torchvision(**options):
    """Their module with random norms, its state dict as arrays, and torch."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = reference_torchvision.load()(**options)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.weight, 1, 0.2)
            torch.nn.init.normal_(part.bias, 0, 0.2)
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
    return module, arrays_of(module), torch


def arrays_of(module):
    return {name: x.numpy().copy() for name, x in module.state_dict().items()}


def ours(state):
    """(network, variables) of a state dict."""
    model = layout.infer_model(state)
    model.update(NORM)
    variables = layout.from_state_dict(state, model)
    running = variables.pop(RUNNING)
    network = classifier.build(model, jnp.dtype(jnp.float32))
    return network, {"params": variables, RUNNING: running}


def images(rows=2, size=32, channels=3):
    return np.random.default_rng(1).standard_normal((rows, size, size, channels), np.float32)


@pytest.mark.torch
@pytest.mark.parametrize("size", SIZES)
def test_forward_equals_torchvision(size, count):
    """All arrays have their places; the network of the larger one is compiled with --full."""
    module, state, torch = torchvision(**SIZES[size])
    network, variables = ours(state)
    if size in count(("121",), SIZES):
        x = images()
        with torch.no_grad():
            theirs = module.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
        _, logits = jax.jit(network.apply)(variables, x)
        assert theirs.shape == (2, 1000) and np.abs(theirs).max() > 0.5
        np.testing.assert_allclose(logits.softmax, theirs, atol=1e-4)
    again = layout.to_state_dict(
        {**variables["params"], RUNNING: variables[RUNNING]}, make_config().model
    )
    assert again.keys() == state.keys()
    assert all(np.array_equal(again[name], state[name]) for name in state)


@pytest.mark.torch
def test_a_step_of_training_equals_torchvision():
    module, state, torch = torchvision(**SMALL)
    network, variables = ours(state)
    x, label = images(4), jnp.array([0, 3, 1, 1])

    def loss(params):
        (_, logits), moved = network.apply(
            {"params": params, RUNNING: variables[RUNNING]},
            jnp.asarray(x),
            None,
            Statistics(parts=1),
            mutable=[RUNNING],
        )
        return classifier.cross_entropy(logits.softmax, label, 0.0).mean(), moved

    gradients, moved = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    given = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    torch.nn.functional.cross_entropy(module.train()(given), torch.tensor([0, 3, 1, 1])).backward()
    theirs = layout.from_state_dict(
        arrays_of(module) | {name: p.grad.numpy() for name, p in module.named_parameters()},
        layout.infer_model(state),
    )
    running = theirs.pop(RUNNING)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradients, theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), moved[RUNNING], running)


@pytest.mark.torch
def test_weights_of_three_channels_begin_a_model_of_five(tmp_path, caplog):
    module, _, torch = torchvision(**SMALL)
    torch.save({f"module.{name}": x for name, x in module.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="The arrays do not show standardise, crop_size") as asked:
        convert(tmp_path / "w.pth", tmp_path / "run")
    words = str(asked.value).split("--settings ")[1].removesuffix(".").split()
    caplog.set_level(logging.INFO)
    five = ["--channels", "DNA,ER,Actin,RNA,Mito", "--settings", *words]
    assert convert(tmp_path / "w.pth", tmp_path / "run", *five) == 0
    assert "there and back, features differ by at most" in caplog.text
    config, params, _ = loading.load(tmp_path / "run")
    assert config.model.channels == ("DNA", "ER", "Actin", "RNA", "Mito")
    grey = np.repeat(images(channels=1), 5, 3)
    network = classifier.build(config.model, jnp.dtype(jnp.float32))
    running = params.pop(RUNNING)
    features, _ = jax.jit(network.apply)({"params": params, RUNNING: running}, grey)
    with torch.no_grad():
        given = torch.from_numpy(grey[..., :3].transpose(0, 3, 1, 2).copy())
        theirs = torch.relu(module.eval().features(given)).mean((2, 3)).numpy()
    np.testing.assert_allclose(features, theirs, atol=1e-4)
    # and what is written from it is loaded by their module, but for the stem
    assert convert(tmp_path / "run", tmp_path / "back.safetensors") == 0
    back = array_files.read_arrays(tmp_path / "back.safetensors")
    assert back[layout.STEM].shape == (8, 5, 7, 7)
    module.features.conv0 = torch.nn.Conv2d(5, 8, 7, 2, 3, bias=False)
    module.load_state_dict({name: torch.from_numpy(x) for name, x in back.items()})
    with torch.no_grad():
        again = module.eval()(torch.from_numpy(grey.transpose(0, 3, 1, 2).copy())).numpy()
    _, logits = jax.jit(network.apply)({"params": params, RUNNING: running}, grey)
    np.testing.assert_allclose(logits.softmax, again, atol=1e-4)


def test_a_run_of_other_classes_begins_with_them(tmp_path, caplog):
    run = write_run(tmp_path / "run", model__neck_dim=0)
    _, stored, _ = loading.load(run)
    caplog.set_level(logging.INFO)

    def of(**changes):
        config = make_config(**{"model__classes": ("x", "y")} | changes)
        config.init_from = str(run)
        return config

    params, _, report = begin(run, of())
    assert {row["name"].split("/")[0] for row in report["arrays"] if row["how"] == "taken"} == {
        "backbone",
        RUNNING,
    }
    assert "fresh      head" in caplog.text and "fresh      neck" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], stored["backbone"])
    running = stored[RUNNING]["backbone"]
    jax.tree.map(np.testing.assert_array_equal, params[RUNNING]["backbone"], running)
    turned, _, _ = begin(run, of(model__channels=("ER", "DNA", "Actin")))
    mine, theirs = (x["backbone"]["conv0"]["kernel"] for x in (turned, stored))
    np.testing.assert_array_equal(mine, theirs[:, :, [1, 0, 2]])
    two, _, _ = begin(run, of(model__channels=("Actin", "RNA")))
    mine = two["backbone"]["conv0"]["kernel"]
    np.testing.assert_array_equal(mine[:, :, 0], theirs[:, :, 2])
    np.testing.assert_allclose(mine[:, :, 1], theirs.mean(2), rtol=1e-5, atol=1e-7)
    classes = tuple(loading.load(run)[0].model.classes)
    params, _, _ = begin(run, of(model__classes=classes[::-1], model__neck_dim=0))
    mine, theirs = (x["head"]["classifier"]["bias"] for x in (params, stored))
    np.testing.assert_array_equal(mine, theirs[::-1])


CASES = {
    "plain": ({"model__neck_dim": 0}, "w.npz"),
    "neck": ({"model__standardise": "none", "model__batch_norm_eps": 1e-3}, "w.safetensors"),
    "both": (
        {
            "model__arcface_weight": 0.25,
            "model__cell_type": True,
            "model__cell_types": ("HUVEC", "U2OS"),
        },
        "w.hdf5",
    ),
}


@pytest.mark.torch
@pytest.mark.parametrize("training", [False, True])
def test_a_neck_is_a_sequential_of_pytorch(tmp_path, training):
    """Back and forth, with the biases that PyTorch's layers have and ours do without."""
    torch = pytest.importorskip("torch")
    run = write_run(tmp_path / "run")
    assert convert(run, tmp_path / "w.npz") == 0
    state = array_files.read_arrays(tmp_path / "w.npz")
    dim, width = state["neck.1.weight"].shape
    norm, linear = torch.nn.BatchNorm1d, torch.nn.Linear
    neck = torch.nn.Sequential(
        norm(width), linear(width, dim), torch.nn.ReLU(), norm(dim), linear(dim, dim), norm(dim)
    )
    own = {n[5:]: torch.from_numpy(x) for n, x in state.items() if n.startswith("neck.")}
    neck.load_state_dict(own)
    torch.manual_seed(0)
    torch.nn.init.normal_(neck[3].bias)
    torch.nn.init.normal_(neck[4].bias)
    state |= {f"neck.{name}": x for name, x in arrays_of(neck).items()}
    model = layout.infer_model(state)
    variables = layout.from_state_dict(state, model)
    ours_neck = classifier.Neck(dim, {"momentum": 0.9, "epsilon": 1e-5}, jnp.dtype("float32"))
    x = np.random.default_rng(3).standard_normal((6, width), np.float32)
    found = ours_neck.apply(
        jax.tree.map(
            jnp.asarray, {"params": variables["neck"], RUNNING: variables[RUNNING]["neck"]}
        ),
        jnp.asarray(x),
        Statistics(parts=int(training)),
    )
    with torch.no_grad():
        theirs = neck.train(training)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, theirs, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case, tmp_path, caplog):
    changes, name = CASES[case]
    run = write_run(tmp_path / "run", **changes)
    caplog.set_level(logging.INFO)
    assert convert(run, tmp_path / name) == 0
    assert convert(tmp_path / name, tmp_path / "back") == 0
    assert caplog.text.count("against the model that was exported: features differ by") == 2
    config, params, _ = loading.load(run)
    again, params_again, _ = loading.load(tmp_path / "back")
    assert again.model.to_dict() == config.model.to_dict() and again.data.crop_size == 32
    jax.tree.map(np.testing.assert_array_equal, params_again, params)
    assert opening.load_images(tmp_path / "back").task.embedding_dim == (
        classifier.embedding_dim(config.model)
    )


def test_weights_that_do_not_fit(tmp_path):
    run = write_run(tmp_path / "run", model__neck_dim=0)
    assert convert(run, tmp_path / "w.npz") == 0
    state = array_files.read_arrays(tmp_path / "w.npz")
    model = layout.infer_model(state)
    assert (model.block_config, model.growth_rate, model.stem_features) == ((2, 1), 4, 6)
    without = lambda *names: {n: x for n, x in state.items() if n not in names}  # noqa: E731
    wide = {"classifier.weight": np.zeros((4, 99), np.float32)}
    for arrays, said in (
        ({"conv1.weight": np.zeros(3)}, r"not torchvision's layout of a DenseNet: .*conv1.weight"),
        (without("classifier.weight"), r"no classifier.weight among the arrays"),
        (without("features.norm5.bias"), r"features.norm5.bias is missing"),
        (state | {"aux.weight": np.zeros(3)}, r"aux.weight \(3,\) has no place in the model"),
        (state | wide, r"takes 99 numbers in, and this DenseNet has 11 features"),
    ):
        array_files.write_arrays(tmp_path / "x.npz", arrays)
        words = ["--settings", "standardise=image", "crop_size=32"]
        with pytest.raises(UserError, match=said):
            convert(tmp_path / "x.npz", tmp_path / "out", *words)
    with pytest.raises(UserError, match="--channels gives 2 names, and the model has 4 channels"):
        four = state | {layout.STEM: np.zeros((6, 4, 7, 7), np.float32)}
        array_files.write_arrays(tmp_path / "x.npz", four)
        convert(tmp_path / "x.npz", tmp_path / "out", "--channels", "a,b", *words)
    config, params, _ = loading.load(run)
    found = compare.outputs(config, params)
    assert found["features"].shape == (2, 1, 11) and found["logits"].shape == (2, 4)
