"""Small images of the cells of each perturbation, from an image bank, for the page of `maps
explore`.
"""

import base64
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Num

from phenomjax.maps.tables.columns import Columns
from phenomjax.system.errors import UserError
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    import pandas as pd

    from phenomjax.data.images.bank import ImageBank

CROP_PX = 256  # the middle of a field that is shown
SAMPLE = 24  # images that set black and white of each channel
COLOUR_NAMES = ("red", "green", "blue")


@dataclass(frozen=True)
class Thumbnails:
    """Small images of cells, each [data URL, caption].

    Attributes:
      rows: of the rows of the map that have any.
      controls: of some controls.
      channels: what the colours are.
    """

    rows: dict[int, list[list[str]]]
    controls: list[list[str]]
    channels: str


def collect(
    path: str | Path,
    table: "pd.DataFrame",
    metadata: "pd.DataFrame",
    columns: Columns,
    *,
    each: int = 3,
    side: int = 128,
    most: int = 3000,
    seed: int = 0,
) -> Thumbnails:
    """Pictures of the map's perturbations and of controls.

    Args:
      path: the image bank (or an OME-Zarr plate).
      table: of `entities`.
      metadata: of the map: its dose column tells which wells belong to a row.
      each: pictures a perturbation, from different plates where there are.
      side: of a picture in pixels at most.
      most: pictures in all; with more perturbations each gets fewer, and then only the first ones
        get any.

    Returns:
      Them, with their captions.

    Raises:
      UserError: no perturbation of the map is in the bank.
    """
    import imagecodecs
    import pandas as pd

    from phenomjax.data.images.opening import open_bank
    from phenomjax.figures.reconstructions import composite_channels

    bank = open_bank(path)
    described = ["experiment", "plate", "well", "perturbation", "concentration", "is_control"]
    images = bank.described.read(described).to_pandas()
    images["_row"] = np.arange(len(images))
    images = images.sample(frac=1, random_state=seed)
    dose = (
        pd.to_numeric(metadata[columns.dose], errors="coerce")
        if columns.dose in metadata
        else pd.Series(np.nan, metadata.index)
    )
    groups = {name: group for name, group in images.groupby("perturbation")}
    each = max(1, min(each, most // max(len(table), 1)))
    chosen: dict[int, list[int]] = {}
    for row, (name, concentration) in enumerate(zip(table["perturbation"], dose, strict=True)):
        group = groups.get(name)
        if group is None:
            continue
        if np.isfinite(concentration) and group["concentration"].notna().any():
            group = group[
                np.isclose(group["concentration"].astype(float), concentration, rtol=1e-3)
            ]
        chosen[row] = _spread(group, each)
        if sum(map(len, chosen.values())) >= most:
            log.warning(
                "the page has room for %d pictures: only the first %d of %d perturbations have"
                " some",
                most,
                row + 1,
                len(table),
            )
            break
    if not any(chosen.values()):
        raise UserError(
            f"`bank` {path}: none of its perturbations ({', '.join(map(str, list(groups)[:3]))},"
            f" ...) is in the map ({', '.join(table['perturbation'].head(3))}, ...). Is it the bank"
            " of these profiles, and is `perturbation` the right column?"
        )
    controls = _spread(images[images["is_control"].astype("boolean").fillna(False)], each)
    planes = composite_channels(bank.channels)
    low, high = _limits(bank, images["_row"].head(SAMPLE).tolist(), planes)
    progress = Progress("pictures", sum(map(len, chosen.values())), "pictures")

    def thumbnail(index: int) -> list[str]:
        image = bank.read(index)
        height, width = image.shape[:2]
        size = min(height, width, CROP_PX)
        top, left = (height - size) // 2, (width - size) // 2
        colours = _colours(image[top : top + size, left : left + size], planes, low, high)
        step = -(-size // side)
        cut = colours[: size // step * step, : size // step * step]
        small = cut.reshape(size // step, step, size // step, step, 3).mean((1, 3))
        encoded = imagecodecs.jpeg8_encode(
            np.ascontiguousarray(np.rint(small * 255).astype(np.uint8)), level=80
        )
        place = bank.rows([index], described).to_pylist()[0]
        caption = " ".join(str(place[key]) for key in ("plate", "well") if place.get(key))
        what = str(place["perturbation"] or "no name")
        if place.get("concentration"):
            what += f" {place['concentration']:.3g} µM"
        return [
            "data:image/jpeg;base64," + base64.b64encode(encoded).decode(),
            f"{what}, {caption}",
        ]

    rows: dict[int, list[list[str]]] = {}
    for row, indices in chosen.items():
        if indices:
            rows[row] = [thumbnail(index) for index in indices]
            progress.update(len(indices))
    legend = ", ".join(
        f"{colour} is {bank.channels[i]}"
        for colour, i in zip(COLOUR_NAMES, planes, strict=True)
        if i is not None
    )
    return Thumbnails(rows, [thumbnail(index) for index in controls], f"Colours: {legend}.")


def _spread(group: "pd.DataFrame", count: int) -> list[int]:
    """Rows of the bank, from as many plates as there are."""
    turn = group.groupby(["experiment", "plate"], dropna=False).cumcount()
    return (
        group.assign(_turn=turn)
        .sort_values("_turn", kind="stable")["_row"]
        .head(count)
        .astype(int)
        .tolist()
    )


def _limits(
    bank: "ImageBank", rows: list[int], planes: list[int | None]
) -> tuple[Float[np.ndarray, " known"], Float[np.ndarray, " known"]]:
    """Black and white of each colour: the same for all pictures, so that they compare."""
    known = [plane for plane in planes if plane is not None]
    values = np.concatenate(
        [bank.read(row)[::4, ::4, known].reshape(-1, len(known)) for row in rows]
    )
    low, high = np.percentile(values, (1.0, 99.7), axis=0)
    return low, np.maximum(high, low + 1)


def _colours(
    image: Num[np.ndarray, "height width channels"],
    planes: list[int | None],
    low: Float[np.ndarray, " known"],
    high: Float[np.ndarray, " known"],
) -> Float[np.ndarray, "height width 3"]:
    """Red, green and blue in [0, 1], float (h, w, 3)."""
    result, known = np.zeros((*image.shape[:2], 3)), 0
    for colour, plane in enumerate(planes):
        if plane is not None:
            result[..., colour] = np.clip(
                (image[..., plane] - low[known]) / (high[known] - low[known]), 0, 1
            )
            known += 1
    return result
