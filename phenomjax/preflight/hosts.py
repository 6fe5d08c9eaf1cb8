"""Checks of a preflight that look at the hosts: devices, clocks, versions, the network between
them, the stop signal.
"""

import hashlib
import os
import signal
import socket
import statistics
import time
from pathlib import Path
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

import phenomjax
from phenomjax import sharding
from phenomjax.cluster import messages, start
from phenomjax.preflight.results import Problem, Skip
from phenomjax.preflight.stand import LIMITS, MIB, Bench, differences
from phenomjax.system import versions

MAX_SKEW = 1.0  # seconds
REDUCED_ON_CPU, REDUCED_ON_GPU = (1, 8, 64), (1, 16, 256)  # MiB on each device


class Devices(TypedDict):
    """Those of one process: kind, number, and GiB for JAX on the smallest, 0 where it is not
    known.
    """

    kind: str
    count: int
    GiB: float


class Reduced(TypedDict):
    """What one process saw of an all-reduce over n devices: median seconds by MiB, as text."""

    n: int
    seconds: dict[str, float]
    expect: float
    host: str


def look_at_devices(bench: Bench) -> Devices:
    """Kind, number and memory of this process's devices, each of which computes something."""
    devices = jax.local_devices()
    for device in devices:
        x = jax.device_put(np.ones((256, 256), np.float32), device)
        if (total := float(jnp.sum(x @ x))) != 256**3:
            raise Problem(
                f"{device} says that a sum is {total}, and it is {256**3}",
                "Take that node out: the device is broken.",
            )
    stats = devices[0].memory_stats() or {}
    memory = (
        [(d.memory_stats() or {}).get("bytes_limit", 0) / 2**30 for d in devices] if stats else []
    )
    return {
        "kind": devices[0].device_kind,
        "count": len(devices),
        "GiB": round(min(memory), 1) if memory else 0,
    }


def judge_devices(found: list[Devices], names: list[str]) -> str:
    mend = (
        "See `nvidia-smi` on that host (MIG, a GPU that is down, another program on it), and"
        " --gpus-per-node of the job."
    )
    for key, values in (
        ("kind", [f["kind"] for f in found]),
        ("count", [f["count"] for f in found]),
    ):
        if text := differences(values, names):
            raise Problem(f"the {key} of devices differs: {text}", mend)
    memory = [f["GiB"] for f in found]
    if min(memory) < 0.98 * max(memory):
        raise Problem(f"memory (GiB) for JAX differs: {differences(memory, names)}", mend)
    text = f"{len(found)} process(es) x {found[0]['count']} of kind {found[0]['kind']}"
    return text + (
        f", {min(memory)} GiB for JAX on each"
        if min(memory)
        else ", whose memory JAX does not tell"
    )


def numbers_of_devices(found: list[Devices]) -> dict[str, float]:
    """Of all processes; GiB 0 where JAX does not tell."""
    return {
        "processes": len(found),
        "devices": sum(f["count"] for f in found),
        "gib_per_device": min(f["GiB"] for f in found),
    }


def look_at_clock(bench: Bench) -> list[float] | None:
    """Process 0 asks each of the others for the time; [how far ahead of process 0, uncertainty, …]
    in seconds.
    """
    exchange = bench.exchange
    if exchange.count == 1:
        raise Skip("there is only one process")
    key, rounds = "preflight/clock", range(5)
    if exchange.own:
        for k in rounds:
            messages.hear(f"{key}/ask/{exchange.own}/{k}", 60)
            messages.say(f"{key}/answer/{exchange.own}/{k}", repr(time.time()))
        return None
    found = []
    for i in range(1, exchange.count):
        best = (np.inf, 0.0)  # the shortest round trip knows best
        for k in rounds:
            begin = time.time()
            messages.say(f"{key}/ask/{i}/{k}", "")
            there = float(messages.hear(f"{key}/answer/{i}/{k}", 60))
            end = time.time()
            best = min(best, ((end - begin) / 2, there - (begin + end) / 2))
        found += [best[1], best[0]]
    return found


def judge_clocks(found: list[list[float] | None], names: list[str]) -> str:
    assert found[0] is not None
    skew, error = [0.0, *found[0][::2]], [0.0, *found[0][1::2]]
    wrong = [
        f"that of {name} is {abs(s):.1f} s {'ahead of' if s > 0 else 'behind'} that of process 0"
        for name, s, e in zip(names, skew, error, strict=True)
        if abs(s) - e > MAX_SKEW
    ]
    if wrong:
        raise Problem(
            f"clocks differ: {'; '.join(wrong)}",
            "Start chrony or ntpd there: time stamps of files and logs would mislead.",
        )
    return (
        f"within {1000 * max(map(abs, skew)):.1f} ms of process 0 (known to"
        f" {1000 * max(error):.1f} ms)"
    )


_OWN = ("PROCESS_ID", "COORDINATOR", "LOCAL_DEVICE_IDS", "NUM_PROCESSES", "CACHE_DIR")


