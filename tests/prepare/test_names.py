"""Sources whose file names say everything: plates, wells, sites, channels, planes and times."""

import itertools
import logging
import os
import re
import shlex
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from phenomjax.data.images import opening
from phenomjax.prepare.images.naming import layouts
from phenomjax.system.errors import UserError
from tests.lab.ngff import write_plate
from tests.prepare.test_images import prepare

GENERIC = r"(?P<plate>[^/]+)/(?P<well>[A-P]\d\d)_s(?P<site>\d)_w(?P<channel>\d)\.tif"
HARMONY = "{plate}/Images/r01c{column:02d}f01p{z:02d}-ch{channel}sk{t}fk1fl1.tiff"


def write(folder, file, value, size=(16, 16)):
    """A tiny image of one value with a corner that differs."""
    plane = np.full(size, value, np.uint16)
    plane[0, 0] = value + 1
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / file, plane)


def write_harmony(folder, value, plate="P", column=1, z=1, channel=1, t=1):
    name = HARMONY.format(plate=plate, column=column, z=z, channel=channel, t=t)
    write(folder, name, value)


def run(source, out, layout="phenix", **options):
    """The bank and the exit code."""
    code = prepare(source, out, layout, intensity="keep", **options)
    return opening.open_bank(out), code


def rows(bank, *names):
    return [tuple(row.values()) for row in bank.metadata.select(list(names)).to_pylist()]


def values(bank):
    return [bank.read(i)[5, 5].tolist() for i in range(len(bank))]


def listed(out, name):
    file = out / f"{name}.parquet"
    return pq.read_table(file).to_pylist() if file.is_file() else []


def flags(text, *names):
    """The flags of these names that a text offers, the first of each, as options of `prepare`."""
    found = {}
    words = shlex.split(re.sub(r"[;:,]? ", " ", text).replace("`", ""))
    for flag, value in itertools.pairwise(words):
        if flag.startswith("--") and flag[2:] in names:
            found.setdefault(flag[2:], value.rstrip(".;:,"))
    return found


@pytest.mark.parametrize(
    ("layout", "path", "expected"),
    [
        ("phenix", "P/Images/r02c03f04p05-ch06t07.tiff", (None, "B03", "4", "6", "5", "7")),
        ("phenix", "r02c03f04p05-ch6sk7fk1fl1.TIFF", (None, "B03", "4", "6", "5", "7")),
        ("phenix", "r02c03f04p05-ch6sk7fk2fl1.tiff", (None, "B03", "4", "6", "5", "7.2")),
        ("imagexpress", "my_plate_A01_s1_w2.TIF", ("my_plate", "A01", "1", "2", None, None)),
        ("imagexpress", "P_A01_w2.tif", ("P", "A01", None, "2", None, None)),
        ("imagexpress", "A1_s1.tif", (None, "A01", "1", None, None, None)),
        ("imagexpress", "P/TimePoint_2/ZStep_3/P_AF48_s1.tif", ("P", "AF48", "1", None, "3", "2")),
        (
            "imagexpress",
            "P_A01_s1_w212A747C6-506B-40FF-7966-43AF30F54B5B.tif",
            ("P", "A01", "1", "2", None, None),
        ),
        ("imagexpress", "P_A01_s1_w1_z2_t3.tif", ("P", "A01", "1", "1", "2", "3")),
        ("cellvoyager", "P_A01_T0002F003L01A02Z04C05.tif", ("P", "A01", "3", "5", "4", "2")),
        ("cellvoyager", "W0013F003T0002Z004C5.tif", (None, "W0013", "3", "5", "4", "2")),
        ("incell", "A - 01(fld 1 wv DAPI - DAPI).tif", (None, "A01", "1", "DAPI - DAPI")),
        (
            "incell",
            "P/AA - 12(fld 03 wv UV - DAPI z 2 time 4 - 1000 ms).tif",
            (None, "AA12", "3", "UV - DAPI", "2", "4"),
        ),
    ],
)
def test_names(layout, path, expected):
    name = layouts.parse(path, layouts.compile_patterns(layouts.find(layout), None))
    found = (name.plate, name.well, name.site, name.channel, name.z, name.t)
    assert found[: len(expected)] == expected


