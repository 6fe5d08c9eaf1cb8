"""Collective operations of the compiled train step for each mesh preset at 8 to 1024 devices:
`python -m bench.collectives [--out FILE]`.

The step is compiled abstractly, each size in a process of its own. With JAX's CUDA plugin installed
(no GPU is needed) it is compiled for H100s and the schedule is XLA's; else for virtual CPU devices,
and read as the SPMD partitioner leaves it (bench/programs.py): there nothing is combined or
scheduled yet, so "scheduled" is left out, and a sum of which each device keeps a slice counts as a
reduce-scatter.

Bytes are what a device sends a step with ring algorithms among n: all-reduce 2 (n-1)/n of the
array, reduce-scatter, all-gather and all-to-all (n-1)/n of the whole array. What stands in a loop
over layers counts its turns.

The projection. Compute: FLOPs of matrix products / (--tflops x --mfu); nothing else takes time. A
collective: --latency_us x ceil(log2 n) + bytes sent / bandwidth; --link_gbps (Gbit/s of a device
between nodes), or --node_gbps for groups within --per_node neighbours. On each of the
two networks collectives run one at a time. Three times of a step:
  serial     nothing overlaps
  scheduled  compute and two networks, within nodes and between them, in the order of XLA's
             schedule; a collective runs from its start to its done, in turn on its network
  bound      in each computation (a turn of a loop) a collective hides behind all products that
             neither need it nor are needed by it:
             what no schedule without overlap across the turns of a loop can beat
Efficiency is that of weak scaling: the compute time over the time of the step; behind "scheduled"
also that of the same schedule where the network between nodes is half and twice as fast as said.
The GPU's program is compiled with the options that a run gets (`phenomjax.step.OVERLAP`) and those
of XLA_FLAGS, which the first lines name: XLA's own estimate of the network, by which it makes the
schedule, is not the model above.
"""

import argparse
import collections
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import rounds
from bench.hlo import KINDS, Collective, Program, collective_kind

ROOT = Path(__file__).resolve().parent.parent
MODELS = {"txl": "prot_txl uniref, 30 x 1024", "mae": "MAE ViT-L/8, 24 x 1024"}
# a device: what the published batches, 22,464 segments and 16,384 crops, are on 256
ROWS = {"txl": 88, "mae": 64}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--presets", default="dp,fsdp,hsdp,fsdp_tp")
    parser.add_argument("--devices", default="8,64,256,1024")
    parser.add_argument(
        "--rows", type=int, default=0, help="a device (default 88 segments, 64 crops)"
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="a quarter of the width, 4 layers: the same structure, compiled faster",
    )
    parser.add_argument(
        "--platform", default="", help="gpu or cpu (default: gpu if the CUDA plugin is installed)"
    )
    parser.add_argument(
        "--model_axis", type=int, default=8, help="devices on the model axis of fsdp_tp"
    )
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches a step")
    parser.add_argument("--link_gbps", type=float, default=400.0)
    parser.add_argument("--node_gbps", type=float, default=3600.0)
    parser.add_argument("--per_node", type=int, default=8)
    parser.add_argument("--latency_us", type=float, default=10.0)
    parser.add_argument("--tflops", type=float, default=990.0)
    parser.add_argument("--mfu", type=float, default=0.4)
    parser.add_argument("--out", default="")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(json.loads(options.worker), options)))
        return 0
    from bench.programs import has_cuda

    platform = options.platform or ("gpu" if has_cuda() else "cpu")
    lines = [
        rounds.header(
            "compiled for"
            f" {'H100' if platform == 'gpu' else 'virtual CPU devices, partitioned program'}",
            ("jax", "jaxlib", "flax"),
        ),
        (
            f"model: {options.link_gbps:g} Gbit/s a device between nodes of {options.per_node},"
            f" {options.node_gbps:g} within, {options.latency_us:g} us a doubling,"
            f" {options.tflops:g} TFLOP/s x {options.mfu:g}"
        ),
        *([f"XLA_FLAGS={os.environ['XLA_FLAGS']}"] if os.environ.get("XLA_FLAGS") else []),
    ]
    show(lines, options.out)
    for model in options.models.split(","):
        rows = options.rows or ROWS[model]
        size = f"{MODELS[model]}{', reduced' if options.small else ''}, {rows} rows a device"
        add(lines, f"\n{size}, {options.accumulate} micro-batches", options.out)
        add(lines, table_head(), options.out)
        for preset in options.presets.split(","):
            for count in map(int, options.devices.split(",")):
                case = {
                    "model": model,
                    "preset": preset,
                    "devices": count,
                    "rows": rows,
                    "platform": platform,
                }
                command = [
                    sys.executable,
                    "-m",
                    "bench.collectives",
                    *sys.argv[1:],
                    "--worker",
                    json.dumps(case),
                ]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
                if done.returncode:
                    add(
                        lines,
                        f"  {preset:8s}{count:5d}  failed:"
                        f" {done.stderr.strip().splitlines()[-1][:160]}",
                        options.out,
                    )
                    continue
                add(lines, table_row(case, json.loads(done.stdout.splitlines()[-1])), options.out)
    return 0


