"""Inspect: what it prints and draws, and every kind of damage it must find."""

import numpy as np
import pyarrow as pa
import pytest
import tensorstore as ts

from phenomjax.data.images import bank, opening, shards
from phenomjax.prepare.inspect import images
from tests.lab.doors import run_as_door


def run(path, *words):
    return run_as_door(images, [path, "--jobs", "1", *words])


@pytest.fixture
def path(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 1000, (5, 150, 200, 3), np.uint16)
    metadata = pa.table(
        {"plate": ["P1"] * 5, "well": [f"A0{i + 1}" for i in range(5)], "site": ["1"] * 5}
    )
    bank.write_bank(
        tmp_path / "b.zarr",
        pixels,
        metadata,
        ("DNA", "ER", "RNA"),
        attributes={"pixel_size_um": 0.5},
    )
    return tmp_path / "b.zarr"


def test_a_whole_bank(path, capsys):
    assert run(path) == 0
    text = capsys.readouterr().out
    for expected in (
        "5 of 150 x 200 pixels, 3 channels, uint16",
        "DNA, ER, RNA",
        "128 x 128 x 3",
        "blosc-lz4-5-bitshuffle",
        "compression",
        "0.5 micrometres",
        "5 different (A01, A02, A03, A04, ...)",
        "all 5 images decoded",
    ):
        assert expected in text
    pixels = np.stack([opening.open_bank(path).read(i) for i in range(5)])[..., 0]
    row = next(line for line in text.splitlines() if line.startswith("DNA ")).split()
    assert [int(row[1]), int(row[6 - 1])] == [
        pixels.min(),
        np.percentile(pixels, 99, method="inverted_cdf"),
    ]
    assert float(row[4]) == round(pixels.mean(), 1)
    for name in ("contact_sheet.png", "histograms.png"):
        assert (path.parent / "b_inspect" / name).stat().st_size > 5000


def test_quick_and_out(path, tmp_path, capsys):
    bank.shard_path(path, 4).unlink()
    assert run(path, "--quick", "--out", str(tmp_path / "figures"), "--rows", "2") == 1
    assert (tmp_path / "figures" / "contact_sheet.png").is_file()


def test_figures_stand_beside_the_bank_that_one_stands_in(path, monkeypatch):
    monkeypatch.chdir(path)
    assert run(".", "--quick") == 0
    assert (path.parent / "b_inspect" / "contact_sheet.png").is_file()
    assert not [file for file in path.iterdir() if "inspect" in file.name]


def cut(file):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def flip(file):
    data = bytearray(file.read_bytes())
    data[-2] ^= 255  # in the checksum of the index
    file.write_bytes(data)


