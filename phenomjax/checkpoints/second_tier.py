"""Copies of the state in the memory of two nodes, every `checkpoint.memory_every_steps` steps: a
lost process or node costs few steps, and no read of the shared file system.

A *unit* is what a device holds of one array. Where processes on two nodes hold it (`dp`, `hsdp`),
two of them copy it to the keeper of their own node, and nothing goes over the network; otherwise
(`fsdp`) one copies it to its own keeper and to that of the next node. Units are shared out by size,
so a replicated state costs each process its share of two copies. Each unit has its SHA-256, and a
step counts when all of its units are there. Whatever is doubtful (a unit that is missing or not as
it was written, another model, a keeper that does not answer) is left, by all processes together,
for the newest checkpoint on the disk.

Keepers (`phenomjax.standby`) outlive the training processes. Orbax's own managers for this were
read (0.12.8, `experimental.emergency`) and not taken: both the emergency and the P2P one keep what
a data-parallel replica holds anyway on local disks, so fsdp shards would have no second copy, the
P2P server takes anybody's connection, the replicator needs GKE's daemon, and none has digests.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import jax
import numpy as np

from phenomjax.cluster import messages
from phenomjax.standby import wire
from phenomjax.state import TrainState
from phenomjax.system.files import in_units

log = logging.getLogger("phenomjax")
# Set by a keeper for the processes that it starts.
STANDBY = "PHENOMJAX_STANDBY"
ANSWER_SECONDS = 60.0
HELD, SENT = "held", "sent"  # kinds of pieces: on this node alone, and on the next one too
Region = tuple[tuple[int, int], ...]  # [begin, end) along each axis


@dataclass(frozen=True)
class Unit:
    """A part of one array that some devices hold.

    Attributes:
      leaf: number of the array in the state.
      region: its part.
      size: bytes.
      owners: the one or two processes that copy it.
      sent: whether the owner sends it to another node.
    """

    leaf: int
    region: Region
    size: int
    owners: tuple[int, ...]
    sent: bool


def units_of(state: TrainState, nodes: Sequence[str]) -> list[Unit]:
    """Who copies what, the same on all processes.

    Args:
      state: arrays, or their shapes with shardings.
      nodes: name of the node of each process.
    """
    found = []
    for leaf, x in enumerate(jax.tree.leaves(state)):
        holders: dict[Region, set[int]] = {}
        for device, index in x.sharding.devices_indices_map(x.shape).items():
            holders.setdefault(_region(index, x.shape), set()).add(device.process_index)
        for region, them in holders.items():
            size = x.dtype.itemsize * int(np.prod([end - begin for begin, end in region]))
            found.append((size, leaf, region, sorted(them)))
    load, units = [0] * len(nodes), []
    for size, leaf, region, processes in sorted(found, key=lambda each: (-each[0], each[1:])):
        first = min(processes, key=lambda p: (load[p], p))
        away = [p for p in processes if nodes[p] != nodes[first]]
        owners = (first, min(away, key=lambda p: (load[p], p))) if away else (first,)
        for owner in owners:
            load[owner] += size
        units.append(Unit(leaf, region, size, owners, sent=not away))
    return units


def _region(index: Sequence[slice], shape: Sequence[int]) -> Region:
    return tuple(each.indices(size)[:2] for each, size in zip(index, shape, strict=True))


def _inside(part: Region, of: Region) -> tuple[slice, ...]:
    """Where a part of an array is in a larger part of it."""
    return tuple(
        slice(begin - first, end - first) for (begin, end), (first, _) in zip(part, of, strict=True)
    )


class Doubt(Exception):
    """Why the copies are not used."""


class SecondTier:
    """The copies of a run. All processes call the same methods in the same order.

    Args:
      standby: what the keeper of this node says: this start's number, addresses of the keepers.

    Attributes:
      whole: newest step of which all copies are there.
    """

    def __init__(self, standby: Mapping[str, Any]):
        self._round, self._own = standby["round"], tuple(standby["keeper"])
        self._keepers = {name: tuple(address) for name, address in standby["keepers"].items()}
        self._nodes = messages.gather("nodes of the copies", wire.node())
        self._next = self._neighbour()
        self._units: list[Unit] | None = None
        self._memory: dict[str, bytearray] = {}
        self._connections: dict[wire.Address, Connection] = {}
        self._thread: threading.Thread | None = None
        self._off, self._told = "", False
        self.whole = -1

    def _neighbour(self) -> wire.Address | None:
        """The keeper that gets this node's copies: a ring over all that are there."""
        names = sorted(self._keepers)
        after = names[(names.index(wire.node()) + 1) % len(names)]
        return None if after == wire.node() else self._keepers[after]

    # ------------------------------------------------------------ writing

    def copy(self, step: int, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Copies the state; returns as soon as it has left the devices.

        Args:
          step: of the state.
          state: all arrays.
          meta: what the loop has to remember.
        """
        self.wait()
        if self._off:
            return
        begin, index = time.monotonic(), jax.process_index()
        if self._units is None:
            self._units = units_of(state, self._nodes)
            self._explain()
        leaves = jax.tree.leaves(state)
        parts = [
            {_region(shard.index, x.shape): shard.data for shard in x.addressable_shards}
            for x in leaves
        ]
        mine = [unit for unit in self._units if index in unit.owners]
        for unit in mine:
            parts[unit.leaf][unit.region].copy_to_host_async()
        said: dict[str, list[dict[str, Any]]] = {HELD: [], SENT: []}
        ends = {HELD: 0, SENT: 0}
        for kind in said:
            size = sum(unit.size for unit in mine if unit.sent == (kind == SENT))
            if kind not in self._memory or len(self._memory[kind]) != size:
                self._memory[kind] = bytearray(size)
        for unit in mine:
            kind = SENT if unit.sent else HELD
            at, ends[kind] = ends[kind], ends[kind] + unit.size
            data = np.asarray(parts[unit.leaf][unit.region])
            target = np.frombuffer(self._memory[kind], np.uint8, unit.size, at)
            target[...] = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
            said[kind].append(
                {"leaf": unit.leaf, "region": unit.region, "at": at, "size": unit.size}
            )
        header = {
            "meta": meta,
            "state": fingerprint(state),
            "processes": jax.process_count(),
            "total": len(self._units),
        }
        blocked = time.monotonic() - begin
        self._thread = threading.Thread(
            target=self._finish, args=(step, header, said, blocked), daemon=True, name="second tier"
        )
        self._thread.start()

    def _finish(
        self,
        step: int,
        header: dict[str, Any],
        said: dict[str, list[dict[str, Any]]],
        blocked: float,
    ) -> None:
        """In a thread: digests, keepers, and the word of all that the step is whole."""
        begin, wrong = time.monotonic(), ""
        targets = {HELD: [self._own], SENT: [self._own, *([self._next] if self._next else [])]}
        try:
            for kind, units in said.items():
                data = memoryview(self._memory[kind])
                for unit in units:
                    unit["sha256"] = _digest(data[unit["at"] : unit["at"] + unit["size"]])
                for address in targets[kind] if units else []:
                    self._put(address, step, kind, header | {"units": units}, data)
        except Exception as error:
            wrong = f"{messages.name(jax.process_index())}: {error or type(error).__name__}"
        try:
            if all_wrong := [w for w in messages.gather("second tier", wrong, ANSWER_SECONDS) if w]:
                raise Doubt(all_wrong[0])
            for address in {address for each in targets.values() for address in each}:
                self._ask(address, do="keep", step=step)
        except Exception as error:
            self._off = str(error) or type(error).__name__
            return
        self.whole = step
        if not self._told:
            self._told = True
            log.info(
                "the copies of step %d are in memory: the step waited %.3f s for them, writing took"
                " %.2f s beside it",
                step,
                blocked,
                time.monotonic() - begin,
            )

    def wait(self) -> None:
        """Returns when the last copies are whole, or given up; says the latter once."""
        if self._thread is not None:
            self._thread.join(2 * ANSWER_SECONDS)
            if self._thread.is_alive():
                self._off = self._off or f"writing took longer than {2 * ANSWER_SECONDS:.0f} s"
            self._thread = None
            if self._off:
                log.warning(
                    "no more copies of the state in memory (checkpoint.memory_every_steps) until"
                    " the next start: %s. Checkpoints on the disk go on.",
                    self._off,
                )

    def _explain(self) -> None:
        """Says once what is copied where."""
        assert self._units is not None
        size = [0] * len(self._nodes)
        sent = 0
        for unit in self._units:
            sent += unit.size * unit.sent
            for owner in unit.owners:
                size[owner] += unit.size
        most = max(range(len(size)), key=size.__getitem__)
        second = "" if self._next else " There is one node, so its loss loses them."
        log.info(
            "copies of the state in memory: at most %s a process (process %d), %s of it go over the"
            " network in all; a keeper holds two steps of what its processes and the node before it"
            " copy.%s",
            in_units(size[most]),
            most,
            in_units(sent),
            second,
        )

    # ------------------------------------------------------------ reading

    def find(self) -> int | None:
        """The newest step of which all units are there, the same in all processes."""
        answer = self._search() if messages.is_main() else {}
        found = messages.gather("copies", answer)[0]
        self.whole = found["step"]
        self._where = [tuple(each) for each in found["keepers"]]
        return None if self.whole < 0 else self.whole

    def _search(self) -> dict[str, Any]:
        """Process 0: the newest whole step, and the keepers that answer."""
        there: dict[int, dict[str, Any]] = {}
        answering = []
        for address, pieces in self._lists(self._keepers.values()):
            answering.append(address)
            for piece in pieces:
                header = piece["header"]
                state = there.setdefault(piece["step"], {"units": set(), "said": set()})
                state["said"].add((header["state"], header["processes"], header["total"]))
                state["units"] |= {(u["leaf"], _tuples(u["region"])) for u in header["units"]}
        whole = [
            step
            for step, state in there.items()
            if len(state["said"]) == 1 and len(state["units"]) == next(iter(state["said"]))[2]
        ]
        return {"step": max(whole, default=-1), "keepers": answering}

    def _lists(self, keepers: Iterable[wire.Address]) -> list[tuple[wire.Address, list[Any]]]:
        """What those keepers hold that answer."""

        def ask(address: wire.Address) -> list[Any] | None:
            try:
                return self._ask(address, do="list")["pieces"]
            except Exception as error:
                log.warning("the keeper at %s:%s does not answer: %s", *address[:2], error)
                return None

        keepers = list(keepers)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(ask, keepers))
        return [(k, f) for k, f in zip(keepers, found, strict=True) if f is not None]

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The state of the step that was found, in the shardings of `abstract`.

        Returns:
          (state, meta), or None when anything is doubtful, which is said; the same in all
          processes.
        """
        wrong, found = "", None
        begin = time.monotonic()
        try:
            found = self._read(abstract)
        except Exception as error:
            wrong = f"{messages.name(jax.process_index())}: {error or type(error).__name__}"
        if all_wrong := [w for w in messages.gather("copies read", wrong) if w]:
            log.warning(
                "the copies of step %d in memory are not used: %s. The newest checkpoint on the"
                " disk is.",
                self.whole,
                all_wrong[0],
            )
            return None
        self._tell_all(do="only", step=self.whole)
        log.info("read the copies of step %d in %.2f s", self.whole, time.monotonic() - begin)
        return found

    def clear(self) -> None:
        """Forgets all copies, in all keepers."""
        self.wait()
        self._tell_all(do="only", step=-1)
        self.whole = -1

    def _tell_all(self, **message: Any) -> None:
        """Process 0 tells all keepers; the others wait for it."""
        if messages.is_main():
            for address in self._keepers.values():
                try:
                    self._ask(address, **message)
                except Exception as error:
                    log.warning("the keeper at %s:%s does not answer: %s", *address[:2], error)
        messages.gather("keepers told", "")

    def _read(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state, from the keepers.

        Raises:
          Doubt: something is missing or not as it was written.
        """
        leaves, tree = jax.tree.flatten(abstract)
        meta, places = (
            None,
            dict[int, dict[Region, list[tuple[wire.Address, str, int, int, str]]]](),
        )
        own_first = sorted(self._where, key=lambda address: address != self._own)
        for address, pieces in self._lists(own_first):
            for piece in (each for each in pieces if each["step"] == self.whole):
                header = piece["header"]
                if header["state"] != fingerprint(abstract):
                    raise Doubt("they are of another model or optimiser")
                meta = header["meta"]
                for unit in header["units"]:
                    of_leaf = places.setdefault(unit["leaf"], {})
                    at, size, digest = unit["at"], unit["size"], unit["sha256"]
                    place = address, piece["name"], at, size, digest
                    of_leaf.setdefault(_tuples(unit["region"]), []).append(place)
        if meta is None:
            raise Doubt("they are gone")
        made = []
        for leaf, x in enumerate(leaves):
            parts: dict[Region, np.ndarray] = {}

            def part(index: Any, leaf: int = leaf, x: Any = x, parts: Any = parts) -> np.ndarray:
                region = _region(index, x.shape)
                if region not in parts:
                    parts[region] = self._region(region, x.dtype, places.get(leaf, {}))
                return parts[region]

            made.append(jax.make_array_from_callback(x.shape, x.sharding, part))
        state: TrainState = jax.tree.unflatten(tree, made)
        if int(state.step) != self.whole:
            raise Doubt(f"they say that they are of step {int(state.step)}")
        return state, meta

    def _region(
        self, wanted: Region, dtype: np.dtype, places: Mapping[Region, Sequence[tuple[Any, ...]]]
    ) -> np.ndarray:
        """A part of an array, put together from units: one, where nothing has changed."""
        if wanted in places:
            return self._unit(wanted, dtype, places[wanted])
        whole = np.empty([end - begin for begin, end in wanted], dtype)
        filled = 0
        for region, where in places.items():
            pairs = zip(region, wanted, strict=True)
            both = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in pairs)
            if any(begin >= end for begin, end in both):
                continue
            whole[_inside(both, wanted)] = self._unit(region, dtype, where)[_inside(both, region)]
            filled += int(np.prod([end - begin for begin, end in both]))
        if filled != whole.size:
            raise Doubt("parts of an array are missing")
        return whole

    def _unit(
        self, region: Region, dtype: np.dtype, where: Sequence[tuple[Any, ...]]
    ) -> np.ndarray:
        """A unit, from the first keeper that has it as it was written."""
        wrong = ""
        for address, name, at, size, digest in where:
            data = np.empty(size, np.uint8)
            try:
                self._ask(address, do="get", step=self.whole, name=name, offset=at, size=size)
                wire.receive_all(self._connections[address], data.data)
                wire.receive(self._connections[address])
            except Exception as error:
                self._connections.pop(address, None)
                wrong = str(error) or type(error).__name__
                continue
            if _digest(data.data) == digest:
                return data.view(dtype).reshape([end - begin for begin, end in region])
            wrong = f"what {address[0]}:{address[1]} holds is not as it was written"
            log.warning("%s (step %d); another copy is looked for", wrong, self.whole)
        raise Doubt(wrong)

    # ------------------------------------------------------------ keepers

    def _ask(self, address: wire.Address, **message: Any) -> dict[str, Any]:
        """The answer of a keeper.

        Raises:
          OSError, EOFError: it is gone.
          TimeoutError: it does not answer.
          Doubt: it says why not.
        """
        connection = self._connections.get(address)
        if connection is None:
            connection = self._connections[address] = wire.connect(address)
        wire.send(connection, message | {"round": self._round})
        if not connection.poll(ANSWER_SECONDS):
            raise TimeoutError(f"the keeper at {address[0]}:{address[1]} does not answer")
        answer = wire.receive(connection)
        if "error" in answer:
            raise Doubt(answer["error"])
        return answer

    def _put(
        self, address: wire.Address, step: int, kind: str, header: dict[str, Any], data: memoryview
    ) -> None:
        name = f"{kind}.{jax.process_index()}"
        self._ask(address, do="put", step=step, name=name, header=header, size=len(data))
        wire.send_all(self._connections[address], data)
        wire.receive(self._connections[address])


def open_tier(every_steps: int) -> SecondTier | None:
    """The copies of this run; None when it keeps none, which is said where they were asked for.

    Args:
      every_steps: `checkpoint.memory_every_steps`.
    """
    if not every_steps:
        return None
    if STANDBY in os.environ:
        return SecondTier(json.loads(os.environ[STANDBY]))
    log.warning(
        "checkpoint.memory_every_steps is %d, but this start has no keepers to hold the copies, so"
        " there are none: launch/standby.py has them, on one machine, and launch/train.sbatch with"
        " PHENOMJAX_SPARES set.",
        every_steps,
    )
    return None


def fingerprint(state: TrainState) -> str:
    """What a state is made of: names, shapes and dtypes, without values or shardings."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    text = [f"{jax.tree_util.keystr(path)} {x.shape} {x.dtype}" for path, x in leaves]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def _tuples(region: Sequence[Sequence[int]]) -> Region:
    return tuple((begin, end) for begin, end in region)


def _digest(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
