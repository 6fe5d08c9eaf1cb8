"""Who the others wait for: the rule, what is asked for, and what is said. Real processes, one of
them slowed: tests/cluster/test_slurm.py, bench/stragglers.py.
"""

import numpy as np
import pytest
from jax.profiler import ProfileData

from phenomjax.training import trace
from phenomjax.training.stragglers import judging, rule
from phenomjax.training.stragglers.judging import Judge
from phenomjax.training.stragglers.pace import described
from tests.training.test_profile import plane


def test_excess_over_the_median_of_the_others():
    assert rule.excesses({"alone": 1.0}) == {}
    assert rule.excesses({0: 3.0, 1: 1.0}) == {0: 2.0, 1: -2.0}
    values = np.random.default_rng(0).normal(size=7)
    found = rule.excesses(dict(enumerate(values)))
    for i, value in enumerate(values):
        np.testing.assert_allclose(found[i], value - np.median(np.delete(values, i)))
    found = rule.host_excesses({0: 0.05, 1: 0.6, 2: 0.4})
    np.testing.assert_allclose(found[0], 0.45)  # its devices wait for it
    assert (found[1], found[2]) == (0, 0)  # they wait for their devices, whatever else they do


def test_one_that_is_a_fifth_slower_is_slow_and_noise_is_not():
    slow = 1 - 1 / 1.2
    assert rule.is_slow([slow, slow + 0.01, slow - 0.01, slow], 2)
    assert not rule.is_slow([slow] * 3, 2)
    assert not rule.is_slow([0.1] * 8, 2)  # 11 % slower
    assert not rule.is_slow([0.5, 0.0, 0.0, 0.7, 0.1, 0.0, 0.0, 0.9], 2)
    draws = np.random.default_rng(1)
    # noise of a tenth of a step, at each of 40 processes, for 250 samples; and one that is slow
    noise = draws.normal(0, 0.1, (250, 40))
    assert not any(
        rule.is_slow(noise[max(0, i - rule.MOST) : i, j], 40)
        for i in range(rule.LEAST, 250)
        for j in range(40)
    )
    assert rule.is_slow(draws.normal(slow, 0.03, rule.MOST), 64)


def reports(step, waits, windows=None, cost=0.01, look=True):
    """What processes tell at a step; waits: shares in which each waited for others."""
    return {
        i: {
            "devices": f"gpu {i}",
            "windows": {step: (windows or {}).get(i, {"step": 1.0, "data": 0.01, "wait": 0.9})},
            "looks": {step: wait if isinstance(wait, dict) else {"CPU": wait}} if look else {},
            "cost": cost,
        }
        for i, wait in enumerate(waits)
    }


@pytest.mark.parametrize(
    "window,what,there",
    [
        ({"step": 1.0, "data": 0.9, "wait": 0.05}, "input", "900 ms a step, 10 ms elsewhere"),
        ({"step": 1.0, "data": 0.1, "wait": 0.2}, "host", "700 ms a step, 90 ms elsewhere"),
        ({"step": 1.0, "data": 0.01, "wait": 0.9}, "compute", ""),
    ],
)
def test_a_slow_process_is_named_once_with_what_is_slow_there(window, what, there):
    judge, found = Judge(3, looking=True), []
    draws = np.random.default_rng(2)
    for step in range(5, 60, 5):
        waits = np.array([0.4, 0.1, 0.42]) + draws.normal(0, 0.01, 3)
        found += judge.hear(reports(step, waits, {1: window}))
    (slow,) = found
    assert (slow.process, slow.what, slow.since, slow.device) == (1, what, 5, "")
    np.testing.assert_allclose(slow.excess, 0.31, atol=0.02)
    assert judge.metrics()["perf/straggler"] == judge.metrics()["perf/slowest_process"] == 1
    text = described(slow, "gpu 3")
    assert "process 1, gpu 3" in text and f"{what} is slow there" in text and there in text

    assert judge.better() == []
    for step in range(60, 110, 5):
        judge.hear(reports(step, [0.2, 0.21, 0.2]))
    assert judge.better() == [1] and not judge.named


def test_one_device_of_a_process_is_named():
    judge = Judge(1, looking=True)
    waits = {"GPU:0": 0.3, "GPU:1": 0.31, "GPU:2": 0.05, "GPU:3": 0.3}
    found = [slow for step in range(5, 30, 5) for slow in judge.hear(reports(step, [waits]))]
    assert [(slow.process, slow.device, slow.what) for slow in found] == [(0, "GPU:2", "compute")]


def test_looks_are_asked_for_when_there_is_reason_and_paid_for():
    judge = Judge(2, looking=True)
    assert not judge.ask(0)  # nothing is known
    asked, took = [], 0
    for step in range(5, 1005, 5):
        slower = step > 500
        windows = {i: {"step": 0.25 if slower else 0.2, "data": 0.0, "wait": 0.2} for i in (0, 1)}
        look = bool(asked) and asked[-1] <= step < asked[-1] + 5 * judging.TOGETHER
        judge.hear(reports(step, [0.3, 0.3], windows, cost=0.05, look=look))
        took += look
        if judge.ask(step):
            asked.append(step)
            judge.asked_until = step + 5 * judging.TOGETHER
    assert asked[0] == 5 and min(i for i in asked if i > 500) <= 510
    spent = 0.05 * (took - judging.TOGETHER - judging.SAVED)
    assert spent <= judging.SHARE * 0.25 * 1000


def test_where_nothing_can_be_looked_at_windows_judge():
    judge, found = Judge(2, looking=True), []
    windows = {
        0: {"step": 1.0, "data": 0.0, "wait": 0.9},
        1: {"step": 1.0, "data": 0.95, "wait": 0.0},
    }
    for step in range(5, 1000, 5):
        if judge.ask(step):
            judge.asked_until = step + 20
        found += judge.hear(reports(step, [0, 0], windows, look=False))
    assert [(slow.process, slow.what) for slow in found] == [(1, "input")]
    assert not Judge(2, looking=False).hear(reports(5, [0.5, 0.0], windows))


def test_waiting_by_a_trace():
    """A CPU of two threads, and a GPU; 1 ms from 10 to 1010 µs after its begin."""
    threads = {
        "tf_XLAEigen/1": [
            ("dot.1", 0, 310),
            ("all-reduce.2", 310, 900),
            ("end: all-reduce", 900, 901),
        ],
        "tf_XLAEigen/2": [("fusion", 400, 500), ("ThunkExecutor::Execute", 0, 2000)],
        "python": [("all-reduce.7", 0, 2000), ("train", 0, 2000)],
    }
    environment = (
        'planes { name: "Task Environment" stats { metadata_id: 1 uint64_value: 5000000 }'
        ' stat_metadata { key: 1 value { id: 1 name: "profile_start_time" } } }'
    )
    cpu = ProfileData.from_text_proto(environment + plane("/host:CPU", threads))
    found = trace.waiting(cpu, 5_010_000, 6_010_000)
    np.testing.assert_allclose(found["CPU"], (900 - 310 - 100) / 1000)
    streams = {"Stream #1": [("gemm", 0, 510)], "Stream #2": [("ncclKernel_AllReduce", 410, 1200)]}
    gpu = plane("/host:CPU", threads) + plane("/device:GPU:1", streams) + environment
    found = trace.waiting(ProfileData.from_text_proto(gpu), 5_010_000, 6_010_000)
    assert found.keys() == {"GPU:1"}
    np.testing.assert_allclose(found["GPU:1"], 0.5)
