"""What is recorded of a run's steps, and how a trace is read."""

import gzip
import json
import logging
import re

import numpy as np
import pytest
from jax.profiler import ProfileData

from phenomjax import train
from phenomjax.config import keys, stored
from phenomjax.system.errors import UserError
from phenomjax.training import profile, trace
from tests.training.test_train import make_config


def plane(name, lines):
    """An XPlane as text: {line: [(event, begin, end in µs)]}."""
    names = sorted({event for events in lines.values() for event, _, _ in events})
    text = "".join(
        f'lines {{ name: "{line}" '
        + "".join(
            f"events {{ metadata_id: {names.index(event) + 1} offset_ps: {begin * 10**6}"
            f" duration_ps: {(end - begin) * 10**6} }} "
            for event, begin, end in events
        )
        + "} "
        for line, events in lines.items()
    )
    text += "".join(
        f'event_metadata {{ key: {i} value {{ id: {i} name: "{event}" }} }} '
        for i, event in enumerate(names, 1)
    )
    return f'planes {{ name: "{name}" {text} }} '


def test_shares_of_a_gpu_trace():
    """Two steps of 1 ms: numbers by hand."""
    host = {
        "python": [
            ("train", 0, 1000),
            ("train", 1000, 2000),
            ("phase: data", 100, 400),
            ("phase: evaluation", 1600, 1700),
        ]
    }
    streams = {
        "Stream #13(Compute)": [
            ("loop_fusion_2", 300, 700),
            ("gemm", 1000, 1500),
            ("gemm", 1900, 2300),  # the end lies beyond the last step
        ],
        "Stream #14(MemcpyH2D)": [("MemcpyH2D", 0, 300)],
        "Stream #15(Compute)": [
            ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", 600, 900),
            ("ncclDevKernel_AllGather_RING_LL", 1100, 1200),
        ],
    }
    text = plane("/host:CPU", host) + plane("/device:GPU:3", streams)
    found = trace.shares(ProfileData.from_text_proto(text))
    assert found.steps == 2 and found.devices == ("GPU:3",)
    in_us = {
        "seconds": 1000,
        "compute": (400 + 500 + 100) / 2,
        "collectives": 200 / 2,
        "input_wait": 200 / 2,  # 300 to 400 is behind the fusion
        "hidden": (100 + 100) / 2,
        "host": (100 + 100 + 100 + 200) / 2,
    }
    for name, value in in_us.items():
        np.testing.assert_allclose(1e6 * getattr(found, name), value, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(1e6 * found.phases["evaluation"], 50, rtol=1e-6)
    assert [(each.name, each.count) for each in found.largest[:2]] == [
        ("gemm", 1.0),
        ("loop_fusion_2", 0.5),
    ]
    assert "50.0 %" in profile.described(found, 1, 2)


def test_nothing_to_read():
    host = plane("/host:CPU", {"python": [("train", 0, 5)]})
    assert trace.shares(ProfileData.from_text_proto(host)) is None


def test_a_window_is_recorded_and_told(tmp_path, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    c = make_config(profile__start_step=5, profile__num_steps=2, profile__processes=())
    assert train.run(c, tmp_path) == 0
    folder = tmp_path / "profile" / "plugins" / "profile" / "steps_5_6"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["process_000.trace.json.gz", "process_000.xplane.pb"]
    assert sorted(p.name for p in (tmp_path / "profile").iterdir()) == [
        "plugins",
        "steps_5_6_process_000.json",
    ]
    events = json.loads(gzip.decompress((folder / names[0]).read_bytes()))["traceEvents"]
    steps = [int(e["args"]["step_num"]) for e in events if e.get("name") == trace.STEP]
    assert sorted(steps) == [5, 6]
    found = json.loads((tmp_path / "profile" / "steps_5_6_process_000.json").read_text())
    parts = ("compute", "collectives", "input_wait", "host")
    total = sum(found[name] for name in parts) + sum(found["phases"].values())
    np.testing.assert_allclose(total, found["seconds"])
    assert found["steps"] == 2 and len(found["devices"]) == 8
    assert found["compute"] > 0 and found["collectives"] > 0
    assert any(trace.COLLECTIVE.search(each["name"]) for each in found["largest"])
    assert "profile of steps 5 to 6, process 0" in caplog.text

    # the same command again, to a later step: the window is past, which is said
    caplog.clear()
    train.run(make_config(num_steps=13, profile__start_step=5), tmp_path)
    assert "this run goes on at step 13. Set --config.profile.start_step=13" in caplog.text


@pytest.mark.parametrize(
    "changes, mend",
    [
        ({"start_step": 11, "num_steps": 4}, {"start_step": 9, "num_steps": 4}),
        ({"start_step": 3, "num_steps": 40}, {"start_step": 1, "num_steps": 12}),
        ({"start_step": 99}, {"start_step": 10, "num_steps": 3}),
        ({"num_steps": 5}, {"start_step": 0, "num_steps": 3}),
    ],
)
def test_windows_that_are_none(changes, mend):
    c = make_config(**{f"profile__{key}": value for key, value in changes.items()})
    with pytest.raises(UserError) as told:
        keys.finalize(c)
    for key, value in re.findall(r"--config\.profile\.(\w+)=(\d+)", str(told.value)):
        c.profile[key] = int(value)
    done = keys.finalize(c).profile
    assert {key: done[key] for key in mend} == mend


def test_a_process_that_is_not_there(tmp_path):
    c = make_config(profile__start_step=2, profile__processes=(0, 4))
    with pytest.raises(UserError, match="names 4, but this run has 1 process"):
        train.run(c, tmp_path)


def test_profiles_are_no_other_run():
    assert not stored.changed({"profile.start_step": 1}, {"profile.start_step": 2})
