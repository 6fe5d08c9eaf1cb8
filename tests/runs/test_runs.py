"""The list of runs: states, best metrics, differences of the configurations, damaged files, and the
page.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest

from phenomjax import config
from phenomjax.cluster import ownership
from phenomjax.config import stored
from phenomjax.runs import __main__, reading
from phenomjax.runs.page import page
from phenomjax.system import owners
from phenomjax.system.errors import UserError

HOST = socket.gethostname()


def make(folder, log=(), metrics="", **values):
    """A run's folder; a double underscore in a name is a dot."""
    c = config.base()
    c.num_steps = 10
    c.data.banks = (str(folder / "simulated.zarr"),)
    for name, value in values.items():
        with c.unlocked():
            c.update_from_flattened_dict({name.replace("__", "."): value})
    (folder / "logs").mkdir(parents=True)
    stored.save(c, folder / "config.json")
    (folder / "metrics.jsonl").write_text(metrics)
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    (folder / "logs" / "process_000.log").write_text("".join(f"{now} {line}\n" for line in log))
    return folder


def began(pid, host=HOST):
    return f"process 0 of 2 on {host} (pid {pid}), 1 device(s) of 2; SLURM job none"


def test_states(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    elsewhere = make(tmp_path / "elsewhere", [began(1, "node7"), "first step done: 1"])
    logs = {
        "done": [
            began(dead.pid),
            "first step done: 1",
            "stopped at step 4",
            began(dead.pid),
            "done at step 10",
        ],
        "stopped": [began(dead.pid), "first step done: 1", "stopped at step 4"],
        "running": [
            began(dead.pid),
            "error: config.x",
            began(os.getpid()),
            "first step done: 1",
            "a warning",
        ],
        "failed": [began(dead.pid), "first step done: 1", "error: Training diverged at step 3"],
    }
    for name, log in logs.items():
        make(tmp_path / name, log)
    make(tmp_path / "killed", [began(dead.pid), "first step done: 1"])
    with (tmp_path / "running" / "logs" / "process_000.log").open() as file:
        assert "a warning" in file.read()
    found = {run.name: run.state for run in reading.find([tmp_path])}
    assert found == {name: name for name in logs} | {"killed": "failed", "elsewhere": "running"}
    for file in [*elsewhere.glob("logs/*"), elsewhere / "metrics.jsonl"]:
        os.utime(file, (0, time.time() - 3600))
    assert reading.state(elsewhere, 1, 10) == "failed"
    (elsewhere / "logs" / "process_000.log").unlink()  # of a version without these logs
    assert (
        reading.state(elsewhere, 1, 10) == "stopped" and reading.state(elsewhere, 10, 10) == "done"
    )


def test_states_are_those_of_the_owner_in_any_time_zone(tmp_path, monkeypatch):
    """A log of this version is in UTC; a folder that a living process has is running whatever the
    log says of an earlier start.
    """
    run = make(tmp_path / "run", [began(os.getpid()), "first step done: 1"])
    log = run / "logs" / "process_000.log"
    utc = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
    log.write_text(f"{utc} {began(os.getpid())}\n")
    for zone in ("Asia/Tokyo", "America/Los_Angeles"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert reading.state(run, 1, 10) == "running"
    monkeypatch.undo()
    time.tzset()
    log.write_text(f"{utc} {began(1, 'node7')}\n{utc} error: it broke\n")
    with ownership.owned(run):
        assert reading.state(run, 1, 10) == "running"
        owner = owners.owner_of(run)
    assert reading.state(run, 1, 10) == "failed"
    log.write_text(f"{utc} {began(1, 'node7')}\n")
    (run / owners.FILE).write_text(owner.text())  # as one that was killed leaves it
    assert reading.state(run, 1, 10) == "failed"


LINES = (
    '{"step": 2, "train/loss": 3.0}\n{"step": 2, "val/loss": 2.5, "val/perplexity": 12.2}\n{"step":'
    ' 4, "val/loss": 1.5, "val/perplexity": 4.5}\n{"step": 6, "train/loss": 1.0, "perf/goodput":'
    ' 0.25}\n{"step": 6, "val/loss": 1.75, "val/perplexity": 5.8}\n{"step": 7, "val/loss": NaN}\n'
)


def test_the_table_shows_differences_and_the_best(tmp_path, capsys):
    make(tmp_path / "b", metrics=LINES, model__mask_ratio=0.5, optimizer__learning_rate=0.01)
    make(
        tmp_path / "a",
        metrics='{"step": 4, "val/loss": 2.0}\n{"step": 5, "tr',
        optimizer__learning_rate=0.01,
    )
    make(tmp_path / "a" / "sub" / "c")  # below a run: part of it
    make(
        tmp_path / "x" / "c",
        metrics='garbage\n{"val/loss": 1}\n[3]\n{"step": 1, "train/loss": "x"}\n',
    )
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"hidden_size": 8}')
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text('{"num_')
    starts = [
        {
            "began": 0,
            "until": 40,
            "first_step": 0,
            "step": 6,
            "seconds": {"step": 20.0, "start-up": 20.0},
        }
    ]
    (tmp_path / "b" / "goodput.json").write_text(json.dumps({"starts": starts}))
    (tmp_path / "x" / "c" / "goodput.json").write_text("{")
    (tmp_path / "x" / "c" / "progress").write_text("10\n")
    assert __main__.main([str(tmp_path), str(tmp_path / "b"), "--sort", "val/loss"]) == 0
    output = capsys.readouterr()
    rows = [line.split() for line in output.out.splitlines()]
    assert rows == [
        [
            "name",
            "state",
            "step",
            "val/loss",
            "val/perplexity",
            "train/loss",
            "goodput",
            "model.mask_ratio",
            "optimizer.learning_rate",
        ],
        ["b", "stopped", "7/10", "1.5", "4.5", "1", "0.5", "0.5", "0.01"],
        ["a", "stopped", "4/10", "2", "-", "-", "-", "0.75", "0.01"],
        ["x/c", "done", "10/10", "-", "-", "-", "-", "0.75", "0.0001"],
    ]
    told = " ".join(output.err.split())
    for text in (
        "skipped",
        "foreign",
        "torn",
        "goodput.json is damaged",
        "4 damaged lines of metrics.jsonl left out (the first is line 1)",
    ):
        assert text in told, told
    assert "1 damaged line of metrics.jsonl left out (the first is line 2)" in told
    assert [row[0] for row in __main__.table(reading.find([tmp_path]), "-val/loss")[1]] == [
        "a",
        "b",
        "x/c",
    ]


def test_mistakes(tmp_path):
    with pytest.raises(
        UserError,
        match=r"There is no folder .*nowhere. In .*: nothing. Give folders that hold runs",
    ):
        __main__.main([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"No run is in .*: a run is a folder with the config.json"):
        __main__.main([str(tmp_path)])
    make(tmp_path / "a", metrics=LINES)
    with pytest.raises(
        UserError,
        match=r"--sort val/los is not a column. Did you mean 'val/loss'\? Columns: name, state",
    ):
        __main__.main([str(tmp_path), "--sort", "val/los"])
    with pytest.raises(UserError, match=r"--html .* cannot be written: No such file or directory"):
        __main__.main([str(tmp_path), "--html", str(tmp_path / "no" / "runs.html")])


class Page(HTMLParser):
    """Counts tags, checks that all are closed, and collects addresses."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [
            value for name, value in attrs if name in ("src", "href", "xlink:href", "action")
        ]
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_nothing_from_outside_and_escapes_names(tmp_path):
    evil = "<script>alert(1)</script>&'\""
    name = "a<img src=x onerror=alert(1)>"
    many = "".join(
        f'{{"step": {i}, "train/loss": {1000.0 / i}, "{name}": 1.0}}\n' for i in range(1, 3001)
    )
    make(tmp_path / name, metrics=LINES, init_from=evil)
    make(tmp_path / "b", metrics=many)
    target = tmp_path / "runs.html"
    assert __main__.main([str(tmp_path), "--html", str(target)]) == 0
    text = target.read_text()
    page = Page(text)
    assert (
        page.open == []
        and page.addresses == ["#content"]
        and not re.search(r"https?:|//|@import|url\(", text.replace("http-equiv", ""))
    )
    assert (
        page.tags.count("script") == 2
        and "img" not in page.tags
        and evil in page.text
        and name in "".join(page.text)
    )
    # val/loss, train/loss, val/perplexity, perf/goodput and the evil one
    assert page.tags.count("svg") == 5
    assert len(text) < 60_000  # 3,000 points are thinned


def test_a_run_that_goes_on_from_another_shows_it(tmp_path):
    def line(step, loss):
        return json.dumps({"step": step, "train/loss": loss}) + "\n"

    old = make(tmp_path / "old", metrics=line(2, 8.0) + line(4, 6.0) + line(6, 5.0))
    make(tmp_path / "new", metrics=line(6, 4.0), continue_from=f"{old.resolve()}@4")
    runs = reading.find([tmp_path])
    header, rows = __main__.table(runs, "name")
    assert [row[header.index("goes on from")] for row in rows] == ["old@4", None]
    assert "continue_from" not in header
    for found in (
        runs,
        [reading.find([tmp_path / "new"])[0]],
    ):  # also where the other is not listed
        new = next(run for run in found if run.origin)
        assert new.begins["train/loss"] == (4, 6.0)
        drawn = page(["name", "state"], [[run.name, ""] for run in found], found)
        at = found.index(new)  # from where the other was to where it is
        curve = re.search(
            rf'data-run="{at}" data-steps="4 6" data-values="6 4"><path d="(.+?)"', drawn
        )
        assert curve and curve[1].count("L") == 1
