"""Sources that are read part by part make the bank that one reading makes; shards of several images
and images that end their process.
"""

import contextlib
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import zarr

from phenomjax.data.images import opening
from phenomjax.engine import choose
from phenomjax.engine.local import Pool
from phenomjax.engine.units import Notes
from phenomjax.prepare.images import plan
from phenomjax.prepare.images.conversion import closing, job
from phenomjax.prepare.images.naming import listing
from phenomjax.prepare.images.pixels import raw_images
from phenomjax.system.errors import UserError
from tests.lab import instruments
from tests.prepare.test_images import contents, pixels, prepare, write_jump, write_rxrx1


def images(folder, *names):
    for name in names:
        instruments.write_image(folder / name)


def harmony(raw):
    for plate in ("BR1", "BR2", "BR3"):
        options = {"plates": ((plate, plate, ((1, 1), (2, 3))),)}
        written = instruments.write_harmony(raw / plate / "Images", **options)
        (written / instruments.harmony_name(2, 3, channel=1)).unlink()
    images(raw, "BR4/Images/r01c01f01p01-ch1sk1fk1fl1.tiff", "BR4/x.tiff")


def images_elsewhere(raw):
    """An index whose images lie outside of its folder."""
    harmony(raw)
    index = raw / "BR3" / "Images" / "Index.idx.xml"
    (raw / "index").mkdir()
    text = index.read_text().replace("<URL>", "<URL>../BR3/Images/")
    (raw / "index" / index.name).write_text(text)
    index.unlink()


def metaxpress(raw):
    for plate in ("P1", "P2"):
        names = [
            f"TimePoint_{t}/ZStep_{z}/{plate}_A01_s1_w{w}.tif"
            for t in (1, 2) for z in (0, 1, 2) for w in (1, 2)
        ]  # fmt: skip
        lines = ['"TimePoints", 2', '"ZSeries", TRUE', '"ZSteps", 2']
        if plate == "P1":
            instruments.write_metaxpress(raw / plate, names, plate, lines=lines)
        else:
            images(raw / plate, *names)


def other_channels(raw):
    write_jump(raw, wells=2, plates=("P1", "P2"))
    write_jump(raw / "more", wells=1, channels=(1, 3, 5), plates=("P3", "P4", "P5"))
    (raw / "more" / "P5" / "notes.txt").write_text("x")


def twice(raw):
    """Two plates of one name."""
    write_jump(raw / "a", wells=2)
    write_jump(raw / "b", wells=1, plates=("P2", "P3"))


def stacks(raw):
    """Files of several pages in one plate, of one in another."""
    for plate, pages in (("P1", 1), ("P2", 3), ("P3", 3)):
        for name in ("A01_w1", "A01_w2"):
            (raw / plate).mkdir(parents=True, exist_ok=True)
            stack = np.stack([pixels((len(plate), pages, i), "uint16") for i in range(pages)])
            tifffile.imwrite(raw / plate / f"{name}.tif", stack, photometric="minisblack")


def sorted_rows(path):
    rows = pq.read_table(path).to_pylist() if path.is_file() else []
    return sorted(rows, key=lambda row: [str(value) for value in row.values()])


