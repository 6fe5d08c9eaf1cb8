"""Sources of a token bank are known by content: edited, mended and touched files."""

import json
import os
import shutil

import pytest

from phenomjax.data.sequences.bank import damaged_files
from phenomjax.prepare.sequences import command as sequences_command
from phenomjax.prepare.sequences import job
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from tests.prepare.test_sequences import contents, prepare, stored


def edit(path, text, keep_date):
    """Writes other content; with `keep_date` as an editor on a disk with coarse dates would."""
    before = path.stat().st_mtime_ns
    path.write_text(text)
    if keep_date:
        os.utime(path, ns=(before, before))


@pytest.mark.parametrize("keep_date", [False, True])
def test_an_edited_file_of_the_same_size(tmp_path, keep_date, caplog):
    path, out = tmp_path / "a.fasta", tmp_path / "b.zarr"
    path.write_text(">a\nMKV\n>bad\nM4\n")
    assert prepare(out, path) == EXIT_FAILED
    edit(path, ">a\nWKV\n>bad\nM4\n", keep_date)
    options = {"verify_sources": True} if keep_date else {}
    if keep_date:
        caplog.set_level("INFO", "phenomjax")
        assert prepare(out, path) == EXIT_FAILED
        assert "the same by size and date (--verify_sources compares the content)" in caplog.text
    with pytest.raises(UserError, match=r"made of files that have changed since: .*a\.fasta") as e:
        prepare(out, path, **options)
    assert "add --overwrite" in str(e.value) and "another --out" in str(e.value)
    assert stored(out) == {"a": "MKV"}
    assert prepare(tmp_path / "c.zarr", path) == EXIT_FAILED
    path.write_text(">a\nWKV\n>ok\nM\n>more\nMM\n")
    assert prepare(out, path, overwrite=True) == EXIT_DONE
    assert stored(out) == {"a": "WKV", "ok": "M", "more": "MM"}
    assert not (out / "rejected.parquet").exists()  # of the bank before
    os.utime(path, (1, 1))
    assert prepare(out, path) == EXIT_DONE and stored(out).keys() == {"a", "ok", "more"}


def test_a_bank_stays_until_the_one_that_takes_its_place_is_whole(tmp_path):
    path, out = tmp_path / "a.fasta", tmp_path / "b.zarr"
    path.write_text(">a\nMKV\n")
    prepare(out, path)
    path.write_text(">a\nM4\n")
    with pytest.raises(UserError, match="All records were rejected"):
        prepare(out, path, overwrite=True)
    assert stored(out) == {"a": "MKV"} and damaged_files(out) == []
    path.write_text(">a\nMM\n")
    with pytest.raises(UserError, match="made with other settings: --max_length"):
        prepare(out, path, max_length=5)
    assert prepare(out, path, max_length=5, overwrite=True) == EXIT_DONE
    assert stored(out) == {"a": "MM"}


def test_a_bank_of_an_older_phenomjax(tmp_path, caplog):
    """It recorded sizes, and no content."""
    path, out = tmp_path / "a.fasta", tmp_path / "b.zarr"
    path.write_text(">a\nMKV\n")
    prepare(out, path)
    group = json.loads((out / "zarr.json").read_text())
    recorded = group["attributes"]["phenomjax"]["options"]["prepare"]
    del recorded["sources"]
    recorded["source"] = [f"{path} (7 bytes)"]
    (out / "zarr.json").write_text(json.dumps(group))
    caplog.set_level("INFO", "phenomjax")
    assert prepare(out, path, verify_sources=True) == EXIT_DONE
    assert "recorded nothing of their content" in caplog.text
    path.write_text(">a\nMKVM\n")
    with pytest.raises(UserError, match="it had 7 bytes, it has 8 now"):
        prepare(out, path)


