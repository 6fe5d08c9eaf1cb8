"""Embeds by OpenVINO on a CPU: `--runtime openvino`, in float32, bfloat16, or int8 by NNCF's
post-training quantisation for transformers.

Options: precision (float32, bfloat16, int8), threads (0 = one a core), calibration (crops, for
int8), bank (of these crops), cache, min_cosine.
"""

import importlib
import logging
import os
import sys
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np

from phenomjax.inference.runtimes.foreign import (
    ForeignOptions,
    ForeignRuntime,
    number,
    read_options,
)
from phenomjax.system.errors import UserError
from phenomjax.trained.graphs import cache, graph, onnx_file, quantise
from phenomjax.trained.model import ImageModel

log = logging.getLogger("phenomjax")
PRECISIONS = ("float32", "bfloat16", "int8")
EXTRA = {"threads": "0", "calibration": "128"}
# What int8 does not quantise is bfloat16 where the CPU has it (it falls back to float32 by itself
# elsewhere).
HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}


def make_runtime(
    model: ImageModel, settings: graph.GraphSettings, batch_size: int, options: dict[str, str]
) -> ForeignRuntime:
    """See `choose.make`."""
    openvino = _library("openvino")
    chosen = read_options("openvino", options, PRECISIONS, EXTRA)
    path = onnx_file.cached(model, settings, folder=chosen.cache)
    if chosen.precision == "int8":
        path = quantised(path, model, settings, chosen)
    network = openvino.Core().read_model(path)
    # the batch is known here, and fixed shapes are faster
    network.reshape([batch_size, *settings.image_shape])
    hints = {
        "INFERENCE_PRECISION_HINT": HINTS[chosen.precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
    }
    if threads := number(chosen, "threads"):
        hints["INFERENCE_NUM_THREADS"] = str(threads)
    compiled = openvino.Core().compile_model(network, "CPU", hints)
    if (
        chosen.precision == "bfloat16"
        and str(compiled.get_property("INFERENCE_PRECISION_HINT")).find("bfloat16") < 0
    ):
        raise UserError(
            "precision=bfloat16: this CPU has no bfloat16 products (AVX512-BF16 or AMX). Use"
            " float32 or int8."
        )
    request = compiled.create_infer_request()

    def run(pixels: np.ndarray) -> np.ndarray:
        request.infer([pixels], share_inputs=True)
        return request.get_output_tensor(0).data.copy()  # the next batch overwrites it

    description = (
        f"openvino {openvino.__version__.split('-')[0]}, CPU, {chosen.precision}, graph {path.stem}"
    )
    return ForeignRuntime("openvino", chosen.precision, description, run).check(
        model, settings, batch_size, chosen
    )


def quantised(
    path: Path, model: ImageModel, settings: graph.GraphSettings, chosen: ForeignOptions
) -> Path:
    """The graph in int8 (OpenVINO's own format, in the cache): NNCF, the preset for transformers,
    calibrated on crops of a bank.
    """
    nncf = _library("nncf")
    openvino = _library("openvino")
    batches, pixels = quantise.calibration_batches(
        model, settings, number(chosen, "calibration", 1), chosen.bank
    )
    content = {
        "graph": path.stem,
        "pixels": pixels,
        "nncf": version("nncf"),
        "openvino": version("openvino"),
    }

    def write(folder: Path) -> None:
        logging.getLogger("nncf").setLevel(logging.ERROR)
        folder.mkdir()
        log.info("int8: NNCF reads the ranges of activations from %d crops", sum(map(len, batches)))
        network = nncf.quantize(
            openvino.Core().read_model(path),
            nncf.Dataset(batches),
            subset_size=len(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            target_device=nncf.TargetDevice.CPU,
        )
        openvino.save_model(network, folder / "model.xml", compress_to_fp16=False)

    return (
        cache.once(cache.folder(chosen.cache) / f"{cache.key(content)}.openvino", write)
        / "model.xml"
    )


def _library(name: str) -> types.ModuleType:
    # Both report their use to their maker unless they are stopped; a laboratory's machine calls
    # nobody.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # so that importing it fails, which openvino expects
    os.environ.setdefault("NNCF_CI", "1")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} is not installed. Install it with `pip install 'phenomjax[openvino]'`, or use"
            " `runtime` onnxruntime or jax."
        ) from error
