"""ELMo's weights in both layouts: exact both ways, strict, and the same features as allennlp's own
module, from the same HDF5 file.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax.config import keys
from phenomjax.convert import array_files
from phenomjax.convert import elmo as layout
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.models import elmo
from phenomjax.system.errors import UserError
from phenomjax.tasks.bidirectional_lm import BidirectionalLM
from tests.lab import reference_allennlp

FILTERS = ((1, 4), (2, 5), (3, 6))


def tiny():
    model = keys.base("bidirectional_lm").model
    model.update(
        alphabet="protein",
        boundary="bos_eos",
        vocab_size=32,
        char_dim=5,
        num_highway=2,
        max_characters=6,
    )
    model.update(projection_dim=6, cell_dim=7, num_layers=2, filters=FILTERS)
    return model


def random_params(model):
    """On a grid of 1/1024, so that adding 1 to the forget bias is exact."""
    random = np.random.default_rng(0)
    draw = lambda x: np.float32(np.round(random.normal(0, 0.5, x.shape) * 1024) / 1024)  # noqa: E731
    return jax.tree.map(draw, layout.abstract_params(model))


def test_both_ways_is_exact_in_both_layouts(tmp_path):
    model = tiny()
    params = random_params(model)
    array_files.write_arrays(tmp_path / "weights.hdf5", layout.to_state_dict(params, model))
    arrays = array_files.read_arrays(tmp_path / "weights.hdf5")
    inferred = layout.infer_model(arrays)
    assert inferred.to_dict() == model.to_dict()
    jax.tree.map(np.testing.assert_array_equal, layout.from_state_dict(arrays, inferred), params)
    for name, x in layout.to_state_dict(layout.from_state_dict(arrays, inferred), inferred).items():
        np.testing.assert_array_equal(x, arrays[name])

    theirs = layout.to_state_dict(params, model, "allennlp")
    prefixed = {f"_elmo_lstm.{name}": x for name, x in theirs.items()} | {
        "scalar_mix_0.gamma": np.ones(1)
    }
    for arrays in (theirs, prefixed):
        assert layout.infer_model(arrays).to_dict() == model.to_dict()
        back = layout.from_state_dict(arrays, model)
        assert not back["softmax"]["kernel"].any()  # their layout has none
        jax.tree.map(np.testing.assert_array_equal, {**back, "softmax": params["softmax"]}, params)
        for name, x in layout.to_state_dict(back, model, "allennlp").items():
            np.testing.assert_array_equal(x, theirs[name])


def test_layout_of_the_published_model():
    model = keys.base("bidirectional_lm").model
    model.update(cell_dim=4096, projection_dim=512, vocab_size=32)
    zeros = jax.tree.map(
        lambda x: np.broadcast_to(np.float32(0), x.shape), layout.abstract_params(model)
    )
    shapes = {name: x.shape for name, x in layout.to_state_dict(zeros, model).items()}
    assert shapes["char_embed"] == (261, 16) and shapes["CNN/W_cnn_6"] == (1, 7, 16, 1024)
    assert shapes["CNN_proj/W_proj"] == (2048, 512) and shapes["CNN_high_1/W_carry"] == (2048, 2048)
    cell = "RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/"
    assert [shapes[cell + name] for name in ("W_0", "B", "W_P_0")] == [
        (1024, 16384),
        (16384,),
        (4096, 512),
    ]
    assert len(shapes) == 1 + 14 + 8 + 2 + 12 + 2


def test_refuses_what_does_not_fit():
    model = tiny()
    arrays = layout.to_state_dict(random_params(model), model)
    with pytest.raises(
        UserError,
        match=r"These are not ELMo's weights: there is no char_embed \(first names: a, b\)",
    ):
        layout.infer_model({"a": np.zeros(1), "b": np.zeros(1)})
    wrong = {**arrays, "extra": np.zeros(2), "CNN/b_cnn_1": np.zeros(9)}
    del wrong["CNN_proj/b_proj"]
    with pytest.raises(UserError, match="nothing was converted") as error:
        layout.from_state_dict(wrong, model)
    for problem in (
        "CNN_proj/b_proj is missing",
        "CNN/b_cnn_1 has the shape (9,), the model's is (5,)",
        "extra (2,) has no place",
    ):
        assert problem in str(error.value)
    with pytest.raises(UserError, match="no layout 'tf'"):
        layout.to_state_dict({}, model, "tf")


@pytest.mark.torch
def test_equals_allennlp(tmp_path):
    """All layers, stateless and stateful, of sequences of different lengths, at 50 characters a
    word there and 6 here.
    """
    torch = pytest.importorskip("torch", reason="the reference needs PyTorch")
    reference = reference_allennlp.load()
    if reference is None:
        pytest.skip("allennlp is not installed: pip install --no-deps allennlp==2.10.1")
    model = tiny()
    model.update(cell_clip=0.4, projection_clip=0.3, dtype="float32")
    params = random_params(model)
    array_files.write_arrays(tmp_path / "weights.hdf5", layout.to_state_dict(params, model))
    options = {
        "lstm": {
            "projection_dim": 6,
            "dim": 7,
            "n_layers": 2,
            "cell_clip": 0.4,
            "proj_clip": 0.3,
            "use_skip_connections": True,
        },
        "char_cnn": {
            "activation": "relu",
            "filters": FILTERS,
            "n_highway": 2,
            "embedding": {"dim": 5},
            "max_characters_per_token": 50,
            "n_characters": 262,
        },
    }
    (tmp_path / "options.json").write_text(json.dumps(options))
    theirs = reference._ElmoBiLm(str(tmp_path / "options.json"), str(tmp_path / "weights.hdf5"))
    for name, x in layout.to_state_dict(params, model, "allennlp").items():
        np.testing.assert_array_equal(theirs.state_dict()[name], x, err_msg=name)

    config = keys.base("bidirectional_lm")
    config.model = model
    layers, state = jax.jit(BidirectionalLM(config).layers), BidirectionalLM(config).state(3)
    random, lengths = np.random.default_rng(1), np.array([5, 9, 1])
    spelled = elmo.character_table(vocabulary("protein").tokens, 32, 50) + 1
    for call in range(2):  # the second goes on with the states of the first
        tokens = random.integers(7, 28, (3, 9))
        inside = np.arange(9) < lengths[:, None]
        with torch.no_grad():
            out = theirs(
                torch.tensor(np.where(inside[..., None], spelled[tokens], 0), dtype=torch.long)
            )
        ours, state = layers(params, jnp.asarray(tokens), jnp.asarray(lengths), state)
        for layer, expected in enumerate(out["activations"]):
            for row, length in enumerate(lengths):
                expected_row = expected[row, 1 : length + 1].numpy()
                np.testing.assert_allclose(
                    ours[row, layer, :length],
                    expected_row,
                    rtol=1e-4,
                    atol=1e-5,
                    err_msg=f"{call} {layer} {row}",
                )
