"""Small raw plates of each instrument, for pages: `python -m tests.lab.raw_plates LAYOUT=FOLDER …`.

Two wells (A01, B03) of one site and two channels, unless the published names want others; 16 px.
"""

import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from tests.lab import instruments, ngff, rxrx1

WELLS = ((1, 1), (2, 3))


def ome_tiff(folder: Path) -> None:
    """One file of both wells, described by its OME-XML."""
    listed, samples = "", ""
    for k, (row, column) in enumerate(WELLS):
        listed += (
            f'<Image ID="Image:{k}"><Pixels ID="P:{k}" DimensionOrder="XYCZT" Type="uint16"'
            f' SizeX="16" SizeY="16" SizeC="2" SizeZ="1" SizeT="1"><Channel ID="C:{k}:0"'
            f' Name="DNA"/><Channel ID="C:{k}:1" Name="ER"/><TiffData IFD="{2 * k}"'
            ' PlaneCount="2"/></Pixels></Image>'
        )
        samples += (
            f'<Well ID="W:{k}" Row="{row - 1}" Column="{column - 1}"><WellSample ID="S:{k}"'
            f' Index="{k}"><ImageRef ID="Image:{k}"/></WellSample></Well>'
        )
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
        f' UUID="urn:uuid:0"><Plate ID="Plate:0" Name="BR7">{samples}</Plate>{listed}</OME>'
    )
    pixels = _planes(0, 4)
    tifffile.imwrite(
        folder / "BR7.ome.tif", pixels, description=text, metadata=None, photometric="minisblack"
    )


def ome_zarr(folder: Path) -> None:
    pixels = {("A/1", "0"): _planes(0, 3), ("B/3", "0"): _planes(1, 3)}
    ngff.write_plate(folder / "BR7.zarr", "0.5", pixels)


def generic(folder: Path) -> None:
    """PLATE/ROW-COLUMN_STAIN.tif of two stains."""
    for row, column in WELLS:
        for stain in ("DAPI", "GFP"):
            instruments.write_image(folder / f"P1/{'ABCDEFGH'[row - 1]}-{column}_{stain}.tif")


def table(folder: Path) -> None:
    """Files whose names say nothing, and CellProfiler's list of them, LIST.csv beside them."""
    rows = ["Metadata_Plate,Metadata_Well,Metadata_Site,FileName_DNA,FileName_ER"]
    for row, column in WELLS:
        well = f"{'ABCDEFGH'[row - 1]}{column:02}"
        names = [f"{well}_{k}.tif" for k in (7, 9)]
        for name in names:
            instruments.write_image(folder / name)
        rows.append(f"BR1,{well},1,{','.join(names)}")
    (folder / "LIST.csv").write_text("\n".join(rows) + "\n")


def rxrx3(folder: Path) -> None:
    (folder / "images/gene-001/Plate9").mkdir(parents=True)
    for well in ("AA41", "B02"):
        for channel in range(1, 7):
            path = folder / f"images/gene-001/Plate9/{well}_s1_{channel}.jp2"
            Image.fromarray(_planes(channel, 1)[0].astype(np.uint8)).save(path)


def jump(folder: Path) -> None:
    images = instruments.harmony_images(channels=tuple(range(1, 6)))
    for image in images:
        instruments.write_image(
            folder / "BR1__2020-11-08/Images" / instruments.harmony_name(*image)
        )


def metadata(folder: Path) -> None:
    """A plate map as laboratories keep it, plates.csv."""
    rows = ["plate,well,compound,dose,control"]
    rows += [f"{plate},A01,DMSO,,negcon" for plate in ("BR1", "P1", "BR7")]
    rows += [f"{plate},B03,taxol,1 uM," for plate in ("BR1", "P1", "BR7")]
    (folder / "plates.csv").write_text("\n".join(rows) + "\n")


def _planes(seed: int, channels: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 4000, (channels, 16, 16), "uint16")


WRITERS = {
    "phenix": lambda folder: instruments.write_harmony(folder / "BR1/Images"),
    "imagexpress": lambda folder: instruments.write_metaxpress(
        folder, [f"TimePoint_1/P1_{well}_s1_w{w}.TIF" for well in ("A01", "B03") for w in (1, 2)]
    ),
    "cellvoyager": lambda folder: instruments.write_cellvoyager(
        folder, [(*well, 1, 1, channel, 1) for well in WELLS for channel in (1, 2)]
    ),
    "incell": lambda folder: instruments.write_incell(
        folder, [(*well, 1, wave) for well in WELLS for wave in (0, 1)]
    ),
    "rxrx1": lambda folder: rxrx1.write(folder, pixels=16),
    "rxrx1-wilds": lambda folder: rxrx1.write(folder, wilds=True, pixels=16),
    "ome-tiff": ome_tiff,
    "ome-zarr": ome_zarr,
    "generic": generic,
    "table": table,
    "rxrx3": rxrx3,
    "jump": jump,
    "metadata": metadata,
}

if __name__ == "__main__":
    for word in sys.argv[1:]:
        name, _, place = word.partition("=")
        folder = Path(place or name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        WRITERS[name](folder)
