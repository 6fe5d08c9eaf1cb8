"""`prepare mirror` where names, places and manifests are not what its user meant."""

import os
import shutil
import threading
import urllib.request

import pytest

from phenomjax.data import store
from phenomjax.engine.local import Pool
from phenomjax.prepare.mirror import copying, job
from phenomjax.prepare.mirror.copying import Ends
from phenomjax.prepare.mirror.ends import local, places, stores
from phenomjax.system import locks
from phenomjax.system.errors import UserError
from tests.lab.servers import Fault
from tests.prepare.test_mirror import files_of, mirror, rows, states


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "source"
    for key in ("a", "plate1/x", ".part-mirrored/x"):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(key.encode())
    return folder


def test_names_without_a_folder(source, tmp_path, monkeypatch):
    """A file to a plain name, a folder to "." and ".."; what is called much like our own parts."""
    assert mirror(source / "a", "copy") == 0 and (tmp_path / "copy").read_bytes() == b"a"
    (tmp_path / "one" / "two").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "one" / "two")
    assert mirror(source, ".") == 0 and files_of(tmp_path / "one" / "two") == files_of(source)
    assert len(rows(tmp_path / "one" / "two")) == 3
    assert mirror(source, "..") == 0 and len(rows(tmp_path / "one")) == 3
    with pytest.raises(UserError, match="has no name"):
        mirror(source, "/")


def test_nothing_is_no_copy(source, tmp_path):
    """Patterns that fit nothing, a selection that is not there, an empty folder, other stores."""
    for words in (["--only", "plate2/*"], ["--only", "a", "plat2/*"], ["--only", "S.parquet"]):
        with pytest.raises(UserError, match=r"fits (plat\S*2/\*|S.parquet) of --only"):
            mirror(source, tmp_path / "no", *words)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="it is empty"):
        mirror(tmp_path / "empty", tmp_path / "no")
    for address in ("gcs://bucket/x", "S3://bucket/x"):
        with pytest.raises(UserError, match="no address that phenomjax knows"):
            mirror(source, address)
    with pytest.raises(UserError, match="lies inside the source"):
        mirror(source, source / "x", "--dry_run")
    assert sorted(os.listdir(tmp_path)) == ["empty", "source"]


def test_manifests_of_others(source, tmp_path):
    """One of another source proves nothing; one that is damaged is named."""
    other, target = tmp_path / "other", tmp_path / "target"
    other.mkdir()
    (other / "a").write_bytes(b"b")
    for folder in (source, other):
        os.utime(folder / "a", ns=(10**18, 10**18))
    assert mirror(source, target) == 0
    assert mirror(other, target) == 1 and states(target) == {"a": "differs"}
    assert mirror(source, target) == 0 and not states(target)
    manifest = tmp_path / "target.manifest.parquet"
    manifest.write_bytes(b"damaged")
    for one, to in ((source, target), (target, tmp_path / "third")):
        with pytest.raises(UserError, match=r"target\.manifest\.parquet is damaged"):
            mirror(one, to)
    manifest.unlink()
    assert mirror(source, target) == 0 and mirror(target, tmp_path / "third") == 0


def test_what_others_leave_in_buckets(source, tmp_path, monkeypatch, request):
    """Marks of folders are folders; a name without a folder is told; a file goes into a bucket."""
    server = request.getfixturevalue("s3").use(monkeypatch)

    def put(key, content=b""):
        headers = {"Content-Type": "x/y", "Content-Length": str(len(content))}
        address = f"{server.proxy.url}/bank/odd/{key}"
        made = urllib.request.Request(address, content or None, headers, method="PUT")
        urllib.request.urlopen(made, timeout=60).close()

    for key in ("m/", "m/sub/", "m/sub/x", "m/bare/", "m/empty"):
        put(key, b"x" * key.endswith("x"))
    target = tmp_path / "m"
    assert mirror("s3://bank/odd/m", target) == 0
    assert files_of(target) == {"sub/x": b"x", "bare/": None, "empty": b""}
    assert mirror("s3://bank/odd/m", target) == 0
    assert [one.name for one in store.list_files("s3://bank/odd/m")] == ["empty", "sub/x"]
    put("d//x", b"x")
    with pytest.raises(UserError, match=r"whose name cannot be used here, 'odd/d//x'"):
        mirror("s3://bank/odd/d", tmp_path / "d")
    assert mirror(source / "a", "s3://bank") == 0 and store.read_bytes("s3://bank/a") == b"a"
    (source / "new\nline").touch()
    assert mirror(source, "s3://bank/odd/n") == 1


def test_a_web_server_with_a_manifest_alone(source, monkeypatch, request):
    """Files that are no Zarr; addresses with what may be a secret are refused, and not shown."""
    web = request.getfixturevalue("web").use(monkeypatch)
    assert mirror(source, web.folder / "plain") == 0
    assert mirror(f"{web.bucket}/plain", "back") == 0
    assert files_of("back") == files_of(source)
    with pytest.raises(UserError, match="followed by a question mark") as told:
        mirror(f"{web.bucket}/plain/a?token=SECRET", "no")
    assert "SECRET" not in str(told.value)


def test_sources_that_change_meanwhile(source, tmp_path):
    """A bank that is being appended to; what came since the work was begun that goes on."""
    (source / ".append").mkdir()
    (source / ".append" / "lock").touch()
    with locks.hold(source / ".append", "busy"), pytest.raises(UserError, match="are appended to"):
        mirror(source, tmp_path / "no")
    shutil.rmtree(source / ".append")
    target, stop = tmp_path / "target", threading.Event()
    stop.set()
    assert not job.mirror(Ends(source, target), Pool(1), stop, settings={"only": []}).manifest
    (source / "late").write_bytes(b"late")
    assert mirror(source, target) == 1 and not (target / "late").exists()
    assert mirror(source, target) == 0 and files_of(target) == files_of(source)


def test_what_arrived_wrong_is_ours_to_replace(source, tmp_path, monkeypatch, request):
    """Bytes that were changed on the way each time stay named; the same command mends them."""
    server = request.getfixturevalue("s3").use(monkeypatch)
    for module in (places, local, stores, copying):
        monkeypatch.setattr(module, "WHOLE", 4096)
    (source / "large").write_bytes(os.urandom(10_000))
    there, back = "s3://bank/odd/wrong", tmp_path / "back"
    server.proxy.faults = [Fault("flip_sent", match="^PUT .*/wrong/(a|large)")]
    assert mirror(source, there) == 1
    server.proxy.faults = []
    assert mirror(source, there) == 0
    server.proxy.faults = [Fault("flip", match="^GET .*/wrong/large")]
    assert mirror(there, back) == 1 and states(back) == {"large": "damaged"}
    server.proxy.faults = []
    assert mirror(there, back) == 0 and files_of(back) == files_of(source)
