"""Copies of the state in keepers' memory: who copies what, bit for bit back on any mesh, and
whatever is doubtful is left for the disk.
"""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from phenomjax import config
from phenomjax.checkpoints import second_tier
from phenomjax.checkpoints.checkpointer import Checkpointer
from phenomjax.checkpoints.second_tier import SecondTier
from phenomjax.checkpoints.units import units_of
from phenomjax.standby import client, pieces, wire
from phenomjax.standby.serving import Server
from phenomjax.state import TrainState

EVERYWHERE, ROWS = PartitionSpec(), PartitionSpec("data")
META = {"window": {"sums": {"loss": 0.1}}, "rollbacks": [], "redo": [], "data": {}}


class Fake:
    """An array of several processes, of which only the layout counts."""

    def __init__(self, shape, regions, dtype=np.float32):
        """regions: {process: its slices}."""
        self.shape, self.dtype = shape, np.dtype(dtype)
        made = {Device(p): each for p, each in regions.items()}
        self.sharding = SimpleNamespace(devices_indices_map=lambda shape: made)


@dataclasses.dataclass(frozen=True)
class Device:
    process_index: int


def everywhere(count, shape=(8, 4)):
    return Fake(shape, {p: tuple(slice(None) for _ in shape) for p in range(count)})


def rows(count, shape=(8, 4)):
    each = shape[0] // count
    return Fake(shape, {p: (slice(p * each, (p + 1) * each), slice(None)) for p in range(count)})


def load(units, count):
    return [sum(u.size for u in units if p in u.owners) for p in range(count)]


def test_replicated_state_is_shared_out_and_sent_to_nobody():
    nodes = ["a", "a", "b", "b"]
    units = units_of({"x": [everywhere(4) for _ in range(8)]}, nodes)
    assert len(units) == 8 and not any(unit.sent for unit in units)
    for unit in units:
        assert len({nodes[p] for p in unit.owners}) == 2  # one on each of two nodes
    assert load(units, 4) == [4 * 128] * 4  # two copies of eight arrays by four processes


def test_shards_are_sent_to_the_next_node():
    units = units_of({"x": rows(4)}, ["a", "b", "c", "d"])
    assert [(u.region[0], u.owners, u.sent) for u in sorted(units, key=lambda u: u.region)] == [
        ((2 * p, 2 * p + 2), (p,), True) for p in range(4)
    ]


def test_groups_keep_their_shards_on_two_nodes():
    # two groups of two nodes: shards within a group, the same in the other
    half = [(slice(0, 4), slice(None)), (slice(4, 8), slice(None))]
    units = units_of({"x": Fake((8, 4), dict(enumerate(half + half)))}, ["a", "b", "c", "d"])
    assert sorted(u.owners for u in units) == [(0, 2), (1, 3)]
    assert not any(u.sent for u in units)


# ---------------------------------------------------------------- with keepers


@pytest.fixture
def keepers(monkeypatch):
    """Two keepers' servers; their addresses."""
    monkeypatch.setenv(wire.TOKEN, "secret")
    monkeypatch.setenv(wire.NODE, "a")
    servers = {name: Server() for name in "ab"}
    for server in servers.values():
        server.round = 1
    return servers, {name: wire.serve("127.0.0.1", s.serve) for name, s in servers.items()}


def tier(addresses, round=1):
    return SecondTier(
        client.Keepers({"round": round, "keeper": addresses["a"], "keepers": addresses})
    )


def mesh_of(count):
    return jax.make_mesh((count,), ("data",), (AxisType.Auto,), devices=jax.devices()[:count])


def state_on(count, step=5, spec=ROWS):
    """A state of every kind of array, its largest over devices."""
    mesh, rng = mesh_of(count), np.random.default_rng(step)
    put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))  # noqa: E731
    kernel = jnp.asarray(rng.normal(size=(8, 6)), jnp.float32)
    return TrainState(
        put(jnp.int32(step), EVERYWHERE),
        {"kernel": put(kernel, spec), "half": put(kernel.astype(jnp.bfloat16), spec)},
        {"mu": put(-kernel, spec), "count": put(jnp.int32(step), EVERYWHERE)},
        {"kernel": put(kernel.at[0, 0].set(jnp.nan), spec)},
        (),
    )


def abstract_of(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same(one, other):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def kept(addresses, *steps, count=4):
    for step in steps:
        made = tier(addresses)
        made.copy(step, state_on(count, step), META)
        made.wait()
        assert made.whole == step


@pytest.mark.parametrize(
    ("count", "spec"),
    [(4, PartitionSpec("data")), (2, PartitionSpec("data")), (3, PartitionSpec())],
)
def test_bit_for_bit_on_any_mesh(keepers, count, spec):
    servers, addresses = keepers
    kept(addresses, 5, 10)
    assert {step for step, _ in servers["b"].pieces._held} == {10}  # the one before is gone
    again = tier(addresses)
    wanted = state_on(count, 10, spec)
    assert again.find() == 10
    state, meta = again.restore(abstract_of(wanted))
    assert_same(state, wanted)
    assert meta == META
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        assert x.sharding == y.sharding
    # it can be trained on: the step gives its buffers away
    jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state)


