"""Progress lines."""

import logging

from phenomjax.system import log
from phenomjax.system.log import Progress


def clock(monkeypatch, times):
    monkeypatch.setattr(log.time, "monotonic", iter(times).__next__)


def test_of_one_process(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    clock(monkeypatch, [0.0, 1.0, 6.0, 10.0])
    progress = Progress("read", 100, "files", done=20)
    for count in (10, 30, 40):
        progress.update(count)
    assert [record.getMessage() for record in caplog.records] == [
        "read: continuing, 20 of 100 files were finished before",
        "read: 60/100 files (60 %), 6.7 files/s, ETA 0:00:06",
        "read: 100/100 files (100 %), 8.0 files/s, ETA 0:00:00",
    ]


def test_numbers_stand_with_their_nouns():
    assert [log.counted(n, "batch") for n in (0, 1, 2000)] == [
        "0 batches",
        "1 batch",
        "2,000 batches",
    ]


def test_work_of_less_than_a_unit_is_no_line(caplog):
    with caplog.at_level("INFO", "phenomjax"):
        log.Progress("read", 0, "kB").update(0)
    assert not caplog.text
