"""`prepare mirror` between folders: all of it, verified, nothing twice, whatever is wrong."""

import contextlib
import errno
import os
import shutil
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from phenomjax.engine.local import Pool
from phenomjax.prepare.mirror import command, copying, job, planning, rate
from phenomjax.prepare.mirror.copying import Ends
from phenomjax.prepare.mirror.ends import in_order, local, places
from phenomjax.system import locks
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door


def mirror(source, target, *words):
    """The exit code of the command, in this process."""
    return run_as_door(command, [source, target, "--jobs", "1", *words])


def rows(target):
    """{key: row} of the manifest of a destination."""
    table = pq.read_table(f"{str(target).rstrip('/')}.manifest.parquet")
    found = {row["key"]: row for row in table.to_pylist()}
    assert table["key"].to_pylist() == sorted(found)
    return found


def states(target):
    return {key: row["state"] for key, row in rows(target).items() if row["state"] != "verified"}


def files_of(folder):
    """{key: content} of all files, and empty folders with None."""
    found = {}
    for path, folders, names in os.walk(folder, followlinks=True):
        for name in names:
            key = os.path.relpath(os.path.join(path, name), folder)
            found[key] = Path(path, name).read_bytes()
        if not folders and not names and path != str(folder):
            found[os.path.relpath(path, folder) + "/"] = None
    return found


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch, caplog):
    """Large objects, units and runs of a few kB."""
    caplog.set_level("INFO", "phenomjax")
    for module in (local, copying, job):
        monkeypatch.setattr(module, "WHOLE", 4096)
    monkeypatch.setattr(local, "PIECE", 1024)
    monkeypatch.setattr(planning, "UNIT_ROWS", 3)
    monkeypatch.setattr(planning, "GROUPS", 2)


@pytest.fixture
def source(tmp_path):
    """A folder with all that names, sizes and links can be."""
    folder = tmp_path / "source"
    contents = {
        "zarr.json": b"{}",
        "images/zarr.json": b"[]",
        **{f"images/c.{i}.0.0.0": os.urandom(100 + i) for i in range(12)},
        "a-b": b"sorts before a/c",
        "a/c": b"",
        "a/large": os.urandom(3 * 4096 + 5),
        "a/exact": os.urandom(2 * 4096),
        "ü é/100% #1?.txt": b"odd",
        "..x/...": b"dots",
        ".hidden/.file": b"hidden",
    }
    for key, content in contents.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content)
    (folder / "empty/inner").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/linked").write_bytes(b"through a link")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "a/file link").symlink_to(tmp_path / "elsewhere/linked")
    return folder


def test_a_folder_is_copied_whole_and_once(source, tmp_path, monkeypatch, caplog):
    """Every name, link, empty file and folder arrives; the manifest says so; a second run copies
    nothing, a third what has come since, and what was lost in the destination."""
    monkeypatch.setattr(in_order, "RUN", 4)
    target = tmp_path / "target"
    assert mirror(source, target) == 0
    assert files_of(target) == files_of(source)
    found = rows(target)
    assert set(found) == set(files_of(source))
    assert {row["state"] for row in found.values()} == {"verified"}
    assert found["a/large"]["sha256"] == local.files.sha256(source / "a/large")
    assert not any("mirror" in name for name in os.listdir(tmp_path) if name != "target.manifest")
    assert not list(target.glob(".part*"))
    seen = []
    monkeypatch.setattr(
        copying._Copy, "_copy", _watched(copying._Copy._copy, lambda args: seen.append(args[2].key))
    )
    assert mirror(source, target) == 0 and not seen
    assert f"{len(found)} verified before" in caplog.text
    (source / "a/new").write_bytes(b"new")
    (target / "a/c").unlink()
    assert mirror(source, target) == 0 and sorted(seen) == ["a/c", "a/new"]
    assert files_of(target) == files_of(source)
    (source / "a/new").unlink()  # nothing is ever deleted, nor forgotten
    assert mirror(source, target) == 0 and rows(target)["a/new"]["state"] == "verified"
    assert (target / "a/new").read_bytes() == b"new"


def _watched(function, look):
    def watched(*args, **named):
        look(args)
        return function(*args, **named)

    return watched


def test_what_is_there_already_is_verified_or_stays(source, tmp_path, caplog):
    """Equal files are verified without being copied; others are listed, and replaced only when
    told."""
    target = tmp_path / "target"
    shutil.copytree(source, target)
    (target / "images/c.3.0.0.0").write_bytes(b"x" * 103)
    (target / "a/large").write_bytes(b"shorter")
    (target / "only here").write_bytes(b"stays")
    assert mirror(source, target) == 1
    assert states(target) == {"images/c.3.0.0.0": "differs", "a/large": "differs"}
    assert "2 objects not as in the source" in caplog.text and "--overwrite" in caplog.text
    assert (target / "a/large").read_bytes() == b"shorter"
    assert mirror(source, target, "--overwrite") == 0
    assert files_of(target) == files_of(source) | {"only here": b"stays"}


