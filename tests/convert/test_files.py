"""The converter: exact both ways, strict about names and shapes, and never unpickling."""

import pickle

import jax
import numpy as np
import pytest
from flax import traverse_util

from phenomjax.checkpoints import loading
from phenomjax.config import keys
from phenomjax.convert import __main__ as front
from phenomjax.convert import array_files, families, openphenom
from phenomjax.convert.described import their_config
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.models import vit
from phenomjax.system.errors import UserError


def tiny(agnostic):
    model = keys.base().model
    model.update(
        embed_dim=24,
        depth=2,
        num_heads=3,
        patch_size=4,
        decoder_dim=16,
        decoder_depth=2,
        decoder_num_heads=2,
    )
    model.channels, model.channel_agnostic = tuple("abcde"), agnostic
    model.bias_order = "timm_legacy"
    return model


def random_params(model):
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: random.standard_normal(x.shape, np.float32), openphenom.abstract_params(model)
    )


@pytest.mark.parametrize("agnostic", [False, True])
def test_both_ways_is_exact(agnostic):
    model = tiny(agnostic)
    params = random_params(model)
    state = openphenom.to_state_dict(params, model, grid=3, max_channels=7)
    inferred = openphenom.infer_model(state, decoder_num_heads=2)
    for key in openphenom.INFERRED:
        assert inferred[key] == model[key], key
    assert len(inferred.channels) == 5
    jax.tree.map(np.testing.assert_array_equal, openphenom.from_state_dict(state, inferred), params)
    scanned = jax.tree.map(np.asarray, vit.stack_layers(params))
    again = openphenom.to_state_dict(scanned, model, grid=3, max_channels=7)
    assert set(again) == set(state)
    for name in state:
        np.testing.assert_array_equal(again[name], state[name])


def test_layout_of_the_released_model():
    """765 names, with the shapes of the released file; checked abstractly."""
    model = keys.base().model
    model.channels, model.channel_agnostic = tuple("abcdef"), True
    zeros = jax.tree.map(
        lambda x: np.broadcast_to(np.float32(0), x.shape), openphenom.abstract_params(model)
    )
    state = openphenom.to_state_dict(zeros, model, grid=16, max_channels=11)
    assert len(state) == 765
    shapes = {
        "encoder.vit_backbone.cls_token": (1, 1, 384),
        "encoder.vit_backbone.pos_embed": (1, 2817, 384),
        "encoder.vit_backbone.patch_embed.proj.weight": (384, 1, 16, 16),
        "encoder.vit_backbone.blocks.11.in_proj.weight": (2688, 384),
        "encoder.vit_backbone.blocks.11.mlp_bias": (1536,),
        "encoder.vit_backbone.blocks.0.k_norm.weight": (64,),
        "encoder.vit_backbone.blocks.0.mlp_out_proj.weight": (384, 1536),
        "encoder.vit_backbone.fc_norm.bias": (384,),
        "encoder_decoder_proj.weight": (512, 384),
        "decoder.pos_embeddings": (1, 1537, 512),
        "decoder.modality_tokens.5": (1, 1, 512),
        "decoder.cross_attention.kv.weight": (1024, 512),
        "decoder.cross_attention.proj.bias": (512,),
        "decoder.decoders.5.7.attn.qkv.weight": (1536, 512),
        "decoder.decoders.0.0.mlp.fc2.weight": (512, 2048),
        "decoder_pred.weight": (256, 512),
    }
    assert {name: state[name].shape for name in shapes} == shapes


def test_misfits_are_listed_and_nothing_is_converted():
    model = tiny(False)
    state = openphenom.to_state_dict(random_params(model), model)
    del state["decoder.mask_token"]
    # same size, other sides
    state["decoder.blocks.0.mlp.fc1.weight"] = state["decoder.blocks.0.mlp.fc1.weight"].T
    state["head.weight"] = np.zeros((3, 2))
    with pytest.raises(UserError) as error:
        openphenom.from_state_dict(state, model)
    for part in (
        "nothing was converted",
        "decoder.mask_token is missing",
        (
            "decoder.blocks.0.mlp.fc1.weight has the shape (16, 64), the model's"
            " decoder/blocks/layer_0/mlp/in/kernel is (16, 64)"
        ),
        "head.weight (3, 2) has no place in the model",
    ):
        assert part in str(error.value)


