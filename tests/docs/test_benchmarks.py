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


def test_what_was_measured_again_counts_as_it_is_now():
    later = RESULT.replace(DAY, "2026-11-29").replace("0.75 (set for S/16): NOT", "0.75: NOT")
    later = later.replace("ratio 1.02, goal 0.75: NOT met", "ratio 0.63, goal 0.75: met")
    found = benchmarks.newest(benchmarks.goals(f"{RESULT}\n{later}"))
    assert [goal.date for goal in found] == ["2026-11-29"] * 4
    assert [goal.reached for goal in found] == [True, True, True, False]
    assert benchmarks.newest(benchmarks.goals(f"{later}\n{RESULT}")) == found


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
    missed = 0
    for name in texts:
        text = (benchmarks.RESULTS / name).read_text()
        found = benchmarks.goals(text)
        said = text.count("NOT met") + text.count("MISSED")
        assert sum(not goal.reached for goal in found) == said
        missed += sum(not goal.reached for goal in benchmarks.newest(found))
    assert missed and first.count("**not reached**") == missed
