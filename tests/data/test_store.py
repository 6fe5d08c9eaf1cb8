"""Objects in stores are read, listed and written as files are, whatever the network does; what is
wrong is told in a paragraph without a word of the credentials.
"""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorstore as ts

from phenomjax.data import store
from phenomjax.data.stores import clients
from phenomjax.system.errors import UserError
from tests.lab.servers import KEY, SECRET, Fault

BODY = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(clients, "MAX_RETRIES", 3)
    monkeypatch.setenv("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "1")
    clients._client.cache_clear()
    yield
    clients._client.cache_clear()


@pytest.fixture(params=["local", "s3", "s3_strict", "gcs"])
def folder(request, tmp_path, monkeypatch):
    if request.param == "local":
        return tmp_path / "folder"
    used = request.getfixturevalue(request.param).use(monkeypatch)
    return f"{used.bucket}/{tmp_path.name}"


def test_files_of_a_store_are_as_those_of_a_disk(folder, request):
    """Bytes, ranges, sizes, lists and their order, with names that need quoting; `create` leaves
    what is there."""
    folder = Path(folder)
    assert not store.is_dir(folder) and list(store.list_files(folder)) == []
    contents = {"a b/c%20d": b"1", "a.txt": b"22", "a/é#~": bytes(range(256)), "a/z/y": b""}
    if "gcs" in request.node.name:  # the emulator breaks off where an object is empty
        contents["a/z/y"] = b"3"
    for name, content in contents.items():
        assert store.write_bytes(folder / name, content)
    assert [(f.name, f.bytes) for f in store.list_files(folder)] == [
        (name, len(content)) for name, content in sorted(contents.items())
    ]
    for after in ("a.txt", "a/a", "a/é#~", "zz"):
        rest = [f.name for f in store.list_files(folder, after=after)]
        assert rest == [name for name in sorted(contents) if name > after]
    assert store.names(folder) == ["a", "a b", "a.txt"] and store.names(folder / "a") == [
        "z",
        "é#~",
    ]
    assert store.is_dir(folder / "a") and not store.is_file(folder / "a")
    assert store.is_file(folder / "a.txt") and not store.is_dir(folder / "a.tx")
    for name, content in contents.items():
        assert store.read_bytes(folder / name) == content
        assert store.size(folder / name) == len(content)
    whole, name = bytes(range(256)), folder / "a/é#~"
    for start, stop in ((0, 9), (7, 11), (-5, None), (3, -200), (250, 900), (9, 9), (-900, 3)):
        assert store.read_bytes(name, start, stop) == whole[start:stop]
    if "strict" not in request.node.name:  # which ignores If-None-Match
        assert not store.write_bytes(name, b"x", create=True)
    with pytest.raises(FileNotFoundError):
        store.read_bytes(folder / "nothing")
    table, content = pa.table({"a": range(1000), "b": ["x"] * 1000}), io.BytesIO()
    pq.write_table(table, content)
    store.write_bytes(folder / "t.parquet", content.getvalue())
    with store.open_input(folder / "t.parquet") as file:
        assert pq.read_table(file, columns=["a"]).equals(table.select(["a"]))
    found = ts.KvStore.open(store.kvstore(folder / "a")).result()
    assert found.read("é#~").result().value == whole


READERS = {
    "obstore": store.read_bytes,
    "TensorStore": lambda path: (
        ts.KvStore.open(store.kvstore(path.parent)).result().read(path.name).result().value
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["503", "429", "reset", "truncate", "stall"])
def test_faults_of_the_network_are_survived(s3, monkeypatch, kind, reader):
    """One or two answers that fail, then one that is right: the bytes are right."""
    proxy, path = s3.use(monkeypatch).proxy, Path("s3://bank/body")
    store.write_bytes(path, BODY)
    proxy.faults = [Fault(kind, times=2 if reader == "obstore" else 1, match="GET .*body")]
    assert READERS[reader](path) == BODY
    assert proxy.count("GET .*body") >= 2


def test_writes_and_streams_survive_faults(s3, monkeypatch, tmp_path):
    proxy, path = s3.use(monkeypatch).proxy, Path("s3://bank/written")
    proxy.faults = [Fault("503", times=2, match="PUT"), Fault("reset", times=1, match="PUT")]
    assert store.write_bytes(path, BODY)
    proxy.faults = [Fault("truncate", times=1, match="GET"), Fault("reset", times=1, match="GET")]
    with (tmp_path / "x").open("wb") as file:
        assert store.fetch(path, file) == len(BODY)
    assert (tmp_path / "x").read_bytes() == BODY


ERRORS = [  # fault, how often it may be asked, why, words that the paragraph holds
    (
        Fault("403", body=b"<Error><Code>AccessDenied</Code></Error>"),
        1,
        "denied",
        "403, AccessDenied",
    ),
    (Fault("403", body=b"<Error><Code>RequestTimeTooSkewed</Code></Error>"), 1, "denied", "clock"),
    (Fault("400", body=b"<Error><Code>ExpiredToken</Code></Error>"), 1, "credentials", "expired"),
    (Fault("404", body=b"<Error><Code>NoSuchBucket</Code></Error>"), 1, "no bucket", "'bank'"),
    (Fault("404"), 1, "answer", "(404)"),
    (
        Fault("301", headers={"x-amz-bucket-region": "eu-west-3"}),
        2,
        "region",
        "AWS_REGION=eu-west-3",
    ),
    (
        Fault("400", body=b"<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-2</Region>"),
        1,
        "region",
        "AWS_REGION=eu-west-2",
    ),
    (Fault("503"), 4, "answer", "answered 503"),
    (Fault("stall"), 4, "timeout", "stopped answering"),
    (Fault("truncate"), 4, "answer", "broke off"),
]


@pytest.mark.parametrize("fault, most, why, words", ERRORS, ids=lambda value: str(value)[:20])
def test_an_error_is_one_paragraph(s3, monkeypatch, fault, most, why, words):
    """403, 404 and other regions at once, the rest after a bounded number of tries; no secrets."""
    proxy = s3.use(monkeypatch).proxy
    store.write_bytes("s3://bank/body", BODY)
    proxy.faults, proxy.asked = [fault], []
    with pytest.raises(store.StoreError) as found:
        store.read_bytes("s3://bank/body")
    text = str(found.value)
    assert found.value.why == why and words in text and "s3://bank/body" in text
    assert len(proxy.asked) <= most and "\n" not in text
    assert SECRET not in text and KEY not in text and "Debug" not in text
    assert found.value.__cause__ is None and found.value.__suppress_context__


def test_credentials_are_those_of_the_standard_chains(s3_strict, monkeypatch, tmp_path):
    """A wrong key, none at all, a profile, a profile that is not there."""
    s3_strict.use(monkeypatch)
    path = "s3://bank/secured"
    store.write_bytes(path, b"1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for read in (store.read_bytes, store.size, lambda path: list(store.list_files(path))):
        with pytest.raises(store.StoreError, match=r"the store refuses \(403") as found:
            read(path)
        assert found.value.why == "denied" and "wrong" not in str(found.value).replace(
            "are wrong", ""
        )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(store.StoreError, match="AWS_ACCESS_KEY_ID is missing"):
        store.read_bytes(path)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(store.StoreError, match=r"without credentials.*AWS_PROFILE") as found:
        store.read_bytes(path)
    assert found.value.why == "credentials"
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(UserError, match="profile 'lab' of AWS_PROFILE in ~/"):
        store.read_bytes(path)
    keys = f"[lab]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    (tmp_path / "credentials").write_text(keys)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))  # a new client
    assert store.read_bytes(path) == b"1"


def test_a_store_that_cannot_be_reached_is_told(monkeypatch, s3):
    s3.use(monkeypatch, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    with pytest.raises(store.StoreError, match=r"127\.0\.0\.1:9 cannot be reached") as found:
        store.read_bytes("s3://bank/x")
    assert (found.value.why, found.value.exit_code) == ("unreachable", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.proxy.url.replace("http", "https"))
    with pytest.raises(store.StoreError, match="no secure connection") as found:
        store.read_bytes("s3://bank/x")
    assert found.value.why == "TLS"


def test_web_servers_are_read_and_never_listed_or_written(web, monkeypatch):
    (web.use(monkeypatch).folder / "a b").write_bytes(BODY)
    (web.folder / "x.zarr").mkdir()
    (web.folder / "x.zarr" / "zarr.json").write_text("{}")
    path = Path(f"{web.bucket}/a b")
    assert store.read_bytes(path, 5, 9) == BODY[5:9] and store.size(path) == len(BODY)
    assert store.read_bytes(f"{web.bucket}/a%20b") == BODY
    assert store.is_dir(f"{web.bucket}/x.zarr") and not store.is_dir(f"{web.bucket}/y.zarr")
    with pytest.raises(UserError, match="cannot be listed"):
        list(store.list_files(web.bucket))
    with pytest.raises(UserError, match="cannot be written"):
        store.write_bytes(path, b"")
    with pytest.raises(UserError, match="holds a password") as found:
        store.read_bytes("https://me:word@host/x")
    assert "word@" not in str(found.value) and "me:" not in str(found.value)


def test_locations_are_paths():
    assert store.url(Path("s3://bucket/a/b")) == "s3://bucket/a/b"
    assert store.url("https://host:8/a") == "https://host:8/a" and store.url(Path("x/y")) == "x/y"
    assert store.place(Path("gs://b/k//l/")) == ("gs", "b", "k/l")
    assert store.is_remote("s3:/b/k") and store.is_remote(Path("http://h/x"))
    assert not any(map(store.is_remote, ("s3", "s3:", "a/s3:/b", "C:/x", "https", "s3s:/x")))


def test_lists_that_break_off_are_asked_for_again(s3, monkeypatch):
    """Of whole folders, where they broke off; of one level; with a bound."""
    s3.use(monkeypatch)
    for name in "abc":
        store.write_bytes(f"s3://bank/lists/{name}", b"1")
    s3.proxy.faults = [Fault("truncate", times=2, match="list-type")]
    assert [file.name for file in store.list_files("s3://bank/lists")] == ["a", "b", "c"]
    s3.proxy.faults = [Fault("truncate", times=2, match="list-type")]
    assert store.names("s3://bank/lists") == ["a", "b", "c"]
    s3.proxy.faults = [Fault("truncate", match="list-type")]
    for ask in (store.names, store.is_dir):
        with pytest.raises(store.StoreError, match="broke off"):
            ask("s3://bank/lists")


def test_what_is_beside_a_path_that_leads_to_nothing(tmp_path, monkeypatch):
    """The nearest name without its suffix, where the path breaks off; else what is there."""
    for name in ("runs/mae/checkpoints/20", "runs/txl"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("screen.zarr", "dna.fasta", "map.html", "map.parquet"):
        (tmp_path / name).touch()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    for path, said in (
        ("runs/ma", " Did you mean runs/mae?"),
        ("rns/mae/checkpoints/20", " Did you mean runs/mae/checkpoints/20?"),
        ("runs/MAE/checkpoints/10", " Did you mean runs/mae?"),
        ("scren.zarr", " Did you mean screen.zarr?"),
        ("map.parqet", " Did you mean map.parquet?"),
        ("mapp.html", " Did you mean map.html?"),
        ("runs/zzz", " In runs: mae, txl."),
        (
            "q/zzz",
            f" In this folder, {tmp_path}: dna.fasta, map.html, map.parquet, runs, screen.zarr.",
        ),
        ("runs/txl/checkpoints/5", " In runs/txl: nothing."),
        (
            "proteins.fasta",
            f" In this folder, {tmp_path}: dna.fasta, map.html, map.parquet, runs, screen.zarr.",
        ),
        (f"{tmp_path}/runs/txll", f" Did you mean {tmp_path}/runs/txl?"),
    ):
        assert store.beside(path) == said
