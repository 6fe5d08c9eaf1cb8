"""XLNet weights in other projects' layouts: there and back, and what is said of misfits."""

import jax
import numpy as np
import pytest

from phenomjax.convert import xlnet as convert
from phenomjax.models import vit
from phenomjax.system.errors import UserError
from tests.models.test_xlnet import random_params, tiny


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("layout", convert.LAYOUTS)
@pytest.mark.parametrize("untie_bias", [False, True])
def test_there_and_back(layout, untie_bias):
    model = tiny(untie_bias=untie_bias)
    params = random_params(model)
    state = convert.to_state_dict(vit.stack_layers(params), model, layout)
    inferred = convert.infer_model(state)
    assert inferred.untie_bias == (untie_bias or layout == "huggingface")
    assert all(
        inferred[key] == model[key] for key in convert.INFERRED if key not in ("untie_bias", "gelu")
    )
    equal(convert.from_state_dict(state, model), params)


def test_tensorflow_names_and_shapes():
    state = convert.to_state_dict(random_params(tiny()), tiny(), "tensorflow")
    assert state["model/transformer/r_s_bias"].shape == (2, 2, 6)
    assert state["model/transformer/seg_embed"].shape == (2, 2, 2, 6)
    assert state["model/transformer/layer_1/rel_attn/o/kernel"].shape == (12, 2, 6)
    assert state["model/transformer/layer_0/ff/layer_1/kernel"].shape == (12, 20)
    assert state["model/transformer/mask_emb/mask_emb"].shape == (1, 1, 12)
    with_slots = state | {
        "global_step": np.array(3),
        "model/lm_loss/bias/Adam": state["model/lm_loss/bias"],
    }
    equal(convert.from_state_dict(with_slots, tiny()), convert.from_state_dict(state, tiny()))


def test_misfits_are_named():
    model = tiny()
    state = convert.to_state_dict(random_params(model), model)
    del state["transformer.layer.1.rel_attn.q"]
    state["transformer.layer.0.ff.layer_1.bias"] = np.zeros(3, np.float32)
    state["extra"] = np.zeros(2)
    with pytest.raises(UserError, match=r"rel_attn\.q is missing.*|\(3,\).*") as error:
        convert.from_state_dict(state, model)
    assert "extra (2,) has no place" in str(error.value) and "rel_attn.q is missing" in str(
        error.value
    )
    with pytest.raises(UserError, match="no XLNet layout"):
        convert.infer_model({"a": np.zeros(1)})
    with pytest.raises(UserError, match="There is no XLNet layout"):
        convert.to_state_dict({}, model, "mxnet")
    untied = convert.to_state_dict(random_params(model), model)
    with pytest.raises(UserError, match="differs between the layers"):
        convert.from_state_dict(untied, tiny(untie_bias=False))
    with pytest.raises(UserError, match="is not the embedding"):
        convert.from_state_dict(untied | {convert.OUTPUT: np.zeros((32, 12))}, model)
