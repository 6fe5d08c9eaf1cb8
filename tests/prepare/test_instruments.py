"""What instruments write beside their images: every field of every kind of index, what lies beside
it or is missing, and damage.
"""

import collections
import shutil

import pytest

from phenomjax.prepare.images import instruments
from phenomjax.prepare.images.records import FileStatus, ImageKey, Plane
from phenomjax.system.errors import UserError
from tests.lab import instruments as lab


def listing(source):
    """All files, as the command lists them."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    return {
        path.relative_to(source).as_posix(): FileStatus(path.stat().st_size, 1) for path in files
    }


def understand(source):
    files = listing(source)
    return instruments.read_indexes(source, instruments.find_indexes(files), files).understood


def by_file(understood):
    return {plane.file: plane for plane in understood.planes}


def reasons(findings):
    return collections.Counter(finding.reason for finding in findings)


@pytest.mark.parametrize(
    ("version", "name"),
    [(1, "index.xml"), (5, "Index.idx.xml"), (6, "Index.xml"), (7, "Index.ref.xml")],
)
def test_harmony(tmp_path, version, name):
    images = lab.harmony_images(fields=(1, 12), planes=(1, 3), times=(0, 1))
    folder = tmp_path / "X__2020-11-08T18_16_30-Measurement1" / "Images"
    lab.write_harmony(folder, images, name, version)
    found = understand(tmp_path)
    assert len(found.planes) == len(images) and not found.rejected and not found.remarks
    file = "X__2020-11-08T18_16_30-Measurement1/Images/r02c03f12p03-ch2sk2fk1fl1.tiff"
    key = ImageKey(None, "BR1", "B03", "12")
    assert by_file(found)[file] == Plane(file, 0, key, "2", "Alexa 488", 3, 2)
    assert found.pixel_size_um == pytest.approx(0.598) and found.largest_value == 65535
    assert found.told == (
        f"X__2020-11-08T18_16_30-Measurement1/Images/{name} decides: plate BR1, channels 1 ="
        " HOECHST 33342, 2 = Alexa 488",
        "plate BR1 lies in the folder X; the index decides",
    )


@pytest.mark.parametrize(
    ("said", "largest"),
    [("4096", 4095), ("16383", 16383), ("70000", None), ("0", None), ("x", None)],
)
def test_harmony_bits(tmp_path, said, largest):
    folder = lab.write_harmony(tmp_path)
    text = (folder / "Index.idx.xml").read_text().replace("65535", said)
    (folder / "Index.idx.xml").write_text(text)
    assert understand(tmp_path).largest_value == largest


@pytest.mark.parametrize(
    ("ids", "plate"),
    [(("", "Given"), "Given"), ((lab.GUID, lab.GUID), "Folder 1"), (("", ""), "Folder 1")],
)
def test_harmony_plate_without_a_name_is_called_as_its_folder(tmp_path, ids, plate):
    folder = tmp_path / "Folder 1__2020-01-01T00_00_00-Measurement 2" / "IMAGES"
    lab.write_harmony(folder, plates=((*ids, ()),))
    for source in (tmp_path, folder.parent, folder):  # wherever the source stands
        assert {plane.key.plate for plane in understand(source).planes} == {plate}


@pytest.mark.parametrize(
    "url",
    [
        lambda *image: "../Images/" + lab.harmony_name(*image),
        lambda *image: "..\\images\\" + lab.harmony_name(*image),
        lambda *image: "D:\\Export\\" + lab.harmony_name(*image).replace(".tiff", ".tif"),
        lambda *image: lab.harmony_name(*image).replace("-", "%2D"),
        lambda *image: lab.harmony_name(*image).upper(),
        lambda *image: "file:///D:/Export/" + lab.harmony_name(*image),
    ],
)
def test_harmony_urls(tmp_path, url):
    lab.write_harmony(tmp_path / "P" / "Images", url=url)
    found = understand(tmp_path)
    assert len(found.planes) == 4 and not found.remarks


def test_harmony_index_above_its_images_and_files_of_other_names(tmp_path):
    """The index decides, whatever the files are called; an image that it does not list, and other
    names for the same image, are told.
    """
    names = {image: f"image {i}.tiff" for i, image in enumerate(lab.harmony_images())}
    for name in names.values():
        lab.write_image(tmp_path / "P" / "Images" / name)
    lab.write_image(tmp_path / "P" / "snapshot.tif")
    text = lab.harmony_index(names, url=lambda *image: names[image])
    (tmp_path / "P" / "Index.idx.xml").write_text(text)
    found = understand(tmp_path)
    assert by_file(found)["P/Images/image 3.tiff"].key.well == "B03"
    assert [(r.reason, r.file) for r in found.remarks] == [("not_in_index", "P/snapshot.tif")]
    assert found.told[-1] == "left out: 1 image that lies beside an index and not in it"


def test_harmony_index_that_turns_names_around_is_told(tmp_path):
    def swapped(row, column, field, plane, channel, time):
        return lab.harmony_name(row, column, field, plane, 3 - channel)

    lab.write_harmony(tmp_path / "P" / "Images", url=swapped)
    found = understand(tmp_path)
    plane = by_file(found)["P/Images/r01c01f01p01-ch2sk1fk1fl1.tiff"]
    assert (plane.channel, plane.label) == ("1", "HOECHST 33342")
    assert "the names of 4 files disagree, for instance r01c01f01p01-ch2sk1fk1fl1" in found.told[-1]


def test_harmony_several_plates_in_one_index(tmp_path):
    plates = (("BR1", "BR1", ((1, 1),)), ("BR2", "BR2", ((2, 3),)))
    lab.write_harmony(tmp_path / "P" / "Images", plates=plates)
    found = understand(tmp_path)
    assert {(plane.key.plate, plane.key.well) for plane in found.planes} == {
        ("BR1", "A01"),
        ("BR2", "B03"),
    }
    assert "plate BR1, BR2" in found.told[0]


def test_harmony_pages_of_one_file(tmp_path):
    """As Columbus exports: BufferNo is the page."""
    lab.write_image(tmp_path / "P" / "a.tif")
    text = lab.harmony_index(lab.harmony_images(wells=((1, 1),)), url=lambda *image: "a.tif")
    for page in (0, 1):
        text = text.replace("<URL>", f'<URL BufferNo="{page}">', 1)
    (tmp_path / "P" / "ImageIndex.ColumbusIDX.xml").write_text(text)
    found = understand(tmp_path)
    assert [(plane.page, plane.channel) for plane in found.planes] == [(0, "1"), (1, "2")]


def test_harmony_archive(tmp_path):
    """images/image.index.txt has the planes, index/*.xml the channels and the plate."""
    name = "r02c03/r02c03f01p02-ch01t03.tiff"
    lab.write_image(tmp_path / "X" / "images" / name)
    header = "Row\tColumn\tField\tPlane\tChannel\tTimepoint\tFlags\t__URL\t__Size"
    rows = ["Version\t1.0.2", "Measurement\tm", header, f"2\t3\t1\t2\t1\t3\t1\t{name}\t9"]
    (tmp_path / "X" / "images" / "image.index.txt").write_text("\r\n".join(rows))
    (tmp_path / "X" / "index").mkdir()
    (tmp_path / "X" / "index" / "index.xml").write_text(lab.harmony_index([], version=7))
    found = understand(tmp_path)
    key = ImageKey(None, "BR1", "B03", "1")
    assert found.planes == [Plane(f"X/images/{name}", 0, key, "1", "HOECHST 33342", 2, 3)]
    assert found.pixel_size_um == pytest.approx(0.598)


def test_what_an_index_lists_and_what_is_there(tmp_path):
    """What has no file is a remark, well by well or site by site; whether an image with some files
    can go in is judged later.
    """
    images = lab.harmony_images(wells=((1, 1), (1, 2), (1, 3)), fields=(1, 2))
    folder = lab.write_harmony(tmp_path / "P" / "Images", images)
    for file in (*folder.glob("r01c02*"), *folder.glob("r01c03f02*")):
        file.unlink()
    (folder / "r01c01f01p01-ch2sk1fk1fl1.tiff").unlink()
    found = understand(tmp_path)
    assert reasons(found.remarks) == {"missing_well": 1, "missing_site": 1, "missing_file": 1}
    assert {finding.key for finding in found.remarks} == {
        (None, "BR1", "A02", None, None),
        (None, "BR1", "A03", "2", None),
        (None, "BR1", "A01", "1", None),
    }
    assert "such as r01c01f01p01-ch2sk1fk1fl1.tiff" in found.remarks[0].detail
    assert "7 of the 12 images that P/Images/Index.idx.xml lists are not there" in found.told


def test_an_index_of_other_images_is_told_and_not_used(tmp_path):
    lab.write_harmony(tmp_path / "P" / "Images", url=lambda *image: f"other {image}.tiff")
    found = understand(tmp_path)
    assert not found.planes and not found.remarks
    assert "none of the 4 images in its folder" in found.told[0]
    assert "the names of the files decide" in found.told[0]


def test_an_index_without_images_beside_is_told(tmp_path):
    folder = lab.write_harmony(tmp_path / "P" / "Images")
    for file in folder.glob("*.tiff"):
        file.unlink()
    assert "there is none in its folder: copy them" in understand(tmp_path).told[0]


def test_one_file_twice_in_an_index_is_rejected(tmp_path):
    lab.write_harmony(
        tmp_path / "P" / "Images",
        url=lambda row, column, *rest: lab.harmony_name(1, 1, *rest),
    )
    found = understand(tmp_path)
    assert not found.planes and reasons(found.rejected) == {"duplicate": 4}
    assert "also as well B03, site 1, channel 1" in found.rejected[0].detail
    assert "also as well A01, site 1, channel 1" in found.rejected[1].detail


def test_every_folder_has_its_index(tmp_path):
    """Plates with an index and one without in one source: its files are nobody's here."""
    lab.write_harmony(tmp_path / "1" / "Images", plates=(("BR1", "BR1", ()),))
    lab.write_harmony(tmp_path / "2" / "Images", plates=(("BR2", "BR2", ()),), version=6)
    lab.write_image(tmp_path / "3" / "Images" / lab.harmony_name(1, 1))
    (tmp_path / "2" / "index.xml").write_text("<doxygenindex><compound/></doxygenindex>")
    found = understand(tmp_path)
    assert {(plane.file[0], plane.key.plate) for plane in found.planes} == {
        ("1", "BR1"),
        ("2", "BR2"),
    }
    assert not found.remarks and not found.rejected


def test_several_indexes_of_one_plate(tmp_path):
    """In a folder the first that fits decides; one above the images' own is not used."""
    folder = lab.write_harmony(tmp_path / "P" / "Images", name="Index.xml", version=6)
    text = lab.harmony_index(lab.harmony_images(), url=lambda *image: "flex/1.flex")
    (folder / "Index.idx.xml").write_text(text)
    (folder / "Index.ref.xml").write_text(lab.harmony_index(lab.harmony_images()))
    above = lab.harmony_index(
        lab.harmony_images(), url=lambda *image: "Images/" + lab.harmony_name(*image)
    )
    (tmp_path / "P" / "Index.idx.xml").write_text(above)
    found = understand(tmp_path)
    assert len(found.planes) == 4 and not found.remarks and not found.rejected
    assert "P/Images/Index.xml decides" in found.told[0] and len(found.told) == 4
    assert found.told[2] == "P/Index.idx.xml is not used: an index nearer to the images is"
    assert "P/Images/Index.idx.xml lists 4 images, such as flex/1.flex" in found.told[3]


def test_many_indexes_are_told_in_few_sentences(tmp_path):
    for i in range(20):
        lab.write_harmony(tmp_path / f"F{i}" / "Images", plates=((f"BR{i}", "", ()),))
        (tmp_path / f"F{i}" / "Images" / lab.harmony_name(1, 1)).unlink()
    found = understand(tmp_path)
    assert found.told == (
        "20 indexes such as F0/Images/Index.idx.xml decide: plates BR0, BR1, BR2, BR3, BR4, BR5,"
        " BR6, BR7, BR8, BR9, BR10, BR11 and 8 more, channels 1 = HOECHST 33342, 2 = Alexa 488",
        "plate BR0 lies in the folder F0, and so on for 19 other indexes; the index decides",
        "20 of the 80 images that 20 indexes list are not there",
    )


def test_a_plate_that_was_measured_twice(tmp_path):
    """Planes of two measurements are never put together, though channels and planes differ; wells
    that stand in one of them go in, and it is told.
    """
    lab.write_harmony(tmp_path / "1" / "Images", lab.harmony_images(channels=(1,)))
    more = lab.harmony_images(wells=((1, 1), (2, 4)), channels=(2,), planes=(2, 3))
    lab.write_harmony(tmp_path / "2" / "Images", more)
    found = understand(tmp_path)
    assert {plane.key.well for plane in found.planes} == {"B03", "B04"}
    (clash,) = found.rejected
    assert clash.reason == "duplicate" and clash.key == (None, "BR1", "A01", "1", None)
    assert "one with --exclude '1/*' --set plate=BR1b" in clash.detail
    assert any("plate BR1 stands in 2 indexes" in text for text in found.told)


def test_pixel_sizes_that_differ_are_told(tmp_path):
    lab.write_harmony(tmp_path / "1")
    text = lab.harmony_index(lab.harmony_images()).replace("5.97", "2.97")
    lab.write_harmony(tmp_path / "2")
    (tmp_path / "2" / "Index.idx.xml").write_text(text.replace("BR1", "BR2"))
    found = understand(tmp_path)
    assert found.pixel_size_um is None and "differ (0.298 and 0.598 um)" in found.told[-1]
    (tmp_path / "2" / "Index.idx.xml").write_text(text.replace("2.97", "5.97", 1))
    found = understand(tmp_path / "2")
    assert found.pixel_size_um is None and "channels of Index.idx.xml differ" in found.told[-1]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_encodings_of_an_index(tmp_path, encoding):
    folder = lab.write_harmony(tmp_path / "P", labels={1: "Höchst", 2: "x"})
    text = (folder / "Index.idx.xml").read_text(encoding="utf-8")
    said = {"latin-1": "iso-8859-1", "utf-16-le": "utf-16"}.get(encoding, encoding)
    text = text.replace('encoding="utf-8"', f'encoding="{said}"')
    (folder / "Index.idx.xml").write_bytes(text.encode(encoding))
    assert {plane.label for plane in understand(tmp_path).planes} == {"Höchst", "x"}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: b"", "no element found"),
        (lambda data: data[:-400], r"line \d+"),
        (lambda data: data[: len(data) // 2] + bytes(200) + data[len(data) // 2 :], r"line \d+"),
        (lambda data: data.replace(b"</Row>", b"</Rwo>", 1), "line 4: mismatched tag"),
        (lambda data: data.replace(b"<Row>2<", b"<Row>x<"), "for the row of the image .* 'x'"),
        (lambda data: data.replace(b'"utf-8"', b'"klingon"', 1), "'klingon'"),
        (
            lambda data: data.replace(b"<Eval", b'<!DOCTYPE a [<!ENTITY b "c">]><Eval', 1),
            "document type",
        ),
    ],
)
def test_damaged_index(tmp_path, damage, said):
    folder = lab.write_harmony(tmp_path / "P")
    index = folder / "Index.idx.xml"
    index.write_bytes(damage(index.read_bytes()))
    with pytest.raises(UserError, match=said) as error:
        understand(tmp_path)
    assert "P/Index.idx.xml" in str(error.value)
    assert "--exclude 'P/Index.idx.xml'" in str(error.value)
    assert error.value.exit_code == 2


def metaxpress_names(wells=("A01", "B12"), sites=(1, 2), waves=(1, 2), folder="TimePoint_1"):
    return [
        f"{folder}/P1_{well}_s{site}_w{wave}{lab.GUID}.tif"
        for well in wells
        for site in sites
        for wave in waves
    ]


def test_metaxpress(tmp_path):
    names = metaxpress_names()
    lab.write_metaxpress(tmp_path / "4711", names)
    found = understand(tmp_path)
    file = f"4711/TimePoint_1/P1_B12_s2_w2{lab.GUID}.tif"
    assert by_file(found)[file] == Plane(file, 0, ImageKey(None, "P1", "B12", "2"), "2", "FITC")
    assert len(found.planes) == 8 and not found.rejected and not found.remarks
    assert found.told == (
        "4711/P1.HTD decides: plate P1, channels 1 = DAPI, 2 = FITC",
        "plate P1 lies in the folder 4711; the index decides",
    )


@pytest.mark.parametrize(
    ("name", "well", "site", "wave"),
    [
        ("P1_A01_s1_w212A747C6-506B-40FF-7966-43AF30F54B5B.TIF", "A01", "1", "2"),
        ("P1_AB07_w2.tif", "AB07", "1", "2"),
        ("P1_a1_s10.tif", "A01", "10", "1"),
        ("P1_B02.TIF", "B02", "1", "1"),
        ("p1_B02_s1_w1_[12A747C6-506B-40FF-7966-43AF30F54B5B].tif", "B02", "1", "1"),
    ],
)
def test_metaxpress_names(tmp_path, name, well, site, wave):
    lab.write_metaxpress(tmp_path, [name])
    (plane,) = understand(tmp_path).planes
    assert plane.key == ImageKey(None, name[:2], well, site) and plane.channel == wave


def test_metaxpress_planes_projections_and_times(tmp_path):
    """ZStep_0 is the projection: left out where the planes are there, taken where it is all that a
    wavelength has. Each folder of an export has a copy of the .HTD.
    """
    names = [f"TimePoint_{t}/ZStep_{z}/P1_A01_s1_w1.TIF" for t in (1, 2) for z in (0, 1, 2)] + [
        f"TimePoint_{t}/ZStep_0/P1_A01_s1_w2.TIF" for t in (1, 2)
    ]
    lines = ('"TimePoints", 2', '"ZSeries", TRUE', '"ZSteps", 2')
    for where in ("TimePoint_1/ZStep_0", "TimePoint_1/ZStep_1"):
        lab.write_metaxpress(tmp_path / "P", names, lines=lines, where=where)
    found = understand(tmp_path)
    assert {(p.label, p.z, p.t) for p in found.planes} == {
        *(("DAPI", z, t) for z in (1, 2) for t in (1, 2)),
        *(("FITC", None, t) for t in (1, 2)),
    }
    assert reasons(found.remarks) == {"projection": 2} and len(found.told) == 3
    assert "--exclude '*ZStep_[1-9]*'" in found.told[2]


def test_metaxpress_what_was_selected_and_is_not_there(tmp_path):
    lines = (
        '"WellsSelection1", TRUE, TRUE, FALSE',
        '"WellsSelection2", FALSE, FALSE, TRUE',
        '"Sites", TRUE',
        '"XSites", 2',
        '"YSites", 2',
        '"SiteSelection1", TRUE, TRUE',
        '"SiteSelection2", FALSE, TRUE',
    )
    lab.write_metaxpress(tmp_path, metaxpress_names(("A01", "B03"), (1, 3)), lines=lines)
    found = understand(tmp_path)
    assert {(finding.reason, *finding.key[2:4]) for finding in found.remarks} == {
        ("missing_well", "A02", None),
        ("missing_site", "A01", "2"),
        ("missing_site", "B03", "2"),
    }


def test_metaxpress_two_plates_in_one_folder(tmp_path):
    for stem in ("P1", "P2"):
        names = [f"{stem}_A01_w{wave}.tif" for wave in (1, 2)]
        waves = ("DAPI", "FITC") if stem == "P1" else ("FITC", "DAPI")
        lab.write_metaxpress(tmp_path, names, stem, waves)
    found = understand(tmp_path)
    assert {(p.key.plate, p.channel, p.label) for p in found.planes} == {
        ("P1", "1", "DAPI"),
        ("P1", "2", "FITC"),
        ("P2", "1", "FITC"),
        ("P2", "2", "DAPI"),
    }


def test_metaxpress_spells_the_plate_as_the_images_do(tmp_path):
    lab.write_metaxpress(tmp_path, ["Plate_1_A01_w1.tif"], "PLATE_1").rename(tmp_path / "x.htd")
    (tmp_path / "x.htd").rename(tmp_path / "plate_1.htd")
    assert {plane.key.plate for plane in understand(tmp_path).planes} == {"Plate_1"}


def test_metaxpress_file_of_another_name_than_the_images(tmp_path):
    lab.write_metaxpress(tmp_path, ["BR7_A01_w1.tif"], "plate")
    found = understand(tmp_path)
    assert found.planes[0].key.plate == "BR7" and "start with BR7" in found.told[-1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"HTSInfoFile", Version 1.0\n"XWells", 12\n"NWavelengths", 3\n"WaveName1", "A"', "1 of 3"),
        ('"XWells", many\n"NWavelengths", x', "NWavelengths is 'x'"),
        ("", "no line XWells"),
        ("\0" * 400, "no line XWells"),
    ],
)
def test_damaged_htd(tmp_path, text, said):
    lab.write_metaxpress(tmp_path, ["P1_A01_w1.tif"])
    (tmp_path / "P1.HTD").write_text(text)
    with pytest.raises(UserError, match=said) as error:
        understand(tmp_path)
    assert "--exclude 'P1.HTD'" in str(error.value)


@pytest.mark.parametrize("named", [True, False])
def test_channels_without_a_name(tmp_path, named):
    """One among named ones has an empty name, which the choice of channels asks for."""
    waves = ("DAPI", "") if named else ("", "")
    lab.write_metaxpress(tmp_path / "a", [f"P1_A01_w{wave}.tif" for wave in (1, 2)], waves=waves)
    labels = {1: "DAPI", 2: ""} if named else {1: "", 2: ""}
    lab.write_harmony(tmp_path / "b", labels=labels)
    expected = {"1": "DAPI", "2": ""} if named else {"1": None, "2": None}
    for plane in understand(tmp_path).planes:
        assert plane.label == expected[plane.channel]


def test_htd_in_other_encodings(tmp_path):
    path = lab.write_metaxpress(tmp_path, ["P1_A01_w1.tif"], waves=("5\xb5m", "FITC"))
    text = path.read_text("latin-1")
    for encoding in ("latin-1", "utf-8", "utf-16"):
        path.write_bytes(text.encode(encoding))
        assert understand(tmp_path).planes[0].label == "5\xb5m"


RECORDS = [
    (row, column, field, 1, channel, 1)
    for row, column in ((1, 1), (2, 3))
    for field in (1, 2)
    for channel in (1, 2)
]


def test_cellvoyager(tmp_path):
    failed = (
        '<bts:MeasurementRecord bts:Type="ERR" bts:Column="9" bts:Row="14" bts:TimePoint="1">AF'
        " Error at N09</bts:MeasurementRecord>"
    )
    records = [*RECORDS, (1, 1, 1, 2, 2, 1)]
    lab.write_cellvoyager(tmp_path / "m" / "AssayPlate", records, bits=12, extra=failed)
    found = understand(tmp_path)
    file = "m/AssayPlate/1053601756_B03_T0001F002L01A01Z01C02.tif"
    key = ImageKey(None, "1053601756", "B03", "2")
    assert by_file(found)[file] == Plane(file, 0, key, "2", "ER", 1, 1)
    assert len(found.planes) == 9 and sorted({p.z for p in found.planes}) == [1, 2]
    assert found.pixel_size_um == 0.65 and found.largest_value == 4095
    assert {(r.reason, r.file or r.key[2]) for r in found.remarks} == {
        ("shading", "m/AssayPlate/SC_BP445-45_20x_M01_CH01.tif"),
        ("instrument_error", "N09"),
    }


@pytest.mark.parametrize(
    ("targets", "labels"),
    [
        (("", ""), {"BP480/45", "BP560/45"}),
        (("DNA", ""), {"BP480/45", "BP560/45"}),
        (("DNA", "DNA"), {"DNA"}),  # left to the choice of channels, which asks
    ],
)
def test_cellvoyager_channels(tmp_path, targets, labels):
    lab.write_cellvoyager(tmp_path, RECORDS, targets=targets)
    assert {plane.label for plane in understand(tmp_path).planes} == labels


def test_cellvoyager_without_its_other_files(tmp_path):
    lab.write_cellvoyager(tmp_path / "My plate", RECORDS)
    for name in ("MeasurementDetail.mrf", "a.mes"):
        (tmp_path / "My plate" / name).unlink()
    found = understand(tmp_path)
    assert {(p.key.plate, p.label) for p in found.planes} == {("My plate", None)}
    assert "they have numbers only" in found.told[1] and found.pixel_size_um is None
    (tmp_path / "My plate" / "x.wpi").write_text(f'<bts:WellPlate bts:Name="W7" {lab.BTS} />')
    assert {p.key.plate for p in understand(tmp_path).planes} == {"W7"}


def test_cellvoyager_projections_and_tiles(tmp_path):
    lab.write_cellvoyager(tmp_path, RECORDS)
    index = tmp_path / "MeasurementData.mlf"
    text = index.read_text()
    first = text.index("<bts:MeasurementRecord")
    record = text[first : text.index("</bts:MeasurementRecord>")] + "</bts:MeasurementRecord>"
    lab.write_image(tmp_path / "Projection" / "W1.tif")
    made = record.replace("bts:Ch=", 'bts:ZImageProcessing="Maximum" bts:Ch=')
    made = made[: made.index(">") + 1] + "Projection/W1.tif</bts:MeasurementRecord>"
    index.write_text(text.replace(record, record + made))
    found = understand(tmp_path)
    assert len(found.planes) == 8
    assert reasons(found.remarks) == {"projection": 1, "shading": 1}
    index.write_text(text.replace("bts:Ch=", 'bts:ZImageProcessing="Maximum" bts:Ch='))
    assert {plane.z for plane in understand(tmp_path).planes} == {None}
    tiled = record.replace("bts:Ch=", 'bts:PartialTileIndex="2" bts:Ch=').replace("Z01", "Z09")
    lab.write_image(tmp_path / lab.voyager_name("1053601756", 1, 1, 1, 9))
    index.write_text(text.replace(record, record + tiled))
    assert "1t2" in {plane.key.site for plane in understand(tmp_path).planes}


INCELL = [(row, 3, field, wave) for row in (1, 2) for field in (1, 2) for wave in (0, 1)]


def test_incell(tmp_path):
    lab.write_incell(tmp_path / "Screen 1_1", INCELL)
    found = understand(tmp_path)
    file = "Screen 1_1/B - 3(fld 2 wv Blue - FITC).tif"
    key = ImageKey(None, "Screen 1", "B03", "2")
    assert by_file(found)[file] == Plane(file, 0, key, "2", "FITC", 1, 1)
    assert len(found.planes) == 8 and found.pixel_size_um == 0.325 and not found.remarks


@pytest.mark.parametrize(
    ("options", "labels", "plate", "size"),
    [
        ({"waves": (("UV", "QUAD"), ("Blue", "QUAD"))}, {"UV - QUAD", "Blue - QUAD"}, None, 0.325),
        ({"plate": "BC7", "binning": 2}, {"DAPI", "FITC"}, "BC7", None),
    ],
)
def test_incell_names(tmp_path, options, labels, plate, size):
    lab.write_incell(tmp_path, INCELL, **options)
    found = understand(tmp_path)
    assert {plane.label for plane in found.planes} == labels and found.pixel_size_um == size
    assert {plane.key.plate for plane in found.planes} == {plate or "Screen 1"}


@pytest.mark.shared_data
def test_cases(shared, tmp_path):
    cases = shared.parent / "cases" / "images"
    found = understand(cases / "phenix_index_xml" / "in")
    labels = ["HOECHST 33342", "Alexa 488", "488 long", "Alexa 568", "Alexa 647"]
    assert {(plane.channel, plane.label) for plane in found.planes} == {
        (str(i), label) for i, label in enumerate(labels, 1)
    }
    assert {plane.key for plane in found.planes} == {
        ImageKey(None, "SQ00015195", well, "1") for well in ("A01", "A02")
    }
    assert found.pixel_size_um == pytest.approx(0.6)
    shutil.copytree(cases / "imagexpress_thumbs" / "in", tmp_path / "in")
    for thumbnail in (tmp_path / "in").rglob("*_thumb*"):
        thumbnail.unlink()  # the listing leaves them out
    found = understand(tmp_path / "in")
    assert {(p.key.plate, p.key.well, p.key.site, p.label) for p in found.planes} == {
        ("230101-U2OS", well, site, label)
        for well in ("A01", "B12")
        for site in "12"
        for label in ("DAPI", "FITC")
    }
