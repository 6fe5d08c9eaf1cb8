"""How good `phenomjax.scaling fit` is: `python -m bench.scaling_fit [--draws 40] [--points CSV]`.

Known laws: ladders of a law with a scatter of .3 % are fitted many times; how often do 90 %
intervals hold what is true, of the law's values and of single runs at 1, 10 and 100 x the largest
budget? `--points` is the table of Chinchilla points ("Model Size", "Training FLOP", "loss"):
fitted below a budget, all above it are forecast, by the plain law and by the form that the fitted
runs choose. CPU seconds of one thread.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from phenomjax.scaling.fit import estimate
from phenomjax.scaling.observations import Observations

LAW = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.28}
LADDERS = ((3, 2), (3, 3), (4, 4), (5, 5))  # budgets, sizes of each
SCATTER, LARGEST = 0.003, 1e19
CUTS = (1e20, 3e20, 1e21)


def true(params: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The known law."""
    return LAW["E"] + LAW["A"] / params ** LAW["alpha"] + LAW["B"] / seen ** LAW["beta"]


def ladder(budgets: int, sizes: int, random: np.random.Generator) -> Observations:
    """Runs of the known law that scatter about it."""
    flops = np.repeat(np.geomspace(LARGEST / 100, LARGEST, budgets), sizes)
    params = np.sqrt(flops / 120) * np.tile(np.geomspace(0.25, 4, sizes), budgets)
    return _runs(params, flops, true(params, flops / 6 / params), random)


def _runs(
    params: np.ndarray, flops: np.ndarray, loss: np.ndarray, random: np.random.Generator | None
) -> Observations:
    if random is not None:
        loss = loss * np.exp(SCATTER * random.standard_normal(len(loss)))
    names, unknown = tuple(map(str, range(len(loss)))), np.full(len(loss), np.nan)
    return Observations(names, params, flops / 6 / params, unknown, flops, loss)


def coverage(budgets: int, sizes: int, draws: int) -> None:
    """Prints how often the intervals of one kind of ladder hold the truth."""
    truth = {**LAW, "ratio": LAW["beta"] / (LAW["alpha"] + LAW["beta"])}
    held = {name: 0 for name in ("E", "alpha", "beta", "ratio")}
    runs_held, widths, seconds = np.zeros(3), np.zeros((draws, 3)), time.process_time()
    for draw in range(draws):
        random = np.random.default_rng(draw)
        fit = estimate.fit(ladder(budgets, sizes, random), estimate.Settings(bootstraps=100))
        for name in held:
            low, high = fit.interval(name)
            held[name] += low <= truth[name] <= high
        flops = LARGEST * np.array([1.0, 10, 100])
        params = np.sqrt(flops / 120)
        run = _runs(params, flops, true(params, flops / 6 / params), random)
        said = fit.predict(run.params, run.seen)
        runs_held += (said.low <= run.loss) & (run.loss <= said.high)
        widths[draw] = said.high / said.low - 1
    shares = "  ".join(f"{name} {count / draws:.2f}" for name, count in held.items())
    print(
        f"{budgets * sizes:>3} runs: {shares}; single runs at 1, 10, 100 x"
        f" {np.round(runs_held / draws, 2)}, width {np.round(100 * np.median(widths, 0), 1)} %;"
        f" {(time.process_time() - seconds) / draws:.2f} CPU seconds a fit",
        flush=True,
    )


def points(path: Path) -> None:
    """Prints errors of forecasts of the Chinchilla points."""
    table = pd.read_csv(path)
    params, flops = (table[name].to_numpy(float) for name in ("Model Size", "Training FLOP"))
    runs = _runs(params, flops, table["loss"].to_numpy(float), None)
    floor = estimate.fit(runs, estimate.Settings(bootstraps=0)).values["E"]
    for below in CUTS:
        large = runs.take(flops >= below)
        for form in ("plain", ""):
            seconds = time.process_time()
            fit = estimate.fit(runs.take(flops < below), estimate.Settings(form=form))
            seconds = time.process_time() - seconds
            said = fit.predict(large.params, large.seen)
            error = np.abs(said.loss - large.loss)
            inside = ((said.low <= large.loss) & (large.loss <= said.high)).mean()
            print(
                f"below {below:.0e} ({int(fit.used.sum())} runs), {len(large)} forecast by"
                f" {fit.form}: median {100 * np.median(error / large.loss):.2f} %, worst"
                f" {100 * (error / large.loss).max():.1f} %, of the reducible loss"
                f" {100 * np.median(error / (large.loss - floor)):.1f} %, {inside:.0%} inside,"
                f" {seconds:.1f} CPU seconds",
                flush=True,
            )


def main() -> None:
    """Runs the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--points", type=Path)
    options = parser.parse_args()
    for budgets, sizes in LADDERS:
        coverage(budgets, sizes, options.draws)
    if options.points:
        points(options.points)


if __name__ == "__main__":
    main()
