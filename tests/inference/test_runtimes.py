"""Runtimes beside JAX: the same embeddings within their tolerance, told and enforced at the start;
files made once.
"""

import ctypes
import logging
import sys
import threading
import types

import jaxtyping
import numpy as np
import pyarrow as pa
import pytest

from phenomjax.data.images.bank import write_bank
from phenomjax.export import engine
from phenomjax.inference.runtimes import choose
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained import opening
from phenomjax.trained.graphs import cache, graph, onnx_file
from tests.export.test_export import write_run

SHAPE, BLOCKS, BATCH = (32, 32, 3), (1, 2), 4


class Case:
    """A tiny model, a bank of drawn cells whose channels are in another order, and a cache."""

    def __init__(self, folder):
        self.model = opening.load_images(write_run(folder / "run"))
        self.settings = graph.GraphSettings(BLOCKS, False, SHAPE)
        self.pixels = graph.drawn_cells(self.settings, 12, seed=2)
        self.bank, self.cache = folder / "bank.zarr", folder / "cache"
        metadata = {
            "experiment": ["E"] * 12,
            "plate": ["P"] * 12,
            "well": [f"A{i:02d}" for i in range(1, 13)],
        }
        write_bank(
            self.bank,
            self.pixels[..., ::-1].copy(),
            pa.table(metadata),
            ("Actin", "ER", "DNA"),
            chunk=32,
        )
        self.expected = graph.jax_reference(self.model, self.settings)(self.pixels)

    def make(self, name, pixels="uint8", **options):
        options = {"bank": str(self.bank), "cache": str(self.cache)} | options
        settings = graph.GraphSettings(BLOCKS, False, SHAPE, pixels)
        return choose.make(name, self.model, settings, BATCH, options)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    # the checks of annotations do not know an open batch size
    jaxtyping.config.update("jaxtyping_disable", True)
    yield Case(tmp_path_factory.mktemp("runtimes"))
    jaxtyping.config.update("jaxtyping_disable", False)


def embeddings(runtime, pixels):
    """Two batches at a time are on their way, as in a job."""
    results = [
        runtime.submit(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)
    ]
    return np.concatenate([result() for result in results])


def test_crops_of_a_bank_come_in_the_order_of_the_model(case):
    crops = graph.sample_crops(case.model, case.settings, 20, case.bank)
    assert all(any(np.array_equal(crop, image) for image in case.pixels) for crop in crops)


def test_onnxruntime_gives_the_same_embeddings_and_exports_once(case, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("phenomjax"), "propagate", True)
    with caplog.at_level("INFO", "phenomjax"):
        runtime = case.make("onnxruntime")
    assert "on 4 crops against JAX float32: cosine >= 1.0000" in caplog.text  # said at the start
    assert (runtime.name, runtime.precision) == (
        "onnxruntime",
        "float32",
    ) and "onnxruntime 1." in runtime.description
    np.testing.assert_allclose(embeddings(runtime, case.pixels), case.expected, atol=1e-4)
    monkeypatch.setattr(onnx_file, "convert", None)  # the graph is in the cache
    case.make("onnxruntime", threads="1")
    root = logging.getLogger()
    level = root.level
    small = case.make("onnxruntime", precision="int8", calibration="8")
    assert root.level == level  # which is not ours to change
    agreement = graph.compare(embeddings(small, case.pixels), case.expected)
    assert small.precision == "int8" and 0.98 < agreement.cosine < 0.9999999
    with pytest.raises(
        UserError, match=r"too far from those of JAX float32: cosine .* must be at least 0.99999\."
    ) as error:
        case.make("onnxruntime", precision="int8", calibration="8", min_cosine="0.99999")
    assert error.value.exit_code == EXIT_FAILED


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_openvino(case, precision):
    pytest.importorskip("openvino")
    try:
        runtime = case.make("openvino", precision=precision, calibration="8", threads="1")
    except UserError as error:
        assert precision == "bfloat16" and "this CPU has no bfloat16 products" in str(error)
        pytest.skip(str(error))
    agreement = graph.compare(embeddings(runtime, case.pixels), case.expected)
    least, most = {"float32": (0.0, 1e-4), "bfloat16": (1e-5, 0.05), "int8": (1e-5, 0.2)}[
        precision
    ]  # each computes as it says
    assert least <= agreement.relative < most and runtime.agreement.cosine > 0.98


@pytest.mark.parametrize(
    "name,options,message",
    [
        ("onnxruntime", {"precison": "int8"}, r"no option 'precison'. Did you mean 'precision'\?"),
        (
            "onnxruntime",
            {"precision": "bfloat16"},
            r"precision=bfloat16: the onnxruntime runtime computes in float32, int8",
        ),
        ("onnxruntime", {"threads": "two"}, r"threads=two is not a whole number"),
        ("onnxruntime", {"min_cosine": "high"}, r"min_cosine=high is not a number"),
        ("onnxruntime", {"provider": "cuda"}, r"provider=cuda: this onnxruntime has cpu"),
        (
            "onnxruntime",
            {"bank": "/absent.zarr", "cache": "CACHE"},
            r"There is no bank at /absent.zarr",
        ),
        ("openvino", {"precision": "float16"}, r"computes in float32, bfloat16, int8"),
        ("tensorrt", {}, r"TensorRT cannot be used here: .*pip install tensorrt cuda-python"),
    ],
)
def test_mistakes(case, name, options, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UserError, match=message):
        case.make(name, **{key: value for key, value in options.items() if value != "CACHE"})


