"""What a source of raw images holds: planes of pixels, what is said of each, and what is wrong.

Every kind of source (names of files, an instrument's index, the axes of a TIFF, OME-Zarr plates, a
list of files) is read into an `Understood`; grouping.py makes images of its planes. Nothing here
holds pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from phenomjax.engine.units import Note


class ImageKey(NamedTuple):
    """Which image of the screen it is; well spelt A01, numbers without leading zeros but those of
    plates, which keep the spelling of the source.

    Attributes:
      time: the time point, None where there is one only.
    """

    experiment: str | None
    plate: str | None
    well: str
    site: str
    time: str | None = None


class FileStatus(NamedTuple):
    """Bytes and modification time (ns): another status is another file."""

    size: int
    modified: int


Listing = Mapping[str, FileStatus]  # by path relative to the source folder, "/" between folders


class Plane(NamedTuple):
    """One plane of pixels: height x width, one channel, one z, one time.

    Attributes:
      file: relative to the source folder, "/" between folders; the folder of the array of an
        OME-Zarr field.
      page: which of the planes that the file holds, in the order in which the reader gives them.
      key: where in the screen; `time` is None here.
      channel: how the source numbers the channel ("1", "2"; the place in the file counts from 1).
      label: how the source names the channel ("HOECHST 33342"), None where it does not.
      z: position along the axis of planes, from 1; None where the source knows no such axis.
      t: time point, from 1; None where the source knows no such axis.
    """

    file: str
    page: int
    key: ImageKey
    channel: str
    label: str | None = None
    z: int | None = None
    t: int | None = None


class Finding(NamedTuple):
    """What is to be known of a file or an image: a row of rejected.parquet (it cannot go into the
    bank) or of remarks.parquet (it went in with a remark, or was left out on purpose).

    Attributes:
      reason: a short name, such as "truncated".
      detail: one sentence with cause and mend.
      file: relative to the source folder; "" when the image as a whole is meant.
      key: of the image; () when it is unknown.
    """

    reason: str
    detail: str
    file: str
    key: tuple[str | None, ...] = ()

    @classmethod
    def from_json(cls, fields: Note) -> "Finding":
        """What `_asdict` became in a note."""
        return cls(**{**fields, "key": tuple(fields["key"])})

    def __str__(self) -> str:
        named = zip(ImageKey._fields, self.key, strict=False)
        where = ", ".join(f"{name} {value}" for name, value in named if value is not None)
        whole = len(self.key) < 3 or self.key[2] is None  # a plate, or all of the bank
        what = self.file + " " if self.file else "" if whole else "the image "
        return f"{what}{'(' + where + ') ' if where else ''}{self.detail}"


class BadFile(Exception):
    """An image that cannot go into the bank.

    Attributes:
      reason: a short name, the `reason` column of rejected.parquet.
      detail: one sentence with cause and mend.
      file: the file, relative to the source folder; "" when the image as a whole is meant.
    """

    def __init__(self, reason: str, detail: str, file: str = ""):
        super().__init__(reason, detail, file)
        self.reason, self.detail, self.file = reason, detail, file


class Understood(NamedTuple):
    """All that one reader of a source found.

    Attributes:
      planes: in any order.
      rejected: files that should be images of the screen and cannot be.
      remarks: files and wells that are left out knowingly (thumbnails, wells that were not
        acquired), and what else a user wants to know of single files.
      told: sentences for the screen, such as which index decided the names.
      pixel_size_um: of x and y, None where unknown.
      largest_value: the highest value that the camera gives (4095 for 12 bit), None where unknown.
      assumed: what was decided by a look at all files, by name; parts of a source that differ in
        one are to be read together.
      sizes: of a pixel, what each index or file says; None where one says nothing.
    """

    planes: Sequence[Plane]
    rejected: Sequence[Finding] = ()
    remarks: Sequence[Finding] = ()
    told: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    largest_value: int | None = None
    assumed: Mapping[str, Any] = {}
    sizes: tuple[float | None, ...] = ()
