"""Damaged checkpoints: every kind of damage is noticed, named and set aside, and the checkpoint
before is used; digests by themselves.
"""

import collections
import errno
import json
import logging
import os
import shutil
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax import config
from phenomjax.checkpoints import checkpointer as checkpoints_checkpointer
from phenomjax.checkpoints import init_from, loading, recovery, seal, workdir
from phenomjax.checkpoints.seal import __main__ as seal_command
from phenomjax.cluster import ownership
from phenomjax.config import stored
from phenomjax.state import TrainState
from phenomjax.system.errors import UserError
from tests.lab import ROOT, warm


def make_config():
    c = config.base()
    c.checkpoint.keep_latest, c.checkpoint.timeout_seconds = 5, 60.0
    return c


def make_state(step):
    rng = np.random.default_rng(step)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {"dense": {"kernel": draw(24, 16), "bias": draw(16)}}
    return TrainState(
        jnp.int32(step), params, {"mu": draw(24, 16), "count": jnp.int32(step)}, (), ()
    )


def abstract_of(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def make_run(folder, steps=(4, 8), processes=2):
    """A run that saved; the digests are as two processes would have written them."""
    checkpointer = checkpoints_checkpointer.Checkpointer(folder, make_config())
    folder.mkdir(exist_ok=True)
    assert checkpointer.newest_good() is None
    for step in steps:
        checkpointer.save(step, make_state(step), {"window": None, "at": step})
    checkpointer.close()
    for step in steps if processes > 1 else ():
        path = folder / "checkpoints" / str(step)
        (path / "SHA256SUMS.000-of-001").unlink()
        for index in range(processes):
            seal.write_share(path, index, processes)
    stored.save(make_config(), folder / "config.json")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("damage") / "run")


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def all_files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def damage(folder, kind, rng):
    """Does it; returns what the reasons must name."""
    files = all_files(folder)
    pick = lambda found: found[rng.integers(len(found))]  # noqa: E731
    filled = [p for p in files if p.stat().st_size]
    sums = [p for p in files if p.name.startswith("SHA256SUMS")]
    if kind == "extra file":
        path = pick(files).parent / f"core.{rng.integers(1000)}"
        path.write_bytes(rng.bytes(10))
    elif kind == "missing file":
        path = pick(files)
        path.unlink()
    elif kind == "missing commit marker":
        path = pick([p for p in files if p.name == "commit_success.txt"])
        path.unlink()
    elif kind == "missing manifest":
        path = pick(sums)
        path.unlink()
    elif kind == "truncated file":
        path = pick(filled)
        with path.open("r+b") as f:
            f.truncate(rng.integers(path.stat().st_size))
    else:
        # Any bit of the checkpoint, any bit of any file (the small ones are metadata), any bit of
        # the digests.
        sizes = np.array([p.stat().st_size for p in filled])
        path = {
            "flipped bit": filled[rng.choice(len(filled), p=sizes / sizes.sum())],
            "flipped bit of a file": pick(filled),
            "flipped bit of the digests": pick(sums),
        }[kind]
        flip(path, int(rng.integers(8 * path.stat().st_size)))
    return path.relative_to(folder).as_posix()


KINDS = (
    "flipped bit",
    "flipped bit of a file",
    "flipped bit of the digests",
    "truncated file",
    "missing file",
    "missing commit marker",
    "missing manifest",
    "extra file",
)


