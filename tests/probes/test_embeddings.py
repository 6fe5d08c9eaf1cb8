"""Features for probes: in memory and in the shared folder, where each sequence is computed once,
whatever happens.
"""

import dataclasses
import json
import logging
import threading

import numpy as np
import pytest

from phenomjax.inference.sequences import embed, parts, segments
from phenomjax.probes.features import embeddings, shards
from phenomjax.probes.features.cache import FeatureCache
from phenomjax.probes.features.embeddings import Stopped
from phenomjax.probes.features.table import FeatureTable
from phenomjax.system.errors import UserError
from phenomjax.trained import opening
from phenomjax.trained.twin import random_twin
from tests.lab import tiny_language_models as tiny
from tests.lab import toy_engine

SEQUENCES = [*tiny.proteins((5, 40, 9, 61, 12)), "MKV", "MKV"]


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return opening.load_sequences(
        tiny.write(tmp_path_factory.mktemp("causal") / "run", "causal_lm")
    )


@pytest.fixture(scope="module")
def both_ways(tmp_path_factory):
    return opening.load_sequences(
        tiny.write(tmp_path_factory.mktemp("elmo") / "run", "bidirectional_lm")
    )


@pytest.fixture(scope="module")
def compiled(causal):
    return embeddings.Embedder(causal)


@pytest.fixture
def shared_embedder(compiled, causal):
    """Compiled programs for all tests of the cache."""
    compiled.use(causal)
    return compiled


@pytest.fixture
def open_cache(shared_embedder, causal, tmp_path):
    """Opens the folder of a test as a process of its own would."""

    def open_it():
        cache = FeatureCache(tmp_path)
        shared_embedder.use(causal)
        cache._embedder = shared_embedder
        return cache

    return open_it


@pytest.fixture
def computed(monkeypatch):
    """Counts of sequences in the batches that were computed."""
    counts, call = [], segments.SegmentFeatures.__call__

    def counted(self, sequences, *args):
        counts.append(len(sequences))
        return call(self, sequences, *args)

    monkeypatch.setattr(segments.SegmentFeatures, "__call__", counted)
    return counts


def same(a: FeatureTable, b: FeatureTable, rtol: float = 1e-3) -> None:
    """The same features, as near as float16 is."""
    rows = np.arange(len(a))
    np.testing.assert_array_equal(a.lengths, b.lengths)
    one, two = (
        (f.take(rows) if f.per == "protein" else f.batch(rows, int(f.lengths.max())))
        for f in (a, b)
    )
    assert one.dtype == two.dtype == np.float32 and one.any()
    np.testing.assert_allclose(one, two, rtol, 1e-3)


