"""The work folder, its units and the pool: killed, begun otherwise, and finished."""

import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from phenomjax.engine import work_folder
from phenomjax.engine.local import Pool
from phenomjax.engine.units import Notes, Unit
from phenomjax.system import files
from phenomjax.system.errors import UserError
from tests.lab.toy_units import expected_squares, fail_unreadably, read_squares, square

ROOT = Path(__file__).resolve().parents[2]


def squares(count):
    return (Unit(f"square-{number}", number) for number in range(count))


def run(work, count, jobs=1, function=square, stop=None):
    return list(Pool(jobs).run(work, function, squares(count), stop or threading.Event()))


def start(work, *words):
    """The toy job in a process of its own."""
    command = [sys.executable, "-m", "tests.lab.toy_units", str(work), *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("jobs", [1, 2])
def test_units_are_done_once(tmp_path, jobs):
    done = run(tmp_path, 5, jobs)
    assert sorted(done) == [(f"square-{n}", {"rejected": [n] if n % 2 else []}) for n in range(5)]
    assert read_squares(tmp_path) == [0, 1, 4, 9, 16]
    assert run(tmp_path, 5, jobs) == [] and len(run(tmp_path, 6, jobs)) == 1
    Notes(tmp_path).forget("square-3")
    assert [name for name, _ in run(tmp_path, 6)] == ["square-3"]


def test_units_are_drawn_one_by_one(tmp_path):
    drawn = []

    def endless():
        while True:
            drawn.append(len(drawn))
            yield Unit(f"square-{drawn[-1]}", drawn[-1])

    stop = threading.Event()
    for number, _ in enumerate(Pool(1).run(tmp_path, square, endless(), stop)):
        assert len(drawn) == number + 1
        if number == 2:
            stop.set()
    assert read_squares(tmp_path) == [0, 1, 4]


def test_a_unit_that_was_stopped_is_not_committed(tmp_path):
    assert run(tmp_path, 2, function=lambda work, number: None) == []
    assert list(Notes(tmp_path).names()) == []


def test_rejected_inputs_come_in_the_order_of_units(tmp_path):
    run(tmp_path, 6, jobs=2)
    found = Notes(tmp_path).rejected(unit.name for unit in squares(6))
    assert next(found) == 1 and list(found) == [3, 5]


def test_killed_workers_are_replaced_and_what_they_did_is_done_again(tmp_path, caplog):
    done = run(tmp_path, 12, 2, functools.partial(square, dies_at=(0, 5, 9), deaths=2))
    assert len(done) == 12 and read_squares(tmp_path) == expected_squares(12)
    assert caplog.text.count("is tried again") == 6


def test_a_unit_that_ends_its_workers_is_an_error_when_all_else_is_done(tmp_path):
    poison = functools.partial(square, dies_at=(3,))
    with pytest.raises(UserError) as error:
        run(tmp_path, 12, 2, poison)
    assert re.search(
        r"1 of the units of work could not be done: square-3, tried 5 times \(more.*=N\): its"
        r" process was killed by SIGKILL, most often .* memory. All else is finished and kept",
        str(error.value),
    )
    assert len(list(Notes(tmp_path).names())) == 11
    assert len((tmp_path / "died-3").read_text()) == 5


def test_a_unit_that_ends_its_workers_is_set_aside(tmp_path):
    poison, asides = functools.partial(square, dies_at=(3, 7)), []

    def aside(unit, reason):
        asides.append((unit.name, reason))
        return {"rejected": [unit.argument]} if unit.argument == 3 else None

    stop = threading.Event()
    done = dict(Pool(2, deaths=2).run(tmp_path, poison, squares(12), stop, aside=aside))
    assert len(done) == 11 and done["square-3"] == {"rejected": [3]}
    assert sorted(name for name, _ in asides) == ["square-3", "square-7"]
    assert asides[0][1].startswith(
        "tried 2 times (more often: --engine_option deaths=N): its process was killed by SIGKILL"
    )
    assert len(list(Notes(tmp_path).names())) == 11  # 7 is left undone


def test_an_answer_that_cannot_be_read_ends_no_pool(tmp_path):
    pool = Pool(2, deaths=1).run(tmp_path, fail_unreadably, squares(3), threading.Event())
    with pytest.raises(UserError, match=r"square-\d, tried 1 time .* be read \(TypeError: Unrea"):
        list(pool)


def test_a_machine_on_which_every_process_dies_is_told(tmp_path):
    deadly = functools.partial(square, dies_at=range(100))
    with pytest.raises(UserError, match=r"Nothing can be done here.*SIGKILL.*in one process"):
        list(Pool(2, deaths=1).run(tmp_path, deadly, squares(100), threading.Event()))


def test_a_killed_driver_takes_its_workers_with_it(tmp_path):
    process = start(tmp_path / "work", tmp_path / "out", 200, 2, 0.02)
    wait_for(lambda: len(files.names(tmp_path / "work" / "units")) > 4)
    process.kill()
    process.wait()
    time.sleep(1)
    there = files.names(tmp_path / "work" / "units")
    time.sleep(0.5)
    assert files.names(tmp_path / "work" / "units") == there and len(there) < 200
    second = start(tmp_path / "work", tmp_path / "out", 200, 2, 0)
    assert second.wait() == 0, second.stderr.read()
    assert (tmp_path / "out").read_text() == f"{expected_squares(200)}" and not (
        tmp_path / "work"
    ).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_what_is_in_hand(tmp_path, number):
    process = start(tmp_path / "work", tmp_path / "out", 200, 2, 0.02)
    wait_for(lambda: len(files.names(tmp_path / "work" / "units")) > 4)
    process.send_signal(number)
    assert process.wait() == 75 and "finishing what is in hand" in process.stderr.read()
    outputs = files.names(tmp_path / "work" / "squares")
    assert len(outputs) == len(list(Notes(tmp_path / "work").names())) < 200


def test_the_result_is_made_by_several_at_once(tmp_path):
    """Each of them sees all units done; whoever comes second finds the other's, whole."""
    out = tmp_path / "out"

    def begin():
        work_folder.begin(tmp_path / "work", {})
        return tmp_path / "work"

    def make(folder, content="mine"):
        folder.mkdir()
        (folder / "file").write_text(content)

    def make_while_another_does(folder):
        make(folder)
        work_folder.finish(tmp_path / "work", functools.partial(make, content="its"), out)

    work_folder.finish(begin(), make_while_another_does, out, shared=True)
    assert (out / "file").read_text() == "its"
    work_folder.finish(begin(), make, out, shared=True)
    assert (out / "file").read_text() == "its" and not (tmp_path / "work").exists()
    with pytest.raises(OSError, match="not empty"):
        work_folder.finish(begin(), make, out)


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_bytes", full)
    with pytest.raises(UserError, match=r"could not be written.*No space left.*is kept"):
        Notes(tmp_path).commit("a", {}, {"array": b""})


def test_begun_with_other_settings(tmp_path):
    work = tmp_path / "out.partial"
    first = work_folder.begin(work, {"crop_size": 256, "bank": "a"}, {"batch": 7})
    assert first == {"crop_size": 256, "bank": "a", "batch": 7}
    assert work_folder.begin(work, {"crop_size": 256, "bank": "a"}, {"batch": 9}) == first
    with pytest.raises(work_folder.OtherSettings) as error:
        work_folder.begin(
            work, {"crop_size": 128, "bank": "b", "more": 1}, {"batch": 7}, {"bank": "the bank"}
        )
    assert str(error.value) == (
        f"{work} was begun with other settings: the bank; `crop_size` was 256, is now 128; `more`"
        f" was not given, is now 1. Give the same to go on, another `out`, or delete {work} to"
        " start again."
    )


def test_begun_by_another_version(tmp_path):
    work_folder.begin(tmp_path / "w", {"blocks": [4]})
    with pytest.raises(work_folder.OtherSettings, match=r"was begun by another version .*Delete"):
        work_folder.begin(tmp_path / "w", {"block": [4]})


def test_a_folder_is_held_by_one_process(tmp_path):
    work = tmp_path / "work"
    with work_folder.hold(work):
        process = start(work, tmp_path / "out", 1, 1, 0)
        assert process.wait() == 2 and "Another process is at work" in process.stderr.read()
    assert not work.exists()  # nothing was begun
    with work_folder.hold(work):
        work_folder.begin(work, {})
    assert work.exists()


@pytest.mark.parametrize("inside", [False, True])
def test_a_finish_that_is_killed_anywhere_is_repeated(tmp_path, monkeypatch, inside):
    replace, calls = os.replace, [0, 0]

    def dies(source, target):
        calls[0] += 1
        if calls[0] == calls[1]:
            raise KeyboardInterrupt
        replace(source, target)

    def make(path):
        path.mkdir()
        for name in ("a", "b"):
            files.write_text(path / name, name)

    monkeypatch.setattr(os, "replace", dies)
    for number in range(1, 20):
        out = tmp_path / f"{number}.zarr"
        work = out / ".prepare" if inside else out.with_suffix(".partial")
        work.mkdir(parents=True)
        calls[:] = 0, number
        try:
            work_folder.finish(work, make, out)
            break
        except KeyboardInterrupt:
            assert work.exists()
        calls[:] = 0, 0
        work_folder.finish(work, make, out)
        assert files.names(out) == ["a", "b"] and not work.exists()
    assert number > (5 if inside else 3)
