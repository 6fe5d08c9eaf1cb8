"""Draws what trained masked autoencoders make of held-out crops, side by side: the crop, what each
of them saw, and what it made of it.

python -m phenomjax.runs.reconstructions --checkpoints runs/mae_demo --out reconstructions.png
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from phenomjax.figures.reconstructions import compare
from phenomjax.system import ending, files
from phenomjax.system.errors import UserError, exit_on_user_error
from phenomjax.system.options import run_command
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")


def of_checkpoints(
    checkpoints: Sequence[str | Path],
    *,
    bank: str | Path | None = None,
    num_images: int = 3,
    names: Sequence[str] = (),
) -> Figure:
    """Several trained masked autoencoders on the same held-out crops.

    Args:
      checkpoints: workdirs, or WORKDIR/checkpoints/STEP folders.
      bank: images to show; by default the held-out ones of the first run.
      num_images: rows.
      names: one a checkpoint; by default workdir, step and mask ratio.

    Raises:
      UserError: no checkpoint there, or one whose channels are not in the images.
    """
    import jax  # here: drawing arrays needs no jax

    from phenomjax.checkpoints import loading
    from phenomjax.tasks.mae import MaskedAutoencoder

    models: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    batch: dict[str, np.ndarray] = {}
    shown: list[str] = []
    for number, path in enumerate(checkpoints):
        config, params, step = loading.load(path)
        if config.task != "mae":
            raise UserError(
                f"The checkpoint {path} is of the task {config.task}, which reconstructs no images."
                " Give masked autoencoders."
            )
        if not batch:
            batch, shown, image_names = _batch(config, bank, num_images)
        missing = [name for name in shown if name not in config.model.channels]
        if missing or not (
            config.model.channel_agnostic or tuple(config.model.channels) == tuple(shown)
        ):
            raise UserError(
                f"The checkpoint {path} was trained on the channels"
                f" {', '.join(config.model.channels)}, the images shown have {', '.join(shown)}."
                " Choose images that all the models can read with --bank."
            )
        ids = np.array([list(config.model.channels).index(name) for name in shown], np.int32)
        batch = batch | {"channels": np.broadcast_to(ids, batch["channels"].shape).copy()}
        arrays = jax.device_get(jax.jit(MaskedAutoencoder(config).reconstruct)(params, batch))
        root = Path(path).resolve()
        root = root.parent.parent if root.parent.name == "checkpoints" else root
        name = names[number] if len(names) else f"{root.name}\nstep {step}"
        models[name if name not in models else f"{name} ({number + 1})"] = (
            arrays["visible"],
            arrays["reconstruction"],
        )
    return compare(arrays["original"], models, shown, image_names=image_names)


def _batch(
    config: ConfigDict, bank: str | Path | None, num_images: int
) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """The first held-out crops of a run, or of `bank`, with their channel names and their own
    names.
    """
    from phenomjax import tasks

    with config.unlocked():
        config.global_batch_size = num_images
        config.data.crops_per_image = 1
        if bank is not None:
            config.data.banks, config.data.weights, config.data.val_groups = (str(bank),), (), ()
    task = tasks.make(config)
    # All images of a bank that was asked for may be shown, the held-out ones of a run.
    loader = task.loader("val" if bank is None else "train", 0, 1) or task.loader("train", 0, 1)
    assert loader is not None
    batch = {name: np.array(values) for name, values in loader.batch(0).items()}
    shown = [config.model.channels[i] for i in batch["channels"][0]]
    return batch, shown, loader.names(batch["image"])


@dataclass(frozen=True)
class Options(Overwrite):
    """Of `python -m phenomjax.runs.reconstructions`."""

    checkpoints: tuple[str, ...]
    """workdirs, or WORKDIR/checkpoints/STEP"""
    out: Path
    """the picture to write: .png, .pdf, .svg"""
    names: tuple[str, ...] = ()
    """one a checkpoint, for the left margin"""
    bank: str = ""
    """images to show; nothing: the held-out ones of the first run"""
    images: int = 3
    """how many"""


def run(options: Options) -> None:
    """Draws and writes the picture.

    Raises:
      UserError: as `of_checkpoints`, or names that do not fit.
    """
    if not options.checkpoints or options.images < 1:
        raise UserError("Give at least one of `checkpoints`, and `images` of at least 1.")
    if options.out.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"`out` is {options.out}: give a name that ends in .png, .pdf or .svg.")
    if options.names and len(options.names) != len(options.checkpoints):
        raise UserError(
            f"`names` gives {len(options.names)} names for {len(options.checkpoints)} checkpoints;"
            " give one each."
        )
    figure = of_checkpoints(
        options.checkpoints,
        bank=options.bank or None,
        num_images=options.images,
        names=options.names,
    )
    files.save_figure(figure, options.out)
    ending.wrote(options.out)


def main() -> int | None:
    """The command line."""
    return run_command(Options, run, "python -m phenomjax.runs.reconstructions", __doc__ or "")


if __name__ == "__main__":
    exit_on_user_error(main)
