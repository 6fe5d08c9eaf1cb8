"""Reads a compiled program's HLO text: collective operations, bytes, reduced types, matrix-product
FLOPs, and what could hide what.

Works on the scheduled program of a GPU or CPU, and on the program as the SPMD partitioner leaves it
(`bench.programs.partitioned`).
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

import numpy as np

KINDS = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")
BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
# What reaches a host, or waits for one.
HOST = ("infeed", "outfeed", "send", "recv", "send-done", "recv-done")
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(
    r"(?:body|calls|to_apply|called_computations|branch_computations)=\{?(%?[\w.\-]+(?:,"
    r" %?[\w.\-]+)*)"
)


@dataclasses.dataclass
class Operation:
    """One line of a computation.

    Attributes:
      arrays: [(type, shape)] of the result, a tuple's in order.
      operands: names of operations of the same computation.
      text: the attributes.
    """

    name: str
    opcode: str
    arrays: list[tuple[str, tuple[int, ...]]]
    operands: list[str]
    text: str
    root: bool

    @property
    def op_name(self) -> str:
        """Where in the Python program it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found.group(1) if found else ""


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation.

    Attributes:
      kind: of KINDS.
      arrays: [(type, shape)] that each device hands in.
      group: devices that take part; span: from the first to one past the last of them, in the order
        of the mesh.
      times: how often a step runs it.
      name, computation, op_name: where it stands.
      backward: it belongs to the backward pass.
    """

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    group: int
    span: int
    times: int
    name: str
    computation: str
    op_name: str

    @property
    def size(self) -> int:
        """Bytes of the whole array: what is reduced, or what is there after a gather."""
        return sum(map(size_of, self.arrays)) * (self.group if self.kind == "all-gather" else 1)

    @property
    def sent(self) -> float:
        """Bytes that each device sends, a time, with ring algorithms."""
        share = (self.group - 1) / self.group
        return {"all-reduce": 2 * share, "collective-permute": 1.0}.get(
            self.kind, share
        ) * self.size

    @property
    def backward(self) -> bool:
        """Whether it comes from a transposed operation."""
        return "transpose(" in self.op_name


def size_of(array: tuple[str, tuple[int, ...]]) -> int:
    """Bytes of a (type, shape)."""
    return BYTES.get(array[0], 0) * math.prod(array[1])


class Program:
    """The computations of an HLO module.

    Attributes:
      computations: {name: operations in their order, which is the schedule if the module is
        scheduled}.
      entry: name of the first.
      times: how often a step runs each computation; loops count their turns.
    """

    def __init__(self, text: str):
        self.computations, self.entry = {}, ""
        current: list[Operation] = []
        for line in text.splitlines():
            head = _HEAD.match(line)
            if head and not line.startswith("HloModule"):
                current = self.computations.setdefault(head.group(2), [])
                self.entry = head.group(2) if head.group(1) else self.entry
            elif match := _LINE.match(line):
                current.append(
                    _operation(line[match.end() :], match.group(2), bool(match.group(1)))
                )
        self._by_name = {
            name: {op.name: op for op in ops} for name, ops in self.computations.items()
        }
        self.times: collections.Counter = collections.Counter()
        self._count(self.entry, 1)

    def _count(self, name: str, times: int) -> None:
        self.times[name] += times
        for op in self.computations[name]:
            for called in self.called(op):
                self._count(called, times * self.turns(op))

    def called(self, op: Operation) -> list[str]:
        """Computations that an operation runs; not the scalar ones that a reduction applies."""
        if op.opcode in (
            "reduce",
            "scatter",
            "sort",
            "reduce-window",
            "select-and-scatter",
            "map",
        ) or op.opcode.startswith(KINDS):
            return []
        names = [
            x.strip().lstrip("%") for match in _CALLED.findall(op.text) for x in match.split(",")
        ]
        return [name for name in names if name in self.computations]

    def turns(self, op: Operation) -> int:
        """How often an operation runs what it calls: the trip count of a loop, else 1."""
        if op.opcode != "while":
            return 1
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', op.text):
            return int(known.group(1))
        # Not annotated yet: the condition of a scan compares its counter with a constant, and its
        # counter begins at 0.
        condition = self.computations[re.search(r"condition=%?([\w.\-]+)", op.text).group(1)]
        limits = [int(x.text) for x in condition if x.opcode == "constant" and x.text.isdigit()]
        return max(limits, default=1)

    def operand_arrays(self, computation: str, op: Operation) -> list[tuple[str, tuple[int, ...]]]:
        """[(type, shape)] of all operands."""
        by_name = self._by_name[computation]
        return [array for name in op.operands if name in by_name for array in by_name[name].arrays]

    def flops(self, computation: str, op: Operation) -> float:
        """FLOPs of the matrix products of one run of an operation, with all that it calls; 2 a
        multiply-add.
        """
        dims = (
            re.search(r"lhs_contracting_dim(?:s|ensions)\W*=?\W*([\d,\" ]+)", op.text)
            if _is_product(op)
            else None
        )
        if attention := re.search(r'custom_call_target="__cudnn\$fmha\w*?(Backward)?"', op.text):
            query, key = (x[1] for x in self.operand_arrays(computation, op)[:2])
            # two products forward, five backward, which computes one of those again
            return (10.0 if attention.group(1) else 4.0) * math.prod(query) * key[1]
        if dims:
            left = self.operand_arrays(computation, op)[0][1]
            contracted = [left[int(x)] for x in re.findall(r"\d+", dims.group(1))]
            return 2.0 * math.prod(op.arrays[0][1]) * math.prod(contracted)
        return self.turns(op) * sum(self.computation_flops(name) for name in self.called(op))

    @functools.cache  # noqa: B019  a program lives as long as its numbers are read
    def computation_flops(self, name: str) -> float:
        """FLOPs of one run of a computation."""
        return sum(self.flops(name, op) for op in self.computations[name])

    def operations(self) -> Iterator[tuple[str, Operation]]:
        """(computation, operation) of all that a step runs."""
        for name in self.times:
            yield from ((name, op) for op in self.computations[name])

    def collectives(self) -> list[Collective]:
        """All collective operations of a step among more than one device."""
        found = []
        for name, op in self.operations():
            if kind := collective_kind(op):
                found.append(self.collective(name, op, kind))
        return [x for x in found if x.group > 1]

    def collective(self, computation: str, op: Operation, kind: str) -> Collective:
        """The collective that an operation is, or starts."""
        group, span = _group(op.text)
        if kind == "all-reduce" and self._is_scattered(computation, op):
            kind = "reduce-scatter"
        arrays = tuple(self.operand_arrays(computation, op))
        return Collective(
            kind, arrays, group, span, self.times[computation], op.name, computation, op.op_name
        )

    def _is_scattered(self, computation: str, op: Operation) -> bool:
        """Whether each device keeps only its slice of a sum: a GPU's compiler makes a
        reduce-scatter of these two, a CPU's does not.
        """
        users = [x for x in self.computations[computation] if op.name in x.operands]
        while users and all(
            x.opcode in ("convert", "reshape", "transpose", "copy", "bitcast") for x in users
        ):
            names = {x.name for x in users}
            users = [x for x in self.computations[computation] if names & set(x.operands)]
        return bool(users) and all(x.opcode == "dynamic-slice" for x in users)


def collective_kind(op: Operation) -> str:
    """Of KINDS, or "" for other operations; of an asynchronous pair the start counts."""
    return next((kind for kind in KINDS if op.opcode in (kind, f"{kind}-start")), "")


def _is_product(op: Operation) -> bool:
    return op.opcode == "dot" or (
        op.opcode == "custom-call" and ("$matmul" in op.text or "$gemm" in op.text)
    )


def _operation(rest: str, name: str, root: bool) -> Operation:
    """Parses what stands behind "name = "."""
    end = _balanced(rest) if rest.startswith("(") else rest.index(" ")
    arrays = [
        (kind, tuple(int(x) for x in dims.split(",") if x))
        for kind, dims in _ARRAY.findall(rest[:end])
    ]
    opcode, _, tail = rest[end:].strip().partition("(")
    close = _balanced("(" + tail) - 1
    arguments, text = tail[: close - 1], tail[close:]
    operands = re.findall(r"%([\w.\-]+)", arguments)
    return Operation(
        name, opcode, arrays, operands, arguments if opcode == "constant" else text, root
    )


def _balanced(text: str) -> int:
    """One past the bracket that closes the first."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return place + 1
    return len(text)


