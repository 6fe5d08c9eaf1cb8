"""Parts of the preparation: names of files, readers, rules of intensity, metadata tables."""

import hashlib
import io
import json

import imagecodecs
import numpy as np
import pytest
import tifffile

from phenomjax.data.images import wells
from phenomjax.prepare import __main__ as front_door
from phenomjax.prepare.images import metadata
from phenomjax.prepare.images.formats import readers
from phenomjax.prepare.images.naming import layouts
from phenomjax.prepare.images.naming.channels import choose_channels
from phenomjax.prepare.images.pixels import eight_bit
from phenomjax.system.errors import UserError

NAMES = [
    ("rxrx1", "HEPG2-08_1_B02_w1.png", ("HEPG2-08", "1", "B02", None, "1", None, None)),
    ("rxrx1", "train/HEPG2-08/Plate2/AB03_s2_w6.png", ("HEPG2-08", "2", "AB03", "2", "6")),
    ("rxrx1-wilds", "images/RPE-08/Plate2/B02_s2.png", ("RPE-08", "2", "B02", "2", None)),
    ("rxrx3", "AA41_s1_1.jp2", (None, None, "AA41", "1", "1")),
    ("rxrx3", "images/gene-001/Plate9/AA41_s1_6.jp2", ("gene-001", "9", "AA41", "1", "6")),
    ("jump", "r01c01f01p01-ch2sk1fk1fl1.tiff", (None, None, "A01", "1", "2", "1", "1")),
    ("jump", "Images/r16c24f09p01-ch8sk1fk1fl1.tiff", (None, None, "P24", "9", "8", "1", "1")),
    (
        "jump",
        "x/BR1__2020-11-08T18_16_30-M1/Images/r02c03f04p02-ch1sk1fk1fl1.tiff",
        (None, None, "B03", "4", "1", "2", "1"),
    ),
]


@pytest.mark.parametrize(("layout", "path", "expected"), NAMES)
def test_names(layout, path, expected):
    found = layouts.find(layout)
    assert layouts.parse(path, layouts.compile_patterns(found, None))[: len(expected)] == expected
    assert layouts.parse("notes.png", layouts.compile_patterns(found, None)) is None


def test_generic_pattern_fits_the_end_of_a_path():
    patterns = layouts.compile_patterns(
        layouts.find("generic"), r"(?P<row>[A-H])-(?P<column>\d+)_(?P<channel>\w+)\.tif"
    )
    assert layouts.parse("any/where/C-7_GFP.tif", patterns)[:5] == (None, None, "C07", None, "GFP")
    assert layouts.parse("any/xC-7_GFP.tif", patterns) is None


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (None, "--layout generic needs --pattern"),
        (r"(?P<wel>\w+)", r"has an unknown group 'wel'\. Did you mean 'well'"),
        (r"(?P<plate>\w+)", "needs a group 'well'"),
        (r"(?P<well>\w+", "not a regular expression: .* at character 1 of"),
    ],
)
def test_errors_of_patterns(pattern, message):
    with pytest.raises(UserError, match=message):
        layouts.compile_patterns(layouts.find("generic"), pattern)
    with pytest.raises(UserError, match="Did you mean 'rxrx3'"):
        layouts.find("rxrx-3")


def test_wells():
    spelled = ["A1", "a01", "A/1", "A-01", "r01c01", "1/1"]
    assert {wells.normalise_well(text) for text in spelled} == {"A01"}
    assert [wells.normalise_well(text) for text in ("r27c3", "AA41", "P24", "DMSO")] == [
        "AA03",
        "AA41",
        "P24",
        "DMSO",
    ]
    assert sorted(["AA1", "B10", "B2", "A3"], key=wells.natural) == ["A3", "B2", "B10", "AA1"]


