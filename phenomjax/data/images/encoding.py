"""Images encoded in memory, as shards whose bytes are those that TensorStore writes to a bank."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorstore as ts
from jaxtyping import Shaped


def encode(bank: Path, images: Sequence[Shaped[np.ndarray, "y x channels"]]) -> bytes:
    """A shard that has room for exactly these images.

    Args:
      bank: which `bank.create_bank` made; it says how images are encoded.
      images: of its shape and type.
    """
    array = _in_memory((bank / "images" / "zarr.json").read_text(), len(images))
    for image in images:
        if image.dtype != array.dtype.numpy_dtype or image.shape != array.shape[1:]:
            raise ValueError(f"{bank} takes {array.shape[1:]}, not {image.dtype} {image.shape}")
    array.write(np.stack(images) if len(images) > 1 else images[0][None]).result()
    store = array.kvstore
    assert store is not None
    return store.read("c.0.0.0.0").result().value


@functools.lru_cache(maxsize=32)  # by what it says, for a bank of the same path may be another
def _in_memory(described: str, count: int) -> ts.TensorStore:
    metadata = json.loads(described)
    shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    metadata["shape"][0] = shape[0] = count
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "memory"},
        "metadata": metadata,
        "create": True,
        # Chunks of zeros are stored too: then a chunk that is not there is always damage.
        "store_data_equal_to_fill_value": True,
    }
    return ts.open(spec, context=ts.Context()).result()  # a memory of its own
