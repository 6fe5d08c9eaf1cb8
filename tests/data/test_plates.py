"""OME-Zarr plates: names of wells, what is there of the lists, channels by name, chunks that are
not stored, and a plate read in place.
"""

import contextlib
import json
import pickle
import shutil

import numpy as np
import pytest

from phenomjax.data.images import opening
from phenomjax.data.images.loading.reader import CropReader
from phenomjax.data.images.ngff import chunks, images, plates
from phenomjax.data.images.ngff.well_names import WellEntry, name_wells
from phenomjax.system.errors import UserError
from tests.lab.ngff import change, image_attributes, write_array, write_group, write_plate


def planes(seed, shape=(2, 16, 12), dtype="uint16"):
    return np.random.default_rng(seed).integers(1, 4000, shape).astype(dtype)


def two_wells(path, version="0.4", axes="cyx", **options):
    fields = {("A/1", "0"): planes(0), ("B/2", "0"): planes(1)}
    options = {"channels": ("DNA", "ER")} | options
    write_plate(path, version, fields, axes=axes, **options)
    return fields


@pytest.mark.parametrize(
    ("entries", "rows", "columns", "names"),
    [
        ([("A/1", 0, 0), ("B/12", 1, 11)], "ABCDEFGH", range(1, 13), ["A01", "B12"]),
        ([("0/0", 0, 0), ("1/1", 1, 1), ("1/0", 1, 0)], "01", "01", ["A01", "B02", "B01"]),
        ([("A/0", 0, 0), ("A/11", 0, 11)], "A", range(12), ["A01", "A12"]),
        ([("0/1", 0, 0)], "01", "1", ["A02"]),  # one axis says how both count
        ([("2/11", 2, 11), ("2/13", 2, 13)], "2", ["11", "13"], ["C12", "C14"]),
        ([("1/1", 0, 0), ("2/3", 1, 2)], "12", "123", ["A01", "B03"]),
        ([("a/01", 0, 0), ("b/002", 1, 1)], ["a", "b"], ["01", "002"], ["A01", "B02"]),
        ([("C/5", 0, 0), ("D/7", 1, 1)], "CD", "57", ["C05", "D07"]),
        ([("C/5", 2, 4), ("D/7", 3, 6)], "CD", "57", ["C05", "D07"]),  # of the whole plate
        ([("A/1", None, None)], (), (), ["A01"]),
        ([("1/1", 1, 1), ("2/2", 2, 2)], (), (), ["B02", "C03"]),
        ([("1/1", 0, 0), ("2/2", 1, 1)], (), (), ["A01", "B02"]),
        ([("row_b/c3", 1, 2)], "ABC", "123", ["B03"]),
        ([("1/3", 1, 2)], "ABC", "123", ["B03"]),  # the path counts what the list names
        (
            [("AF/48", 31, 47)],
            [*map(chr, range(65, 91)), *(f"A{c}" for c in "ABCDEF")],
            range(1, 49),
            ["AF48"],
        ),
        ([("A1", 0, 0), ("H12", 7, 11)], "ABCDEFGH", range(1, 13), ["A01", "H12"]),
        ([("B/12", 0, 0), ("C/1", 0, 0)], (), (), ["B12", "C01"]),  # numbers left at 0
        ([("A/1", 0, 0), ("B/1", 1, 0)], ["", "B"], [""], ["A01", "B01"]),
        ([("B/12", 0, 0)], "B", ["NaN"], ["B12"]),
        ([("1/A", 0, 0)], "1", "A", ["1/A"]),
        ([("A/1", 1, 0), ("B/1", 0, 0)], "AB", "1", [None, None]),
        ([("somewhere", None, None)], (), (), [None]),
        ([("well_7", 1, 2)], "ABC", "123", ["B03"]),
    ],
)
def test_names_of_wells(entries, rows, columns, names):
    found = name_wells([WellEntry(*one) for one in entries], list(rows), list(map(str, columns)))
    assert [well.name for well in found] == names
    strange = entries[0] in [("B/12", 0, 0), ("1/A", 0, 0)]
    assert [bool(well.odd) for well in found] == [name is None or strange for name in names]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_names_of_plates(tmp_path, version):
    for folder, given, name in (
        ("BR001.ome.zarr", None, "BR001"),
        ("BR002.zarr", "BR002.ome.zarr", "BR002"),
        ("copy of it.zarr", "BR003", "BR003"),
        ("BR004.zarr", "Plate 0", "BR004"),
        ("BR005.ome.zarr", "/data/x.mea", "BR005"),
        ("2024.01.02_x", 7, "7"),
    ):
        two_wells(tmp_path / "in" / "deep" / folder, version, plate={"name": given})
        plate = plates.read_plate(tmp_path / "in" / "deep" / folder)
        assert plate.name == name and {field.plate for field in plate.fields} == {name}
        assert bool(plate.told) == (folder[:3] == "cop" or given in ("Plate 0", "/data/x.mea", 7))
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    write_group(tmp_path / "in" / "x.zarr", version, {"bioformats2raw.layout": 3})
    write_group(tmp_path / "in" / "x.zarr" / "0", version, {"multiscales": []})
    (tmp_path / "in" / "y.zarr").mkdir()
    (tmp_path / "in" / "y.zarr" / ".zattrs").write_bytes(b"\xff\xfe{}")
    found = plates.find_plates(tmp_path / "in")
    assert len(found.plates) == 6
    assert "collection of 1 images without a plate" in found.others[0][1]
    assert "y.zarr/.zattrs is not UTF-8 text (byte 0)" in found.damaged[0][1]