def test_every_damage_is_noticed(run, tmp_path, caplog, count):
    rng, counts, named = np.random.default_rng(0), collections.Counter(), 0
    damages = count(64, 208)
    expected, folder = make_state(4), tmp_path / "run"
    shutil.copytree(run, folder)
    newest, clean = folder / "checkpoints" / "8", run / "checkpoints" / "8"
    for number in range(damages):
        kind = KINDS[number % len(KINDS)]
        name = damage(newest, kind, rng)
        assert seal.damage(clean) == []
        caplog.clear()
        with caplog.at_level(logging.WARNING, "phenomjax"):
            checkpointer = checkpoints_checkpointer.Checkpointer(folder, make_config())
            assert checkpointer.newest_good() == 4, (kind, name)
        aside = folder / "checkpoints.damaged" / "8"
        assert aside.is_dir() and not newest.exists() and (folder / "progress").read_text() == "4\n"
        assert (
            "the checkpoint of step 8 is damaged: " in caplog.text
            and f"was moved to {aside}" in caplog.text
        )
        named += name in caplog.text
        # Digests with a flipped bit, or cut at the end of a line, may still be well-formed; then
        # the files are named of which they speak.
        assert name in caplog.text or (
            name.startswith("SHA256SUMS") and kind.startswith(("flipped", "truncated"))
        )
        state, meta = checkpointer.restore(4, abstract_of(expected))
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        assert meta["at"] == 4
        counts[kind] += 1
        shutil.rmtree(folder / "checkpoints.damaged")
        shutil.copytree(clean, newest)
        (folder / "progress").write_text("8\n")
    print(f"\n{damages} damages, all noticed, the file named in {named}: {dict(counts)}")
    assert sum(counts.values()) == damages


def test_undamaged_one_is_used(copy):
    checkpointer = checkpoints_checkpointer.Checkpointer(copy, make_config())
    assert checkpointer.newest_good() == 8 and checkpointer.steps() == [4, 8]
    assert not (copy / "checkpoints.damaged").exists()


def test_sha256sum_verifies(run, copy):
    command = "sha256sum --strict --quiet -c SHA256SUMS.*"
    assert subprocess.run(command, shell=True, cwd=run / "checkpoints" / "8").returncode == 0
    flip(copy / "checkpoints" / "8" / "params" / "_METADATA", 5)
    told = subprocess.run(
        command, shell=True, cwd=copy / "checkpoints" / "8", capture_output=True, text=True
    )
    assert told.returncode == 1 and "params/_METADATA: FAILED" in told.stdout


def test_both_damaged(copy, caplog):
    for step in ("4", "8"):
        (copy / "checkpoints" / step / "rest" / "_METADATA").unlink()
    for _ in range(2):  # also the next start says so, instead of beginning anew
        with pytest.raises(
            UserError,
            match=(
                r"No checkpoint in .* is good.*nothing was started.*sha256sum -c.*another --workdir"
            ),
        ):
            checkpoints_checkpointer.Checkpointer(copy, make_config()).newest_good()
    assert sorted(p.name for p in (copy / "checkpoints.damaged").iterdir()) == ["4", "8"]


def test_all_checkpoints_gone(copy):
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match=r"No checkpoint in .* is good"):
        checkpoints_checkpointer.Checkpointer(copy, make_config()).newest_good()


def test_damaged_twice_is_set_aside_under_another_name(copy, caplog):
    for expected in (["8"], ["8", "8-1"]):
        (copy / "checkpoints" / "8" / "commit_success.txt").unlink()
        assert checkpoints_checkpointer.Checkpointer(copy, make_config()).newest_good() == 4
        assert sorted(p.name for p in (copy / "checkpoints.damaged").iterdir()) == expected
        checkpointer = checkpoints_checkpointer.Checkpointer(copy, make_config())
        assert checkpointer.newest_good() == 4
        checkpointer.save(8, make_state(8), {})
        checkpointer.close()


def test_set_aside_from_another_disk(copy, monkeypatch):
    def other_disk(*_, **__):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    (copy / "checkpoints" / "8" / "commit_success.txt").unlink()
    monkeypatch.setattr(os, "rename", other_disk)
    assert checkpoints_checkpointer.Checkpointer(copy, make_config()).newest_good() == 4
    assert (copy / "checkpoints.damaged" / "8" / "params").is_dir() and not (
        copy / "checkpoints" / "8"
    ).exists()


def test_a_commit_without_digests_above_progress_is_unfinished(copy, caplog):
    """Killed between commit and seal: it is removed without a word of damage, and so is what an
    interrupted write or deletion left.
    """
    for path in (copy / "checkpoints" / "8").glob("SHA256SUMS.*"):
        path.unlink()
    (copy / "progress").write_text("4\n")
    for name in ("12.orbax-checkpoint-tmp", "0.deleted"):
        shutil.copytree(copy / "checkpoints" / "4", copy / "checkpoints" / name)
    with caplog.at_level("INFO", "phenomjax"):
        assert checkpoints_checkpointer.Checkpointer(copy, make_config()).newest_good() == 4
    assert [p.name for p in (copy / "checkpoints").iterdir()] == ["4"] and not (
        copy / "checkpoints.damaged"
    ).exists()
    assert "0.deleted, 12.orbax-checkpoint-tmp, 8 (not sealed)" in caplog.text


