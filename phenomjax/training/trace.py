"""Reads a trace of `jax.profiler`: where the time of some steps went, on the devices and beside
them.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.profiler import ProfileData, ProfilePlane
from jaxtyping import Float

STEP, PHASE = "train", "phase: "  # what annotations of the training thread are called
INPUT = "data"  # the phase in which the next batch is waited for
# Operations that wait for other devices, by the names of XLA and of NCCL's kernels.
COLLECTIVE = re.compile(
    r"all-?reduce|all-?gather|reduce-?scatter|all-?to-?all|collective|nccl|^(send|recv)(-done)?\b",
    re.IGNORECASE,
)
# Of a CPU: operations that contain others.
CONTAINER = re.compile(r"^(while|conditional|call)\b")
# Of a GPU: copies from and to the host, which the step does not wait for.
COPY = re.compile(r"^Memcpy[DH]2[DH]|^MemcpyP2P")
# What an operation is called, in the threads that run those of a CPU among other things.
OPERATION = re.compile(r"^[a-z][\w-]*(\.\w+)*$")

Spans = Float[np.ndarray, "spans 2"]


@dataclass(frozen=True)
class Operation:
    """One operation of a compiled program, over all steps of a trace.

    Attributes:
      name: as XLA calls it.
      seconds: a step, mean over the devices.
      count: how often a step.
    """

    name: str
    seconds: float
    count: float


@dataclass(frozen=True)
class Shares:
    """Where the time of the steps of one process went: seconds a step, means over its devices.

    Attributes:
      steps: how many were traced.
      seconds: of a step: the sum of the next four and of `phases`.
      compute: an operation ran that is no collective.
      collectives: nothing but a collective ran: it moved data, or waited for another device.
      input_wait: nothing ran, and the training thread waited for the next batch.
      host: nothing ran, for any other reason.
      phases: {name: nothing ran while the training thread evaluated, saved, …}.
      hidden: collectives beside which something was computed, which cost nothing.
      waits: seconds a step of `collectives`, of each device.
      devices: what they are called.
      largest: operations that took longest, without collectives' waits beside them.
    """

    steps: int
    seconds: float
    compute: float
    collectives: float
    input_wait: float
    host: float
    phases: dict[str, float]
    hidden: float
    waits: tuple[float, ...]
    devices: tuple[str, ...]
    largest: tuple[Operation, ...]


def read(path: Path) -> Shares | None:
    """Reads an .xplane.pb file; returns as `shares`."""
    return shares(ProfileData.from_file(str(path)))


def shares(data: ProfileData, most: int = 5) -> Shares | None:
    """Where the time of the steps in a trace went.

    Args:
      data: the trace of one process.
      most: how many of the largest operations are told.

    Returns:
      None when the trace holds no step, or no operation of a device.
    """
    begin, end, steps, phases = _host(data)
    devices = _devices(data)
    if not steps or not devices:
        return None
    inside = {name: _Device.of(found, begin, end) for name, found in devices.items()}
    window, each = end - begin, 1e-9 / steps
    rows = defaultdict[str, list[float]](list)
    for device in inside.values():
        covered, taken = device.all, _length(device.all)
        exposed = device.exposed()
        rows["compute"].append(taken - exposed)
        rows["collectives"].append(exposed)
        rows["hidden"].append(_length(device.collectives) - exposed)
        for name in sorted(phases, key=lambda name: name != INPUT):
            covered, before = np.concatenate([covered, _clip(phases[name], begin, end)]), taken
            taken = _length(covered)
            rows[PHASE + name].append(taken - before)
        rows["host"].append(window - taken)
    means = {name: each * float(np.mean(values)) for name, values in rows.items()}
    idle = {n.removeprefix(PHASE): s for n, s in means.items() if n.startswith(PHASE)}
    return Shares(
        steps=steps,
        seconds=each * window,
        compute=means["compute"],
        collectives=means["collectives"],
        input_wait=idle.pop(INPUT, 0.0),
        host=means["host"],
        phases=idle,
        hidden=means["hidden"],
        waits=tuple(each * wait for wait in rows["collectives"]),
        devices=tuple(inside),
        largest=_largest(list(inside.values()), steps, most),
    )


def waiting(data: ProfileData, begin: int, end: int) -> dict[str, float]:
    """The share of a time in which a device ran nothing but collectives; quicker than `shares`.

    The devices of a CPU count as one, "CPU": what one of them computes, none waits for.

    Args:
      data: a trace of that time and more.
      begin, end: in ns since the epoch.
    """
    found, origin = defaultdict[str, list[tuple[str, float, float]]](list), 0.0
    for plane in data.planes:
        origin = float(dict(plane.stats).get("profile_start_time", origin))
        gpu = plane.name.startswith("/device:")
        if not gpu and plane.name != "/host:CPU":
            continue
        name = plane.name.removeprefix("/device:") if gpu else "CPU"
        for line in _lines(plane) if gpu else plane.lines:
            pool = gpu or line.name.startswith("tf_XLA")  # threads that run operations
            for event in line.events:
                # a CPU runs them where it is called, too
                if gpu or (OPERATION.match(event.name) and (pool or _stat(event.stats, "hlo_op"))):
                    found[name].append((event.name, event.start_ns, event.end_ns))
    if len(found) > 1:
        found.pop("CPU", None)
    devices = {n: _Device.of(spans, begin - origin, end - origin) for n, spans in found.items()}
    return {n: device.exposed() / (end - begin) for n, device in sorted(devices.items())}


class _Device:
    """Spans of one device's operations within the traced steps, in ns."""

    def __init__(self, names: Sequence[str], spans: Spans):
        collective = np.array([bool(COLLECTIVE.search(name)) for name in names], bool)
        container = np.array([bool(CONTAINER.search(name)) for name in names], bool)
        self.names, self.spans, self.all = names, spans, spans
        self.collectives, self.leaves = spans[collective], spans[~collective & ~container]
        self.container = container

    def exposed(self) -> float:
        """How long a collective ran and nothing beside it."""
        both = np.concatenate([self.collectives, self.leaves])
        return _length(both) - _length(self.leaves)

    @classmethod
    def of(cls, found: "list[tuple[str, float, float]]", begin: float, end: float) -> "_Device":
        kept = [one for one in found if one[2] > begin and one[1] < end]
        spans = np.array([one[1:] for one in kept], float).reshape(-1, 2)
        return cls([one[0] for one in kept], _clip(spans, begin, end))