def test_what_is_listed_and_not_there(tmp_path):
    path = tmp_path / "p.zarr"
    fields = {(well, site): planes(0) for well in ("A/1", "A/2", "B/1") for site in ("0", "1")}
    fields |= {("B/2", "0"): planes(1)}
    write_plate(path, "0.4", fields, ("DNA", "ER"), "cyx")
    shutil.rmtree(path / "A" / "2")
    shutil.rmtree(path / "B" / "1" / "1")
    write_group(path / "A" / "1" / "9", "0.4", image_attributes("cyx", ["DNA"]))
    write_group(path / "A" / "1" / "labels", "0.4", {"labels": ["nuclei"]})
    write_group(path / "A" / "7", "0.4", {"well": {"images": [{"path": "0"}]}})
    (path / "B" / "2" / ".zattrs").write_text("[1, 2")
    change(path, lambda found: found["plate"]["wells"][2].update(path="B\\1"))
    plate = plates.read_plate(path)
    assert [(field.well, field.site) for field in plate.fields] == [
        ("A01", "0"),
        ("A01", "1"),
        ("B01", "0"),
    ]
    assert [(one.reason, one.path, one.well) for one in plate.absent] == [
        ("not_there", "A/2", "A02"),
        ("not_there", "B/1/1", "B01"),
        ("not_listed", "A/1/9", None),
        ("not_listed", "A/7", None),
    ]
    assert [(one.reason, one.path) for one in plate.damaged] == [("metadata", "B/2")]
    assert "is not valid JSON" in plate.damaged[0].detail
    with pytest.raises(
        UserError, match=r"1 parts of the plate .* is not valid JSON .*--layout ome-z"
    ):
        opening.open_bank(path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_in_place_has_its_channels_by_name(tmp_path, version, caplog):
    path = tmp_path / "p.zarr"
    fields = two_wells(path, version, "tczyx", labels={("B/2", "0"): ("ER", "DNA")})
    bank = pickle.loads(pickle.dumps(opening.open_bank(path)))
    assert bank.channels == ("DNA", "ER") and bank.shape == (2, 16, 12, 2) and not bank.remarks
    np.testing.assert_array_equal(bank.read(0), fields["A/1", "0"].transpose(1, 2, 0))
    np.testing.assert_array_equal(bank.read(1), fields["B/2", "0"][[1, 0]].transpose(1, 2, 0))
    crop = np.empty((4, 5, 2), np.uint16)
    CropReader(bank).read_into(crop, 1, 3, 2)
    np.testing.assert_array_equal(crop, bank.read(1)[3:7, 2:7])
    assert bank.metadata["well"].to_pylist() == ["A01", "B02"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("DNA", "Mito"), "differ in their set of channels: DNA, ER in 1 fields .A01 site 0.; DNA"),
        ((), "differ in their set of channels"),
        (("DNA", "DNA"), "B/2/0/0 has a label twice .*--channels .1=DNA,2=ER"),
        (("DNA", ""), "B/2/0/0 has a channel without a label .*--channels .1=DNA,2=ER"),
        (("DNA",), "B/2/0/0 has 1 labels for 2 channels"),
    ],
)
def test_channels_that_do_not_agree(tmp_path, labels, said):
    two_wells(tmp_path / "p.zarr", labels={("B/2", "0"): labels})
    with pytest.raises(UserError, match=said):
        opening.open_bank(tmp_path / "p.zarr")


@pytest.mark.parametrize(
    ("pixels", "axes", "said"),
    [
        (planes(1, (2, 16, 13)), "cyx", "differ in their size: 16 x 12 pixels in 1 fields"),
        (planes(1, dtype="uint8"), "cyx", "differ in their type of pixels"),
        (planes(1, (3, 16, 12)), "cyx", "differ in their number of channels"),
        (planes(1, (2, 3, 16, 12)), "czyx", "has 3 planes along its axis 'z' .*--z max"),
        (planes(1, (4, 2, 16, 12)), "tcyx", "has 4 time points .*--t 1"),
    ],
)
def test_fields_that_do_not_agree(tmp_path, pixels, axes, said):
    two_wells(tmp_path / "p.zarr")
    folder = tmp_path / "p.zarr" / "B" / "2" / "0"
    shutil.rmtree(folder)
    write_group(folder, "0.4", image_attributes(axes, ("DNA", "ER")))
    write_array(folder / "0", "0.4", pixels)
    with pytest.raises(UserError, match=said):
        opening.open_bank(tmp_path / "p.zarr")