def test_lost_or_torn_progress(copy, caplog):
    for text in (None, "", "8\x00", "12"):
        (copy / "progress").unlink()
        if text is not None:
            (copy / "progress").write_text(text)
        assert checkpoints_checkpointer.Checkpointer(copy, make_config()).newest_good() == 8
        assert (copy / "progress").read_text() == "8\n"
    # without it nobody knows whether this one was sealed: it is not deleted
    (copy / "progress").unlink()
    (copy / "checkpoints" / "8" / "SHA256SUMS.001-of-002").unlink()
    assert checkpoints_checkpointer.Checkpointer(copy, make_config()).newest_good() == 4
    assert (copy / "checkpoints.damaged" / "8").is_dir()


def test_run_of_an_older_version(copy):
    (copy / "progress").unlink()
    for path in copy.rglob("SHA256SUMS.*"):
        path.unlink()
    with pytest.raises(
        UserError,
        match=(
            r"steps \[4, 8\] in .* have no digests.*`python -m phenomjax.checkpoints.seal"
            r" .*checkpoints/\*`"
        ),
    ):
        checkpoints_checkpointer.Checkpointer(copy, make_config()).newest_good()
    with pytest.raises(
        UserError, match=r"No checkpoint in .* has its digests \(there are steps \[4, 8\]\)"
    ):
        loading.find(copy)
    with ownership.owned(copy), pytest.raises(UserError, match="which is going on: it seals"):
        seal_command.main([str(copy / "checkpoints" / "8")])
    command = [
        sys.executable,
        "-m",
        "phenomjax.checkpoints.seal",
        *(copy / "checkpoints").iterdir(),
    ]
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert loading.find(copy).name == "8"
    assert checkpoints_checkpointer.Checkpointer(copy, make_config()).newest_good() == 8
    # they have digests now
    assert subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL).returncode == 2


def test_inference_refuses_a_damaged_checkpoint(copy):
    assert loading.load(copy)[2] == 8
    c = make_config()
    c.init_from, state = str(copy), make_state(8)
    big = max(all_files(copy / "checkpoints" / "8" / "params"), key=lambda p: p.stat().st_size)
    flip(big, 99)
    for use in (
        lambda: loading.load(copy),
        lambda: init_from.begun(state, abstract_of(state), (), c),
    ):
        with pytest.raises(
            UserError,
            match=(
                rf"checkpoints/8 is damaged.*{big.name} is not as it was written.*Other .* steps"
                r" \[4\]"
            ),
        ):
            use()
    for place in (copy / "checkpoints" / "4", f"{copy}@4"):
        assert loading.load(place)[2] == 4
    assert loading.find(copy / "checkpoints").name == "8"
    with pytest.raises(UserError, match=r"checkpoints/7 does not exist"):
        loading.find(f"{copy}@7")
    with pytest.raises(UserError, match=f"Did you mean {copy}[?]"):
        loading.find(f"{copy}t")


def test_inference_reads_what_it_verified(copy):
    """Damage of the optimiser's state is no matter for an embedding."""
    flip(copy / "checkpoints" / "8" / "rest" / "_METADATA", 9)
    assert loading.load(copy)[2] == 8


def test_find_takes_the_newest_sealed(copy):
    (copy / "checkpoints" / "8" / "SHA256SUMS.000-of-002").unlink()
    assert loading.find(copy).name == "4"
    with pytest.raises(
        UserError, match=r"is damaged.*its digests SHA256SUMS.000-of-002 are missing"
    ):
        loading.load(copy / "checkpoints" / "8")


def test_converted_weights_are_sealed(tmp_path):
    folder = loading.write(tmp_path / "run", config.base(), make_state(1).params)
    assert seal.damage(folder) == [] and (tmp_path / "run" / "progress").read_text() == "0\n"
    assert loading.load(tmp_path / "run")[2] == 0


