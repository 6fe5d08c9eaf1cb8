"""Reads one image file (PNG, TIFF, JPEG 2000) as planes, and names what is wrong with a bad one."""

import io
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np

from phenomjax.data import store
from phenomjax.prepare.images.formats import kinds, pages
from phenomjax.prepare.images.records import BadFile

# .stk (MetaMorph), .lsm (Zeiss) and those of TIFFs above 4 GB are TIFFs by another name
SUFFIXES = (
    *(".png", ".tif", ".tiff", ".jp2", ".j2k", ".jpx"),
    *(".stk", ".lsm", ".btf", ".tf2", ".tf8"),
)


def read_planes(
    folder: Path, file: str, checksum, wanted: Sequence[int] | None = None, count: int | None = None
) -> np.ndarray:
    """Decodes planes of a file.

    Args:
      folder: the source folder.
      file: the path in it.
      checksum: a hashlib object, fed with the bytes of the file.
      wanted: which planes; None for all.
      count: how many the file must hold; None for any number.

    Returns:
      [planes, height, width], whole numbers, floats (finite) or bool; planes are the pages of a
      TIFF, or the samples of a colour image.

    Raises:
      BadFile: missing, truncated, undecodable, another number of planes, or no real numbers.
    """
    try:
        data = store.read_bytes(folder / file)
    except OSError as error:
        detail = (
            f"cannot be read ({error.strerror or 'not there'}): was it moved while the job ran, or"
            " may you not read it?"
        )
        raise BadFile("unreadable", detail, file) from error
    checksum.update(data)
    kind = "file"
    try:
        kind = kinds.kind_of(data)
        if kind == "tiff":
            with pages.opened(io.BytesIO(data), len(data)) as tiff:
                chosen = _chosen(tiff.count, wanted, count)
                planes = pages.decode(tiff, chosen)
        else:
            planes = {"png": _png, "jpeg2000": _jpeg2000}[kind](data)
            planes = planes[_chosen(len(planes), wanted, count)]
    except BadFile as error:
        raise BadFile(error.reason, error.detail, file) from error
    # whatever a decoder throws at a damaged file; its words go to the user
    except Exception as error:
        detail = f"does not decode as {kind.upper()} ({kinds.first_line(error)}): copy it again"
        raise BadFile("undecodable", detail, file) from error
    if planes.dtype.kind not in "buif":
        raise BadFile(
            "pixel_type",
            f"has {planes.dtype} pixels, which are no numbers of light: convert it to 16-bit"
            " integers",
            file,
        )
    if planes.ndim != 3 or 0 in planes.shape:
        raise BadFile("shape", f"has shape {planes.shape}: expected planes of height x width", file)
    if planes.dtype.kind == "f" and not (finite := np.isfinite(planes)).all():
        raise BadFile(
            "not_finite",
            f"has {int((~finite).sum())} of {planes.size} pixels that are no numbers (NaN or"
            " infinite): write it again with a value there, such as 0",
            file,
        )
    return planes


def _chosen(there: int, wanted: Sequence[int] | None, count: int | None) -> list[int]:
    if count is not None and there != count:
        what = "one plane a file" if count == 1 else f"{count} planes"
        raise BadFile(
            "planes",
            f"holds {there} planes where {what} {'is' if count == 1 else 'are'} expected: a colour"
            " image or a stack"
            "; convert it to grey, say what its pages are with --pages z or --pages t, or leave it"
            " out with --exclude 'PATTERN'",
        )
    if wanted is not None and max(wanted) >= there:
        raise BadFile("planes", f"holds {there} planes, plane {max(wanted) + 1} is missing")
    return list(range(there) if wanted is None else wanted)


def _png(data: bytes) -> np.ndarray:
    if b"IEND" not in data[-16:]:
        raise BadFile(
            "truncated", f"ends after {len(data)} bytes, before its PNG end mark: copy it again"
        )
    return _samples_first(imagecodecs.png_decode(data))


def _jpeg2000(data: bytes) -> np.ndarray:
    # Checked here because some versions of OpenJPEG decode a cut file without a word, losing
    # detail.
    if b"\xff\xd9" not in data[-64:]:
        raise BadFile(
            "truncated",
            f"ends after {len(data)} bytes, before its JPEG 2000 end mark: copy it again",
        )
    return _samples_first(imagecodecs.jpeg2k_decode(data))


def _samples_first(pixels: np.ndarray) -> np.ndarray:
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
