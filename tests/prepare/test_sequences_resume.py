"""The same token bank, byte for byte, for any number of processes and after any interruption."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.prepare.sequences import command as sequences_command
from phenomjax.prepare.sequences import job
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from tests.lab.toy_sequences import SIZES, few_starts
from tests.prepare.test_sequences import SMALL, contents, fasta, made_up, prepare, stored

ROOT = Path(__file__).resolve().parents[2]


def test_any_number_of_processes_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(job.SequenceJob, "_worth", few_starts)
    records = made_up(300, 7)
    (tmp_path / "a.fasta").write_text(fasta(records) + ">bad\nM4\n")
    (tmp_path / "b.fasta.gz").write_bytes(gzip.compress(fasta(made_up(200, 8)).encode(), mtime=0))
    files = [tmp_path / "a.fasta", tmp_path / "b.fasta.gz"]
    for jobs, shelf in ((1, 64), (2, 3)):  # and hashes that are merged, or are not
        sizes = SMALL | {"shelf_pieces": shelf}
        assert prepare(tmp_path / f"{jobs}.zarr", *files, jobs=jobs, sizes=sizes) == EXIT_FAILED
    one = contents(tmp_path / "1.zarr")
    assert one == contents(tmp_path / "2.zarr") and len(one) > 12
    prepare(tmp_path / "large.zarr", *files)  # and pieces, blocks and buckets of another size
    large = open_token_bank(tmp_path / "large.zarr")
    small = open_token_bank(tmp_path / "1.zarr")
    assert np.array_equal(large.tokens[:], small.tokens[:]) and large.metadata.equals(
        small.metadata
    )


def test_killed_at_renames(tmp_path, monkeypatch, count):
    """At every fourth one, at all with --full."""
    (tmp_path / "a.fasta").write_text(fasta(made_up(40, 9)) + ">bad\nM4\n")
    (tmp_path / "b.fasta.gz").write_bytes(gzip.compress(fasta(made_up(30, 10)).encode(), mtime=0))
    files = [tmp_path / "a.fasta", tmp_path / "b.fasta.gz"]
    sizes = {"piece_bytes": 2000, "block_bytes": 256, "chunk_bytes": 1024, "bucket_bits": 1}
    sizes |= {"shelf_pieces": 2, "table_rows": 30}
    prepare(tmp_path / "b.zarr", *files, sizes=sizes)
    straight = contents(tmp_path / "b.zarr")
    replace, calls = os.replace, [0, 0]

    def dies(source, target):
        calls[0] += 1
        if calls[0] == calls[1]:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dies)
    for number in range(1, 500, count(4, 1)):
        calls[:] = 0, number
        shutil.rmtree(tmp_path / "b.zarr")
        try:
            prepare(tmp_path / "b.zarr", *files, sizes=sizes)
            break
        except KeyboardInterrupt:
            with pytest.raises(UserError, match=r"is not finished|no bank"):
                open_token_bank(tmp_path / "b.zarr")
        calls[:] = 0, 0
        assert prepare(tmp_path / "b.zarr", *files, sizes=sizes) == EXIT_FAILED
        assert contents(tmp_path / "b.zarr") == straight, f"killed at rename {number}"
    assert number > 20


def test_changed_sources_and_arguments(tmp_path, monkeypatch, caplog):
    path = tmp_path / "a.fasta"
    path.write_text(">a\nMKV\n>b\nMWW\n")
    monkeypatch.setattr(
        sequences_command.SequenceJob,
        "deduplicate",
        lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "b.zarr", path)
    monkeypatch.undo()
    with pytest.raises(UserError, match="--min_length was 1, is now 2"):
        prepare(tmp_path / "b.zarr", path, min_length=2)
    path.write_text(">a\nMKV\n>c\nMYY\n")
    os.utime(path, (1, 1))
    assert prepare(tmp_path / "b.zarr", path) == EXIT_DONE
    assert "begins again" in caplog.text and stored(tmp_path / "b.zarr") == {"a": "MKV", "c": "MYY"}
    with pytest.raises(UserError, match=r"is now 2\. Give the same .*, or add --overwrite to make"):
        prepare(tmp_path / "b.zarr", path, min_length=2)
    caplog.set_level("INFO", "phenomjax")
    assert (
        prepare(tmp_path / "b.zarr", path) == EXIT_DONE
        and "is finished already: 2 sequences" in caplog.text
    )


def start(out, files, log):
    """The command in a process of its own, with two more for many small pieces."""
    command = [sys.executable, "-m", "tests.lab.toy_sequences", "--source", *files]
    words = [*command, "--out", out, "--jobs", "2"]
    return subprocess.Popen(
        [str(word) for word in words], cwd=ROOT, stderr=log.open("a"), start_new_session=True
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Files that take the command a second, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("large")
    for number in range(3):
        (folder / f"{number}.fasta").write_text(fasta(made_up(1200, number)))
    files = sorted(folder.glob("*.fasta"))
    assert prepare(folder / "b.zarr", *files, sizes=SIZES) == EXIT_DONE
    return folder, files


@pytest.mark.slow
def test_killed_by_the_system_and_run_again(large, tmp_path, count):
    folder, files = large
    out, killed = tmp_path / "b.zarr", 0
    # the last kills fall into the second pass
    for folder_name, done in (("pieces", 5), ("pieces", 60), ("merged", 3), ("bank", 2))[
        :: count(2, 1)
    ]:
        process = start(out, files, tmp_path / "log")
        while process.poll() is None:
            made = out / ".prepare" / folder_name
            if made.is_dir() and len(list(made.rglob("[!.]*"))) >= done:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.005)
        process.wait()
    assert killed >= count(2, 4)
    assert prepare(out, *files, sizes=SIZES) == EXIT_DONE
    assert contents(out) == contents(folder / "b.zarr")


def test_what_a_killed_worker_left_is_no_part_of_the_bank(tmp_path, monkeypatch):
    made = job.SequenceJob._make

    def make(self, options, path):
        (self.work / "bank" / "tokens" / ".part-host-1-c.0").touch()
        made(self, options, path)

    source = tmp_path / "x.fasta"
    source.write_text(fasta(made_up(50)))
    prepare(tmp_path / "a.zarr", source)
    monkeypatch.setattr(job.SequenceJob, "_make", make)
    prepare(tmp_path / "b.zarr", source)
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "a.zarr")


@pytest.mark.slow
def test_a_signal_stops_the_job_and_it_goes_on(large, tmp_path):
    folder, files = large
    out, log = tmp_path / "b.zarr", tmp_path / "log"
    process = start(out, files, log)
    while not (out / ".prepare" / "sources.json").is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == EXIT_STOPPED
    assert "SIGTERM: finishing what is in hand, then stopping" in log.read_text()
    assert "stopped. Run the same command again to continue." in log.read_text()
    assert prepare(out, *files, sizes=SIZES) == EXIT_DONE
    assert contents(out) == contents(folder / "b.zarr")
