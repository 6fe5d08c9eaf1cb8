"""Alternating rounds of several implementations, each in a process of its own; what the step
benchmarks share.

On a CPU one core, one thread, CPU time (user and system). On a GPU wall time, one process at a
time, memory, and the rate of a matrix product measured in the same process.
"""

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


def gpu_name() -> str:
    """What nvidia-smi calls the GPU, or ""."""
    there = any((Path(folder) / "nvidia-smi").exists() for folder in os.environ["PATH"].split(":"))
    return (
        subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.strip()
        if there
        else ""
    )


def header(
    gpu: str,
    packages: tuple[str, ...] = ("jax", "jaxlib", "flax", "torch"),
    used: str = ", one core, one thread",
) -> str:
    """Date, machine and what is used of it, versions, commit, load."""
    fields = dict(
        x.split(":", 1) for x in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    )
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    cpu = (
        f"{fields.get('model name', platform.processor())} family {fields.get('cpu family')} model"
        f" {fields.get('model')}"
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return (
        f"{datetime.date.today()}  {gpu or cpu + used}  Python"
        f" {platform.python_version()}  {versions}  commit {commit}  load {load}"
    )


def measured(module: str, *words: str) -> dict[str, float]:
    """What a process of `python -m MODULE --worker WORDS` prints last: `took`."""
    command = [sys.executable, "-m", module, "--worker", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:2])} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def took(start: float) -> str:
    """Peak of resident memory (MB), CPU seconds of this process, and wall seconds since `start` of
    `time.perf_counter`, as JSON.
    """
    used, wall = os.times(), time.perf_counter() - start
    return json.dumps({"MB": 1000 * peak_rss(), "CPU s": used.user + used.system, "s": wall})


def print_medians(found: dict[str, list[dict[str, float]]], label: str = "") -> None:
    """A line for each that was `measured`, and the ratios of all others to the first."""
    middle = {
        name: {key: statistics.median(one[key] for one in some) for key in some[0]}
        for name, some in found.items()
    }
    first, *others = middle
    for name, figures in middle.items():
        shown = "  ".join(f"{value:8.1f} {key}" for key, value in figures.items())
        print(f"  {label}{name:5} {shown}")
    for name in others:
        ratios = (f"{key} {value / middle[first][key]:.2f}" for key, value in middle[name].items())
        print(f"  {label}{name} / {first}: {', '.join(ratios)}")


def alternate(script: str, case: dict, peers: list[str], rounds: int) -> dict[str, list[dict]]:
    """Starts `script --worker CASE` for each peer and times them in turn.

    Returns:
      {peer: [what its worker printed, one a round]}.
    """
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
        command = [sys.executable, script, "--worker", json.dumps({**case, "peer": peer})]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        _answer(process)  # built, compiled and warm
        return process

    def stop(process: subprocess.Popen) -> None:
        process.stdin.close()
        process.wait()

    results: dict[str, list[dict]] = {peer: [] for peer in peers}
    if case["gpu"]:  # one process at a time: two would share the GPU's memory
        for _ in range(2):
            for peer in peers:
                process = start(peer)
                results[peer] += [_ask(process) for _ in range(rounds)]
                stop(process)
        return results
    workers = {peer: start(peer) for peer in peers}
    for _ in range(rounds):
        for peer, process in workers.items():
            results[peer].append(_ask(process))
    for process in workers.values():
        stop(process)
    return results


def _ask(process: subprocess.Popen) -> dict:
    process.stdin.write("go\n")
    process.stdin.flush()
    return _answer(process)


def _answer(process: subprocess.Popen) -> dict:
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a benchmark process ended with code {process.wait()}")
    return json.loads(line)


# In the worker processes


def serve(case: dict, make: Callable[[dict], tuple[Callable, Callable]]) -> int:
    """Builds one implementation with `make(case) -> (run, extra)`, then times a round for every
    line on standard input.
    """
    if not case["gpu"]:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before the thread pools are sized
    run, extra = make(case)
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
        print(json.dumps({**row, "rss": peak_rss(), **extra()}), flush=True)
    return 0


def peak_rss() -> float:
    """GB of resident memory at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


def jax_gpu_figures() -> dict:
    """Peak device memory in GB, and TFLOP/s of a large bfloat16 product."""
    import jax
    import jax.numpy as jnp

    size = 8192
    matrix, product = jnp.ones((size, size), jnp.bfloat16), jax.jit(lambda x: x @ x)
    memory = jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 1e9
    return {
        "device_gb": memory,
        "matmul_tflops": matmul_rate(lambda: product(matrix), jax.block_until_ready, size),
    }


def torch_gpu_figures() -> dict:
    """The same of PyTorch."""
    import torch

    memory, size = torch.cuda.max_memory_allocated() / 1e9, 8192
    matrix = torch.ones(size, size, dtype=torch.bfloat16, device="cuda")
    rate = matmul_rate(lambda: matrix @ matrix, lambda _: torch.cuda.synchronize(), size)
    return {"device_gb": memory, "matmul_tflops": rate}


def matmul_rate(product: Callable, wait: Callable, size: int, repeats: int = 20) -> float:
    """TFLOP/s of a large bfloat16 product."""
    wait(product())
    start = time.perf_counter()
    for _ in range(repeats):
        result = product()
    wait(result)
    return 2 * size**3 * repeats / (time.perf_counter() - start) / 1e12
