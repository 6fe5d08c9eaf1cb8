"""Parameters as safetensors, under the names of other projects, with the configuration that they
need.
"""

import json
from pathlib import Path

import numpy as np

from phenomjax import __version__
from phenomjax.convert import array_files, compare, densenet, openphenom
from phenomjax.convert.described import about
from phenomjax.models import vit
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained.model import ImageModel, fingerprint
from phenomjax.trained.release import CONFIG, LAYOUTS, WEIGHTS, read


def arrays(model: ImageModel, layout: str = "") -> dict[str, np.ndarray]:
    """The parameters under the names of a layout.

    Args:
      model: whose.
      layout: "": all of them, under the names that `release.LAYOUTS` has for the task; "timm": the
        encoder alone under the names of timm's VisionTransformer.
    """
    config = model.config
    if config.task == "perturbation":
        return densenet.to_state_dict(model.params, config.model)
    state = openphenom.to_state_dict(
        model.params, config.model, config.data.crop_size // config.model.patch_size
    )
    if layout != "timm":
        return state
    prefix = openphenom.BACKBONE
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def describe(model: ImageModel, layout: str = "") -> dict[str, object]:
    """What the weights need to be used, as config.json has it; no path of the machine they were
    trained on is in it.
    """
    return {
        "format": "phenomjax release",
        "version": 1,
        "phenomjax": __version__,
        "layout": layout or LAYOUTS[model.config.task],
        "step": model.step,
        "fingerprint": model.fingerprint,
        "crop_size": model.config.data.crop_size,
        "model": model.config.model.to_dict(),
    }


def write(folder: Path, model: ImageModel, layout: str = "") -> str:
    """Writes model.safetensors and config.json into a folder, and reads them back.

    Returns:
      How the model that was read back compares with the one that was written, in words.

    Raises:
      UserError: what was read is not what was written, or computes something else (exit code 1);
        or safetensors is missing.
    """
    stored = arrays(model, layout)
    outputs = compare.outputs(model.config, model.params)
    layout_name = layout or LAYOUTS[model.config.task]
    said = about.describe(model.config, model.step, layout_name, stored, outputs)
    array_files.write_arrays(folder / WEIGHTS, stored, said)
    (folder / CONFIG).write_text(json.dumps(describe(model, layout), indent=2) + "\n")
    again = array_files.read_arrays(folder / WEIGHTS)
    equal = again.keys() == stored.keys() and all(
        np.array_equal(again[name], stored[name]) for name in stored
    )
    config, params = model.config, model.params
    if layout != "timm" and equal:
        read_back = read(folder)
        config, params = read_back.config, read_back.params
        equal = fingerprint(params) == model.fingerprint
    elif equal:  # timm's names have no decoder: it is the model's own
        encoder = {openphenom.BACKBONE + name: x for name, x in again.items()}
        whole = openphenom.from_state_dict(arrays(model) | encoder, model.config.model)
        params = vit.stack_layers(whole) if config.model.scan_layers else whole
    if not equal:
        raise UserError(
            f"{folder / WEIGHTS} does not hold what was written to it. Is the disk full, or"
            " failing?",
            EXIT_FAILED,
        )
    return compare.agreement(compare.outputs(config, params), outputs, f"{folder / WEIGHTS}")
