"""Checks of a preflight that look at files: the configuration, the workdir, the data, the space for
checkpoints, and a checkpoint.
"""

import os
import shutil
import time
from pathlib import Path
from typing import TypedDict

import jax
import numpy as np

from phenomjax import sharding, tasks
from phenomjax.checkpoints import checkpointer, seal
from phenomjax.checkpoints.workdir import CHECKPOINTS
from phenomjax.config import checks, keys
from phenomjax.preflight.results import FAIL, Problem
from phenomjax.preflight.stand import Bench, differences
from phenomjax.preflight.steps import STEPS, abstract_state, on
from phenomjax.system.errors import UserError
from phenomjax.system.files import in_units

SEEN_SECONDS = 20.0  # a network file system may show a file of another host some seconds late


class Configured(TypedDict):
    """{key: value} as one process reads it, and why it does not fit its host, or ""."""

    config: dict[str, str]
    unfit: str


class Seen(TypedDict):
    """The processes whose file one process does not see, and seconds until it saw the others."""

    missing: list[int]
    waited: float


class Read(TypedDict):
    """What one process read: checksums and shapes of the banks, items that could not be read, rows
    a batch, units a second and their name, and whether there is anything held out.
    """

    fingerprints: dict[str, str]
    specs: str
    bad: int
    rows: int
    rate: float
    unit: str
    val: bool


class Space(TypedDict):
    """Bytes that a checkpoint needs, and those that are free, and how many checkpoints stay."""

    need: int
    free: int
    total: int
    copies: int


class Kept(TypedDict):
    """Bytes of the state, seconds of writing and reading it, and of the loop's wait."""

    bytes: int
    wrote: float
    read: float
    blocked: float


def look_at_config(bench: Bench) -> Configured:
    """All keys, and what is wrong with them here."""
    flat = {key: repr(value) for key, value in checks.flatten(bench.config).items()}
    try:
        bench.config = keys.finalize(bench.config)
        bench.mesh = sharding.make_mesh(bench.config)
    except UserError as error:
        bench.unfit = str(error)
    return {"config": flat, "unfit": bench.unfit}


def judge_config(found: list[Configured], names: list[str]) -> str:
    keys = sorted({key for f in found for key in f["config"]})
    wrong = [
        f"{k}: {text}"
        for k in keys
        if (text := differences([f["config"].get(k, "") for f in found], names))
    ]
    if wrong:
        raise Problem(
            f"{len(wrong)} keys differ: {'; '.join(wrong[:5])}",
            "Start all processes by one command; keep the experiment file on the shared file"
            " system, and free of what depends on the host.",
        )
    unfit = [f["unfit"] for f in found]
    if all(unfit):
        raise Problem(unfit[0])
    # What only some hosts complain of is a matter of their files, and stands in the row of the
    # data.
    return f"{len(keys)} keys are the same on all"


def look_at_workdir(bench: Bench) -> Seen:
    """Writes a file, and looks for those of the others."""
    exchange, own = bench.exchange, bench.exchange.own
    bench.folder.mkdir(parents=True, exist_ok=True)
    (bench.folder / f"from-{own}").write_text(f"{bench.folder.name} {own}")
    exchange.meet("written", 60)
    begin = time.monotonic()
    while missing := [
        i
        for i in range(exchange.count)
        if not _there(bench.folder / f"from-{i}", f"{bench.folder.name} {i}")
    ]:
        if time.monotonic() - begin > SEEN_SECONDS:
            break
        time.sleep(0.2)
    return {"missing": missing, "waited": time.monotonic() - begin}


def _there(path: Path, text: str) -> bool:
    try:
        os.listdir(path.parent)  # makes a network file system look again
        return path.read_text() == text
    except OSError:
        return False


def judge_workdir(found: list[Seen], names: list[str]) -> str:
    wrong = [
        f"{names[i]} does not see what {', '.join(names[j] for j in f['missing'])} wrote"
        for i, f in enumerate(found)
        if f["missing"]
    ]
    if wrong:
        raise Problem(
            f"the folder is not the same one on all hosts: {'; '.join(wrong)}",
            "Give a --workdir on a file system that all hosts share (not /tmp or /scratch of a"
            " node), and see that it is mounted there.",
        )
    return (
        f"all write, and see what the others wrote within {max(f['waited'] for f in found):.1f} s"
    )


def look_at_data(bench: Bench) -> Read:
    """Opens the banks (or simulates them in the folder) and reads one batch of both splits."""
    if bench.unfit:
        raise UserError(bench.unfit)
    if not bench.config.data.banks and bench.results["workdir"].status == FAIL:
        raise Problem(
            "the banks are to be simulated in the workdir, which failed", "Mend that one first."
        )
    bench.config = tasks.resolve(bench.config, bench.folder)
    bench.task = tasks.make(bench.config)
    assert bench.mesh is not None
    block = sharding.row_block(bench.mesh)
    loader, val = (bench.task.loader(split, *block) for split in ("train", "val"))
    assert loader is not None  # only "val" may be without data
    bench.loader = loader
    begin = time.monotonic()
    bench.loader.batch(0)
    seconds = time.monotonic() - begin
    if val is not None:
        val.batch(0)
    rows = bench.config.global_batch_size // block[1]
    return {
        "fingerprints": bench.loader.fingerprints,
        "specs": str(bench.loader.specs),
        "bad": bench.loader.bad_items,
        "rate": rows * bench.loader.units_per_row / seconds,
        "unit": bench.loader.unit,
        "val": val is not None,
        "rows": rows,
    }