def encode(pixels, kind):
    if kind == "png":
        return imagecodecs.png_encode(pixels)
    if kind == "jp2":
        return imagecodecs.jpeg2k_encode(pixels, reversible=True, level=0)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels,
        compression="zlib" if kind == "tif-zlib" else None,
        tile=(16, 16) if kind == "tif-tiled" else None,
    )
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("kind", ["png", "jp2", "tif", "tif-zlib", "tif-tiled"])
def test_readers(tmp_path, kind, dtype):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (45, 37), dtype)
    data = encode(pixels, kind)
    (tmp_path / "f").write_bytes(data)
    checksum = hashlib.sha256()
    np.testing.assert_array_equal(readers.read_planes(tmp_path, "f", checksum), pixels[None])
    assert checksum.hexdigest() == hashlib.sha256(data).hexdigest()
    for size in (0, 6, len(data) // 2, len(data) - 12):
        (tmp_path / "f").write_bytes(data[:size])
        with pytest.raises(readers.BadFile) as error:
            readers.read_planes(tmp_path, "f", hashlib.sha256())
        assert error.value.reason in ("truncated", "undecodable") and error.value.file == "f"


def test_readers_pages_and_samples(tmp_path):
    pages = np.arange(3 * 8 * 9, dtype=np.uint16).reshape(3, 8, 9)
    tifffile.imwrite(tmp_path / "pages.tif", pages, photometric="minisblack")
    tifffile.imwrite(tmp_path / "imagej.tif", pages, imagej=True, metadata={"axes": "CYX"})
    (tmp_path / "colour.png").write_bytes(
        imagecodecs.png_encode(np.moveaxis(pages.astype(np.uint8), 0, -1).copy())
    )
    tifffile.imwrite(tmp_path / "ome.tif", pages, ome=True, metadata={"axes": "CYX"})
    for name in ("pages.tif", "imagej.tif", "ome.tif", "colour.png"):
        np.testing.assert_array_equal(
            readers.read_planes(tmp_path, name, hashlib.sha256()).astype(np.uint8),
            pages.astype(np.uint8),
        )


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"", "truncated", "is empty"),
        (b"hello world", "undecodable", "is no PNG, TIFF or JPEG 2000: it begins with b'hello wo'"),
        (b"version https://git-lfs.github.com/spec/v1", "undecodable", "git lfs pull"),
    ],
)
def test_readers_name_what_is_wrong(tmp_path, data, reason, detail):
    (tmp_path / "f.png").write_bytes(data)
    with pytest.raises(readers.BadFile) as error:
        readers.read_planes(tmp_path, "f.png", hashlib.sha256())
    assert error.value.reason == reason and detail in error.value.detail
    with pytest.raises(readers.BadFile, match=r"cannot be read .No such file"):
        readers.read_planes(tmp_path, "other.png", hashlib.sha256())
    tifffile.imwrite(tmp_path / "f.tif", np.zeros((4, 4), np.complex64))
    with pytest.raises(readers.BadFile, match="has complex64 pixels"):
        readers.read_planes(tmp_path, "f.tif", hashlib.sha256())


def test_percentiles_are_exact():
    pixels = np.random.default_rng(0).gamma(2, 500, 10_001).astype(np.uint16)
    counts = np.bincount(pixels, minlength=65536)
    for low, high in ((0.1, 99.9), (0, 100), (25, 75)):
        expected = np.percentile(pixels, (low, high), method="inverted_cdf")
        assert eight_bit.percentile_range(counts, eight_bit.Rule("percentile", low, high)) == tuple(
            expected
        )
    assert eight_bit.percentile_range(
        np.bincount([7], minlength=65536), eight_bit.parse("percentile:1:99")
    ) == (7, 8)


def test_to_8_bit_rounds_and_clips():
    image = np.array([[[0, 0], [100, 50], [355, 305], [9999, 178]]], np.uint16)
    converted = eight_bit.to_8_bit(image, [(100, 355), (50, 305)])
    assert converted.tolist() == [[[0, 0], [0, 0], [255, 255], [255, 128]]]
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    exact = np.clip((levels.astype(float) - 231) / (38540 - 231), 0, 1) * 255
    assert np.abs(eight_bit.to_8_bit(levels, [(231, 38540)]) - exact).max() <= 0.5


@pytest.mark.parametrize(
    "text",
    [
        "0:255",
        "range:5",
        "range:9:3",
        "range:3:3",
        "range:nan:3",
        "range:-inf:3",
        "percentile:0:101",
        "percentile:-1:99",
        "keep:1",
        "x:1:2",
    ],
)
def test_errors_of_intensity(text):
    with pytest.raises(UserError, match="Write --intensity range:LOW:HIGH, percentile:LOW:HIGH"):
        eight_bit.parse(text)


def test_channels():
    names = {"1": "DNA", "2": "ER", "3": "RNA"}
    assert choose_channels([], ["1", "2", "3", "4"], names) == names
    assert choose_channels([], ["1", "3"], names) == {"1": "DNA", "3": "RNA"}
    assert choose_channels([], ["DAPI", "GFP"], {}) == {"DAPI": "DAPI", "GFP": "GFP"}
    assert list(choose_channels(["3", "ER", "04=AGP"], ["1", "2", "3", "4"], names).items()) == [
        ("3", "RNA"),
        ("2", "ER"),
        ("4", "AGP"),
    ]
    with pytest.raises(
        UserError, match=r"no file has channel 'DPAI'. Did you mean 'DAPI'.*has channels DAPI, GFP"
    ):
        choose_channels(["DPAI=DNA"], ["DAPI", "GFP"], {})
    with pytest.raises(UserError, match="a channel or a name is there twice"):
        choose_channels(["1=DNA", "2=DNA"], ["1", "2"], {})


def test_front_door(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["prepare", "imges"])
    with pytest.raises(UserError, match=r"no command 'imges'. Did you mean 'images'") as error:
        front_door.main()
    assert error.value.exit_code == 2
    monkeypatch.setattr("sys.argv", ["prepare", "images", "--help"])
    with pytest.raises(SystemExit, match="0"):
        front_door.main()
    text = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "percentile:0.1:99.9 for 16-bit files" in text


def test_pairs():
    assert metadata.parse_pairs(["a=well"], "--rename", ["well"]) == {"a": "well"}
    with pytest.raises(UserError, match=r"--set gnee=x: 'gnee' is unknown. Did you mean 'gene'"):
        metadata.parse_pairs(["gnee=x"], "--set", ["gene"])
    with pytest.raises(UserError, match="write --default NAME=VALUE"):
        metadata.parse_pairs(["plate"], "--default", ["plate"])
    assert json.dumps(metadata.check_value("concentration", " ", "here")) == "null"