def test_a_bank_of_touched_files_is_the_same(tmp_path, caplog):
    path, out = tmp_path / "a.fasta", tmp_path / "b.zarr"
    path.write_text(">a\nMKV\n")
    prepare(out, path)
    before = contents(out)
    os.utime(path, (1, 1))
    caplog.set_level("INFO", "phenomjax")
    assert prepare(out, path) == EXIT_DONE
    assert "has another date, and the same content" in caplog.text
    shutil.rmtree(out)
    prepare(out, path)
    again = contents(out)
    assert before.pop("sources.json") != again.pop("sources.json") and before == again
    (out / "sources.json").unlink()  # a bank that was copied without it
    assert prepare(out, path) == EXIT_DONE
    path.write_text(">a\nMKW\n")
    with pytest.raises(UserError, match="its content: sha256 was"):
        prepare(out, path)


def test_mended_files_are_read_again(tmp_path, caplog):
    path, out = tmp_path / "a.fasta", tmp_path / "b.zarr"
    path.write_text("MKV\n")
    with pytest.raises(UserError, match="Mend the files and run the same command again"):
        prepare(out, path, format="fasta")
    assert (tmp_path / "b_rejected.parquet").is_file() and not out.exists()
    path.write_text(">a\nMKV\n")
    assert prepare(out, path, format="fasta") == EXIT_DONE and stored(out) == {"a": "MKV"}


@pytest.mark.parametrize("change", ["size", "content", "date", "clusters"])
def test_files_changed_while_a_job_was_interrupted(tmp_path, monkeypatch, caplog, change):
    path, out, clusters = tmp_path / "a.fasta", tmp_path / "b.zarr", tmp_path / "c.tsv"
    path.write_text(">a\nMKV\n>b\nMWW\n")
    clusters.write_text("a\ta\na\tb\n")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            sequences_command.SequenceJob,
            "deduplicate",
            lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        prepare(out, path, clusters=clusters)
    if change == "date":
        os.utime(path, (1, 1))
    elif change == "clusters":
        clusters.write_text("b\ta\nb\tb\n")
        os.utime(clusters, (1, 1))
    else:
        path.write_text(">a\nMKV\n>c\nMYY\n" + ">d\nMY\n" * (change == "size"))
        os.utime(path, (1, 1))
    caplog.set_level("INFO", "phenomjax")
    options = {"min_clustered": 0.1}
    assert prepare(out, path, clusters=clusters, **options) == EXIT_DONE
    text = "the job goes on" if change == "date" else "so it begins again"
    assert text in caplog.text
    assert ("c" in stored(out)) == (change in ("size", "content"))
    straight = tmp_path / "straight.zarr"
    prepare(straight, path, clusters=clusters, **options)
    assert contents(straight) == contents(out)


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path, out = tmp_path / "a.fasta", tmp_path / "b.zarr"
    path.write_text(">a\nMKV\n")
    scan = job.SequenceJob.scan

    def touched(self, *given):
        scan(self, *given)
        path.write_text(">a\nMKVW\n")

    with monkeypatch.context() as patch:
        patch.setattr(job.SequenceJob, "scan", touched)
        with pytest.raises(UserError, match=r"a\.fasta was changed while it was read"):
            prepare(out, path)
    assert prepare(out, path) == EXIT_DONE and stored(out) == {"a": "MKVW"}


@pytest.mark.shared_data
def test_the_case_of_an_edited_source(shared, tmp_path):
    path, out = tmp_path / "p.fasta", tmp_path / "b.zarr"
    text = (shared.parent / "cases/sequences/x01_stale/p.fasta").read_text()
    path.write_text(text)
    assert prepare(out, path) == EXIT_DONE
    path.write_text(text.replace("MK", "MW"))
    with pytest.raises(UserError, match=r"p\.fasta \(its content: sha256 was"):
        prepare(out, path)
    assert prepare(out, path, overwrite=True) == EXIT_DONE and stored(out) == {"a": "MWTAYIAKQR"}