def test_a_library_that_is_missing_is_named(case, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        UserError,
        match=r"openvino is not installed. Install it with `pip install 'phenomjax\[openvino\]'`",
    ):
        case.make("openvino")


def test_a_file_of_the_cache_is_made_once_and_never_half(tmp_path):
    path, made, begun = tmp_path / "graph.onnx", [], threading.Event()

    def make(partial):
        begun.set()
        made.append(partial)
        partial.write_text("whole")

    threads = [threading.Thread(target=cache.once, args=(path, make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and path.read_text() == "whole"

    def fail(partial):
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cache.once(tmp_path / "other.onnx", fail)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "graph.onnx",
        "locks",
    ]
    assert cache.key({"a": 1, "b": 2}) == cache.key({"b": 2, "a": 1}) != cache.key({"a": 1, "b": 3})


# TensorRT itself needs a GPU. Stand-ins for the two modules check what it is told; an engine is an
# ONNX file here.


class FakeTensorRT(types.ModuleType):
    """The parts of TensorRT's Python API that are used."""

    __version__ = "10.9.0"

    def __init__(self):
        super().__init__("tensorrt")
        self.built, fake = [], self
        self.Logger = type("Logger", (), {"WARNING": 2, "__init__": lambda self, level: None})
        self.NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
        self.MemoryPoolType = types.SimpleNamespace(WORKSPACE="workspace")

        class OnnxParser:
            num_errors = 1

            def __init__(self, network, logger):
                self.network = network

            def parse(self, content):
                self.network["content"] = content
                return bool(content)

            def get_error(self, index):
                return "no node"

        class Builder:
            def __init__(self, logger):
                pass

            def create_network(self, flags):
                return {"flags": flags}

            def create_builder_config(self):
                return types.SimpleNamespace(
                    set_memory_pool_limit=lambda *limit: None,
                    add_optimization_profile=fake.built.append,
                )

            def create_optimization_profile(self):
                return types.SimpleNamespace(set_shape=lambda *shapes: fake.built.append(shapes))

            def build_serialized_network(self, network, config):
                assert network["flags"] == 2  # strongly typed: float16 only where the graph says so
                return network["content"]

        class Context:
            def __init__(self, content):
                import onnxruntime

                self.session, self.addresses = onnxruntime.InferenceSession(content), {}

            def set_input_shape(self, name, shape):
                self.shape = shape

            def get_tensor_shape(self, name):
                return (self.shape[0], len(BLOCKS), 32)

            def set_tensor_address(self, name, address):
                self.addresses[name] = address

            def execute_async_v3(self, stream):
                kind = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32}[
                    self.session.get_inputs()[0].type
                ]
                size = int(np.prod(self.shape)) * np.dtype(kind).itemsize
                pixels = np.frombuffer(
                    ctypes.string_at(self.addresses["pixels"], size), kind
                ).reshape(self.shape)
                result = self.session.run(["embeddings"], {"pixels": pixels})[0]
                ctypes.memmove(self.addresses["embeddings"], result.ctypes.data, result.nbytes)
                return True

        self.OnnxParser, self.Builder = OnnxParser, Builder
        engine = lambda content: types.SimpleNamespace(  # noqa: E731
            create_execution_context=lambda: Context(content)
        )
        self.Runtime = lambda logger: types.SimpleNamespace(deserialize_cuda_engine=engine)


class FakeCuda(types.ModuleType):
    """Device memory is host memory."""

    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self):
        super().__init__("cuda.bindings.runtime")
        self.memory = []

    def cudaGetDeviceProperties(self, device):
        return 0, types.SimpleNamespace(name=b"Fake GPU")

    def cudaStreamCreate(self):
        return 0, 7

    def cudaMalloc(self, size):
        self.memory.append(np.zeros(size, np.uint8))
        return 0, self.memory[-1].ctypes.data

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaStreamSynchronize(self, stream):
        return (0,)


def test_tensorrt_is_told_types_shapes_and_pixels(case, monkeypatch):
    fake, cuda = FakeTensorRT(), FakeCuda()
    for name, module in (
        ("tensorrt", fake),
        ("cuda", types.ModuleType("cuda")),
        ("cuda.bindings", types.ModuleType("cuda.bindings")),
        ("cuda.bindings.runtime", cuda),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    runtime = case.make("tensorrt")
    assert runtime.precision == "float16" and fake.built[0] == (
        "pixels",
        (1, *SHAPE),
        (4, *SHAPE),
        (4, *SHAPE),
    )
    agreement = graph.compare(embeddings(runtime, case.pixels), case.expected)
    assert 1e-6 < agreement.relative < 1e-2 and agreement.cosine > 0.999  # float16 products
    built = len(fake.built)
    case.make("tensorrt")  # the engine is in the cache
    assert len(fake.built) == built
    assert case.make("tensorrt", precision="int8", calibration="8").agreement.cosine > 0.98
    deep = case.make("tensorrt", pixels="uint16", bank="")  # which TensorRT cannot take: int32
    np.testing.assert_allclose(
        embeddings(deep, case.pixels.astype(np.uint16)), case.expected, atol=0.1
    )
    assert engine.rate(lambda: None, 4, seconds=0.01) > 0
    fake.__version__ = "8.6.1"
    with pytest.raises(
        UserError, match=r"TensorRT 8.6.1 is too old: version 10 or later is needed"
    ):
        case.make("tensorrt")
