"""--dry-run: what is understood is shown and listed, and no bank is begun."""

import csv

import numpy as np
import pyarrow.parquet as pq
import tifffile

from tests.prepare.test_images import prepare, write_jump


def test_everything_is_shown_and_nothing_prepared(tmp_path, capsys, caplog):
    raw = tmp_path / "raw"
    written = write_jump(raw)
    (raw / "P2" / "r01c03f01p01-ch5sk1fk1fl1.tiff").unlink()
    table = tmp_path / "meta.csv"
    table.write_text("plate,well,gene\nP1,A01,TP53\nP1,A02,MYC\n")
    out = tmp_path / "b.zarr"
    options = {"layout": "jump", "metadata": table}
    assert prepare(raw, out, **options, dry_run=True) == 1  # as the job itself would
    shown = capsys.readouterr().out
    assert "images:   5\n" in shown and "40 x 50, uint16" in shown
    assert "channels: DNA, Mito\n" in shown
    assert "gene:     2 of 5 images (TP53, MYC)" in shown
    assert "rejected: 1 (1 missing_channel)" in shown
    assert "remarks:  3 (3 no_row)" in shown and "3 of 5 images have no row" in caplog.text
    assert "P1           3        1        3  A01 to A03" in shown
    assert "P2           2        1        2  A01 to A02" in shown
    folder = tmp_path / "b_dry_run"
    assert not out.exists() and str(folder) in shown
    with (folder / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["plate"], row["well"], row["gene"]) for row in rows] == [
        ("P1", "A01", "TP53"),
        ("P1", "A02", "MYC"),
        ("P1", "A03", ""),
        ("P2", "A01", ""),
        ("P2", "A02", ""),
    ]
    for row in rows:
        expected = written[row["plate"], row["well"]]
        assert (tifffile.imread(raw / row["DNA"]) == expected[..., 1]).all()
        assert (tifffile.imread(raw / row["Mito"]) == expected[..., 0]).all()
    rejected = pq.read_table(folder / "rejected.parquet").to_pylist()
    assert [(row["well"], row["reason"]) for row in rejected] == [("A03", "missing_channel")]
    assert (folder / "sheet.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert prepare(raw, out, **options) == 1 and out.is_dir()


def test_pages_of_stacks_are_named(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    stack = np.arange(6 * 256, dtype=np.uint16).reshape(3, 2, 16, 16)
    tifffile.imwrite(raw / "A01.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    words = {"layout": "generic", "pattern": r"(?P<well>[A-P]\d\d)\.tif", "z": "max"}
    assert prepare(raw, tmp_path / "b.zarr", **words, dry_run=True) == 0
    assert "planes (z): 3, max of them" in capsys.readouterr().out
    lines = (tmp_path / "b_dry_run" / "images.csv").read_text().splitlines()
    assert lines[1].endswith(",A01.tif#1;A01.tif#3;A01.tif#5,A01.tif#2;A01.tif#4;A01.tif#6")
