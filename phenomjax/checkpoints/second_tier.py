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
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from phenomjax.checkpoints.units import (
    Region,
    Unit,
    as_region,
    fingerprint,
    inside,
    region_of,
    units_of,
)
from phenomjax.cluster import messages
from phenomjax.standby import wire
from phenomjax.standby.client import ANSWER_SECONDS, Keepers, open_keepers
from phenomjax.state import TrainState
from phenomjax.system.files import in_units

log = logging.getLogger("phenomjax")
HELD, SENT = "held", "sent"  # kinds of pieces: on this node alone, and on the next one too


class Doubt(Exception):
    """Why the copies are not used."""


class SecondTier:
    """The copies of a run. All processes call the same methods in the same order.

    Args:
      keepers: of the run.

    Attributes:
      whole: newest step of which all copies are there.
    """

    def __init__(self, keepers: Keepers):
        self._keepers, self._nodes = keepers, messages.gather("nodes of the copies", wire.node())
        self._units: list[Unit] | None = None
        self._shapes = ""  # of the state that they are of
        self._memory: dict[str, bytearray] = {}
        self._where: list[wire.Address] = []
        self._thread: threading.Thread | None = None
        self._off, self._told = "", False
        self.whole = -1

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
        shapes = fingerprint(state)
        if self._units is None:
            self._units = units_of(state, self._nodes)
            self._explain()
        elif shapes != self._shapes:  # the rows of the carry are as many as those of a batch
            self._units = units_of(state, self._nodes)
        self._shapes = shapes
        leaves = jax.tree.leaves(state)
        parts = [
            {region_of(shard.index, x.shape): shard.data for shard in x.addressable_shards}
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
            "state": shapes,
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
        own, beside = self._keepers.own, self._keepers.next
        targets = {HELD: [own], SENT: [own, *([beside] if beside else [])]}
        try:
            for kind, units in said.items():
                data = memoryview(self._memory[kind])
                for unit in units:
                    unit["sha256"] = _digest(data[unit["at"] : unit["at"] + unit["size"]])
                for address in targets[kind] if units else []:
                    name = f"{kind}.{jax.process_index()}"
                    self._keepers.put(address, step, name, header | {"units": units}, data)
        except Exception as error:
            wrong = f"{messages.name(jax.process_index())}: {error or type(error).__name__}"
        try:
            if all_wrong := [w for w in messages.gather("second tier", wrong, ANSWER_SECONDS) if w]:
                raise Doubt(all_wrong[0])
            for address in {address for each in targets.values() for address in each}:
                self._keepers.ask(address, "keep", step=step)
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
        second = "" if self._keepers.next else " There is one node, so its loss loses them."
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
        for address, pieces in self._keepers.lists(self._keepers.all):
            if isinstance(pieces, Exception):
                log.warning("the keeper at %s:%s does not answer: %s", *address, pieces)
                continue
            answering.append(address)
            for piece in pieces:
                header = piece["header"]
                state = there.setdefault(piece["step"], {"units": set(), "said": set()})
                state["said"].add((header["state"], header["processes"], header["total"]))
                state["units"] |= {(u["leaf"], as_region(u["region"])) for u in header["units"]}
        whole = [
            step
            for step, state in there.items()
            if len(state["said"]) == 1 and len(state["units"]) == next(iter(state["said"]))[2]
        ]
        return {"step": max(whole, default=-1), "keepers": answering}

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
        self._only(self.whole)
        log.info("read the copies of step %d in %.2f s", self.whole, time.monotonic() - begin)
        return found

    def clear(self) -> None:
        """Forgets all copies, in all keepers."""
        self.wait()
        self._only(-1)
        self.whole = -1

    def _only(self, step: int) -> None:
        """Process 0 has all keepers forget all other steps; the others wait for it."""
        for address in self._keepers.all if messages.is_main() else ():
            try:
                self._keepers.ask(address, "only", step=step)
            except Exception as error:
                log.warning("the keeper at %s:%s does not answer: %s", *address, error)
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
        own_first = sorted(self._where, key=lambda address: address != self._keepers.own)
        for address, pieces in self._keepers.lists(own_first):
            if isinstance(pieces, Exception):
                raise Doubt(f"the keeper at {address[0]}:{address[1]} does not answer: {pieces}")
            for piece in (each for each in pieces if each["step"] == self.whole):
                header = piece["header"]
                if header["state"] != fingerprint(abstract):
                    raise Doubt("they are of another model or optimiser, or of other batches")
                meta = header["meta"]
                for unit in header["units"]:
                    of_leaf = places.setdefault(unit["leaf"], {})
                    at, size, digest = unit["at"], unit["size"], unit["sha256"]
                    place = address, piece["name"], at, size, digest
                    of_leaf.setdefault(as_region(unit["region"]), []).append(place)
        if meta is None:
            raise Doubt("they are gone")
        made = []
        for leaf, x in enumerate(leaves):
            parts: dict[Region, np.ndarray] = {}

            def part(index: Any, leaf: int = leaf, x: Any = x, parts: Any = parts) -> np.ndarray:
                region = region_of(index, x.shape)
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
            whole[inside(both, wanted)] = self._unit(region, dtype, where)[inside(both, region)]
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
                self._keepers.get(address, self.whole, name, at, data.data)
            except Exception as error:
                wrong = str(error) or type(error).__name__
                continue
            if _digest(data.data) == digest:
                return data.view(dtype).reshape([end - begin for begin, end in region])
            wrong = f"what {address[0]}:{address[1]} holds is not as it was written"
            log.warning("%s (step %d); another copy is looked for", wrong, self.whole)
        raise Doubt(wrong)


def open_tier(every_steps: int) -> SecondTier | None:
    """The copies of this run; None when it keeps none, which is said where they were asked for.

    Args:
      every_steps: `checkpoint.memory_every_steps`.
    """
    if not every_steps:
        return None
    if keepers := open_keepers():
        return SecondTier(keepers)
    log.warning(
        "checkpoint.memory_every_steps is %d, but this start has no keepers to hold the copies, so"
        " there are none: launch/standby.py has them, on one machine, and launch/train.sbatch with"
        " PHENOMJAX_SPARES set.",
        every_steps,
    )
    return None


def _digest(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