def add(lines: list[str], line: str, out: str) -> None:
    lines.append(line)
    show([line], "")
    if out:
        Path(out).write_text("\n".join(lines) + "\n")


def show(lines: list[str], out: str) -> None:
    print("\n".join(lines), flush=True)


def table_head() -> str:
    short = {
        "all-reduce": "AR",
        "reduce-scatter": "RS",
        "all-gather": "AG",
        "all-to-all": "A2A",
        "collective-permute": "CP",
    }
    kinds = "".join(f"{short[kind] + ' n  GB':>14s}" for kind in KINDS)
    return (
        f"  preset  devs{kinds}  reduced in          TFLOP | serial s  eff   scheduled s  eff  "
        " half  twice   bound s  eff   compiled in s"
    )


def table_row(case: dict, found: dict) -> str:
    kinds = "".join(
        f"{found['count'].get(k, 0):6d}{found['sent'].get(k, 0) / 1e9:8.3f}" for k in KINDS
    )
    times = ""
    for name in ("serial", "scheduled", "bound"):
        seconds = found[name]
        times += (
            f"{seconds:9.4f} {found['compute'] / seconds:5.1%}  "
            if seconds
            else f"{'-':>9s} {'-':>5s}  "
        )
        if name == "scheduled":
            for other in ("half", "twice"):
                times += f"{found['compute'] / found[other]:5.1%} " if seconds else f"{'-':>5s} "
    reduced = ",".join(f"{k} {v / 1e6:.0f} MB" for k, v in found["reduced"].items() if v > 1e5)
    return (
        f"  {case['preset']:8s}{case['devices']:5d}{kinds} "
        f" {reduced:18s}{found['flops'] / 1e12:8.2f} | {times} {found['seconds']:6.0f}"
    )


# In the worker


def measure(case: dict, options: Any) -> dict:
    """Compiles one case and reads its program."""
    import time

    import jax

    count, platform = case["devices"], case["platform"]
    jax.config.update("jax_platforms", "cpu")  # the default; H100s are described, not there
    if platform == "cpu":
        jax.config.update("jax_num_cpu_devices", count)
    from bench import programs

    config = make_config(case, options)
    begin = time.perf_counter()
    lowered, _ = programs.lower(config, programs.devices(platform, count, options.per_node))
    program = (
        programs.compiled(lowered, "gpu") if platform == "gpu" else programs.partitioned(lowered)
    )
    seconds = time.perf_counter() - begin
    link = lambda c: cost(c, options)  # noqa: E731
    within = lambda c: c.span <= options.per_node  # noqa: E731

    def in_order(speed: float) -> float:
        link = lambda c: cost(c, options, speed)  # noqa: E731
        return scheduled(program, program.entry, rate, link, within) if platform == "gpu" else 0.0

    rate = options.tflops * 1e12 * options.mfu
    number, sent, reduced = collections.Counter(), collections.Counter(), collections.Counter()
    for c in program.collectives():
        number[c.kind] += c.times
        sent[c.kind] += c.times * c.sent
        if c.kind in ("all-reduce", "reduce-scatter"):
            for dtype, shape in c.arrays:
                reduced[dtype] += c.times * math.prod(shape) * {"bf16": 2, "f32": 4}.get(dtype, 4)
    flops = program.computation_flops(program.entry)
    times = {
        "compute": flops / rate,
        "serial": flops / rate + sum(c.times * link(c) for c in program.collectives()),
        "scheduled": in_order(1.0),
        "half": in_order(0.5),
        "twice": in_order(2.0),
        "bound": bound(program, program.entry, rate, link),
    }
    return {
        "count": number,
        "sent": sent,
        "reduced": reduced,
        "flops": flops,
        "seconds": seconds,
        **times,
    }


