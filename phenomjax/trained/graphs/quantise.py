"""Graphs with smaller products: float16 by casts around them, int8 by post-training quantisation
(Q/DQ nodes), as TensorRT reads both.
"""

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from phenomjax.trained.graphs import cache, graph, onnx_file
from phenomjax.trained.model import ImageModel

log = logging.getLogger("phenomjax")
QUANTISED = ("MatMul", "Gemm")  # all products; norms, softmax, GELU and sums stay float32
BATCH = 8  # crops that calibration runs at a time


def calibration_batches(
    model: ImageModel, chosen: graph.GraphSettings, count: int, bank: str | Path = ""
) -> tuple[list[np.ndarray], str]:
    """Batches of crops from a bank, and a fingerprint of their pixels."""
    crops = graph.sample_crops(model, chosen, -(-count // BATCH) * BATCH, bank)
    return (
        list(crops.reshape(-1, BATCH, *crops.shape[1:])),
        hashlib.sha256(crops.tobytes()).hexdigest()[:16],
    )


def cached(
    path: Path,
    model: ImageModel,
    chosen: graph.GraphSettings,
    count: int,
    bank: str | Path = "",
    folder: str | Path = "",
) -> Path:
    """The quantised form of an exported graph, in the cache folder.

    Args:
      path: of the graph, `onnx_file.cached`.
      model, chosen: that it was made from.
      count: calibration crops.
      bank: of these crops.
      folder: of the cache.
    """
    batches, pixels = calibration_batches(model, chosen, count, bank)
    content = {"graph": path.stem, "pixels": pixels, "onnxruntime": version("onnxruntime")}
    target = cache.folder(folder) / f"{cache.key(content)}.int8.onnx"
    return cache.once(target, lambda partial: write(path, partial, batches))


def half(source: Path, target: Path) -> None:
    """Writes a graph whose products take float16, weights stored as such; everything else (norms,
    softmax, sums) stays float32.

    The types are part of the graph, so that a runtime that keeps to them (TensorRT, strongly typed)
    cannot let a sum of squares overflow.
    """
    onnx = onnx_file.library("onnx")
    proto = onnx.load(str(source))
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes, cast = [], {}

    def small(name: str) -> str:
        if name not in cast:
            cast[name] = f"{name}_float16"
            if name in weights:
                values = onnx.numpy_helper.to_array(weights[name]).astype(np.float16)
                proto.graph.initializer.append(onnx.numpy_helper.from_array(values, cast[name]))
            else:
                nodes.append(
                    onnx.helper.make_node("Cast", [name], [cast[name]], to=onnx.TensorProto.FLOAT16)
                )
        return cast[name]

    for node in proto.graph.node:
        if node.op_type in QUANTISED:
            node.input[:] = [small(name) for name in node.input]
            result = node.output[0]
            node.output[0] = f"{result}_product"
            nodes += [
                node,
                onnx.helper.make_node(
                    "Cast", [f"{result}_product"], [result], to=onnx.TensorProto.FLOAT
                ),
            ]
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.node[:], proto.graph.initializer[:], proto.graph.value_info[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(kept)
    onnx.save(proto, str(target))


@contextlib.contextmanager
def _root_logs_errors_alone() -> Iterator[None]:
    """The library logs advice to the root logger."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


def write(source: Path, target: Path, batches: list[np.ndarray]) -> None:
    """Quantises every product of a graph: int8, symmetric (TensorRT has no other), a scale for
    every output of a weight.

    Args:
      source: float32 graph.
      target: what to write.
      batches: pixels [batch, h, w, C] to take the ranges of activations from.
    """
    onnx_file.library("onnxruntime")
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.left, None)
            return None if batch is None else {onnx_file.PIXELS: batch}

    with _root_logs_errors_alone(), tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        q.quantize_static(
            str(prepared),
            str(target),
            Reader(),
            quant_format=q.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            activation_type=q.QuantType.QInt8,
            weight_type=q.QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )
    log.info("quantised %s with %d calibration crops", target, sum(map(len, batches)))
