"""`prepare images`: what each source format costs beside its decoder, and how time and memory grow.

    python -m bench.prepare            # formats: about 3 minutes, 2 GB in a temporary folder
    python -m bench.prepare --curve    # 1,000 to 1,000,000 tiny images: about half an hour

Formats: CPU seconds of one process, medians of alternating rounds. `decode` reads the files and
decodes them with the library alone. `needed` also hashes them, brings the pixels to 8 bit, encodes
them and writes them, in a bare loop. `prepare` is the command. The curve: hard links to a hundred
PNGs of 16 x 16 pixels in plates of a thousand, 1000 a shard; the driver's memory is the peak of its
process, workers apart.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import tensorstore as ts
import tifffile

from bench.rounds import header
from phenomjax.data.images import bank
from phenomjax.data.images.encoding import encode
from phenomjax.prepare.images import command
from phenomjax.prepare.images.options import Options
from phenomjax.prepare.images.pixels import eight_bit
from tests.lab.ngff import write_plate

SIZE, CHANNELS = 1080, 3
RANGE = (100, 4000)
Decoder = Callable[[Path], np.ndarray]


def field(number: int, dtype: str) -> np.ndarray:
    """Cells of smooth edges with photon noise, 12 bit (or 8), [CHANNELS, SIZE, SIZE]."""
    rng = np.random.default_rng(number)
    coarse = rng.random((CHANNELS, SIZE // 40 + 1, SIZE // 40 + 1)) ** 4
    smooth = np.kron(coarse, np.ones((40, 40)))[:, :SIZE, :SIZE]
    photons = rng.poisson(200 + 3000 * smooth)
    return (
        np.clip(photons, 0, 4095).astype("uint16")
        if dtype == "uint16"
        else (np.clip(photons >> 4, 0, 255).astype("uint8"))
    )


def write_source(folder: Path, name: str, images: int) -> tuple[list[list[Path]], Decoder, dict]:
    """Writes images in a format.

    Returns:
      Files of each image, what decodes one, and options of the command.
    """
    kind, dtype = name.rsplit(" ", 1)
    wells = [f"{chr(65 + i // 12)}{i % 12 + 1:02}" for i in range(images)]
    if kind == "OME-Zarr":
        arrays = [field(i, dtype) for i in range(images)]
        return write_ome_zarr(folder, wells, arrays)
    found: list[list[Path]] = []
    (folder / "P1").mkdir(parents=True)
    if kind == "OME-TIFF stack":
        for i, well in enumerate(wells):
            path = folder / "P1" / f"{well}.ome.tif"
            tifffile.imwrite(path, field(i, dtype), ome=True, metadata={"axes": "CYX"})
            found.append([path])
        options = {"layout": "ome-tiff", "pattern": r"(?P<plate>P1)/(?P<well>[A-P]\d\d)\.ome\.tif"}
        return found, tifffile.imread, options
    codecs = {"TIFF": None, "TIFF LZW": "lzw", "TIFF deflate": "zlib"}
    suffix = {"PNG": "png", "JPEG 2000": "jp2"}.get(kind, "tif")
    for i, well in enumerate(wells):
        found.append([folder / "P1" / f"{well}_w{c + 1}.{suffix}" for c in range(CHANNELS)])
        for path, plane in zip(found[-1], field(i, dtype), strict=True):
            if kind == "PNG":
                path.write_bytes(imagecodecs.png_encode(plane))
            elif kind == "JPEG 2000":
                path.write_bytes(imagecodecs.jpeg2k_encode(plane, level=0, reversible=True))
            else:
                tifffile.imwrite(path, plane, compression=codecs[kind], metadata=None)
    decoders: dict[str, Decoder] = {
        "png": lambda path: imagecodecs.png_decode(path.read_bytes()),
        "jp2": lambda path: imagecodecs.jpeg2k_decode(path.read_bytes()),
        "tif": tifffile.imread,
    }
    pattern = r"(?P<plate>P1)/(?P<well>[A-P]\d\d)_w(?P<channel>\d)\." + suffix
    return found, decoders[suffix], {"layout": "generic", "pattern": pattern}


def write_ome_zarr(
    folder: Path, wells: list[str], arrays: list[np.ndarray]
) -> tuple[list[list[Path]], Decoder, dict]:
    """A plate of NGFF 0.4 in chunks of a plane."""
    plate = folder / "P1.zarr"
    names = [f"{well[0]}/{int(well[1:])}" for well in wells]
    fields = {(name, "0"): array for name, array in zip(names, arrays, strict=True)}
    write_plate(plate, "0.4", fields, "abc", chunk=(SIZE, SIZE))
    return [[plate / name / "0" / "0"] for name in names], read_zarr, {"layout": "ome-zarr"}


def read_zarr(path: Path) -> np.ndarray:
    """An array by TensorStore."""
    driver = "zarr3" if (path / "zarr.json").is_file() else "zarr"
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/"}}
    return ts.open(spec, open=True).result().read().result()


def needed(folder: Path, images: list[list[Path]], decode: Decoder) -> None:
    """What has to be done, without units, notes, checks and names."""
    numbers = [RANGE] * CHANNELS
    bank.create_bank(folder, (len(images), SIZE, SIZE, CHANNELS), "uint8", list("abc"))
    for number, files in enumerate(images):
        checksum = hashlib.sha256()
        for path in files:
            for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if part.is_file():
                    checksum.update(part.read_bytes())
        planes = np.concatenate([decode(path).reshape(-1, SIZE, SIZE) for path in files])
        image = np.stack([*planes], axis=-1)
        if image.dtype != np.uint8:
            image = eight_bit.to_8_bit(image, numbers)
        with bank.shard_path(folder, number).open("wb") as file:
            file.write(encode(folder, [image]))
            os.fsync(file.fileno())


def measure(images: int, count: int, only: str) -> None:
    """Prints the table of formats."""
    print(
        f"{images} images of {CHANNELS} x {SIZE} x {SIZE}; CPU ms an image, images/s, MB/s a core"
    )
    print(
        f"{'':24}{'decode':>8}{'needed':>8}{'prepare':>9}{'of decode':>11}{'of needed':>11}", end=""
    )
    print(f"{'images/s':>10}{'MB/s':>7}")
    kinds = [f"{kind} uint16" for kind in ("TIFF", "TIFF LZW", "TIFF deflate", "PNG", "JPEG 2000")]
    kinds += [
        "OME-TIFF stack uint16",
        "OME-Zarr uint16",
        "TIFF uint8",
        "PNG uint8",
        "OME-Zarr uint8",
    ]
    with tempfile.TemporaryDirectory() as name:  # what is imported at its first use
        files, decode, options = write_source(Path(name) / "raw", "TIFF uint8", 2)
        _round(Path(name) / "warm", files, decode, options, "TIFF uint8")
    for kind in filter(lambda kind: only in kind, kinds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files, decode, options = write_source(folder / "raw", kind, images)
            size = CHANNELS * SIZE * SIZE * (2 if kind.endswith("16") else 1)
            rounds = [_round(folder / str(i), files, decode, options, kind) for i in range(count)]
        one, two, three = (statistics.median(times) / images for times in zip(*rounds, strict=True))
        print(
            f"{kind:24}{one * 1e3:8.1f}{two * 1e3:8.1f}{three * 1e3:9.1f}{one / three:11.0%}"
            f"{two / three:11.0%}{1 / three:10.1f}{size / three / 1e6:7.0f}",
            flush=True,
        )


def _round(
    folder: Path, files: list[list[Path]], decode: Decoder, options: dict, kind: str
) -> tuple[float, float, float]:
    start = time.process_time()
    for paths in files:
        for path in paths:
            decode(path)
    decoded = time.process_time()
    needed(folder / "needed.zarr", files, decode)
    done = time.process_time()
    rule = f"range:{RANGE[0]}:{RANGE[1]}" if kind.endswith("16") else "keep"
    code = command.run(
        Options(folder.parent / "raw", folder / "b.zarr", intensity=rule, jobs=1, **options)
    )
    assert code == 0, kind
    return decoded - start, done - decoded, time.process_time() - done


def curve(sizes: list[int], jobs: int) -> None:
    """Prints how time and memory grow."""
    print(f"{'images':>9}{'seconds':>9}{'CPU s':>8}{'CPU us an image':>17}{'driver MiB':>12}")
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_tiny(folder / "raw", size)
            seconds, cpu, memory = _run(folder, jobs)
        print(
            f"{size:9,}{seconds:9.0f}{cpu:8.0f}{cpu / size * 1e6:17.0f}{memory / 1024:12.0f}",
            flush=True,
        )


def write_tiny(folder: Path, images: int) -> None:
    """Hard links in plates of a thousand: 100 wells of 10 sites."""
    originals = []
    for i in range(100):
        path = folder.parent / f"{i}.png"
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16), "uint8")
        path.write_bytes(imagecodecs.png_encode(pixels))
        originals.append(path)
    for plate in range(-(-images // 1000)):
        (folder / f"E{plate // 100:03}" / f"P{plate:06}").mkdir(parents=True)
    for i in range(images):
        plate, well, site = i // 1000, i // 10 % 100, i % 10
        name = f"{chr(65 + well // 12)}{well % 12 + 1:02}_s{site}.png"
        os.link(originals[i % 100], folder / f"E{plate // 100:03}" / f"P{plate:06}" / name)


def _run(folder: Path, jobs: int) -> tuple[float, float, int]:
    """Seconds, CPU seconds of all processes, and the peak of the driver's memory in KiB."""
    words = ["images", "--source", folder / "raw", "--out", folder / "b.zarr", "--layout"]
    words += ["generic", "--pattern", r"(?P<plate>P\d+)/(?P<well>[A-P]\d\d)_s(?P<site>\d)\.png"]
    words += ["--images_per_shard", "1000", "--chunk", "16", "--jobs", jobs]
    start, memory = time.monotonic(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "phenomjax.prepare", *map(str, words)], stderr=subprocess.DEVNULL
    )
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            assert status == 0, status
            return time.monotonic() - start, usage.ru_utime + usage.ru_stime, memory
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                memory = int(line.split()[1])
        time.sleep(0.2)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="formats whose name has this")
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    print(header("", ("tensorstore", "tifffile", "imagecodecs", "pyarrow")))
    if options.curve:
        curve([n for n in (10**3, 10**4, 10**5, 10**6) if n <= options.most], options.jobs)
    else:
        measure(options.images, options.rounds, options.only)


if __name__ == "__main__":
    main()