def test_other_layouts_positions_and_blocks_are_refused():
    with pytest.raises(
        UserError,
        match=r"This is not the OpenPhenom layout: it has no encoder.vit_backbone.patch_embed",
    ):
        openphenom.infer_model({"blocks.0.weight": np.zeros(2)})
    model = tiny(False)
    state = openphenom.to_state_dict(random_params(model), model, grid=4)
    table = state["encoder.vit_backbone.pos_embed"]
    state["encoder.vit_backbone.pos_embed"] = np.concatenate(
        [table[..., 12:], table[..., :12]], axis=-1
    )  # column first
    with pytest.raises(
        UserError, match=r"pos_embed .* is not the fixed table of this architecture"
    ):
        openphenom.from_state_dict(state, model)
    model.block = "prenorm"  # has timm's names, but is not told by them
    params = random_params(model)
    state = openphenom.to_state_dict(params, model)
    assert state["encoder.vit_backbone.blocks.1.attn.qkv.bias"].shape == (72,)
    jax.tree.map(np.testing.assert_array_equal, openphenom.from_state_dict(state, model), params)
    with pytest.raises(UserError, match=r"it has no encoder.vit_backbone.blocks.0.in_proj.weight"):
        openphenom.infer_model(state)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_and_the_front_door(tmp_path, suffix):
    model = tiny(True)
    params = random_params(model)
    theirs, ours, back = (
        tmp_path / f"theirs{suffix}",
        tmp_path / "workdir",
        tmp_path / f"back{suffix}",
    )
    state = openphenom.to_state_dict(params, model, grid=4)
    array_files.write_arrays(theirs, state)
    arguments = ["openphenom", str(theirs), str(ours), "--decoder-heads", "2", "--crop-size", "16"]
    arguments += ["--settings", "bias_order=timm_legacy", "gelu=exact", "norm_eps=1e-6"]
    arguments += ["decoder_norm_eps=1e-5"]
    with pytest.raises(UserError, match="--channels gives 1 names, and the model has 5 channels"):
        front.main([*arguments, "--channels", "DNA"])
    assert front.main([*arguments, "--channels", "DNA,ER,actin,RNA,Mito"]) == 0
    config, loaded, step = loading.load(ours)
    assert (step, config.model.channels, config.model.bias_order) == (
        0,
        ("DNA", "ER", "actin", "RNA", "Mito"),
        "timm_legacy",
    )
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert front.main(["openphenom", str(ours), str(back)]) == 0
    again = array_files.read_arrays(back)
    assert set(again) == set(state)
    for name in state:
        np.testing.assert_array_equal(again[name], state[name])
    with pytest.raises(UserError, match="holds a run already"):
        front.main([*arguments, "--channels", "DNA,ER,actin,RNA,Mito"])


