"""Draws simulated Cell Painting fields: cells with their stained parts, then what the microscope
makes of them.

A phenomenological model, not a physical one: a field is a label map of cells (normalised elliptic
distances, bent by smooth noise, the nearest cell wins), and each stain is a product of a few
per-cell profiles (distance to the nucleus, distance to the rim) and band-passed noise. The dense
work is on whole (H, W) planes in float32; only cell outlines are drawn one after another, in small
windows.
"""

import dataclasses

import numpy as np

# The order of RxRx: DNA, endoplasmic reticulum, actin, RNA and nucleoli, mitochondria, Golgi and
# membrane.
CHANNELS = ("Hoechst", "ConA", "Phalloidin", "SYTO14", "MitoTracker", "WGA")

# The axes of the phenotype space. A value of 1 multiplies the quantity by exp(sensitivity); 0 is an
# untreated cell.
SENSITIVITY = {
    "nucleus_size": 0.16,
    "nucleus_elongation": 0.22,
    "dna_intensity": 0.28,
    "chromatin_texture": 0.60,
    "nucleolus_number": 0.50,
    "nucleolus_intensity": 0.40,
    "rna_intensity": 0.28,
    "er_intensity": 0.30,
    "er_spread": 0.45,
    "actin_cortex": 0.50,
    "actin_fibres": 0.70,
    "mito_intensity": 0.32,
    "mito_fragments": 0.60,
    "mito_spread": 0.40,
    "golgi_intensity": 0.50,
    "golgi_spread": 0.50,
    "membrane_rim": 0.45,
    "cell_size": 0.16,
    "cell_elongation": 0.35,
    "cell_count": 0.35,
    "rounded_cells": 0.70,
}
AXES = tuple(SENSITIVITY)
REFERENCE_RADIUS = 26.0  # pixels; lengths below are written for this cell radius and scale with it


@dataclasses.dataclass(frozen=True)
class Optics:
    """What the microscope and the staining of one plate do to a field.

    Attributes:
      gain: float (6,), multiplies each channel.
      background: float (6,), adds to each channel, in grey levels of 255.
      illumination: float (6, 5), coefficients of x, y, x*x, y*y, x*y on [-1, 1]: log of the shading
        of each channel.
      blur: float, standard deviation of the point-spread function in pixels.
      density: float, multiplies the number of cells.
      photons: photo-electrons at full scale (255 grey levels); fewer = noisier.
      bleed: float (6, 6), [b, a] = share of the light of channel a that channel b sees; None =
        channels are apart.
      gamma: float (6,), the intensity of a channel is raised to it: a stain or a camera that is
        not linear; None = linear.
      saturates: whether 16-bit images end at 14 bits, as an over-exposed camera's do.
    """

    gain: np.ndarray
    background: np.ndarray
    illumination: np.ndarray
    blur: float
    density: float
    photons: float = 2000.0
    bleed: np.ndarray | None = None
    gamma: np.ndarray | None = None
    saturates: bool = False


