"""The gates of `prepare curate` on planted defects, and what measuring costs: `python -m
bench.gates`.

Four simulated screens, 5 % of the wells of each out of focus, empty, dead or saturated, controls
among them. Of each defect: how many of its images are dropped at all, and for what they are; and
how many sound images are dropped (95 % intervals by Wilson's method). The peer is the slope of the
power spectrum as it is commonly measured, a straight line through all frequencies of the whole
image without a window, with the same limits from the same controls.

Cost: CPU milliseconds for an image of 512 px and 6 channels, of decoding alone, of decoding and all
measures, and of decoding and the peer's slope alone; medians of alternating rounds in one process
and thread.
"""

import argparse
import collections
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd

from bench import rounds
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.opening import open_bank
from phenomjax.data.simulated.screen_config import DEFECTS
from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
from phenomjax.engine.options import EngineOptions
from phenomjax.prepare.curate.pixels import gates, image, limits, measure

SHARES = {f"{name}_fraction": 0.05 for name in DEFECTS}
SCREENS = {
    "8-bit, 192 px": {"field_px": 192, "cell_radius": 13.0},
    "16-bit, 2 cell types, staining shift 0.3": {
        "field_px": 192,
        "cell_radius": 13.0,
        "bit_depth": 16,
        "num_cell_types": 2,
        "num_plates": 12,
        "staining_shift": 0.3,
    },
    "strong phenotypes": {"field_px": 192, "cell_radius": 13.0, "effect_size": 5.0, "seed": 1},
    "small fields, 96 px": {"field_px": 96, "cell_radius": 13.0, "seed": 2},
}


def wilson(some: int, of: int) -> str:
    """ "some/of (share, low to high)"."""
    if not of:
        return "none"
    z, p = 1.96, some / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    reach = z / (1 + z * z / of) * np.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    low, high = max(middle - reach, 0), min(middle + reach, 1)
    return f"{some}/{of} ({100 * p:.0f} %, {100 * low:.0f} to {100 * high:.0f})"


def plain_slope(plane: np.ndarray) -> float:
    """The peer: a line through the whole spectrum, averaged over rings one frequency wide."""
    power = np.abs(np.fft.fft2(plane - plane.mean())) ** 2
    ring = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) * n for n in plane.shape), indexing="ij"))
    rings = ring.round().astype(int).ravel()
    last = min(plane.shape) // 2
    mean = np.bincount(rings, power.ravel())[1:last] / np.bincount(rings)[1:last]
    line = np.polyfit(np.log(np.arange(1, last)), np.log(np.maximum(mean, 1e-12)), 1)
    return float(line[0])


def detect(name: str, settings: dict, folder: Path) -> None:
    """Prints what is found of the defects of a screen."""
    path = folder / "b.zarr"
    config = SimulationConfig(**({"num_plates": 8, "wells_per_plate": 96} | settings | SHARES))
    write_screen(path, config)
    bank = open_bank(path)
    engine = EngineOptions(jobs=0)
    measures = measure.run(
        [bank], folder / "m.parquet", measure.Settings(), engine, threading.Event()
    )
    assert measures is not None
    options = limits.GateOptions()
    said = np.array(gates.REASONS)[gates.judge(measures, [bank], options).codes]
    truth = np.full(len(bank), "", said.dtype)
    planted = pd.read_parquet(path / "truth" / "defects.parquet")
    truth[planted["image"]] = planted["defect"]
    print(f"{name}: {len(bank)} images, {limits.controls_of([bank]).sum()} of controls")
    for defect in DEFECTS:
        mine = said[truth == defect]
        dropped, right = (wilson(int(n.sum()), len(mine)) for n in (mine != "", mine == defect))
        print(f"  {defect:13} dropped {dropped:28} as such {right}")
    sound = said[truth == ""]
    lost = ", ".join(
        f"{count} as {why}" for why, count in collections.Counter(sound).items() if why
    )
    print(
        f"  {'sound':13} dropped {wilson(int((sound != '').sum()), len(sound))}: {lost or 'none'}"
    )
    batches = limits.groups_of([bank], "experiment", "cell_type")
    controls = limits.controls_of([bank])
    for who in ("ours", "peer"):
        soft = np.zeros(len(bank), int)
        for place, channel in enumerate(bank.channels):
            if who == "ours":
                values = measures.column(f"sharpness/{channel}")
            else:
                planes = (bank.read(i)[..., place].astype(float) for i in range(len(bank)))
                values = np.array([plain_slope(plane) for plane in planes], np.float32)
            learnt = limits.learn(limits.SHARPNESS, values, controls, batches, options)
            soft += values < learnt.limits[batches.of]
        blurred = 2 * soft >= len(bank.channels)
        found, false = (
            wilson(int((blurred & (truth == kind)).sum()), int((truth == kind).sum()))
            for kind in ("out_of_focus", "")
        )
        print(f"  slope of {who} alone: out of focus {found}, sound {false}")


def cost(folder: Path, times: int) -> None:
    """Prints CPU milliseconds of an image."""
    path = folder / "b.zarr"
    write_screen(path, SimulationConfig(num_plates=1, wells_per_plate=12))
    bank = open_bank(path)

    def decode(bank: ImageBank) -> None:
        for index in range(len(bank)):
            bank.read(index)

    def ours(bank: ImageBank) -> None:
        for index in range(len(bank)):
            image.measures_of(bank.read(index), 0, 30)

    def peer(bank: ImageBank) -> None:
        for index in range(len(bank)):
            for plane in np.moveaxis(bank.read(index), -1, 0):
                plain_slope(plane)

    found = dict[str, list[float]]()
    for _ in range(times + 1):
        for run in (decode, ours, peer):
            start = time.process_time()
            run(bank)
            spent = 1000 * (time.process_time() - start) / len(bank)
            found.setdefault(run.__name__, []).append(spent)
    each = {name: statistics.median(values[1:]) for name, values in found.items()}
    print("CPU ms an image of 512 px and 6 channels, one process:")
    print(", ".join(f"{name} {value:.1f}" for name, value in each.items()))
    print(
        f"ours / decoding alone {each['ours'] / each['decode']:.1f}, ours / peer's slope alone"
        f" {each['ours'] / each['peer']:.2f}; {1000 / each['ours']:.0f} images a core second"
    )


def main() -> None:
    """Runs all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(rounds.header("", ("numpy", "scipy", "pyarrow", "tensorstore")))
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, settings) in enumerate(SCREENS.items()):
            folder = Path(scratch, str(number))
            folder.mkdir()
            detect(name, settings, folder)
        cost(Path(scratch), given.rounds)


if __name__ == "__main__":
    main()
