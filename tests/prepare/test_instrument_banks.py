"""prepare images on plates of instruments: what their indexes say stands in the bank, and what an
error offers mends it.
"""

import logging
import re
import shlex

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from phenomjax.data.images import opening
from phenomjax.system.errors import UserError
from tests.lab import instruments as lab
from tests.prepare.test_images import prepare

RECORDS = [(1, 1, 1, 1, channel, 1) for channel in (1, 2)]


def keys(bank):
    return {(row["plate"], row["well"], row["site"]) for row in bank.metadata.to_pylist()}


def reasons(out, name):
    return {row["reason"] for row in pq.read_table(out / f"{name}.parquet").to_pylist()}


@pytest.mark.parametrize("layout", ["phenix", "jump", "imagexpress"])
def test_the_index_decides_whatever_the_layout(tmp_path, layout):
    """Names and pixels are those of the index, which calls channel 1 what the names call ch2."""

    def swapped(row, column, field, plane, channel, time):
        return lab.harmony_name(row, column, field, plane, 3 - channel)

    lab.write_harmony(tmp_path / "in" / "P" / "Images", url=swapped)
    assert prepare(tmp_path / "in", tmp_path / "b.zarr", layout, intensity="keep") == 0
    bank = opening.open_bank(tmp_path / "b.zarr")
    assert bank.channels == ("HOECHST 33342", "Alexa 488")
    for channel in (0, 1):
        expected = lab.pixels(lab.harmony_name(1, 1, channel=2 - channel))
        np.testing.assert_array_equal(bank.read(0)[..., channel], expected)
    assert keys(bank) == {("BR1", "A01", "1"), ("BR1", "B03", "1")}
    assert bank.attributes["pixel_size_um"] == pytest.approx(0.598)


@pytest.mark.parametrize(
    ("layout", "write", "channels", "plate"),
    [
        (
            "imagexpress",
            lambda folder: lab.write_metaxpress(
                folder, [f"TimePoint_1/P1_A01_s1_w{wave}.TIF" for wave in (1, 2)]
            ),
            ("DAPI", "FITC"),
            "P1",
        ),
        ("cellvoyager", lambda f: lab.write_cellvoyager(f, RECORDS), ("DNA", "ER"), "1053601756"),
        (
            "incell",
            lambda f: lab.write_incell(f, [(1, 1, 1, 0), (1, 1, 1, 1)]),
            ("DAPI", "FITC"),
            "Screen 1",
        ),
    ],
)
def test_every_instrument(tmp_path, layout, write, channels, plate):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in")
    options = {"intensity": "keep"}
    assert prepare(tmp_path / "in", tmp_path / "b.zarr", layout, **options) == 0
    bank = opening.open_bank(tmp_path / "b.zarr")
    assert bank.channels == channels and keys(bank) == {(plate, "A01", "1")}
    largest = {"cellvoyager": 65535}.get(layout)  # the others do not say it
    assert bank.attributes["intensity"].get("source_largest_value") == largest
    names = bank.metadata["source"].to_pylist()[0].split(";")
    expected = np.stack([lab.pixels(name.rsplit("/", 1)[-1]) for name in names], -1)
    np.testing.assert_array_equal(bank.read(0), expected)


def test_a_damaged_index_and_the_way_that_is_offered(tmp_path):
    folder = lab.write_harmony(tmp_path / "in" / "P [1]" / "Images")
    index = folder / "Index.idx.xml"
    index.write_bytes(index.read_bytes()[:-300])
    with pytest.raises(UserError, match="no whole XML file") as error:
        prepare(tmp_path / "in", tmp_path / "b.zarr", "phenix")
    assert error.value.exit_code == 2
    (flag,) = re.findall("--exclude '(.*)'", str(error.value))
    assert prepare(tmp_path / "in", tmp_path / "b.zarr", "phenix", exclude=flag) == 0
    assert opening.open_bank(tmp_path / "b.zarr").channels == ("1", "2")
    assert reasons(tmp_path / "b.zarr", "remarks") == {"excluded"}
    # beside good plates only its own images are rejected
    lab.write_harmony(tmp_path / "in" / "Q")
    assert prepare(tmp_path / "in", tmp_path / "c.zarr", "phenix") == 1
    assert len(opening.open_bank(tmp_path / "c.zarr").metadata) == 2
    rejected = pq.read_table(tmp_path / "c.zarr" / "rejected.parquet").to_pylist()
    assert {(row["reason"], row["file"].split("/")[0]) for row in rejected} == {
        ("damaged_index", "P [1]")
    }
    assert flag in rejected[0]["detail"]
    # and of several in a folder, one that is whole decides
    (folder / "Index.xml").write_text(lab.harmony_index(lab.harmony_images()).replace("BR1", "X"))
    assert prepare(tmp_path / "in", tmp_path / "d.zarr", "phenix") == 0
    assert len(opening.open_bank(tmp_path / "d.zarr").metadata) == 4


