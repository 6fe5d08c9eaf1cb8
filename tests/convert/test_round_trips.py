"""A model that goes to another project's file and comes back computes the same, whatever its
settings; what nobody says is asked for, and the answer works.
"""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax import tasks
from phenomjax.checkpoints import loading
from phenomjax.convert import __main__ as front
from phenomjax.convert import array_files, compare
from phenomjax.convert.described import their_config
from phenomjax.export import __main__ as export
from phenomjax.inference.variants.likelihood import variant_scores
from phenomjax.models import parametrisation, vit
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained import opening
from tests.export.test_export import write_run
from tests.lab import tiny_language_models
from tests.lab.doors import offered, run_as_door

# {case: (model, layout, file, changes)}: no value is the default one.
CASES = {
    "transformer_xl": (
        ("transformer_xl", "huggingface", "model.safetensors"),
        {
            "model__norm": "pre",
            "model__mem_len": 7,
            "model__clamp_len": 9,
            "model__same_length": "nvidia",
            "model__eval_mem_len": 11,
            "model__boundary": "bos_eos",
        },
    ),
    "kimiyoung": (
        ("transformer_xl", "kimiyoung", "w.npz"),
        {"model__norm": "pre", "model__untie_bias": False, "model__mem_len": 0},
    ),
    "xlnet": (
        ("xlnet", "huggingface", "w.hdf5"),
        {
            "model__mem_len": 5,
            "model__clamp_len": 4,
            "model__attention_type": "uni",
            "model__same_length": True,
            "model__gelu": "tanh",
            "model__boundary": "bos_eos",
        },
    ),
    "tensorflow": (("xlnet", "tensorflow", "w.npz"), {"model__gelu": "exact"}),
    "elmo": (
        ("elmo", "bilm", "w.hdf5"),
        {
            "model__cell_clip": 0.05,
            "model__projection_clip": 0.04,
            "model__skip_connections": False,
            "model__max_characters": 4,
            "model__boundary": "eos",
        },
    ),
    "allennlp": (("elmo", "allennlp", "w.safetensors"), {"model__projection_clip": 0.0}),
    "openphenom": (
        ("openphenom", "openphenom", "w.safetensors"),
        {"model__bias_order": "timm_legacy", "model__gelu": "tanh", "model__norm_eps": 1e-2},
    ),
    "prenorm": (
        ("openphenom", "openphenom", "w.npz"),
        {"model__block": "prenorm", "model__qk_norm": False, "model__class_token": False},
    ),
    "agnostic": (
        ("openphenom", "openphenom", "w.safetensors"),
        {"model__channel_agnostic": True, "model__scan_layers": True, "model__qk_norm": False},
    ),
}


def write(folder, case):
    (name, *_), changes = CASES[case]
    if name == "openphenom":
        return write_run(folder / "run", **changes)
    task = front.LANGUAGE_MODELS[name][0]
    changes = {"model__boundary": "eos", "model__rare": "keep", **changes}
    return tiny_language_models.write(folder / "run", task, model__alphabet="protein", **changes)


