"""OME-Zarr plates as a source of `prepare images`: planes, channels, names, what is not there."""

import hashlib
import re
import shlex

import numpy as np
import pyarrow.parquet as pq
import pytest

from phenomjax.data.images import opening
from phenomjax.prepare.images import command
from phenomjax.prepare.images.records import BadFile
from phenomjax.prepare.images.sources import ome_plates
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door
from tests.lab.ngff import change, image_attributes, write_array, write_group, write_plate
from tests.prepare.test_images import prepare

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
    assert [finding.key[3] for finding in one.remarks] == ["0", "1"]
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


def offered(error):
    """The words of the command that an error offers in backquotes."""
    (text,) = re.findall(r"`python -m phenomjax.prepare images (.*?)`", str(error))
    return [*shlex.split(text), "--jobs", "1"]


def opened(path):
    bank = opening.open_bank(path)
    return bank, [tuple(row[name] for name in ("plate", "well", "site")) for row in rows(path)]


def rows(path):
    return opening.open_bank(path).metadata.to_pylist()


@pytest.mark.parametrize(
    ("shape", "axes", "labels", "channels", "code"),
    [
        ((2, 3, 16, 12), "czyx", ("DNA", "ER"), ("DNA", "ER"), 0),
        ((2, 3, 4, 16, 12), "tzcyx", tuple("abcd"), tuple("abcd"), 0),
        ((2, 16, 12), "cyx", ("DNA", "DNA"), ("channel1", "channel2"), 0),
        ((2, 16, 12), "cyx", ("DNA",), ("channel1", "channel2"), 0),
    ],
)
def test_what_hinders_a_plate_in_place_is_mended_by_what_is_offered(
    tmp_path, shape, axes, labels, channels, code
):
    fields = {("A/1", "0"): planes(0, shape), ("A/2", "0"): planes(1, shape)}
    write_plate(tmp_path / "p.zarr", "0.5", fields, labels, axes)
    with pytest.raises(UserError) as error:
        opening.open_bank(tmp_path / "p.zarr")
    assert run_as_door(command, offered(error.value)) == code
    bank, keys = opened(tmp_path / "p_bank.zarr")
    assert bank.channels == channels and keys == [("p", "A01", "0"), ("p", "A02", "0")]


@pytest.mark.parametrize("fault", ["size", "channels", "damaged"])
def test_of_fields_that_differ_most_go_in(tmp_path, fault):
    fields = {(f"A/{i}", "0"): planes(i) for i in (1, 2, 3)}
    if fault == "size":
        fields["A/2", "0"] = planes(2, (2, 16, 13))
    labels = {("A/2", "0"): ("DNA", "Mito")} if fault == "channels" else None
    write_plate(tmp_path / "p.zarr", "0.4", fields, ("DNA", "ER"), "cyx", labels=labels)
    if fault == "damaged":
        (tmp_path / "p.zarr/A/2/0/.zattrs").write_text("{")
    with pytest.raises(UserError) as error:
        opening.open_bank(tmp_path / "p.zarr")
    assert run_as_door(command, offered(error.value)) == 1
    bank, keys = opened(tmp_path / "p_bank.zarr")
    assert keys == [("p", "A01", "0"), ("p", "A03", "0")] and bank.channels == ("DNA", "ER")
    (bad,) = pq.read_table(tmp_path / "p_bank.zarr/rejected.parquet").to_pylist()
    assert bad["well"] == "A02"
    if fault == "channels":  # the command of the row makes their own bank
        flags = shlex.split(re.search(r"--channels \S+", bad["detail"])[0])
        words = {"channels": flags[1]}
        assert prepare(tmp_path / "p.zarr", tmp_path / "o.zarr", "ome-zarr", **words) == 1
        bank, keys = opened(tmp_path / "o.zarr")
        assert keys == [("p", "A02", "0")] and bank.channels == ("DNA", "Mito")


def test_a_cut_chunk_keeps_one_image_out(tmp_path):
    fields = {("A/1", "0"): planes(1), ("A/2", "0"): planes(2)}
    write_plate(tmp_path / "p.zarr", "0.4", fields, ("DNA", "ER"), "cyx", chunk=(8, 12))
    chunk = tmp_path / "p.zarr/A/1/0/0/1.1.0"
    chunk.write_bytes(chunk.read_bytes()[:30])
    assert prepare(tmp_path, tmp_path / "b.zarr", "ome-zarr") == 1
    assert opened(tmp_path / "b.zarr")[1] == [("p", "A02", "0")]
    (bad,) = pq.read_table(tmp_path / "b.zarr/rejected.parquet").to_pylist()
    assert bad["reason"] == "undecodable" and bad["file"] == "p.zarr/A/1/0/0"
    # only the other channel is wanted: that chunk is not even decoded
    assert prepare(tmp_path, tmp_path / "c.zarr", "ome-zarr", channels="DNA") == 0
    described = tmp_path / "p.zarr/A/2/0/0/.zarray"
    described.write_text(described.read_text().replace('"filters":null', '"filters":[{"id":"x"}]'))
    with pytest.raises(BadFile, match=r"unsupported.*convert the plate with a usual compression"):
        ome_plates.read_pixels(tmp_path, "p.zarr/A/2/0/0", [0], hashlib.sha256())