def test_an_index_without_its_images(tmp_path):
    folder = lab.write_harmony(tmp_path / "in")
    for i, file in enumerate(folder.glob("*.tiff")):
        file.rename(file.with_name(f"{i}.tiff"))
    with pytest.raises(UserError, match=r"belongs to other images .* None of the 4 images"):
        prepare(tmp_path / "in", tmp_path / "b.zarr", "phenix")
    for file in folder.glob("*.tiff"):
        file.unlink()
    with pytest.raises(UserError, match=r"there is none in its folder: copy them\. There are no"):
        prepare(tmp_path / "in", tmp_path / "b.zarr", "phenix")
    lab.write_harmony(folder, url=lambda *image: lab.harmony_name(1, 1))
    with pytest.raises(UserError, match=r"rejected \(4 problems\).* listed twice"):
        prepare(tmp_path / "in", tmp_path / "b.zarr", "phenix")


def test_a_plate_with_an_index_and_one_without(tmp_path, caplog):
    lab.write_harmony(tmp_path / "in" / "P")
    for image in lab.harmony_images():
        lab.write_image(tmp_path / "in" / "Q" / lab.harmony_name(*image))
    with caplog.at_level(logging.INFO):
        assert prepare(tmp_path / "in", tmp_path / "b.zarr", "phenix") == 0
    assert opening.open_bank(tmp_path / "b.zarr").channels == ("1", "2")
    assert "channels are called by their numbers, for some have no name" in caplog.text
    assert '--channels "1=HOECHST 33342,2=Alexa 488"' in caplog.text
    chosen = {"channels": "1=HOECHST 33342,2=Alexa 488"}
    assert prepare(tmp_path / "in", tmp_path / "c.zarr", "phenix", **chosen) == 0
    assert opening.open_bank(tmp_path / "c.zarr").channels == ("HOECHST 33342", "Alexa 488")
    # where plates number their channels differently, numbers do not do
    labels = dict(zip((2, 1), lab.LABELS.values(), strict=True))
    lab.write_harmony(tmp_path / "in" / "R", labels=labels, plates=(("BR2", "", ()),))
    with pytest.raises(UserError, match=r"with --exclude 'Q/\*'"):
        prepare(tmp_path / "in", tmp_path / "d.zarr", "phenix", **chosen)
    assert prepare(tmp_path / "in", tmp_path / "d.zarr", "phenix", exclude="Q/*") == 0
    bank = opening.open_bank(tmp_path / "d.zarr")
    assert bank.channels == ("HOECHST 33342", "Alexa 488") and len(bank.metadata) == 4


def test_a_default_plate_is_not_used_and_the_way_that_is_offered(tmp_path, caplog):
    lab.write_harmony(tmp_path / "in")
    with caplog.at_level(logging.INFO):
        assert prepare(tmp_path / "in", tmp_path / "b.zarr", "phenix", default="plate=X") == 0
    assert (
        "--default plate=X is not used where an index says the plate. --set plate=X" in caplog.text
    )
    assert prepare(tmp_path / "in", tmp_path / "c.zarr", "phenix", set="plate=X") == 0
    plates = [opening.open_bank(tmp_path / f"{name}.zarr").metadata["plate"] for name in "bc"]
    assert [set(plate.to_pylist()) for plate in plates] == [{"BR1"}, {"X"}]


@pytest.mark.parametrize("second", ["", "HOECHST 33342"])
def test_empty_or_repeated_names_ask_for_channels(tmp_path, second):
    lab.write_harmony(tmp_path / "in", labels={1: "HOECHST 33342", 2: second})
    with pytest.raises(UserError, match="Name all by their numbers") as error:
        prepare(tmp_path / "in", tmp_path / "b.zarr", "phenix")
    (items,) = re.findall('--channels "(.*)"', str(error.value))
    assert prepare(tmp_path / "in", tmp_path / "b.zarr", "phenix", channels=items) == 0
    bank = opening.open_bank(tmp_path / "b.zarr")
    assert bank.channels == ("HOECHST 33342", "channel2")