@pytest.mark.parametrize(
    ("axes", "shape", "given"),
    [
        ("tczyx", (2, 2, 3, 8, 6), None),
        ("yxc", (8, 6, 2), ["y", "x", "c"]),  # names alone, as in 0.3
        ("zcyx", (3, 2, 8, 6), [{"name": n} for n in "zcyx"]),
        (
            "cyx",
            (2, 8, 6),
            [{"name": "Wavelength", "type": "channel"}, {"name": "Y"}, {"name": "X"}],
        ),
        ("ctyx", (2, 3, 8, 6), [{"name": n} for n in "ctyx"]),
        ("_cyx", (1, 2, 8, 6), [{"name": "angle"}, *({"name": n} for n in "cyx")]),
    ],
)
def test_planes_of_any_axes(tmp_path, axes, shape, given):
    pixels = planes(0, shape, ">u2")
    attributes = image_attributes("cyx", ("DNA", "ER"))
    attributes["multiscales"][0].pop("axes")
    if given:
        attributes["multiscales"][0]["axes"] = given
    write_group(tmp_path, "0.4", attributes)
    write_array(tmp_path / "0", "0.4", pixels, chunk=(8, 4) if axes[-1] == "x" else None)
    image = images.image_of(tmp_path / "0")
    order = [axes.index(axis) for axis in "tcz_" if axis in axes]
    order += [axes.index("y"), axes.index("x")]
    expected = pixels.transpose(order).reshape(-1, 8, 6)
    assert int(np.prod(image.planes)) == len(expected)
    chosen = [len(expected) - 1, 0]
    np.testing.assert_array_equal(images.read_planes(image, chosen), expected[chosen])
    files = chunks.list_files(tmp_path / "0")
    some = images.files_of_planes(image, [0], files)
    assert (len(some) == len(files)) == (axes == "yxc")
    (tmp_path / "0" / some[-1]).unlink()
    absent = images.absent_chunks(image, chunks.list_files(tmp_path / "0"))
    assert absent.counts.ravel()[0] == 1 and absent.counts.sum() == (2 if axes == "yxc" else 1)


@pytest.mark.parametrize(
    ("version", "separator", "shard"),
    [
        ("0.4", ".", None),
        ("0.4", "/", None),
        ("0.5", "/", None),
        ("0.5", ".", None),
        ("0.5", "/", (8, 8)),
        ("0.5", "/", (16, 16)),
    ],
)
def test_chunks_that_are_not_stored(tmp_path, version, separator, shard, caplog):
    pixels = planes(0, (2, 16, 16))
    pixels[0, :4, :4] = 0  # of the first channel: one chunk of sixteen, which is not written
    pixels[1] = 0
    write_plate(
        tmp_path / "p.zarr",
        version,
        {("A/1", "0"): pixels},
        ("DNA", "ER"),
        "cyx",
        chunk=(4, 4),
        separator=separator,
        shard=shard,
    )
    bank = opening.open_bank(tmp_path / "p.zarr")
    assert bank.remarks == (
        "well A01, site 0: 1 of 16 chunks of channel 1 (DNA) are not stored and read as the fill"
        " value 0; they were empty, or were lost on the way",
        "well A01, site 0: 16 of 16 chunks of channel 2 (ER) are not stored and read as the fill"
        " value 0: the plane is blank; they were empty, or were lost on the way",
    )
    assert "16 of 16 chunks of channel 2 (ER)" in caplog.text
    np.testing.assert_array_equal(bank.read(0), pixels.transpose(1, 2, 0))


def test_nested_chunks_of_a_writer_that_does_not_say_so(tmp_path):
    """Without `dimension_separator` the standard looks for 0.0.0, and every pixel would be 0."""
    fields = two_wells(tmp_path / "p.zarr", separator="/")
    for well in ("A/1", "B/2"):
        file = tmp_path / "p.zarr" / well / "0" / "0" / ".zarray"
        described = json.loads(file.read_text())
        del described["dimension_separator"]
        file.write_text(json.dumps(described))
    bank = opening.open_bank(tmp_path / "p.zarr")
    assert not bank.remarks
    np.testing.assert_array_equal(bank.read(1), fields["B/2", "0"].transpose(1, 2, 0))