@pytest.mark.parametrize(
    ("options", "plates"),
    [
        ({}, {"p"}),
        ({"default": "plate=7"}, {"7"}),
        ({"set": "plate=8"}, {"8"}),
        ({"exclude": "*/A/2/*"}, {"p"}),
    ],
)
def test_names_of_plates_in_a_bank(tmp_path, options, plates):
    fields = {("A/1", "0"): planes(1), ("A/2", "0"): planes(2)}
    write_plate(tmp_path / "in/p.zarr", "0.4", fields, ("DNA", "ER"), "cyx")
    assert prepare(tmp_path / "in", tmp_path / "b.zarr", "ome-zarr", **options) == 0
    _, keys = opened(tmp_path / "b.zarr")
    assert {key[0] for key in keys} == plates and len(keys) == (1 if "exclude" in options else 2)
    assert (tmp_path / "b.zarr/remarks.parquet").is_file() == ("exclude" in options)


@pytest.mark.parametrize("dtype", ["int16", "float32", ">u2"])
def test_types_of_pixels(tmp_path, dtype):
    fields = {("A/1", "0"): planes(1, dtype=dtype)}
    write_plate(tmp_path / "in/p.zarr", "0.4", fields, ("DNA", "ER"), "cyx")
    options = {"intensity": "range:0:4095"}
    assert prepare(tmp_path / "in", tmp_path / "b.zarr", "ome-zarr", **options) == 0
    expected = np.clip(fields["A/1", "0"].astype(float) / 4095, 0, 1) * 255
    read = opened(tmp_path / "b.zarr")[0].read(0).transpose(2, 0, 1)
    assert np.abs(read - expected).max() <= 0.5 + 1e-6


def test_times_and_planes_of_a_plate(tmp_path):
    pixels = planes(0, (2, 2, 3, 16, 12))
    write_plate(tmp_path / "in/p.zarr", "0.5", {("A/1", "0"): pixels}, ("DNA", "ER"))
    options = {"intensity": "keep", "z": "2", "t": "all"}
    assert prepare(tmp_path / "in", tmp_path / "b.zarr", "ome-zarr", **options) == 0
    bank, _ = opened(tmp_path / "b.zarr")
    assert [row["time"] for row in rows(tmp_path / "b.zarr")] == ["1", "2"]
    for index in range(2):
        np.testing.assert_array_equal(bank.read(index), pixels[index, :, 1].transpose(1, 2, 0))


@pytest.mark.parametrize("labels", [(), ("DNA",), ("DNA", "DNA"), ("", "ER")])
def test_unclear_labels_ask_for_channels_by_number(tmp_path, labels):
    for name, own in (("p1", ("DNA", "ER")), ("p2", labels)):
        write_plate(tmp_path / f"in/{name}.zarr", "0.5", {("A/1", "0"): planes(1)}, own, "cyx")
    with pytest.raises(UserError) as error:
        prepare(tmp_path / "in", tmp_path / "b.zarr", "ome-zarr")
    channels = re.search(r'--channels "([^"]+)"', str(error.value))[1]
    assert channels == "1=DNA,2=ER"
    assert prepare(tmp_path / "in", tmp_path / "b.zarr", "ome-zarr", channels=channels) == 0
    bank, keys = opened(tmp_path / "b.zarr")
    assert bank.channels == ("DNA", "ER") and len(keys) == 2


def test_the_same_acquisition_as_offered(tmp_path, caplog):
    caplog.set_level("INFO", "phenomjax")
    fields = {("A/1", "0"): planes(0), ("A/1", "1"): planes(1), ("A/1", "2"): planes(2)}
    numbers = {key: 0 if key[1] < "2" else 5 for key in fields}
    labels = {("A/1", "2"): ("GFP", "RFP")}
    options = {"labels": labels, "acquisitions": numbers}
    write_plate(tmp_path / "in/p.zarr", "0.4", fields, ("DNA", "ER"), "cyx", **options)
    assert prepare(tmp_path / "in", tmp_path / "b.zarr", "ome-zarr") == 1
    assert "has 2 acquisitions, whose images are sites of their own" in caplog.text
    (bad,) = pq.read_table(tmp_path / "b.zarr/rejected.parquet").to_pylist()
    flags = shlex.split(bad["detail"].partition("--channels")[2])
    options = {"channels": flags[0], "acquisition": flags[2]}
    assert prepare(tmp_path / "in", tmp_path / "c.zarr", "ome-zarr", **options) == 0
    bank, keys = opened(tmp_path / "c.zarr")
    assert bank.channels == ("GFP", "RFP") and keys == [("p", "A01", "2")]