@pytest.mark.parametrize(
    ("z", "expected"), [("max", 14), ("mean", 12), ("middle", 12), ("3", 14), (None, None)]
)
def test_planes_along_z(tmp_path, z, expected, caplog):
    for plane, value in enumerate((11, 12, 14), start=1):
        write_harmony(tmp_path / "raw", value, z=plane)
    write_harmony(tmp_path / "raw", 50, channel=2)
    out = tmp_path / "b.zarr"
    if z is None:
        with pytest.raises(UserError, match=r"Channel 1 has 3 planes along z: 1, 2, 3.*") as error:
            run(tmp_path / "raw", out)
        assert flags(str(error.value), "z") == {"z": "max"}
        flat = flags(str(error.value), "channels")["channels"]
        found, code = run(tmp_path / "raw", out, channels=flat)  # what is left out lacks nothing
        assert values(found) == [[50]] and code == 0
        return
    found, code = run(tmp_path / "raw", out, z=z)
    assert values(found) == [[expected, 50]] and code == 0
    assert rows(found, "plate", "well", "site", "time") == [("P", "A01", "1", None)]
    assert found.attributes["prepare"]["z"] == z


def test_a_stack_that_lacks_planes_is_told(tmp_path, caplog):
    for column, z in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 2)):
        write_harmony(tmp_path / "raw", 10 * column + z, column=column, z=z)
    out = tmp_path / "b.zarr"
    found, code = run(tmp_path / "raw", out, z="max")
    assert values(found) == [[12], [22], [32]] and code == 0
    assert "1 fewer_planes" in caplog.text
    (remark,) = listed(out, "remarks")
    assert remark["well"] == "A03" and "stack of 1 in channel 1" in remark["detail"]
    with pytest.raises(UserError, match=r"--z 7: Channel 1 has 2 planes along z: 1, 2"):
        run(tmp_path / "raw", tmp_path / "c.zarr", z="7")


def test_time_points(tmp_path, caplog):
    for time in (1, 2, 3):
        write(tmp_path / "raw", f"P/images/r01c01f01p01-ch01t0{time}.tiff", 10 * time)
    out = tmp_path / "b.zarr"
    with pytest.raises(UserError, match=r"Channel 1 has 3 time points: 1, 2, 3.*--t all") as error:
        run(tmp_path / "raw", out)
    found, _ = run(tmp_path / "raw", out, t="all")
    assert rows(found, "plate", "time") == [("P", "1"), ("P", "2"), ("P", "3")]
    assert values(found) == [[10], [20], [30]]
    assert flags(str(error.value), "t") == {"t": "1"}
    found, _ = run(tmp_path / "raw", tmp_path / "c.zarr", t="2")
    assert rows(found, "time") == [(None,)] and values(found) == [[20]]
    with pytest.raises(UserError, match="no image has that time point; there are 1, 2, 3"):
        run(tmp_path / "raw", tmp_path / "d.zarr", t="4")
    # in the second bank only what is not in the first, by time
    caplog.clear()
    write(tmp_path / "raw", "P/images/r01c01f01p01-ch01t04.tiff", 40)
    options = {"t": "all", "not_in": out}
    found, _ = run(tmp_path / "raw", tmp_path / "e.zarr", **options)
    assert rows(found, "time") == [("4",)] and values(found) == [[40]]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    run(tmp_path / "raw", tmp_path / "f.zarr", channels="1=DNA", **options)
    assert "channels are DNA here and 1 in" in caplog.text


def test_planes_and_times_are_asked_for_at_once(tmp_path):
    for z, t in itertools.product((1, 2), (1, 2)):
        write_harmony(tmp_path / "raw", 10 * z + t, z=z, t=t)
    with pytest.raises(UserError, match=r"2 planes along z.*2 time points") as error:
        run(tmp_path / "raw", tmp_path / "a.zarr")
    found, _ = run(tmp_path / "raw", tmp_path / "a.zarr", **flags(str(error.value), "z", "t"))
    assert values(found) == [[21]]


