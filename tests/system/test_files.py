"""Files and folders appear whole or not at all; a lock dies with its process."""

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from phenomjax.system import files, locks
from phenomjax.system.errors import UserError
from tests.lab import ROOT

HOLD = """
import sys, time
from pathlib import Path
from phenomjax.system import locks
with locks.hold(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_nothing_is_deleted_where_nothing_is(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "unlink", refuse)
    files.remove(tmp_path / "a")
    with pytest.raises(OSError, match="Read-only"):
        files.remove(files.write_text(tmp_path / "b", ""))


def test_a_failed_write_leaves_the_old_content_and_nothing_beside_it(tmp_path):
    path = files.write_text(tmp_path / "new" / "a.json", "old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old" and partial.suffix == ".json"
        raise ZeroDivisionError
    assert path.read_text() == "old" and files.names(path.parent) == ["a.json"]


@pytest.mark.parametrize("shared", [False, True])
def test_folders_are_replaced_too_and_leftovers_of_a_kill_go(tmp_path, shared):
    path = tmp_path / "result"
    with files.replacing(path, shared=shared) as partial:
        partial.mkdir()
        (partial / "one").touch()
        assert not path.exists()
    assert files.names(path) == ["one"]
    partial.mkdir()  # what a killed process of the same name leaves
    (partial / "half").touch()
    with files.replacing(path.with_name("result"), shared=shared) as partial:
        assert not partial.exists()
        files.remove(path)
        partial.mkdir()
    assert files.names(tmp_path) == ["result"] and files.names(path) == []


def test_json_and_digests(tmp_path):
    path = files.write_json(tmp_path / "a.json", {"b": np.float32(0.5), "a": [1]}, flush=True)
    assert path.read_text() == '{\n  "b": 0.5,\n  "a": [\n    1\n  ]\n}\n'
    assert files.read_json(path) == {"a": [1], "b": 0.5}
    assert files.sha256(files.write_bytes(tmp_path / "b", b"")).startswith("e3b0c44298fc1c14")
    assert files.sha256_json({"a": 1, "b": 2}) == files.sha256_json({"b": 2, "a": 1})
    path.write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not valid JSON .*damaged"):
        files.read_json(path)
    assert files.listing(tmp_path) == "a.json, b" and files.listing(tmp_path / "no") == "nothing"


def test_a_lock_is_of_one_process_and_dies_with_it(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "f")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="busy here"), locks.hold(tmp_path / "f", "busy here"):
            pass
        told = []
        asked = iter([False, False, True])
        wait = locks.wait_for(tmp_path / "f", lambda: next(asked), lambda: told.append(1))
        with wait as held:
            assert not held and told == [1]
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    mine = locks.hold(tmp_path / "f", "busy")
    again = locks.hold(tmp_path / "f", "busy")  # not even this process has it a second time
    with mine, pytest.raises(UserError, match="busy"), again:
        pass
    with locks.wait_for(tmp_path / "f", lambda: False) as held:
        assert held


def test_json_of_a_table_is_plain(tmp_path):
    files.write_json(tmp_path / "a.json", {"n": np.int64(3)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 3}
