"""ONNX: the encoder as one graph from raw pixels to embeddings, any batch size, compared with JAX
as soon as it is written.
"""

import contextlib
import importlib
import json
import logging
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained.graphs import cache, graph
from phenomjax.trained.image_model import encoder_params
from phenomjax.trained.model import ImageModel

if TYPE_CHECKING:
    import onnx

log = logging.getLogger("phenomjax")
OPSET = 18  # TensorRT 8.6 and later read it
OPSETS = range(18, 24)
BATCHES = (1, 3, 8)  # sizes that a written graph is tried with
LARGEST = 2**31 - 2**26  # bytes of one protobuf message, with room for the nodes
FOLDED = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
VERSION = 2  # of what `convert` makes of the same settings
PIXELS, EMBEDDINGS = "pixels", "embeddings"  # names of input and output


def convert(
    model: ImageModel, chosen: graph.GraphSettings, opset: int = OPSET
) -> "onnx.ModelProto":
    """The ONNX model (onnx.ModelProto) of a trained encoder.

    Input `pixels` uint8 or uint16 [batch, h, w, C], output `embeddings` float32 [batch, blocks,
    dim]; the batch size is open, standardisation is part of the graph.

    Raises:
      UserError: jax2onnx is missing, an opset that it does not write, or a model too large for one
        file.
    """
    # Parts of jax2onnx that do not fit this jax are left out with a traceback each, and none is
    # used here; types of shapes, which onnx_ir misses, are inferred below.
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with untouched_numpy():
        jax2onnx = library("jax2onnx")
    if opset not in OPSETS:
        raise UserError(
            f"`opset` {opset}: graphs are written with opset {OPSETS[0]} to {OPSETS[-1]} (default"
            f" {OPSET})."
        )
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(encoder_params(model)))
    if size > LARGEST:
        raise UserError(
            f"The encoder has {size / 2**30:.1f} GiB of parameters, and an ONNX file holds 2 GiB."
            " Use `python -m phenomjax.export --format stablehlo`, or `python -m phenomjax.embed"
            " images --runtime jax`."
        )
    batch = jax.export.symbolic_shape("batch")[0]
    spec = jax.ShapeDtypeStruct((batch, *chosen.image_shape), np.dtype(chosen.pixels))
    with warnings.catch_warnings(), untouched_numpy():
        warnings.simplefilter("ignore")
        proto = jax2onnx.to_onnx(
            graph.encoder(graph.portable(model), chosen),
            [spec],
            model_name="phenomjax_encoder",
            opset=opset,
            input_names=[PIXELS],
            output_names=[EMBEDDINGS],
        )
    for node in proto.graph.node:
        if (
            node.op_type == "Gemm"
            and len(node.input) == 3
            and any(a.name == "beta" and a.f == 0.0 for a in node.attribute)
        ):
            del node.input[2]  # a bias times 0, which quantisers take for a bias
    fold_constants(proto)
    proto.producer_name = "phenomjax"
    library("onnx").helper.set_model_props(proto, {"phenomjax": json.dumps(chosen.describe(model))})
    return proto


@contextlib.contextmanager
def untouched_numpy() -> Iterator[None]:
    """jax2onnx leaves functions of its own in jax.numpy (a cumsum that refuses an axis by place);
    here they are taken out again.
    """
    before = dict(vars(jnp))
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(jnp, name, value)


def fold_constants(proto: "onnx.ModelProto") -> None:
    """Reshapes of weights are done now, in place: quantisers see a weight only where it goes
    straight into its product.
    """
    onnx = library("onnx")
    from onnx.reference import ReferenceEvaluator

    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.op_type in FOLDED and all(name in constants for name in node.input if name):
            values = {
                name: onnx.numpy_helper.to_array(constants[name]) for name in node.input if name
            }
            (result,) = ReferenceEvaluator(node).run(None, values)
            constants[node.output[0]] = onnx.numpy_helper.from_array(
                np.ascontiguousarray(result), node.output[0]
            )
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input} | {
        output.name for output in proto.graph.output
    }
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(tensor for name, tensor in constants.items() if name in used)


def write(
    path: Path,
    model: ImageModel,
    chosen: graph.GraphSettings,
    opset: int = OPSET,
    bank: str | Path = "",
) -> graph.Agreement:
    """Writes the graph beside its place, compares it with JAX, and only then gives it its name.

    Raises:
      UserError: it disagrees, with exit code 1; or as `convert`.
    """
    onnx = library("onnx")
    with files.replacing(path) as partial:
        onnx.save(convert(model, chosen, opset), str(partial))
        onnx.checker.check_model(str(partial), full_check=True)
        agreement = verify(partial, model, chosen, bank)
    return agreement


def verify(
    path: Path, model: ImageModel, chosen: graph.GraphSettings, bank: str | Path = ""
) -> graph.Agreement:
    """Compares a file in ONNX Runtime with JAX float32, on crops, for several batch sizes; the
    worst agreement.

    Raises:
      UserError: they differ by more than graph.TOLERANCE of the largest value, with exit code 1.
    """
    run, reference = session(path), graph.jax_reference(model, chosen)
    pixels = graph.sample_crops(model, chosen, max(BATCHES), bank)
    expected = reference(pixels)  # rows do not depend on each other
    found = [graph.compare(run(pixels[:size]), expected[:size]) for size in BATCHES]
    worst = max(found, key=lambda agreement: agreement.relative)
    if not worst.relative <= graph.TOLERANCE:
        raise UserError(
            f"The exported graph disagrees with JAX: {worst}, allowed {graph.TOLERANCE:.0e}. No"
            " file was left. The versions of jax, jax2onnx and onnxruntime may not fit each other:"
            " install those of uv.lock (`uv sync --extra export`), or try another --opset.",
            EXIT_FAILED,
        )
    return worst


def cached(
    model: ImageModel, chosen: graph.GraphSettings, opset: int = OPSET, folder: str | Path = ""
) -> Path:
    """The verified graph in the cache folder; written by the first process that asks for it."""
    from importlib.metadata import version

    content = chosen.describe(model) | {
        "model": model.config.model.to_dict(),
        "opset": opset,
        "version": VERSION,
        "jax2onnx": version("jax2onnx"),
    }
    path = cache.folder(folder) / f"{cache.key(content)}.onnx"
    return cache.once(
        path,
        lambda partial: log.info("exported %s: %s", path, write(partial, model, chosen, opset)),
    )


def session(
    path: Path, threads: int = 0, providers: tuple[str, ...] = ("CPUExecutionProvider",)
) -> Callable[[np.ndarray], np.ndarray]:
    """`run(pixels) -> embeddings` of a file in ONNX Runtime.

    Args:
      path: of the file.
      threads: of a product; 0 = one a core.
      providers: where nodes are run, in order of preference.
    """
    runtime = library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    loaded = runtime.InferenceSession(str(path), options, providers=list(providers))
    return lambda pixels: loaded.run([EMBEDDINGS], {PIXELS: pixels})[0]


def library(name: str) -> types.ModuleType:
    """A module of the extra `export`; raises UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} is not installed. Install it with `pip install 'phenomjax[export]'`."
        ) from error
