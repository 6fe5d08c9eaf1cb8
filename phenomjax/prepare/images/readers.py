"""Reads one image file (PNG, TIFF, JPEG 2000; 8 or 16 bit) as planes, and names what is wrong with
a bad one.
"""

import io
import logging
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

SUFFIXES = (".png", ".tif", ".tiff", ".jp2", ".j2k", ".jpx")


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


def read_planes(folder: Path, file: str, checksum) -> np.ndarray:
    """Decodes all planes of a file.

    Args:
      folder: the source folder.
      file: the path in it.
      checksum: a hashlib object, fed with the bytes of the file.

    Returns:
      uint8 or uint16 [planes, height, width]; pages of a TIFF, or samples of a colour image.

    Raises:
      BadFile: missing, truncated, undecodable, or pixels of another type.
    """
    try:
        data = (folder / file).read_bytes()
    except OSError as error:
        detail = (
            f"cannot be read ({error.strerror}): was it moved while the job ran, or may you not"
            " read it?"
        )
        raise BadFile("unreadable", detail, file) from error
    checksum.update(data)
    kind = _kind(data, file)
    try:
        planes = {"png": _png, "tiff": _tiff, "jpeg2000": _jpeg2000}[kind](data)
    except BadFile as error:
        raise BadFile(error.reason, error.detail, file) from error
    # whatever a decoder throws at a damaged file; its words go to the user
    except Exception as error:
        detail = f"does not decode as {kind.upper()} ({_first_line(error)}): copy it again"
        raise BadFile("undecodable", detail, file) from error
    if planes.dtype not in (np.uint8, np.uint16):
        raise BadFile(
            "pixel_type",
            f"has {planes.dtype} pixels, a bank holds uint8 or uint16: convert it to 16-bit"
            " integers",
            file,
        )
    if planes.ndim != 3 or 0 in planes.shape:
        raise BadFile("shape", f"has shape {planes.shape}: expected planes of height x width", file)
    return planes


def _kind(data: bytes, file: str) -> str:
    if not data:
        raise BadFile(
            "truncated", "is empty (0 bytes): a copy was interrupted, copy it again", file
        )
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" or data[:4] == b"\xff\x4f\xff\x51":
        return "jpeg2000"
    if data.startswith(b"version https://git-lfs"):
        raise BadFile(
            "undecodable", "is a Git LFS pointer, not the image: run `git lfs pull`", file
        )
    raise BadFile(
        "undecodable",
        f"is no PNG, TIFF or JPEG 2000: it begins with {data[:8]!r}; copy it again, or move it out"
        " of the folder",
        file,
    )


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


def _tiff(data: bytes) -> np.ndarray:
    logger, listener = logging.getLogger("tifffile"), _Listener()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(listener)
    truncated = f"ends after {len(data)} bytes, before its TIFF data end: copy it again"
    try:
        # OME-TIFF metadata may speak of sibling files; a file counts here for the pages it holds
        # itself.
        with tifffile.TiffFile(io.BytesIO(data), is_ome=False) as tiff:
            pages = list(tiff.pages)
            # A TIFF that points past its own end was cut; tifffile would fill the hole with zeros.
            if not pages or any(
                "invalid value offset" in message or "invalid offset" in message
                for message in listener.heard
            ):
                raise BadFile("truncated", truncated)
            for page in pages:
                ends = (a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=False))
                if max(ends, default=0) > len(data):
                    raise BadFile("truncated", truncated)
            series = tiff.series[0]
            pixels, axes = series.asarray(squeeze=False), series.get_axes(squeeze=False)
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate
    rest = [i for i, axis in enumerate(axes) if axis not in "YX"]
    pixels = pixels.transpose([*rest, axes.index("Y"), axes.index("X")])
    return pixels.reshape(-1, *pixels.shape[-2:])


class _Listener(logging.Handler):
    """Keeps what a library logs."""

    def __init__(self):
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


def _samples_first(pixels: np.ndarray) -> np.ndarray:
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
