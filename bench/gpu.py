"""All that is measured on one GPU, in one call of bounded time: `python -m bench.gpu --out FOLDER
[--seconds 540]`.

First whether attention is right there, forward and backward, against the same formula in float32:
flash attention with odd and even numbers of tokens, and relative attention in both ways that a GPU
has. Then `bench.lm_step`, `bench.mae_step` and `bench.inference`, those first that say most, each
as long as time is left. The output of each goes to FOLDER/NAME.txt, and what was found to
FOLDER/summary.txt, whatever ends the rest.

Bars: 50 % of the bfloat16 matrix product measured in the same run, and the rates that 50 % of an
H100's 989 TFLOP/s would be: ViT-L/16 3,030 crops/s, L/8 712, ProtTXL of 562 M 103,000 residues/s.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from bench import rounds

OURS = ["--peers", "phenomjax", "--rounds", "3"]
SCANNED = "scan_layers=True"
# (name, words behind `python -m`, seconds without which it is not begun)
MEASURES = [
    ("check", ["bench.gpu", "--check"], 20),
    ("txl", ["bench.lm_step", "--models", "prot-txl-bfd", *OURS, "--overrides", SCANNED], 60),
    (
        "txl_cudnn",
        [
            *("bench.lm_step", "--models", "prot-txl-bfd", *OURS),
            *("--overrides", f"{SCANNED},attention=cudnn"),
        ],
        60,
    ),
    *[
        (
            f"mae_{model.replace('/', '')}",
            [
                *("bench.mae_step", "--models", model, "--blocks", "parallel", "--modes", "step"),
                *(*OURS, "--overrides", SCANNED),
            ],
            60,
        )
        for model in ("L/16", "L/8")
    ],
    ("inference", ["bench.inference", *OURS], 60),
    (
        "mae_torch",
        [
            *("bench.mae_step", "--models", "L/16", "--blocks", "parallel", "--modes", "step"),
            *("--peers", "phenomjax,torch-compile", "--rounds", "2", "--overrides", SCANNED),
        ],
        120,
    ),
]
TELLING = re.compile(r"matmul rate|crops/s|residues/s|error|ratio|goal|attention: ")
WRONG = 0.03  # of the largest value: bfloat16 rounds to 1 / 256, several times in a row


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="bench/results/gpu", help="folder of the outputs")
    parser.add_argument("--seconds", type=float, default=540, help="of the whole call")
    parser.add_argument("--only", default="", help=f"of {', '.join(name for name, *_ in MEASURES)}")
    parser.add_argument("--check", action="store_true", help="only whether attention is right")
    options = parser.parse_args()
    if options.check:
        return check()
    end, out = time.monotonic() + options.seconds, Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    lines = [rounds.header(rounds.gpu_name(), ("jax", "jaxlib", "flax"))]
    wanted, failed = options.only.split(",") if options.only else [], 0
    for name, words, least in MEASURES:
        left = end - time.monotonic()
        if wanted and name not in wanted:
            continue
        if left < least:
            lines.append(f"{name}: not begun, {left:.0f} s were left")
            continue
        begin = time.monotonic()
        code, text = _run(words, left)
        failed += code != 0
        (out / f"{name}.txt").write_text(f"python -m {' '.join(words)}\n{text}")
        found = text.splitlines()
        told = [line for line in found if TELLING.search(line)] if code == 0 else found[-5:]
        told = [f"{name}: exit {code} after {time.monotonic() - begin:.0f} s", *told]
        print("\n  ".join(told), flush=True)
        lines += told
        (out / "summary.txt").write_text("\n".join(lines) + "\n")
    (out / "summary.txt").write_text("\n".join(lines) + "\n")
    print(f"all of it: {out / 'summary.txt'}")
    return int(failed > 0)


def _run(words: list[str], seconds: float) -> tuple[int, str]:
    """Exit code and output of a command that is ended when its time is over."""
    environment = {**os.environ, "PYTHONPATH": str(rounds.ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=rounds.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        text = process.communicate(timeout=seconds)[0]
        return process.returncode, text
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # with the workers, which hold the GPU's memory
        return 124, process.communicate()[0] + "\nended: the time was over"


def check() -> int:
    """Compares attention with its formula; prints each largest error, and fails if one is large."""
    import jax

    wrong = 0
    print(f"on {jax.devices()[0].device_kind}")
    for name, error in errors():
        print(f"  {name:55s} error {error:.4f}")
        wrong += not error < WRONG
    return int(wrong > 0)


def errors():
    """(what, largest error of values and gradients in bfloat16 over the largest value) of all ways
    of attention that this device has.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from phenomjax.models.attention import attention, choose_attention, matmul_attention
    from phenomjax.models.relative_attention import causal_mask, relative_attention

    random = np.random.default_rng(0)

    def compare(found, expected, shapes):
        arrays = [jnp.asarray(random.normal(size=shape), jnp.bfloat16) for shape in shapes]
        weight = jnp.asarray(random.normal(size=shapes[0]), jnp.float32)

        def all_of(function, dtype):
            def total(*x):
                y = function(*x)
                return (y * weight).sum(), y

            valued = jax.jit(jax.value_and_grad(total, range(len(arrays)), has_aux=True))
            (_, y), gradients = valued(*(x.astype(dtype) for x in arrays))
            return [np.asarray(x, np.float32) for x in (y, *gradients)]

        with jax.default_matmul_precision("highest"):
            wanted = all_of(expected, jnp.float32)
        pairs = zip(all_of(found, jnp.bfloat16), wanted, strict=True)
        return max(np.abs(x - y).max() / np.abs(y).max() for x, y in pairs)

    for tokens, heads, width in ((65, 16, 64), (257, 16, 32), (256, 6, 64), (1025, 16, 64)):
        shape = (2, tokens, heads, width)
        chosen, _ = choose_attention("auto", jnp.bfloat16, width)
        yield (
            f"attention ({chosen}), {tokens} tokens, {heads} x {width}",
            compare(attention, matmul_attention, [shape] * 3),
        )
    queries, memory, heads, width = 128, 128, 4, 64
    keys, mask = queries + memory, causal_mask(queries, memory, jnp.array([128, 60]), "none", 0)
    shapes = [(2, queries, heads, width), *[(2, keys, heads, width)] * 2, (keys, heads, width)]
    shapes += [(heads, width)] * 2
    gpu = jax.default_backend() == "gpu"
    for name in ("xla", "cudnn") if gpu else ("xla", "looped"):
        yield (
            f"relative attention ({name}), {queries} + {memory} tokens",
            compare(
                lambda *x, name=name: relative_attention(*x, mask, name),
                lambda *x: relative_attention(*x, mask, "looped"),
                shapes,
            ),
        )


if __name__ == "__main__":
    sys.exit(main())
