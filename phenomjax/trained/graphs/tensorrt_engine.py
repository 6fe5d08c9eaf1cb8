"""TensorRT engines, float16 or int8: building, caching by content, running.

Written for the documented Python API of TensorRT 10 (strongly typed networks, named tensors). It
needs an NVIDIA GPU, and `pip install tensorrt cuda-python`.
"""

import importlib
import logging
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained.graphs import cache, graph, onnx_file, quantise
from phenomjax.trained.model import ImageModel

log = logging.getLogger("phenomjax")
WORKSPACE = 4 << 30  # bytes that building may try tactics with


def library() -> tuple[types.ModuleType, types.ModuleType]:
    """(tensorrt, cudart); raises UserError if one is missing."""
    try:
        tensorrt = importlib.import_module("tensorrt")
        try:
            cudart = importlib.import_module("cuda.bindings.runtime")
        except ImportError:
            cudart = importlib.import_module("cuda.cudart")  # cuda-python before 12.6
    except ImportError as error:
        raise UserError(
            f"TensorRT cannot be used here: {error}. Install it on a machine with an NVIDIA GPU:"
            " `pip install tensorrt cuda-python`. On a CPU there is `python -m phenomjax.embed"
            " images --runtime openvino`."
        ) from error
    if int(tensorrt.__version__.split(".")[0]) < 10:
        raise UserError(
            f"TensorRT {tensorrt.__version__} is too old: version 10 or later is needed. `pip"
            " install 'tensorrt>=10'`."
        )
    return tensorrt, cudart


def settings_for(chosen: graph.GraphSettings) -> graph.GraphSettings:
    """TensorRT has no 16-bit integer inputs: such pixels are given as int32."""
    return graph.GraphSettings(
        chosen.blocks,
        chosen.channelwise,
        chosen.image_shape,
        "uint8" if chosen.pixels == "uint8" else "int32",
    )


def cached(
    model: ImageModel,
    chosen: graph.GraphSettings,
    precision: str,
    batch_size: int,
    calibration: int,
    bank: str | Path = "",
    folder: str | Path = "",
) -> Path:
    """The engine in the cache folder: of these parameters and settings, for this GPU and this
    TensorRT.

    Args:
      model: what to run.
      chosen: as `settings_for` gives them.
      precision: "float16" or "int8".
      batch_size: the largest, and the one it is tuned for.
      calibration: crops for int8.
      bank: of these crops.
      folder: of the cache.

    Raises:
      UserError: TensorRT is missing, or refuses the graph.
    """
    tensorrt, cudart = library()
    source = onnx_file.cached(model, chosen, folder=folder)
    if precision == "int8":
        source = quantise.cached(source, model, chosen, calibration, bank, folder)
    gpu = _call(cudart, "cudaGetDeviceProperties", 0).name
    content = {
        "graph": source.stem,
        "precision": precision,
        "batch": batch_size,
        "tensorrt": tensorrt.__version__,
        "gpu": gpu.decode() if isinstance(gpu, bytes) else str(gpu),
    }
    target = cache.folder(folder) / f"{cache.key(content)}.plan"
    return cache.once(
        target, lambda partial: build(source, partial, precision, batch_size, chosen.image_shape)
    )


def build(
    source: Path, target: Path, precision: str, batch_size: int, image_shape: tuple[int, int, int]
) -> None:
    """Builds an engine of an ONNX file; the types of the graph are those of the engine (float16
    products, or Q/DQ).

    Raises:
      UserError: TensorRT cannot read or build the graph (exit code 1).
    """
    tensorrt, _ = library()
    if precision == "float16":
        small = target.with_name(f"{target.name}.float16.onnx")
        quantise.half(source, small)
        content = small.read_bytes()
        small.unlink()
    else:
        content = source.read_bytes()
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(
        1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    )
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(content):
        problems = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise UserError(
            f"TensorRT {tensorrt.__version__} does not read {source}: {problems}. Install a newer"
            " TensorRT.",
            EXIT_FAILED,
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE)
    profile = builder.create_optimization_profile()
    profile.set_shape(
        onnx_file.PIXELS, (1, *image_shape), (batch_size, *image_shape), (batch_size, *image_shape)
    )
    config.add_optimization_profile(profile)
    log.info(
        "TensorRT %s builds a %s engine for batches of up to %d; this takes minutes",
        tensorrt.__version__,
        precision,
        batch_size,
    )
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UserError(
            f"TensorRT {tensorrt.__version__} could not build an engine of {source}; its own"
            " messages are above.",
            EXIT_FAILED,
        )
    target.write_bytes(bytes(plan))


def loaded(
    path: Path, batch_size: int, image_shape: tuple[int, int, int], pixels: str
) -> Callable[[np.ndarray], np.ndarray]:
    """`run(pixels [batch_size, h, w, C]) -> embeddings` of an engine; blocks until the result is
    there.

    Raises:
      UserError: the engine is for another GPU or TensorRT.
    """
    tensorrt, cudart = library()
    engine = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING)).deserialize_cuda_engine(
        path.read_bytes()
    )
    if engine is None:
        raise UserError(
            f"{path} was built for another GPU or another TensorRT than {tensorrt.__version__}."
            " Remove it; it is built again."
        )
    context = engine.create_execution_context()
    context.set_input_shape(onnx_file.PIXELS, (batch_size, *image_shape))
    taken = np.empty((batch_size, *image_shape), pixels)
    given = np.empty(tuple(context.get_tensor_shape(onnx_file.EMBEDDINGS)), np.float32)
    stream = _call(cudart, "cudaStreamCreate")
    on_device = {
        name: _call(cudart, "cudaMalloc", array.nbytes)
        for name, array in ((onnx_file.PIXELS, taken), (onnx_file.EMBEDDINGS, given))
    }
    for name, address in on_device.items():
        context.set_tensor_address(name, int(address))
    kinds = cudart.cudaMemcpyKind

    def run(batch: np.ndarray) -> np.ndarray:
        taken[:] = batch
        _call(
            cudart,
            "cudaMemcpyAsync",
            on_device[onnx_file.PIXELS],
            taken.ctypes.data,
            taken.nbytes,
            kinds.cudaMemcpyHostToDevice,
            stream,
        )
        if not context.execute_async_v3(int(stream)):
            raise RuntimeError(f"TensorRT could not run {path}; its own messages are above")
        _call(
            cudart,
            "cudaMemcpyAsync",
            given.ctypes.data,
            on_device[onnx_file.EMBEDDINGS],
            given.nbytes,
            kinds.cudaMemcpyDeviceToHost,
            stream,
        )
        _call(cudart, "cudaStreamSynchronize", stream)
        return given.copy()

    run.engine = engine  # type: ignore[attr-defined]  # the context does not keep it alive
    return run


def _call(cudart: types.ModuleType, name: str, *arguments: Any) -> Any:
    """A function of the CUDA runtime, which gives (error, value…); raises RuntimeError."""
    error, *values = getattr(cudart, name)(*arguments)
    if int(error):
        raise RuntimeError(f"{name}: CUDA error {int(error)}")
    return values[0] if values else None
