"""Files of several pages: every page gets its channel, z, time and field, or is named."""

import hashlib
import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile

from phenomjax.prepare.images.formats import readers
from phenomjax.prepare.images.formats.axes import Place, describe
from phenomjax.prepare.images.records import BadFile, ImageKey, Plane
from phenomjax.prepare.images.sources import stacks
from phenomjax.system.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 4096, (6, 24, 32), np.uint16)


PLAIN = {"metadata": None, "photometric": "minisblack"}


def places(path):
    return [tuple(place) for place in describe(path).places]


def grid(**axes):
    """Places of pages in the order of the axes, the first one slowest."""
    found = [{}]
    for axis, size in axes.items():
        found = [one | {axis: number + 1} for one in found for number in range(size)]
    return [tuple(Place(**one)) for one in found]


@pytest.mark.parametrize(
    ("shape", "options", "expected", "said_by"),
    [
        ((3, 2), {"imagej": True, "metadata": {"axes": "ZCYX"}}, {"z": 3, "c": 2}, "ImageJ"),
        ((6,), {"imagej": True, "metadata": {"axes": "CYX"}}, {"c": 6}, "ImageJ"),
        ((6,), {"imagej": True, "metadata": {"axes": "TYX"}}, {"t": 6}, "ImageJ"),
        ((6,), {"imagej": True, "truncate": True, "metadata": {"axes": "ZYX"}}, {"z": 6}, "ImageJ"),
        ((6,), {"metadata": {"axes": "CYX"}}, {"c": 6}, "its axes"),
        ((2, 3), {"metadata": {"axes": "TCYX"}}, {"t": 2, "c": 3}, "its axes"),
        ((6,), {"metadata": {"axes": "QYX"}}, {"rest": 6}, ""),
        ((6,), {"photometric": "minisblack"}, {"rest": 6}, ""),
        ((6,), {"photometric": "minisblack", "metadata": None}, {"rest": 6}, ""),
        ((6,), {"photometric": "minisblack", "planarconfig": "separate"}, {"rest": 6}, ""),
        ((2, 3), {"ome": True, "metadata": {"axes": "CZYX"}}, {"c": 2, "z": 3}, "OME-XML"),
        ((6,), {"ome": True, "metadata": {"axes": "TYX"}}, {"t": 6, "c": 1}, "OME-XML"),
    ],
)
def test_axes_of_one_file(tmp_path, shape, options, expected, said_by):
    options = {"byteorder": "<", "photometric": "minisblack"} | options
    tifffile.imwrite(tmp_path / "a.tif", PIXELS.reshape(*shape, 24, 32), **options)
    said = describe(tmp_path / "a.tif")
    if said_by == "OME-XML":
        made = [tuple(place._replace(field=None)) for place in said.places]
        assert {place.field for place in said.places} == {1}
    else:
        made = places(tmp_path / "a.tif")
    assert made == grid(**expected) and said.said_by == said_by


def test_names_and_sizes_of_ome_and_imagej(tmp_path):
    metadata = {
        "axes": "CYX",
        "Channel": {"Name": ["DAPI", "GFP"]},
        "PhysicalSizeX": 325.0,
        "PhysicalSizeXUnit": "nm",
        "SignificantBits": 12,
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS[:2], ome=True, metadata=metadata)
    said = describe(tmp_path / "a.ome.tif")
    assert said.labels == {1: "DAPI", 2: "GFP"} and said.pixel_size_um == pytest.approx(0.325)
    assert said.largest_value == 4095
    labels = {"axes": "ZCYX", "unit": "um", "Labels": ["DNA", "ER"] * 3}
    tifffile.imwrite(
        tmp_path / "b.tif",
        PIXELS.reshape(3, 2, 24, 32),
        imagej=True,
        metadata=labels,
        resolution=(4, 4),
    )
    said = describe(tmp_path / "b.tif")
    assert said.labels == {1: "DNA", 2: "ER"} and said.pixel_size_um == pytest.approx(0.25)


def test_pages_that_were_appended_one_by_one(tmp_path):
    for plane in PIXELS[:5]:
        tifffile.imwrite(tmp_path / "a.tif", plane, append=True)
    for pair in PIXELS.reshape(3, 2, 24, 32):
        tifffile.imwrite(tmp_path / "b.tif", pair, append=True, metadata={"axes": "CYX"})
    assert places(tmp_path / "a.tif") == grid(rest=5)
    assert places(tmp_path / "b.tif") == grid(rest=3, c=2)


