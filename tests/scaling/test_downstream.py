"""Metrics from the loss: links that are known are found, their intervals hold, and what does not
follow the loss is not forecast.
"""

import json

import numpy as np
import pytest

from phenomjax.scaling.__main__ import main
from phenomjax.scaling.fit import downstream
from phenomjax.system.errors import UserError
from tests.scaling.test_observations import (
    COLUMNS,
    C,
    N,
    ladder,  # noqa: F401  # a fixture
    law,
    make_run,
    of_folders,
    table,
    written,
)

GROUPS = np.arange(15) // 3
LOSS = np.linspace(3.6, 2.6, 15)
TRUE = {
    "linear": lambda loss: 0.9 - 0.2 * loss,
    "sigmoid": lambda loss: 0.1 + 0.7 / (1 + np.exp((loss - 3.0) / 0.08)),
}


@pytest.mark.parametrize("kind", TRUE)
def test_a_link_is_found_and_its_interval_holds(kind):
    random, held = np.random.default_rng(3), []
    for _ in range(12):
        found = downstream.link(LOSS, TRUE[kind](LOSS) + random.normal(0, 0.01, 15), GROUPS)
        assert found.follows and found.error < 0.03 < found.constant and found.correlation < -0.9
        assert found.within and found.loss == (2.6, 3.6)
        said = found.predict(2.5, 2.47, 2.53, 0.9)
        assert said["low"] < said["value"] < said["high"] <= 1
        held.append(said["low"] <= TRUE[kind](2.5) + random.normal(0, 0.01) <= said["high"])
    assert np.mean(held) > 0.7
    if kind == "sigmoid":
        assert found.form == "sigmoid"


def test_exact_links_are_exact():
    found = downstream.link(LOSS, 5 - 1.5 * LOSS, GROUPS)
    assert found.form == "linear" and not found.within
    np.testing.assert_allclose(found.forms["linear"], np.tile([5, -1.5], (201, 1)), rtol=1e-6)
    said = found.predict(2.0, 2.0, 2.0, 0.9)
    assert said["low"] == pytest.approx(said["high"]) == pytest.approx(2.0)
    # a metric that falls as the model gets better, such as an error
    assert downstream.link(LOSS, 0.1 * LOSS, GROUPS).predict(2.0, 2, 2, 0.9)["value"] < 0.21


def test_an_uncertain_loss_widens_the_interval():
    found = downstream.link(LOSS, TRUE["linear"](LOSS), GROUPS)
    narrow, wide = (found.predict(2.5, 2.5 - x, 2.5 + x, 0.9) for x in (0.01, 0.1))
    assert wide["high"] - wide["low"] > 5 * (narrow["high"] - narrow["low"])
    assert wide["high"] - wide["low"] == pytest.approx(0.2 * 0.2, rel=0.25)


def test_what_does_not_follow_the_loss_is_not_forecast(tmp_path, capsys):
    random = np.random.default_rng(1)
    frame = table(recall=0.3 + random.normal(0, 0.01, 12), good=5 - law(N, C / 6 / N))
    frame.loc[3, "good"] = None
    path, out = written(tmp_path, frame), tmp_path / "fit"
    words = ["--bootstraps", "20", "--metrics", "recall", "good"]
    main(["fit", "--runs", str(path), "--columns", COLUMNS, "--out", str(out), *words])
    said = capsys.readouterr().out
    assert "recall: rank correlation" in said and "is not forecast" in said
    assert "do not scale predictably (39 % of 46 tasks" in said
    report = json.loads((out / "fit.json").read_text())["metrics"]
    assert not report["recall"]["follows_loss"] and report["good"]["runs"] == 11
    main(["forecast", "--fit", str(out), "--params", "3e7", "--tokens", "3e9"])
    found = json.loads(capsys.readouterr().out)
    assert set(found["metrics"]) == {"good"}
    good = found["metrics"]["good"]
    assert good["low"] <= good["value"] <= good["high"]
    assert good["value"] == pytest.approx(5 - found["loss"], abs=0.01)


def test_metrics_of_runs_and_of_a_table_beside_them(ladder):  # noqa: F811
    runs = of_folders(ladder, "--metrics", "val/accuracy")
    assert set(runs.metrics) == {"val/accuracy"}
    with pytest.raises(UserError, match=r"names val/acuracy.*'val/accuracy'"):
        of_folders(ladder, "--metrics", "val/acuracy")
    lines = ["run,recall,recall_low,loss,note"]
    lines += [f"trials/{row:04d},{row / 10},0,1,x" for row in range(8)] + ["other,1,1,1,x"]
    (ladder / "recall.csv").write_text("\n".join(lines))
    runs = of_folders(ladder, "--metrics", ladder / "recall.csv")
    assert set(runs.metrics) == {"recall"}
    np.testing.assert_allclose(runs.metrics["recall"], [*np.arange(8) / 10, *[np.nan] * 4])
    runs = of_folders(ladder, "--metrics", f"{ladder}/recall.csv:recall_low")
    assert set(runs.metrics) == {"recall_low"}
    with pytest.raises(UserError, match=r"column 'note'.*not a number"):
        of_folders(ladder, "--metrics", f"{ladder}/recall.csv:note")
    (ladder / "other.csv").write_text("run,recall\na,1\n")
    with pytest.raises(UserError, match="None of the runs in"):
        of_folders(ladder, "--metrics", ladder / "other.csv")
    (ladder / "nameless.csv").write_text("who,recall\n0001,1\n")
    with pytest.raises(UserError, match='Call the column that does "run"'):
        of_folders(ladder, "--metrics", ladder / "nameless.csv")


def test_too_few_runs_have_a_metric(tmp_path):
    for number in range(12):
        make_run(tmp_path, number)
    runs = of_folders(tmp_path, "--metrics", "val/accuracy")
    found = downstream.links(runs)
    assert not found  # the same value in all
    assert "no link" in downstream.described(found, ["val/accuracy"])
