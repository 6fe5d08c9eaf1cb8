"""Training step and encoder inference of the MAE against a plain PyTorch MAE: `python bench/mae_step.py [--out FILE]`.

On a CPU: one core, one thread, every implementation in a process of its own, alternating rounds, CPU time (user and
system), medians. On a GPU: crops/s, MFU against a bfloat16 matrix product measured in the same run, and peak memory.
The step is forward, backward and AdamW, without the Fourier term, drop path and data loading, in both programs.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}
GOALS = {"step": 0.75, "encoder": 0.45}  # our CPU time over torch eager's, ViT-S/16
CHANNELS, CROP = 6, 256


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", default="", help="e.g. S/16,B/16 (default: S/16,B/16 on a CPU, S, B, L at 16 and 8 on a GPU)"
    )
    parser.add_argument("--blocks", default="parallel,prenorm")
    parser.add_argument("--modes", default="step,encoder")
    parser.add_argument("--peers", default="phenomjax,torch,torch-compile")
    parser.add_argument("--batch", type=int, default=0, help="crops a step (default 4 on a CPU; on a GPU by model)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--repeats", type=int, default=4, help="calls a round; the first after a pause pays for memory given back"
    )
    parser.add_argument("--overrides", default="", help="of phenomjax's model config, e.g. scan_layers=True,remat=full")
    parser.add_argument("--out", default="", help="also write the output to this file")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(json.loads(options.worker))
    gpu = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout if which("nvidia-smi") else ""
    lines = [header(gpu)]
    print(lines[0], flush=True)
    models = options.models or ("S/16,B/16,L/16,S/8,B/8,L/8" if gpu else "S/16,B/16")
    for model in models.split(","):
        for block in options.blocks.split(","):
            for mode in options.modes.split(","):
                case = {"model": model, "block": block, "mode": mode, "gpu": bool(gpu), "overrides": options.overrides}
                case |= {"batch": options.batch or default_batch(model, bool(gpu)), "repeats": options.repeats}
                text = compare(case, options.peers.split(","), options.rounds)
                print(text, flush=True)
                lines.append(text)
    if options.out:
        Path(options.out).write_text("\n".join(lines) + "\n")
    return 0


def default_batch(model: str, gpu: bool) -> int:
    return {"S/16": 512, "B/16": 512, "L/16": 256, "S/8": 128, "B/8": 128, "L/8": 64}[model] if gpu else 4


def which(program: str) -> bool:
    return any((Path(folder) / program).exists() for folder in os.environ["PATH"].split(":"))


def header(gpu: str) -> str:
    """Date, machine, versions, commit."""
    fields = dict(x.split(":", 1) for x in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    cpu = f"{fields.get('model name', platform.processor())} family {fields.get('cpu family')} model {fields.get('model')}"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "flax", "torch"))
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return (
        f"{datetime.date.today()}  {gpu.strip() or f'{cpu}, one core, one thread'}  Python {platform.python_version()}  "
        f"{versions}  commit {commit}  load {load}\ncrops {CROP} x {CROP} x {CHANNELS} uint8; decoder 512 x 8 x 16; mask 0.75"
    )


def compare(case: dict, peers: list[str], rounds: int) -> str:
    """Runs all implementations in alternating rounds and formats the table."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    if case["gpu"]:
        environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    else:
        environment |= {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "JAX_PLATFORMS": "cpu"}

    def start(peer: str) -> subprocess.Popen:
        command = [sys.executable, __file__, "--worker", json.dumps({**case, "peer": peer})]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        answer(process)  # built, compiled and warm
        return process

    def stop(process: subprocess.Popen) -> None:
        process.stdin.close()
        process.wait()

    results = {peer: [] for peer in peers}
    if case["gpu"]:  # one process at a time: two would share the GPU's memory
        for _ in range(2):
            for peer in peers:
                process = start(peer)
                results[peer] += [ask(process) for _ in range(rounds)]
                stop(process)
        return table_gpu(case, results)
    workers = {peer: start(peer) for peer in peers}
    for _ in range(rounds):
        for peer, process in workers.items():
            results[peer].append(ask(process))
    for process in workers.values():
        stop(process)
    return table_cpu(case, results)


