"""A release in `transformers`: AutoModel and AutoConfig, offline, in the old version that the
parity tests have and in the new one that lies beside biotrainer.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from phenomjax.export import __main__ as front
from phenomjax.trained import image_model, opening
from tests.convert.test_densenet import write_run as write_classes
from tests.export.test_export import card_lines, write_run
from tests.export.test_export_classes import CASES, VIT

NEWER = Path(sys.prefix) / "biotrainer"
RELEASES = {
    "standard": (write_run, {"model__block": "prenorm", "model__position_grid": 3}),
    "agnostic": (write_run, {"model__channel_agnostic": True}),
    "cell_types": (write_classes, CASES["cell types"]),
    "vit": (write_classes, VIT | {"model__arcface_weight": 1.0}),
}
# What somebody does with releases who has no phenomjax; the answers go into NAME.npz.
PROGRAM = """
import json, sys
sys.modules["phenomjax"] = None
import numpy as np, torch
from transformers import AutoConfig, AutoModel
for name, code in json.loads(sys.argv[1]).items():
    names = {}
    exec(code, names)  # of the card
    assert len(names["embeddings"]) == 1
    given = {k: torch.from_numpy(x) for k, x in np.load(f"{name}.in.npz").items()}
    config = AutoConfig.from_pretrained(name, trust_remote_code=True)
    assert config.model_type == "phenomjax" and config.model["channels"], config
    model, told = AutoModel.from_pretrained(
        name, trust_remote_code=True, output_loading_info=True
    )
    assert not any(told.values()), told
    model.eval().save_pretrained(f"{name}_again")
    again = AutoModel.from_pretrained(f"{name}_again", trust_remote_code=True).eval()
    answers = {}
    with torch.no_grad():
        for whose, one in (("", model), ("again ", again)):
            outputs = one(**given)
            answers |= {whose + key: value.numpy() for key, value in outputs.items()}
            if name == "agnostic":
                more = {"blocks": (1, 2), "channelwise": True}
                answers[whose + "blocks"] = one(**given, **more).pooler_output.numpy()
                tokens = one(**given, output_tokens=True).last_hidden_state
                answers[whose + "tokens"] = tokens.mean(1).numpy()
    np.savez(f"{name}.out.npz", **answers)
"""


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """{name: model} of releases in a folder, with the pixels that they are asked about."""
    folder, models = tmp_path_factory.mktemp("releases"), {}
    for name, (write, options) in RELEASES.items():
        run = write(folder / f"{name} run", **options)
        words = ["--checkpoint", str(run), "--format", "release", "--licence", "MIT"]
        assert front.main([*words, "--out", str(folder / name)]) == 0
        models[name] = opening.load_images(run)
        size = (3, 5, 40, 48) if name == "agnostic" else (3, 3, 32, 32)
        drawn = np.random.default_rng(0).integers(0, 4096, size).astype(np.uint16)
        given = {"pixel_values": drawn}
        if name == "cell_types":
            given["cells"] = np.array([2, 0, 1])
        np.savez(folder / f"{name}.in.npz", **given)
    return folder, models


@pytest.mark.torch
@pytest.mark.parametrize("version", ["4", "5"])
def test_automodel_equals_ours_to_1e_4_and_is_saved_and_loaded(version, releases):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    folder, models = releases
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(folder / f"modules {version}"),
        "PYTHONPATH": "",
    }
    if version == "5":
        if not (NEWER / "transformers").is_dir():
            pytest.skip(f"the newer transformers is not in {NEWER}; .ci/run puts it there")
        environment["PYTHONPATH"] = str(NEWER)
    cards = {name: card_lines(folder / name, "transformers") for name in models}
    program = [sys.executable, "-c", PROGRAM, json.dumps(cards)]
    ended = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "newly initialized" not in ended.stderr
    for name, model in models.items():
        given, answers = np.load(folder / f"{name}.in.npz"), np.load(folder / f"{name}.out.npz")
        pixels = given["pixel_values"].transpose(0, 2, 3, 1)
        batch = {"pixels": pixels}
        if "cells" in given:
            batch["cell_type"] = given["cells"].astype(np.int32)
        expected = {"pooler_output": jax.jit(model.task.embed)(model.params, batch)[0][:, 0]}
        if name in ("cell_types", "vit"):
            expected["logits"] = jax.jit(model.task.logits)(model.params, batch)
        if name == "agnostic":
            encode = jax.jit(image_model.features(model), static_argnums=(2, 3))
            expected["blocks"] = encode(model.params, pixels, (1, 2), True)
            expected["tokens"] = expected["pooler_output"]
        assert {*answers} == {*expected, *(f"again {key}" for key in expected)}
        for key, value in expected.items():
            assert np.abs(value).max() > 0.1
            np.testing.assert_allclose(answers[key], value, atol=1e-4, rtol=1e-5)
            np.testing.assert_array_equal(answers[f"again {key}"], answers[key])
