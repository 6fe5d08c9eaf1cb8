"""Gathers and barriers between processes, which here are threads around one key-value store."""

import threading
import time
from concurrent import futures

import jax
import pytest

from phenomjax.cluster import messages
from phenomjax.system.errors import EXIT_STUCK, UserError


class Store:
    """JAX's key-value store, as far as messages use it."""

    def __init__(self):
        self.values, self.changed = {}, threading.Condition()

    def key_value_set(self, key, value, *, allow_overwrite=False):
        with self.changed:
            assert allow_overwrite or key not in self.values
            self.values[key] = value
            self.changed.notify_all()

    def key_value_try_get(self, key):
        if key not in self.values:
            raise jax.errors.JaxRuntimeError("NOT_FOUND")
        return self.values[key]

    def key_value_dir_get(self, key):
        return [(k, v) for k, v in list(self.values.items()) if k.startswith(key)]

    def blocking_key_value_get(self, key, milliseconds, /):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, milliseconds / 1000):
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")
            return self.values[key]


@pytest.fixture
def together(monkeypatch):
    """Calls a function in three threads, each of which takes itself for a process; `absent` ones
    never come.
    """
    store, here = Store(), threading.local()
    monkeypatch.setattr(messages, "_client", lambda: store)
    monkeypatch.setattr(messages, "_rounds", Rounds(here))
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: here.index)

    def run(function, absent=()):
        def one(index):
            here.index = index
            try:
                return function(index)
            except (TimeoutError, UserError) as error:
                return error

        with futures.ThreadPoolExecutor(3) as pool:
            there = [i for i in range(3) if i not in absent]
            return dict(zip(there, pool.map(one, there), strict=True))

    return run


class Rounds:
    """How often each process came to each label."""

    def __init__(self, here):
        self.here, self.counts = here, {}

    def get(self, label, default):
        return self.counts.get((self.here.index, label), default)

    def __getitem__(self, label):
        return self.counts[self.here.index, label]

    def __setitem__(self, label, number):
        self.counts[self.here.index, label] = number


def test_all_hear_the_same_in_order_and_again(together):
    def work(index):
        time.sleep(0.05 * (2 - index))
        first = messages.gather("words", {"from": index})
        return first, messages.gather("words", [index] * index)

    expected = ([{"from": 0}, {"from": 1}, {"from": 2}], [[], [1], [2, 2]])
    assert together(work) == dict.fromkeys(range(3), expected)


def test_who_does_not_come_is_named_to_all(together):
    found = together(lambda index: messages.gather("seal", "", 0.5), absent=[1])
    assert {str(error) for error in found.values()} == {
        "process 1 did not come to 'seal' within 0.5 s"
    }
    found = together(lambda index: messages.gather("found", "", 0.5), absent=[0])
    assert "process 0 did not come to 'found'" in str(found[1])
    messages.introduce(1, "lab1 (pid 77)")
    error = together(lambda index: messages.barrier("compiled", 0.5), absent=[1])[0]
    assert error.exit_code == EXIT_STUCK
    assert "have not come to 'compiled': process 1 on lab1 (pid 77)" in str(error)


def test_process_0_waits_no_longer_than_there_is_hope(together):
    asked = []

    def give_up(missing, late):
        asked.append((missing, late))
        return {2: "its node is lost"} if len(asked) == 2 else None

    def work(index):
        found = messages.gather_some("check", index, 60.0, give_up, 60.0)
        return found.said, found.why, found.missing()

    begin = time.monotonic()
    found = together(work, absent=[2])
    assert found == dict.fromkeys((0, 1), ({0: 0, 1: 1}, {2: "its node is lost"}, [2]))
    assert asked == [({2}, False)] * 2 and time.monotonic() - begin < 30


def test_what_others_said_is_heard_before_one_comes(together):
    def work(index):
        if index:
            return messages.gather("data", index)
        while len(messages.heard("data")) < 2:
            time.sleep(0.01)
        return messages.heard("data"), messages.gather("data", 0)

    assert together(work)[0] == ({1: "1", 2: "2"}, [0, 1, 2])
