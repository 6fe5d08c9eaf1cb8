"""Parameters as safetensors, under the names of OpenPhenom or timm, with the configuration that they need."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from phenomjax import __version__
from phenomjax import config as config_lib
from phenomjax.convert import files, openphenom
from phenomjax.errors import EXIT_FAILED, UserError
from phenomjax.inference import parameters
from phenomjax.inference.image_model import ImageModel
from phenomjax.models import vit
from phenomjax.tasks.mae import MaskedAutoencoder

LAYOUTS = ("openphenom", "timm")
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def arrays(model: ImageModel, layout: str = "openphenom") -> dict[str, np.ndarray]:
    """The parameters under the names of a layout.

    Args:
      layout: "openphenom", encoder and decoder; "timm", the encoder alone under the names of timm's VisionTransformer.
    """
    config = model.config
    state = openphenom.to_state_dict(model.params, config.model, config.data.crop_size // config.model.patch_size)
    if layout == "openphenom":
        return state
    prefix = openphenom.BACKBONE
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def describe(model: ImageModel, layout: str = "openphenom") -> dict[str, Any]:
    """What the weights need to be used, as config.json has it; no path of the machine they were trained on is in it."""
    return {
        "format": "phenomjax release", "version": 1, "phenomjax": __version__, "layout": layout, "step": model.step,
        "fingerprint": model.fingerprint, "crop_size": model.config.data.crop_size, "model": model.config.model.to_dict(),
    }  # fmt: skip


def write(folder: Path, model: ImageModel, layout: str = "openphenom") -> None:
    """Writes model.safetensors and config.json into a folder, and reads them back.

    Raises:
      UserError: what was read is not what was written (exit code 1), or safetensors is missing.
    """
    stored = arrays(model, layout)
    files.write_arrays(folder / WEIGHTS, stored)
    (folder / CONFIG).write_text(json.dumps(describe(model, layout), indent=2) + "\n")
    again = files.read_arrays(folder / WEIGHTS)
    equal = again.keys() == stored.keys() and all(np.array_equal(again[name], stored[name]) for name in stored)
    if layout == "openphenom" and equal:
        params = read(folder).params
        equal = parameters.fingerprint(params) == model.fingerprint
    if not equal:
        raise UserError(
            f"{folder / WEIGHTS} does not hold what was written to it. Is the disk full, or failing?", EXIT_FAILED
        )


def read(folder: Path, dtype: str = "") -> ImageModel:
    """A model from the folder that `write` made, with all its parameters, bit for bit.

    Raises:
      UserError: no such folder, another format or layout, or weights that do not fit.
    """
    try:
        about = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} holds no release: its {CONFIG} cannot be read ({error}). Give the folder that an export wrote."
        ) from None
    if about.get("format") != "phenomjax release" or about.get("version") != 1 or about.get("layout") != "openphenom":
        raise UserError(
            f"{folder / CONFIG} says format {about.get('format')!r}, version {about.get('version')}, layout {about.get('layout')!r}; this phenomjax "
            "reads 'phenomjax release', version 1, with the layout 'openphenom'. Export the run again, or install the phenomjax that wrote it."
        )
    config = config_lib.base("mae")
    config.model.update(
        {name: value for name, value in config_lib.flatten(about["model"]).items() if name in config.model}
    )
    config.model.dtype, config.data.crop_size = dtype or config.model.dtype, about["crop_size"]
    state = files.read_arrays(folder / WEIGHTS)
    params: Any = openphenom.from_state_dict(state, config.model)
    if config.model.scan_layers:
        params = jax.tree.map(np.asarray, vit.stack_layers(params))
    return ImageModel(folder, about["step"], config, MaskedAutoencoder(config), params, parameters.fingerprint(params))
