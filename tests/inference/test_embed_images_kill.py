"""Workers as users run them: killed at random while others go on, stopped by a signal, and run
again, without loss or double rows.
"""

import multiprocessing
import os
import random
import signal
import time

import pytest

from tests.inference.test_embed_images import contents, run_embed, write_images, write_run
from tests.lab import toy_embed

pytestmark = pytest.mark.slow
IMAGES = 600
CONTEXT = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Run, bank and result of one undisturbed worker, in a folder; a unit is one image."""
    folder = tmp_path_factory.mktemp("straight")
    write_run(folder / "run")
    write_images(folder / "b.zarr", IMAGES, size=(64, 64))
    shard = folder / "b.zarr" / "images" / "c.77.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert run_embed(folder / "run", folder / "b.zarr", folder / "out.zarr", "--unit_crops", 4) == 1
    return folder


@pytest.fixture(scope="module", autouse=True)
def server():
    """The fork server that starts the workers: nothing but imports has happened in it."""
    CONTEXT.set_forkserver_preload(["phenomjax.embed", "pandas"])


def worker(straight, out):
    arguments = [
        "--checkpoint",
        straight / "run",
        "--bank",
        straight / "b.zarr",
        "--out",
        out,
        "--devices",
        1,
        "--batch_size",
        8,
        "--unit_crops",
        4,
    ]
    process = CONTEXT.Process(
        target=toy_embed.work, args=([str(a) for a in arguments], str(out.with_suffix(".log")))
    )
    process.start()
    return process


def ended(process):
    """Its exit code, when it has one."""
    process.join()
    return process.exitcode


def committed(out):
    folder = out.with_name(out.name + ".partial") / "units"
    try:
        return sum(name.endswith(".json") for name in os.listdir(folder))
    except FileNotFoundError:
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
        for process in (worker(straight, out), worker(straight, out)) if committed(out) else ():
            assert ended(process) == 1  # killed between the result and the tidying
        assert contents(out) == contents(straight / "out.zarr"), out.with_suffix(".log").read_text()
        assert not out.with_name(out.name + ".partial").exists()
    return out.exists()


def test_killed_at_random_and_run_again(straight, tmp_path, count):
    """Two workers at a time, killed at random: at their start, between two units, while the result
    is made; one, or both.
    """
    draw, kills, results, wanted = random.Random(0), 0, 0, count(2, 50)
    while kills < wanted:
        out = tmp_path / f"{results}.zarr"
        if finished(straight, out):
            results += 1
            continue
        workers, before = [worker(straight, out) for _ in range(2)], committed(out)
        first = before + draw.choice([1, draw.randrange(2, 100), draw.randrange(2, 200), IMAGES])
        wait_for(workers, out, min(first, IMAGES))
        for process in workers:
            time.sleep(draw.random() * 0.05)
            if process.is_alive():
                process.kill()
                kills += 1
                print(f"kill {kills} of result {results} at {committed(out)} units", flush=True)
            assert ended(process) in (-signal.SIGKILL, 1)
    if finished(straight, out):
        out = tmp_path / f"{results + 1}.zarr"
    process, before = worker(straight, out), committed(out)
    wait_for([process], out, before + 5)
    os.kill(process.pid, signal.SIGINT)
    assert (
        ended(process) == 75
        and "the same command goes on from here" in out.with_suffix(".log").read_text()
    )
    assert ended(worker(straight, out)) == 1  # done, one image rejected
    assert finished(straight, out)
