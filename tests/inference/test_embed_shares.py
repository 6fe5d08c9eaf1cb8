"""Embeddings that many processes make: shares of tasks that know nothing of each other, killed at
random, stopped and run again; and the workers of an engine. The bytes are those of one process.
"""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
import pytest

from phenomjax import embed as door
from phenomjax.inference.images import cluster, worker
from phenomjax.inference.sequences import embed as sequences_embed
from phenomjax.inference.sequences import parts, store
from phenomjax.inference.workers import check_precision
from phenomjax.system import files
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from tests.inference.test_embed_images import contents, run_embed, write_images, write_run
from tests.lab import tiny_language_models as tiny
from tests.lab import toy_embed, toy_engine

IMAGES = 120
CONTEXT = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Run, bank and result of one undisturbed process, in a folder; a unit is two images."""
    folder = tmp_path_factory.mktemp("straight")
    write_run(folder / "run")
    write_images(folder / "b.zarr", IMAGES, size=(64, 64))
    shard = folder / "b.zarr" / "images" / "c.77.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert embed(folder, folder / "out.zarr") == EXIT_FAILED
    return folder


def embed(straight, out, *options):
    return run_embed(straight / "run", straight / "b.zarr", out, "--unit_crops", 4, *options)


def test_shares_wait_for_nobody_and_the_last_one_makes_the_result(straight, tmp_path, capfd):
    out = tmp_path / "out.zarr"
    for share in (2, 0):
        assert embed(straight, out, "--share", f"{share}/3") == EXIT_DONE
    told = capfd.readouterr().err
    assert "2/3 of" in told and "40 of 60 units are not there yet, of the shares 0, 1." in told
    assert "20 of 60 units are not there yet, of the shares 1." in told and not out.exists()
    with pytest.raises(UserError, match="was begun with other settings: --level was well"):
        embed(straight, out, "--share", "1/3", "--level", "site")
    # a work folder that was begun when workers had claims
    (tmp_path / "out.zarr.partial" / "claims" / "unit_0").mkdir(parents=True)
    assert embed(straight, out, "--share", "1/3") == EXIT_FAILED
    assert contents(out) == contents(straight / "out.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]
    assert embed(straight, out, "--share", "1/3") == EXIT_FAILED  # nothing to do


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--share", "3/3"], r"--share 3/3: give I/N, the number of this task from 0 to N-1"),
        (["--share", "1"], r"--share 1: give I/N"),
        (["--share", "0/2", "--engine", "slurm"], r"--share 0/2 is for tasks without a scheduler"),
        (["--jobs", 4], r"--jobs 4: one process uses all devices of this machine"),
    ],
)
def test_mistakes(straight, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        embed(straight, tmp_path / "e.zarr", *options)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def engine(monkeypatch):
    return toy_engine.replace(monkeypatch)


def test_an_engine_gives_the_bytes_of_one_process(straight, tmp_path, engine, monkeypatch):
    """Stopped, with a unit of a share before it, and gone on with."""
    out, batches = tmp_path / "out.zarr", []
    submit = worker.embed
    monkeypatch.setattr(worker, "embed", lambda *a: batches.append(1) or submit(*a))
    engine.limit = 25
    assert embed(straight, out, "--engine", "slurm") == EXIT_STOPPED and len(batches) == 25
    assert embed(straight, out, "--share", "9/10") == EXIT_DONE
    engine.limit = None
    assert embed(straight, out, "--engine", "tcp://here:1") == EXIT_FAILED
    assert contents(out) == contents(straight / "out.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]
    assert embed(straight, out, "--engine", "slurm") == EXIT_FAILED  # nothing to do


def test_an_engine_embeds_several_banks_and_sets_poison_aside(straight, tmp_path, engine):
    other = write_images(tmp_path / "other.zarr", 4, size=(64, 64))
    banks, out = [straight / "b.zarr", other], tmp_path / "folder"
    options = ("--unit_crops", 4, "--level", "site", "--engine", "slurm")
    engine.poison = {"b-1"}  # the second unit of all
    assert run_embed(straight / "run", banks, out, *options) == EXIT_FAILED
    rejected = pq.read_table(out / "b.zarr" / "rejected.parquet").to_pylist()
    assert [(r["image"], r["reason"][:11]) for r in rejected] == [
        (2, "it ends its"),
        (3, "it ends its"),
        (77, "the index a"),
    ]
    assert pq.read_metadata(out / "other.zarr" / "metadata.parquet").num_rows == 4


def test_a_worker_that_finds_something_else_says_so(straight, tmp_path, engine, monkeypatch):
    real = cluster._task
    for field, message in [
        ({"model": "f"}, "A worker finds another --checkpoint at .*run than this process"),
        ({"bank": "f"}, "A worker finds another --bank at .*b.zarr than this process"),
    ]:
        wrong = lambda *a, field=field: real(*a)._replace(**field)  # noqa: E731
        monkeypatch.setattr(cluster, "_task", wrong)
        with pytest.raises(UserError, match=message):
            embed(straight, tmp_path / "out.zarr", "--engine", "slurm")


@pytest.mark.parametrize("per", ["protein", "residue"])
def test_an_engine_embeds_sequences(per, tmp_path, engine, monkeypatch):
    """Stopped, gone on with by one process that is stopped too, and by the engine again; from a
    folder in which the work of one unit of the first was not yet in its place.
    """
    monkeypatch.setattr(parts, "UNIT_BATCHES", 2)
    monkeypatch.setattr(sequences_embed, "SAVE_SECONDS", -1.0)
    run = tiny.write(tmp_path / "run", "causal_lm")
    sequences = tiny.proteins([30, 17, 16, *range(1, 15)])
    source = tiny.write_fasta(tmp_path / "a.fasta", [*sequences, sequences[3]])
    words = ["--checkpoint", run, "--source", source, "--devices", 1, "--batch_tokens", 64]
    words += ["--segment_len", 16, "--per", per, "--dtype", "float16"]

    def embed(name, *more):
        return door.main([str(word) for word in [*words, "--out", tmp_path / name, *more]])

    assert embed("straight.zarr") == EXIT_DONE
    engine.limit = 2  # units of two batches, of seven
    remove = files.remove
    monkeypatch.setattr(files, "remove", lambda p: None if p.parent.name == "parts" else remove(p))
    assert embed("out.zarr", "--engine", "slurm") == EXIT_STOPPED
    monkeypatch.setattr(files, "remove", remove)
    assert len(list((tmp_path / "out.zarr.partial" / "parts").iterdir())) == 2
    with pytest.raises(SystemError), monkeypatch.context() as patch:
        patch.setattr(store.FeatureStore, "wrote", mock.Mock(side_effect=SystemError))
        embed("out.zarr")
    engine.limit = None
    assert embed("out.zarr", "--engine", "slurm") == EXIT_DONE
    assert contents(tmp_path / "out.zarr") == contents(tmp_path / "straight.zarr")
    assert embed("out.zarr", "--engine", "slurm") == EXIT_DONE  # nothing to do
    assert not (tmp_path / "out.zarr.partial").exists()
    with pytest.raises(UserError, match="--jobs 2: one process uses all devices"):
        embed("x.zarr", "--jobs", 2)


def test_a_worker_that_computes_in_another_type_says_so():
    with pytest.raises(UserError, match="A worker computes in float32, and e was begun in bfloat"):
        check_precision("float32", "bfloat16", Path("e"))


def test_what_workers_of_a_dead_command_bring_late_is_not_taken(straight, tmp_path, engine):
    """The work is begun with other settings meanwhile, or done."""
    out, kept = tmp_path / "out.zarr", []
    engine.limit, run = 3, engine.run

    def watched(work, function, *rest, **more):
        def keep(work, argument):
            kept.append((work, function, argument))
            return function(work, argument)

        return run(work, keep, *rest, **more)

    engine.run = watched
    assert embed(straight, out, "--engine", "slurm") == EXIT_STOPPED
    engine.run, (work, function, argument) = run, kept[-1]
    shutil.rmtree(tmp_path / "out.zarr.partial")
    engine.limit = 5
    assert embed(straight, out, "--engine", "slurm", "--level", "site") == EXIT_STOPPED
    with pytest.raises(UserError, match="is done, or was begun anew"):
        function(work, argument)
    shutil.rmtree(tmp_path / "out.zarr.partial")
    with pytest.raises(UserError, match="is done, or was begun anew"):
        function(work, argument)
    assert not (tmp_path / "out.zarr.partial").exists()


@pytest.fixture(scope="module")
def server():
    """The fork server that starts the tasks: nothing but imports has happened in it."""
    CONTEXT.set_forkserver_preload(["phenomjax.embed", "pandas"])


def task(straight, out, share):
    arguments = ["--checkpoint", straight / "run", "--bank", straight / "b.zarr", "--out", out]
    arguments += ["--devices", 1, "--batch_size", 8, "--unit_crops", 4, "--share", share]
    log = str(out.with_suffix(".log"))
    process = CONTEXT.Process(target=toy_embed.work, args=([str(a) for a in arguments], log))
    process.start()
    return process


def ended(process):
    """Its exit code, when it has one."""
    process.join()
    return process.exitcode


def committed(out):
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(out.with_name(out.name + ".partial") / "units")
        return sum(name.endswith(".json") for name in names)
    return 0


def wait_for(processes, out, units):
    """Returns once so many units are committed, or the processes have ended."""
    while any(process.is_alive() for process in processes) and committed(out) < units:
        time.sleep(0.002)


def finished(straight, out):
    """Whether the result is there; it is then that of the undisturbed run, byte for byte, and
    nothing else is left.
    """
    if out.exists():
        for share in ("0/2", "1/2") if out.with_name(out.name + ".partial").exists() else ():
            assert ended(task(straight, out, share)) == EXIT_FAILED  # killed before the tidying
        assert contents(out) == contents(straight / "out.zarr"), out.with_suffix(".log").read_text()
        assert not out.with_name(out.name + ".partial").exists()
    return out.exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_random_and_run_again(straight, server, tmp_path, count):
    """Two tasks at a time, killed at random: at their start, between two units, while the result is
    made; one, or both.
    """
    draw, kills, results, wanted = random.Random(0), 0, 0, count(2, 50)
    while kills < wanted:
        out = tmp_path / f"{results}.zarr"
        if finished(straight, out):
            results += 1
            continue
        tasks, before = [task(straight, out, f"{i}/2") for i in range(2)], committed(out)
        first = before + draw.choice([1, draw.randrange(2, 30), draw.randrange(2, 60), IMAGES])
        wait_for(tasks, out, min(first, IMAGES))
        for process in tasks:
            time.sleep(draw.random() * 0.05)
            if process.is_alive():
                with contextlib.suppress(ProcessLookupError):  # it ended at this moment
                    process.kill()
                    kills += 1
                    print(f"kill {kills} of result {results} at {committed(out)} units", flush=True)
            assert ended(process) in (-signal.SIGKILL, EXIT_DONE, EXIT_FAILED)
    if finished(straight, out):
        out = tmp_path / f"{results + 1}.zarr"
    process, before = task(straight, out, "0/1"), committed(out)
    wait_for([process], out, before + 3)
    os.kill(process.pid, signal.SIGINT)
    assert ended(process) == EXIT_STOPPED
    assert "the same command goes on from here" in out.with_suffix(".log").read_text()
    assert ended(task(straight, out, "0/1")) == EXIT_FAILED  # done, one image rejected
    assert finished(straight, out)
