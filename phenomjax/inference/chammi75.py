"""Our encoders in the benchmarks of CHAMMI-75 (CHAMMI, CellPHIE, HPAv23, JUMP-CP, IDR0017, RBC-MC).

Those benchmarks read every model through one class, `Model` of their benchmarks/models.py
(CaicedoLab/CHAMMI-75, MIT): `__call__` takes images [batch, channel, height, width] and returns
embeddings [batch, embed]; `to`, `get_model` and `get_patch_info` say where it is and how it cuts
images. `Encoder` here keeps that interface. In their `get_model`:

    elif model_name == "phenomjax":
        from phenomjax.inference.chammi75 import Encoder
        model = Encoder(model_path, device)

then model_type: phenomjax and the workdir of a run, or a release folder, in benchmark_config.yaml.
With torch on the same GPU, start it with XLA_PYTHON_CLIENT_PREALLOCATE=false.

Channels differ from benchmark to benchmark, so every channel has an embedding of its own and these
lie side by side ("bag of channels", as their wrappers of other models have it): of a
channel-agnostic model those of one pass over all channels, of another those of the image with this
channel in the place of each that it was trained with.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, Num

from phenomjax.system.errors import UserError
from phenomjax.trained import image_model
from phenomjax.trained.twin import load_images

if TYPE_CHECKING:
    import torch

SIZE = 224  # px, to which the benchmarks' own wrappers resize


class Encoder:
    """A trained image model with the interface of the benchmarks' `Model`.

    Args:
      checkpoint: workdir of a run, one of its checkpoints/STEP folders, or a release folder.
      device: of torch, as text or object; "cuda:1" is JAX's second GPU.
      block: of the encoder, from 1; None: the last one.
      size: to which images are resized, pixels; a multiple of the patch size.
      batch_size: images that are computed at once; larger batches are divided.
      random_weights: seed of the untrained twin instead of the trained model.

    Raises:
      UserError: no such model or block, or a size that is no multiple of its patches.
    """

    feature_file = "pretrained_phenomjax_features.npy"

    def __init__(
        self,
        checkpoint: str | Path,
        device: object = "cpu",
        *,
        block: int | None = None,
        size: int = SIZE,
        batch_size: int = 64,
        random_weights: int | None = None,
    ):
        model = load_images(checkpoint, random_weights=random_weights)
        shape = model.config.model
        multiple = model.task.pixels_multiple
        if size % multiple:
            raise UserError(
                f"`size` {size}: this model reads images of multiples of {multiple} px, so give"
                " one."
            )
        blocks = image_model.check_blocks(model, () if block is None else (block,))
        self._patch_size, self._size, self._batch_size = multiple, size, batch_size
        self._agnostic, self._inputs = shape.channel_agnostic, len(shape.channels)
        self._params = image_model.encoder_params(model)
        encode = image_model.features(model)
        self._encode = jax.jit(
            lambda params, pixels: encode(params, pixels, blocks, self._agnostic)[:, 0]
        )
        self.to(device)

    def to(self, device: object) -> "Encoder":
        """Puts the parameters there; where JAX has no such device, to its default one."""
        kind, _, index = str(device).partition(":")
        try:
            places = jax.local_devices(backend="gpu" if kind == "cuda" else kind)
        except RuntimeError:
            places = jax.local_devices()
        self._device = places[min(int(index or 0), len(places) - 1)]
        self._params = jax.device_put(self._params, self._device)
        return self

    def get_model(self) -> tuple["Encoder", Any]:
        """The model, and no transform: `__call__` does all that the images need."""
        return self, None

    def get_patch_info(self) -> tuple[int, int]:
        """(height, width) of a patch, to whose multiples some benchmarks pad."""
        return self._patch_size, self._patch_size

    def __call__(self, patches: "torch.Tensor") -> "torch.Tensor":
        """Embeddings, float32 [batch, channel * embed], on the CPU.

        Args:
          patches: [batch, channel, height, width], any type and range. Each image is brought to
            0 to 255 by its largest value: the benchmarks give 0 to 1 or 0 to 255, and the encoder
            standardises each channel with a floor in grey levels.
        """
        import torch

        images = patches.detach().to(torch.float32)
        if images.shape[-2:] != (self._size, self._size):
            images = torch.nn.functional.interpolate(
                images, (self._size, self._size), mode="bilinear", antialias=True
            )
        largest = images.amax((1, 2, 3), keepdim=True).clamp(min=1e-20)
        pixels = (images * (255 / largest)).permute(0, 2, 3, 1).cpu().numpy()
        if self._agnostic:
            return torch.from_numpy(self._embed(pixels))
        channels = [
            self._embed(np.repeat(pixels[..., [channel]], self._inputs, axis=-1))
            for channel in range(pixels.shape[-1])
        ]
        return torch.from_numpy(np.concatenate(channels, axis=1))

    def _embed(
        self, pixels: Num[np.ndarray, "batch height width channel"]
    ) -> Float[np.ndarray, "batch dim"]:
        """In batches of one shape, the last one filled up: so it compiles once."""
        found = []
        for first in range(0, len(pixels), self._batch_size):
            part = pixels[first : first + self._batch_size]
            missing = min(self._batch_size, len(pixels)) - len(part)
            padded = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
            result = self._encode(self._params, jax.device_put(padded, self._device))
            found.append(np.asarray(result)[: len(part)])
        return np.concatenate(found)
