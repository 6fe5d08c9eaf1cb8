"""The adapter to the benchmarks of CHAMMI-75, with a stand-in of their interface."""

from abc import ABC, abstractmethod

import jax
import numpy as np
import pytest

from phenomjax.inference.chammi75 import Encoder
from phenomjax.system.errors import UserError
from tests.inference.test_embed_images import write_run

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the benchmarks' images are tensors of PyTorch")


class Model(ABC):
    """What the benchmarks ask of a model."""

    @abstractmethod
    def __call__(self, patches): ...

    @abstractmethod
    def to(self, device): ...

    @abstractmethod
    def get_model(self): ...

    @abstractmethod
    def get_patch_info(self): ...


class Adapted(Encoder, Model):
    """Nothing of the interface is left to be written."""


def images(count, channels, size=32):
    shape = (count, channels, size, size)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)


def loop(torch, model, batches):
    """What the benchmarks do: move, pad to patches, embed, put together."""
    inner, transform = model.get_model()
    inner = inner.to(torch.device("cpu"))
    assert transform is None and len(model.get_patch_info()) == 2
    assert model.feature_file.endswith("_features.npy")
    features = [model(torch.from_numpy(batch)) for batch in batches]
    together = np.concatenate(features)
    np.testing.assert_array_equal(torch.cat(features, dim=0).numpy(), together)
    return together


def test_a_channel_agnostic_model(torch, tmp_path):
    workdir, task, params = write_run(tmp_path / "run", model__channel_agnostic=True)
    model = Adapted(workdir, "cpu", size=32, batch_size=4)
    pixels = images(6, 5)  # channels of which the run knows three
    found = loop(torch, model, [pixels, pixels[:3] / 255])
    scaled = (pixels * 255 / pixels.max((1, 2, 3), keepdims=True)).transpose(0, 2, 3, 1)
    encode = jax.jit(lambda p, x: task.embed(p, {"pixels": x}, channelwise=True)[0][:, 0])
    np.testing.assert_allclose(found[:6], encode(params, scaled), rtol=1e-4, atol=1e-5)
    # the range of the values says nothing
    np.testing.assert_allclose(found[6:], found[:3], rtol=1e-4, atol=1e-5)
    assert found.shape == (9, 5 * 32) and found.dtype == np.float32


def test_a_model_of_fixed_channels(torch, tmp_path):
    workdir, task, params = write_run(tmp_path / "run")
    model = Adapted(workdir, torch.device("cpu"), size=32, block=1)
    pixels = images(3, 2)
    found = loop(torch, model, [pixels])
    encode = jax.jit(lambda p, x: task.embed(p, {"pixels": x}, blocks=(1,))[0][:, 0])
    scaled = pixels * 255 / pixels.max((1, 2, 3), keepdims=True)
    for channel in range(2):
        one = np.repeat(scaled[:, channel, :, :, None], 3, axis=-1)
        expected = encode(params, one)
        own = found[:, channel * 32 : (channel + 1) * 32]
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)
    twin = Adapted(workdir, size=32, block=1, random_weights=1)  # the run began with seed 0
    assert np.abs(twin(torch.from_numpy(pixels)).numpy() - found).max() > 0.1


def test_sizes(torch, tmp_path):
    workdir, _, _ = write_run(tmp_path / "run")
    model = Adapted(workdir, size=32)
    flat = torch.full((2, 1, 50, 40), 7.0)
    flat[:, :, 25:] = 3
    assert model(flat).shape == (2, 32)
    halves = torch.full((2, 1, 32, 32), 7.0)
    halves[:, :, 16:] = 3
    np.testing.assert_allclose(model(flat), model(halves), atol=0.1)  # but for the blurred edge
    assert torch.isfinite(model(torch.zeros(1, 1, 32, 32))).all()
    with pytest.raises(UserError, match=r"`size` 30: .* multiples of 8 px"):
        Adapted(workdir, size=30)
    with pytest.raises(UserError, match=r"blocks 1 to 2"):
        Adapted(workdir, size=32, block=3)
