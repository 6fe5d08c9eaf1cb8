"""The pages of benchmarks say what the results say."""

import pytest

from docs.generate import benchmarks

DAY = "2026-11-21"
RESULT = f"""{DAY}  AMD EPYC family 25 model 17, one core  Python 3.11.7  commit 0b5ab39
crops 256 x 256

S/16 step, batch 4
  ours    2.680 s   1.02 x torch
  ratio 1.02, goal 0.75 (set for S/16): NOT met
  ours    93.3% of the encoder alone, goal 90%: met

uint16: train
(c) zarr      4.16
  reached  at most 15 % over TensorStore: +1 %
  MISSED   at least 5 x less than (c): 4.2 x
"""


def test_goals_are_read():
    assert benchmarks.goals(RESULT) == [
        benchmarks.Goal("S/16 step", "ratio 1.02", "0.75", False, DAY),
        benchmarks.Goal("S/16 step", "ours, 93.3% of the encoder alone", "90%", True, DAY),
        benchmarks.Goal("uint16", "+1 %", "at most 15 % over TensorStore", True, DAY),
        benchmarks.Goal("uint16", "4.2 x", "at least 5 x less than (c)", False, DAY),
    ]


def test_a_missed_goal_is_never_left_out():
    with pytest.raises(ValueError, match="does not read: speed NOT met"):
        benchmarks.goals("speed NOT met\n")


def test_origin(tmp_path):
    (tmp_path / "r.txt").write_text(RESULT)
    found = benchmarks.origin(tmp_path / "r.txt")
    assert found == (DAY, "AMD EPYC family 25 model 17", "0b5ab39")


def test_every_benchmark_and_result_has_its_page():
    assert benchmarks.unplaced() == []
    texts = {path.name for path in benchmarks.RESULTS.glob("*.txt")}
    pages = "".join(map(benchmarks.page, benchmarks.PAGES))
    assert all(f"[`{name}`]" in pages for name in texts)
    first = benchmarks.index()
    missed = sum((benchmarks.RESULTS / name).read_text().count("NOT met") for name in texts)
    missed += sum((benchmarks.RESULTS / name).read_text().count("MISSED") for name in texts)
    assert missed and first.count("**not reached**") == missed
