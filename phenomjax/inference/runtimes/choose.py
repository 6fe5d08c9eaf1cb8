"""What computes embeddings: one protocol, and a table of the runtimes that keep it (JAX here, the
others in files of their own).
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from phenomjax.models.batch_norm import RUNNING
from phenomjax.system.errors import UserError, did_you_mean
from phenomjax.system.types import Params
from phenomjax.trained import image_model
from phenomjax.trained.domain_statistics import flatten
from phenomjax.trained.graphs import graph
from phenomjax.trained.model import ImageModel

Result = Callable[[], np.ndarray]

# name -> module with `make_runtime`, whose arguments are those of `make` but the name
RUNTIMES = {
    "jax": "phenomjax.inference.runtimes.choose",
    "onnxruntime": "phenomjax.inference.runtimes.onnx",
    "openvino": "phenomjax.inference.runtimes.openvino",
    "tensorrt": "phenomjax.inference.runtimes.tensorrt",
}


class Given(NamedTuple):
    """What a batch comes with besides its pixels.

    Attributes:
      rows: {name: array with a row a crop}, such as `cell_type` and `domain`.
      stored: in place of the model's parameters of these names; the same object for batches that
        have the same.
    """

    rows: Mapping[str, np.ndarray]
    stored: Params


NOTHING = Given({}, {})


class Runtime(Protocol):
    """An encoder that is ready to run.

    Attributes:
      name: in RUNTIMES.
      precision: of the products, for instance "float32", "bfloat16", "int8"; decides the numbers,
        so it is recorded.
      description: one line for people: library, version, device.
    """

    name: str
    precision: str
    description: str

    def submit(self, pixels: np.ndarray, given: Given = NOTHING) -> Result:
        """Starts on a batch [batch_size, height, width, C] and returns at once where it can; only
        JAX reads what is given besides.

        The caller leaves `pixels` as they are until it has called what is returned, which waits for
        the embeddings: float32 [batch_size, blocks, dim].
        """
        ...


def make(
    name: str,
    model: ImageModel,
    settings: graph.GraphSettings,
    batch_size: int,
    options: Mapping[str, str] | None = None,
) -> Runtime:
    """Makes a runtime for batches of one shape.

    Args:
      name: in RUNTIMES.
      model: what to run.
      settings: which blocks, and of what pixels; channels in the order of the model.
      batch_size: images of a batch.
      options: of the runtime, by name.

    Raises:
      UserError: unknown name or option, or its library is not installed.
    """
    if name not in RUNTIMES:
        raise UserError(
            f"`runtime` {name} is not known.{did_you_mean(name, RUNTIMES)} It can be"
            f" {', '.join(RUNTIMES)}."
        )
    module = importlib.import_module(RUNTIMES[name])
    return module.make_runtime(model, settings, batch_size, dict(options or {}))


class JaxRuntime:
    """The model as it was trained, compiled by XLA; a batch is divided over the devices of this
    process.
    """

    name = "jax"

    def __init__(
        self,
        model: ImageModel,
        settings: graph.GraphSettings,
        devices: Sequence[jax.Device],
    ):
        self.precision = np.dtype(model.task.dtype).name
        self.description = (
            f"jax {jax.__version__}, {len(devices)} x {devices[0].device_kind}, {self.precision}"
        )
        self._params, self._sharding = image_model.on_devices(
            image_model.encoder_params(model), devices
        )
        self.num_devices = len(devices)
        self._everywhere = NamedSharding(self._sharding.mesh, PartitionSpec())
        self._stored: tuple[Params, Params] = ({}, {})  # what was given, and that on the devices
        encode = image_model.features(model)
        self._encode = jax.jit(
            lambda params, pixels, rows: encode(
                params, pixels, settings.blocks, settings.channelwise, rows
            )
        )
        self._moments = jax.jit(
            lambda params, pixels, rows: model.task.moments(params, {"pixels": pixels, **rows})
        )

    @property
    def features(self) -> int:
        """Of all batch norms together."""
        return flatten(self._params[RUNNING]).shape[-1]

    def submit(self, pixels: np.ndarray, given: Given = NOTHING) -> Result:
        if given.stored is not self._stored[0]:
            self._stored = given.stored, jax.device_put(given.stored, self._everywhere)
        params = {**self._params, **self._stored[1]}
        result = self._encode(params, *self._placed(pixels, given))
        return lambda: np.asarray(result)

    def moments(self, pixels: np.ndarray, given: Given) -> Params:
        """Starts on the moments that batch norms see of a batch of any size that the devices
        divide, see `ImageObjective.moments`; arrays that need not be there yet.
        """
        return self._moments(self._params, *self._placed(pixels, given))

    def _placed(self, pixels: np.ndarray, given: Given) -> tuple[jax.Array, dict[str, jax.Array]]:
        return jax.device_put((pixels, dict(given.rows)), self._sharding)


def make_runtime(
    model: ImageModel, settings: graph.GraphSettings, batch_size: int, options: dict[str, str]
) -> JaxRuntime:
    """The JAX runtime; option `devices` is how many of this process's devices it uses (default
    all).
    """
    local = jax.local_devices()
    for name in options:
        if name != "devices":
            raise UserError(f"The jax runtime has no option '{name}'; there is: devices.")
    count = int(options.get("devices") or len(local))
    if not 1 <= count <= len(local):
        raise UserError(
            f"`devices` {count}: this machine has {len(local)} ({local[0].device_kind})."
        )
    if batch_size % count:
        raise UserError(
            f"The batch of {batch_size} crops does not divide over {count} devices. Give a"
            f" `batch_size` that is a multiple of {count}."
        )
    return JaxRuntime(model, settings, local[:count])
