"""How the chunks of a bank are compressed, as its zarr.json says it."""

from collections.abc import Sequence

import numpy as np

from phenomjax.data.zarr_files import Codec, bytes_codec

# Bitshuffle makes lz4 as small as zstd on microscopy, at a third of the decoding time.
CODECS: dict[str, dict | None] = {
    "blosc-lz4": {
        "name": "blosc",
        "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle"},
    },
    "blosc-zstd": {
        "name": "blosc",
        "configuration": {"cname": "zstd", "clevel": 3, "shuffle": "bitshuffle"},
    },
    "zstd": {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
    "none": None,
}


def sharding(codec: str, dtype: np.dtype, chunk: Sequence[int]) -> Codec:
    """Shards of chunks of this shape with an index at their end.

    Args:
      codec: one of CODECS.
      dtype: of the pixels.
      chunk: shape of the smallest piece that can be decoded.
    """
    inner = [bytes_codec(dtype)]
    compression = CODECS[codec]
    if compression:
        step = {"name": compression["name"], "configuration": dict(compression["configuration"])}
        if step["name"] == "blosc":
            # 2 for uint8 too: a typesize of 1 falls into blosc's scalar code, 1.4 times slower to
            # decode, and compresses less.
            step["configuration"] |= {"typesize": 2, "blocksize": 0}
        inner.append(step)
    return {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": list(chunk),
            "codecs": inner,
            "index_codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
            "index_location": "end",
        },
    }
