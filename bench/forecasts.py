"""The loss known before the run, shown on two cores: ladders of a masked autoencoder on a
simulated screen and of a Transformer-XL on real proteins, and a run of eight times the FLOPs of the
largest that was fitted.

    python -m bench.forecasts txl [--out runs/forecasts]
    python -m bench.forecasts txl --forecast bench/results/forecast_txl/forecast_….json

The first trains the ladder over 1.5 decades of FLOPs, fits it, and writes the forecast of the
largest run. That file was committed; the second, started afterwards, trains the largest run with
it, and leaves the outcome in OUT/txl/largest/forecast.json. `mae` does the same for the masked
autoencoder. Everything is done by the public commands. Of the MAE 0.4512 was forecast and 0.4445
came, of the Transformer-XL 2.8254 and 2.8227: bench/results/forecasts.txt says what that is worth.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bench import protein_lm
from phenomjax.system.errors import exit_on_user_error
from phenomjax.system.options import run_command

BUDGETS = "1e11,3.2e11,1e12,3.2e12"
VALIDATION_PLATES = ("EXP04/P07", "EXP04/P08")


@dataclass(frozen=True)
class Shown:
    """A ladder and its largest run.

    Attributes:
      config: experiment file.
      settings: of all runs; batch, rate and steps hold where the rules of the ladder begin.
      ladder: options of the ladder.
      largest: settings of the largest run, 2.56e13 FLOPs, by the same rules; of a size that reads
        its data no more often than runs of the ladder did.
      seeds: of the runs of the two largest budgets.
    """

    config: str
    settings: dict[str, object]
    ladder: tuple[str, ...]
    largest: dict[str, object]
    seeds: str = ""


SHOWN = {
    "mae": Shown(
        "configs/mae_demo.py",
        {
            "data.val_groups": VALIDATION_PLATES,
            "data.crop_size": 32,
            "model.embed_dim": 64,
            "model.num_heads": 4,
            "model.depth": 3,
            "model.decoder_dim": 64,
            "model.decoder_depth": 1,
            "model.decoder_num_heads": 4,
            "global_batch_size": 8,
            "num_steps": 2000,
            "optimizer.learning_rate": 2e-3,
            "eval.batch_size": 64,
            "eval.num_batches": 12,
        },
        ("--tokens_per_parameter", "0.3,1,3,10", "--width_exponent", "0", "--evaluations", "10"),
        {
            "model.embed_dim": 192,
            "model.num_heads": 12,
            "model.decoder_dim": 192,
            "model.decoder_num_heads": 12,
            "global_batch_size": 24,
            "num_steps": 9654,
            "optimizer.learning_rate": 8.97e-4,
            "eval.seed": 0,
            "eval.every_steps": 965,
            "checkpoint.every_steps": 965,
            "log.every_steps": 50,
            "figures.num_images": 0,
        },
        "0,1",
    ),
    "txl": Shown(
        "configs/prot_txl.py:demo",
        {
            "data.simulate.families": 0,
            "model.embed_dim": 64,
            "model.num_heads": 4,
            "model.head_dim": 16,
            "model.mlp_dim": 256,
            "model.num_layers": 3,
            "global_batch_size": 8,
            "num_steps": 800,
            "optimizer.learning_rate": 4e-3,
            "eval.batch_size": 16,
            "eval.num_batches": 64,
            "figures.every_steps": 0,
        },
        ("--tokens_per_parameter", "3,10,30,100", "--evaluations", "5"),
        {
            "model.embed_dim": 160,
            "model.num_heads": 10,
            "model.mlp_dim": 640,
            "global_batch_size": 20,
            "num_steps": 2636,
            "optimizer.learning_rate": 1.34e-3,
            "eval.seed": 0,
            "eval.every_steps": 527,
            "checkpoint.every_steps": 527,
            "log.every_steps": 50,
        },
    ),
}


@dataclass(frozen=True)
class Options:
    """Of `python -m bench.forecasts`."""

    what: tyro.conf.Positional[Annotated[Literal["mae", "txl"], tyro.conf.arg(metavar="mae|txl")]]
    """which of the two"""
    forecast: Path | None = None
    """of the largest run, which is trained with it; None: ladder, fit and forecast"""
    out: Path = Path("runs/forecasts")
    """folder of data and runs"""
    fasta: Path = Path("../shared/data/protein/fasta")
    """folder of proteomes"""
    workers: int = 2
    """runs of the ladder at once"""


def banks(options: Options) -> list[Path]:
    """The data; those that are there are kept."""
    if options.what == "txl":
        return protein_lm.prepare(options.fasta, options.out)
    screen = options.out / "screen2.zarr"
    size = ("--plates", "8", "--wells", "384", "--field_px", "96", "--cell_radius", "14")
    protein_lm.run("phenomjax.prepare", "simulate", "--out", str(screen), *size)
    return [screen]


def measure(options: Options) -> None:
    """Forecasts the largest run, or trains it."""
    options.out.mkdir(parents=True, exist_ok=True)
    shown, folder = SHOWN[options.what], options.out / options.what
    settings = {"data.banks": tuple(map(str, banks(options))), **shown.settings}
    of_all = ("--config", shown.config, *flags(settings))
    largest = ("--config", shown.config, *flags(settings | shown.largest))
    if options.forecast:
        told = flags({"scaling.forecast": options.forecast})
        workdir = folder / "largest"
        protein_lm.run("phenomjax.main", *largest, *told, "--workdir", str(workdir))
        return
    rules = (*shown.ladder, "--budgets", BUDGETS, "--depth", "fixed", "--min_steps", "60")
    work = ("--workers", str(options.workers), "--out", str(folder / "ladder"))
    protein_lm.run("phenomjax.scaling", "ladder", *of_all, *rules, *work)
    if shown.seeds:
        more = ("--budgets", "1e12,3.2e12", "--seeds", shown.seeds)  # the last word counts
        protein_lm.run("phenomjax.scaling", "ladder", *of_all, *rules, *more, *work)
    fit = folder / "fit"
    words = (str(folder / "ladder"), "--out", str(fit), "--overwrite")
    protein_lm.run("phenomjax.scaling", "fit", *words)
    protein_lm.run("phenomjax.scaling", "forecast", "--fit", str(fit), *largest)


def flags(settings: dict[str, object]) -> list[str]:
    return [f"--config.{key}={value}" for key, value in settings.items()]


if __name__ == "__main__":
    exit_on_user_error(
        lambda: run_command(Options, measure, "python -m bench.forecasts", __doc__ or "")
    )
