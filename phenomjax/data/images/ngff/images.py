"""One image of an OME-Zarr plate: its array at full resolution, its axes and channels, its planes.

Planes are counted in the order time, channel, z of the array's own positions, whatever the order
of its axes.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorstore as ts
from jaxtyping import Int, Shaped

from phenomjax.data import store
from phenomjax.data.images.ngff import chunks
from phenomjax.data.images.ngff.chunks import Files, StoredArray, read_array
from phenomjax.data.images.ngff.metadata_files import (
    as_list,
    as_map,
    as_number,
    as_text,
    attributes,
    attributes_or_none,
)
from phenomjax.system.errors import UserError

_MICROMETER = {
    "micrometer": 1.0,
    "micrometre": 1.0,
    "micron": 1.0,
    "um": 1.0,
    "µm": 1.0,
    "nanometer": 1e-3,
    "nm": 1e-3,
    "millimeter": 1e3,
    "mm": 1e3,
}
# types and names of axes that mean one of the five, whatever they are called
_LETTERS = {"time": "t", "channel": "c", "t": "t", "c": "c", "z": "z", "y": "y", "x": "x"}
_DEEPEST = 4  # folders between an image's group and its array, as in scale0/image


class Image(NamedTuple):
    """What the metadata of one image say of its full resolution.

    Attributes:
      array: the stored array.
      axes: one letter an axis: t, c, z, y, x, or "_" for another axis of length 1.
      labels: of the channels, "" for one without; () where no channel has one.
      pixel_size_um: of x; None where unknown.
      odd: what is to be told of it, "" where nothing is.
    """

    array: StoredArray
    axes: str
    labels: tuple[str, ...]
    pixel_size_um: float | None
    odd: str = ""

    def size(self, axis: str) -> int:
        """Length along t, c, z, y or x; 1 where there is no such axis."""
        return self.array.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def planes(self) -> tuple[int, int, int]:
        """How many time points, channels and z positions there are."""
        return self.size("t"), self.size("c"), self.size("z")


class AbsentChunks(NamedTuple):
    """Chunks that are not stored and read as the fill value.

    Attributes:
      counts: of each plane.
      of: how many chunks a plane has.
    """

    counts: Int[np.ndarray, "times channels zs"]
    of: int


def read_image(folder: Path) -> Image:
    """Reads the metadata of an image.

    Args:
      folder: of the group with the 'multiscales'.

    Raises:
      UserError: they do not say what is needed, or are damaged.
    """
    found = attributes(folder)
    scales = as_list(found.get("multiscales"))
    if not scales:
        raise UserError(
            f"{folder} has no 'multiscales' metadata: the plate was not copied whole. Copy it"
            " again."
        )
    if "image-label" in found:
        raise UserError(f"{folder} holds labels of objects, no image.")
    scale = as_map(scales[0])
    datasets = [as_map(one) for one in as_list(scale.get("datasets"))]
    paths = [as_text(one.get("path")) for one in datasets]
    if not paths or not paths[0] or ".." in paths[0].split("/"):
        raise UserError(
            f"{folder} names no array in its 'multiscales' metadata: they are damaged. Copy the"
            " plate again."
        )
    array, place, odd = read_array(folder / paths[0].strip("/")), 0, ""
    axes = _axes(folder, scale, array)
    for number, path in enumerate(paths[1:], start=1):
        other = _lower_resolution(folder, path)
        if other and len(other.shape) == len(axes) and _pixels(other, axes) > _pixels(array, axes):
            array, place = other, number
            odd = f"its largest resolution is {path}, not the first of its list: that is taken"
    if len(scales) > 1:
        more = f"its metadata have {len(scales)} multiscales, of which the first is taken"
        odd = f"{odd}; {more}" if odd else more
    if len(array.shape) != len(axes) or min(array.shape) < 1:
        raise UserError(
            f"{array.folder} has shape {array.shape}, which its axes {axes} do not fit. Convert the"
            " plate again."
        )
    if not _is_number(array.dtype):
        raise UserError(
            f"{array.folder} has pixels of type {array.dtype}, which is not read. Convert the plate"
            " to 16-bit integers."
        )
    labels = tuple(
        as_text(as_map(one).get("label")) or ""
        for one in as_list(as_map(found.get("omero")).get("channels"))
    )
    size = _pixel_size(scale, datasets[place], axes)
    return Image(array, axes, labels if any(labels) else (), size, odd)


def image_of(array: Path) -> Image:
    """The image whose array `read_image` gave.

    Raises:
      UserError: no folder above it says so.
    """
    for folder in list(array.parents)[:_DEEPEST]:
        if "multiscales" in attributes_or_none(folder):
            return read_image(folder)
    raise UserError(f"No 'multiscales' metadata above {array}: copy the plate again.")


def read_planes(image: Image, pages: Sequence[int]) -> Shaped[np.ndarray, "pages y x"]:
    """Reads some planes, each chunk once, and no others.

    Args:
      image: of the planes.
      pages: which, counted along time, channel, z.

    Raises:
      ValueError, OSError: a chunk is damaged or cannot be read.
    """
    t, c, z = np.unravel_index(np.asarray(pages, np.int64), image.planes)
    opened = ts.open(spec(image, planes_of(image)), open=True).result()
    return opened.vindex[t, c, z].read().result()


def planes_of(image: Image) -> ts.IndexTransform:
    """The view [t, c, z, y, x] of an image's array."""
    view, axes = ts.IndexTransform(ts.IndexDomain(shape=image.array.shape)), image.axes
    while "_" in axes:
        view = view[(slice(None),) * axes.index("_") + (0,)]
        axes = axes.replace("_", "", 1)
    for axis in "tcz":
        if axis not in axes:
            view, axes = view[..., ts.newaxis], axes + axis
    return view.transpose([axes.index(axis) for axis in "tczyx"])