def test_bad_files(tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        array_files.read_arrays(tmp_path / "absent.safetensors")
    (tmp_path / "page.html").write_text("<html>not a checkpoint</html>")
    with pytest.raises(UserError, match="neither safetensors, npz, a torch file nor HDF5"):
        array_files.read_arrays(tmp_path / "page.html")
    (tmp_path / "cut.safetensors").write_bytes((100).to_bytes(8, "little") + b'{"a"')
    with pytest.raises(UserError, match="looks like safetensors but cannot be read"):
        array_files.read_arrays(tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match=r"can be written as .safetensors, .npz or .hdf5"):
        array_files.write_arrays(tmp_path / "x.bin", {})


class Explosive:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.torch
def test_torch_files_hold_tensors_or_are_not_opened(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pt"
    torch.save(
        {"state_dict": {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.bfloat16)}}, path
    )
    arrays = array_files.read_arrays(path)
    np.testing.assert_array_equal(arrays["a"], [0, 1, 2])
    assert arrays["b"].dtype == np.float32
    for protocol in (2, 4):
        bad = tmp_path / "model.safetensors"  # a pickle under another name
        bad.write_bytes(pickle.dumps({"a": Explosive()}, protocol=protocol))
        with pytest.raises(
            UserError, match="holds more than tensors, or is damaged, and is not opened"
        ):
            array_files.read_arrays(bad)
    torch.save({"a": Explosive()}, path)
    with pytest.raises(UserError, match="unpickling it could run any code"):
        array_files.read_arrays(path)


@pytest.mark.parametrize("name", front.LANGUAGE_MODELS)
def test_command_line_of_language_models(name, tmp_path):
    task, module = front.LANGUAGE_MODELS[name]
    model = keys.base(task).model
    sizes = {
        "vocab_size": 32,
        "embed_dim": 16,
        "num_layers": 1,
        "num_heads": 2,
        "head_dim": 8,
        "mlp_dim": 8,
        "projection_dim": 8,
        "cell_dim": 12,
    }
    model.update({key: value for key, value in sizes.items() if key in model})
    shapes = module.abstract_params(model)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    asked = {key: value for key, value in their_config.ASKED[name].items() if key != "alphabet"}
    settings = ["--settings", *(f"{key}={value}" for key, value in asked.items())]
    for layout in front.LAYOUTS[name]:
        theirs, ours, back = (
            tmp_path / f"{layout}.npz",
            tmp_path / layout,
            tmp_path / f"{layout}_back.npz",
        )
        array_files.write_arrays(theirs, module.to_state_dict(params, model, layout))
        assert front.main([name, str(theirs), str(ours), *settings, "alphabet=protein"]) == 0
        assert front.main([name, str(ours), str(back), "--layout", layout]) == 0
        first, second = array_files.read_arrays(theirs), array_files.read_arrays(back)
        assert first.keys() == second.keys()
        for key in first:
            np.testing.assert_allclose(second[key], first[key], rtol=1e-6, atol=1e-7, err_msg=key)
    if name != "elmo":
        check_renumbering(name, module, model, params, tmp_path, settings)
    with pytest.raises(
        UserError, match=f"is a run of the task {task}, and openphenom weights are of mae"
    ):
        front.main(["openphenom", str(ours), str(tmp_path / "x.npz")])
    with pytest.raises(UserError, match=f"{name} has no layout 'tf'"):
        front.main([name, str(ours), str(tmp_path / "x.npz"), "--layout", "tf"])


def check_renumbering(name, module, model, params, folder, settings):
    """Their ids are ours backwards, with other names and without the rare letters."""
    words = vocabulary("protein")
    names = {
        "<bos>": "<s>",
        "<eos>": "</s>",
        "M": "\u2581M",
        "B": "x1",
        "O": "x2",
        "U": "x3",
        "Z": "x4",
    }
    theirs, ours = folder / "theirs.npz", folder / "renumbered"
    array_files.write_arrays(theirs, module.to_state_dict(params, model))
    listed = folder / "vocabulary.txt"
    listed.write_text("\n".join(names.get(token, token) for token in reversed(words.tokens)) + "\n")
    words_of = ["--vocabulary", str(listed), *settings]
    assert front.main([name, str(theirs), str(ours), *words_of]) == 0
    flat = traverse_util.flatten_dict(loading.load(ours)[1], sep="/")
    for path in families.vocabulary_paths(name, model):
        before = np.asarray(traverse_util.flatten_dict(params, sep="/")[path])[::-1]
        expected = [
            before[words.ids["<unk>" if token in "BOUZ" else token]] for token in words.tokens
        ]
        np.testing.assert_array_equal(flat[path], expected)
    listed.write_text("\n".join(words.tokens[:-1]))
    with pytest.raises(UserError, match=r"lists 31 tokens, and the weights have 32"):
        front.main([name, str(theirs), str(folder / "y"), *words_of])
    listed.write_bytes(b"\x08\xff\xfe model")
    with pytest.raises(UserError, match=r"cannot be read .*its \.vocab, not its \.model"):
        front.main([name, str(theirs), str(folder / "y"), *words_of])
    listed.write_text("the\nof\n<unk>\n")
    with pytest.raises(UserError, match=r"no token of the protein vocabulary"):
        front.main([name, str(theirs), str(folder / "y"), *words_of])
