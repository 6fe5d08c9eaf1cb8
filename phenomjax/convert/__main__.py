"""python -m phenomjax.convert openphenom IN OUT

IN is a state dict of another project (.safetensors, .npz, or a torch file of tensors) and OUT a new workdir, for `--config.init_from`, figures
and embeddings; or IN is a workdir or checkpoint of phenomjax and OUT a state dict to write (.safetensors or .npz).
"""

import argparse
import logging
from pathlib import Path

import jax

from phenomjax import checkpoint, progress
from phenomjax import config as config_lib
from phenomjax.convert import files, openphenom
from phenomjax.errors import UserError, exit_on_user_error

log = logging.getLogger("phenomjax")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m phenomjax.convert", description=__doc__)
    parser.add_argument("layout", choices=["openphenom"], help="the other project's layout")
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("target", metavar="OUT", type=Path)
    parser.add_argument("--channels", help="names of the channels, in order: DNA,ER,… (default c0,c1,…)")
    parser.add_argument("--decoder-heads", type=int, default=16, help="the shapes do not tell (default 16)")
    parser.add_argument(
        "--bias-order",
        default="timm_legacy",
        choices=["timm_legacy", "mlp"],
        help="mlp: trained with timm 1.0.25 or later",
    )
    parser.add_argument(
        "--crop-size", type=int, default=256, help="pixels along an edge of the images it was trained on (default 256)"
    )
    options = parser.parse_args(arguments)
    progress.log_to_stderr()
    if options.source.is_dir():
        config, params, step = checkpoint.load(options.source)
        grid = config.data.crop_size // config.model.patch_size
        arrays = openphenom.to_state_dict(params, config.model, grid)
        files.write_arrays(options.target, arrays)
        log.info(
            "wrote %s: %d arrays, %.1f M numbers, of step %d",
            options.target,
            len(arrays),
            sum(x.size for x in arrays.values()) / 1e6,
            step,
        )
        return 0
    arrays = files.read_arrays(options.source)
    config = config_lib.base()
    config.model = openphenom.infer_model(arrays, options.decoder_heads)
    config.model.bias_order, config.data.crop_size = options.bias_order, options.crop_size
    if options.channels:
        names = tuple(options.channels.split(","))
        if len(names) != len(config.model.channels):
            raise UserError(
                f"--channels gives {len(names)} names, and the model has {len(config.model.channels)} channels; name each once, in order."
            )
        config.model.channels = names
    params = openphenom.from_state_dict(arrays, config.model)
    folder = checkpoint.write(options.target, config, params)
    log.info(
        "the weights fit: %s", " ".join(f"--config.model.{key}={config.model[key]}" for key in openphenom.INFERRED)
    )
    log.info("wrote %s: %.2f M parameters; begin a run from it with --config.init_from=%s", folder,
             sum(x.size for x in jax.tree.leaves(params)) / 1e6, options.target)  # fmt: skip
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
