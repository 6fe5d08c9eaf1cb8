"""The whole command: real files in, a bank out, compared pixel for pixel; every bad input is named;
nothing else is lost.
"""

import errno
import hashlib
import logging
import os
import shutil
import threading

import imagecodecs
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from phenomjax.data.images import bank, opening
from phenomjax.engine import units
from phenomjax.prepare import growing
from phenomjax.prepare.images import command
from phenomjax.prepare.images.pixels import percentiles
from phenomjax.system import processes
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door
from tests.lab.ngff import write_plate

WELLS = ("A01", "A02", "B01", "B10")


def prepare(source, out, layout="rxrx1", **options):
    """Runs the command in this process, as its command line would."""
    words = ["--source", str(source), "--out", str(out), "--layout", layout, "--jobs", "1"]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        for item in value if isinstance(value, list) else [value]:
            words += [flag] if item is True else [flag, str(item)]
    return run_as_door(command, words)


def pixels(seed, dtype="uint8", size=(40, 50)):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, size, dtype)


def write_rxrx1(folder, wells=WELLS, channels=6, plates=("1",)):
    """HEPG2-01/PlateN/WELL_s1_wC.png; returns {(plate, well): [height, width, channels]}."""
    written = {}
    for p, plate in enumerate(plates):
        (folder / "HEPG2-01" / f"Plate{plate}").mkdir(parents=True)
        for w, well in enumerate(wells):
            planes = [pixels((p, w, c)) for c in range(channels)]
            for c, plane in enumerate(planes):
                file = folder / "HEPG2-01" / f"Plate{plate}" / f"{well}_s1_w{c + 1}.png"
                file.write_bytes(imagecodecs.png_encode(plane))
            written[plate, well] = np.stack(planes, -1)
    return written