def test_what_is_wrong_with_the_source_is_named_and_the_rest_kept(source, tmp_path, caplog):
    """Dangling links, loops, pipes, names that are no UTF-8: exit 1, all else is there."""
    good = set(files_of(source))
    (source / "dangling").symlink_to("nowhere")
    (source / "a/loop").symlink_to(source)
    os.mkfifo(source / "pipe")
    with open(os.fsencode(source) + b"/latin\xe9", "wb"):
        pass
    target = tmp_path / "target"
    assert mirror(source, target) == 1
    bad = {"dangling", "a/loop", "pipe", "latin\\udce9"}
    assert states(target) == dict.fromkeys(bad, "unreadable")
    assert set(rows(target)) == good | bad
    assert set(files_of(target)) == good
    assert "is a link to something that is not there" in caplog.text


@pytest.mark.parametrize(
    "event, state", [("changed", "changed"), ("deleted", "vanished"), ("forbidden", "unreadable")]
)
def test_what_happens_to_the_source_meanwhile_is_named(source, tmp_path, monkeypatch, event, state):
    """An object that is written to, deleted or locked after it was listed: the rest is kept, and
    the next run brings it."""

    def happen(args):
        path = source / "images/c.5.0.0.0"
        if args[1].key != "images/c.5.0.0.0":
            return
        if event == "changed":
            path.write_bytes(b"changed")
        elif event == "deleted":
            path.unlink()
        else:
            raise places.Trouble("unreadable", "cannot be read: Permission denied")

    read = local.LocalPlace.read
    monkeypatch.setattr(local.LocalPlace, "read", _watched(read, happen))
    target = tmp_path / "target"
    assert mirror(source, target) == 1
    assert states(target) == {"images/c.5.0.0.0": state}
    monkeypatch.setattr(local.LocalPlace, "read", read)
    assert mirror(source, target) == 0
    assert files_of(target) == files_of(source)
    assert states(target) == {}


def test_a_single_file(source, tmp_path):
    """Under another name, into a folder, and its manifest beside it."""
    for target, place in ((tmp_path / "out.bin", "out.bin"), (tmp_path / "into/", "into/large")):
        words = f"{target}/" if place.startswith("into") else target
        assert mirror(source / "a/large", words) == 0
        copy = tmp_path / place
        assert copy.read_bytes() == (source / "a/large").read_bytes()
        assert list(rows(copy)) == [copy.name]
        assert mirror(source / "a/large", words) == 0


def test_a_large_file_goes_on_in_its_middle(source, tmp_path, monkeypatch):
    """What is on the disk of a killed copy is not read again; a block that was lost is."""
    target = tmp_path / "target"
    asked = []
    blocks = local.LocalPlace.blocks

    def dying(self, entry, start=0):
        asked.append(start)
        for number, block in enumerate(blocks(self, entry, start)):
            if len(asked) == 1 and number == 13:
                raise KeyboardInterrupt
            yield block

    big = source / "big"
    big.write_bytes(os.urandom(9 * 4096 + 7))
    monkeypatch.setattr(local.LocalPlace, "blocks", dying)
    monkeypatch.setattr(local, "FLUSHED", 2)
    with pytest.raises(KeyboardInterrupt):
        mirror(big, target)
    assert mirror(big, target) == 0
    assert asked == [0, 2 * 4096] and target.read_bytes() == big.read_bytes()


def test_bytes_that_the_disk_loses_are_noticed(source, tmp_path, monkeypatch):
    """What is read back is compared, small and large."""
    real = local._write_at

    def losing(handle, data, start):
        real(handle, bytes([data[0] ^ 1]) + data[1:] if data else data, start)

    monkeypatch.setattr(local, "_write_at", losing)
    target = tmp_path / "target"
    assert mirror(source / "a", target) == 1
    found = rows(target)
    assert {key for key, row in found.items() if row["state"] == "failed"} == {
        "exact",
        "file link",
        "large",
    }
    assert "read back with other bytes" in found["large"]["detail"]
    assert not (target / "large").exists()


def test_a_copy_that_is_stopped_goes_on(source, tmp_path):
    """The same call continues; what was done is not done again."""
    target, stop = tmp_path / "target", threading.Event()
    ends = Ends(source, target)

    class Stopping(Pool):
        def run(self, work, function, units, event, **more):
            for number, done in enumerate(super().run(work, function, units, event, **more)):
                if number == 2:
                    stop.set()
                yield done

    first = job.mirror(ends, Stopping(1), stop)
    assert not first.manifest and 0 < first.copied < first.objects
    rest = job.mirror(ends, Pool(1), threading.Event())
    assert rest.copied == first.objects - first.copied
    assert files_of(target) == files_of(source)


WRONG = {
    "nothing": ("no", "target", "There is no .*no: neither a file nor a folder"),
    "same": ("source", "source", "Source and destination are the same"),
    "inside": ("source", "source/a/copy", "lies inside the source"),
    "file": ("source", "file", "is a file, and the source .* is a folder"),
    "web": ("source", "http://127.0.0.1:9/x", "http:// and https:// are read only"),
}