def test_the_plate_does_not_depend_on_where_the_source_points(tmp_path):
    plate = tmp_path / "raw" / "BR1__2020-11-08T18_16_30-Measurement 1" / "images"
    write(plate, "r01c01f01p01-ch1sk1fk1fl1.tiff", 7)
    for number, source in enumerate((plate, plate.parent, plate.parent.parent)):
        found, _ = run(source, tmp_path / f"{number}.zarr")
        assert rows(found, "plate") == [("BR1",)]
    tree = tmp_path / "rxrx" / "E" / "Plate2"
    write(tree, "B02_s1_w1.tif", 7)
    for number, source in enumerate((tree, tree.parent, tree.parent.parent)):
        found, _ = run(source, tmp_path / f"r{number}.zarr", "rxrx1")
        assert rows(found, "experiment", "plate") == [("E", "2")]
    write(tmp_path / "ix" / "MyPlate" / "2023-01-15" / "1234" / "TimePoint_1", "A01_s1_w1.TIF", 7)
    found, _ = run(tmp_path / "ix", tmp_path / "ix.zarr", "imagexpress")
    assert rows(found, "plate") == [("MyPlate",)]
    write(tmp_path / "g" / "Q", "A01_s1_w1.tif", 7)
    for number, source in enumerate((tmp_path / "g" / "Q", tmp_path / "g")):
        found, _ = run(source, tmp_path / f"g{number}.zarr", "generic", pattern=GENERIC)
        assert rows(found, "plate") == [("Q",)]


def test_relative_paths(tmp_path, monkeypatch):
    write_harmony(tmp_path / "raw", 7)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found, _ = run("../raw", "../b.zarr")
    assert rows(found, "plate") == [("P",)] and values(found) == [[7]]
    write_plate(tmp_path / "ome" / "Q.zarr", "0.4", {("A/1", "0"): np.full((3, 8, 8), 9, "u2")})
    found, _ = run("../ome", "../c.zarr", "ome-zarr")
    assert rows(found, "plate") == [("Q",)] and values(found) == [[9] * len(found.channels)]