GENERIC = r"(?P<plate>[^/]+)/(?P<well>[A-P]\d\d)_w(?P<channel>\d)\.tif"
SOURCES = {
    "jump": (write_jump, "jump", {}),
    "rxrx1": (lambda raw: write_rxrx1(raw, plates=("1", "2", "3"), channels=2), "rxrx1", {}),
    "harmony": (harmony, "phenix", {}),
    "images elsewhere": (images_elsewhere, "phenix", {}),
    "metaxpress": (metaxpress, "imagexpress", {"z": "max", "t": "all"}),
    "other channels": (other_channels, "jump", {"exclude": "*notes*"}),
    "chosen channels": (other_channels, "jump", {"channels": "5=A,1=B", "intensity": "keep"}),
    "twice": (twice, "jump", {}),
    "one plate": (twice, "jump", {"set": "plate=X", "experiment": "E"}),
    "default plate": (twice, "jump", {"default": "plate=X"}),
    "channel folders": (
        lambda raw: images(raw, *(f"{c}/P{p}_A0{w}.tif" for c in "12" for p in "12" for w in "12")),
        "generic",
        {"pattern": r"(?P<channel>\d)/(?P<plate>P\d)_(?P<well>[A-P]\d\d)\.tif"},
    ),
    "stacks": (stacks, "generic", {"pattern": GENERIC, "pages": "z", "z": "mean"}),
    "unnamed pages": (stacks, "generic", {"pattern": GENERIC}),
    "unknown names": (write_jump, "rxrx1", {}),
    "wells": (
        lambda raw: images(
            raw, *(f"P{p}/A0{w}/w{c}.tif" for p in "12" for w in "12" for c in "12")
        ),
        "generic",
        {"pattern": r"(?P<plate>P\d)/(?P<well>[A-P]\d\d)/w(?P<channel>\d)\.tif"},
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_parts_make_the_bank_of_the_whole(tmp_path, monkeypatch, name):
    write, layout, options = SOURCES[name]
    write(tmp_path / "raw")
    codes = []
    for out, most in (("whole", 10**6), ("parts", 3)):
        monkeypatch.setattr(listing, "LARGEST_PART", most)
        try:
            codes.append(prepare(tmp_path / "raw", tmp_path / out / "b.zarr", layout, **options))
        except UserError as error:
            codes.append(str(error).replace("/parts/", "/whole/"))
    assert codes[0] == codes[1]
    made = [contents(tmp_path / out) for out in ("whole", "parts")]
    for kind in ("rejected", "remarks"):
        file = f"b.zarr/{kind}.parquet"
        assert {file in one for one in made} in ({True}, {False}), file
        rows = [sorted_rows(tmp_path / out / file) for out in ("whole", "parts")]
        assert rows[0] == rows[1]
        for one in made:
            one.pop(file, None)
    assert made[0] == made[1]


def test_shards_of_several_images(tmp_path):
    write_jump(tmp_path / "raw", wells=4)
    (tmp_path / "raw" / "P1" / "r01c02f01p01-ch1sk1fk1fl1.tiff").write_bytes(b"")
    banks = []
    for count in (1, 3):
        out = tmp_path / f"{count}.zarr"
        options = {"images_per_shard": count, "jobs": max(count - 1, 1), "chunk": 16}
        assert prepare(tmp_path / "raw", out, "jump", **options) == 1
        banks.append(opening.open_bank(out))
    one, three = banks
    files = {"c.0.0.0.0", "c.1.0.0.0", "c.2.0.0.0", "zarr.json"}
    assert set(os.listdir(three.array_path)) == files and len(three) == 7
    expected = one.array.read().result()
    np.testing.assert_array_equal(three.array.read().result(), expected)
    np.testing.assert_array_equal(zarr.open_array(three.array_path, mode="r")[:], expected)
    assert three.metadata == one.metadata and three.attributes["version"] == 2
    assert prepare(tmp_path / "raw", three.path, "jump", images_per_shard=3, chunk=16) == 1
    with pytest.raises(UserError, match="--images_per_shard was 3, is now not given"):
        prepare(tmp_path / "raw", three.path, "jump", chunk=16)
    with pytest.raises(UserError, match="--images_per_shard must be at least 1"):
        prepare(tmp_path / "raw", tmp_path / "0.zarr", "jump", images_per_shard=0)


class Workers(Pool):
    """An executor with an end, that must not see its folder move."""

    @contextlib.contextmanager
    def until_closed(self):
        yield self
        self.run = None

    def run(self, work, *words, **more):
        assert ".prepare" in work.parts
        yield from super().run(work, *words, **more)


def test_the_bank_is_handed_over_when_the_workers_are_gone(tmp_path, monkeypatch):
    write_jump(tmp_path / "raw", wells=2)
    assert prepare(tmp_path / "raw", tmp_path / "a.zarr", "jump") == 0
    monkeypatch.setattr(closing, "WORTH", 1)  # what was staged is deleted by units
    monkeypatch.setattr(choose, "executor", lambda *_: Workers(1).until_closed())
    assert prepare(tmp_path / "raw", tmp_path / "b.zarr", "jump") == 0
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")
    assert not [path for path in (tmp_path / "b.zarr").iterdir() if path.name.startswith(".")]
    # A worker that was suspended wakes up, and writes where the work was.
    (tmp_path / "b.zarr" / ".prepare" / "staged").mkdir(parents=True)
    shutil.rmtree(tmp_path / "raw")
    assert prepare(tmp_path / "raw", tmp_path / "b.zarr", "jump") == 0
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")
    assert opening.open_bank(tmp_path / "b.zarr")


class Deadly(Pool):
    """An executor whose processes a file ends."""

    def run(self, work, function, units, stop, *, aside=None, at_most=None):
        def living():
            for unit in units:
                if not self.kills(work, unit.argument):
                    yield unit
                elif note := aside(unit, "killed by SIGKILL"):
                    Notes(work).commit(unit.name, note)

        yield from super().run(work, function, living(), stop)

    def kills(self, work, argument):
        if not hasattr(argument, "start"):
            return False
        there = plan.read_images(work / argument.table, argument.start, argument.images)
        return any("c02" in file for image in there for file in image.files)


def test_an_image_that_ends_its_process_is_rejected_alone(tmp_path, monkeypatch):
    write_jump(tmp_path / "raw", wells=3)
    monkeypatch.setattr(job, "TINY_UNIT", 2**20)  # a plate is a unit
    monkeypatch.setattr(choose, "executor", lambda *_: contextlib.nullcontext(Deadly(1)))
    for count in (1, 2):
        out = tmp_path / f"{count}.zarr"
        assert prepare(tmp_path / "raw", out, "jump", images_per_shard=count) == 1
        rows = pq.read_table(out / "rejected.parquet").to_pylist()
        assert [(row["plate"], row["well"], row["reason"]) for row in rows] == [
            (plate, "A02", "killed_worker") for plate in ("P1", "P2")
        ]
        assert "ended every process that tried to read it (killed by SIGKILL)" in rows[0]["detail"]
    monkeypatch.undo()
    for file in (tmp_path / "raw").rglob("r01c02*"):
        file.unlink()
    assert prepare(tmp_path / "raw", tmp_path / "c.zarr", "jump") == 0
    (tmp_path / "1.zarr" / "rejected.parquet").unlink()
    assert contents(tmp_path / "1.zarr") == contents(tmp_path / "c.zarr")


def test_a_source_that_vanishes_half_way(tmp_path, monkeypatch):
    write_jump(tmp_path / "raw", wells=2)
    monkeypatch.setattr(listing, "LARGEST_PART", 3)
    load = raw_images.load_image
    seen = []

    def vanishing(*arguments):
        seen.append(arguments)
        if len(seen) == 6:  # four were counted
            os.rename(tmp_path / "raw", tmp_path / "away")
        return load(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(raw_images, "load_image", vanishing)
        with pytest.raises(UserError, match=r"raw is not there any more, or is empty: was a disk"):
            prepare(tmp_path / "raw", tmp_path / "b.zarr", "jump")
    notes = os.listdir(tmp_path / "b.zarr" / ".prepare" / "units")
    assert sum(name.startswith("images-") for name in notes) == 1
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match="no images in"):
        prepare(tmp_path / "raw", tmp_path / "b.zarr", "jump")
    (tmp_path / "raw").rmdir()
    os.rename(tmp_path / "away", tmp_path / "raw")
    assert prepare(tmp_path / "raw", tmp_path / "b.zarr", "jump") == 0
    assert prepare(tmp_path / "raw", tmp_path / "c.zarr", "jump") == 0
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "c.zarr")
