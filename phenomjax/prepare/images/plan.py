"""The plan of a job: which files make which image, in the order of the bank, and which files
cannot. Never holds pixels.

The images are rows of Parquet files, one file a plate, so that a plan of any size takes the memory
of its plates alone, and a unit of work is some rows of a file.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.prepare.images.findings import Found
from phenomjax.prepare.images.records import ImageKey
from phenomjax.system import files

Place = tuple[str | None, str | None]  # experiment, plate
ROWS = 1024  # of a row group
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ImageKey._fields]
    + [("files", pa.list_(pa.string())), ("channels", pa.string()), ("stamp", pa.string())]
)


class ImageFiles(NamedTuple):
    """One image to be.

    Attributes:
      key: where in the screen.
      files: each once, relative to the source folder.
      channels: for each channel of the bank, (which of the files, which page of it) of its planes;
        several are projected.
      stamp: digest of names, sizes and modification times: another stamp is another image.
    """

    key: ImageKey
    files: tuple[str, ...]
    channels: tuple[tuple[tuple[int, int], ...], ...]
    stamp: str


class Plate(NamedTuple):
    """The images of a plate, one at least.

    Attributes:
      place: experiment and plate.
      images: how many.
      table: file of them, in the folder of the plan.
    """

    place: Place
    images: int
    table: str


@dataclass(frozen=True)
class ImagePlan:
    """Everything there is to do.

    Attributes:
      folder: where the tables of the plates are.
      plates: in the order of the bank.
      rejected: what cannot go into the bank, as far as names and indexes say it.
      remarks: what was left out on purpose, or went in with a remark.
      channels: names, in the order of the bank.
      projection: how several planes of a channel become one, "max" or "mean"; None where there are
        none.
      pixel_size_um: where the source says it.
      largest_value: the highest value of the camera, where the source says it.
      single: each file holds one plane only.
    """

    folder: Path
    plates: tuple[Plate, ...] = ()
    rejected: Found = Found()  # noqa: RUF009
    remarks: Found = Found()  # noqa: RUF009
    channels: tuple[str, ...] = ()
    projection: str | None = None
    pixel_size_um: float | None = None
    largest_value: int | None = None
    single: bool = False

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(plate.images for plate in self.plates)

    def path(self, plate: Plate) -> Path:
        """The table of a plate."""
        return self.folder / plate.table

    def of(self, plate: Plate) -> Iterator[ImageFiles]:
        """The images of a plate."""
        return read_images(self.path(plate), 0, plate.images)

    def images(self) -> Iterator[ImageFiles]:
        """All images, in the order of the bank."""
        return itertools.chain.from_iterable(map(self.of, self.plates))

    def keys(self) -> Iterator[ImageKey]:
        """Those of all images."""
        return (image.key for image in self.images())

    def stamps(self, plate: Plate) -> list[str]:
        """Those of the images of a plate."""
        return pq.read_table(self.path(plate), columns=["stamp"])["stamp"].to_pylist()

    def sample(self, count: int) -> list[ImageFiles]:
        """Up to `count` evenly spaced images, the same whenever the plan is the same."""
        found: list[ImageFiles] = []
        first = 0
        wanted = sample(range(self.count), count)
        for plate in self.plates:
            for number in (i - first for i in wanted if first <= i < first + plate.images):
                found += read_images(self.path(plate), number, 1)
            first += plate.images
        return found


def write_plates(folder: Path, images: Iterable[ImageFiles]) -> list[Plate]:
    """Writes the tables of plates.

    Args:
      folder: of the plan.
      images: in the order of the bank; those of a plate follow each other.
    """
    found = []
    for place, of_plate in itertools.groupby(images, lambda image: image.key[:2]):
        entries = list(of_plate)
        digest = hashlib.sha256("".join(image.stamp for image in entries).encode())
        name = f"plates/{digest.hexdigest()[:32]}.parquet"
        columns: dict[str, list] = {
            field: [image.key[i] for image in entries] for i, field in enumerate(ImageKey._fields)
        }
        columns["files"] = [image.files for image in entries]
        columns["channels"] = [json.dumps(image.channels) for image in entries]
        columns["stamp"] = [image.stamp for image in entries]
        with files.replacing(folder / name, shared=True) as partial:
            pq.write_table(pa.table(columns, schema=_SCHEMA), partial, row_group_size=ROWS)
        found.append(Plate(place, len(entries), name))
    return found


def read_images(table: Path, start: int, count: int) -> Iterator[ImageFiles]:
    """Some images of a plate, by their rows."""
    for group in range(start // ROWS, -(-(start + count) // ROWS)):
        first = group * ROWS
        yield from _group(str(table), group)[max(start - first, 0) : start + count - first]


@functools.lru_cache(maxsize=2)  # units of a plate follow each other; a table's name is its content
def _group(table: str, group: int) -> list[ImageFiles]:
    with pq.ParquetFile(table) as file:
        columns = [column.to_pylist() for column in file.read_row_group(group).columns]
    return [
        ImageFiles(ImageKey(*row[:5]), tuple(row[5]), _channels(row[6]), row[7])
        for row in zip(*columns, strict=True)
    ]


@functools.lru_cache(maxsize=1024)  # most images of a screen have the same
def _channels(text: str) -> tuple[tuple[tuple[int, int], ...], ...]:
    return tuple(tuple((file, page) for file, page in planes) for planes in json.loads(text))


def sample(entries, count: int = 64) -> list:
    """Up to `count` evenly spaced items, the same whenever the sequence is the same."""
    return (
        [entries[i * len(entries) // count] for i in range(count)]
        if len(entries) > count
        else list(entries)
    )
