"""OME-Zarr plates as a source of `prepare images`: planes, channels, names, what is not there."""

import hashlib

import numpy as np
import pytest

from phenomjax.prepare.images import ome_plates
from phenomjax.prepare.images.records import BadFile
from phenomjax.system.errors import UserError
from tests.lab.ngff import change, image_attributes, write_array, write_group, write_plate

PLATE_OF_NOTHING = {"plate": {"wells": [{"path": "A/1"}]}}


def planes(seed, shape=(2, 16, 12), dtype="uint16"):
    return np.random.default_rng(seed).integers(1, 4000, shape).astype(dtype)


def test_planes_of_a_stack_are_read_alone(tmp_path):
    """Time, channel and z of each plane; chunks of other planes may be damaged."""
    pixels = planes(0, (2, 2, 3, 16, 12))
    write_plate(tmp_path / "p.zarr", "0.4", {("A/1", "0"): pixels}, ("DNA", "ER"), chunk=(8, 12))
    found = ome_plates.read(tmp_path)
    assert not found.understood.rejected and not found.understood.remarks
    by_place = {(p.t, p.label, p.z): p for p in found.understood.planes}
    assert len(by_place) == 12 and found.understood.pixel_size_um == 0.65
    wanted = [by_place[2, "ER", 3], by_place[1, "DNA", 2]]
    pages = [plane.page for plane in wanted]
    (tmp_path / "p.zarr/A/1/0/0/0.0.0.0.0").write_bytes(b"cut")
    file = wanted[0].file
    assert file == "p.zarr/A/1/0/0" and list(found.listing) == [file]
    checksum = hashlib.sha256()
    read = ome_plates.read_pixels(tmp_path, file, pages, checksum)
    np.testing.assert_array_equal(read, pixels[[1, 0], [1, 0], [2, 1]])
    names = (".zarray", "0.0.1.0.0", "0.0.1.1.0", "1.1.2.0.0", "1.1.2.1.0")
    content = b"".join((tmp_path / file / name).read_bytes() for name in names)
    assert checksum.hexdigest() == hashlib.sha256(content).hexdigest()
    with pytest.raises(BadFile, match="undecodable"):
        ome_plates.read_pixels(tmp_path, file, [0], checksum)
    assert ome_plates.read(tmp_path).listing[file] != found.listing[file]


def test_labels_of_every_field_are_read(tmp_path):
    fields = {(well, "0"): planes(i) for i, well in enumerate(("A/1", "A/2", "A/3", "A/4", "A/5"))}
    labels = {
        ("A/2", "0"): ("ER", "DNA"),
        ("A/3", "0"): ("DNA",),
        ("A/4", "0"): (),
        ("A/5", "0"): ("ER", "Mito"),
    }
    write_plate(tmp_path / "p.zarr", "0.5", fields, ("DNA", "ER"), "cyx", labels=labels)
    found = ome_plates.read(tmp_path).understood
    by_well = {}
    for plane in found.planes:
        by_well.setdefault(plane.key.well, []).append((plane.channel, plane.label))
    assert by_well == {
        "A01": [("1", "DNA"), ("2", "ER")],
        "A02": [("1", "ER"), ("2", "DNA")],
        "A03": [("1", ""), ("2", "")],  # unclear, and so refused without --channels
        "A04": [("1", ""), ("2", "")],
    }
    (other,) = found.rejected
    assert other.reason == "channel_set" and '--channels "ER,Mito"' in other.detail
    assert other.key[1:] == ("p", "A05", "0", None)
    assert len(ome_plates.read(tmp_path, any_channels=True).understood.planes) == 10


def test_one_acquisition(tmp_path):
    fields = {("A/1", site): planes(int(site)) for site in "012"}
    numbers = {("A/1", "0"): 0, ("A/1", "1"): 0, ("A/1", "2"): 3}
    labels = {("A/1", "2"): ("GFP", "RFP")}
    write_plate(
        tmp_path / "p.zarr",
        "0.4",
        fields,
        ("DNA", "ER"),
        "cyx",
        labels=labels,
        acquisitions=numbers,
    )
    both = ome_plates.read(tmp_path).understood
    assert "2 acquisitions" in both.told[0]
    assert '--channels "GFP,RFP" --acquisition 3' in both.rejected[0].detail
    one = ome_plates.read(tmp_path, acquisition="3").understood
    assert {plane.label for plane in one.planes} == {"GFP", "RFP"} and not one.rejected
    with pytest.raises(UserError, match=r"`acquisition` '7' has no images. The plates have: 0, 3."):
        ome_plates.read(tmp_path, acquisition="7")