def judge_data(found: list[Read], names: list[str]) -> str:
    mend = (
        "Copy the bank anew to the host that differs, or give the path of one that all share;"
        " `python -m phenomjax.prepare inspect` checks it."
    )
    if text := differences([f["fingerprints"] for f in found], names):
        raise Problem(f"the fingerprints of the banks differ: {text}", mend)
    if text := differences([f["specs"] for f in found], names):
        raise Problem(f"the specs of the banks differ: {text}", mend)
    f, slow = found[0], min(range(len(found)), key=lambda i: found[i]["rate"])
    val = "one batch of both splits read" if f["val"] else "one batch read (nothing is held out)"
    bad = sum(f["bad"] for f in found)
    return (
        f"{len(f['fingerprints'])} bank(s), {val}: {f['rows']} rows a process; the slowest first"
        f" batch gave {found[slow]['rate']:.3g} {f['unit']}/s ({names[slow]})"
        + (f"; {bad} could not be read and were skipped" if bad else "")
    )


def numbers_of_data(found: list[Read]) -> dict[str, float]:
    """Of the slowest process, and what could not be read by all."""
    return {
        f"{found[0]['unit']}_per_second": min(f["rate"] for f in found),
        "rows_per_process": found[0]["rows"],
        "unreadable": sum(f["bad"] for f in found),
    }


def look_at_disk(bench: Bench) -> Space:
    """Bytes of the state, and what is free."""
    assert bench.mesh is not None
    with on(bench.mesh, bench.config):
        abstract = abstract_state(bench, bench.mesh)[1]
    need = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract))
    usage, c = shutil.disk_usage(bench.folder), bench.config.checkpoint
    return {
        "need": need,
        "free": usage.free,
        "total": usage.total,
        "copies": c.keep_latest
        + c.keep_best
        + (bench.config.num_steps // c.keep_every_steps if c.keep_every_steps else 0)
        + 1,
    }


def judge_disk(found: list[Space], names: list[str]) -> str:
    f = min(found, key=lambda f: f["free"])
    need = f["need"] * f["copies"]
    text = (
        f"{in_units(f['free'])} of {in_units(f['total'])} are free; {f['copies']} checkpoints of"
        f" {in_units(f['need'])} need {in_units(need)}"
    )
    if need > f["free"]:
        raise Problem(
            text,
            "Make space, take another --workdir, or keep fewer (--config.checkpoint.keep_latest,"
            " keep_best, keep_every_steps).",
        )
    return text


def numbers_of_disk(found: list[Space]) -> dict[str, float]:
    """Of the fullest disk."""
    f = min(found, key=lambda f: f["free"])
    return {
        "free_bytes": f["free"],
        "needed_bytes": f["need"] * f["copies"],
        "checkpoint_bytes": f["need"],
        "checkpoints": f["copies"],
    }


def save_and_restore(bench: Bench) -> Kept:
    """Writes the state, seals it, verifies and restores it, and compares this process's shards bit
    for bit.
    """
    folder, config = bench.folder / "run", bench.config
    folder.mkdir(parents=True, exist_ok=True)
    assert bench.mesh is not None
    meta: dict[str, object] = {
        "window": None,
        "rollbacks": [],
        "redo": [],
        "data": bench.loader.fingerprints,
    }
    with on(bench.mesh, config):
        writer = checkpointer.Checkpointer(folder, config)
        writer.newest_good()
        begin = time.monotonic()
        writer.save(STEPS, bench.state, meta)
        blocked = time.monotonic() - begin
        writer.close()
        wrote = time.monotonic() - begin
        if not seal.sealed(folder / CHECKPOINTS / str(STEPS)):
            raise Problem(
                "the checkpoint has no digests of all processes", "See the row 'workdir'."
            )
        reader = checkpointer.Checkpointer(folder, config)
        begin = time.monotonic()
        if (step := reader.newest_good()) != STEPS:
            raise Problem(
                f"the checkpoint that was just written is not found again, but {step}",
                "See the row 'workdir'.",
            )
        restored, stored = reader.restore(STEPS, abstract_state(bench, bench.mesh)[1])
        jax.block_until_ready(restored)
        read = time.monotonic() - begin
        reader.close()
    pairs = zip(jax.tree.leaves_with_path(bench.state), jax.tree.leaves(restored), strict=True)
    differ = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, a), b in pairs
        if not _same_bits(a, b)
    ]
    if differ or stored["data"] != meta["data"]:
        raise Problem(
            f"what was restored differs from what was saved: {', '.join(differ[:5]) or 'meta'}",
            "The disk returns other bytes than it took: move the --workdir, and tell who runs that"
            " file system.",
        )
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(bench.state))
    return {"bytes": size, "wrote": wrote, "read": read, "blocked": blocked}


def _same_bits(a: jax.Array, b: jax.Array) -> bool:
    """Whether this process's shards of two arrays hold the same bytes."""
    bits = lambda x: [np.asarray(s.data).tobytes() for s in x.addressable_shards]  # noqa: E731
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def judge_checkpoint(found: list[Kept], names: list[str]) -> str:
    wrote, blocked = max(f["wrote"] for f in found), max(f["blocked"] for f in found)
    return (
        f"{in_units(max(f['bytes'] for f in found))} written and sealed in {wrote:.2f} s (the loop"
        f" waits {blocked:.2f} s of them), verified and restored in"
        f" {max(f['read'] for f in found):.2f} s: equal bit for bit"
    )


def numbers_of_checkpoint(found: list[Kept]) -> dict[str, float]:
    """Of the slowest process."""
    return {
        "written_seconds": max(f["wrote"] for f in found),
        "blocked_seconds": max(f["blocked"] for f in found),
        "restored_seconds": max(f["read"] for f in found),
    }
