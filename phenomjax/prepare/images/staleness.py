"""Whether the source files of a finished bank are still those that it was made of."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from phenomjax.data.images.bank import ImageBank

_PIECE = 1 << 22  # bytes


def changed_images(bank: ImageBank, source: Path) -> list[str]:
    """Source files of images that were edited after the bank was made, by date first and then by
    content; files that are not there any more do not count, nor do the arrays of OME-Zarr.
    """
    made = (bank.path / "zarr.json").stat().st_mtime_ns
    images = [
        (text.split(";"), checksum)
        for text, checksum in zip(
            bank.metadata["source"].to_pylist(),
            bank.metadata["checksum"].to_pylist(),
            strict=True,
        )
        if text and checksum
    ]

    def look(image: tuple[list[str], str]) -> str | None:
        files, checksum = image
        paths = [source / file for file in files]
        try:
            newer = [i for i, path in enumerate(paths) if path.stat().st_mtime_ns > made]
            if not newer or not all(path.is_file() for path in paths):
                return None
            return None if _sha256(paths) == checksum else files[newer[0]]
        except OSError:
            return None

    with ThreadPoolExecutor(16) as pool:
        return [file for file in pool.map(look, images) if file]


def _sha256(paths: list[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                found.update(piece)
    return found.hexdigest()
