"""A TensorRT engine as an export: compared with JAX, and how much faster it is than JAX and
PyTorch. It is built by phenomjax/trained/graphs/tensorrt_engine.py.
"""

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from phenomjax.export import weights
from phenomjax.system import ending, files
from phenomjax.trained.graphs import graph
from phenomjax.trained.graphs.tensorrt_engine import cached, library, loaded, settings_for
from phenomjax.trained.image_model import encoder_params, features, on_devices
from phenomjax.trained.model import ImageModel

log = logging.getLogger("phenomjax")


def write(
    path: Path,
    model: ImageModel,
    chosen: graph.GraphSettings,
    precision: str,
    batch_size: int,
    calibration: int,
    bank: str | Path = "",
) -> None:
    """Builds the engine, compares it with JAX float32, writes it, and says how
    much faster it is.

    The article's claim is 3 x: float16 and fusion against eager execution. Rates are those of whole
    batches, pixels on the host to embeddings on the host, of this engine, JAX in bfloat16, and
    PyTorch in float32 and float16 autocast without compilation.
    """
    tensorrt, _ = library()
    chosen = settings_for(chosen)
    engine = cached(model, chosen, precision, batch_size, calibration, bank)
    run = loaded(engine, batch_size, chosen.image_shape, chosen.pixels)
    crops = graph.sample_crops(model, chosen, batch_size, bank, seed=1)
    agreement = graph.compare(run(crops), graph.jax_reference(model, chosen)(crops))
    files.write_bytes(path, engine.read_bytes())
    ending.wrote(
        path,
        f"TensorRT {tensorrt.__version__}, {precision}, batches of up to {batch_size}; against JAX"
        f" float32: {agreement}",
    )
    rates = {
        f"TensorRT {precision}": rate(lambda: run(crops), batch_size),
        "JAX": rate(_jax(model, chosen, crops), batch_size),
    }
    rates |= {name: rate(call, batch_size) for name, call in _torch(model, chosen, crops).items()}
    for name, value in rates.items():
        log.info(
            "%-24s %9.1f crops/s, TensorRT is %.2f x",
            name,
            value,
            rates[f"TensorRT {precision}"] / value,
        )


def rate(call: Callable[[], object], batch_size: int, seconds: float = 3.0) -> float:
    """Crops per second of a call that waits for its result; the first two calls are not counted."""
    call()
    call()
    start, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        call()
        count += 1
    return count * batch_size / spent


def _jax(model: ImageModel, chosen: graph.GraphSettings, crops: np.ndarray) -> Callable[[], object]:
    """The model as `--runtime jax` runs it: bfloat16 on a GPU."""
    encode = features(model)
    params, _ = on_devices(encoder_params(model), jax.local_devices()[:1])
    compiled = jax.jit(
        lambda params, pixels: encode(params, pixels, chosen.blocks, chosen.channelwise)
    )
    return lambda: np.asarray(compiled(params, jax.device_put(crops)))


def _torch(
    model: ImageModel, chosen: graph.GraphSettings, crops: np.ndarray
) -> dict[str, Callable[[], object]]:
    """The encoder of a release in eager PyTorch on this GPU; {} where torch is not installed."""
    try:
        import torch

        from phenomjax.export.published import encoder as torch_encoder
    except ImportError:
        log.info("PyTorch is not installed: no comparison with eager execution")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        weights.write(Path(folder), model)
        encoder = torch_encoder.load(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder, pixels = (
        encoder.to(device),
        torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))),
    )

    def eager(half: bool) -> Callable[[], object]:
        def call() -> object:
            with torch.inference_mode(), torch.autocast(device, torch.float16, enabled=half):
                return encoder(pixels.to(device), chosen.blocks, chosen.channelwise).float().cpu()

        return call

    return {"PyTorch eager float32": eager(False), "PyTorch eager float16": eager(True)}
