"""Images -> embeddings: the encoder by block, the grid of crops, channels, units, levels, digests, and the mistakes a user can make."""

import jax
import numpy as np
import pytest
from test_task_mae import make_batch, make_config, start

from phenomjax.inference import image_model
from phenomjax.inference.image_model import ImageModel
from phenomjax.models import vit
from phenomjax.tasks.mae import MaskedAutoencoder


@pytest.mark.parametrize("agnostic", [False, True])
def test_outputs_of_blocks(agnostic):
    """The last block is `embed`; block 1 does not depend on block 2, nor on whether layers are scanned."""
    batch = make_batch()
    options = {"model__channel_agnostic": agnostic, "model__layer_scale": 0.5}
    task, params = start(make_config(**options), batch)
    scanned = MaskedAutoencoder(make_config(model__scan_layers=True, **options))
    encode = image_model.features(ImageModel(None, 0, task.config, task, params, ""))
    y = encode(params, batch["pixels"], (2, 1))
    np.testing.assert_allclose(y[:, 0], task.embed(params, batch), rtol=1e-6, atol=1e-6)
    assert np.abs(y[:, 0] - y[:, 1]).max() > 0.1
    other = jax.tree.map(lambda x: x, params)
    other["encoder"]["blocks"].pop("layer_1")  # it would be missed if it were computed
    other.pop("decoder")
    np.testing.assert_array_equal(encode(other, batch["pixels"], (1,))[:, 0], y[:, 1])
    encode = image_model.features(ImageModel(None, 0, scanned.config, scanned, params, ""))
    stacked = vit.stack_layers(params)
    np.testing.assert_allclose(encode(stacked, batch["pixels"], (2, 1)), y, rtol=1e-5, atol=1e-6)
    if agnostic:
        channelwise = encode(stacked, batch["pixels"], (1,), True)
        np.testing.assert_allclose(channelwise.reshape(4, 3, 32).mean(1), y[:, 1], rtol=1e-5, atol=1e-6)