def make_config(case: dict, options: Any) -> Any:
    """The published sizes, or the same structure smaller, bfloat16; a node is a group of hsdp."""
    from configs import mae, prot_txl

    c = prot_txl.get_config("uniref") if case["model"] == "txl" else mae.get_config("L/8")
    m = c.model
    if case["model"] == "mae":
        m.channels = tuple("abcdef")
        if case["platform"] == "cpu":  # which has no flash attention
            m.attention = "xla"
    if options.small:
        m.embed_dim = 256
        if case["model"] == "txl":
            m.num_layers, m.num_heads, m.head_dim, m.mlp_dim = 4, 8, 32, 1024
        else:
            m.depth, m.num_heads, m.decoder_dim, m.decoder_depth, m.decoder_num_heads = (
                4,
                8,
                256,
                2,
                8,
            )
            c.data.crop_size = 64
    m.dtype, m.scan_layers, m.remat = "bfloat16", True, "full"
    c.mesh.preset, c.mesh.model = (
        case["preset"],
        (options.model_axis if case["preset"] == "fsdp_tp" else 1),
    )
    if case["preset"] == "hsdp":
        c.mesh.replica = max(case["devices"] // options.per_node, 1)
    c.optimizer.accumulate_steps = options.accumulate
    c.global_batch_size = case["rows"] * case["devices"]
    return c


def cost(c: Collective, options: Any, speed: float = 1.0) -> float:
    """Seconds of a collective; see above. `speed`: that of the network between nodes, over what the
    options say.
    """
    gbps = options.node_gbps if c.span <= options.per_node else speed * options.link_gbps
    return options.latency_us * 1e-6 * math.ceil(math.log2(c.group)) + c.sent * 8 / (gbps * 1e9)


def scheduled(program: Program, name: str, rate: float, link: Any, within: Any) -> float:
    """Seconds of one run of a computation in the order of its schedule."""
    now, free = 0.0, {True: 0.0, False: 0.0}  # of the compute stream; when each network is free
    ends: dict[str, float] = {}
    for op in program.computations[name]:
        if kind := collective_kind(op):
            c = program.collective(name, op, kind)
            ends[op.name] = max(now, free[within(c)]) + (link(c) if c.group > 1 else 0.0)
            free[within(c)] = ends[op.name]
            if not op.opcode.endswith("-start"):
                now = ends[op.name]
        elif op.opcode.endswith("-done"):
            now = max([now, *(ends[x] for x in op.operands if x in ends)])
        elif op.opcode == "while":
            turn = sum(scheduled(program, x, rate, link, within) for x in program.called(op))
            now = max(now, *free.values()) + program.turns(op) * turn
        else:
            now += program.flops(name, op) / rate
    return max(now, *free.values())


def bound(program: Program, name: str, rate: float, link: Any) -> float:
    """Seconds of one run of a computation if every collective hid behind all products that are
    independent of it.
    """
    operations = program.computations[name]
    place = {op.name: i for i, op in enumerate(operations)}
    work, total, exposed, all_links = [0.0] * len(operations), 0.0, 0.0, 0.0
    before: list[int] = []  # bit sets of what each operation needs
    for i, op in enumerate(operations):
        needs = 0
        for operand in op.operands:
            j = place.get(operand)
            needs |= (before[j] | 1 << j) if j is not None and j < i else 0
        before.append(needs)
        if op.opcode == "while":  # a barrier: hides and shows what its body does
            total += program.turns(op) * sum(
                bound(program, x, rate, link) for x in program.called(op)
            )
        else:
            work[i] = program.flops(name, op) / rate
    for i, op in enumerate(operations):
        kind = collective_kind(op)
        c = program.collective(name, op, kind) if kind else None
        if c and c.group > 1:
            independent = sum(
                w
                for j, w in enumerate(work)
                if w and not before[i] >> j & 1 and not before[j] >> i & 1
            )
            exposed, all_links = exposed + max(link(c) - independent, 0.0), all_links + link(c)
    return total + sum(work) + max(exposed, all_links - sum(work))


if __name__ == "__main__":
    sys.exit(main())