def convert(name, *words):
    return run_as_door(front, [name, *words]) or 0


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case, tmp_path, caplog):
    (name, layout, file), _ = CASES[case]
    run, theirs = write(tmp_path, case), tmp_path / "theirs" / file
    theirs.parent.mkdir()
    caplog.set_level(logging.INFO)
    words = name, run, theirs, "--layout", layout
    back = offered(lambda: convert(*words), "phenomjax.convert", front)
    assert (back.model, back.source, back.target) == (name, theirs, theirs.with_suffix(""))
    assert "against the model that was exported" in caplog.text and "the weights fit" not in (
        caplog.text
    )
    assert convert(name, theirs, tmp_path / "back") == 0
    config, params, _ = loading.load(run)
    again, params_again, _ = loading.load(tmp_path / "back")
    assert again.model.to_dict() == config.model.to_dict()
    assert all(again.data[key] == config.data[key] for key in ("segment_len",) if key in again.data)
    before, after = (
        compare.outputs(config, params),
        compare.outputs(again, params_again),
    )
    for key in before:
        if (case, key) != ("allennlp", "log-likelihoods"):
            np.testing.assert_allclose(after[key], before[key], rtol=1e-5, atol=1e-6)
    if case == "allennlp":
        assert "left out: the softmax" in caplog.text
        assert "the file has no softmax" in caplog.text
        with pytest.raises(UserError, match=r"has no softmax .*every variant would score 0"):
            variant_scores(opening.load_sequences(tmp_path / "back"), "MKT", [[(1, "A")]])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A Transformer-XL with pre-norm, exported."""
    folder = tmp_path_factory.mktemp("exported")
    convert("transformer_xl", write(folder, "transformer_xl"), folder / "model.safetensors")
    return folder


def bare(exported, folder):
    """The same arrays in a file that says nothing."""
    arrays = array_files.read_arrays(exported / "model.safetensors")
    array_files.write_arrays(folder / "w.npz", arrays)
    return folder / "w.npz"


def test_a_folder_with_one_file_of_weights_is_that_file(exported, tmp_path):
    weights = bare(exported, tmp_path)
    with pytest.raises(UserError, match="The arrays do not show norm"):
        convert("transformer_xl", tmp_path, tmp_path / "out")
    shutil.copy(weights, tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"several files of weights: a.npz, w.npz. Name one"):
        convert("transformer_xl", tmp_path, tmp_path / "out")


def test_what_nobody_says_is_asked_for_and_the_answer_works(exported, tmp_path, caplog):
    weights = bare(exported, tmp_path)
    with pytest.raises(UserError, match="The arrays do not show norm, mem_len") as asked:
        convert("transformer_xl", weights, tmp_path / "out")
    words = str(asked.value).split("--settings ")[1].split(". ")[0].split()
    assert {word.split("=")[0] for word in words} == {*their_config.ASKED["transformer_xl"]}
    assert not (tmp_path / "out").exists()
    caplog.set_level(logging.INFO)
    true = {"norm": "pre", "mem_len": "7", "clamp_len": "9", "same_length": "nvidia"}
    words = [f"{n}={true.get(n, v)}" for n, _, v in (word.partition("=") for word in words)]
    assert convert("transformer_xl", weights, tmp_path / "out", "--settings", *words) == 0
    assert "norm=pre (given)" in caplog.text and "their program was not run" in caplog.text
    assert loading.load(tmp_path / "out")[0].model.norm == "pre"
    for word, said in (
        ("norm=middle", "config.model.norm is 'middle'"),
        ("mem_len=long", "that is no int"),
        ("nrom=pre", "Did you mean 'norm'"),
        ("clamp_len=-3", "clamp_len is -3; it must be at least 0"),
        ("alphabet=bytes", "our bytes vocabulary has"),
    ):
        with pytest.raises(UserError, match=said):
            convert("transformer_xl", weights, tmp_path / "no", "--settings", *words, word)


def test_their_configuration_is_read_and_checked(exported, tmp_path, caplog):
    weights = bare(exported, tmp_path)
    theirs = json.loads((exported / "config.json").read_text())
    assert theirs["pre_lnorm"] is True and theirs["clamp_len"] == 9
    ours = theirs.pop("phenomjax")
    assert ours["tokens"][7] == "A" and ours["model"]["norm"] == "pre"
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    with pytest.raises(UserError, match=r"do not show alphabet, boundary, rare, and config\.json"):
        convert("transformer_xl", weights, tmp_path / "out")
    text = ["--settings", "alphabet=protein", "boundary=eos", "rare=x"]
    caplog.set_level(logging.INFO)
    assert convert("transformer_xl", weights, tmp_path / "out", *text) == 0
    assert "norm=pre (config.json)" in caplog.text
    for change, said in (
        ({"d_model": 32}, "config.json says embed_dim 32, and the arrays have 16"),
        ({"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon 0.001, and this model has 1e-05"),
        ({"model_type": "xlnet"}, "'xlnet', and this model has 'transfo-xl'"),
        ({"mem_len": [3]}, "mem_len"),
        ({"clamp_len": "far"}, "clamp_len 'far', which cannot be"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(theirs | change))
        with pytest.raises(UserError, match=said):
            convert("transformer_xl", weights, tmp_path / "no", *text)
    with pytest.raises(
        UserError, match=r"--settings says norm=post, and config\.json says norm pre"
    ):
        (tmp_path / "config.json").write_text(json.dumps(theirs))
        convert("transformer_xl", weights, tmp_path / "no", *text, "norm=post")
    for content in ("[1, 2]", "{", "\x00"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"config\.json, the configuration of the weights"):
            convert("transformer_xl", weights, tmp_path / "no", *text)


def test_a_configuration_beside_is_of_its_weights_only(exported, tmp_path, caplog):
    weights = bare(exported, tmp_path)
    shutil.copy(exported / "config.json", tmp_path)
    # its name is another one, its arrays are the same
    assert convert("transformer_xl", weights, tmp_path / "out") == 0
    arrays = array_files.read_arrays(weights)
    arrays = {name: x * np.float32(1.01) for name, x in arrays.items()}
    array_files.write_arrays(weights, arrays)
    with pytest.raises(UserError, match="The arrays do not show"):
        convert("transformer_xl", weights, tmp_path / "no")
    assert "it is of model.safetensors, not of w.npz" in caplog.text
    # trained further by another program, under its name
    array_files.write_arrays(tmp_path / "model.safetensors", arrays)
    assert convert("transformer_xl", tmp_path / "model.safetensors", tmp_path / "further") == 0
    assert "the arrays are not those" in caplog.text
    # and a run's own config.json is never overwritten
    run = write(tmp_path / "new", "elmo")
    before = (run / "config.json").read_bytes()
    assert convert("elmo", run, run / "w.npz") == 0
    assert (run / "config.json").read_bytes() == before and (run / "w.config.json").is_file()
    with pytest.raises(UserError, match="is there already"):
        convert("elmo", run, run / "w.npz")
    with pytest.raises(UserError, match="is, or is called like, a file"):
        convert("elmo", run / "w.npz", tmp_path / "x.npz")


def test_other_outputs_than_recorded_are_an_error(exported, tmp_path, monkeypatch):
    file = array_files.read(exported / "model.safetensors")
    about = file.about | {"model": file.about["model"] | {"norm": "post"}}
    weights = tmp_path / "w.npz"
    array_files.write_arrays(weights, file.arrays, about)
    with pytest.raises(UserError, match=r"the features differ by up to \d") as error:
        convert("transformer_xl", weights, tmp_path / "out")
    assert error.value.exit_code == EXIT_FAILED and not (tmp_path / "out").exists()
    for change, said in (
        ({"model": []}, "'model' is not what it should be"),
        ({"model": {"norm": 3}}, "says norm 3 of the weights, and that is no str"),
        ({"model": {"width": 3}}, "which this phenomjax does not know"),
        ({"model": about["model"] | {"num_layers": 10**9}}, "num_layers 1000000000, and the file"),
        (
            {"model": about["model"] | {"mem_len": 10**12}},
            "mem_len is 1000000000000; it must be at most",
        ),
        ({"outputs": {"features": "§"}}, "config|outputs .* are damaged"),
        ({"tokens": ["A", "B"]}, "another order of the protein vocabulary"),
        ({"version": 7}, "this phenomjax reads 'phenomjax weights', version 1"),
        ({"task": "mae"}, "are of the task mae"),
    ):
        array_files.write_arrays(weights, file.arrays, about | change)
        with pytest.raises(UserError, match=said):
            convert("transformer_xl", weights, tmp_path / "out")
    # what is exported wrong is not left
    monkeypatch.setattr(compare, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="nothing was written"):
        convert("transformer_xl", exported / "run", tmp_path / "wrong.npz")
    assert not (tmp_path / "wrong.npz").exists()


@pytest.mark.parametrize("inside", [True, False])
def test_an_export_comes_back(inside, tmp_path, caplog):
    run = write(tmp_path, "agnostic")
    caplog.set_level(logging.INFO)
    words = ["--checkpoint", run, "--format", "safetensors", "--out", tmp_path / "folder"]
    back = offered(lambda: run_as_door(export, words), "phenomjax.convert", front)
    assert (back.model, back.source) == ("openphenom", tmp_path / "folder")
    assert "run: features differ by at most" in caplog.text
    if not inside:  # another program wrote the file again
        weights = tmp_path / "folder" / "model.safetensors"
        array_files.write_arrays(weights, array_files.read_arrays(weights))
    assert convert("openphenom", tmp_path / "folder", tmp_path / "back") == 0
    config, params, _ = loading.load(run)
    again, params_again, _ = loading.load(tmp_path / "back")
    assert again.model.to_dict() == config.model.to_dict()
    jax.tree.map(np.testing.assert_array_equal, params_again, params)


@pytest.mark.torch
@pytest.mark.parametrize("case", ["transformer_xl", "xlnet"])
def test_hugging_face_opens_the_folder_and_computes_the_same(case, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    (name, _, _), changes = CASES[case]
    changes = {key: x for key, x in changes.items() if "same_length" not in key}
    task = front.LANGUAGE_MODELS[name][0]
    changes |= (
        {"model__alphabet": "protein", "model__eval_mem_len": 0}
        if (name == "transformer_xl")
        else {"model__alphabet": "protein", "model__attention_type": "bi"}
    )
    run = tiny_language_models.write(tmp_path / "run", task, **changes)
    (tmp_path / "hub").mkdir()
    assert convert(name, run, tmp_path / "hub" / "model.safetensors") == 0
    kind = {"transformer_xl": "TransfoXLModel", "xlnet": "XLNetModel"}[name]
    theirs = getattr(transformers, kind).from_pretrained(tmp_path / "hub").eval()
    config, params, _ = loading.load(run)
    config.model.dtype = "float32"
    task = tasks.make(config)
    tokens = np.random.default_rng(0).integers(7, 27, (2, 1, 12))
    batch = {"tokens": jnp.asarray(tokens), "lengths": jnp.full(2, 12)}
    carry = task.inference_carry(2, whole=False)
    if name == "transformer_xl":  # they attend to zeros where the memory is empty
        carry = {**carry, "valid": jnp.full(2, config.model.mem_len)}
    ours, _ = task.embed(jax.tree.map(jnp.asarray, params), batch, carry)
    with torch.no_grad():
        found = theirs(torch.tensor(tokens[:, 0]))[0].numpy()
    np.testing.assert_allclose(found, np.asarray(ours)[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", ["transformer_xl", "xlnet"])
def test_a_model_that_divides_its_logits_goes_out_as_one_that_does_not(tmp_path, name, scan):
    task = front.LANGUAGE_MODELS[name][0]
    how = {"parametrisation": "mup", "base_width": 4, "alphabet": "protein", "boundary": "eos"}
    changes = {f"model__{key}": value for key, value in {**how, "rare": "keep"}.items()}
    run = tiny_language_models.write(tmp_path / "run", task, **changes)
    config, params, _ = loading.load(run)
    if scan:
        config.model.scan_layers = True
        params = jax.device_get(vit.stack_layers(params))
    plain = config.copy_and_resolve_references()
    plain.model.update(parametrisation.plain(config.model))
    folded = parametrisation.folded(params, config.model)
    before, after, unfolded = (
        np.concatenate([x.ravel() for x in likelihoods(*each)])
        for each in ((config, params), (plain, folded), (plain, params))
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    assert np.abs(unfolded - before).max() > 0.01
    if scan:
        return
    assert front.main([name, str(run), str(tmp_path / "w.safetensors")]) == 0
    assert front.main([name, str(tmp_path / "w.safetensors"), str(tmp_path / "back")]) == 0
    back, again, _ = loading.load(tmp_path / "back")
    assert back.model.parametrisation == "standard"
    found = np.concatenate([x.ravel() for x in likelihoods(back, again)])
    np.testing.assert_allclose(found, before, rtol=1e-4, atol=1e-5)


def likelihoods(config, params):
    outputs = compare.outputs(config, params)
    return [np.asarray(x) for key, x in outputs.items() if "likelihood" in key]


def test_logits_that_no_norm_can_divide_are_refused(tmp_path):
    how = {"model__parametrisation": "mup", "model__base_width": 4, "model__norm": "pre"}
    run = tiny_language_models.write(tmp_path / "run", "causal_lm", **how)
    with pytest.raises(UserError, match=r"divides its logits by 4, .* norm 'pre', and none at"):
        front.run(front.Options(model="transformer_xl", source=run, target=tmp_path / "w.npz"))