def only(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def test_of_arrays():
    features = FeatureTable.of_arrays(np.arange(6).reshape(3, 2))
    assert features.dim == 2 and features.take([2, 0, 2]).tolist() == [[4, 5], [0, 1], [4, 5]]
    features = FeatureTable.of_arrays([np.ones((3, 2)), np.full((1, 2), 7.0)])
    assert features.lengths.tolist() == [3, 1] and features.per == "residue"
    assert features.batch([1, 0], 2).tolist() == [[[7, 7], [0, 0]], [[1, 1], [1, 1]]]
    assert features.batch([0], 4)[0, :, 0].tolist() == [1, 1, 1, 0]


def test_compute_reads_each_sequence_by_itself(both_ways):
    """Two directions, long proteins by segments of 16, and what stands beside a sequence has no
    say.
    """
    embedder = embeddings.Embedder(both_ways)
    whole = embedder.compute(SEQUENCES, "residue")
    assert whole.dim == 16 and whole.lengths.tolist() == [len(s) for s in SEQUENCES]
    alone = embedder.compute([SEQUENCES[1]], "residue").batch([0], 45)[0]
    np.testing.assert_allclose(whole.batch([1], 45)[0], alone, 1e-4, 1e-5)
    np.testing.assert_array_equal(whole.batch([5], 3), whole.batch([6], 3))
    mean = embedder.compute(SEQUENCES, "protein").take([1])[0]
    np.testing.assert_allclose(mean, alone[:40].mean(0), 1e-4, 1e-5)


def test_cache_computes_only_what_is_missing(
    causal, tmp_path, computed, open_cache, shared_embedder
):
    cache = open_cache()
    first = cache.get(causal, SEQUENCES[3:], "residue")
    assert sum(computed) == 3
    second = cache.get(causal, SEQUENCES, "residue")
    assert sum(computed) == 6  # the three that are new
    same(second, shared_embedder.compute(SEQUENCES, "residue"))
    computed.clear()
    again = open_cache().get(causal, SEQUENCES[::-1], "residue")
    np.testing.assert_array_equal(again.batch([3, 1], 61), first.batch([0, 2], 61))
    assert not computed
    proteins = cache.get(causal, SEQUENCES, "protein")
    for row, length in enumerate(second.lengths):
        np.testing.assert_allclose(
            proteins.take([row])[0], second.batch([row], int(length))[0].mean(0), 2e-3, 2e-3
        )
    (twin_a, twin_b), other = (
        (random_twin(causal) for _ in range(2)),
        random_twin(causal, 1),
    )
    assert twin_a.fingerprint == twin_b.fingerprint != other.fingerprint != causal.fingerprint
    assert not np.allclose(
        cache.get(twin_a, SEQUENCES, "protein").take([0]), proteins.take([0]), atol=0.1
    )
    about = json.loads(
        only(
            tmp_path, f"{causal.fingerprint[:16]}-default-protein-float16-*/about.json"
        ).read_text()
    )
    assert about["fingerprint"] == causal.fingerprint and about["segment_len"] == 16


def test_stopped_and_killed_work_goes_on(
    causal, tmp_path, monkeypatch, open_cache, shared_embedder
):
    """After each batch; what was done is not done again, though the next request is another one."""
    many = tiny.proteins([8] * 48, seed=3)  # several batches of one row a device
    wanted = shared_embedder.compute([*many, "MKVA"], "residue")
    monkeypatch.setattr(segments, "default_batch_tokens", lambda: 16)
    monkeypatch.setattr(embed, "SAVE_SECONDS", -1.0)
    stop, real, seal = threading.Event(), shards.ShardWriter.save, shards.Shards.seal

    def stopped(self):
        real(self)
        stop.set()

    def killed(self):
        real(self)
        raise SystemExit

    monkeypatch.setattr(shards.ShardWriter, "save", stopped)
    with pytest.raises(Stopped):
        open_cache().get(causal, many, "residue", stop)
    done = len(json.loads(only(tmp_path, "*/*/index.json").read_text())["sequences"])
    assert 0 < done < 48 and not list(tmp_path.glob("*/partial"))
    monkeypatch.setattr(shards.ShardWriter, "save", killed)
    calls = iter(range(2))  # the second seal would be at the end
    monkeypatch.setattr(
        shards.Shards, "seal", lambda self: seal(self) if next(calls) == 0 else None
    )
    with pytest.raises(SystemExit):
        open_cache().get(causal, many, "residue")
    whole = json.loads(only(tmp_path, "*/partial/done.json").read_text())
    assert 0 < whole < 48 - done
    monkeypatch.setattr(shards.ShardWriter, "save", real)
    monkeypatch.setattr(shards.Shards, "seal", seal)
    counts, call = [], segments.SegmentFeatures.__call__
    monkeypatch.setattr(
        segments.SegmentFeatures,
        "__call__",
        lambda self, s, *args: (counts.append(len(s)), call(self, s, *args))[1],
    )
    same(open_cache().get(causal, [*many, "MKVA"], "residue"), wanted)
    assert sum(counts) == 48 - done - whole + 1


def test_an_engine_computes_the_same_features(causal, tmp_path, monkeypatch, open_cache):
    """Of parameters that no checkpoint has, too; what was done when it stopped stays."""
    monkeypatch.setattr(parts, "UNIT_BATCHES", 1)
    monkeypatch.setattr(segments, "default_batch_tokens", lambda: 16)
    many, twin = tiny.proteins([8] * 24, seed=4), random_twin(causal)
    wanted = open_cache().get(twin, many, "residue")
    engine = toy_engine.replace(monkeypatch)
    engine.limit = 1
    cache = FeatureCache(tmp_path / "engine", engine)
    with pytest.raises(Stopped):
        cache.get(twin, many, "residue", threading.Event())
    engine.limit = None
    same(cache.get(twin, many, "residue"), wanted)
    assert len(list(tmp_path.glob("engine/*/*/index.json"))) == 2
    assert not list(tmp_path.glob("engine/*/.part-*"))


def test_damage_is_named_and_mended(causal, tmp_path, caplog, open_cache):
    for change in ("features", "index.json"):
        before = open_cache().get(causal, SEQUENCES, "protein").take(range(7))
        path = only(tmp_path, f"*/*/{change}")
        content = bytearray(path.read_bytes())
        content[9] ^= 1
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING, "phenomjax"):
            np.testing.assert_array_equal(
                open_cache().get(causal, SEQUENCES, "protein").take(range(7)), before
            )
        assert f"{path.parent} is damaged" in caplog.text
        caplog.clear()