def ask(process: subprocess.Popen) -> dict:
    process.stdin.write("go\n")
    process.stdin.flush()
    return answer(process)


def answer(process: subprocess.Popen) -> dict:
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a benchmark process ended with code {process.wait()}")
    return json.loads(line)


def table_cpu(case: dict, results: dict[str, list[dict]]) -> str:
    median = {peer: statistics.median(x["cpu"] for x in rows) for peer, rows in results.items()}
    lines = [
        f"\n{case['model']} {case['block']} {case['mode']}, batch {case['batch']}{' ' + case['overrides'] if case['overrides'] else ''}"
    ]
    for peer, rows in results.items():
        cpus, base = [x["cpu"] for x in rows], median.get("torch")
        line = f"  {peer:14s} CPU {median[peer]:7.3f} s (min {min(cpus):.3f}, sys {statistics.median(x['sys'] for x in rows):.3f})"
        line += f"  {case['batch'] / median[peer]:6.2f} crops/CPU-s  {rows[-1]['gflops'] / median[peer]:6.1f} GFLOP/s  peak {rows[-1]['rss']:.2f} GB"
        lines.append(line + (f"  {median[peer] / base:.2f} x torch" if base else ""))
    if "torch" in median and "phenomjax" in median:
        ratio, goal = median["phenomjax"] / median["torch"], GOALS[case["mode"]]
        lines.append(f"  ratio {ratio:.2f}, goal {goal} (set for S/16): {'met' if ratio <= goal else 'NOT met'}")
    return "\n".join(lines)


def table_gpu(case: dict, results: dict[str, list[dict]]) -> str:
    lines = [f"\n{case['model']} {case['block']} {case['mode']}, batch {case['batch']}, bfloat16"]
    rates = {}
    for peer, rows in results.items():
        seconds, row = statistics.median(x["wall"] for x in rows), rows[-1]
        rates[peer] = case["batch"] / seconds
        tflops = row["gflops"] / 1e3 / seconds
        lines.append(
            f"  {peer:14s} {rates[peer]:8.0f} crops/s  {tflops:6.1f} TFLOP/s = {tflops / row['matmul_tflops']:.1%} of the matmul rate "
            f"({row['matmul_tflops']:.0f} TFLOP/s)  peak {row['device_gb']:.1f} GB"
        )
    if {"phenomjax", "torch-compile"} <= set(rates):
        lines.append(f"  {rates['phenomjax'] / rates['torch-compile']:.2f} x torch.compile, goal 1.2")
    return "\n".join(lines)


# In the worker processes


def worker(case: dict) -> int:
    """Builds one implementation, then times a round for every line on standard input."""
    if not case["gpu"]:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before the thread pools are sized
    run, extra = (jax_case if case["peer"] == "phenomjax" else torch_case)(case)
    run()
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start, wall = os.times(), time.perf_counter()
        for _ in range(case["repeats"]):
            run()
        wall, end = time.perf_counter() - wall, os.times()
        user, system = end.user - start.user, end.system - start.system
        row = {
            "cpu": (user + system) / case["repeats"],
            "sys": system / case["repeats"],
            "wall": wall / case["repeats"],
        }
        print(json.dumps({**row, **extra()}), flush=True)
    return 0


def model_config(case: dict):
    """The configuration of a case, and its FLOPs by the formula of the task."""
    from phenomjax.config import base
    from phenomjax.tasks import mae

    config, (size, patch) = base(), case["model"].split("/")
    model = config.model
    model.channels = tuple(f"c{i}" for i in range(CHANNELS))
    model.patch_size, model.block = int(patch), case["block"]
    model.embed_dim, model.depth, model.num_heads = SIZES[size]
    model.drop_path = model.fourier_weight = 0.0
    if case["block"] == "prenorm":
        model.qk_norm, model.layer_scale = False, 0.0
    for item in filter(None, case["overrides"].split(",")):
        key, value = item.split("=")
        model[key] = type(model[key])(value == "True") if isinstance(model[key], bool) else type(model[key])(value)
    config.data.crop_size = CROP
    shape = (case["batch"], CROP, CROP, CHANNELS)
    flops = 3 * mae.forward_flops(model, shape) if case["mode"] == "step" else mae.inference_flops(model, shape)
    return config, flops / 1e9


