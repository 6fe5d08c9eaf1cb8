"""`prepare mirror` to, from and between object stores, over lines that break, stall, flip bits."""

import os
from pathlib import Path

import pytest

from phenomjax.data import store
from phenomjax.data.stores import clients
from phenomjax.prepare.mirror import copying, planning
from phenomjax.prepare.mirror.ends import digests, local, places, stores
from phenomjax.system.errors import UserError
from tests.lab.servers import SECRET, Fault
from tests.prepare.test_mirror import files_of, mirror, states


@pytest.fixture(autouse=True)
def _impatient(monkeypatch, caplog):
    caplog.set_level("INFO", "phenomjax")
    monkeypatch.setattr(clients, "MAX_RETRIES", 3)
    monkeypatch.setenv("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "5")
    monkeypatch.setattr(planning, "UNIT_ROWS", 8)
    for module in (places, local, stores, copying):
        monkeypatch.setattr(module, "WHOLE", 1 << 18)
    clients._client.cache_clear()
    yield
    clients._client.cache_clear()


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    contents = {
        "zarr.json": b"{}",
        **{f"images/c.{i}.0.0.0": os.urandom(1000 + i) for i in range(20)},
        "a-b": b"sorts before a/c",
        "ü é/100% #1?~.txt": b"odd",
        ".hidden/.file": b"hidden",
        "large": os.urandom((1 << 18) * 3 + 11),
    }
    for key, content in contents.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content)
    return folder


def bucket(request, name, monkeypatch):
    """The server, and an address in it that no other test has."""
    server = request.getfixturevalue(name).use(monkeypatch)
    if name == "gcs":  # its emulator has no uploads in parts, and is slow
        for module in (places, local, stores, copying):
            monkeypatch.setattr(module, "WHOLE", 16 << 20)
        monkeypatch.setattr(copying, "THREADS", 4)
    return server, f"{server.bucket}/{abs(hash(request.node.nodeid))}"


@pytest.mark.parametrize("name", ["s3", "s3_strict", "gcs"])
def test_there_and_back(source, tmp_path, monkeypatch, request, name):
    """A folder into a store, once, and back; all kinds of names; empty objects and folders."""
    server, target = bucket(request, name, monkeypatch)
    monkeypatch.chdir(tmp_path)
    if name != "gcs":  # the emulator breaks off where an object is empty
        (source / "empty file").touch()
    (source / "empty folder").mkdir()
    assert mirror(source, target) == 0
    puts = server.proxy.count("^(PUT|POST)")
    assert mirror(source, target) == 0
    assert server.proxy.count("^(PUT|POST)") == puts + 1  # the manifest
    assert store.is_file(f"{target}.manifest.parquet")
    assert not [one for one in os.listdir(tmp_path) if one.endswith("mirror")]
    assert mirror(target, tmp_path / "back") == 0
    (source / "empty folder").rmdir()
    assert files_of(tmp_path / "back") == files_of(source)
    assert mirror(f"{target}/large", tmp_path / "one") == 0
    assert (tmp_path / "one").read_bytes() == (source / "large").read_bytes()
    assert mirror(tmp_path / "one", f"{target}/into/") == 0
    assert store.size(f"{target}/into/one") == (source / "large").stat().st_size