def _group(text: str) -> tuple[int, int]:
    """(devices in a group, from the first to one past the last) of a replica_groups or
    source_target_pairs attribute.
    """
    # mesh['a'=4,'b'=2] {'b'}, or with its devices in another order
    if mesh := re.search(
        r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?\))?\))? *\{(.*?)\}", text
    ):
        axes = [(axis, int(size)) for axis, size in re.findall(r"'(\w+)'=(\d+)", mesh.group(1))]
        chosen = re.findall(r"'(\w+)'", mesh.group(3))
        ids = _iota(mesh.group(2) or f"[{math.prod(size for _, size in axes)}]")
        ids = ids.reshape([size for _, size in axes])
        group = ids[tuple(slice(None) if axis in chosen else 0 for axis, _ in axes)].ravel()
    elif iota := re.search(
        r"replica_groups=\[(\d+),\d+\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text
    ):  # [4,2]<=[8], or with a transposition
        group = _iota(iota.group(2)).reshape(int(iota.group(1)), -1)[0]
    elif listed := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        group = np.array([int(x) for x in listed.group(1).split(",")])
    elif pairs := re.search(r"source_target_pairs=\{\{(.*?)\}\}", text):
        moved = [tuple(map(int, pair.split(","))) for pair in pairs.group(1).split("},{")]
        return (
            (2, 1 + max(abs(a - b) for a, b in moved)) if any(a != b for a, b in moved) else (1, 1)
        )
    else:
        return 1, 1
    return len(group), int(group.max() - group.min()) + 1


def _iota(text: str) -> np.ndarray:
    """Device numbers in the order of "[8]", or of "[2,4]T(1,0)"."""
    sizes, order = ([int(x) for x in re.findall(r"\d+", part)] for part in text.partition("T")[::2])
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose(order) if order else ids
