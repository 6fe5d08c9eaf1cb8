"""Exports of weakly supervised models: graphs, weights and releases, in JAX, ONNX Runtime and
PyTorch.
"""

import sys

import jax
import numpy as np
import pytest

from phenomjax.convert import __main__ as convert
from phenomjax.inference.runtimes import choose
from phenomjax.system.errors import UserError
from phenomjax.trained import opening
from phenomjax.trained.graphs import graph
from tests.convert.test_densenet import write_run
from tests.export.test_export import card_lines, export, symbolic_shapes  # noqa: F401
from tests.lab.doors import run_as_door

VIT = {
    "model__backbone": "vit",
    "model__embed_dim": 32,
    "model__depth": 2,
    "model__num_heads": 2,
    "model__patch_size": 8,
    "model__drop_path": 0.0,
}
CASES = {
    "densenet": {"model__arcface_weight": 0.5, "model__batch_norm_eps": 1e-3},
    "no neck": {
        "model__neck_dim": 0,
        "model__standardise": "none",
        "model__arcface_weight": 1.0,
    },
    "cell types": {"model__cell_type": True, "model__cell_types": ("HUVEC", "RPE", "U2OS")},
    "vit": VIT,
    "agnostic": {
        **VIT,
        "model__channel_agnostic": True,
        "model__scan_layers": True,
        "model__position_grid": 9,
    },
}


@pytest.mark.parametrize("case", ["densenet", "vit"])
def test_onnxruntime_gives_the_same_embeddings(case, tmp_path):
    model = opening.load_images(write_run(tmp_path / "run", **CASES[case]))
    chosen = graph.settings(model)
    pixels = graph.drawn_cells(chosen, 5)
    options = {"cache": str(tmp_path / "cache")}
    runtime = choose.make("onnxruntime", model, chosen, 3, options)
    found = np.concatenate([runtime.submit(pixels[:3])(), runtime.submit(pixels[3:])()])
    np.testing.assert_allclose(found, graph.jax_reference(model, chosen)(pixels), atol=1e-4)


def test_stablehlo_agrees(tmp_path, capsys):
    run = write_run(tmp_path / "run", **CASES["no neck"])
    assert export(run, "stablehlo", tmp_path / "encoder.stablehlo") == 0
    assert "against JAX: cosine >= 1.0000" in capsys.readouterr().err


@pytest.mark.parametrize("case", [case for case in CASES if case != "vit"])
def test_release_loads_back_and_computes_the_same_in_pytorch(case, tmp_path, monkeypatch):
    run, folder = write_run(tmp_path / "run", **CASES[case]), tmp_path / "release"
    assert export(run, "release", folder, "--licence", "MIT") == 0
    model, again = opening.load_images(run), opening.load_images(folder)
    assert again.fingerprint == model.fingerprint
    assert again.config.model.to_dict() == model.config.model.to_dict()
    card = (folder / "README.md").read_text()
    assert "| Kind | weakly supervised model |" in card and "Trained to tell the classes" in card
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(card_lines(folder, "JAX"), names)
    assert names["embeddings"].shape == (1, model.task.embedding_dim)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    batch = {"pixels": pixels, "cell_type": np.array([2, 0, 1], np.int32)}
    embeddings = jax.jit(model.task.embed)(model.params, batch)[0][:, 0]
    logits = jax.jit(model.task.logits)(model.params, batch)
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "encoder", raising=False)
    exec(card_lines(folder, "PyTorch"), names)
    assert tuple(names["embeddings"].shape) == (1, model.task.embedding_dim)
    given = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.tensor([2, 0, 1])
    theirs = names["load"](".")
    np.testing.assert_allclose(theirs(*given).numpy(), embeddings, atol=1e-4)
    np.testing.assert_allclose(theirs.logits(*given).numpy(), logits, atol=1e-4)
    sys.modules.pop("encoder")


def test_safetensors_come_back_as_a_run(tmp_path):
    run = write_run(tmp_path / "run", **CASES["agnostic"])
    assert export(run, "safetensors", tmp_path / "weights") == 0
    assert "names of OpenPhenom" in (tmp_path / "weights" / "README.md").read_text()
    run_as_door(convert, ["densenet", tmp_path / "weights", tmp_path / "back"])
    model, again = opening.load_images(run), opening.load_images(tmp_path / "back")
    assert again.fingerprint == model.fingerprint


def test_mistakes(tmp_path):
    run = write_run(tmp_path / "run", **CASES["cell types"])
    for form, out, options, said in (
        ("onnx", "x.onnx", (), r"told the cell type of each image .*given pixels alone"),
        ("safetensors", "x", ("--layout", "timm"), r"--layout timm has names for masked auto"),
    ):
        with pytest.raises(UserError, match=said):
            export(run, form, tmp_path / out, *options)
    small = write_run(tmp_path / "small", model__block_config=(1, 1, 1, 1))
    with pytest.raises(UserError, match=r"16 x 16 px are too small .*takes 32 px"):
        export(small, "onnx", tmp_path / "x.onnx", "--image_size", 16)
    vit = write_run(tmp_path / "vit", **VIT)
    with pytest.raises(UserError, match=r"model.backbone=vit, which is no DenseNet"):
        run_as_door(convert, ["densenet", vit, tmp_path / "w.npz"])
    assert {path.name for path in tmp_path.iterdir()} == {"run", "small", "vit"}
