"""The reader by which napari opens an image bank, or an OME-Zarr plate: `napari plates.zarr`.

One layer a channel, named, coloured and added up, with a slider over the images, and a layer of
text that says which plate and well the image on the screen is of. An image is read when the slider
comes to it. `phenomjax/napari.yaml` tells napari of this file; nothing of napari is needed to
import it.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from phenomjax.data import store, zarr_files
from phenomjax.data.images.bank import FORMAT, ImageBank
from phenomjax.data.images.ngff.metadata_files import attributes
from phenomjax.data.images.nuclei import known_nuclear
from phenomjax.data.images.opening import open_bank
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")

LayerData = tuple[Any, dict[str, Any], str]
Reader = Callable[[str | Sequence[str]], list[LayerData]]
NUCLEAR = "blue"  # as every textbook has it
COLOURS = ("green", "red", "yellow", "magenta", "cyan", "bop orange", "gray")  # of the others
ADDED = 3  # channels whose colours may add up in full; more of them would be white
SAMPLED = 8  # images whose percentiles are black and white
BLACK, WHITE = 0.5, 99.8  # per cent of their pixels
KEPT = 4  # decoded images: the layers of one bank ask for the same one in turn
MOST_NAMES = 100_000  # images whose text napari is given
SHOWN = ("plate", "well", "site", "time", "perturbation", "gene", "concentration")


def get_reader(path: str | Sequence[str]) -> Reader | None:
    """What napari asks of every path with a name like NAME.zarr; None: it is none of ours.

    A bank that is unfinished, damaged or of another version is ours, and opening it says so.
    """
    paths = [path] if isinstance(path, str) else path
    return read if paths and all(_is_ours(Path(one)) for one in paths) else None


def read(path: str | Sequence[str]) -> list[LayerData]:
    """The layers of a bank, or of several.

    Raises:
      UserError: of `open_bank`; or of an image that cannot be read.
    """
    paths = [path] if isinstance(path, str) else path
    return [layer for one in paths for layer in layers(open_bank(one))]


def layers(bank: ImageBank) -> list[LayerData]:
    """A layer [image, y, x] for each channel, and one of text."""
    read_image = functools.lru_cache(KEPT)(bank.read)
    pixel = float(bank.attributes.get("pixel_size_um") or 1.0)
    unit = "um" if bank.attributes.get("pixel_size_um") else "pixel"
    axes = {
        "axis_labels": ("image", "y", "x"),
        "scale": (1.0, pixel, pixel),
        "units": ("pixel", unit, unit),
    }
    sample = _sample(bank, read_image)
    made: list[LayerData] = []
    colours = iter(COLOURS * len(bank.channels))
    nuclear = known_nuclear(bank.channels)
    for place, name in enumerate(bank.channels):
        low, high = np.percentile(sample[..., place], (BLACK, WHITE)).tolist()
        settings = {
            "name": name,
            "colormap": NUCLEAR if name == nuclear else next(colours),
            "blending": "additive",
            "opacity": min(1.0, ADDED / len(bank.channels)),
            "contrast_limits": (low, max(high, low + 1)),
            "metadata": {"bank": store.url(bank.path), "channel": name},
        }
        made.append((Channel(bank, place, read_image), settings | axes, "image"))
    return [*made, *_names(bank, axes)]


class Channel:
    """A channel of all images, [image, y, x], of which a slice is read when it is asked for.

    Args:
      bank: that it is of.
      place: of the channel.
      read: image number -> [y, x, channel]; shared by the channels of a bank.

    Attributes:
      shape: as of an array; likewise `dtype`, `ndim` and `size`.
    """

    ndim = 3

    def __init__(
        self, bank: ImageBank, place: int, read: Callable[[int], Shaped[np.ndarray, "y x channels"]]
    ):
        self.shape, self.dtype = bank.shape[:3], bank.dtype
        self.size = int(np.prod(self.shape))
        self._place, self._read = place, read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Shaped[np.ndarray, "..."]:
        """Indices, slices, and arrays of image numbers, as NumPy has them."""
        first, *others = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis:
            first, others = slice(None), [Ellipsis, *others]
        rows = np.arange(self.shape[0])[first]
        if rows.ndim == 0:
            return self._read(int(rows))[..., self._place][tuple(others)]
        read = [self._read(int(row))[..., self._place][tuple(others)] for row in rows]
        return np.stack(read) if read else np.zeros((0, *self.shape[1:]), self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it, in memory."""
        return np.asarray(self[:], dtype)


def _sample(
    bank: ImageBank, read_image: Callable[[int], Shaped[np.ndarray, "y x channels"]]
) -> Shaped[np.ndarray, "images y x channels"]:
    """Some images from all over the bank; one that cannot be read is left out."""
    rows = np.linspace(0, len(bank) - 1, min(SAMPLED, len(bank))).astype(int)
    found, lost = [], None
    for row in rows.tolist():
        try:
            found.append(read_image(row))
        except UserError as error:
            log.warning("%s", error)
            lost = error
    if not found and lost:
        raise lost
    return np.stack(found) if found else np.zeros((1, *bank.shape[1:]), bank.dtype)


def _names(bank: ImageBank, axes: dict[str, Any]) -> list[LayerData]:
    """A point in the corner of each image, whose text says what the image is; nothing for a bank
    that says nothing, or for more images than napari holds points of.
    """
    if len(bank) > MOST_NAMES:
        log.warning("%s: %d images are too many to show their names", bank.path, len(bank))
        return []
    table = bank.described.read(SHOWN)
    known = [name for name in SHOWN if table[name].null_count < len(table)]
    if not known:
        return []
    features = {name: np.array(table[name].to_pylist(), object) for name in known}
    texts = [
        "  ".join(f"{name} {value}" for name, value in _told(dict(zip(known, row, strict=True))))
        for row in zip(*features.values(), strict=True)
    ]
    corners = np.zeros((len(bank), 3))
    corners[:, 0] = np.arange(len(bank))
    settings = {
        "name": "plate and well",
        "features": features,
        "size": 1,
        "face_color": "transparent",
        "border_color": "transparent",
        "text": {"string": texts, "anchor": "upper_left", "color": "white", "size": 12},
    }
    return [(corners, settings | axes, "points")]


def _told(row: dict[str, Any]) -> list[tuple[str, Any]]:
    """What is said of an image: a gene that its perturbation is named by is not said again."""
    if row.get("gene") == row.get("perturbation"):
        row.pop("gene", None)
    return [(name, value) for name, value in row.items() if value]


def _is_ours(path: Path) -> bool:
    """Whether a folder says that it is an image bank, or an OME-Zarr plate."""
    if not store.is_dir(path):
        return False
    try:
        entry = zarr_files.read_entry(path)
        unfinished = store.is_dir(path / zarr_files.UNFINISHED)
        return unfinished or entry.get("format") == FORMAT or "plate" in attributes(path)
    except Exception:  # what cannot be read is another reader's, or nobody's
        return False
