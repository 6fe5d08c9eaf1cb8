"""Pictures of what a masked autoencoder sees and predicts, comparable over steps, mask ratios and
models.

A figure is one mosaic of pixels with text around it (a hundred matplotlib axes would take seconds).
phenomjax/runs/reconstructions.py draws several runs on the same crops.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# Words in channel names that make a channel the red, green or blue of the composite: actin, ER and
# DNA, as in RxRx.
COMPOSITE = (
    {"phalloidin", "actin", "agp", "rfp", "w3"},
    {"cona", "concanavalin", "er", "gfp", "w2"},
    {"hoechst", "dna", "dapi", "nucleus", "nuclei", "w1"},
)
MASK_GREY = 0.45
Images = Float[np.ndarray, "image height width channel"]
Seen = Bool[np.ndarray, "image height width channel"]
Plane = Float[np.ndarray, "height width channel"]
Tile = Float[np.ndarray, "height width 3"]
PERCENTILES = (1.0, 99.7)  # of the originals: black and white of a channel


def reconstructions(
    original: Images,
    visible: Seen,
    reconstruction: Images,
    channels: Sequence[str],
    *,
    image_names: Sequence[str] = (),
    pixel_size_um: float | None = None,
    title: str = "",
) -> Figure:
    """Draws originals, masked inputs, reconstructions and differences, as an RGB composite and for
    each channel.

    Contrast limits come from the originals alone, one pair a channel, so figures of the same images
    compare.

    Args:
      original: standardised.
      visible: True where the encoder saw the pixel.
      reconstruction: the prediction at hidden pixels; at visible ones it is ignored.
      channels: their names.
      image_names: for the left margin, such as "P01/B03/1".
      pixel_size_um: for the scale bar; without it the bar counts pixels.
      title: first line of the figure.
    """
    models = {"": (visible, reconstruction)}
    return compare(
        original,
        models,
        channels,
        image_names=image_names,
        pixel_size_um=pixel_size_um,
        title=title,
    )


def compare(
    original: Images,
    models: Mapping[str, tuple[Seen, Images]],
    channels: Sequence[str],
    *,
    image_names: Sequence[str] = (),
    pixel_size_um: float | None = None,
    title: str = "",
) -> Figure:
    """Like `reconstructions`, for several models on the same images: {name: (visible,
    reconstruction)}.
    """
    original = np.asarray(original, np.float32)
    low, high = np.percentile(original, PERCENTILES, axis=(0, 1, 2))
    span = np.maximum(high - low, 1e-3)
    columns: list[list[int | None]] = [composite_channels(channels)]
    columns += [[i] for i in range(len(channels))]
    heads = [_composite_title(columns[0], channels), *channels]
    if len(channels) == 1:
        columns, heads = columns[1:], heads[1:]

    rows, labels = [], []  # a row: a list of (H, W, 3) tiles; a label: (text, colour) lines
    for index, image in enumerate(original):
        # The bank on a line of its own: names of wells are short, names of banks are not.
        name = (
            image_names[index].replace(" ", "\n", 1) if len(image_names) else f"image {index + 1}"
        )
        scaled = (image - low) / span
        rows.append([colour(scaled, column) for column in columns])
        labels.append(f"{name}\noriginal")
        for model, (visible, reconstruction) in models.items():
            seen = np.asarray(visible[index], bool)
            predicted = np.where(seen, image, np.asarray(reconstruction[index], np.float32))
            difference = (predicted - image) / span
            hidden = ~seen
            error = float(np.square(predicted - image)[hidden].mean()) if hidden.any() else 0.0
            lead = f"{model}\n" if model else ""
            rows.append([_masked(scaled, hidden, column) for column in columns])
            labels.append(f"{lead}masked {hidden.mean():.0%}")
            rows.append([colour((predicted - low) / span, column) for column in columns])
            labels.append(f"{lead}reconstruction\nMSE {error:.2f}")
            rows.append([_difference(difference, column) for column in columns])
            labels.append(f"{lead}difference")
    return _mosaic(
        rows, labels, heads, group=1 + 3 * len(models), pixel_size_um=pixel_size_um, title=title
    )


def composite_channels(channels: Sequence[str]) -> list[int | None]:
    """Indices of the channels shown as red, green, blue: actin, ER and DNA by name; gaps take the
    first left.
    """
    words = [set(re.split(r"[^a-z0-9]+", name.lower())) for name in channels]
    chosen = [next((i for i, w in enumerate(words) if w & wanted), None) for wanted in COMPOSITE]
    rest = iter([i for i in range(len(channels)) if i not in chosen])
    return [next(rest, None) if c is None else c for c in chosen[::-1]][::-1]


def _composite_title(column: Sequence[int | None], channels: Sequence[str]) -> str:
    names = [
        f"{colour} {channels[i]}" for colour, i in zip("RGB", column, strict=True) if i is not None
    ]
    return "\n".join(names)


def colour(scaled: Plane, column: Sequence[int | None]) -> Tile:
    """Tile in [0, 1] of one channel in grey, or of three as red, green, blue."""
    planes = [np.zeros_like(scaled[..., 0]) if i is None else scaled[..., i] for i in column]
    tile = np.stack(planes * 3 if len(planes) == 1 else planes, -1)
    return np.clip(tile, 0, 1)


def _masked(
    scaled: Plane,
    hidden: Bool[np.ndarray, "height width channel"],
    column: Sequence[int | None],
) -> Tile:
    """The same with hidden pixels in grey; a composite where none of its channels was seen."""
    shown = [i for i in column if i is not None]
    tile = colour(np.where(hidden, 0.0, scaled), column)
    return np.where(hidden[..., shown].all(-1, keepdims=True), MASK_GREY, tile)


def _difference(difference: Plane, column: Sequence[int | None]) -> Tile:
    """Blue = too dark, red = too bright, full colour at half of the original's range; a composite
    takes the mean.
    """
    shown = [i for i in column if i is not None]
    return colormaps["RdBu_r"](0.5 + difference[..., shown].mean(-1))[..., :3]


def _mosaic(
    rows: list[list[Tile]],
    labels: list[str],
    heads: list[str],
    group: int,
    pixel_size_um: float | None,
    title: str,
) -> Figure:
    """Puts tiles on one canvas with text around it; `group` rows belong to one image."""
    height, width = rows[0][0].shape[:2]
    canvas, tops, lefts = _canvas(rows, group)
    # Inches: a tile is 1.15 wide whatever its pixels, so that the text fits beside it.
    unit = 1.15 / width
    margin, above, below = 1.35, 0.6 + (0.25 if title else 0.0), 0.55
    size = (max(4.2, canvas.shape[1] * unit + margin + 0.1), canvas.shape[0] * unit + above + below)
    figure = Figure(figsize=size)
    axes = figure.add_axes(
        (
            margin / size[0],
            below / size[1],
            canvas.shape[1] * unit / size[0],
            canvas.shape[0] * unit / size[1],
        )
    )
    axes.imshow(
        canvas,
        interpolation="nearest",
        aspect="auto",
        extent=(0, canvas.shape[1], canvas.shape[0], 0),
    )
    axes.set_axis_off()
    for label, start in zip(labels, tops, strict=True):
        axes.text(-0.06 * width, start + height / 2, label, ha="right", va="center", fontsize=7.5)
    for head, left in zip(heads, lefts, strict=True):
        axes.text(left + width / 2, -0.05 * height, head, ha="center", va="bottom", fontsize=8)
    if title:
        x, y = 0.1 / size[0], 1 - 0.08 / size[1]
        figure.text(x, y, title, ha="left", va="top", fontsize=10, weight="bold")
    _scale_bar(axes, canvas.shape[0], width, unit, pixel_size_um)
    _difference_key(figure, margin, size)
    return figure


def _canvas(
    rows: list[list[Tile]], group: int
) -> tuple[Float[np.ndarray, "y x 3"], list[int], list[int]]:
    """Tiles side by side on white, and the places of their upper and left edges; after `group` rows
    there is a wider gap.
    """
    height, width = rows[0][0].shape[:2]
    gap, group_gap = max(2, width // 40), max(6, width // 10)
    tops, y = [], 0
    for number in range(len(rows)):
        tops.append(y)
        y += height + (group_gap if (number + 1) % group == 0 else gap)
    lefts = [column * (width + gap) for column in range(len(rows[0]))]
    canvas = np.ones((tops[-1] + height, lefts[-1] + width, 3), np.float32)
    for row, top in zip(rows, tops, strict=True):
        for tile, left in zip(row, lefts, strict=True):
            canvas[top : top + height, left : left + width] = tile
    return canvas, tops, lefts


def _scale_bar(
    axes: Axes, bottom: float, width: int, unit: float, pixel_size_um: float | None
) -> None:
    """A bar below the first column, about a third of a tile, of a round length."""
    scale = pixel_size_um or 1.0
    third = width * scale / 3
    power = 10 ** np.floor(np.log10(third))
    length = float(power * max(step for step in (1, 2, 5) if step * power <= third))
    y = bottom + 0.12 / unit
    axes.add_patch(Rectangle((0, y), length / scale, 0.04 / unit, color="black", clip_on=False))
    text = f"{length:g} {'µm' if pixel_size_um else 'px'}"
    axes.text(
        length / scale + 0.06 / unit, y + 0.02 / unit, text, ha="left", va="center", fontsize=7.5
    )


def _difference_key(figure: Figure, left: float, size: tuple[float, float]) -> None:
    """The colours of the differences, below the scale bar."""
    axes = figure.add_axes(((left + 0.6) / size[0], 0.13 / size[1], 0.8 / size[0], 0.1 / size[1]))
    axes.imshow(np.linspace(0, 1, 128)[None], cmap="RdBu_r", aspect="auto")
    axes.set_axis_off()
    axes.text(-4, 0, "too dark", ha="right", va="center", fontsize=7.5)
    axes.text(131, 0, "too bright (± half range)", ha="left", va="center", fontsize=7.5)
    figure.text(
        (left - 0.07) / size[0], 0.18 / size[1], "difference", ha="right", va="center", fontsize=7.5
    )