def write_jump(folder, wells=3, channels=(1, 5), plates=("P1", "P2")):
    written = {}
    for p, plate in enumerate(plates):
        (folder / plate).mkdir(parents=True)
        for w in range(wells):
            planes = [(pixels((p, w, c), "uint16") >> 4) + 100 * p for c in channels]
            for c, plane in zip(channels, planes, strict=True):
                tifffile.imwrite(
                    folder / plate / f"r01c{w + 1:02d}f01p01-ch{c}sk1fk1fl1.tiff", plane
                )
            written[plate, f"A{w + 1:02d}"] = np.stack(planes, -1)
    return written


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_rxrx1_of_wilds_with_the_metadata_of_the_release(tmp_path):
    """Pictures whose colours are the first three channels, and a row a site."""
    rows = ["site_id,well_id,cell_type,dataset,experiment,plate,well,site,well_type,sirna,sirna_id"]
    kinds = {"B02": "negative_control,EMPTY,1138", "B03": "treatment,s21721,513"}
    pictures = {}
    for well, kind in kinds.items():
        for site in (1, 2):
            file = tmp_path / "raw" / "HEPG2-01" / "Plate1" / f"{well}_s{site}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pictures[well, str(site)] = pixels(len(rows), size=(40, 50, 3))
            file.write_bytes(imagecodecs.png_encode(pictures[well, str(site)]))
            name = f"HEPG2-01_1_{well}"
            rows.append(f"{name}_{site},{name},HEPG2,train,HEPG2-01,1,{well},{site},{kind}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(UserError, match="fit --layout rxrx1-wilds"):
        prepare(tmp_path / "raw", tmp_path / "b.zarr")
    out, table = tmp_path / "b.zarr", tmp_path / "metadata.csv"
    assert prepare(tmp_path / "raw", out, "rxrx1-wilds", pages="c", metadata=table) == 0
    bank = opening.open_bank(out)
    assert bank.channels == ("Hoechst", "ConA", "Phalloidin")
    for number, row in enumerate(bank.metadata.to_pylist()):
        np.testing.assert_array_equal(bank.read(number), pictures[row["well"], row["site"]])
        assert (row["experiment"], row["plate"], row["cell_type"]) == ("HEPG2-01", "1", "HEPG2")
        assert row["perturbation"] == ("1138" if row["well"] == "B02" else "513")
        assert row["is_control"] == (row["well"] == "B02")


def test_bank_of_files(tmp_path):
    written = write_rxrx1(tmp_path / "raw", plates=("2", "10"))
    (tmp_path / "raw" / "notes.txt").write_text("not an image")
    assert (
        prepare(tmp_path / "raw", tmp_path / "b.zarr", cell_type="HepG2", pixel_size_um=0.65) == 0
    )
    opened = opening.open_bank(tmp_path / "b.zarr")
    assert opened.channels == ("Hoechst", "ConA", "Phalloidin", "SYTO14", "MitoTracker", "WGA")
    assert (
        opened.attributes["pixel_size_um"] == 0.65
        and opened.attributes["intensity"]["rule"] == "keep"
    )
    rows = opened.metadata.to_pylist()
    assert [(row["plate"], row["well"]) for row in rows] == list(written)  # 2 before 10
    for i, (row, expected) in enumerate(zip(rows, written.values(), strict=True)):
        np.testing.assert_array_equal(opened.read(i), expected)
        data = b"".join((tmp_path / "raw" / file).read_bytes() for file in row["source"].split(";"))
        assert row["checksum"] == hashlib.sha256(data).hexdigest()
        assert (
            row["experiment"] == "HEPG2-01" and row["cell_type"] == "HepG2" and row["site"] == "1"
        )
    names = {"zarr.json", "metadata.parquet", "sources.json", "images/zarr.json"} | {
        f"images/c.{i}.0.0.0" for i in range(8)
    }
    assert set(contents(tmp_path / "b.zarr")) == names


def test_channels_are_chosen_named_and_ordered(tmp_path):
    written = write_rxrx1(tmp_path / "raw", wells=("A01",))
    prepare(tmp_path / "raw", tmp_path / "b.zarr", channels="WGA,1=DNA")
    opened = opening.open_bank(tmp_path / "b.zarr")
    assert opened.channels == ("WGA", "DNA")
    np.testing.assert_array_equal(opened.read(0), written["1", "A01"][..., [5, 0]])


@pytest.mark.parametrize("rule", ["keep", "range:100:4000", None, "percentile:1:99"])
def test_16_bit_rules(tmp_path, rule):
    written = write_jump(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "b.zarr", "jump", **({"intensity": rule} if rule else {}))
    opened = opening.open_bank(tmp_path / "b.zarr")
    assert opened.channels == ("DNA", "Mito")  # the layout's order: channel 5 first
    recorded = opened.attributes["intensity"]
    for i, ((plate, _), image) in enumerate(written.items()):
        image = image[..., ::-1]
        if rule == "keep":
            assert opened.dtype == np.uint16
            np.testing.assert_array_equal(opened.read(i), image)
            continue
        for c, name in enumerate(opened.channels):
            low, high = recorded["numbers"][plate][name]
            if rule == "range:100:4000":
                assert (low, high) == (100, 4000)
            else:
                shares = (1, 99) if rule else (0.1, 99.9)
                all_pixels = np.stack(
                    [other[..., 1 - c] for (p, _), other in written.items() if p == plate]
                )
                # Exact ranks; NumPy's own percentile takes 99.9 % of 6000 for 5994.000001 and goes
                # one pixel too far.
                ranks = [
                    max(1, -(-all_pixels.size * int(10 * share) // 1000)) - 1 for share in shares
                ]
                assert [low, high] == np.sort(all_pixels.ravel())[ranks].tolist()
            expected = np.clip((image[..., c].astype(float) - low) / (high - low), 0, 1) * 255
            assert np.abs(opened.read(i)[..., c] - expected).max() <= 0.5
    assert recorded["source_dtype"] == "uint16" and recorded["rule"] == (
        rule or "percentile:0.1:99.9"
    )


def test_multipage_files_through_a_pattern(tmp_path):
    (tmp_path / "raw").mkdir()
    stack = np.stack([pixels(c, "uint16") for c in range(3)])
    tifffile.imwrite(tmp_path / "raw" / "plate7_B3.tif", stack, photometric="minisblack")
    pattern = r"plate(?P<plate>\d+)_(?P<well>\w+)\.tif"
    options = {
        "pattern": pattern,
        "channels": "3=RNA,1=DNA",
        "intensity": "keep",
        "codec": "zstd",
        "chunk": 32,
    }
    assert prepare(tmp_path / "raw", tmp_path / "b.zarr", "generic", **options) == 0
    opened = opening.open_bank(tmp_path / "b.zarr")
    np.testing.assert_array_equal(opened.read(0), stack[[2, 0]].transpose(1, 2, 0))
    assert opened.channels == ("RNA", "DNA") and opened.chunk_shape == (32, 32, 2)
    assert opened.metadata["plate"].to_pylist() == ["7"] and opened.metadata[
        "well"
    ].to_pylist() == ["B03"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["tczyx", "cyx"])
def test_ome_zarr_plates(tmp_path, version, axes):
    fields = {("A/1", "0"): 0, ("A/1", "1"): 1, ("B/12", "0"): 2}
    fields = {
        key: np.stack([pixels((i, c), "uint16") for c in range(3)]) for key, i in fields.items()
    }
    write_plate(tmp_path / "raw" / "P1.zarr", version, fields, axes=axes)
    options = {"channels": "ER,DNA", "intensity": "keep"}
    assert prepare(tmp_path / "raw", tmp_path / "b.zarr", "ome-zarr", **options) == 0
    opened, place = (
        opening.open_bank(tmp_path / "b.zarr"),
        opening.open_bank(tmp_path / "raw" / "P1.zarr"),
    )
    assert opened.channels == ("ER", "DNA") and opened.attributes["pixel_size_um"] == 0.65
    assert place.channels == ("DNA", "ER", "RNA") and place.metadata["well"].to_pylist() == [
        "A01",
        "A01",
        "B12",
    ]
    for i, field in enumerate(fields.values()):
        np.testing.assert_array_equal(opened.read(i), field[[1, 0]].transpose(1, 2, 0))
        np.testing.assert_array_equal(place.read(i), field.transpose(1, 2, 0))
    row = opened.metadata.to_pylist()[2]
    assert (row["plate"], row["well"], row["site"]) == ("P1", "B12", "0") and row[
        "source"
    ] == "P1.zarr/B/12/0/0"
    shutil.rmtree(tmp_path / "raw" / "P1.zarr" / "B" / "12" / "0")
    options["intensity"] = "keep"
    assert prepare(tmp_path / "raw", tmp_path / "c.zarr", "ome-zarr", **options) == 0
    assert len(opening.open_bank(tmp_path / "c.zarr")) == 2
    (remark,) = pq.read_table(tmp_path / "c.zarr" / "remarks.parquet").to_pylist()
    assert (remark["plate"], remark["well"]) == ("P1", "B12")
    with pytest.raises(UserError, match=r"no OME-Zarr plate in .*b.zarr"):
        prepare(tmp_path / "b.zarr", tmp_path / "d.zarr", "ome-zarr")


def damage(folder):
    """One plate of 9 wells where only A02 and A09 are whole."""
    write_rxrx1(folder, wells=[f"A{i:02d}" for i in range(1, 10)], channels=2)
    plate = folder / "HEPG2-01" / "Plate1"
    (plate / "A01_s1_w2.png").unlink()
    (plate / "A03_s1_w1.png").write_bytes((plate / "A03_s1_w1.png").read_bytes()[:500])
    (plate / "A04_s1_w2.png").write_bytes(imagecodecs.png_encode(pixels(0, size=(41, 50))))
    for channel in (1, 2):
        (plate / f"A05_s1_w{channel}.png").write_bytes(
            imagecodecs.png_encode(pixels(0, size=(64, 64)))
        )
        (plate / f"A06_s1_w{channel}.png").write_bytes(imagecodecs.png_encode(pixels(0, "uint16")))
    shutil.copy(plate / "A07_s1_w1.png", plate / "A07_s01_w1.png")
    (plate / "A08_s1_w1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60) + b"IEND" + bytes(4))
    shutil.copy(plate / "A09_s1_w1.png", plate / "copy.png")
    return plate


REASONS = {
    "A01": ("missing_channel", "has no file for channel 2 (ConA) beside it: copy the file"),
    "A03": ("truncated", "ends after 500 bytes, before its PNG end mark: copy it again"),
    "A04": (
        "channel_sizes",
        "is 41 x 50 pixels, channel file HEPG2-01/Plate1/A04_s1_w1.png is 40 x 50 pixels",
    ),
    "A05": ("size", "is 64 x 64 pixels, most of the source is 40 x 50 pixels"),
    "A06": ("pixel_type", "has uint16 pixels, most of the source has uint8"),
    "A07": ("duplicate", "A07_s01_w1.png both say they are channel 1 (Hoechst) of this image"),
    "A08": ("undecodable", "does not decode as PNG"),
    None: ("unknown_name", "has a name that layout rxrx1 does not know"),
}


def test_bad_input_is_named_and_nothing_else_is_lost(tmp_path, caplog):
    plate = damage(tmp_path / "raw")
    with caplog.at_level(logging.INFO, "phenomjax"):
        assert prepare(tmp_path / "raw", tmp_path / "b.zarr") == 1
    assert (
        "8 rejected (" in caplog.text
        and "the other 2 images are in the bank" in caplog.text
        and "rejected.parquet" in caplog.text
    )
    assert opening.open_bank(tmp_path / "b.zarr").metadata["well"].to_pylist() == ["A02", "A09"]
    rejected = {
        row["well"]: row
        for row in pq.read_table(tmp_path / "b.zarr" / "rejected.parquet").to_pylist()
    }
    assert set(rejected) == set(REASONS)
    for well, (reason, detail) in REASONS.items():
        assert rejected[well]["reason"] == reason and detail in rejected[well]["detail"], rejected[
            well
        ]
        assert (tmp_path / "raw" / rejected[well]["file"]).is_file()
        assert well is None or rejected[well]["plate"] == "1"
    with caplog.at_level(logging.INFO, "phenomjax"):
        assert prepare(tmp_path / "raw", tmp_path / "b.zarr") == 1
    assert "is finished already: 2 images, 8 rejected. Nothing to do." in caplog.text
    # A bank without the bad files is the same, byte for byte: rejected images leave no holes.
    for file in plate.iterdir():
        if file.name[:3] not in ("A02", "A09"):
            file.unlink()
    assert prepare(tmp_path / "raw", tmp_path / "c.zarr") == 0
    (tmp_path / "b.zarr" / "rejected.parquet").unlink()
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "c.zarr")


def test_strict_stops_at_the_first_and_a_mended_file_continues(tmp_path):
    write_rxrx1(tmp_path / "raw")
    bad = tmp_path / "raw" / "HEPG2-01" / "Plate1" / "B01_s1_w3.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:99])
    with pytest.raises(
        UserError,
        match=r"B01_s1_w3.png .experiment HEPG2-01, plate 1, well B01, site 1. ends after 99",
    ):
        prepare(tmp_path / "raw", tmp_path / "b.zarr", strict=True)
    with pytest.raises(UserError, match="is not finished"):
        opening.open_bank(tmp_path / "b.zarr")
    notes = units.Notes(tmp_path / "b.zarr" / ".prepare")
    found = [notes.read(name) for name in notes.names()]
    assert sum(len(note["checksums"]) for note in found) == 2
    bad.write_bytes(whole)
    assert prepare(tmp_path / "raw", tmp_path / "b.zarr") == 0
    assert prepare(tmp_path / "raw", tmp_path / "c.zarr") == 0
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "c.zarr")


def test_strict_names_a_missing_channel(tmp_path):
    write_rxrx1(tmp_path / "raw")
    (tmp_path / "raw" / "HEPG2-01" / "Plate1" / "A02_s1_w5.png").unlink()
    with pytest.raises(
        UserError, match=r"well A02, site 1. has no file for channel 5 .MitoTracker"
    ):
        prepare(tmp_path / "raw", tmp_path / "b.zarr", strict=True)


def test_all_rejected(tmp_path):
    write_rxrx1(tmp_path / "raw", wells=("A01",))
    for file in (tmp_path / "raw").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(
        UserError,
        match=r"All images were rejected .1 problems.*is empty .0 bytes.*rejected.parquet",
    ) as error:
        prepare(tmp_path / "raw", tmp_path / "b.zarr")
    assert error.value.exit_code == 1


def test_errors_of_arguments(tmp_path):
    write_rxrx1(tmp_path / "raw")
    out = tmp_path / "b.zarr"
    with pytest.raises(
        UserError,
        match=r"None of the 24 images in .* has a name of layout jump.*fit --layout rxrx1",
    ):
        prepare(tmp_path / "raw", out, "jump")
    with pytest.raises(UserError, match=r"source folder .*row is not there. Did you mean 'raw'"):
        prepare(tmp_path / "row", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no images in .*empty.*found no files"):
        prepare(tmp_path / "empty", out)
    with pytest.raises(UserError, match="Unknown --codec 'lz4'"):
        prepare(tmp_path / "raw", out, codec="lz4")
    with pytest.raises(UserError, match="--rename names columns of a --metadata table"):
        prepare(tmp_path / "raw", out, rename="a=well")
    with pytest.raises(UserError, match="--jobs must be 1 or more"):
        prepare(tmp_path / "raw", out, jobs=-1)
    assert not out.exists()
    with pytest.raises(UserError, match="is there already and is no image bank"):
        prepare(tmp_path / "raw", tmp_path / "raw")
    prepare(tmp_path / "raw", out)
    before = contents(out)
    with pytest.raises(
        UserError, match=r"made with other settings: --chunk was 128, is now 64\. Give"
    ):
        prepare(tmp_path / "raw", out, chunk=64)
    assert contents(out) == before
    assert prepare(tmp_path / "raw", out) == 0 and contents(out) == before


def test_metadata_is_joined_and_unmatched_rows_are_counted(tmp_path, caplog):
    write_rxrx1(tmp_path / "raw")
    (tmp_path / "m.csv").write_text("plate,well,sirna,note\n1,A1,n1,x\n1,B10,n2,x\n1,H12,n3,x\n")
    with caplog.at_level(logging.INFO, "phenomjax"):
        prepare(
            tmp_path / "raw",
            tmp_path / "b.zarr",
            metadata=tmp_path / "m.csv",
            rename=["sirna=perturbation"],
            set=["perturbation_type=sirna"],
        )
    columns = opening.open_bank(tmp_path / "b.zarr").metadata
    assert columns["perturbation"].to_pylist() == ["n1", None, None, "n2"]
    assert columns["perturbation_type"].to_pylist() == ["sirna"] * 4
    assert "columns not used: note" in caplog.text and "2 of 3 rows have images" in caplog.text
    assert "2 of 4 images have no row" in caplog.text and "HEPG2-01/1/A02/1" in caplog.text
    remarks = pq.read_table(tmp_path / "b.zarr" / "remarks.parquet").to_pylist()
    assert [(one["reason"], one["well"]) for one in remarks] == [
        ("no_row", "A02"),
        ("no_row", "B01"),
        ("no_image", "H12"),
    ]
    (tmp_path / "m.csv").write_text("experiment,plate,well,gene\nE,P1,A1,n1\nF,P1,A1,n2\n")
    write_jump(tmp_path / "jump")
    prepare(
        tmp_path / "jump", tmp_path / "e.zarr", "jump", metadata=tmp_path / "m.csv", experiment="F"
    )
    columns = opening.open_bank(tmp_path / "e.zarr").metadata
    assert columns["gene"].to_pylist() == ["n2"] + [None] * 5 and set(
        columns["experiment"].to_pylist()
    ) == {"F"}
    (tmp_path / "m.csv").write_text("plate,well,gene\n7,A1,n1\n")
    with pytest.raises(
        UserError, match=r"No row of .*m.csv fits an image: its keys .plate, well. are like 7/A01"
    ):
        prepare(tmp_path / "raw", tmp_path / "c.zarr", metadata=tmp_path / "m.csv")


@pytest.mark.parametrize("rule", ["keep", "percentile:1:99"])
def test_mended_files_go_into_a_second_bank(tmp_path, rule):
    written = write_jump(tmp_path / "raw")
    bad = tmp_path / "raw" / "P2" / "r01c02f01p01-ch1sk1fk1fl1.tiff"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:50])
    assert prepare(tmp_path / "raw", tmp_path / "a.zarr", "jump", intensity=rule) == 1
    bad.write_bytes(whole)
    options = {"intensity": rule, "not_in": tmp_path / "a.zarr"}
    assert prepare(tmp_path / "raw", tmp_path / "b.zarr", "jump", **options) == 0
    first, second = opening.open_bank(tmp_path / "a.zarr"), opening.open_bank(tmp_path / "b.zarr")
    assert second.metadata.select(["plate", "well"]).to_pylist() == [{"plate": "P2", "well": "A02"}]
    if rule == "keep":
        np.testing.assert_array_equal(second.read(0), written["P2", "A02"][..., ::-1])
    else:
        numbers = second.attributes["intensity"]["numbers"]
        assert numbers == {"P2": first.attributes["intensity"]["numbers"]["P2"]}
    options["not_in"] = tmp_path / "c.zarr"
    prepare(tmp_path / "raw", tmp_path / "c.zarr", "jump", intensity=rule)
    with pytest.raises(
        UserError, match=r"Every image of the source is in .*c.zarr .--not_in. already"
    ):
        prepare(tmp_path / "raw", tmp_path / "d.zarr", "jump", **options)


def test_one_process_at_a_time(tmp_path):
    write_rxrx1(tmp_path / "raw", wells=("A01",))
    with (
        growing.at_work(tmp_path / "b.zarr", {}),
        pytest.raises(UserError, match=r"Another process is at work in .*b.zarr"),
    ):
        prepare(tmp_path / "raw", tmp_path / "b.zarr")


def test_a_full_disk(tmp_path, monkeypatch):
    write_rxrx1(tmp_path / "raw", wells=("A01",))

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        UserError, match=r"Cannot write to .*b.zarr: .*No space left.*the disk full"
    ):
        prepare(tmp_path / "raw", tmp_path / "b.zarr")
    monkeypatch.undo()
    with (
        monkeypatch.context() as patch,
        pytest.raises(
            UserError,
            match=r"metadata.parquet cannot be .* No space .* is kept: make room, and run",
        ),
    ):
        name = str(tmp_path / "metadata.parquet")
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        patch.setattr(bank, "write_metadata", lambda *_: (_ for _ in ()).throw(error))
        prepare(tmp_path / "raw", tmp_path / "b.zarr")
    with pytest.raises(UserError, match=r"--out /proc/b.zarr cannot be used: No such file"):
        prepare(tmp_path / "raw", "/proc/b.zarr")
    assert prepare(tmp_path / "raw", tmp_path / "b.zarr") == 0


