"""Tokens per second of the language models' loaders alone, one process: `python -m bench.lanes
[--sequences 200000]`.

Writes a bank of random proteins, then reads batches of the published shapes: 64 lanes of 512 tokens
for Transformer-XL, of 100 for ELMo (which reads each lane from both ends), and XLNet's rows with
spans and orders. A model of 409 M parameters takes some 120,000 residues a second on one H100 (50 %
of its matrix-product rate, 3.2 GFLOP a residue).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bench import rounds
from phenomjax.data.sequences.bank import write_token_bank
from phenomjax.data.sequences.lanes import LaneLoader, MirroredLaneLoader
from phenomjax.data.sequences.spans import SpanLoader

STEPS = 40


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=200_000)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    letters = rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 100_000)
    text = "".join(letters)
    starts, lengths = rng.integers(0, 90_000, args.sequences), rng.integers(50, 650, args.sequences)
    proteins = (
        (str(i), text[a : a + n]) for i, (a, n) in enumerate(zip(starts, lengths, strict=True))
    )
    print(rounds.header("", ("numpy",)))
    with tempfile.TemporaryDirectory() as folder:
        bank = write_token_bank(Path(folder) / "random.zarr", {"train": proteins})
        print(
            f"{len(bank):,} sequences, {len(bank.tokens):,} tokens; median of 3 rounds of {STEPS}"
            " steps, from step 1000 on"
        )
        shared = {"split": "train", "seed": 0, "global_batch_size": 64}
        spans = {
            "reuse_len": 256,
            "perm_size": 256,
            "num_predict": 85,
            "mask_alpha": 6,
            "mask_beta": 1,
            "bi_data": True,
        }
        for name, loader in (
            ("lanes of 512", LaneLoader([bank], segment_len=512, **shared)),
            ("lanes of 100 from both ends", MirroredLaneLoader([bank], segment_len=100, **shared)),
            ("XLNet rows of 512, 256 new", SpanLoader([bank], segment_len=512, **shared, **spans)),
        ):
            times = []
            for round_number in range(3):
                begin = time.process_time()
                for step in range(STEPS):
                    loader.batch(1000 + STEPS * round_number + step)
                times.append(time.process_time() - begin)
            tokens = STEPS * loader.units_per_row * 64
            print(
                f"  {name:30s} {tokens / statistics.median(times) / 1e6:6.1f} M tokens per CPU"
                " second"
            )


if __name__ == "__main__":
    main()
