r"""What small language models learn from real proteins on a CPU, against n-grams, with and without
memory.

    python -m bench.protein_lm [--fasta ../shared/data/protein/fasta] [--out runs/proteins] \
      [--residues 4000000]

Prepares all FASTA files but Mycoplasma genitalium's for training, and its whole proteome for
validation, with the public command; trains a small Transformer-XL, the same without memory, an
XLNet and an ELMo with the public command; prints the perplexity per residue of each along the way,
next to unigram, bigram and trigram models of the same training bank (add-one smoothed, backed off
by interpolation). ELMo's is the mean of its two directions. XLNet's is that of one target in six
with the rest of the row in view: another task.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phenomjax.data.sequences.bank import TokenBank, open_token_bank
from phenomjax.system.errors import exit_on_user_error
from phenomjax.system.options import run_command

VALIDATION = "mycoplasma_genitalium.faa"
SEGMENT, ROWS = 64, 16
SIZES = {
    "model.num_layers": 4,
    "model.embed_dim": 128,
    "model.num_heads": 4,
    "model.head_dim": 32,
    "model.mlp_dim": 512,
}
SHARED = {
    "model.dropout": 0.1,
    "log.every_steps": 200,
    "checkpoint.every_steps": 1000,
    "figures.every_steps": 0,
}
TXL = {**SIZES, "model.norm": "pre", "optimizer.learning_rate": 3e-3, "data.segment_len": SEGMENT}
MODELS = {
    "Transformer-XL": ("prot_txl.py:small", ROWS, SEGMENT, {**TXL, "model.mem_len": 192}),
    "without memory": ("prot_txl.py:small", ROWS, SEGMENT, {**TXL, "model.mem_len": 0}),
    "ELMo": (
        "seqvec.py:demo",
        ROWS,
        64,
        {"data.segment_len": 64, "model.cell_dim": 256, "data.simulate.families": 0},
    ),
    "XLNet": (
        "prot_xlnet.py:small",
        ROWS,
        32,
        {
            **SIZES,
            "optimizer.learning_rate": 5e-4,
            "data.segment_len": 64,
            "model.mem_len": 96,
            "model.reuse_len": 32,
            "model.perm_size": 32,
            "model.num_predict": 11,
            "model.attention_dropout": 0.0,
        },
    ),
}


def run(*command: str, codes: tuple[int, ...] = (0,)) -> None:
    code = subprocess.run([sys.executable, "-m", *command]).returncode
    if code not in codes:
        sys.exit(f"{' '.join(command)} ended with code {code}")


def prepare(fasta: Path, out: Path) -> list[Path]:
    """Makes the two banks; finished ones are kept."""
    files = sorted(path for path in fasta.iterdir() if path.suffix in (".faa", ".fasta"))
    banks = [out / "train.zarr", out / "validation.zarr"]
    for bank, sources, share in (
        (banks[0], [path for path in files if path.name != VALIDATION], "0"),
        (banks[1], [fasta / VALIDATION], "1"),
    ):
        run(
            "phenomjax.prepare",
            "sequences",
            "--source",
            *map(str, sources),
            "--out",
            str(bank),
            "--validation",
            share,
            "--test",
            "0",
        )
    return banks


def train(out: Path, name: str, banks: list[Path], residues: int) -> Path:
    """Trains with the public command; a finished run is kept."""
    preset, rows, advance, settings = MODELS[name]
    steps, workdir = residues // (rows * advance), out / name.replace(" ", "_")
    settings = (
        SHARED
        | settings
        | {
            "data.banks": tuple(map(str, banks)),
            "global_batch_size": rows,
            "num_steps": steps,
            "eval.every_steps": max(steps // 8, 1),
            "eval.num_batches": 0,
        }
    )
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    run("phenomjax.main", "--config", f"configs/{preset}", "--workdir", str(workdir), *flags)
    return workdir


def text(bank: TokenBank, split: str) -> np.ndarray:
    first, last = bank.splits[split]
    return bank.tokens[int(bank.offsets[first]) : int(bank.offsets[last])].astype(np.int64)


def ngram_perplexities(
    train_text: np.ndarray, valid_text: np.ndarray, vocab: int
) -> dict[str, float]:
    """Perplexity per token of n-gram models whose probabilities are interpolated with those of one
    order less.
    """
    before = np.full(len(valid_text), 1.0 / vocab)
    found = {}
    for order, name in ((1, "unigram"), (2, "bigram"), (3, "trigram")):
        codes = [
            sum(t[order - 1 - k : len(t) - k] * vocab**k for k in range(order))
            for t in (train_text, valid_text)
        ]
        counts = np.bincount(codes[0], minlength=vocab**order)
        context = counts.reshape(-1, vocab).sum(1)
        strength = float(vocab)  # as if the order below had been seen this often
        lower = before[order - 1 :]
        probability = (counts[codes[1]] + strength * lower) / (
            context[codes[1] // vocab] + strength
        )
        before = np.concatenate([before[: order - 1], probability])
        found[name] = float(np.exp(-np.log(before[1:]).mean()))
    return found


@dataclass(frozen=True)
class Options:
    """Of `python -m bench.protein_lm`."""

    fasta: Path = Path("../shared/data/protein/fasta")
    """folder of proteomes"""
    out: Path = Path("runs/proteins")
    """folder of banks and runs"""
    residues: int = 4_000_000
    """new tokens that each model reads in training"""
    models: str = ",".join(MODELS)
    """which, with commas between them"""


def measure(options: Options) -> None:
    """Trains what is missing, and prints the perplexities."""
    options.out.mkdir(parents=True, exist_ok=True)
    paths = prepare(options.fasta, options.out)
    banks = [open_token_bank(path) for path in paths]
    texts = text(banks[0], "train"), text(banks[1], "validation")
    floors = ngram_perplexities(*texts, len(banks[0].vocabulary))
    rows = []
    for name in options.models.split(","):
        workdir = train(options.out, name, paths, options.residues)
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        curve = [
            (line["step"], line["val/perplexity"]) for line in lines if "val/perplexity" in line
        ]
        rate = np.median(
            [line["perf/residues_per_s"] for line in lines if "perf/residues_per_s" in line]
        )
        rows.append((name, curve, rate))
    print(
        f"\ntrained on {len(texts[0]):,} tokens, validated on the {len(texts[1]):,} of"
        f" {VALIDATION}; perplexity per token"
    )
    for name, value in floors.items():
        print(f"{name:<16}{value:7.2f}")
    for name, curve, rate in rows:
        points = "  ".join(f"{step}: {value:.2f}" for step, value in curve)
        print(f"{name:<16}{curve[-1][1]:7.2f}   {rate:6.0f} residues/s   after steps {points}")


if __name__ == "__main__":
    exit_on_user_error(
        lambda: run_command(Options, measure, "python -m bench.protein_lm", __doc__ or "")
    )
