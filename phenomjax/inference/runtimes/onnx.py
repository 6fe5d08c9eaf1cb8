"""Embeds by ONNX Runtime: `--runtime onnxruntime`, float32 or int8 (quantised after training), on a
CPU or a CUDA device.

Options: precision (float32, int8), provider (cpu, cuda), threads (0 = one a core), calibration
(crops, for int8), bank (of these crops), opset, cache, min_cosine.
"""

from phenomjax.inference.runtimes.foreign import ForeignRuntime, number, read_options
from phenomjax.system.errors import UserError
from phenomjax.trained.graphs import graph, onnx_file, quantise
from phenomjax.trained.model import ImageModel

PRECISIONS = ("float32", "int8")
EXTRA = {"provider": "cpu", "threads": "0", "calibration": "128", "opset": str(onnx_file.OPSET)}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def make_runtime(
    model: ImageModel, settings: graph.GraphSettings, batch_size: int, options: dict[str, str]
) -> ForeignRuntime:
    """See `choose.make`."""
    onnxruntime = onnx_file.library("onnxruntime")
    chosen = read_options("onnxruntime", options, PRECISIONS, EXTRA)
    provider = PROVIDERS.get(chosen.extra["provider"])
    if provider is None or provider not in onnxruntime.get_available_providers():
        there = [
            name
            for name, full in PROVIDERS.items()
            if full in onnxruntime.get_available_providers()
        ]
        raise UserError(
            f"provider={chosen.extra['provider']}: this onnxruntime has {', '.join(there)}. For an"
            " NVIDIA GPU install onnxruntime-gpu instead of onnxruntime."
        )
    path = onnx_file.cached(model, settings, number(chosen, "opset"), chosen.cache)
    if chosen.precision == "int8":
        path = quantise.cached(
            path, model, settings, number(chosen, "calibration", 1), chosen.bank, chosen.cache
        )
    run = onnx_file.session(path, number(chosen, "threads"), (provider,))
    description = f"onnxruntime {onnxruntime.__version__}, {provider}, graph {path.stem}"
    return ForeignRuntime("onnxruntime", chosen.precision, description, run).check(
        model, settings, batch_size, chosen
    )