def test_default_fills_in_and_set_overrides(tmp_path, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    write_harmony(tmp_path / "one", 7)
    found, _ = run(tmp_path / "one", tmp_path / "a.zarr", default="plate=B7")
    assert rows(found, "plate") == [("B7",)]
    for plate in ("P", "Q"):
        write_harmony(tmp_path / "two", 7, plate=plate, column=1 + (plate == "Q"))
    found, _ = run(tmp_path / "two", tmp_path / "b.zarr", default="plate=B7")
    assert rows(found, "plate") == [("P",), ("Q",)]
    assert "--default plate=B7 is not used: 2 folders name the plates (P, Q)" in caplog.text
    found, _ = run(tmp_path / "two", tmp_path / "c.zarr", set=["plate=B7", "site=3", "gene=x"])
    assert rows(found, "plate", "site", "gene") == [("B7", "3", "x")] * 2
    assert "--set plate=B7 is one name for 2: P, Q" in caplog.text


def test_values_of_keys_are_spelt_as_in_names(tmp_path):
    write_harmony(tmp_path / "raw", 7)
    found, _ = run(tmp_path / "raw", tmp_path / "a.zarr", set=["well=b3", "site=04", "plate=007"])
    assert rows(found, "plate", "well", "site") == [("007", "B03", "4")]


def test_offered_flags_are_quoted(tmp_path):
    for name in ("r01c01f01p01-ch1t1.tiff", "r01c01f01p1-ch1t1.tiff"):
        write(tmp_path / "raw" / "it's a [plate]", name, 7)
    with pytest.raises(UserError, match="both say they are") as error:
        run(tmp_path / "raw", tmp_path / "a.zarr")
    offered = re.search(r"and one with (--exclude .*? --set '.*?b')", str(error.value))
    words = dict(itertools.pairwise(shlex.split(offered[1])))
    options = {"exclude": words["--exclude"], "set": words["--set"]}
    found, _ = run(tmp_path / "raw", tmp_path / "b.zarr", **options)
    assert rows(found, "plate") == [("it's a [plate]b",)]


def test_names_of_channels_are_said_where_nothing_says_them(tmp_path, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    for channel in (1, 2):
        write_harmony(tmp_path / "raw", channel, channel=channel)
    found, _ = run(tmp_path / "raw", tmp_path / "a.zarr")
    assert found.channels == ("1", "2") and "as the files number them" in caplog.text
    found, _ = run(tmp_path / "raw", tmp_path / "b.zarr", "jump")
    assert found.channels == ("AGP", "Mito") and values(found) == [[2, 1]]
    assert "called as CPJUMP1 numbers them, because --layout jump asks for it" in caplog.text
    caplog.clear()
    found, _ = run(tmp_path / "raw", tmp_path / "c.zarr", "jump", channels="2=ER,1=DNA")
    assert found.channels == ("ER", "DNA") and values(found) == [[2, 1]]
    assert "CPJUMP1" not in caplog.text


def test_plates_with_other_channels_are_told_and_offered_a_bank(tmp_path):
    for plate, channels in (("P", (1, 2, 3)), ("Q", (1, 2, 4)), ("R", (1, 2, 3))):
        for channel in channels:
            write_harmony(tmp_path / "raw", 10 * channel, plate=plate, channel=channel)
    out = tmp_path / "a.zarr"
    found, code = run(tmp_path / "raw", out)
    assert rows(found, "plate") == [("P",), ("R",)] and found.channels == ("1", "2", "3")
    assert code == 1
    (bad,) = listed(out, "rejected")
    assert (bad["plate"], bad["reason"]) == ("Q", "channel_set")
    own, both = re.findall(r"--channels '([^']+)'", bad["detail"])
    assert (own, both) == ("1,2,4", "1,2")
    found, code = run(tmp_path / "raw", tmp_path / "b.zarr", channels=own)
    assert rows(found, "plate") == [("Q",)] and values(found) == [[10, 20, 40]]
    found, code = run(tmp_path / "raw", tmp_path / "c.zarr", channels=both)
    assert rows(found, "plate") == [("P",), ("Q",), ("R",)] and code == 0


def test_two_files_for_one_image_and_the_flags_that_mend_it(tmp_path):
    for number in (1, 2):
        plate = f"B__2020-01-0{number}T00_00_00-Measurement{number}"
        write_harmony(tmp_path / "raw", 10 * number, plate=plate)
    with pytest.raises(UserError, match=r"Measurement2/.*and B__.*Measurement1/.*both") as error:
        run(tmp_path / "raw", tmp_path / "a.zarr")
    first, second, again = re.findall(r"--exclude '([^']+)'", str(error.value))
    assert first == second != again
    found, code = run(tmp_path / "raw", tmp_path / "b.zarr", exclude=first)
    assert values(found) == [[10]] and code == 0
    assert [row["reason"] for row in listed(tmp_path / "b.zarr", "remarks")] == ["excluded"]
    other = flags(str(error.value), "set")["set"]
    found, code = run(tmp_path / "raw", tmp_path / "c.zarr", exclude=again, set=other)
    assert rows(found, "plate") == [("Bb",)] and values(found) == [[20]] and code == 0


def test_planes_of_two_measurements_are_not_put_together(tmp_path):
    for number in (1, 2):
        plate = f"B__2020-01-0{number}T00_00_00-Measurement{number}"
        write_harmony(tmp_path / "raw", 10 * number, plate=plate, channel=number)
    write_harmony(tmp_path / "raw", 40, plate="B__2020-01-01T00_00_00-Measurement1", column=2)
    found, code = run(tmp_path / "raw", tmp_path / "a.zarr", channels="1")
    assert rows(found, "well") == [("A02",)] and code == 1
    (bad,) = listed(found.path, "rejected")
    assert bad["reason"] == "duplicate" and bad["well"] == "A01"
    exclude = re.findall(r"--exclude '([^']+)'", bad["detail"])[0]
    found, code = run(tmp_path / "raw", tmp_path / "b.zarr", exclude=exclude)
    assert rows(found, "well") == [("A01",), ("A02",)] and code == 0


def test_channels_without_a_name_are_listed(tmp_path):
    for channel in (1, 5, 6):
        write_harmony(tmp_path / "raw", 10 * channel, channel=channel)
    found, code = run(tmp_path / "raw", tmp_path / "a.zarr", "jump")
    assert found.channels == ("DNA", "Mito") and code == 0
    (remark,) = listed(found.path, "remarks")
    assert remark["reason"] == "channels_left_out"
    offered = re.findall(r"--channels '([^']+)'", remark["detail"])[0]
    found, _ = run(tmp_path / "raw", tmp_path / "b.zarr", "jump", channels=offered)
    assert found.channels == ("DNA", "Mito", "6") and values(found) == [[50, 10, 60]]
    assert not listed(found.path, "remarks")


def test_sidecars_are_left_out_and_listed(tmp_path, caplog):
    names = ("P_A01_w1.TIF", "P_A01_w2.tif", "P_A01_w1_thumb.tif", "thumbs/P_A01_w1.tif")
    for name in (*names, "DC_camera.tif", "SC_488.tif", "overview.png", "snap1.tif", "snap2.tif"):
        write(tmp_path / "raw" / "P" / "TimePoint_1", name, 9)
    out = tmp_path / "b.zarr"
    caplog.set_level(logging.INFO, "phenomjax")
    found, code = run(tmp_path / "raw", out, "imagexpress")
    assert rows(found, "plate", "well") == [("P", "A01")] and code == 1
    counted = [row["reason"] for row in listed(out, "remarks")]
    assert sorted(counted) == ["overview", "shading", "shading", "thumbnail", "thumbnail"]
    assert [row["reason"] for row in listed(out, "rejected")] == ["unknown_name"] * 2
    assert "layout imagexpress does not know: 2 like snap#.tif" in caplog.text
    found, code = run(tmp_path / "raw", tmp_path / "c.zarr", "imagexpress", exclude="*/SNAP*")
    assert code == 0
    with pytest.raises(UserError, match=r"--exclude 'snap1.tif' fits no file.*'\*snap1.tif\*'"):
        run(tmp_path / "raw", tmp_path / "d.zarr", "imagexpress", exclude="snap1.tif")


def test_what_no_reader_reads_is_listed(tmp_path):
    write(tmp_path / "raw" / "P", "A01_w1.tif", 7)
    for name in ("A02_w1.nd2", "A03_w1.JPG", "A04.tif.gz", "notes.txt"):
        (tmp_path / "raw" / "P" / name).write_bytes(b"x")
    write_plate(tmp_path / "raw" / "Q.zarr", "0.5", {("A/1", "0"): np.ones((3, 8, 8), "u2")})
    found, code = run(tmp_path / "raw", tmp_path / "b.zarr", "imagexpress")
    assert rows(found, "well") == [("A01",)] and code == 0
    left_out = {row["file"]: row["reason"] for row in listed(found.path, "remarks")}
    names = ("P/A02_w1.nd2", "P/A03_w1.JPG", "P/A04.tif.gz", "Q.zarr")
    assert left_out == dict.fromkeys(names, "other_format")


def test_files_that_differ_in_capitals(tmp_path):
    for number, name in enumerate(("A01_w1.tif", "A01_w1.TIF", "a[1]_w1.tif")):
        write(tmp_path / "raw" / "P", name, number)
    pattern = r"(?P<plate>[^/]+)/(?P<well>[Aa]\[?\d+)\]?_w(?P<channel>\d)\.\w+"
    run(tmp_path / "raw", tmp_path / "a.zarr", "generic", pattern=pattern)
    (bad,) = listed(tmp_path / "a.zarr", "rejected")
    assert bad["file"] == "P/A01_w1.tif" and "and P/A01_w1.TIF both" in bad["detail"]
    first, _, second = re.findall(r"--exclude '([^']+)'", bad["detail"])
    for number, exclude in enumerate((second, first)):
        out = tmp_path / f"{number}.zarr"
        found, _ = run(
            tmp_path / "raw", out, "generic", pattern=pattern, exclude=[exclude, "P/a[[]1]_w1.tif"]
        )
        assert values(found) == [[number]]


def test_projections_of_metaxpress(tmp_path):
    for step in (0, 1, 2):
        write(tmp_path / "raw", f"P/TimePoint_1/ZStep_{step}/P_A01_s1_w1.TIF", 10 * (3 - step))
    out = tmp_path / "a.zarr"
    with pytest.raises(UserError, match=r"Channel 1 has 2 planes along z: 1, 2"):
        run(tmp_path / "raw", out, "imagexpress")
    found, code = run(tmp_path / "raw", out, "imagexpress", z="max")
    assert values(found) == [[20]] and code == 0
    (remark,) = listed(out, "remarks")
    assert remark["reason"] == "projection"
    offered = re.findall(r"--exclude '([^']+)'", remark["detail"])[0]
    found, _ = run(tmp_path / "raw", tmp_path / "b.zarr", "imagexpress", exclude=offered)
    assert values(found) == [[30]]


def test_rows_of_1536_wells_are_no_numbers(tmp_path):
    for well in ("W1", "AA12", "Z09"):
        write(tmp_path / "raw" / "P", f"{well}_s1_w1.tif", 7)
    found, _ = run(tmp_path / "raw", tmp_path / "a.zarr", "imagexpress")
    assert rows(found, "well") == [("W01",), ("Z09",), ("AA12",)]


def test_numbered_wells_need_the_size_of_the_plate(tmp_path):
    for well in (1, 14):
        write(tmp_path / "raw" / "P", f"W{well:04d}F001T0001Z001C1.tif", well)
    with pytest.raises(UserError, match=r"number the wells .W0001") as error:
        run(tmp_path / "raw", tmp_path / "a.zarr", "cellvoyager")
    offered = flags(str(error.value), "plate_wells")
    found, _ = run(tmp_path / "raw", tmp_path / "b.zarr", "cellvoyager", **offered)
    assert rows(found, "plate", "well") == [("P", "A01"), ("P", "B02")]
    found, _ = run(tmp_path / "raw", tmp_path / "c.zarr", "cellvoyager", plate_wells="384")
    assert rows(found, "well") == [("A01",), ("A14",)]
    for wrong in ("97", "12"):
        with pytest.raises(UserError, match="plate_wells"):
            run(tmp_path / "raw", tmp_path / "d.zarr", "cellvoyager", plate_wells=wrong)


def test_odd_folders_are_named_and_the_rest_is_kept(tmp_path):
    raw = tmp_path / "raw"
    for plate in ("P", "²", "a\nb"):
        write(raw / plate, "A01_s1_w1.tif", 7)
    os.symlink("/nowhere/x.tif", raw / "P" / "A02_s1_w1.tif")
    os.symlink("..", raw / "P" / "up")
    os.symlink("self", raw / "P" / "self")
    os.mkdir(os.fsencode(raw) + b"/P\xff")
    shutil.copy(
        raw / "P" / "A01_s1_w1.tif", os.fsdecode(os.fsencode(raw) + b"/P\xff/A01_s1_w1.tif")
    )
    out = tmp_path / "b.zarr"
    found, code = run(raw, out, "generic", pattern=GENERIC)
    assert sorted(rows(found, "plate")) == [("P",), ("a\nb",), ("²",)] and code == 1
    bad = {row["file"]: row["reason"] for row in listed(out, "rejected")}
    assert bad == {
        "P/A02_s1_w1.tif": "dangling_link",
        "P/up": "link_loop",
        "P/self": "dangling_link",
        r"P\xff/A01_s1_w1.tif": "file_name",
    }
    with pytest.raises(UserError, match=r"is a file, and a folder is wanted: give .*raw/P,"):
        run(raw / "P" / "A01_s1_w1.tif", tmp_path / "c.zarr", "generic", pattern=GENERIC)
    with pytest.raises(UserError, match="is no UTF-8"):
        run(os.fsdecode(os.fsencode(raw) + b"/P\xff"), tmp_path / "c.zarr", "phenix")
    with pytest.raises(UserError, match=r"3 like A#_s#_w#.tif.*fit --layout rxrx1 or imagexpress"):
        run(raw / "P", tmp_path / "c.zarr", "phenix")


def test_images_in_two_formats(tmp_path):
    for well in ("A01", "A02"):
        write(tmp_path / "raw" / "P", f"{well}_s1_w1.tif", 7)
        shutil.copy(
            tmp_path / "raw" / "P" / f"{well}_s1_w1.tif",
            tmp_path / "raw" / "P" / f"{well}_s1_w1.png",
        )
    with pytest.raises(UserError, match="both say they are channel 1") as error:
        run(tmp_path / "raw", tmp_path / "a.zarr", "imagexpress")
    offered = re.findall(r"--exclude '([^']+)'", str(error.value))[0]
    found, code = run(tmp_path / "raw", tmp_path / "b.zarr", "imagexpress", exclude=offered)
    assert values(found) == [[7], [7]] and code == 0


def test_the_offered_layout_fits(tmp_path):
    write_harmony(tmp_path / "raw", 7)
    with pytest.raises(UserError, match=r"None of the 1 images .*fit --layout jump or") as error:
        run(tmp_path / "raw", tmp_path / "a.zarr", "rxrx1")
    offered = re.findall(r"--layout (\w+) or (\w+)", str(error.value))[0]
    for number, layout in enumerate(offered):
        found, _ = run(tmp_path / "raw", tmp_path / f"{number}.zarr", layout)
        assert values(found) == [[7]]


def test_pipes_are_not_waited_for_and_our_own_pictures_are_no_images(tmp_path):
    raw = tmp_path / "raw"
    write(raw / "P", "A01_s1_w1.tif", 7)
    os.mkfifo(raw / "P" / "A02_s1_w1.tif")
    out, options = raw / "b.zarr", {"layout": "imagexpress", "intensity": "keep"}
    assert prepare(raw, out, dry_run=True, **options) == 1
    assert (raw / "b_dry_run" / "sheet.png").is_file()
    assert prepare(raw, out, **options) == 1
    assert [row["file"] for row in listed(out, "rejected")] == ["P/A02_s1_w1.tif"]
    assert prepare(raw, raw / "c.zarr", exclude="*A02*", **options) == 0


def test_plates_that_differ_in_leading_zeros_stay_apart(tmp_path):
    for plate, value in (("007", 7), ("7", 8)):
        for well in ("A01", "A02"):
            write(tmp_path / "raw" / plate, f"{well}_s1_w1.tif", value)
    found, _ = run(tmp_path / "raw", tmp_path / "b.zarr", "generic", pattern=GENERIC)
    assert rows(found, "plate", "well") == [
        ("007", "A01"),
        ("007", "A02"),
        ("7", "A01"),
        ("7", "A02"),
    ]
    assert values(found) == [[7], [7], [8], [8]]


def test_a_bank_of_an_older_version_is_known_again(tmp_path):
    """It has no column time, and took leading zeros off plates."""
    for well in ("A01", "A02"):
        write(tmp_path / "raw" / "007", f"{well}_s1_w1.tif", 100)
    whole = tmp_path / "raw" / "007" / "A02_s1_w1.tif"
    whole.rename(tmp_path / "A02.tif")
    out, options = tmp_path / "a.zarr", {"pattern": GENERIC}
    assert prepare(tmp_path / "raw", out, "generic", **options) == 0
    table = pq.read_table(out / "metadata.parquet").drop_columns(["time"])
    place = table.column_names.index("plate")
    pq.write_table(table.set_column(place, "plate", [["7"]]), out / "metadata.parquet")
    text = (out / "zarr.json").read_text()
    (out / "zarr.json").write_text(text.replace('"007"', '"7"'))
    opened = opening.open_bank(out)
    assert rows(opened, "plate", "well", "time") == [("7", "A01", None)]
    (tmp_path / "A02.tif").rename(whole)
    assert prepare(tmp_path / "raw", tmp_path / "b.zarr", "generic", not_in=out, **options) == 0
    second = opening.open_bank(tmp_path / "b.zarr")
    assert rows(second, "plate", "well") == [("007", "A02")]
    numbers = [one.attributes["intensity"]["numbers"] for one in (opened, second)]
    assert numbers[0]["7"] == numbers[1]["007"]


def test_plates_of_another_size_go_into_a_bank_of_their_own(tmp_path, caplog):
    for plate, size in (("P", (16, 16)), ("Q", (24, 20))):
        for well in ("A01", "A02", "A03")[: 3 if plate == "P" else 2]:
            write(tmp_path / "raw" / plate, f"{well}_s1_w1.tif", 100, size)
    out = tmp_path / "a.zarr"
    assert prepare(tmp_path / "raw", out, "generic", pattern=GENERIC) == 1
    offered = flags(caplog.text[caplog.text.index("the same command with") :], "not-in")["not-in"]
    assert offered == str(out)
    other = tmp_path / "b.zarr"
    assert prepare(tmp_path / "raw", other, "generic", pattern=GENERIC, not_in=offered) == 0
    found = opening.open_bank(other)
    assert rows(found, "plate", "well") == [("Q", "A01"), ("Q", "A02")]
    assert found.shape == (2, 24, 20, 1) and found.read(0).max() == 255
    assert list(found.attributes["intensity"]["numbers"]) == ["Q"]


def test_nothing_could_be_read_and_then_it_can(tmp_path):
    file = tmp_path / "raw" / "P" / "A01_s1_w1.tif"
    write(file.parent, file.name, 7)
    whole = file.read_bytes()
    file.write_bytes(b"")
    with pytest.raises(UserError, match="Mend them and run the same command again"):
        run(tmp_path / "raw", tmp_path / "b.zarr", "generic", pattern=GENERIC)
    file.write_bytes(whole)
    found, code = run(tmp_path / "raw", tmp_path / "b.zarr", "generic", pattern=GENERIC)
    assert values(found) == [[7]] and code == 0 and not listed(found.path, "rejected")


def test_a_source_that_was_edited_after_the_bank_was_made(tmp_path, caplog):
    file = tmp_path / "raw" / "P" / "A01_s1_w1.tif"
    write(file.parent, file.name, 7)
    out, options = tmp_path / "b.zarr", {"pattern": GENERIC}
    run(tmp_path / "raw", out, "generic", **options)
    later = (out / "zarr.json").stat().st_mtime + 5
    os.utime(file, (later, later))  # copied again, the same
    run(tmp_path / "raw", out, "generic", **options)
    write(file.parent, file.name, 9)
    os.utime(file, (later + 1, later + 1))
    with pytest.raises(UserError, match=r"1 of its 1 images were edited.*P/A01_s1_w1.tif") as error:
        run(tmp_path / "raw", out, "generic", **options)
    assert error.value.exit_code == 1
    shutil.rmtree(out)  # as the error says
    assert values(run(tmp_path / "raw", out, "generic", **options)[0]) == [[9]]
    before = file.stat().st_mtime_ns
    write(file.parent, file.name, 8)
    os.utime(file, ns=(before, before))  # the size and the date of before
    run(tmp_path / "raw", out, "generic", **options)
    with pytest.raises(UserError, match="1 of its 1 images were edited"):
        run(tmp_path / "raw", out, "generic", **options, verify_sources=True)
    write(file.parent, file.name, 9)
    write(file.parent, "A02_s1_w1.tif", 5)
    os.utime(file, ns=(before, before))
    with pytest.raises(UserError, match=rf"1 images .*A02_s1_w1.tif.*--not-in {out}"):
        run(tmp_path / "raw", out, "generic", **options)
    assert "--verify_sources" not in caplog.text
    os.utime(file, ns=(before + 1, before + 1))  # it may have been edited
    run(tmp_path / "raw", tmp_path / "touched.zarr", "generic", **options, not_in=out)
    assert "edited ones are not taken here" in caplog.text
    os.utime(file, ns=(before, before))
    more, _ = run(tmp_path / "raw", tmp_path / "more.zarr", "generic", **options, not_in=out)
    assert values(more) == [[5]]
    write(file.parent, "A03_s1_w1.tif", 6)  # a third bank: neither of the first two banks' images
    third = {**options, "not_in": more.path}
    found, _ = run(tmp_path / "raw", tmp_path / "third.zarr", "generic", **third)
    assert values(found) == [[6]]
    write(file.parent, file.name, 8)
    os.utime(file, (later + 2, later + 2))
    with pytest.raises(UserError, match=r"1 of its 1 images were edited.*, and 2 others are not"):
        run(tmp_path / "raw", out, "generic", **options)
    write(file.parent, file.name, 9)
    out.rename(tmp_path / "moved.zarr")
    found, _ = run(tmp_path / "raw", tmp_path / "fourth.zarr", "generic", **third)
    assert values(found) == [[9], [6]]
    assert f"made without the images of {out}, which is not there any more" in caplog.text
    (tmp_path / "moved.zarr").rename(out)
    (file.parent / "A02_s1_w1.tif").unlink()
    (file.parent / "A03_s1_w1.tif").unlink()
    write(file.parent, "A01_s1_w2.tif", 5)
    with pytest.raises(UserError, match=r"channels of .* are 1, 2 now, in the bank 1"):
        run(tmp_path / "raw", out, "generic", **options)
    (file.parent / "A01_s1_w2.tif").unlink()
    assert values(run(tmp_path / "raw", out, "generic", **options)[0]) == [[9]]
    shutil.rmtree(tmp_path / "raw")  # nothing to compare with
    run(tmp_path / "raw", out, "generic", **options)


def test_a_pattern_that_takes_the_channel_for_the_site_and_the_way_that_is_offered(tmp_path):
    for number, name in enumerate(("DAPI", "GFP"), 1):
        write(tmp_path / "raw", f"P/A01_{number}_{name}.tif", 10 * number)
    wrong = r"(?P<well>[A-H]\d\d)_(?P<site>\d)_(?P<channel>[A-Z]+)\.tif"
    with pytest.raises(UserError, match=r"one channel only.*2: GFP, DAPI.*read as the site"):
        prepare(tmp_path / "raw", tmp_path / "b.zarr", "generic", pattern=wrong)
    right = r"(?P<well>[A-H]\d\d)_\d_(?P<channel>[A-Z]+)\.tif"
    assert prepare(tmp_path / "raw", tmp_path / "b.zarr", "generic", pattern=right) == 0
    options = {"pattern": wrong, "channels": "DAPI"}
    assert prepare(tmp_path / "raw", tmp_path / "c.zarr", "generic", **options) == 0
    assert opening.open_bank(tmp_path / "c.zarr").shape[0] == 1