class Killed(BaseException):
    pass


def test_killed_at_any_write_and_run_again(tmp_path, monkeypatch, count):
    """Every os.replace is a step that becomes visible: die before every third of them in turn
    (before each with --full), run again, compare the folder.
    """
    write_jump(tmp_path / "raw", wells=2)
    (tmp_path / "raw" / "P1" / "r01c02f01p01-ch1sk1fk1fl1.tiff").write_bytes(b"")
    assert prepare(tmp_path / "raw", tmp_path / "straight.zarr", "jump") == 1
    expected = contents(tmp_path / "straight.zarr")
    monkeypatch.setattr(percentiles, "BLOCK", 1)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nothing here outlives the power
    replace = os.replace
    for step in range(0, 1000, count(3, 1)):
        left = step

        def dying_replace(*names):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            replace(*names)

        out = tmp_path / f"{step}.zarr"
        monkeypatch.setattr(os, "replace", dying_replace)
        try:
            prepare(tmp_path / "raw", out, "jump")
            break
        except Killed:
            monkeypatch.setattr(os, "replace", replace)
            assert prepare(tmp_path / "raw", out, "jump") == 1
            assert contents(out) == expected, step
            shutil.rmtree(out)
    assert step > 15


def test_source_that_changed_while_it_was_stopped(tmp_path, monkeypatch):
    """Killed in the last step, then a file is mended and one is added: the bank is that of the new
    folder.
    """
    written = write_rxrx1(tmp_path / "raw", wells=("A02", "A03"))
    monkeypatch.setattr(bank, "write_metadata", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        prepare(tmp_path / "raw", tmp_path / "b.zarr")
    monkeypatch.undo()
    plate = tmp_path / "raw" / "HEPG2-01" / "Plate1"
    for channel in range(1, 7):
        shutil.copy(plate / f"A03_s1_w{channel}.png", plate / f"A01_s1_w{channel}.png")
    (plate / "A02_s1_w1.png").write_bytes(imagecodecs.png_encode(pixels(99)))
    assert prepare(tmp_path / "raw", tmp_path / "b.zarr") == 0
    opened = opening.open_bank(tmp_path / "b.zarr")
    assert opened.metadata["well"].to_pylist() == ["A01", "A02", "A03"]
    np.testing.assert_array_equal(opened.read(0), written["1", "A03"])
    np.testing.assert_array_equal(opened.read(1)[..., 0], pixels(99))
    assert prepare(tmp_path / "raw", tmp_path / "c.zarr") == 0
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "c.zarr")


def test_stop_between_images(tmp_path, caplog):
    """A signal lets the image in hand finish, and the next run continues."""
    stop = threading.Event()
    seen = []
    for result in processes.run_tasks(lambda task: task * 2, range(10), 1, stop):
        seen.append(result)
        if result == 6:
            stop.set()
    assert seen == [0, 2, 4, 6]
