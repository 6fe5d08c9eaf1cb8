"""One measurement of `bench.archives`, in a process of its own: opens a bank for training and reads
some batches. Runs with this phenomjax or an earlier one, whichever is on the path.

    python bench/archive_probe.py BANK SHARDS
"""

import json
import resource
import sys
import time
from pathlib import Path

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.loading.loader import ImageLoader
from phenomjax.data.images.opening import open_bank

BATCH, CROP, BATCHES = 64, 256, 12


def gibibytes() -> float:
    """The most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(path: str, shards: str) -> None:
    import grain  # noqa: F401  (part of every process that trains)

    before = gibibytes()
    files = sorted(Path(shards).iterdir())
    # the bank has more images than the disk has room for: a few files stand for all
    ImageBank.shard_path = lambda bank, index: files[index % len(files)]  # type: ignore[method-assign]
    wall, cpu = time.perf_counter(), time.process_time()
    bank = open_bank(path)
    settings = {"global_batch_size": BATCH, "crop_size": CROP, "threads": 1}
    loaders = [
        ImageLoader([bank], channels=bank.channels, split=split, **settings)
        for split in ("train", "val")
    ]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    opened = gibibytes() - before
    loaders[0].batch(0)
    crops = time.process_time()
    for step in range(1, BATCHES + 1):
        loaders[0].batch(step * 1_000_003)  # all over the epochs
    crops = time.process_time() - crops
    result = {
        "open_s": wall,
        "open_cpu_s": cpu,
        "gib": opened,
        "ms_crop": 1e3 * crops / (BATCH * BATCHES),
        "images": [loader.num_images for loader in loaders],
        "first": loaders[0].batch(7)["image"].tolist(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