@pytest.mark.parametrize("case", WRONG)
def test_ends_that_do_not_fit(source, tmp_path, case):
    (tmp_path / "file").write_bytes(b"")
    first, second, text = WRONG[case]
    second = second if "://" in second else tmp_path / second
    with pytest.raises(UserError, match=text) as error:
        mirror(tmp_path / first, second)
    assert error.value.exit_code == 2
    assert not list(tmp_path.glob("*.mirror"))


def test_two_at_once_and_running_jobs(source, tmp_path, monkeypatch):
    """A destination that is written to now, a source that is made now, another source for work
    that was begun."""
    target = tmp_path / "target"
    work = tmp_path / "target.mirror"
    busy = r"Another process copies to .*target"
    with locks.hold(work, ""), pytest.raises(UserError, match=busy):
        mirror(source, target)
    (source / ".prepare").mkdir()
    (source / ".prepare/job.json").write_text("{}")
    with locks.hold(source / ".prepare", ""), pytest.raises(UserError, match="is being made now"):
        mirror(source, target)
    shutil.rmtree(source / ".prepare")
    monkeypatch.setattr(copying, "copy_group", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        mirror(source, target)
    with pytest.raises(UserError, match="was begun with other settings: `source` was"):
        mirror(source / "a", target)


def _interrupt(*_):
    raise KeyboardInterrupt


def test_no_room_and_no_right(source, tmp_path, monkeypatch):
    """Room is asked for first; a disk that fills up meanwhile, or cannot be written, ends the job
    with what is done."""
    target = tmp_path / "target"
    with monkeypatch.context() as patched:
        usage = shutil.disk_usage(tmp_path)._replace(free=10)
        patched.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(UserError, match=r"0\.0 GB of free room") as error:
            mirror(source, target)
        assert error.value.exit_code == 1
    for number, text in ((errno.ENOSPC, "is full"), (errno.EROFS, "cannot be written to")):
        with monkeypatch.context() as patched:

            def fail(handle, data, start, number=number):
                raise OSError(number, os.strerror(number))

            patched.setattr(local, "_write_at", fail)
            with pytest.raises(UserError, match=text) as error:
                mirror(source, target)
            assert error.value.exit_code == 1
    assert mirror(source, target) == 0
    assert files_of(target) == files_of(source)


def test_a_source_that_goes_away_as_a_whole_ends_the_job(source, tmp_path, monkeypatch):
    read = local.LocalPlace.read

    def gone(args):
        with contextlib.suppress(FileNotFoundError):
            source.rename(tmp_path / "away")

    monkeypatch.setattr(local.LocalPlace, "read", _watched(read, gone))
    with pytest.raises(UserError, match="is gone: it was deleted, or its disk was taken away"):
        mirror(source, tmp_path / "target")
    monkeypatch.setattr(local.LocalPlace, "read", read)
    (tmp_path / "away").rename(source)
    assert mirror(source, tmp_path / "target") == 0


def test_a_listing_without_order_is_sorted(source, tmp_path, monkeypatch):
    entries = local.LocalPlace.entries
    monkeypatch.setattr(local.LocalPlace, "entries", lambda *args: reversed([*entries(*args)]))
    monkeypatch.setattr(in_order, "RUN", 5)
    assert mirror(source, tmp_path / "target") == 0
    assert files_of(tmp_path / "target") == files_of(source)


def test_rates():
    values = {"500MB/s": 5e8, "2 GiB/s": 2.0 * 2**30, "10Gb/s": 1.25e9, "80Mbit/s": 1e7}
    assert {text: rate.parse(text) for text in values} == values
    for text in ("", "500", "0MB/s", "fast", "5 parsecs"):
        with pytest.raises(UserError, match="Give bytes a second, such as 500MB/s"):
            rate.parse(text)


def test_a_rate_holds_for_all_together(tmp_path, monkeypatch):
    """Each block waits for those of all processes before it, however many; a clock that is far
    ahead does not stop the others."""
    now, slept = [1000.0], []
    monkeypatch.setattr(rate.time, "time", lambda: now[0])
    monkeypatch.setattr(rate.time, "sleep", slept.append)
    one, other = rate.Turns(tmp_path, 100.0), rate.Turns(tmp_path, 100.0)
    for turns in (one, other, one):
        turns.take(50)
    assert slept == [0.0, 0.5, 1.0]
    for _ in range(3):
        one.take(10**6)
    assert slept[3:] == [1.5, 10001.5, 20001.5]
    (tmp_path / rate.FILE).write_text("9e9")
    one.take(50)
    assert slept[-1] == 0.0
    rate.Turns(tmp_path, 0.0).take(10**9)
    assert len(slept) == 7


def test_a_dry_run_copies_nothing(source, tmp_path, caplog):
    assert mirror(source, tmp_path / "target", "--dry_run", "--lines", "10") == 0
    assert not (tmp_path / "target").exists() and not list(tmp_path.glob("*mirror"))
    for text in ("to copy: 24 objects", "over a line of 10 Gb/s: 0.0 seconds", "MB/s, the rate"):
        assert text in caplog.text
