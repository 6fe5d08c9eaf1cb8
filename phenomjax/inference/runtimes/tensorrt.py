"""Embeds by TensorRT on an NVIDIA GPU: `--runtime tensorrt`, float16, or int8 with calibration
crops from a bank.

Options: precision (float16, int8), calibration (crops, for int8), bank (of these crops), cache
(also of the engine), min_cosine.
"""

from phenomjax.inference.runtimes.foreign import ForeignRuntime, number, read_options
from phenomjax.trained.graphs import graph, tensorrt_engine
from phenomjax.trained.model import ImageModel

PRECISIONS = ("float16", "int8")
EXTRA = {"calibration": "128"}


def make_runtime(
    model: ImageModel, settings: graph.GraphSettings, batch_size: int, options: dict[str, str]
) -> ForeignRuntime:
    """See `choose.make`."""
    chosen = read_options("tensorrt", options, PRECISIONS, EXTRA)
    tensorrt, _ = tensorrt_engine.library()
    settings = tensorrt_engine.settings_for(settings)
    calibration = number(chosen, "calibration", 1)
    path = tensorrt_engine.cached(
        model, settings, chosen.precision, batch_size, calibration, chosen.bank, chosen.cache
    )
    run = tensorrt_engine.loaded(path, batch_size, settings.image_shape, settings.pixels)
    description = f"tensorrt {tensorrt.__version__}, {chosen.precision}, engine {path.stem}"
    return ForeignRuntime("tensorrt", chosen.precision, description, run).check(
        model, settings, batch_size, chosen
    )