def spec(image: Image, view: ts.IndexTransform) -> ts.Spec:
    """What TensorStore opens to see an image's array through a view."""
    stored = image.array
    described = {
        "driver": "zarr" if stored.version == 2 else "zarr3",
        "kvstore": store.kvstore(stored.folder),
        "dtype": stored.dtype,
        "recheck_cached_data": "open",
        "transform": view.to_json(),
    }
    if stored.inferred:
        described["metadata"] = {"dimension_separator": stored.key[1]}
    return ts.Spec(described)


def absent_chunks(image: Image, files: Files) -> AbsentChunks:
    """Counts the chunks that are not stored.

    Args:
      image: of the planes.
      files: of `chunks.list_files(image.array.folder)`.
    """
    there, step = chunks.chunks_there(image.array, files)
    axes = image.axes.replace("_", "") + "".join(axis for axis in "tcz" if axis not in image.axes)
    order = [image.axes.index(axis) for axis in axes if axis in image.axes]
    others = [place for place, axis in enumerate(image.axes) if axis == "_"]
    grid = there.transpose([*others, *order])
    grid = grid.reshape(*grid.shape[len(others) :], *(1,) * (len(axes) - len(order)))
    absent = (~grid.transpose([axes.index(axis) for axis in "tczyx"])).sum(axis=(3, 4))
    for place, axis in enumerate("tcz"):
        size = step[image.axes.index(axis)] if axis in image.axes else 1
        absent = absent.take(np.arange(image.size(axis)) // size, axis=place)
    shape = dict(zip(image.axes, there.shape, strict=True))
    return AbsentChunks(absent, math.prod(shape[axis] for axis in "yx"))


def files_of_planes(image: Image, pages: Sequence[int], files: Files) -> list[str]:
    """Files of the array that hold some planes, and those that describe it.

    Args:
      image: of the planes.
      pages: which, counted along time, channel, z.
      files: of `chunks.list_files(image.array.folder)`.
    """
    found = np.unravel_index(np.asarray(pages, np.int64), image.planes)
    wanted = set[str]()
    for position in zip(*found, strict=True):
        at = dict(zip("tcz", position, strict=True))
        ranges = [
            [int(at[axis])] if axis in at else list(range(size))
            for axis, size in zip(image.axes, image.array.shape, strict=True)
        ]
        wanted.update(chunks.files_of_planes(image.array, ranges, files))
    return sorted(wanted)


def _axes(folder: Path, scale: Mapping[str, object], array: StoredArray) -> str:
    """One letter an axis.

    Raises:
      UserError: an axis that is unknown, there twice, or not there.
    """
    given = [one if isinstance(one, dict) else {"name": one} for one in as_list(scale.get("axes"))]
    if not given:
        given = [{"name": name} for name in array.dimensions]
    if not given and len(array.shape) in (2, 5):  # NGFF 0.1 and 0.2: always five
        given = [{"name": name} for name in "tczyx"[-len(array.shape) :]]
    names = [str(axis.get("name", "?")) for axis in given]
    mend = "Correct its 'axes' metadata, or convert the plate again."
    if len(names) != len(array.shape):
        raise UserError(
            f"{folder} names {len(names)} axes ({', '.join(names)}) for an array of shape"
            f" {array.shape}. {mend}"
        )
    letters = ""
    for axis, name, size in zip(given, names, array.shape, strict=True):
        letter = _LETTERS.get(str(axis.get("type")).lower()) or _LETTERS.get(name.lower(), "_")
        if letter == "_" and size > 1:
            raise UserError(
                f"{folder} has {size} points along an axis {name!r}, which is none of t, c, z, y,"
                f" x. {mend}"
            )
        letters += letter
    known = letters.replace("_", "")
    if len(set(known)) != len(known) or not {"y", "x"} <= set(known):
        raise UserError(
            f"{folder} has the axes {', '.join(names)}: each of t, c, z, y, x can be there once,"
            f" and y and x must be. {mend}"
        )
    stored = [name.lower() for name in array.dimensions]
    if sorted(stored) == sorted(name.lower() for name in names) and stored != [
        name.lower() for name in names
    ]:
        raise UserError(
            f"{folder} says that its axes are {', '.join(names)}, its array that they are"
            f" {', '.join(array.dimensions)}. {mend}"
        )
    return letters


def _is_number(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "biuf" and np.dtype(dtype).name == dtype
    except TypeError:
        return False


def _lower_resolution(folder: Path, path: str | None) -> StoredArray | None:
    try:
        return read_array(folder / path.strip("/")) if path and ".." not in path else None
    except UserError:
        return None  # the pyramid is not needed


def _pixels(array: StoredArray, axes: str) -> int:
    return math.prod(array.shape[axes.index(axis)] for axis in "yx")


def _pixel_size(
    scale: Mapping[str, object], dataset: Mapping[str, object], axes: str
) -> float | None:
    given = as_list(scale.get("axes"))
    place = axes.index("x")
    unit = as_map(given[place]).get("unit") if place < len(given) else None
    size, found = _MICROMETER.get(str(unit)), False
    if size is None:
        return None
    for one in (dataset, scale):
        for step in map(as_map, as_list(one.get("coordinateTransformations"))):
            factors = as_list(step.get("scale"))
            if step.get("type") == "scale" and place < len(factors):
                factor = as_number(factors[place])
                if factor is None or factor <= 0:
                    return None
                size, found = size * factor, True
    return size if found else None
