"""StableHLO through jax.export: a file that any JAX loads and runs without this package, any batch
size.
"""

from pathlib import Path

import jax
import numpy as np

from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained.graphs import graph
from phenomjax.trained.model import ImageModel

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
BATCHES = (1, 3, 8)  # sizes that a written file is tried with


def write(
    path: Path,
    model: ImageModel,
    chosen: graph.GraphSettings,
    platforms: tuple[str, ...] = ("cpu", "cuda"),
    bank: str | Path = "",
) -> str:
    """Writes the serialised function and NAME.json beside it, which says what it is; compares it
    with JAX before it gets its name.

    It is `embeddings = jax.export.deserialize(bytearray(open(path, "rb").read())).call(pixels)`.

    Returns:
      What was compared, in words.

    Raises:
      UserError: unknown platform, or it disagrees (exit code 1).
    """
    if unknown := [name for name in platforms if name not in PLATFORMS]:
        raise UserError(
            f"`platforms` {unknown[0]}: it can be {', '.join(PLATFORMS)}, several with commas"
            " between."
        )
    batch = jax.export.symbolic_shape("batch")[0]
    spec = jax.ShapeDtypeStruct((batch, *chosen.image_shape), np.dtype(chosen.pixels))
    exported = jax.export.export(
        jax.jit(graph.encoder(graph.portable(model), chosen)), platforms=platforms
    )(spec)
    content = exported.serialize()
    said = "not run: this machine has none of its platforms"
    if {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend()) in platforms:
        pixels = graph.sample_crops(model, chosen, max(BATCHES), bank)
        expected, call = (
            graph.jax_reference(model, chosen)(pixels),
            jax.export.deserialize(bytearray(content)).call,
        )
        found = [
            graph.compare(np.asarray(call(pixels[:size])), expected[:size]) for size in BATCHES
        ]
        worst = max(found, key=lambda agreement: agreement.relative)
        if not worst.relative <= graph.TOLERANCE:
            raise UserError(
                f"The exported function disagrees with JAX: {worst}, allowed {graph.TOLERANCE:.0e}."
                " No file was left.",
                EXIT_FAILED,
            )
        said = str(worst)
    about = chosen.describe(model) | {
        "platforms": list(platforms),
        "jax": jax.__version__,
        "format": "jax.export",
        "calling_convention_version": exported.calling_convention_version,
    }
    files.write_json(path.with_name(path.name + ".json"), about)
    files.write_bytes(path, content)
    return said
