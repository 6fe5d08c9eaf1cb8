"""Exports: each agrees with JAX or is not written, runs without this package, and loads back bit
for bit.
"""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from phenomjax.checkpoints import loading
from phenomjax.convert import array_files, openphenom
from phenomjax.export import __main__ as front
from phenomjax.export import hub
from phenomjax.models import vit
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained import image_model, opening, release
from phenomjax.trained.graphs import graph, onnx_file
from tests.tasks.test_mae import make_config

CHANNELS = ("DNA", "ER", "Actin")


def write_run(folder, **options):
    """A workdir of a tiny model of 32 px crops with random parameters and some metrics."""
    config = make_config(model__layer_scale=0.5, model__channels=CHANNELS, **options)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: 0.2 * random.standard_normal(x.shape, np.float32),
        openphenom.abstract_params(config.model),
    )
    if config.model.scan_layers:
        params = jax.tree.map(np.asarray, vit.stack_layers(params))
    loading.write(folder, config, params)
    lines = [
        {"step": 0, "train/loss": 0.75, "train/lr": 1e-3},
        {"step": 0, "val/loss": 0.625},
        {"step": 9, "val/loss": 0.5},
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 1')
    return folder


@pytest.fixture(scope="module", autouse=True)
def symbolic_shapes():
    """The checks of annotations, which only tests have, do not know an open batch size."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("standard") / "run")


@pytest.fixture(scope="module")
def agnostic(tmp_path_factory):
    return write_run(
        tmp_path_factory.mktemp("agnostic") / "run",
        model__channel_agnostic=True,
        model__scan_layers=True,
    )


def export(run, form, out, *options):
    return front.main(
        ["--checkpoint", str(run), "--format", form, "--out", str(out), *map(str, options)]
    )


def crops(run, count, **options):
    model = opening.load_images(run)
    chosen = graph.settings(model, **options)
    return model, chosen, graph.sample_crops(model, chosen, count, seed=5)


@pytest.fixture(scope="module")
def exported(standard, tmp_path_factory):
    """An ONNX file of two blocks."""
    path = tmp_path_factory.mktemp("onnx") / "encoder.onnx"
    assert export(standard, "onnx", path, "--block", 2, 1, "--opset", 19) == 0
    return path


def test_onnx_agrees_for_any_batch_and_says_what_it_is(standard, exported):
    import onnx

    proto = onnx.load(exported)
    assert [x.version for x in proto.opset_import if not x.domain] == [19]
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param and [d.dim_value for d in dims[1:]] == [32, 32, 3]
    about = json.loads({p.key: p.value for p in proto.metadata_props}["phenomjax"])
    model, _, pixels = crops(standard, 5)
    assert (about["blocks"], about["pixels"], about["checkpoint_fingerprint"]) == (
        [2, 1],
        "uint8",
        model.fingerprint,
    )
    assert pixels.dtype == np.uint8 and pixels.std() > 1
    expected = jax.jit(image_model.features(model), static_argnums=2)(model.params, pixels, (2, 1))
    run = onnx_file.session(exported)
    for size in (5, 2):
        np.testing.assert_allclose(run(pixels[:size]), expected[:size], atol=1e-4)
    # the blocks are told apart
    assert np.abs(np.asarray(expected[:, 0] - expected[:, 1])).max() > 0.1


def test_the_exporter_leaves_jax_as_it_was(exported):
    np.testing.assert_array_equal(
        jnp.cumsum(jnp.ones((2, 3)), -1)[0], [1, 2, 3]
    )  # jax2onnx's own refuses the axis by place
    assert jnp.cumsum.__module__.startswith("jax.")


def test_a_graph_that_disagrees_is_not_left(standard, exported, tmp_path, monkeypatch):
    import onnx

    proto = onnx.load(exported)
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 500:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.01), tensor.name))
    monkeypatch.setattr(onnx_file, "convert", lambda *_: proto)
    with pytest.raises(
        UserError, match=r"disagrees with JAX: cosine .* allowed 1e-04. No file was left"
    ) as error:
        export(standard, "onnx", tmp_path / "x.onnx", "--block", 2, 1)
    assert error.value.exit_code == EXIT_FAILED
    assert not list(tmp_path.iterdir())


def test_stablehlo_runs_in_a_process_without_this_package(agnostic, tmp_path):
    path = tmp_path / "encoder.stablehlo"
    assert (
        export(
            agnostic,
            "stablehlo",
            path,
            "--channelwise",
            "--channels",
            2,
            "--pixels",
            "uint16",
            "--platforms",
            "cpu,cuda",
        )
        == 0
    )
    model, chosen, pixels = crops(agnostic, 3, channelwise=True, channels=2, pixels="uint16")
    assert pixels.shape == (3, 32, 32, 2) and pixels.dtype == np.uint16
    np.save(tmp_path / "pixels.npy", pixels)
    code = (
        "import sys; sys.modules['phenomjax'] = sys.modules['flax'] = None\n"
        "import jax, numpy as np\n"
        "encoder = jax.export.deserialize(bytearray(open('encoder.stablehlo', 'rb').read()))\n"
        "assert encoder.platforms == ('cpu', 'cuda')\n"
        "np.save('out.npy', encoder.call(np.load('pixels.npy')))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    dim = model.config.model.embed_dim
    expected = graph.jax_reference(model, chosen)(pixels)
    assert expected.shape == (3, 1, 2 * dim)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-4)
    about = json.loads((tmp_path / "encoder.stablehlo.json").read_text())
    assert (about["channelwise"], about["platforms"], about["image_shape"]) == (
        True,
        ["cpu", "cuda"],
        [32, 32, 2],
    )


def test_safetensors_in_both_layouts_with_a_card(standard, tmp_path):
    assert export(standard, "safetensors", tmp_path / "whole", "--name", "Tiny") == 0
    model = opening.load_images(standard)
    state = array_files.read_arrays(tmp_path / "whole" / "model.safetensors")
    jax.tree.map(
        np.testing.assert_array_equal,
        openphenom.from_state_dict(state, model.config.model),
        model.params,
    )
    card = (tmp_path / "whole" / "README.md").read_text()
    for part in (
        "# Tiny",
        "license: unknown",
        "| val/loss | 0.625 |",
        "| train/loss | 0.75 |",
        "DNA, ER, Actin",
        model.fingerprint,
    ):
        assert part in card
    assert "0.5 |" not in card  # a later step's
    assert export(standard, "safetensors", tmp_path / "timm", "--layout", "timm") == 0
    names = set(array_files.read_arrays(tmp_path / "timm" / "model.safetensors"))
    assert {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.1.attn_out_proj.bias",
        "norm.weight",
    } <= names
    assert not any(name.startswith(("encoder", "decoder")) for name in names)


def card_lines(folder, language):
    """The code of a release's card, and what it makes of its own pixels when they are replaced by
    `pixels`.
    """
    section = (folder / "README.md").read_text().split(f"## Use with {language}")[1]
    code = re.search(r"```python\n(.*?)\n```", section, re.DOTALL)[1]
    assert len(code.splitlines()) == 5
    return code


@pytest.mark.parametrize("kind", ["standard", "agnostic"])
def test_release_loads_back_by_the_lines_of_its_card(kind, request, tmp_path, monkeypatch):
    run, folder = request.getfixturevalue(kind), tmp_path / "release"
    assert export(run, "release", folder, "--licence", "CC-BY-4.0") == 0
    assert {p.name for p in folder.iterdir()} == {
        "README.md",
        "LICENSE",
        "SHA256SUMS",
        "config.json",
        "encoder.py",
        "model.safetensors",
        "modeling_phenomjax.py",
    }
    assert "license: CC-BY-4.0" in (folder / "README.md").read_text()
    model, _, pixels = crops(run, 2)
    again = opening.load_images(folder)  # so that `phenomjax.embed --checkpoint` takes it
    assert again.fingerprint == model.fingerprint and again.step == model.step
    with pytest.raises(UserError, match=f"is a release.* `python -m .*convert openphenom {folder}"):
        loading.find(folder)  # `init_from` wants a run
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(card_lines(folder, "JAX"), names)
    assert names["embeddings"].shape == (1, 32) and names["pixels"].shape == (1, 32, 32, 3)
    encode = jax.jit(image_model.features(names["model"]))
    expected = graph.jax_reference(model, graph.settings(model))(pixels)
    np.testing.assert_allclose(encode(names["model"].params, pixels), expected, atol=1e-4)
    sums = (folder / "SHA256SUMS").read_text()
    (folder / "LICENSE").write_text("SPDX-License-Identifier: MIT\n")
    with pytest.raises(
        UserError, match=r"LICENSE differs from its checksum: the release was changed"
    ):
        release.load(folder)
    (folder / "LICENSE").unlink()
    with pytest.raises(UserError, match="LICENSE is missing"):
        release.load(folder)
    assert "model.safetensors" in sums


@pytest.mark.torch
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model__channel_agnostic": True},
        {"model__bias_order": "timm_legacy", "model__qk_norm": False},
        {"model__block": "prenorm", "model__position_grid": 3},
        {"model__block": "prenorm", "model__layer_scale": 0.0, "model__class_token": False},
    ],
)
def test_the_lines_for_pytorch_give_the_same_embeddings(options, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    run, folder = tmp_path / "run", tmp_path / "release"
    options = {"model__layer_scale": 0.5} | options
    scale = options.pop("model__layer_scale")
    config_run = write_run(run, **options) if scale else write_run_without_scale(run, options)
    export(config_run, "release", folder, "--licence", "MIT")
    model, _, pixels = crops(run, 3)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "encoder", raising=False)
    names: dict = {}
    exec(card_lines(folder, "PyTorch"), names)
    assert tuple(names["embeddings"].shape) == (1, 32)
    given = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    encode, encoder = (
        jax.jit(image_model.features(model), static_argnums=(2, 3)),
        names["load"]("."),
    )
    np.testing.assert_allclose(
        encoder(given).numpy(), encode(model.params, pixels, (2,), False)[:, 0], atol=1e-4
    )
    agnostic = model.config.model.channel_agnostic
    np.testing.assert_allclose(
        encoder(given, (1, 2), agnostic).numpy(),
        encode(model.params, pixels, (1, 2), agnostic),
        atol=1e-4,
    )
    sys.modules.pop("encoder")


def write_run_without_scale(folder, options):
    config = make_config(model__channels=CHANNELS, model__layer_scale=0.0, **options)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: 0.2 * random.standard_normal(x.shape, np.float32),
        openphenom.abstract_params(config.model),
    )
    loading.write(folder, config, params)
    return folder


def test_push_is_private_and_stops_at_the_network(standard, tmp_path, monkeypatch):
    import huggingface_hub

    calls = []
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "create_repo",
        lambda self, name, **options: calls.append((self.endpoint, name, options)),
    )
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "upload_folder",
        lambda self, **options: calls.append(options["folder_path"]),
    )
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    out = tmp_path / "release"
    assert export(standard, "release", out, "--licence", "MIT", "--push", "lab/cells") == 0
    assert calls == [("http://127.0.0.1:9", "lab/cells", {"private": True, "exist_ok": True}), out]
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens on this port
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(
        UserError, match=r"could not be uploaded to lab/cells at http://127.0.0.1:9"
    ) as error:
        hub.push(out, "lab/cells")
    assert error.value.exit_code == EXIT_FAILED and "hf_secret" not in str(error.value)
    with pytest.raises(UserError, match="name the repository as OWNER/NAME"):
        hub.push(out, "cells")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        hub.push(out, "lab/cells")


@pytest.mark.parametrize(
    "form,options,message",
    [
        ("onnx", ("--opset", 12), r"--opset 12: graphs are written with opset 18 to 23"),
        ("onnx", ("--block", 9), r"--block 9: this model's encoder has blocks 1 to 2"),
        ("onnx", ("--image_size", 30), r"--image_size 30: .* multiples of 8 px"),
        (
            "onnx",
            ("--channels", 2),
            r"--channels 2: this model was trained on 3 channels \(DNA, ER, Actin\)",
        ),
        ("onnx", ("--channelwise",), r"--channelwise needs a channel-agnostic model"),
        (
            "stablehlo",
            ("--platforms", "cpu,metal"),
            r"--platforms metal: it can be cpu, cuda, rocm, tpu",
        ),
        ("release", (), r"--format release needs --licence"),
        (
            "release",
            ("--licence", "MIT", "--public"),
            r"--public says how a repository is made, and there is none",
        ),
        ("tensorrt", (), r"TensorRT cannot be used here: .*pip install tensorrt"),
    ],
)
def test_mistakes(standard, form, options, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UserError, match=message):
        export(standard, form, tmp_path / f"x{front.FORMATS[form][0]}", *options)
    assert not list(tmp_path.iterdir())


def test_mistakes_of_out(standard, tmp_path):
    with pytest.raises(
        UserError, match=r"--format onnx writes a file NAME.onnx, for instance .*x.onnx"
    ):
        export(standard, "onnx", tmp_path / "x.bin")
    (tmp_path / "something").touch()
    with pytest.raises(UserError, match="is there already"):
        export(standard, "onnx", tmp_path)
    with pytest.raises(UserError, match="of --out does not exist"):
        export(standard, "onnx", tmp_path / "absent" / "x.onnx")