def _band_noise(rng: np.random.Generator, size: int, wavelength: float, count: int) -> np.ndarray:
    """Periodic Gaussian noise (count, size, size), zero mean, unit variance, around one wavelength
    in pixels.
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]).astype(
        np.float32
    )
    band = (frequency * wavelength) ** 2
    spectrum = np.fft.rfft2(rng.standard_normal((count, size, size), dtype=np.float32))
    noise = np.fft.irfft2(spectrum * (band * np.exp(1 - band)), s=(size, size))
    return (noise / (noise.std(axis=(1, 2), keepdims=True) + 1e-12)).astype(np.float32)


def _place(rng: np.random.Generator, low: float, high: float, radius: np.ndarray) -> np.ndarray:
    """Random centres (cells, 2) in a square, pushed apart a few times: neighbours touch but rarely
    pile up.
    """
    centres = rng.uniform(low, high, (len(radius), 2)).astype(np.float32)
    distance = 0.75 * (radius[:, None] + radius[None]).astype(np.float32)
    for _ in range(8):
        difference = centres[:, None] - centres[None]
        length = np.sqrt((difference**2).sum(-1)) + 1e-3
        push = np.clip(distance - length, 0, None) / length * 0.25
        np.fill_diagonal(push, 0)
        centres += (difference * push[..., None]).sum(1)
    return centres


def _stamp(size: int, centres: np.ndarray, sigma: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sum of Gaussian spots: centres (n, 2), sigma (n,) pixels, weight (n,) peak heights -> (size,
    size) float32.
    """
    reach = int(np.ceil(3 * sigma.max())) if len(sigma) else 0
    corner = np.floor(centres).astype(np.int64)
    offset = np.arange(-reach, reach + 1)
    y, x = corner[:, :1] + offset, corner[:, 1:] + offset  # (n, window)
    bell_y = np.exp(-0.5 * ((y - centres[:, :1]) / sigma[:, None]) ** 2) * ((y >= 0) & (y < size))
    bell_x = np.exp(-0.5 * ((x - centres[:, 1:]) / sigma[:, None]) ** 2) * ((x >= 0) & (x < size))
    values = (weight[:, None] * bell_y)[:, :, None] * bell_x[:, None, :]
    places = np.clip(y, 0, size - 1)[:, :, None] * size + np.clip(x, 0, size - 1)[:, None, :]
    return (
        np.bincount(places.ravel(), values.ravel(), size * size)
        .reshape(size, size)
        .astype(np.float32)
    )