def _host(data: ProfileData) -> tuple[float, float, int, dict[str, Spans]]:
    """Begin and end of the traced steps, how many there are, and the phases beside them."""
    steps, phases = list[tuple[float, float]](), defaultdict[str, list[tuple[float, float]]](list)
    for plane in data.planes:
        if plane.name != "/host:CPU":
            continue
        for line in plane.lines:
            for event in line.events:
                name = event.name
                if name == STEP:
                    steps.append((event.start_ns, event.end_ns))
                elif name.startswith(PHASE):
                    phases[name.removeprefix(PHASE)].append((event.start_ns, event.end_ns))
    if not steps:
        return 0.0, 0.0, 0, {}
    begin, end = min(s for s, _ in steps), max(e for _, e in steps)
    return begin, end, len(steps), {name: np.array(spans) for name, spans in phases.items()}


def _devices(data: ProfileData) -> dict[str, list[tuple[str, float, float]]]:
    """{device: [(operation, begin, end) in ns]}."""
    found = defaultdict[str, list[tuple[str, float, float]]](list)
    for plane in data.planes:
        if plane.name.startswith("/device:") and "CUSTOM" not in plane.name:
            device = plane.name.removeprefix("/device:")
            for line in _lines(plane):
                for event in line.events:
                    if not COPY.match(event.name):
                        # a collective's kernel is known by its own name
                        name = event.name
                        if not COLLECTIVE.search(name):
                            name = _stat(event.stats, "hlo_op") or name
                        found[device].append((name, event.start_ns, event.end_ns))
        elif plane.name == "/host:CPU":  # operations of a CPU device lie in threads of the host
            runs = defaultdict[tuple[str, object], list[tuple[float, float]]](list)
            for line in plane.lines:
                for event in line.events:
                    stats = dict(event.stats)
                    if "hlo_op" in stats:
                        device = f"CPU:{stats.get('device_ordinal', 0)}"
                        span = event.start_ns, event.end_ns
                        found[device].append((event.name, *span))
                        runs[device, stats.get("run_id")].append(span)
            # An event ends where its thread goes on, though others may still be at work: a program
            # runs from its first operation to its last.
            for (device, _), spans in runs.items():
                found[device].append(("call", min(spans)[0], max(end for _, end in spans)))
    return dict(sorted(found.items()))


def _lines(plane: ProfilePlane) -> list[Any]:
    """The lines of a device's plane with its operations: streams of a GPU, "XLA Ops" of a TPU."""
    lines = list(plane.lines)
    streams = [line for line in lines if line.name.startswith("Stream")]
    return streams or [line for line in lines if line.name == "XLA Ops"]


def _stat(stats: Iterable[tuple[str, object]], wanted: str) -> str:
    return next((str(value) for name, value in stats if name == wanted), "")


def _largest(devices: Sequence[_Device], steps: int, most: int) -> tuple[Operation, ...]:
    totals, counts = defaultdict[str, float](float), defaultdict[str, int](int)
    for device in devices:
        took = device.spans[:, 1] - device.spans[:, 0]
        for name, seconds, container in zip(device.names, took, device.container, strict=True):
            if not container:
                totals[name] += seconds
                counts[name] += 1
    each = steps * len(devices)
    names = sorted(totals, key=lambda name: -totals[name])[:most]
    return tuple(Operation(n, 1e-9 * totals[n] / each, counts[n] / each) for n in names)


def _clip(spans: Spans, begin: float, end: float) -> Spans:
    return np.clip(spans, begin, end)


def _length(spans: Spans) -> float:
    """How much of the time some spans cover, overlaps counted once."""
    if not len(spans):
        return 0.0
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    # what earlier spans have covered already, when each one begins
    before = np.concatenate([[spans[0, 0]], np.maximum.accumulate(spans[:, 1])[:-1]])
    return float(np.maximum(spans[:, 1] - np.maximum(spans[:, 0], before), 0.0).sum())
