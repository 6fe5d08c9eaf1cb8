"""Banks in stores and on web servers are those of a disk, bit for bit, whatever the network does;
the cache of a node fetches once, checks, and stays within its bound.
"""

import hashlib
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phenomjax.data import manifest, node_cache, store
from phenomjax.data.images.bank import write_bank
from phenomjax.data.images.loading import staging as image_staging
from phenomjax.data.images.loading.loader import ImageLoader
from phenomjax.data.images.loading.reader import CropReader
from phenomjax.data.images.opening import open_bank
from phenomjax.data.images.rows import Rows
from phenomjax.data.sequences import staging as token_staging
from phenomjax.data.sequences.bank import open_token_bank, write_token_bank
from phenomjax.data.stores import clients
from phenomjax.system.errors import UserError
from tests.lab.servers import Fault

IMAGES = 6


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    """A folder with image banks of 1 and 4 images a shard, and a token bank of several chunks."""
    folder, draws = tmp_path_factory.mktemp("banks"), np.random.default_rng(0)
    pixels = draws.integers(0, 255, (IMAGES, 64, 48, 3)).astype(np.uint8)
    metadata = pa.table({"plate": ["p1", "p2"] * 3, "well": ["A01"] * IMAGES})
    for name, count in (("one", 1), ("four", 4)):
        write_bank(
            folder / f"{name}.zarr",
            pixels,
            metadata,
            ("a", "b", "c"),
            chunk=16,
            images_per_shard=count,
        )
    texts = ["".join(draws.choice(list("ACDEFGHIKLMNPQRSTVWY"), 90)) for _ in range(40)]
    entries = [(f"s{i}", text) for i, text in enumerate(texts)]
    splits = {"train": entries[:30], "validation": entries[30:]}
    write_token_bank(folder / "tokens.zarr", splits, chunk_bytes=512)
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv(node_cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setenv(node_cache.GIGABYTES, "0.1")
    monkeypatch.setattr(clients, "MAX_RETRIES", 4)
    monkeypatch.setenv("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "1")
    clients._client.cache_clear()
    yield
    clients._client.cache_clear()


def put(folder, target):
    """Copies the banks into a store."""
    if target.folder is None:
        for name, *_ in store.list_files(folder):
            store.write_bytes(f"{target.bucket}/{name}", (folder / name).read_bytes())
    else:
        shutil.copytree(folder, target.folder, dirs_exist_ok=True)
    return Path(target.bucket)


def loader(path):
    return ImageLoader(
        [open_bank(path)], channels="abc", global_batch_size=8, crop_size=20, threads=2
    )


@pytest.mark.parametrize("kind", ["s3", "gcs", "web"])
def test_a_bank_in_a_store_is_that_of_a_disk(banks, kind, monkeypatch, request, tmp_path):
    """Metadata, pixels by both roads, batches and tokens; of the web server without a list; and
    from copies that a node has staged.
    """
    remote = put(banks, request.getfixturevalue(kind).use(monkeypatch))
    for name in ("one.zarr", "four.zarr"):
        here, there = open_bank(banks / name), open_bank(remote / name)
        assert there.fingerprint == here.fingerprint and there.metadata == here.metadata
        assert CropReader(there).direct
        for index in range(IMAGES):
            assert (there.read(index) == here.read(index)).all()
    for step in (0, 7):
        ours, theirs = (
            loader(banks / "four.zarr").batch(step),
            loader(remote / "four.zarr").batch(step),
        )
        assert all((ours[key] == theirs[key]).all() for key in ours)
    here, there = open_token_bank(banks / "tokens.zarr"), open_token_bank(remote / "tokens.zarr")
    assert there.metadata == here.metadata and there.splits == here.splits
    assert all((there.sequence(i) == here.sequence(i)).all() for i in range(len(here)))
    copied = open_bank(remote / "four.zarr")
    image_staging.stage([copied], [Rows.all(IMAGES)], str(tmp_path / "local"))
    token_staging.stage(remote / "tokens.zarr", tmp_path / "local")
    assert copied.shard_path(5).is_relative_to(tmp_path / "local")
    out = np.zeros((64, 48, 3), np.uint8)
    CropReader(copied).read_into(out, 5, 0, 0)
    assert (out == open_bank(banks / "four.zarr").read(5)).all()
    with pytest.raises(UserError, match=r"There is no bank at (s3|gs|http)://.*nothing\.zarr"):
        open_bank(remote / "nothing.zarr")
    with pytest.raises(UserError, match=r"There is no bank at (s3|gs|http)://"):
        open_token_bank(remote / "nothing.zarr")
    with pytest.raises(UserError, match="not a token bank"):
        open_token_bank(remote / "one.zarr")


def test_a_network_full_of_faults_changes_no_pixel_and_no_token(banks, s3, monkeypatch):
    """Every third answer fails in one of five ways, every fourth has a flipped bit."""
    remote = put(banks, s3.use(monkeypatch))
    kinds = ("503", "429", "reset", "truncate", "flip")
    s3.proxy.faults = [
        Fault(kind, every=11 + n, match="GET.*/(c|zarr|meta)") for n, kind in enumerate(kinds)
    ]
    wanted = loader(banks / "one.zarr")
    for step in range(3):
        batch = loader(remote / "one.zarr").batch(step)
        assert all((batch[key] == value).all() for key, value in wanted.batch(step).items())
    here, there = open_token_bank(banks / "tokens.zarr"), open_token_bank(remote / "tokens.zarr")
    assert all((there.sequence(i) == here.sequence(i)).all() for i in range(len(here)))
    assert all(fault.seen >= fault.every for fault in s3.proxy.faults)


def test_flipped_bits_are_found_by_the_manifest(banks, web, monkeypatch):
    """A server without checksums: with the table of `prepare mirror` beside the bank flips are seen
    and fetched again, and what stays wrong is an error."""
    remote = put(banks, web.use(monkeypatch))
    files = [name for name, *_ in store.list_files(banks / "one.zarr")]
    sums = [store.sha256(banks / "one.zarr" / name) for name in files]
    table = pa.table({"key": files, "sha256": sums, "state": ["verified"] * len(files)})
    pq.write_table(table, manifest.beside(web.folder / "one.zarr"), row_group_size=3)
    assert manifest.Manifest(manifest.beside(remote / "one.zarr")).sha256(files[5]) == sums[5]
    wanted = loader(banks / "one.zarr").batch(0)
    reader = loader(remote / "one.zarr")
    web.proxy.faults = [Fault("flip", match="GET.*/c", every=2)]
    assert (reader.batch(0)["pixels"] == wanted["pixels"]).all()
    web.proxy.faults = [Fault("flip", match="GET.*/c")]
    shutil.rmtree(node_cache.shared().folder / "objects")
    node_cache._cache.cache_clear()
    with pytest.raises(store.StoreError, match="other bytes than the manifest says"):
        loader(remote / "one.zarr").batch(0)
    manifest.beside(web.folder / "one.zarr").unlink()


def _read(arguments):
    """One of several processes: reads objects in its own order; returns what was wrong."""
    seed, reads, names, variables = arguments
    os.environ.update(variables)
    wrong, draws = [], np.random.default_rng(seed)
    for _ in range(reads):
        name, digest = names[draws.integers(len(names))]
        with os.fdopen(node_cache.shared().open(f"s3://bank/cache/{name}"), "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != digest:
                wrong.append(name)
    there = [e for e in os.scandir(node_cache.shared().folder / "objects") if e.name != "mine.txt"]
    return wrong, sum(entry.stat().st_size for entry in there)


@pytest.mark.parametrize("megabytes, most", [(5.0, 10), (1.2, 10**9)], ids=["roomy", "tight"])
def test_three_processes_share_a_cache(s3, monkeypatch, tmp_path, megabytes, most):
    """Ten objects of 0.3 MB under faults: right bytes, each fetched once where there is room, and
    never more than the bound on the disk."""
    names = []
    s3.use(monkeypatch, **{node_cache.GIGABYTES: str(megabytes / 1000)})
    for number in range(10):
        content = np.random.default_rng(number).bytes(300_000)
        store.write_bytes(f"s3://bank/cache/{number}", content)
        names.append((str(number), hashlib.sha256(content).hexdigest()))
    left = tmp_path / "cache" / "objects"
    left.mkdir(parents=True)
    (left / f"{'a' * 32}.part").write_bytes(bytes(400_000))  # of a process that was killed
    (left / "mine.txt").write_text("not ours")
    s3.proxy.faults = [
        Fault(k, every=5 + n, match="GET") for n, k in enumerate(("503", "reset", "flip"))
    ]
    variables = {
        k: v for k, v in os.environ.items() if k.startswith(("AWS_", "PHENOMJAX_", "TENSOR"))
    }
    tasks = [(seed, 40, names, variables) for seed in range(3)]
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(_read, tasks, chunksize=1)
    assert [wrong for wrong, _ in found] == [[], [], []]
    assert max(held for _, held in found) <= megabytes * 1e6
    assert (left / "mine.txt").exists() and not (left / f"{'a' * 32}.part").exists()
    faults = sum(fault.seen // fault.every for fault in s3.proxy.faults)
    assert s3.proxy.count("GET") - faults <= most


def test_a_cache_says_what_it_cannot_do(s3, monkeypatch, tmp_path):
    """Too small, no such object, a folder that is no folder, a number that is none."""
    s3.use(monkeypatch, **{node_cache.GIGABYTES: "0.0001"})
    store.write_bytes("s3://bank/large", bytes(200_000))
    with pytest.raises(UserError, match=r"holds 97.7 KiB at most, and s3://bank/large alone has"):
        node_cache.open_file("s3://bank/large")
    with pytest.raises(FileNotFoundError):
        node_cache.open_file("s3://bank/nothing")
    monkeypatch.setenv(node_cache.GIGABYTES, "much")
    with pytest.raises(UserError, match="PHENOMJAX_CACHE_GB is 'much'"):
        node_cache.shared()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        node_cache.NodeCache(tmp_path / "file", 1000)
    monkeypatch.setattr(node_cache, "NETWORKS", ("",))
    with pytest.raises(UserError, match="file system of several machines"):
        node_cache.NodeCache(tmp_path / "other", 1000)


def test_a_cache_tells_once_that_it_is_too_small(s3, monkeypatch, caplog):
    s3.use(monkeypatch, **{node_cache.GIGABYTES: "0.00005"})
    for _ in range(2):
        for number in range(4):
            store.write_bytes(f"s3://bank/small{number}", bytes(20_000))
            os.close(node_cache.open_file(f"s3://bank/small{number}"))
    assert caplog.text.count("fetched again and again") == 1


def test_what_is_damaged_in_the_cache_is_fetched_again(banks, monkeypatch, request):
    """A file that lost its bytes here, and a cache that was taken away while a bank is open."""
    target = request.getfixturevalue("s3").use(monkeypatch)
    path = put(banks, target) / "one.zarr"
    reader, crop, right = CropReader(open_bank(path)), np.empty((2, 64, 48, 3), np.uint8), 0
    CropReader(open_bank(banks / "one.zarr")).read_into(crop[0], 1, 0, 0)
    for harm in (None, b"", bytes(1000), "all of it"):
        cache = Path(os.environ[node_cache.FOLDER])
        if harm == "all of it":
            shutil.rmtree(cache)
        elif harm is not None:
            for file in (cache / "objects").iterdir():
                file.write_bytes(harm)
        crop[1] = 0
        reader.read_into(crop[1], 1, 0, 0)
        right += np.array_equal(*crop)
    assert right == 4
    monkeypatch.setenv(node_cache.GIGABYTES, "inf")
    with pytest.raises(UserError, match="must be a number of gigabytes"):
        node_cache.shared()


def test_a_damaged_manifest_is_told(banks, monkeypatch, request):
    path = Path(request.getfixturevalue("s3").use(monkeypatch).bucket) / "damaged" / "four.zarr"
    for name, *_ in store.list_files(banks / "four.zarr"):
        store.write_bytes(path / name, (banks / "four.zarr" / name).read_bytes())
    other = pa.BufferOutputStream()
    pq.write_table(pa.table({"name": ["zarr.json"], "sha256": [""]}), other)
    for content in (b"no table", other.getvalue().to_pybytes()):
        store.write_bytes(manifest.beside(path), content)
        with pytest.raises(UserError, match=r"four\.zarr\.manifest\.parquet is damaged"):
            CropReader(open_bank(path))
