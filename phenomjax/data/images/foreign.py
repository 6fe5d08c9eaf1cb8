"""Arrays and plates that are no bank, read in place through the bank's interface."""

import functools
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorstore as ts

from phenomjax.data import store
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.metadata import METADATA_SCHEMA, MetadataInMemory, conform_metadata
from phenomjax.data.images.ngff import one_set, plates
from phenomjax.data.images.ngff.images import planes_of, spec
from phenomjax.data.zarr_files import fingerprint, open_array
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
TOLD = 5  # remarks of a plate that are shown when it is opened


class ArrayBank(ImageBank):
    """A Zarr v2 or v3 array of images; its channels are c0, c1, ..., its metadata is empty.

    Args:
      path: the folder of the array.
      axes: its axes in order, a permutation of "NHWC" or of "NHW".
    """

    def __init__(self, path: str | Path, axes: str):
        self.path = self.array_path = Path(path)
        described = next(
            (
                self.path / name
                for name in ("zarr.json", ".zarray")
                if store.is_file(self.path / name)
            ),
            None,
        )
        self.stored = store.read_json(described) if described else {}
        if described is None or "shape" not in self.stored:
            raise UserError(
                f"No Zarr array at {self.path}: with axes={axes!r} the path must be the folder of"
                f" an array itself. Found there: {store.listing(self.path)}."
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
        self.images_per_shard = 1
        self.shape = (size["N"], size["H"], size["W"], size.get("C", 1))
        self.dtype = np.dtype(self.array.dtype.numpy_dtype)
        self.channels = tuple(f"c{i}" for i in range(self.shape[3]))
        chunk = _read_chunk(self.array)
        self.images_per_chunk, self.chunk_shape = chunk[0], chunk[1:]
        table = pa.table(
            [pa.nulls(size["N"], f.type) for f in METADATA_SCHEMA], schema=METADATA_SCHEMA
        )
        self.described = MetadataInMemory(self.path, table)

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
    """An OME-Zarr plate (NGFF 0.1 to 0.5): every field is an image; plate, well and site come from
    its metadata.

    Fields must have one size, one type and one set of channels, which may be in another order in
    some; their full resolution is read. For training on many plates make a bank of them (`python
    -m phenomjax.prepare images --layout ome-zarr`): planes of 1024 pixels cost 5 times more to
    crop.

    Args:
      path: folder of the plate.
      telling: look for chunks that are not there, and say what is to be known of the plate.

    Attributes:
      remarks: a sentence for each thing that is to be known: wells that are not there, chunks.
    """

    def __init__(self, path: str | Path, telling: bool = True):
        self.path = self.array_path = Path(path)
        plate = plates.read_plate(self.path)
        one_set.check_whole(plate)
        self._fields = plate.fields
        first = self._fields[0].image
        self.channels, self._orders = one_set.channels_of(plate)
        self.shape = (len(self._fields), first.size("y"), first.size("x"), first.size("c"))
        self.dtype = np.dtype(first.array.dtype)
        inner = dict(zip(first.axes, first.array.inner, strict=True))
        self.chunk_shape = tuple(
            min(inner.get(axis, 1), first.size(axis)) if axis != "c" else inner.get("c", 1)
            for axis in "yxc"
        )
        self.images_per_chunk, self.images_per_shard = 1, 1
        self.attributes, self.stored = {}, {}
        columns = {"plate": [field.plate for field in self._fields]}
        columns |= {"well": [field.well for field in self._fields]}
        columns |= {"site": [field.site for field in self._fields]}
        columns |= {"source": [f.path.relative_to(self.path).as_posix() for f in self._fields]}
        table = conform_metadata(pa.table(columns))
        self.described = MetadataInMemory(self.path, table)
        names = ("zarr.json", ".zattrs")
        self.fingerprint = fingerprint(
            [self.path / name for name in names if store.is_file(self.path / name)]
        )
        if telling and store.has_lists(self.path):
            self.remarks = one_set.remarks(plate)
            for text in self.remarks[:TOLD]:
                log.warning("%s: %s", self.path, text)
            if len(self.remarks) > TOLD:
                more = "%s: %d more remarks; `python -m phenomjax.prepare inspect %s` shows all"
                log.warning(more, self.path, len(self.remarks) - TOLD, self.path)

    @functools.cached_property
    def array(self) -> ts.TensorStore:
        """The pixels as a lazy TensorStore array with axes [image, y, x, channel]; fields open when
        they are read.
        """
        layers = []
        for field, order in zip(self._fields, self._orders, strict=True):
            view = planes_of(field.image)[0, :, 0]
            if order != tuple(range(len(order))):
                view = view[list(order)]
            layers.append(spec(field.image, view.transpose([1, 2, 0])))
        return ts.stack(layers, read=True)

    def __reduce__(self):
        return type(self), (self.path, False)


def _read_chunk(array: ts.TensorStore) -> tuple[int, ...]:
    return tuple(
        size or whole
        for size, whole in zip(array.chunk_layout.read_chunk.shape or (), array.shape, strict=True)
    )