def peak_rss() -> float:
    """GB of resident memory at its peak."""
    return (
        next(int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
        / 1e6
    )


def jax_case(case: dict) -> tuple[Callable, Callable]:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax import linen as nn

    from phenomjax.tasks.mae import MaskedAutoencoder

    config, gflops = model_config(case)
    task, rows = MaskedAutoencoder(config), case["batch"]
    pixels = np.random.default_rng(0).integers(0, 256, (rows, CROP, CROP, CHANNELS), np.uint8)
    channels, row = np.tile(np.arange(CHANNELS, dtype=np.int32), (rows, 1)), np.arange(rows, dtype=np.int32)
    batch = jax.device_put({"pixels": pixels, "channels": channels, "row": row, "image": row})
    params = nn.unbox(jax.jit(task.init)(jax.random.key(0), batch))
    optimizer = optax.adamw(1e-4)

    def step(params, state, key, batch):
        key, now = jax.random.split(key)
        loss, gradient = jax.value_and_grad(lambda p: task.loss(p, batch, now, ())[0])(params)
        update, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, update), state, key, loss

    if case["mode"] == "step":
        state = [params, jax.jit(optimizer.init)(params), jax.random.key(1)]
        compiled = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*state, batch).compile()

        def run():
            *state[:], loss = compiled(*state, batch)
            return jax.block_until_ready(loss)
    else:
        compiled = jax.jit(task.embed).lower(params, batch).compile()

        def run():
            return jax.block_until_ready(compiled(params, batch))

    size = 8192
    matrix = jnp.ones((size, size), jnp.bfloat16) if case["gpu"] else None
    product = jax.jit(lambda x: x @ x)

    def extra():
        row = {"gflops": gflops, "rss": peak_rss()}
        if case["gpu"]:
            row["device_gb"] = jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 1e9
            row["matmul_tflops"] = matmul_rate(lambda: product(matrix), jax.block_until_ready, size)
        return row

    return run, extra


def torch_case(case: dict) -> tuple[Callable, Callable]:
    import mae_peer
    import torch

    torch.set_num_threads(1)
    _, gflops = model_config(case)
    size, patch = case["model"].split("/")
    device = "cuda" if case["gpu"] else "cpu"
    model = mae_peer.PlainMAE(CHANNELS, int(patch), *SIZES[size], case["block"], tokens=(CROP // int(patch)) ** 2).to(
        device
    )
    pixels = torch.randint(0, 256, (case["batch"], CHANNELS, CROP, CROP), dtype=torch.uint8, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)
    compiled = case["peer"] == "torch-compile"
    forward = torch.compile(model) if compiled else model
    features = torch.compile(model.features) if compiled else model.features
    precision = torch.autocast(device, torch.bfloat16, enabled=case["gpu"])

    def step():
        optimizer.zero_grad(set_to_none=True)
        with precision:
            loss = forward(pixels)
        loss.backward()
        optimizer.step()
        return loss.item()

    def encode():
        with torch.inference_mode(), precision:
            return features(pixels).float().sum().item()

    matrix = torch.ones(8192, 8192, dtype=torch.bfloat16, device=device) if case["gpu"] else None

    def extra():
        row = {"gflops": gflops, "rss": peak_rss()}
        if case["gpu"]:
            row["device_gb"] = torch.cuda.max_memory_allocated() / 1e9
            row["matmul_tflops"] = matmul_rate(lambda: matrix @ matrix, lambda _: torch.cuda.synchronize(), 8192)
        return row

    return step if case["mode"] == "step" else encode, extra


def matmul_rate(product: Callable, wait: Callable, size: int, repeats: int = 20) -> float:
    """TFLOP/s of a large bfloat16 product."""
    wait(product())
    start = time.perf_counter()
    for _ in range(repeats):
        result = product()
    wait(result)
    return 2 * size**3 * repeats / (time.perf_counter() - start) / 1e12


if __name__ == "__main__":
    sys.exit(main())