def look_at_versions(bench: Bench) -> dict[str, str]:
    """Versions of what determines a result, the driver, a digest of this program's source, and
    JAX's and XLA's settings.
    """
    driver = Path("/sys/module/nvidia/version")
    source = hashlib.sha256()
    root = Path(phenomjax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        source.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    settings = {
        k: v
        for k, v in os.environ.items()
        if k.startswith(("JAX_", "XLA_")) and not k.endswith(_OWN)
    }
    return {
        **versions.versions(),
        "driver": driver.read_text().strip() if driver.exists() else "",
        "platform": jax.devices()[0].client.platform_version.replace("\n", " "),
        "digest of the source": source.hexdigest()[:12],
        **settings,
    }


def judge_versions(found: list[dict[str, str]], names: list[str]) -> str:
    keys = dict.fromkeys(key for f in found for key in f)
    if wrong := {
        k: text for k in keys if (text := differences([f.get(k, "") for f in found], names))
    }:
        raise Problem(
            "; ".join(f"{key}: {text}" for key, text in wrong.items()),
            "Use one installation on a shared file system or one container image on all hosts (pip"
            " install -e '.[cuda]'), and the same environment variables.",
        )
    v = found[0]
    more = f", driver {v['driver']}" if v["driver"] else ""
    return (
        f"phenomjax {v['phenomjax']} (git {v['git']}), jax {v['jax']}, Python {v['python']}{more};"
        f" {len(keys)} things are the same on all"
    )


def all_reduce(bench: Bench) -> Reduced:
    """Median seconds of `psum` over the axes of rows, by MiB on each device."""
    mesh = bench.mesh or sharding.mesh_of(jax.device_count())
    n = sharding.row_shards(mesh)
    if n == 1:
        raise Skip("one device has all rows: nothing is reduced")
    rows, seconds = sharding.batch_sharding(mesh), dict[str, float]()
    for mib in REDUCED_ON_CPU if jax.default_backend() == "cpu" else REDUCED_ON_GPU:
        count = mib * MIB // 4
        x = jax.jit(
            lambda count=count: (jnp.arange(n * count) // count + 1).astype(jnp.float32),
            out_shardings=rows,
        )()
        reduce = jax.jit(
            jax.shard_map(
                lambda x: jax.lax.psum(x, sharding.ROWS),
                mesh=mesh,
                in_specs=rows.spec,
                out_specs=P(),
            )
        )
        compiled = reduce.lower(x).compile()
        jax.block_until_ready(x)
        bench.exchange.meet(f"compiled {mib}", 120)
        times = []
        for _ in range(8):
            begin = time.perf_counter()
            y = jax.block_until_ready(compiled(x))
            times.append(time.perf_counter() - begin)
        if not np.all(np.asarray(y.addressable_data(0)) == n * (n + 1) / 2):
            raise Problem(
                f"the sum over {n} devices is wrong",
                "Take that node out: its network or a device returns other numbers.",
            )
        seconds[str(mib)] = statistics.median(times[1:])
    return {"n": n, "seconds": seconds, "expect": bench.expect_gbps, "host": socket.gethostname()}


def _rates(found: list[Reduced]) -> dict[str, float]:
    """Bytes a second by MiB, as text, of the slowest process."""
    n, rates = found[0]["n"], dict[str, float]()
    for mib in found[0]["seconds"]:
        slowest = max(float(f["seconds"][mib]) for f in found)
        rates[mib] = 2 * (n - 1) / n * int(mib) * MIB / slowest if slowest else np.inf
    return rates


def numbers_of_all_reduce(found: list[Reduced]) -> dict[str, float]:
    """The best of all sizes."""
    return {"gbit_per_second": 8e-9 * max(_rates(found).values()), "devices": found[0]["n"]}


def judge_all_reduce(found: list[Reduced], names: list[str]) -> str:
    n, rates = found[0]["n"], _rates(found)
    sizes = ", ".join(f"{mib} MiB {rate / 1e9:.3g} GB/s" for mib, rate in rates.items())
    best, expect = 8e-9 * max(rates.values()), found[0]["expect"]
    hosts = len({f["host"] for f in found})
    where = (
        f"between {hosts} hosts" if hosts > 1 else "within one host: this says nothing of a network"
    )
    text = (
        f"{sizes}; at best {best:.3g} Gbit/s = 2 (n - 1) / n x bytes / median seconds, n = {n}"
        f" devices, {where}"
    )
    if not all(0 < rate < np.inf for rate in rates.values()):
        raise Problem(text, "That is no bandwidth: see the output of NCCL with NCCL_DEBUG=INFO.")
    if expect and best < expect / 2:
        raise Problem(
            f"{text}. That is less than half of --expect_gbps={expect:g}",
            "Run with NCCL_DEBUG=INFO: it prints the network that was taken (NET/IB or NET/Socket"
            " and its name). NCCL_SOCKET_IFNAME and NCCL_IB_HCA choose another one; in a container"
            " InfiniBand must be passed in.",
        )
    return text + (
        f"; --expect_gbps={expect:g}" if expect else "; give --expect_gbps to have it judged"
    )


def stop_together(bench: Bench) -> float:
    """The last process is sent SIGTERM; all must hear of it at the same poll."""
    if not start.started():
        raise Skip("this process was not started by a front door")
    bench.exchange.meet("signal", 60)
    if bench.exchange.own == bench.exchange.count - 1:
        os.kill(os.getpid(), signal.SIGTERM)
    begin = time.monotonic()
    while time.monotonic() - begin < LIMITS["stop signal"] / 2:
        if messages.stop_requested():
            return time.monotonic() - begin
        time.sleep(0.02)
    raise Problem(
        "the stop signal of one process did not reach all",
        "A stop would lose what was done since the last checkpoint.",
    )


def judge_stop(found: list[float], names: list[str]) -> str:
    return f"SIGTERM to {names[-1]} reached all within {max(found):.1f} s"