def wipe(file):
    data = bytearray(file.read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    file.write_bytes(data)


DAMAGE = {
    "missing": (lambda file: file.unlink(), "the file is missing"),
    "empty": (lambda file: file.write_bytes(b""), "is truncated (0 bytes, less than its index)"),
    "cut": (cut, "does not decode|is truncated"),
    "index": (flip, "does not decode: "),
    "wiped": (wipe, "does not decode: "),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(path, capsys, kind):
    make, expected = DAMAGE[kind]
    make(bank.shard_path(path, 2))
    assert run(path) == 1
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("damaged:"))
    assert f"image 2 (plate P1, well A03, site 1), file {bank.shard_path(path, 2)}: " in line
    assert any(part in line for part in expected.split("|")), line
    assert "1 problems. Copy those files again" in text and "on_bad_image=skip" in text


def test_a_chunk_that_is_not_there_is_damage(path, capsys):
    shard = bank.shard_path(path, 1)
    shard.unlink()
    stored = opening.open_bank(path).array
    stored[1, :128, :128].write(np.ones((128, 128, 3), np.uint16)).result()  # one of four chunks
    assert run(path) == 1
    assert "3 of 4 chunks are missing" in capsys.readouterr().out


def test_shards_of_several_images(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 99, (5, 40, 40, 1), np.uint8)
    rows = pa.table({"plate": ["P"] * 5})
    bank.write_bank(tmp_path / "b.zarr", pixels, rows, ["DNA"], chunk=32, images_per_shard=2)
    assert run(tmp_path / "b.zarr") == 0
    assert "blosc-lz4-5-bitshuffle, 2 images a shard" in capsys.readouterr().out
    opened = opening.open_bank(tmp_path / "b.zarr")
    shards.pack(opened.shard_path(2), [opened.where(2)], 2, opened.chunks_per_image)
    bank.shard_path(opened.path, 2).unlink()
    (opened.path / "metadata.parquet").write_bytes(
        (opened.path / "metadata.parquet").read_bytes().replace(b"parquet-cpp", b"parquet-CPP", 1)
    )
    assert run(tmp_path / "b.zarr") == 1
    text = capsys.readouterr().out
    assert "image 3 (plate P), file" in text and "c.1.0.0.0: 4 of 4 chunks are missing" in text
    assert "image 4 (plate P), file" in text and "metadata.parquet is not as it was written" in text
    assert "3 problems" in text


def test_strays_are_named(path, capsys):
    (path / "images" / "c.9.0.0.0").write_bytes(b"x")
    assert run(path) == 1
    assert "c.9.0.0.0 is no image of this bank: delete it" in capsys.readouterr().out


def test_foreign_array(tmp_path, capsys):
    spec = {"driver": "zarr", "kvstore": f"file://{tmp_path}/x.zarr/", "create": True}
    ts.open(spec, dtype="uint8", shape=[2, 3, 40, 50]).result().write(
        np.arange(12000, dtype=np.uint8).reshape(2, 3, 40, 50)
    ).result()
    assert run(tmp_path / "x.zarr", "--axes", "NCHW") == 0
    text = capsys.readouterr().out
    assert (
        "2 of 40 x 50 pixels, 3 channels, uint8" in text
        and "Zarr v2, blosc" in text
        and "metadata:          none" in text
    )


def suspicious(tmp_path, pixels, checksums=None):
    count = len(pixels)
    metadata = pa.table(
        {
            "plate": ["P1"] * (count // 2) + ["P2"] * (count - count // 2),
            "well": [f"A0{i + 1}" for i in range(count)],
            "source": [f"{i}.tif" for i in range(count)],
            "checksum": checksums or [f"sum{i}" for i in range(count)],
        }
    )
    bank.write_bank(tmp_path / "b.zarr", pixels, metadata, ("DNA", "ER", "RNA"))
    return tmp_path / "b.zarr"


def test_what_looks_wrong_is_named(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 1000, (4, 32, 40, 3), np.uint16)
    pixels[1, ..., 2] = 65535
    pixels[2:, ..., 0] = 0
    pixels[3, ..., 2] = pixels[3, ..., 1]
    path = suspicious(tmp_path, pixels, ["a", "b", "a", "c"])
    assert run(path) == 0
    text = capsys.readouterr().out
    for line in (
        "constant: channel DNA is one value everywhere in 2 of 4 images, for instance image 2"
        " (plate P2, well A03)",
        "constant: channel DNA in all 2 images of plate P2",
        "constant: channel RNA is one value everywhere in 1 of 4 images",
        "identical: channels ER and RNA have the same pixels in 1 of 4 images, for instance image"
        " 3 (plate P2",
        "identical: image 0 (plate P1, well A01) and image 2 (plate P2, well A03) were made of"
        " equal files",
    ):
        assert line in text
    assert text.count("identical:") == 2 and text.count("constant:") == 3


def test_an_empty_channel_fails(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 1000, (4, 32, 40, 3), np.uint16)
    pixels[..., 1] = 0
    assert run(suspicious(tmp_path, pixels)) == 1
    assert "ER has one value everywhere in every image" in capsys.readouterr().out
