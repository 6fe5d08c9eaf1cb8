"""The doors that read images as instruments and other programs write them; see fuzz_doors.py."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pyarrow.parquet as pq
import tifffile

from phenomjax.data.images import opening
from phenomjax.data.images.opening import open_bank
from phenomjax.prepare.images import command as prepare_images
from phenomjax.prepare.images.naming import listing
from phenomjax.prepare.inspect import images as inspect
from tests.kinds import mutations
from tests.kinds.fuzz_doors import Door
from tests.lab import instruments, ngff
from tests.lab.doors import run_as_door

SHAPE = (16, 16)
PATTERN = r"(?P<plate>[^/]+)/(?P<well>[A-P]\d\d)_s(?P<site>\d+)\.ome\.tif"


def plane(*seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, SHAPE, np.uint16)


def prepare(layout: str, *words: str) -> Callable[[Path], object]:
    """Runs `prepare images`; what is in the bank is in its files too."""

    def call(folder: Path) -> None:
        filled = [word.format(folder=folder) for word in words]
        out = folder / "o.zarr"
        options = ["--source", folder / "raw", "--out", out, "--layout", layout, "--jobs", "1"]
        code = run_as_door(prepare_images, [*options, *filled])
        bank = open_bank(out)
        assert len(bank) == bank.metadata.num_rows > 0
        if not code and layout in ("jump", "rxrx1"):  # a plane a file: none is lost
            files = sum(listing.is_image(str(path)) for path in (folder / "raw").rglob("*"))
            remarks = out / "remarks.parquet"
            listed = pq.read_metadata(remarks).num_rows if remarks.is_file() else 0
            assert len(bank) * len(bank.channels) + listed >= files, "files are lost without a word"
        shutil.rmtree(out)

    return call


def jump(folder: Path) -> None:
    plate = folder / "raw" / "P1"
    plate.mkdir(parents=True)
    for well in (1, 2):
        for channel in (1, 2):
            name = f"r01c{well:02d}f01p01-ch{channel}sk1fk1fl1.tiff"
            tifffile.imwrite(plate / name, plane(well, channel))


def rxrx1(folder: Path) -> None:
    plate = folder / "raw" / "HEPG2-01" / "Plate1"
    plate.mkdir(parents=True)
    for well in ("A01", "B02"):
        for channel in range(1, 7):
            data = imagecodecs.png_encode((plane(ord(well[0]), channel) >> 4).astype(np.uint8))
            (plate / f"{well}_s1_w{channel}.png").write_bytes(data)


def with_table(folder: Path) -> None:
    rxrx1(folder)
    text = "plate,well,gene,role\n1,A01,TP53,trt\n1,B2,,negcon\n"
    (folder / "m.csv").write_text(text)


def with_list(folder: Path) -> None:
    rxrx1(folder)
    lines = ["plate,well,site,channel,path"]
    for path in sorted((folder / "raw").rglob("*.png")):
        well, _, channel = path.stem.split("_")
        lines.append(f"P1,{well},1,c{channel[1:]},{path.relative_to(folder / 'raw')}")
    (folder / "l.csv").write_text("\n".join(lines) + "\n")


def stacks(folder: Path) -> None:
    plate = folder / "raw" / "P1"
    plate.mkdir(parents=True)
    for well in ("A01", "A02"):
        planes = np.stack([plane(ord(well[2]), channel) for channel in range(2)])
        metadata = {"axes": "CYX", "Channel": {"Name": ["DNA", "ER"]}}
        tifffile.imwrite(plate / f"{well}_s1.ome.tif", planes, metadata=metadata)


def harmony(folder: Path) -> None:
    instruments.write_harmony(folder / "raw" / "BR1" / "Images")


def metaxpress(folder: Path) -> None:
    names = [f"P1_{well}_s1_w{wave}.tif" for well in ("A01", "B02") for wave in (1, 2)]
    instruments.write_metaxpress(folder / "raw" / "P1", names)


def cellvoyager(folder: Path) -> None:
    records = [(row, 1, 1, 1, channel, 1) for row in (1, 2) for channel in (1, 2)]
    instruments.write_cellvoyager(folder / "raw" / "P1", records)


def incell(folder: Path) -> None:
    records = [(row, 1, 1, wave) for row in (1, 2) for wave in (0, 1)]
    instruments.write_incell(folder / "raw" / "P1", records)


def ome_plate(version: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        fields = {
            ("A/1", "0"): np.stack([plane(1, channel) for channel in range(3)]),
            ("B/2", "0"): np.stack([plane(2, channel) for channel in range(3)]),
        }
        (folder / "raw").mkdir()
        ngff.write_plate(folder / "raw" / "P1.zarr", version, fields)

    return make


def in_place(folder: Path) -> None:
    bank = opening.open_bank(folder / "raw" / "P1.zarr")
    assert len(bank) == bank.metadata.num_rows
    assert str(folder) in inspect.describe(bank)


def rename(folder: Path, pattern: str, draw: random.Random) -> None:
    """Gives a file, or a folder on the way to it, another name."""
    paths = [path for path in sorted(folder.glob(pattern)) if path != folder / "raw"]
    for path in draw.sample(paths, min(len(paths), draw.choice([1, 1, 3]))):
        if not path.exists():
            continue
        name = mutations.of_bytes(os.fsencode(path.name), draw)
        name = name.replace(b"/", b"").replace(b"\0", b"")[:200]
        target = Path(os.fsdecode(os.fsencode(path.parent) + b"/" + name))
        if name not in (b"", b".", b"..") and not target.exists():
            path.rename(target)


DOORS = [
    Door("names jump", jump, prepare("jump"), "raw/**/*", 1, rename),
    Door("names rxrx1", rxrx1, prepare("rxrx1"), "raw/**/*", 1, rename),
    Door("names harmony", harmony, prepare("phenix"), "raw/**/*", 0.7, rename),
    Door("names ome-zarr", ome_plate("0.4"), prepare("ome-zarr"), "raw/**/*", 0.7, rename),
    Door("tiff", jump, prepare("jump"), "raw/**/*.tiff", 1.5),
    Door("png", rxrx1, prepare("rxrx1"), "raw/**/*.png", 0.5),
    Door("stacks", stacks, prepare("generic", "--pattern", PATTERN), "raw/**/*.tif"),
    Door("metadata", with_table, prepare("rxrx1", "--metadata", "{folder}/m.csv"), "m.csv"),
    Door("files", with_list, prepare("table", "--files", "{folder}/l.csv"), "l.csv"),
    Door("harmony", harmony, prepare("phenix"), "raw/**/*.xml", 1.5),
    Door("metaxpress", metaxpress, prepare("imagexpress"), "raw/**/*.HTD"),
    Door("cellvoyager", cellvoyager, prepare("cellvoyager"), "raw/**/*.m*"),
    Door("incell", incell, prepare("incell"), "raw/**/*.xdce"),
    Door("ome-zarr 0.4", ome_plate("0.4"), prepare("ome-zarr"), "raw/**/.z*", 1.5),
    Door("ome-zarr 0.5", ome_plate("0.5"), in_place, "raw/**/zarr.json", 1.5),
]
