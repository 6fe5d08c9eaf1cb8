"""The picture at the head of README: cells, what a masked autoencoder makes of them, and a map.

  make demo                              # trains runs/mae_demo
  python -m phenomjax.maps demo          # embeds a screen that it never saw, and maps it
  python -m docs.generate.cover          # draws docs/assets/cover.png of the two

The cells are a field of the plate that training held out, cut into crops of the size that the model
knows; the map is the heat map that `maps demo` has drawn, above its diagonal.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from PIL import Image

from phenomjax.checkpoints import loading
from phenomjax.data.images.opening import open_bank
from phenomjax.figures.reconstructions import MASK_GREY, PERCENTILES, colour, composite_channels
from phenomjax.figures.style import COSINES
from phenomjax.system.errors import UserError, exit_on_user_error
from phenomjax.system.files import replacing
from phenomjax.system.options import run_command
from phenomjax.tasks.mae import MaskedAutoencoder

INK, PAPER = "#e6e6ea", "#14161b"  # light on dark: it stands on a white page and on a black one
# Inches of a panel and around it; at DPI a field of 256 px is drawn pixel by pixel, twice as large.
SIDE, GAP, ABOVE, BELOW, NAMES, DPI = 2.56, 0.14, 0.3, 0.14, 0.3, 200
Tile = Float[np.ndarray, "height width 3"]
Plane = Float[np.ndarray, "height width channel"]
Planes = Float[np.ndarray, "crop height width channel"]


@dataclass(frozen=True)
class Options:
    """Of `python -m docs.generate.cover`."""

    run: Path = Path("runs/mae_demo")
    """workdir of `make demo`"""
    maps: Path = Path("runs/maps_demo")
    """folder of `python -m phenomjax.maps demo`"""
    field: int = 0
    """which of the images that training held out"""
    out: Path = Path("docs/assets/cover.png")
    """the picture to write"""


def run(options: Options) -> None:
    """Draws the four panels.

    Raises:
      UserError: a demo has not run yet.
    """
    table = options.maps / "pictures" / "heatmap.csv"
    for path, command in (
        (options.run / "checkpoints", "make demo"),
        (table, "python -m phenomjax.maps demo"),
    ):
        if not path.exists():
            raise UserError(f"There is no {path} yet. Make it first: `{command}`.")
    config, params, step = loading.load(options.run)
    cells, masked, painted = field(config, params, options.field)
    cosines = pd.read_csv(table, index_col=0)
    panels = {
        "simulated cells, of a plate it never saw": cells,
        f"{config.model.mask_ratio:.0%} of them hidden from the model": masked,
        f"what it paints there after {step:,} steps": painted,
    }
    width, height = 4 * SIDE + 5 * GAP + NAMES, SIDE + ABOVE + BELOW
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    for number, title in enumerate((*panels, "knock-outs and compounds that look alike")):
        left = GAP + number * (SIDE + GAP) + (0 if title in panels else NAMES)
        axis = figure.add_axes((left / width, BELOW / height, SIDE / width, SIDE / height))
        axis.set_title(title, color=INK, fontsize=8.5, pad=5)
        axis.set_axis_off()
        if title in panels:
            axis.imshow(panels[title], interpolation="nearest", aspect="auto")
        else:
            draw_map(axis, cosines)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, facecolor=PAPER)
    with replacing(options.out) as partial:  # 256 colours are a third of the bytes
        Image.open(drawn).convert("RGB").quantize(256).save(partial, "PNG", optimize=True)
    print(f"wrote {options.out}: {options.out.stat().st_size / 1000:.0f} kB")


def field(config: ConfigDict, params: loading.Params, number: int) -> tuple[Tile, Tile, Tile]:
    """A held-out field, what the model sees of it, and the field as the model completes it."""
    bank = open_bank(config.data.banks[0])
    plates = [f"{row['experiment']}/{row['plate']}" for row in bank.metadata.to_pylist()]
    held_out = [row for row, plate in enumerate(plates) if plate in config.data.val_groups]
    image = bank.read(held_out[number]).astype(np.float32)
    side = config.data.crop_size
    rows, columns, channels = (*(size // side for size in image.shape[:2]), image.shape[2])

    def crops(whole: Plane) -> Planes:
        parts = whole[: rows * side, : columns * side].reshape(rows, side, columns, side, channels)
        return parts.swapaxes(1, 2).reshape(-1, side, side, channels)

    def whole(crops: Planes) -> Plane:
        parts = crops.reshape(rows, columns, side, side, channels).swapaxes(1, 2)
        return parts.reshape(rows * side, columns * side, channels)

    pixels = crops(image)
    ids = np.arange(channels, dtype=np.int32)
    batch = {
        "pixels": pixels,
        "channels": np.tile(ids, (len(pixels), 1)),
        "image": np.arange(len(pixels), dtype=np.int32),  # each crop gets a mask of its own
    }
    made = jax.device_get(jax.jit(MaskedAutoencoder(config).reconstruct)(params, batch))
    # the model standardises each crop: its own mean and spread put the crops side by side again
    mean, spread = (f(pixels, axis=(1, 2), keepdims=True) for f in (np.mean, np.std))
    low, high = np.percentile(image, PERCENTILES, axis=(0, 1))

    def scaled(planes: Planes) -> Plane:
        return (whole(planes) - low) / (high - low)

    shown = composite_channels(config.model.channels)
    seen = whole(made["visible"])
    return (
        colour(scaled(pixels), shown),
        np.where(seen.any(-1, keepdims=True), colour(scaled(pixels), shown), MASK_GREY / 2),
        colour(scaled(made["reconstruction"] * spread + mean), shown),
    )


def draw_map(axis: Axes, cosines: pd.DataFrame) -> None:
    """The cosines above the diagonal, mirrored, with the names of the rows."""
    above = np.triu(cosines.to_numpy(float), 1)
    axis.imshow(above + above.T + np.eye(len(above)), cmap=COSINES, vmin=-1, vmax=1)
    for row, name in enumerate(cosines.index):
        axis.text(-0.8, row, name, color=INK, fontsize=4.6, ha="right", va="center")


def main() -> int | None:
    """The command line."""
    return run_command(Options, run, "python -m docs.generate.cover", __doc__ or "")


if __name__ == "__main__":
    exit_on_user_error(main)
