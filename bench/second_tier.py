"""What copies of the state in memory cost a step: `python -m bench.second_tier [--megabytes 256]
[--every 10]`.

A step of known length runs with copies every so many steps and without them, in alternating rounds,
against two keepers on this machine. The training thread waits while the state leaves the devices;
SHA-256 and sending go on in a thread beside the next steps. The peer is one memcpy of the same
bytes, measured in the same rounds. On a GPU the copy from the device takes the place of the memcpy:
at 25 GB/s of a PCIe 5 slot, 1/16 of L/8's 4.9 GB (parameters, two moments and an average of 304 M)
in two copies is 25 ms.
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from phenomjax.checkpoints.second_tier import SecondTier
from phenomjax.standby import client, wire
from phenomjax.standby.serving import Server
from phenomjax.state import TrainState
from phenomjax.system import versions

META = {"window": None}


def started_keepers():
    """Addresses of two keepers, each in a process of its own."""
    os.environ |= {wire.TOKEN: "bench", wire.NODE: "a"}
    found, parent = {}, os.getpid()
    for name in "ab":
        read, write = os.pipe()
        if os.fork() == 0:
            server = Server()
            server.begin(1, 0)
            os.write(write, json.dumps(wire.serve("127.0.0.1", server.serve)).encode())
            os.close(write)
            while os.getppid() == parent:
                time.sleep(1)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as f:
            found[name] = json.load(f)
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=256, help="size of the state")
    parser.add_argument("--every", type=int, default=10, help="steps between two copies")
    parser.add_argument("--step_seconds", type=float, default=0.3, help="of computing, asleep")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keepers = started_keepers()
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.devices()[:1])
    everywhere, size = NamedSharding(mesh, PartitionSpec()), options.megabytes * 2**20 // 64
    put = lambda x: jax.device_put(x, everywhere)  # noqa: E731
    state = TrainState(
        put(jnp.int32(0)),
        {str(i): put(jnp.full(size // 4, i, jnp.float32)) for i in range(64)},
        (),
        (),
        (),
    )
    tier = SecondTier(client.Keepers({"round": 1, "keeper": keepers["a"], "keepers": keepers}))
    step, waited, copied, stalls = 0, [], [], []
    print(
        f"{options.megabytes} MiB of state in 64 arrays, a copy every {options.every} steps of"
        f" {options.step_seconds} s; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f},"
        f" {versions.versions()}"
    )
    for _ in range(options.rounds):
        source, target = np.ones(options.megabytes * 2**20, np.uint8), None
        target = np.empty_like(source)
        target[...] = 0  # its pages are there
        begin = time.perf_counter()
        target[...] = source
        copied.append(time.perf_counter() - begin)
        for _ in range(3):
            for _ in range(options.every):
                step += 1
                time.sleep(options.step_seconds)
            begin = time.perf_counter()
            tier.wait()
            stalls.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            tier.copy(step, state, META)
            waited.append(time.perf_counter() - begin)
    cpu = time.process_time()
    tier.wait()
    assert tier.whole == step, "a copy failed"
    wait, memcpy, stall = map(statistics.median, (waited[1:], copied, stalls[1:]))
    share = (wait + stall) / options.every / options.step_seconds
    print(
        f"the training thread waits {1e3 * wait:.0f} ms for a copy ({wait / memcpy:.2f} of a memcpy"
        f" of the same bytes, {1e3 * memcpy:.0f} ms) and {1e3 * stall:.0f} ms for the one before:"
        f" {100 * share:.2f} % of a step; {cpu:.1f} CPU seconds in {len(waited)} copies"
    )


if __name__ == "__main__":
    main()