def test_thumbnails_masks_and_pyramids_are_no_planes(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(PIXELS[:2], subifds=1, metadata={"axes": "CYX"}, photometric="minisblack")
        writer.write(PIXELS[:2, ::2, ::2], subfiletype=1, photometric="minisblack")
        writer.write(PIXELS[0, ::4, ::4], subfiletype=1)
    assert places(tmp_path / "a.tif") == grid(c=2)


def test_several_images_in_one_ome_file_are_fields(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        for pair in PIXELS.reshape(3, 2, 24, 32):
            writer.write(pair, metadata={"axes": "CYX"}, photometric="minisblack")
    assert places(tmp_path / "a.ome.tif") == grid(field=3, c=2)
    found = unfold(tmp_path, ["a.ome.tif"])
    assert [(p.key.site, p.channel) for p in found.planes] == [
        (site, channel) for site in "123" for channel in "12"
    ]


def ome(data, *, uuid="urn:uuid:1", order="XYCZT", sizes=(3, 1, 1), channels=("A", "B", "C")):
    named = "".join(f'<Channel ID="C:{i}" Name="{n}"/>' for i, n in enumerate(channels))
    axes = "".join(f' Size{a}="{n}"' for a, n in zip("CZT", sizes, strict=True))
    return (
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
        f' UUID="{uuid}"><Image ID="Image:0"><Pixels DimensionOrder="{order}" Type="uint16"'
        f' SizeX="32" SizeY="24"{axes}>{named}{data}</Pixels></Image></OME>'
    )


def test_ome_of_a_set_of_files(tmp_path):
    data = "".join(
        f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="f{c}.tif">urn:uuid:{c}'
        "</UUID></TiffData>"
        for c in (2, 0, 1)
    )
    for c in range(3):
        text = ome(data, uuid=f"urn:uuid:{c}")
        tifffile.imwrite(tmp_path / f"f{c}.tif", PIXELS[c], description=text, metadata=None)
        assert [place.c for place in describe(tmp_path / f"f{c}.tif").places] == [c + 1]
    (tmp_path / "f2.tif").rename(tmp_path / "other.tif")  # known by its UUID
    assert [place.c for place in describe(tmp_path / "other.tif").places] == [3]


@pytest.mark.parametrize(
    ("data", "order", "expected"),
    [
        ("<TiffData/>", "XYCZT", [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2)]),
        ("<TiffData/>", "XYZCT", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]),
        ("", "XYCZT", [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2)]),
        (
            "".join(
                f'<TiffData IFD="{5 - i}" FirstC="{i % 3}" FirstZ="{i // 3}"/>' for i in range(6)
            ),
            "XYCZT",
            [(3, 2), (2, 2), (1, 2), (3, 1), (2, 1), (1, 1)],
        ),
    ],
)
def test_ome_orders(tmp_path, data, order, expected):
    text = ome(data, order=order, sizes=(3, 2, 1))
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, description=text, metadata=None)
    assert [(place.c, place.z) for place in describe(tmp_path / "a.tif").places] == expected


