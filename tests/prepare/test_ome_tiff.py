"""OME-TIFF plates: one file, sets of files, companions; wells and channels by the OME-XML."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from phenomjax.data.images import opening
from phenomjax.prepare.images.records import FileStatus, ImageKey, Plane, Understood
from phenomjax.prepare.images.sources import ome_tiff
from phenomjax.system.errors import UserError
from tests.prepare.test_images import prepare

PIXELS = np.random.default_rng(0).integers(0, 4096, (8, 24, 32), np.uint16)
PLAIN = {"metadata": None, "photometric": "minisblack"}
# (row, column) of each well, with its images
WELLS = {(0, 0): (0, 1), (1, 11): (2,)}


def text(data, *, images=3, uuid="urn:uuid:0", plate=True, wells=WELLS, extra=""):
    """OME-XML of images of two channels each; `data` makes the TiffData of an image."""
    listed = "".join(
        f'<Image ID="Image:{i}"><Pixels ID="P:{i}" DimensionOrder="XYCZT" Type="uint16" SizeX="32"'
        f' SizeY="24" SizeC="2" SizeZ="1" SizeT="1" PhysicalSizeX="0.5" SignificantBits="12">'
        f'<Channel ID="C:{i}:0" Name="DNA"/><Channel ID="C:{i}:1" Name="ER"/>{data(i)}</Pixels>'
        "</Image>"
        for i in range(images)
    )
    described = "".join(
        f'<Well ID="W:{row}:{column}" Row="{row}" Column="{column}">'
        + "".join(
            f'<WellSample ID="S:{i}" Index="{i}"><ImageRef ID="Image:{i}"/></WellSample>'
            for i in fields
        )
        + "</Well>"
        for (row, column), fields in wells.items()
    )
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
        f' UUID="{uuid}">'
        + (f'<Plate ID="Plate:0" Name="BR7">{described}{extra}</Plate>' if plate else "")
        + f"{listed}</OME>"
    )


def read(folder, by_names=None, **options):
    listing = {
        path.relative_to(folder).as_posix(): FileStatus(1, 1)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return ome_tiff.read(folder, listing, by_names, **options)


EXPECTED = [
    ("BR7", well, site, channel, label)
    for well, site in (("A01", "1"), ("A01", "2"), ("B12", "1"))
    for channel, label in (("1", "DNA"), ("2", "ER"))
]


def keys(found):
    return [(p.key.plate, p.key.well, p.key.site, p.channel, p.label) for p in found.planes]


def test_a_plate_in_one_file(tmp_path):
    description = text(
        lambda i: f'<TiffData IFD="{2 * i}" PlaneCount="2"/>',
        extra=('<Well ID="W:e" Row="2" Column="2"/>'),
    )
    tifffile.imwrite(tmp_path / "p.ome.tif", PIXELS[:6], description=description, **PLAIN)
    found = read(tmp_path)
    assert keys(found) == EXPECTED and [plane.page for plane in found.planes] == list(range(6))
    assert found.pixel_size_um == 0.5 and found.largest_value == 4095
    assert "1 plates (BR7), 3 fields, 1 wells without images" in found.told[0]


def write_set(folder, names="f{}.ome.tif", skip=()):
    """A file a plane, each with the whole OME-XML; FileName and UUID say which is which."""

    def data(i):
        return "".join(
            f'<TiffData IFD="0" FirstC="{c}" PlaneCount="1"><UUID'
            f' FileName="{names.format(2 * i + c)}">urn:uuid:{2 * i + c}</UUID></TiffData>'
            for c in range(2)
        )

    folder.mkdir(exist_ok=True)
    for number in range(6):
        if number not in skip:
            description = text(data, uuid=f"urn:uuid:{number}")
            path = folder / names.format(number)
            tifffile.imwrite(path, PIXELS[number], description=description, **PLAIN)
    return data


def test_a_set_of_files_and_one_that_is_missing(tmp_path):
    write_set(tmp_path)
    assert keys(read(tmp_path)) == EXPECTED and not read(tmp_path).remarks
    (tmp_path / "f5.ome.tif").unlink()
    found = read(tmp_path)
    assert keys(found) == EXPECTED[:5]
    assert [(one.reason, one.key[2]) for one in found.remarks] == [("missing_planes", "B12")]
    assert "has 1 of the 2 planes" in found.remarks[0].detail


def test_a_companion_file(tmp_path):
    data = write_set(tmp_path, skip=range(6))
    (tmp_path / "p.companion.ome").write_text(text(data))
    for number in range(6):
        only = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
            f' UUID="urn:uuid:{number}"><BinaryOnly MetadataFile="p.companion.ome"'
            ' UUID="urn:uuid:9"/></OME>'
        )
        path = tmp_path / f"f{number}.ome.tif"
        tifffile.imwrite(path, PIXELS[number], description=only, **PLAIN)
    assert keys(read(tmp_path)) == EXPECTED
    (tmp_path / "p.companion.ome").unlink()
    with pytest.raises(UserError, match=r"OME-XML is in p.companion.ome, which is not beside"):
        read(tmp_path)


def test_files_without_a_plate_are_named_by_a_pattern(tmp_path):
    description = text(lambda i: "<TiffData/>", images=1, plate=False)
    for well in ("A01", "A02"):
        path = tmp_path / f"{well}.ome.tif"
        tifffile.imwrite(path, PIXELS[:2], description=description, **PLAIN)
    with pytest.raises(UserError, match=r"so nothing says their wells.*--pattern"):
        read(tmp_path)

    def by_names(listing):
        return Understood(
            [Plane(file, 0, ImageKey(None, "P", file[:3], "1"), "1") for file in listing]
        )

    found = read(tmp_path, by_names)
    assert [(p.key.well, p.page, p.label) for p in found.planes] == [
        (well, page, label) for well in ("A01", "A02") for page, label in enumerate(("DNA", "ER"))
    ]
    (tmp_path / "A03.ome.tif").write_bytes(b"")
    found = read(tmp_path, by_names)
    assert len(found.planes) == 4 and found.rejected[0].file == "A03.ome.tif"


def test_images_of_no_well_are_left_out_and_told(tmp_path):
    description = text(
        lambda i: f'<TiffData IFD="{2 * i}" PlaneCount="2"/>', wells={(0, 0): (0, 1)}
    )
    tifffile.imwrite(tmp_path / "p.ome.tif", PIXELS[:6], description=description, **PLAIN)
    found = read(tmp_path)
    assert keys(found) == EXPECTED[:4]
    assert [one.reason for one in found.remarks] == ["not_in_plate"]


def test_no_tiff(tmp_path):
    with pytest.raises(UserError, match="There is no OME-TIFF in"):
        read(tmp_path)


def test_a_set_through_the_command(tmp_path, caplog):
    """From files to pixels; a field that lacks a channel is rejected, the others go in."""
    write_set(tmp_path / "raw")
    out = tmp_path / "b.zarr"
    assert prepare(tmp_path / "raw", out, "ome-tiff", intensity="keep") == 0
    bank = opening.open_bank(out)
    assert bank.channels == ("DNA", "ER") and bank.attributes["pixel_size_um"] == 0.5
    rows = bank.metadata.select(["plate", "well", "site"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [EXPECTED[i][:3] for i in (0, 2, 4)]
    for i in range(3):
        np.testing.assert_array_equal(bank.read(i), PIXELS[2 * i : 2 * i + 2].transpose(1, 2, 0))
    (tmp_path / "raw" / "f3.ome.tif").unlink()
    assert prepare(tmp_path / "raw", tmp_path / "c.zarr", "ome-tiff") == 1
    rejected = pq.read_table(tmp_path / "c.zarr" / "rejected.parquet").to_pylist()
    assert [(row["well"], row["site"], row["reason"]) for row in rejected] == [
        ("A01", "2", "missing_channel")
    ]
    remarks = pq.read_table(tmp_path / "c.zarr" / "remarks.parquet").to_pylist()
    assert [row["reason"] for row in remarks] == ["missing_planes"]


def test_one_page_of_a_set_by_names(tmp_path):
    """Each file is one channel of its image, as its own OME-XML says, whatever it is called."""
    (tmp_path / "raw").mkdir()
    for well, first in (("A01", 0), ("A02", 2)):
        data = "".join(
            f'<TiffData IFD="0" FirstC="{c}" PlaneCount="1"><UUID FileName="{well}_{c}.tif">'
            f"urn:uuid:{c}</UUID></TiffData>"
            for c in range(2)
        )
        for c in range(2):
            description = text(lambda _, d=data: d, images=1, plate=False, uuid=f"urn:uuid:{c}")
            path = tmp_path / "raw" / f"{well}_{c}.tif"
            tifffile.imwrite(path, PIXELS[first + 1 - c], description=description, **PLAIN)
    pattern = r"(?P<well>[A-H]\d\d)_(?P<channel>\d)\.tif"
    named = {"pattern": pattern, "intensity": "keep"}
    assert prepare(tmp_path / "raw", tmp_path / "named.zarr", "ome-tiff", **named) == 0
    assert opening.open_bank(tmp_path / "named.zarr").channels == ("DNA", "ER")
    options = {"pattern": r"(?P<well>[A-H]\d\d)_\d\.tif", "intensity": "keep"}
    assert prepare(tmp_path / "raw", tmp_path / "b.zarr", "generic", **options) == 0
    bank = opening.open_bank(tmp_path / "b.zarr")
    assert bank.channels == ("DNA", "ER") and len(bank) == 2
    np.testing.assert_array_equal(bank.read(1), PIXELS[[3, 2]].transpose(1, 2, 0))