def test_two_at_once_compute_once(causal, tmp_path, computed, open_cache):
    results: list[FeatureTable] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(open_cache().get(causal, SEQUENCES, "protein"))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same(*results, rtol=0)
    assert sum(computed) == 6
    held = shards.Shards(only(tmp_path, "*-protein-*"))
    stop = threading.Event()
    stop.set()
    with held.hold(lambda: False), pytest.raises(Stopped):  # one who waits can be stopped
        FeatureCache(tmp_path).get(causal, ["MKVAA"], "protein", stop)


def test_numbers_that_float16_cannot_hold(causal, caplog, open_cache, shared_embedder):
    """They are kept as float32, and found there again; what is no number is an error."""
    large = dataclasses.replace(causal, params=_scaled(causal.params, 1e5), fingerprint="a" * 64)
    with caplog.at_level(logging.INFO, "phenomjax"):
        features = open_cache().get(large, SEQUENCES, "protein")
    assert "beyond float16's 65504" in caplog.text
    assert np.abs(features.take([0])).max() > 65504
    same(open_cache().get(large, SEQUENCES, "protein"), features, rtol=0)
    bad = dataclasses.replace(causal, params=_scaled(causal.params, np.nan), fingerprint="b" * 64)
    with pytest.raises(UserError, match="are not all numbers: the run diverged"):
        open_cache().get(bad, SEQUENCES, "protein")
    with pytest.raises(UserError, match="are not all numbers: the run diverged"):
        shared_embedder.use(bad)
        shared_embedder.compute(SEQUENCES, "protein")


def _scaled(params, by):
    """Parameters whose last normalisation is scaled."""
    import jax

    def change(path, x):
        name = jax.tree_util.keystr(path)
        return x * by if "norm" in name.lower() or "ln" in name.lower() else x

    return jax.tree_util.tree_map_with_path(change, params)


def test_letters(tmp_path, open_cache, causal, shared_embedder):
    with pytest.raises(
        UserError,
        match=r"Sequence 3 \(AC1D, 4 letters\) cannot be read: illegal_letter, '1' at place 2",
    ):
        shared_embedder.compute(["ACD", "acd", "AC1D"], "protein")
    with pytest.raises(UserError, match="no sequence to read in an empty list"):
        open_cache().get(causal, [], "protein")
    smiles = opening.load_sequences(
        tiny.write(tmp_path / "run", "causal_lm", model__alphabet="smiles")
    )
    found = embeddings.encode(smiles, ["CC(=O)Oc1ccccc1C(=O)O", "CCl"])
    assert found.lengths.tolist() == [21, 2]  # tokens: Cl is one
