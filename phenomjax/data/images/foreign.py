"""Arrays and plates that are no bank, read in place through the bank's interface."""

import functools
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorstore as ts

from phenomjax.data.images import ome
from phenomjax.data.images.bank import (
    METADATA_SCHEMA,
    ImageBank,
    conform_metadata,
    open_array,
)
from phenomjax.data.images.wells import normalise_number, normalise_well
from phenomjax.data.zarr_files import fingerprint
from phenomjax.system.errors import UserError
from phenomjax.system.files import listing, read_json


class ArrayBank(ImageBank):
    """A Zarr v2 or v3 array of images; its channels are c0, c1, ..., its metadata is empty.

    Args:
      path: the folder of the array.
      axes: its axes in order, a permutation of "NHWC" or of "NHW".
    """

    def __init__(self, path: str | Path, axes: str):
        self.path = self.array_path = Path(path)
        described = next(
            (self.path / name for name in ("zarr.json", ".zarray") if (self.path / name).is_file()),
            None,
        )
        self.stored = read_json(described) if described else {}
        if described is None or "shape" not in self.stored:
            raise UserError(
                f"No Zarr array at {self.path}: with axes={axes!r} the path must be the folder of"
                f" an array itself. Found there: {listing(self.path)}."
            )
        sizes = tuple(self.stored["shape"])
        if sorted(axes) not in (sorted("NHWC"), sorted("NHW")) or len(axes) != len(sizes):
            raise UserError(
                f"axes={axes!r} does not fit {self.path}, an array of shape {sizes}: name every"
                " axis once, in the order of the array, with N (image), H, W and C (channel; left"
                " out where there is none), for instance NCHW."
            )
        size = dict(zip(axes, sizes, strict=True))
        self.axes, self.attributes, self.fingerprint = axes, {}, fingerprint([described])
        self.shape = (size["N"], size["H"], size["W"], size.get("C", 1))
        self.dtype = np.dtype(self.array.dtype.numpy_dtype)
        self.channels = tuple(f"c{i}" for i in range(self.shape[3]))
        chunk = _read_chunk(self.array)
        self.images_per_chunk, self.chunk_shape = chunk[0], chunk[1:]
        self.metadata = pa.table(
            [pa.nulls(size["N"], f.type) for f in METADATA_SCHEMA], schema=METADATA_SCHEMA
        )

    @functools.cached_property
    def array(self) -> ts.TensorStore:
        """The pixels as a lazy TensorStore array with axes [image, y, x, channel]."""
        array = open_array(self.array_path, self.stored)
        if "C" not in self.axes:
            array = array[..., ts.newaxis]
        return array.transpose([(self.axes + "C").index(axis) for axis in "NHWC"])

    def __reduce__(self):
        return type(self), (self.path, self.axes)


class PlateBank(ImageBank):
    """An OME-Zarr plate (NGFF 0.4, 0.5): every field is an image; plate, well and site come from
    its metadata.

    Fields must have one size; their full resolution is read. For training on many plates make a
    bank of them (`python -m phenomjax.prepare images --layout ome-zarr`): planes of 1024 pixels
    cost 5 times more to crop.
    """

    def __init__(self, path: str | Path):
        self.path = self.array_path = Path(path)
        self._fields = list(ome.fields(self.path))
        if not self._fields:
            raise UserError(f"The OME-Zarr plate {path} has no fields: its wells list no images.")
        described = ome.image(self._fields[0].path)
        self._first = ome.open_field(self._fields[0].path)
        height, width, depth = self._first.shape
        self.shape, self.dtype = (
            (len(self._fields), height, width, depth),
            np.dtype(self._first.dtype.numpy_dtype),
        )
        self.channels = (
            described.channels
            if len(described.channels) == depth
            else tuple(f"c{i}" for i in range(depth))
        )
        self.chunk_shape = _read_chunk(self._first)
        self.images_per_chunk, self.attributes, self.stored = 1, {}, {}
        columns = {
            "plate": [f.plate for f in self._fields],
            "well": [normalise_well(f.well) for f in self._fields],
        }
        columns |= {"site": [normalise_number(f.site) for f in self._fields]}
        columns |= {"source": [f.path.relative_to(self.path).as_posix() for f in self._fields]}
        self.metadata = conform_metadata(pa.table(columns))
        names = ("zarr.json", ".zattrs")
        self.fingerprint = fingerprint(
            [self.path / name for name in names if (self.path / name).is_file()]
        )

    @functools.cached_property
    def array(self) -> ts.TensorStore:
        """The pixels as a lazy TensorStore array with axes [image, y, x, channel]; fields open when
        they are read.
        """
        layers = []
        for field in self._fields:
            spec = self._first.spec().to_json()
            base = spec
            while "kvstore" not in base:
                base = base["base"]
            base["kvstore"] = {"driver": "file", "path": f"{field.path}/"}
            layers.append(spec)
        return ts.stack([ts.Spec(spec) for spec in layers], read=True)

    def __reduce__(self):
        return type(self), (self.path,)


def _read_chunk(array: ts.TensorStore) -> tuple[int, ...]:
    return tuple(
        size or whole
        for size, whole in zip(array.chunk_layout.read_chunk.shape or (), array.shape, strict=True)
    )
