"""How images look: histograms of their channels, and a contact sheet."""

import numpy as np

from phenomjax.data.images.bank import ImageBank

HISTOGRAM_DPI = 120


def _shown_top(counts: np.ndarray) -> int:
    """The highest value a histogram shows: 12-bit cameras fill a sixteenth of 16 bit."""
    top = int(np.flatnonzero(counts.sum(axis=0))[-1])
    return max(256, 1 << top.bit_length()) - 1


def _quantiles(counts: np.ndarray, shares: tuple[float, ...]) -> list[int]:
    cumulative = counts.cumsum()
    return [int(np.searchsorted(cumulative, max(1, share * cumulative[-1]))) for share in shares]


def histogram_text(bank: ImageBank, counts: np.ndarray | None, images: int) -> str:
    """One line a channel: quantiles, mean, share of saturated pixels, and a small logarithmic
    histogram.
    """
    if counts is None:
        return f"histograms: none for {bank.dtype} pixels"
    top = _shown_top(counts)
    name_width = max(map(len, bank.channels)) + 2
    levels = np.arange(counts.shape[1])
    lines = [
        f"{'channel':{name_width}}{'min':>7}{'1 %':>7}{'median':>8}{'mean':>9}{'99 %':>7}{'max':>7}"
        f"{'at max':>8}"
        f"  histogram of {images} images, 0 to {top}, log scale"
    ]
    for name, values in zip(bank.channels, counts, strict=True):
        there = np.flatnonzero(values)
        low, middle, high = _quantiles(values, (0.01, 0.5, 0.99))
        mean = (values * levels).sum() / values.sum()
        bins = np.log1p(values[: top + 1].reshape(32, -1).sum(axis=1))
        bars = "".join(" ▁▂▃▄▅▆▇█"[int(np.ceil(8 * share))] for share in bins / bins.max())
        lines.append(
            f"{name:{name_width}}{there[0]:>7}{low:>7}{middle:>8}{mean:>9.1f}{high:>7}{there[-1]:>7}"
            f"{values[-1] / values.sum():>8.2%}"
            f"  |{bars}|"
        )
    return "\n".join(lines)


def histogram_figure(bank: ImageBank, counts: np.ndarray | None):
    """Histograms of all channels in one plot, logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=HISTOGRAM_DPI, layout="constrained")
    axes = figure.subplots()
    if counts is not None:
        top = _shown_top(counts)
        for name, values in zip(bank.channels, counts, strict=True):
            grouped = values[: top + 1].reshape(256, -1).sum(axis=1)
            axes.stairs(grouped / grouped.sum(), np.linspace(0, top + 1, 257), label=name)
        axes.legend()
    axes.set(xlabel="pixel value", ylabel="share of pixels", yscale="log", title=bank.path.name)
    return figure


def contact_sheet(bank: ImageBank, indices: list[int], counts: np.ndarray | None):
    """The sheet of some images; black and white of a channel are quantiles of `counts`."""
    from phenomjax.figures import contact_sheet as sheets

    limits = [(0.0, 1.0)] * bank.shape[3]
    for channel, values in enumerate(() if counts is None else counts):
        low, high = _quantiles(values, (0.005, 0.998))
        limits[channel] = (low, high)
    names = []
    for index in indices:
        row = bank.rows([index], ["experiment", "plate", "well", "site", "time"]).to_pylist()[0]
        parts = [value for value in row.values() if value is not None]
        names.append("/".join(parts) or f"image {index}")
    return sheets.draw([bank.read(index) for index in indices], names, bank.channels, limits)