def test_retention(tmp_path):
    losses = {1: 0.9, 2: 0.2, 3: None, 4: 0.5, 5: float("nan"), 6: 0.2}
    assert recovery.kept(losses, 1, 1) == {6}
    assert recovery.kept(losses, 2, 2) == {2, 5, 6}
    assert recovery.kept(losses, 1, 0) == {6} and recovery.kept({}, 3, 3) == set()
    assert recovery.kept({1: 0.1, 2: 0.2, 3: None}, 1, 1) == {1, 3}
    assert recovery.kept(losses, 9, 9) == set(losses)
    assert recovery.kept(losses, 1, 0, every=2) == {2, 4, 6}


def test_the_last_sealed_one_stays_until_the_next_is_sealed(tmp_path, monkeypatch):
    c, seen = make_config(), []
    c.checkpoint.keep_latest, c.checkpoint.keep_best = 1, 0
    original = seal.write_share

    def watch(folder, *args):
        seen.append((folder.name, workdir.sealed_steps(tmp_path), workdir.steps(tmp_path)))
        original(folder, *args)

    monkeypatch.setattr(seal, "write_share", watch)
    checkpointer = checkpoints_checkpointer.Checkpointer(tmp_path, c)
    checkpointer.newest_good()
    for step in (1, 2, 3):
        checkpointer.save(step, make_state(step), {})
        checkpointer.wait()
        assert workdir.steps(tmp_path) == checkpointer.steps() == [step]
        assert (tmp_path / "progress").read_text() == f"{step}\n"
    checkpointer.close()
    assert seen == [("1", [], [1]), ("2", [1], [1, 2]), ("3", [2], [2, 3])]


def test_shares_of_many_processes_cover_every_file_once(run, tmp_path):
    folder = shutil.copytree(
        run / "checkpoints" / "8", tmp_path / "8", ignore=shutil.ignore_patterns("SHA256SUMS*")
    )
    assert seal.damage(folder) == [
        "it has no digests (no file SHA256SUMS.*)",
        *(f"{n} is extra" for n in seal.listing(folder)),
    ]
    for index in range(50):  # more processes than files
        assert not seal.sealed(folder)
        (
            folder / f".part-SHA256SUMS.{(index + 1) % 50:03d}-of-050"
        ).touch()  # of a process that writes its share meanwhile
        seal.write_share(folder, index, 50)
    assert seal.sealed(folder) and seal.damage(folder) == []
    (folder / "meta" / "metadata").write_text("{}")
    found = [seal.damage(folder, index, 3) for index in range(3)]
    assert sorted(found) == [[], [], ["meta/metadata is not as it was written"]]
    assert seal.damage(folder, items=("params",)) == []


TWO = """
import json, sys
from pathlib import Path
from phenomjax import config
from phenomjax.checkpoints.checkpointer import Checkpointer
from phenomjax.cluster import presence, start
coordinator, index, workdir = sys.argv[1:]
start.start(coordinator, 2, int(index))
with presence.connected():
    print(json.dumps(Checkpointer(Path(workdir), config.base()).newest_good()), flush=True)
"""


def test_two_processes_agree(copy):
    """The damage is in a file that only process 1 hashes."""
    folder = copy / "checkpoints" / "8"
    sums, _ = seal.structure(folder)
    name = next(n for n in sorted(sums)[1::2] if n.startswith("params/"))
    flip(folder / name, 3)
    assert seal.damage(folder, 0, 2) == [] and seal.damage(folder, 1, 2) == [
        f"{name} is not as it was written"
    ]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{s.getsockname()[1]}"
    both = [
        warm.Popen(
            [sys.executable, "-c", TWO, coordinator, str(i), str(copy)],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in (0, 1)
    ]
    out = [p.communicate(timeout=120) for p in both]
    assert [json.loads(text) for text, _ in out] == [4, 4], out
    assert f"the checkpoint of step 8 is damaged: {name} is not as it was written" in out[0][1]
    assert (copy / "checkpoints.damaged" / "8").is_dir()
