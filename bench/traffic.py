"""What the kernels of a step move through the memory of an H100, read from the program that XLA
compiles for it: `python -m bench.traffic [--out FILE]`.

No GPU is needed, but JAX's CUDA plugin (bench/programs.py). A kernel moves what it reads and what
it writes, once each: of an array that it only slices, the slice. Below the totals by kind stand the
largest kernels. The floor of a step is the longer of two times: its products at the peak of the
tensor cores, and its bytes at the bandwidth of the memory.
"""

import argparse
import collections
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import rounds
from bench.hlo import Operation, Program, size_of

PEAK, BANDWIDTH = 989e12, 3.35e12  # an H100 SXM: bfloat16 FLOP/s without sparsity, bytes/s
# (preset, rows): bfloat16, layers scanned and recomputed
MODELS = {"mae L/16": 256, "mae L/8": 64, "prot_txl uniref": 8}
# what is no kernel, or stands for what it calls
NONE = {"parameter", "constant", "bitcast", "get-tuple-element", "tuple", "while", "conditional"}
NONE |= {"call", "partition-id", "after-all", "iota"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rows", type=int, default=0, help="of a step (default by model)")
    parser.add_argument("--attention", default="auto", help="of the model's configuration")
    parser.add_argument("--remat", default="full")
    parser.add_argument("--largest", type=int, default=12, help="kernels that are listed")
    parser.add_argument("--out", default="", help="also write the output to this file")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps({"text": compiled(json.loads(options.worker))}))
        return 0
    lines = [rounds.header("compiled for H100", ("jax", "jaxlib", "flax"))]
    print(lines[0], flush=True)
    for model in options.models.split(","):
        case = {"model": model, "rows": options.rows or MODELS[model]}
        case |= {"attention": options.attention, "remat": options.remat}
        command = [sys.executable, "-m", "bench.traffic", "--worker", json.dumps(case)]
        done = subprocess.run(command, cwd=rounds.ROOT, capture_output=True, text=True)
        if done.returncode:
            text = f"\n{model}: failed: {done.stderr.strip().splitlines()[-1][:200]}"
        else:
            program = Program(json.loads(done.stdout.splitlines()[-1])["text"])
            text = table(case, program, options.largest)
        print(text, flush=True)
        lines.append(text)
    if options.out:
        Path(options.out).write_text("\n".join(lines) + "\n")
    return 0


def table(case: dict, program: Program, largest: int) -> str:
    """The floor of a step, its bytes by kind, and its largest kernels."""
    total, count = collections.Counter(), collections.Counter()
    kernels = []
    for name, op in own(program):
        times = program.times[name]
        moved = times * bytes_of(program, name, op)
        total[kind(op)] += moved
        count[kind(op)] += times
        kernels.append((moved, times, op))
    flops, moved = program.computation_flops(program.entry), total.total()
    lines = [
        f"\n{case['model']}, {case['rows']} rows, attention {case['attention']}, remat"
        f" {case['remat']}: {flops / 1e12:.2f} TFLOP = {1e3 * flops / PEAK:.1f} ms at the peak,"
        f" {moved / 1e9:.1f} GB = {1e3 * moved / BANDWIDTH:.1f} ms at the bandwidth"
    ]
    for name, size in total.most_common():
        lines.append(f"  {name:28s} {count[name]:6d} x {size / 1e9:9.2f} GB {size / moved:6.1%}")
    for size, times, op in sorted(kernels, key=lambda kernel: -kernel[0])[:largest]:
        shapes = " ".join(f"{t}{list(shape)}" for t, shape in op.arrays if shape)[:60]
        where = op.op_name.removeprefix("jit(step)/")[-90:]
        lines.append(f"    {size / 1e9:8.2f} GB {times:4d} x {kind(op):18s} {shapes:60s} {where}")
    return "\n".join(lines)


def own(program: Program) -> Iterator[tuple[str, Operation]]:
    """(computation, operation) of all kernels but collectives: not what is fused into one."""
    fused: set[str] = set()
    for operations in program.computations.values():
        fused.update(x for op in operations if op.opcode == "fusion" for x in program.called(op))
    inner = list(fused)
    while inner:
        for op in program.computations[inner.pop()]:
            new = set(program.called(op)) - fused
            fused |= new
            inner += new
    for name, op in program.operations():
        if (
            name not in fused
            and op.opcode not in NONE
            and not op.opcode.endswith(("-done", "-start"))
        ):
            yield name, op


def kind(op: Operation) -> str:
    """What sort of kernel it is."""
    if op.opcode == "custom-call":
        target = op.text.split('custom_call_target="')[1].split('"')[0]
        return "matrix product" if "matmul" in target or "gemm" in target else target
    if op.opcode == "fusion":
        for word in ("transpose", "copy", "reduce"):
            if word in op.name:
                return f"fusion, {word}"
    return op.opcode


def bytes_of(program: Program, name: str, op: Operation) -> int:
    """What one run of a kernel reads and writes."""
    called = program.called(op)
    if op.opcode != "fusion" or not called:
        return sum(map(size_of, [*program.operand_arrays(name, op), *op.arrays]))
    inner = program.computations[called[0]]
    by_name = {x.name: x for x in inner}
    whole = lambda x: sum(map(size_of, x.arrays))  # noqa: E731
    moved = 0
    for x in inner:
        users = [user for user in inner if x.name in user.operands]
        if x.opcode != "parameter" or all(_updates(user, x) for user in users):
            continue
        if all(user.opcode in ("dynamic-slice", "slice", "gather") for user in users):
            moved += min(whole(x), sum(map(whole, users)))
        else:
            moved += whole(x)
    (root,) = (x for x in inner if x.root)
    for x in [by_name[y] for y in root.operands] if root.opcode == "tuple" else [root]:
        while x.opcode in ("bitcast", "copy") and x.operands:
            x = by_name[x.operands[0]]
        moved += whole(by_name[x.operands[1]] if x.opcode == "dynamic-update-slice" else x)
    return moved


def _updates(user: Operation, x: Operation) -> bool:
    """Whether x is only written into, in place."""
    return user.opcode == "dynamic-update-slice" and user.operands[0] == x.name


# In the worker


def compiled(case: dict) -> str:
    """The text of the program for one H100."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # the default; the H100 is described, not there
    from bench import programs
    from configs import mae, prot_txl
    from phenomjax.step import ROUNDED

    family, size = case["model"].split()
    c = (mae if family == "mae" else prot_txl).get_config(size)
    c.model.update(dtype="bfloat16", scan_layers=True)
    c.model.attention, c.model.remat = case["attention"], case["remat"]
    if family == "mae":
        c.model.channels = tuple("abcdef")
    c.mesh.preset, c.global_batch_size = "dp", case["rows"]
    lowered, _ = programs.lower(c, programs.devices("gpu", 1))
    return lowered.compile({"xla_gpu_enable_triton_gemm": False} | ROUNDED).as_text()


if __name__ == "__main__":
    sys.exit(main())