@pytest.mark.parametrize("indexed", [(1, 2), (1,), ()])
def test_a_plate_that_was_measured_twice_and_the_way_that_is_offered(tmp_path, indexed):
    """Whether an index or a folder says which plate it is, and whatever channels there are."""
    for i in (1, 2):
        folder = tmp_path / "in" / f"BR1__2020-01-0{i}T00_00_00-Measurement{i}" / "Images"
        lab.write_harmony(folder, lab.harmony_images(channels=(i,)))
        if i not in indexed:
            (folder / "Index.idx.xml").unlink()
    with pytest.raises(UserError, match="All images were rejected") as error:
        prepare(tmp_path / "in", tmp_path / "b.zarr", "phenix")
    this, again, that, plate = re.search(
        r"--exclude '(.*?)'; or .*--exclude '(.*?)' and .*--exclude '(.*?)' --set (plate=\w+)",
        str(error.value),
    ).groups()
    assert this == again
    assert prepare(tmp_path / "in", tmp_path / "b.zarr", "phenix", exclude=this) == 0
    second = {"exclude": that, "set": plate}
    assert prepare(tmp_path / "in", tmp_path / "c.zarr", "phenix", **second) == 0
    assert keys(opening.open_bank(tmp_path / "b.zarr")) == {("BR1", w, "1") for w in ("A01", "B03")}
    assert keys(opening.open_bank(tmp_path / "c.zarr")) == {
        ("BR1b", w, "1") for w in ("A01", "B03")
    }


def test_pages_that_the_index_does_not_know(tmp_path):
    """Pages are never dropped without a word."""
    names = [f"P1_A01_s{site}_w{wave}.tif" for site in (1, 2) for wave in (1, 2)]
    lab.write_metaxpress(tmp_path / "in", names)
    stack = np.arange(3 * 16 * 16, dtype="uint16").reshape(3, 16, 16)
    for name in names:
        tifffile.imwrite(tmp_path / "in" / name, stack, photometric="minisblack")
    with pytest.raises(UserError, match="--pages z when they are planes"):
        prepare(tmp_path / "in", tmp_path / "b.zarr", "imagexpress")
    options = {"pages": "z", "z": "max", "intensity": "keep"}
    assert prepare(tmp_path / "in", tmp_path / "b.zarr", "imagexpress", **options) == 0
    bank = opening.open_bank(tmp_path / "b.zarr")
    assert bank.channels == ("DAPI", "FITC")
    np.testing.assert_array_equal(bank.read(0)[..., 1], stack[2])


def test_projections_of_metaxpress_and_the_way_to_take_them(tmp_path, caplog):
    names = [f"TimePoint_1/ZStep_{z}/P1_A01_w{wave}.TIF" for z in (0, 1, 2) for wave in (1, 2)]
    lab.write_metaxpress(tmp_path / "in", names)
    with caplog.at_level(logging.INFO):
        assert prepare(tmp_path / "in", tmp_path / "b.zarr", "imagexpress", z="2") == 0
    assert "--exclude '*ZStep_[1-9]*'" in caplog.text
    assert reasons(tmp_path / "b.zarr", "remarks") == {"projection"}
    assert "ZStep_2" in opening.open_bank(tmp_path / "b.zarr").metadata["source"][0].as_py()
    projected = {"exclude": "*ZStep_[1-9]*"}
    assert prepare(tmp_path / "in", tmp_path / "c.zarr", "imagexpress", **projected) == 0
    assert "ZStep_0" in opening.open_bank(tmp_path / "c.zarr").metadata["source"][0].as_py()


@pytest.mark.shared_data
def test_cases(shared, tmp_path):
    cases = shared.parent / "cases" / "images"
    for layout in ("jump", "phenix"):
        out = tmp_path / f"{layout}.zarr"
        assert prepare(cases / "phenix_index_xml" / "in", out, layout) == 0
        bank = opening.open_bank(out)
        labels = ("HOECHST 33342", "Alexa 488", "488 long", "Alexa 568", "Alexa 647")
        assert bank.channels == labels
        assert keys(bank) == {("SQ00015195", well, "1") for well in ("A01", "A02")}
        assert bank.attributes["pixel_size_um"] == pytest.approx(0.6)
    out = tmp_path / "thumbs.zarr"
    assert prepare(cases / "imagexpress_thumbs" / "in", out, "imagexpress") == 0
    bank = opening.open_bank(out)
    assert bank.channels == ("DAPI", "FITC") and reasons(out, "remarks") == {"thumbnail"}
    assert keys(bank) == {("230101-U2OS", well, site) for well in ("A01", "B12") for site in "12"}


def test_two_indexes_that_call_the_channels_otherwise_and_the_way_to_the_other(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = lab.write_harmony(tmp_path / "in" / "P" / "Images")
    other = (folder / "Index.idx.xml").read_text().replace("Alexa 488", "GFP")
    (folder / "Index.xml").write_text(other)
    assert prepare(tmp_path / "in", tmp_path / "a.zarr", "phenix") == 0
    assert opening.open_bank(tmp_path / "a.zarr").channels == ("HOECHST 33342", "Alexa 488")
    assert "Index.xml calls the channels otherwise than P/Images/Index.idx.xml" in caplog.text
    exclude = shlex.split(caplog.text.split("instead: ")[1].splitlines()[0])[1]
    assert prepare(tmp_path / "in", tmp_path / "b.zarr", "phenix", exclude=exclude) == 0
    assert opening.open_bank(tmp_path / "b.zarr").channels == ("HOECHST 33342", "GFP")