@pytest.mark.parametrize("lost", "ab")
def test_one_node_is_lost(keepers, lost):
    servers, addresses = keepers
    kept(addresses, 5)
    servers[lost].pieces.only(-1)
    again = tier(addresses)
    assert again.find() == 5
    assert_same(again.restore(abstract_of(state_on(4)))[0], state_on(4))


def test_a_damaged_copy_is_passed_over_and_two_are_doubtful(keepers, caplog):
    servers, addresses = keepers
    kept(addresses, 5)
    servers["a"].pieces._held[5, "sent.0"].data[3] ^= 1
    again = tier(addresses)
    assert again.find() == 5
    assert_same(again.restore(abstract_of(state_on(4)))[0], state_on(4))
    assert "is not as it was written" in caplog.text
    servers["b"].pieces._held[5, "sent.0"].data[3] ^= 1
    assert again.restore(abstract_of(state_on(4))) is None
    assert "copies of step 5 in memory are not used: process 0: what 127.0.0.1" in caplog.text


def test_another_model_and_another_start(keepers, caplog):
    _, addresses = keepers
    kept(addresses, 5)
    again = tier(addresses)
    assert again.find() == 5
    other = state_on(4).replace(ema=())
    assert again.restore(abstract_of(other)) is None
    assert "they are of another model or optimiser" in caplog.text
    late = tier(addresses, round=0)  # a process of an earlier start, that woke up
    late.copy(10, state_on(4, 10), META)
    late.wait()
    assert late.whole == -1 and "this start of the run is over" in caplog.text
    assert tier(addresses).find() == 5


def test_what_is_not_whole_does_not_count(keepers):
    servers, addresses = keepers
    kept(addresses, 5)
    for server in servers.values():  # of a step that was being written: half of its units
        whole = server.pieces.get(5, "sent.0")
        header = whole.header | {"units": whole.header["units"][:2]}
        server.pieces.put(10, "sent.0", pieces.Piece(header, whole.data))
    assert tier(addresses).find() == 5
    for server in servers.values():
        server.pieces.only(10)
    assert tier(addresses).find() is None


def test_no_memory_ends_the_copies_and_not_the_run(keepers, caplog, monkeypatch):
    _, addresses = keepers
    monkeypatch.setattr(pieces, "available", lambda: 10.0)
    made = tier(addresses)
    made.copy(5, state_on(4), META)
    made.wait()
    assert "no more copies of the state in memory" in caplog.text and "has no memory" in caplog.text
    made.copy(10, state_on(4, 10), META)
    made.wait()
    assert made.find() is None


def test_strangers_are_turned_away(keepers, monkeypatch):
    servers, addresses = keepers
    kept(addresses, 5)
    monkeypatch.setenv(wire.TOKEN, "guessed")
    with pytest.raises(wire.AuthenticationError):
        wire.connect(addresses["a"])
    assert servers["a"].pieces.get(5, "sent.0")


def test_checkpointer_takes_the_newer(keepers, tmp_path, monkeypatch, caplog):
    servers, addresses = keepers
    standby = {"round": 1, "keeper": addresses["a"], "keepers": addresses}
    monkeypatch.setenv(client.STANDBY, json.dumps(standby))
    c = config.base()
    c.checkpoint.memory_every_steps = 5

    def start():
        return Checkpointer(tmp_path, c)

    first = start()
    assert first.resume(abstract_of(state_on(4))) is None
    first.save(4, state_on(4, 4), META)
    first.copy(5, state_on(4, 5), META)
    first._tier.wait()
    first.close()

    again, hashed = start(), []
    with monkeypatch.context() as patched:
        patched.setattr("phenomjax.checkpoints.seal.sha256", lambda *a: hashed.append(a))
        state, _ = again.resume(abstract_of(state_on(4)))
    assert int(state.step) == 5 and again.source == "the copies in memory"
    assert not hashed and again.steps() == [4]  # nothing on the disk was read
    # after a divergence only what is on the disk counts
    state, _ = again.resume(abstract_of(state_on(4)))
    assert int(state.step) == 4 and not servers["b"].pieces.list()
    again.save(8, state_on(4, 8), META)
    again.copy(5, state_on(4, 5), META)
    again._tier.wait()
    again.close()
    state, _ = start().resume(abstract_of(state_on(4)))
    assert int(state.step) == 8 and not servers["b"].pieces.list()


def test_asked_for_without_keepers(monkeypatch, caplog):
    monkeypatch.delenv(client.STANDBY, raising=False)
    assert second_tier.open_tier(10) is None and "this start has no keepers" in caplog.text
    assert second_tier.open_tier(0) is None