def test_between_stores_and_what_differs(source, tmp_path, monkeypatch, request):
    """From bucket to bucket; what is there already is verified by its ETag, without being read or
    sent."""
    server, first = bucket(request, "s3", monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert mirror(source, first) == 0
    second = f"{first}-second"
    for key in ("zarr.json", "a-b", "images/c.1.0.0.0", "large"):
        store.write_bytes(f"{second}/{key}", (source / key).read_bytes())
    store.write_bytes(f"{second}/images/c.2.0.0.0", b"x" * 1002)
    server.proxy.asked.clear()
    assert mirror(first, second) == 1
    assert server.proxy.count("^PUT") == 21  # 25 objects less 5 that are there, and the manifest
    assert server.proxy.count("^GET /bank/.*second/") == 1  # the one whose ETag is another
    assert mirror(first, second, "--overwrite") == 0
    assert mirror(second, tmp_path / "back") == 0
    assert files_of(tmp_path / "back") == files_of(source)


def test_large_objects_go_in_parts_and_prove_themselves(tmp_path, monkeypatch, request):
    """ETags of uploads in parts are computed, our own and those of usual programs: nothing is read
    back or twice."""
    server, target = bucket(request, "s3", monkeypatch)
    monkeypatch.setattr(digests, "PART", 5 << 20)
    big = tmp_path / "big"
    big.write_bytes(os.urandom((12 << 20) + 5))
    assert mirror(big, f"{target}/big", "--work", tmp_path / "work") == 0
    assert server.proxy.count("^PUT .*partNumber") == 3
    assert server.proxy.count("^GET .*big$") == 0
    assert mirror(f"{target}/big", tmp_path / "back") == 0
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    assert server.proxy.count("^GET .*big$") == 1


FAULTS = {
    "503": Fault("503", every=3),
    "429": Fault("429", every=4),
    "reset": Fault("reset", every=4),
    "truncate": Fault("truncate", every=4, match="^GET"),
    "flip": Fault("flip", every=3, match=r"^GET .*/(images|large|a-b|zarr)"),
    "stall": Fault("stall", times=2, match="^GET .*c.1"),
}


@pytest.mark.parametrize(
    "name, kind", [*(("s3", kind) for kind in FAULTS), ("gcs", "truncate"), ("gcs", "flip")]
)
def test_faults_on_the_way(source, tmp_path, monkeypatch, request, name, kind):
    """Whatever happens to answers: all of it arrives, right, and each object is sent once."""
    server, target = bucket(request, name, monkeypatch)
    monkeypatch.chdir(tmp_path)
    fault = FAULTS[kind]
    if kind == "stall":
        monkeypatch.setenv("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "1")
    server.proxy.faults = [Fault(fault.kind, fault.times, fault.match, fault.every)]
    assert mirror(source, target) == 0
    assert mirror(target, tmp_path / "back") == 0
    assert files_of(tmp_path / "back") == files_of(source)
    assert server.proxy.faults[0].seen
    server.proxy.faults = []
    whole = store.list_files(target)
    assert {one.name: store.read_bytes(f"{target}/{one.name}") for one in whole} == files_of(source)
    if kind in ("truncate", "flip", "stall"):  # faults of reading alone
        puts = [
            one for one in server.proxy.asked if one.startswith(("PUT", "POST")) and "c." in one
        ]
        assert len(puts) == len(set(puts)) == 20


def test_bytes_of_a_store_that_the_disk_loses(source, tmp_path, monkeypatch, request):
    """Wrong bytes never have the name of an object, small or large."""
    _, target = bucket(request, "s3", monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert mirror(source, target) == 0
    real, back = local._write_at, tmp_path / "back"

    def losing(handle, data, start):
        real(handle, bytes([data[0] ^ 1]) + bytes(data[1:]), start)

    with monkeypatch.context() as patched:
        patched.setattr(local, "_write_at", losing)
        assert mirror(target, back) == 1
    assert set(states(back).values()) == {"failed"} and not files_of(back)
    assert mirror(target, back) == 0 and files_of(back) == files_of(source)


def test_bytes_that_flip_on_their_way_there(source, tmp_path, monkeypatch, request):
    """What the store has got is compared with what was read: sent again until it is right."""
    server, target = bucket(request, "s3", monkeypatch)
    monkeypatch.chdir(tmp_path)
    server.proxy.faults = [Fault("flip_sent", every=3, match="^PUT")]
    assert mirror(source, target) == 0 and server.proxy.faults[0].seen > 30
    server.proxy.faults = []
    assert mirror(target, tmp_path / "back") == 0
    assert files_of(tmp_path / "back") == files_of(source)


def test_a_source_that_changes_or_refuses_meanwhile(source, tmp_path, monkeypatch, request, caplog):
    server, target = bucket(request, "s3", monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert mirror(source, target) == 0
    read = stores.StorePlace.read

    def happen(self, entry):
        if entry.key == "images/c.5.0.0.0":
            store.write_bytes(f"{target}/{entry.key}", b"x" * entry.bytes)
        return read(self, entry)

    monkeypatch.setattr(stores.StorePlace, "read", happen)
    server.proxy.faults = [
        Fault("403", match="^GET .*c.7.0.0.0"),
        Fault("404", match="^GET .*c.8.0"),
    ]
    assert mirror(target, tmp_path / "back") == 1
    assert states(tmp_path / "back") == {
        "images/c.5.0.0.0": "changed",
        "images/c.7.0.0.0": "unreadable",
        "images/c.8.0.0.0": "vanished",
    }
    server.proxy.faults = []
    monkeypatch.setattr(stores.StorePlace, "read", read)
    assert mirror(target, tmp_path / "back") == 0
    assert SECRET not in caplog.text


def test_stores_that_do_not_answer_end_the_job_and_it_goes_on(
    source, tmp_path, monkeypatch, request
):
    """A store that is down for longer than tries last: what is done stays done."""
    server, target = bucket(request, "s3", monkeypatch)
    monkeypatch.chdir(tmp_path)
    server.proxy.faults = [Fault("503", match="^PUT .*images/c.1")]
    with pytest.raises(UserError, match="un the same command again"):
        mirror(source, target)
    done = server.proxy.count("^PUT .*images/c.[2-9]")
    server.proxy.faults = []
    assert mirror(source, target) == 0
    assert server.proxy.count("^PUT .*images/c.[2-9]") >= 8 >= done
    assert len({one for one in server.proxy.asked if "PUT" in one}) >= 24
    server.proxy.faults = [Fault("403")]
    for first, second in ((source, f"{target}-denied"), (f"{target}-x", tmp_path / "back")):
        with pytest.raises(UserError, match="the store refuses"):
            mirror(first, second)


def test_names_that_would_leave_the_folder_are_refused(tmp_path, monkeypatch, request):
    target = bucket(request, "s3", monkeypatch)[1]
    store.write_bytes(f"{target}/a", b"1")
    store.write_bytes(f"{target}/a/b", b"2")
    entries = stores.StorePlace.entries
    odd = [places.Entry(key, 1, '"x"') for key in ("../out", "a/../../out", "/etc/x")]
    monkeypatch.setattr(
        stores.StorePlace, "entries", lambda *args: iter(sorted([*entries(*args), *odd]))
    )
    assert mirror(target, tmp_path / "back") == 1
    found = states(tmp_path / "back")
    assert {found.pop(one.key) for one in odd} == {"failed"}
    assert set(found.values()) == {"failed"} and len(found) == 1  # a file and a folder of one name
    assert not (tmp_path / "out").exists()


def test_a_web_server_needs_a_manifest(source, tmp_path, monkeypatch, request):
    """It lists nothing; a manifest beside the folder says what there is, and what its bytes are."""
    server = request.getfixturevalue("web").use(monkeypatch)
    folder = server.folder / tmp_path.name
    with pytest.raises(UserError, match="no list"):
        (folder / "plain").mkdir(parents=True)
        (folder / "plain/zarr.json").write_text("{}")
        mirror(f"{server.bucket}/{tmp_path.name}/plain", tmp_path / "back")
    assert mirror(source, folder / "copy") == 0
    server.proxy.faults = [Fault("flip", every=4, match="^GET .*images")]
    assert mirror(f"{server.bucket}/{tmp_path.name}/copy", tmp_path / "back") == 0
    assert files_of(tmp_path / "back") == files_of(source)
    server.proxy.faults = []
    (folder / "copy/images/c.4.0.0.0").write_bytes(b"x" * 1004)
    assert mirror(f"{server.bucket}/{tmp_path.name}/copy", tmp_path / "second") == 1
    assert states(tmp_path / "second") == {"images/c.4.0.0.0": "damaged"}
    assert Path(tmp_path / "second/large").exists()