def test_plates_of_one_name(tmp_path):
    for folder in ("a/BR1.zarr", "b/BR2.ome.zarr"):
        write_plate(
            tmp_path / folder,
            "0.4",
            {("A/1", "0"): planes(0)},
            axes="cyx",
            channels=("DNA", "ER"),
            plate={"name": "screen"},
        )
    found = ome_plates.read(tmp_path).understood
    assert {plane.key.plate for plane in found.planes} == {"BR1", "BR2"}
    assert "BR1.zarr: the plate is called BR1, for the metadata of 2 plates" in found.told[0]
    alone = ome_plates.read(tmp_path / "a").understood
    assert {plane.key.plate for plane in alone.planes} == {"screen"}
    assert "is called screen, as its metadata say, not BR1" in alone.told[0]


def test_good_plates_beside_bad_ones(tmp_path):
    for name in ("bad", "empty", "good"):
        write_plate(
            tmp_path / f"{name}.zarr",
            "0.4",
            {("A/1", "0"): planes(0)},
            ("DNA", "ER"),
            "cyx",
            chunk=(8, 12),
        )
    (tmp_path / "bad.zarr" / ".zattrs").write_text('{"plate": {"wells": [')
    change(tmp_path / "empty.zarr", lambda found: {"plate": {"wells": []}})
    (tmp_path / "good.zarr/A/1/0/0/1.1.0").unlink()
    write_group(tmp_path / "image.zarr", "0.4", image_attributes("cyx", ("DNA",)))
    (tmp_path / "gone.zarr").symlink_to(tmp_path / "nowhere")
    found = ome_plates.read(tmp_path).understood
    assert {plane.key.plate for plane in found.planes} == {"good"}
    rejected = {finding.file: finding.detail for finding in found.rejected}
    assert set(rejected) == {"bad.zarr", "empty.zarr", "gone.zarr"}
    assert "is not valid JSON" in rejected["bad.zarr"] and "no wells" in rejected["empty.zarr"]
    remarks = {(finding.reason, finding.file): finding for finding in found.remarks}
    assert "a single image" in remarks["no_plate", "image.zarr"].detail
    absent = remarks["missing_chunks", "good.zarr/A/1/0/0"]
    assert "1 of 2 chunks of channel 2 (ER) are not stored" in absent.detail
    assert absent.key[1:] == ("good", "A01", "0", None)
    strict = ome_plates.read(tmp_path, strict=True).understood
    assert "missing_chunks" in {finding.reason for finding in strict.rejected}


def test_what_is_excluded(tmp_path):
    fields = {("A/1", "0"): planes(0), ("A/2", "0"): planes(0)}
    for name in ("P1.zarr", "P2.zarr", b"P\xff.zarr".decode("utf-8", "surrogateescape")):
        write_plate(tmp_path / "p.zarr", "0.4", fields, ("DNA", "ER"), "cyx")
        (tmp_path / "p.zarr").rename(tmp_path / name)
    (tmp_path / "P1.zarr" / "A" / "2" / ".zattrs").write_text("{")
    found = ome_plates.read(tmp_path, exclude=["p2.ZARR", "*/A/2"]).understood
    assert {plane.key[1:3] for plane in found.planes} == {("P1", "A01")}
    assert [(one.reason, one.file) for one in found.rejected] == [("file_name", "P\\xff.zarr")]
    assert [one.file for one in found.remarks] == ["P2.zarr", "P1.zarr/A/2"]
    with pytest.raises(UserError, match="`exclude` 'A/3' fits no plate and no image"):
        ome_plates.read(tmp_path, exclude=["A/3"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "neither the folder itself nor one below it has 'plate' metadata"),
        (
            lambda path: write_group(path / "x.zarr", "0.5", {"bioformats2raw.layout": 3}),
            "x.zarr is a collection of 0 images without a plate .* without --no-hcs",
        ),
        (
            lambda path: write_group(path / "x.zarr", "0.4", {"multiscales": [{}]}),
            "x.zarr is a single image, no plate",
        ),
        (lambda path: write_array(path / "x.zarr", "0.5", planes(0)), "x.zarr is an array"),
        (lambda path: (path / "x.zarr.zip").write_bytes(b"PK"), "x.zarr.zip is a packed Zarr"),
        (
            lambda path: write_group(
                path / "x.zarr", "0.4", {"plate": {"wells": [{"path": "A/1"}]}}
            ),
            "x.zarr has no fields: .* The first: x.zarr/A/1 .* is in the plate's list of wells",
        ),
        (lambda path: (path / ".zattrs").write_bytes(b"\xff"), "is not UTF-8 text"),
    ],
)
def test_sources_without_a_plate(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(UserError, match=said):
        ome_plates.read(tmp_path)


def test_a_part_of_a_plate_is_named(tmp_path):
    write_plate(tmp_path / "p.zarr", "0.4", {("A/1", "0"): planes(0)}, axes="cyx", channels="ab")
    with pytest.raises(UserError, match=r"is a part of the OME-Zarr plate .*--source .*p.zarr\."):
        ome_plates.read(tmp_path / "p.zarr" / "A" / "1")