def test_less_than_it_says_is_named(tmp_path):
    text = ome('<TiffData IFD="0" PlaneCount="6"/>', sizes=(3, 2, 1))
    tifffile.imwrite(tmp_path / "a.tif", PIXELS[:4], description=text, **PLAIN)
    with pytest.raises(BadFile, match="holds 4 pages, its OME-XML speaks of 6"):
        describe(tmp_path / "a.tif")
    text = "ImageJ=1.54f\nimages=6\nchannels=2\nslices=3\nhyperstack=true\n"
    tifffile.imwrite(tmp_path / "b.tif", PIXELS[:4], description=text, **PLAIN)
    with pytest.raises(BadFile, match="holds 4 of the 6 planes that its ImageJ metadata speak of"):
        describe(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", PIXELS[0])
    tifffile.imwrite(tmp_path / "c.tif", PIXELS[0, :20], append=True)
    with pytest.raises(BadFile, match=r"2 pages of several kinds .24 x 32 uint16 and 20 x 32"):
        describe(tmp_path / "c.tif")
    (tmp_path / "d.tif").write_bytes((tmp_path / "c.tif").read_bytes()[:900])
    with pytest.raises(BadFile, match="ends after 900 bytes"):
        describe(tmp_path / "d.tif")
    with pytest.raises(BadFile, match="cannot be read"):
        describe(tmp_path / "e.tif")


def test_colour_is_named(tmp_path):
    colour = PIXELS[:3].transpose(1, 2, 0).copy()
    tifffile.imwrite(tmp_path / "A01.tif", colour, photometric="rgb")
    (tmp_path / "A02.png").write_bytes(imagecodecs.png_encode(colour))
    (tmp_path / "A03.jp2").write_bytes(imagecodecs.jpeg2k_encode(colour, level=0))
    files = ["A01.tif", "A02.png", "A03.jp2"]
    assert [describe(tmp_path / file).is_colour for file in files] == [True] * 3
    with pytest.raises(UserError, match=r"3 files are colour images.* give --pages c "):
        unfold(tmp_path, files)
    assert [p.channel for p in unfold(tmp_path, files, "c").planes] == ["1", "2", "3"] * 3


def unfold(folder, files, pages=None, **options):
    named = [Plane(f, 0, ImageKey(None, "P", f.split(".")[0], "1"), "1") for f in files]
    options = {"channel_named": False} | options
    return stacks.unfold(folder, named, stacks.parse_pages(pages), **options)


def write(folder, counts, **options):
    for number, count in enumerate(counts):
        path = folder / f"A0{number + 1}.tif"
        for plane in PIXELS[:count]:
            tifffile.imwrite(path, plane, append=True, **options)
    return [f"A0{number + 1}.tif" for number in range(len(counts))]


def test_pages_without_a_meaning(tmp_path):
    files = write(tmp_path, [6, 6, 4, 6])
    with pytest.raises(UserError, match=r"4 files hold several pages .* A01.tif with 6 pages .no"):
        unfold(tmp_path, files)
    for pages, axis in (("c", "channel"), ("z", "z"), ("t", "t")):
        found = unfold(tmp_path, files, pages)
        values = [getattr(plane, axis) for plane in found.planes]
        assert values == [type(values[0])(i + 1) for i in range(6)] * 3
        assert [(bad.file, bad.reason) for bad in found.rejected] == [("A03.tif", "planes")]
        assert "holds 4 planes, most files hold 6" in found.rejected[0].detail
    found = unfold(tmp_path, files, "c3z2")
    assert [(p.channel, p.z) for p in found.planes[:6]] == [
        *(("1", 1), ("2", 1), ("3", 1), ("1", 2), ("2", 2), ("3", 2))
    ]
    assert "holds 4 planes, --pages" in found.rejected[0].detail.replace("`pages`", "--pages")
    found = unfold(tmp_path, files, numbered=True)
    assert len(found.planes) == 18 and "--channels numbers them" in " ".join(found.told)


def test_files_of_other_lengths_are_compared_with_their_like(tmp_path):
    files = write(tmp_path, [3, 3, 1])
    found = unfold(tmp_path, files, "z")
    assert [(bad.file, bad.detail[:15]) for bad in found.rejected] == [
        ("A03.tif", "holds 1 planes,")
    ]
    assert len(found.planes) == 6
    # one plane of a channel and several of another are what they are
    assert not unfold(tmp_path, files, "z", channel_named=True).rejected
    # pages that the file names are not compared with those that were declared
    tifffile.imwrite(tmp_path / "A04.tif", PIXELS[:2], metadata={"axes": "CYX"})
    assert not unfold(tmp_path, ["A01.tif", "A02.tif", "A04.tif"], numbered=True).rejected
    for name in ("B1.tif", "B2.tif"):
        for pair in PIXELS.reshape(3, 2, 24, 32)[: 3 if name == "B1.tif" else 2]:
            tifffile.imwrite(tmp_path / name, pair, append=True, metadata={"axes": "CYX"})
    found = unfold(tmp_path, ["B1.tif", "B1.tif", "B2.tif"], "z")
    assert {(p.channel, p.z) for p in found.planes} == {(c, z) for c in "12" for z in (1, 2, 3)}


def test_one_odd_file_stops_nothing(tmp_path):
    files = write(tmp_path, [1, 1, 1, 3])
    found = unfold(tmp_path, files)
    assert [plane.file for plane in found.planes] == files[:3]
    assert found.rejected[0].reason == "pages" and "--pages c, z or t" in found.rejected[0].detail


def test_names_that_say_the_channel(tmp_path):
    tifffile.imwrite(tmp_path / "A01.tif", PIXELS, metadata={"axes": "ZYX"})
    found = unfold(tmp_path, ["A01.tif"], channel_named=True)
    assert [(plane.channel, plane.z) for plane in found.planes] == [("1", i + 1) for i in range(6)]
    tifffile.imwrite(tmp_path / "A01.tif", PIXELS, metadata={"axes": "CYX"})
    found = unfold(tmp_path, ["A01.tif"], channel_named=True)
    assert not found.planes and "its name says that it is channel 1" in found.rejected[0].detail


def test_a_declaration_against_the_files_is_listed(tmp_path):
    tifffile.imwrite(tmp_path / "A01.tif", PIXELS, imagej=True, metadata={"axes": "ZYX"})
    found = unfold(tmp_path, ["A01.tif"], "c")
    assert [plane.channel for plane in found.planes] == list("123456")
    assert "says by ImageJ that it holds 6 planes of z; read as 6 channels" in (
        found.remarks[0].detail
    )


@pytest.mark.parametrize("text", ["", "x", "c5z", "cz", "c0", "c5c2", "5", "c5 z3"])
def test_what_pages_does_not_understand(text):
    if text == "c5z":
        assert stacks.parse_pages(text) == (("c", 5), ("z", None))
        return
    with pytest.raises(UserError, match=r"is not understood.*c5z3"):
        stacks.parse_pages(text)


def test_micro_manager(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, metadata=None, photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        offsets = [page.offset for page in tiff.pages]
    index = np.array([(i % 2, i // 2, 0, 0, offset) for i, offset in enumerate(offsets)])
    summary = {"ChNames": ["DAPI", "GFP"], "PixelSize_um": 0.5, "BitDepth": 12}
    monkeypatch.setattr(tifffile.TiffFile, "is_micromanager", True, raising=False)
    monkeypatch.setattr(
        tifffile.TiffFile, "micromanager_metadata", {"IndexMap": index, "Summary": summary}
    )
    assert places(tmp_path / "a.tif") == grid(z=3, c=2)
    said = describe(tmp_path / "a.tif")
    assert (said.labels[2], said.pixel_size_um, said.largest_value) == ("GFP", 0.5, 4095)


def write_stk(path, z_distance):
    """A MetaMorph stack: one page, its planes behind each other, UIC tags that count them."""
    count, (height, width) = len(PIXELS), PIXELS.shape[1:]
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, 16), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 1), (273, 4, 1, 1000), (277, 3, 1, 1), (278, 3, 1, height)]
    tags += [(279, 4, 1, height * width * 2), (33628, 4, 1, 600), (33629, 5, count, 700)]
    tags += [(33630, 5, count, 900), (33631, 4, count, 980)]
    head = bytearray(1000)
    struct.pack_into("<2sHIH", head, 0, b"II", 42, 8, len(tags))
    for i, tag in enumerate(tags):
        struct.pack_into("<HHII", head, 10 + 12 * i, *tag)
    struct.pack_into("<II", head, 600, 0, 1)
    for i in range(count):
        day = (2451545, 1000 * i)
        struct.pack_into("<6I", head, 700 + 24 * i, z_distance, 1, *day, *day)
        struct.pack_into("<II", head, 900 + 8 * i, 500, 1)
    path.write_bytes(bytes(head) + PIXELS.tobytes())


@pytest.mark.parametrize(("z_distance", "axis"), [(5, "z"), (0, "t")])
def test_metamorph_stacks(tmp_path, z_distance, axis):
    write_stk(tmp_path / "a.stk", z_distance)
    assert places(tmp_path / "a.stk") == grid(**{axis: 6})
    read = readers.read_planes(tmp_path, "a.stk", hashlib.sha256(), [4, 1])
    np.testing.assert_array_equal(read, PIXELS[[4, 1]])


def test_a_claim_of_absurd_size_is_refused(tmp_path):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, PIXELS[0], metadata=None)
    data = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        tags = [tiff.pages.first.tags[name] for name in ("ImageWidth", "ImageLength")]
    for tag in tags:
        data[tag.valueoffset : tag.valueoffset + 4] = (2_000_000).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(BadFile, match="claims 1 planes of 2000000 x 2000000 pixels"):
        describe(tmp_path / "a.tif")