def test_the_largest_resolution_is_read(tmp_path):
    two_wells(tmp_path / "p.zarr")
    folder = tmp_path / "p.zarr" / "A" / "1" / "0"
    write_array(folder / "half", "0.4", planes(0, (2, 8, 6)))

    def edit(attributes):
        (scale,) = attributes["multiscales"]
        small = {"type": "scale", "scale": [1, 1.3, 1.3]}
        half = {"path": "half", "coordinateTransformations": [small]}
        scale["datasets"].insert(0, half)
        scale["datasets"].append({"path": "never_copied"})
        attributes["multiscales"].append({"datasets": []})

    change(folder, edit)
    plate = plates.read_plate(tmp_path / "p.zarr")
    assert plate.fields[0].path.name == "0" and plate.fields[0].image.pixel_size_um == 0.65
    assert "largest resolution is 0, not the first" in plate.absent[0].detail
    assert "2 multiscales, of which the first" in plate.absent[0].detail


def test_arrays_of_nested_folders(tmp_path):
    """As ngff-zarr writes them: A/1/0/scale0/image."""
    fields = two_wells(tmp_path / "p.zarr", "0.5")
    for well in ("A/1", "B/2"):
        folder = tmp_path / "p.zarr" / well / "0"
        (folder / "scale0").mkdir()
        (folder / "0").rename(folder / "scale0" / "image")
        change(
            folder, lambda found: found["multiscales"][0]["datasets"][0].update(path="scale0/image")
        )
    bank = opening.open_bank(tmp_path / "p.zarr")
    np.testing.assert_array_equal(bank.read(1), fields["B/2", "0"].transpose(1, 2, 0))
    assert bank.metadata["source"].to_pylist()[0] == "A/1/0/scale0/image"
    image = images.image_of(tmp_path / "p.zarr/B/2/0/scale0/image")
    np.testing.assert_array_equal(images.read_planes(image, [1])[0], fields["B/2", "0"][1])
    with pytest.raises(UserError, match="A/1 is a well of OME-Zarr, not an image bank"):
        opening.open_bank(tmp_path / "p.zarr" / "A" / "1")


def test_acquisitions_are_told(tmp_path):
    fields = {("A/1", site): planes(int(site)) for site in "0123"}
    write_plate(
        tmp_path / "p.zarr",
        "0.4",
        fields,
        ("DNA", "ER"),
        "cyx",
        plate={"acquisitions": [{"id": 0, "name": "first"}, {"id": 1}]},
        acquisitions={key: int(key[1]) // 2 for key in fields},
    )
    plate = plates.read_plate(tmp_path / "p.zarr")
    assert plate.told == (
        "p.zarr has 2 acquisitions, whose images are sites of their own: acquisition 0 (first) has"
        " 2 images, sites 0, 1; 1 has 2 images, sites 2, 3",
    )
    assert opening.open_bank(tmp_path / "p.zarr").remarks == plate.told


ODD = [
    None,
    "x",
    3,
    -1,
    1.5,
    [],
    [[]],
    {},
    {"path": []},
    [None],
    [3],
    "NaN",
    True,
    "../..",
    "/etc",
    "\ud800",
]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_no_oddity_of_json_is_a_traceback(tmp_path, version):
    """Each value of each group is replaced by odd ones: an answer, or a UserError."""
    path = tmp_path / "p.zarr"
    two_wells(path, version)
    names = ("zarr.json",) if version == "0.5" else (".zattrs", ".zarray")
    seen = 0
    for file in sorted(path.rglob("*")):
        if file.name not in names or "B" in file.parts:
            continue
        whole = file.read_text()
        places = list(every_place(json.loads(whole)))
        for number, place in enumerate(places):
            for odd in ODD[number % 5 :: 5]:
                content = json.loads(whole)
                inside = content
                for key in place[:-1]:
                    inside = inside[key]
                inside[place[-1]] = odd
                file.write_text(json.dumps(content))
                try:
                    plate = plates.read_plate(path)
                    assert plate.fields or plate.damaged or plate.absent
                    for field in plate.fields:
                        images.absent_chunks(field.image, chunks.list_files(field.path))
                    bank = opening.open_bank(path)
                    assert len(bank) == len(plate.fields)
                    with contextlib.suppress(ValueError):  # what CropReader makes a bad image of
                        bank.read(0)
                except UserError as error:
                    assert str(path) in str(error)
                seen += 1
        for text in ("", "[", "NaN", "[]", '{"a": NaN}', "\ufeff{}", "[" * 99999):
            file.write_text(text)
            try:
                plates.read_plate(path)
            except UserError as error:
                assert str(path) in str(error)
        file.write_text(whole)
    assert seen > 150


def every_place(content, place=()):
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in items:
        yield (*place, key)
        yield from every_place(value, (*place, key))
