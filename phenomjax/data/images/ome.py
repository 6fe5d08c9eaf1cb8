"""OME-Zarr plates (NGFF 0.4 on Zarr v2, 0.5 on Zarr v3): which fields they hold, and their pixels
at full resolution.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tensorstore as ts

from phenomjax.system.errors import UserError

_MICROMETER = {"micrometer": 1.0, "micron": 1.0, "um": 1.0, "nanometer": 1e-3, "millimeter": 1e3}


class Field(NamedTuple):
    """One field of view of a plate.

    Attributes:
      path: folder of the array at full resolution.
      plate: name of the plate's folder, without .zarr.
      well: row and column as the plate names them, "A/1".
      site: name of the image's folder in the well.
    """

    path: Path
    plate: str
    well: str
    site: str


class Image(NamedTuple):
    """What the metadata of one field's image says.

    Attributes:
      axes: one letter an axis, such as "tczyx".
      channels: labels, () where there are none.
      pixel_size_um: of x; None where unknown.
    """

    axes: str
    channels: tuple[str, ...]
    pixel_size_um: float | None


def attributes(folder: Path) -> dict:
    """The OME attributes of a Zarr group, {} for anything else.

    Raises:
      UserError: its metadata is damaged.
    """
    for name in ("zarr.json", ".zattrs"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_text())
        except ValueError as error:
            raise UserError(
                f"{file} is not valid JSON ({error}): it is damaged. Copy it again."
            ) from error
        found = content if name == ".zattrs" else content.get("attributes") or {}
        return found.get("ome") or found
    return {}


def plates(folder: Path) -> list[Path]:
    """The folder itself when it is a plate, else the plates directly in it, in order of name."""
    if "plate" in attributes(folder):
        return [folder]
    return [
        child
        for child in sorted(folder.iterdir())
        if child.is_dir() and "plate" in attributes(child)
    ]


def fields(plate: Path) -> Iterator[Field]:
    """Lists the fields of a plate: its wells in the order of the metadata, their images in order.

    Raises:
      UserError: a well or an image that the metadata names is not there.
    """
    for well in attributes(plate)["plate"]["wells"]:
        images = attributes(plate / well["path"]).get("well", {}).get("images")
        if images is None:
            raise UserError(
                f"The plate {plate} lists the well {well['path']}, but that folder has no OME"
                " metadata of a well: the plate was not copied whole. Copy it again."
            )
        for image in images:
            folder = plate / well["path"] / image["path"]
            scales = attributes(folder).get("multiscales")
            if not scales:
                raise UserError(
                    f"The well {plate / well['path']} lists the image {image['path']}, but that"
                    " folder has no 'multiscales' metadata: the plate was not copied whole. Copy"
                    " it again."
                )
            yield Field(
                folder / scales[0]["datasets"][0]["path"], plate.stem, well["path"], image["path"]
            )


def image(array: Path) -> Image:
    """Reads the metadata beside an array that `fields` named."""
    found = attributes(array.parent)
    scale = found["multiscales"][0]
    axes = [
        axis if isinstance(axis, dict) else {"name": axis} for axis in scale.get("axes", "tczyx")
    ]
    labels = tuple(
        str(channel.get("label", i + 1))
        for i, channel in enumerate(found.get("omero", {}).get("channels", ()))
    )
    size = None
    for step in scale["datasets"][0].get("coordinateTransformations", ()):
        unit = _MICROMETER.get(str(axes[-1].get("unit")))
        if step["type"] == "scale" and unit:
            size = step["scale"][-1] * unit
    return Image("".join(axis["name"] for axis in axes), labels, size)


def open_field(array: Path) -> ts.TensorStore:
    """A lazy TensorStore array [y, x, channel] of one field at full resolution.

    Raises:
      UserError: several time points or planes.
    """
    axes = image(array).axes
    driver = "zarr3" if (array / "zarr.json").is_file() else "zarr"
    spec = {
        "driver": driver,
        "kvstore": {"driver": "file", "path": f"{array}/"},
        "recheck_cached_data": "open",
    }
    pixels = ts.open(spec, open=True).result()
    for axis in axes:
        if axis not in "cyx":
            if pixels.shape[axes.index(axis)] != 1:
                raise UserError(
                    f"{array} has {pixels.shape[axes.index(axis)]} points along its axis {axis!r}:"
                    " a bank holds single planes. Project it, or select one plane, first."
                )
            pixels = pixels[(slice(None),) * axes.index(axis) + (0,)]
            axes = axes.replace(axis, "")
    if "c" not in axes:
        pixels, axes = pixels[..., ts.newaxis], axes + "c"
    return pixels.transpose([axes.index(axis) for axis in "yxc"])
