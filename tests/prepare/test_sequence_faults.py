"""Disks and files that fail under `prepare sequences`: a paragraph, and the same command works."""

import errno
import os

import pytest

from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.engine import work_folder
from phenomjax.prepare.sequences import job, pieces
from phenomjax.prepare.sequences.assembly import parts
from phenomjax.prepare.sequences.pieces import Piece
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from tests.prepare.test_sequences import SMALL, contents, fasta, made_up, prepare


def made(tmp_path):
    """Two files, and what a straight run makes of them."""
    sources = [tmp_path / "a.fasta", tmp_path / "b.fasta"]
    for number, path in enumerate(sources):
        path.write_text(fasta(made_up(60, number)))
    prepare(tmp_path / "straight.zarr", *sources, sizes=SMALL)
    return sources, contents(tmp_path / "straight.zarr")


def fails(patch, place, name, after, error):
    """Lets a function fail the first time that it is called after so many calls."""
    real, calls = getattr(place, name), [0]

    def failing(*given, **named):
        calls[0] += 1
        if calls[0] == after:
            raise error
        return real(*given, **named)

    patch.setattr(place, name, failing)


FAULTS = {
    "full disk": (Piece, "finish", 3, OSError(errno.ENOSPC, "No space left on device")),
    "full disk at the end": (
        parts,
        "_write_chunk",
        2,
        OSError(errno.ENOSPC, "No space left on device"),
    ),
    "no permission": (os, "replace", 6, PermissionError(errno.EACCES, "Permission denied", "x")),
    "disk away": (job.SequenceJob, "deduplicate", 1, OSError(errno.EIO, "Input/output error")),
}
SAID = {
    "full disk": "is full .No space left on device.*make room, and run the same command again",
    "full disk at the end": "is full .No space left on device",
    "no permission": "may not be read or written by you: Permission denied",
    "disk away": "b.zarr: Input/output error. What is done is kept",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_disks_that_fail(tmp_path, monkeypatch, fault):
    sources, straight = made(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(UserError, match=SAID[fault]) as error:
        fails(patch, *FAULTS[fault])
        prepare(tmp_path / "b.zarr", *sources, sizes=SMALL)
    assert error.value.exit_code == EXIT_FAILED
    with pytest.raises(UserError, match=r"is not finished|no bank"):
        open_token_bank(tmp_path / "b.zarr")
    assert prepare(tmp_path / "b.zarr", *sources, sizes=SMALL) == EXIT_DONE
    assert contents(tmp_path / "b.zarr") == straight


def test_a_file_that_vanishes_half_way(tmp_path, monkeypatch):
    sources, straight = made(tmp_path)
    away, scan, calls = tmp_path / "away", pieces.scan, [0]

    def vanishing(*given):
        calls[0] += 1
        if calls[0] == 5:
            sources[1].rename(away)
        return scan(*given)

    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        patch.setattr(job, "scan", vanishing)
        prepare(tmp_path / "b.zarr", *sources, sizes=SMALL)
    assert f"{sources[1]} could not be read any more: No such file" in str(error.value)
    with pytest.raises(UserError, match=r"There is no file .*b\.fasta"):
        prepare(tmp_path / "b.zarr", *sources, sizes=SMALL)
    away.rename(sources[1])
    assert prepare(tmp_path / "b.zarr", *sources, sizes=SMALL) == EXIT_DONE
    assert contents(tmp_path / "b.zarr") == straight


def test_two_writers(tmp_path):
    sources, straight = made(tmp_path)
    out = tmp_path / "b.zarr"
    with work_folder.hold(out / ".prepare"), pytest.raises(UserError, match="at work in"):
        prepare(out, *sources, sizes=SMALL)
    assert prepare(out, *sources, sizes=SMALL) == EXIT_DONE and contents(out) == straight