def _outlines(
    rng, size: int, centres, angle, length, width, bending
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label map: which cell owns a pixel. Ellipses (length, width), bent by smooth noise as much as
    `bending` says.

    Returns:
      label int32 (size, size): index of the cell, `len(centres)` for the background.
      inside float32 (size, size): 1 in the middle of the owner, 0 at its free edge, negative
      outside. gap float32 (size, size): how much farther the second nearest cell is, in the same
      unit.
    """
    scale = np.sqrt(length * width)
    warp = _band_noise(rng, size, 2.6 * scale.mean(), 2) * 0.16 * scale.mean()
    warp += _band_noise(rng, size, 0.7 * scale.mean(), 2) * 0.045 * scale.mean()
    harmonics = (
        rng.standard_normal((len(centres), 2, 2))
        * np.array([[0.11], [0.09]])
        * bending[:, None, None]
    )
    harmonics = (harmonics[..., 0] + 1j * harmonics[..., 1]).astype(np.complex64)
    axis = np.arange(size, dtype=np.float32)
    nearest = np.full((size, size), 1.6, np.float32)
    second = nearest.copy()
    label = np.full((size, size), len(centres), np.int32)
    for cell, (y, x) in enumerate(centres):
        reach = 1.45 * length[cell] + 4
        rows = slice(max(0, int(y - reach)), max(0, int(y + reach) + 1))
        columns = slice(max(0, int(x - reach)), max(0, int(x + reach) + 1))
        if rows.start >= size or columns.start >= size or rows.stop == 0 or columns.stop == 0:
            continue
        dy = axis[rows, None] + bending[cell] * warp[0, rows, columns] - y
        dx = axis[None, columns] + bending[cell] * warp[1, rows, columns] - x
        cos, sin = np.cos(angle[cell]), np.sin(angle[cell])
        position = (dx * cos + dy * sin) / length[cell] + 1j * ((dy * cos - dx * sin) / width[cell])
        radius = np.abs(position) + np.float32(1e-6)
        direction = position / radius
        square = direction * direction
        distance = radius / (
            1 + (square * harmonics[cell, 0] + square * direction * harmonics[cell, 1]).real
        )
        near, far = nearest[rows, columns], second[rows, columns]
        closer = distance < near
        np.copyto(far, np.where(closer, near, np.minimum(far, distance)))
        np.copyto(near, distance, where=closer)
        np.copyto(label[rows, columns], cell, where=closer)
    label[nearest >= 1.25] = len(centres)
    return label, 1 - nearest, second - nearest


def draw_field(
    rng: np.random.Generator,
    size: int,
    phenotype: np.ndarray,
    *,
    confluence: float,
    cell_radius: float,
    variation: float,
) -> np.ndarray:
    """Draws the ideal image of one field: no blur, shading or noise yet.

    Args:
      rng: source of all randomness of the field.
      size: side of the square field in pixels.
      phenotype: float (len(AXES),), shift of the cells along the phenotype axes; zeros = untreated.
      confluence: cell area over field area, before cells share borders; 1 is nearly closed.
      cell_radius: mean radius of an untreated cell in pixels.
      variation: standard deviation of single cells along each phenotype axis.

    Returns:
      float32 (6, size, size), about 0 to 1, channels in the order of `CHANNELS`.
    """
    unit = cell_radius / REFERENCE_RADIUS
    margin = 2.2 * cell_radius
    shift = dict(zip(AXES, phenotype, strict=True))
    expected = (
        confluence
        * np.exp(SENSITIVITY["cell_count"] * shift["cell_count"])
        * (size + 2 * margin) ** 2
    )
    count = max(1, int(rng.poisson(expected / (np.pi * cell_radius**2))))
    factor = {
        name: (
            np.exp(
                SENSITIVITY[name] * (shift[name] + variation * rng.standard_normal(count))
            ).astype(np.float32)
        )
        for name in AXES
    }
    # Cells that round up (mitosis, death): small, thick, bright, without fibres.
    rounded_share = 0.04 * np.exp(SENSITIVITY["rounded_cells"] * shift["rounded_cells"])
    rounded = rng.uniform(size=count) < np.minimum(rounded_share, 0.6)
    elongation = np.where(rounded, 1.0, 1 + 0.9 * factor["cell_elongation"])
    radius = (
        cell_radius
        * factor["cell_size"]
        * np.where(rounded, 0.5, 1.0)
        * np.exp(0.18 * rng.standard_normal(count))
    )
    angle = rng.uniform(0, np.pi, count)
    centres = _place(rng, -margin, size + margin, radius)
    stretch = np.sqrt(elongation)
    bending = np.where(rounded, 0.25, 1.0)
    label, inside, gap = _outlines(
        rng, size, centres, angle, radius * stretch, radius / stretch, bending
    )

    # a per-cell number on every pixel; 0 on the background
    def at(values: np.ndarray) -> np.ndarray:
        return np.append(values, 0).astype(np.float32)[label]

    # Coordinates in the frame of the owner, and the distance to its nucleus.
    y, x = np.indices((size, size), dtype=np.float32)
    dy, dx = y - at(centres[:, 0]), x - at(centres[:, 1])
    cos, sin = at(np.cos(angle)), at(np.sin(angle))
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    nucleus = 10.5 * unit * factor["nucleus_size"] * np.where(rounded, 0.8, 1.0)
    nucleus_stretch = np.where(rounded, 1.0, np.sqrt(1 + 0.35 * factor["nucleus_elongation"]))
    texture = _band_noise(rng, size, 5.0 * unit, 3)
    bend = 1 + 0.07 * _band_noise(rng, size, 24 * unit, 1)[0]
    nucleus_px = at(nucleus) + 1e-3
    stretch = at(nucleus_stretch) + 1e-3
    # pixels, negative inside
    nucleus_distance = np.hypot(along / stretch, across * stretch) * bend - nucleus_px
    edge = np.minimum(inside, 0.5 * gap) * (at(radius) + 1e-3)  # pixels to the rim of the owner
    cell = np.clip(edge + 0.5, 0, 1)
    in_nucleus = np.clip(0.5 - nucleus_distance, 0, 1) * (label < count)
    outside_nucleus = np.maximum(nucleus_distance, 0) / cell_radius
    cytoplasm = cell * (1 - 0.75 * in_nucleus)
    # An untreated cell is a thin sheet, thick over the nucleus; a rounded one is a ball.
    ball = at(rounded)
    thickness = cell * (0.20 + 0.80 * np.exp(-((outside_nucleus / 0.5) ** 2)))
    thickness += ball * cell * 0.9 * np.sqrt(np.clip(inside * (2 - inside), 0, 1))
    rim = np.exp(-((np.maximum(edge - 1.0 * unit, 0) / (1.5 * unit)) ** 2)) * cell
    bright = np.where(rounded, 1.4, 1.0) * np.exp(0.18 * rng.standard_normal(count))

    # Spots: nucleoli in the nucleus, a cluster of Golgi stacks beside it.
    per_cell = 1 + rng.poisson(np.clip(1.6 * factor["nucleolus_number"], 0, 12))
    owner = np.repeat(np.arange(count), per_cell)
    reach = 0.55 * nucleus[owner, None] * rng.uniform(-1, 1, (len(owner), 2))
    nucleoli = _stamp(
        size, centres[owner] + reach, unit * rng.uniform(1.3, 2.4, len(owner)), np.ones(len(owner))
    )
    nucleoli = np.minimum(nucleoli * in_nucleus, 1.5)
    stacks = np.repeat(np.arange(count), 12)
    side = np.repeat(rng.uniform(0, 2 * np.pi, count), 12)
    spread = (
        factor["golgi_spread"][stacks, None] * unit * 4.0 * rng.standard_normal((len(stacks), 2))
    )
    spread += centres[stacks] + 1.25 * nucleus[stacks, None] * np.stack(
        [np.sin(side), np.cos(side)], -1
    )
    golgi = _stamp(size, spread, unit * rng.uniform(0.8, 1.6, len(stacks)), np.ones(len(stacks)))
    golgi = np.minimum(golgi, 2.0) * cytoplasm

    # Fibres and mitochondria: one noise plane, read in each cell's own frame, stretched along its
    # long axis.
    phase = rng.integers(0, size, (2, count))
    row = np.round(across + at(phase[0])).astype(np.int32) % size
    fibres = texture[0][row, np.round(along * 0.10 + at(phase[1])).astype(np.int32) % size]
    fibres = np.clip(fibres, 0, None) ** 1.5
    threads = texture[1][row, np.round(along * 0.4 + at(phase[1])).astype(np.int32) % size]
    network = np.exp(-((threads / 0.45) ** 2))
    cut = at(0.7 * (factor["mito_fragments"] - 1))
    network *= np.clip(0.75 + 1.2 * (texture[2] - cut), 0, 1)
    reticulum = 1 + 0.28 * texture[2]

    near_er = np.exp(-((outside_nucleus / (at(0.55 * factor["er_spread"]) + 1e-3)) ** 2))
    near_mito = np.exp(-((outside_nucleus / (at(0.60 * factor["mito_spread"]) + 1e-3)) ** 2))
    image = np.empty((6, size, size), np.float32)
    chromatin = np.clip(
        0.85 + 0.16 * at(factor["chromatin_texture"]) * texture[0] - 0.25 * nucleoli, 0.1, None
    )
    image[0] = at(bright * factor["dna_intensity"]) * in_nucleus * chromatin + 0.02 * thickness
    image[1] = (
        at(bright * factor["er_intensity"])
        * cytoplasm
        * reticulum
        * np.sqrt(thickness)
        * (0.12 + near_er)
    )
    fibres *= at(np.where(rounded, 0.0, 0.17 * factor["actin_fibres"])) * np.clip(
        0.9 + 0.6 * texture[2], 0, None
    )
    image[2] = at(bright) * (
        0.26 * thickness + fibres * cell + at(0.50 * factor["actin_cortex"]) * rim
    )
    image[3] = (
        at(bright * factor["rna_intensity"])
        * thickness
        * (0.62 - 0.30 * in_nucleus)
        * (1 + 0.12 * texture[2])
    )
    image[3] += at(0.75 * bright * factor["nucleolus_intensity"]) * nucleoli
    image[4] = at(bright * factor["mito_intensity"]) * cytoplasm * (0.06 + network * near_mito)
    image[5] = at(bright) * (0.26 * thickness + at(0.42 * factor["membrane_rim"]) * rim)
    image[5] += at(0.62 * bright * factor["golgi_intensity"]) * golgi
    return image + draw_debris(rng, size, cell_radius)


def draw_debris(rng: np.random.Generator, size: int, cell_radius: float) -> np.ndarray:
    """Specks that are seen in all channels: float32 (6, size, size), a field without cells."""
    specks = rng.poisson(3.0 * (size / 512) ** 2)
    places, heights = rng.uniform(0, size, (specks, 2)), rng.uniform(0.5, 2.5, specks)
    widths = cell_radius / REFERENCE_RADIUS * rng.uniform(1, 3, specks)
    return np.broadcast_to(_stamp(size, places, widths, heights), (len(CHANNELS), size, size))


def photograph(
    rng: np.random.Generator, ideal: np.ndarray, optics: Optics, bit_depth: int
) -> np.ndarray:
    """Stains, shades, blurs and counts photons.

    Args:
      ideal: float32 (6, size, size) of `draw_field`.
      optics: the plate's optics.
      bit_depth: 8 or 16.

    Returns:
      uint8 or uint16 (size, size, 6); 16-bit values are 64 times finer than 8-bit ones (a 14-bit
      camera).
    """
    size, photons = ideal.shape[-1], optics.photons
    if optics.bleed is not None:
        ideal = np.tensordot(optics.bleed.astype(np.float32), ideal, 1)
    if optics.gamma is not None:
        ideal = np.maximum(ideal, 0) ** optics.gamma.astype(np.float32)[:, None, None]
    x = np.linspace(-1, 1, size, dtype=np.float32)
    y = x[:, None]
    terms = (x, y, x * x, y * y, x * y)
    shading = sum(
        c[:, None, None] * term for c, term in zip(optics.illumination.T, terms, strict=True)
    )
    image = ideal * (np.exp(shading) * (FULL_SCALE * optics.gain)[:, None, None]).astype(np.float32)
    # Point-spread function and a wide halo of light out of focus: one transfer function, periodic
    # at the borders.
    square = np.fft.fftfreq(size)[:, None] ** 2 + np.fft.rfftfreq(size)[None] ** 2
    transfer = 0.86 * np.exp(-2 * (np.pi * optics.blur) ** 2 * square) + 0.14 * np.exp(
        -2 * (np.pi * 9.0) ** 2 * square
    )
    image = np.fft.irfft2(np.fft.rfft2(image) * transfer.astype(np.float32), s=(size, size))
    image = np.maximum(image + optics.background.astype(np.float32)[:, None, None], 0)
    # Shot noise as a normal of the same variance (a Poisson draw costs 7 times more), and 2
    # electrons of read noise.
    electrons = image * np.float32(photons / 255)
    electrons += np.sqrt(electrons + 4) * rng.standard_normal(electrons.shape, dtype=np.float32)
    levels = electrons * np.float32(255 / photons * (1 if bit_depth == 8 else 64))
    limit, dtype = (255, np.uint8) if bit_depth == 8 else (65535, np.uint16)
    if optics.saturates and bit_depth == 16:
        limit = 2**14 - 1
    return np.clip(np.rint(levels), 0, limit).astype(dtype).transpose(1, 2, 0)


# Grey levels (of 255) of an ideal intensity of 1, channel by channel: as bright as RxRx fields,
# none saturated.
FULL_SCALE = np.array([90.0, 95.0, 115.0, 85.0, 150.0, 95.0])
