"""Opens a published release: a folder of weights, configuration and checksums."""

import json
from pathlib import Path
from typing import cast

import jax
import numpy as np

from phenomjax import tasks
from phenomjax.config import keys
from phenomjax.convert import densenet, openphenom
from phenomjax.convert.array_files import read_arrays
from phenomjax.convert.described import about, settings
from phenomjax.models import vit
from phenomjax.system import files
from phenomjax.system.errors import UserError
from phenomjax.tasks.image_objective import ImageObjective
from phenomjax.trained.model import ImageModel, Trained, fingerprint

SUMS = "SHA256SUMS"
# {task: names of the arrays}: "torchvision" also of a ViT in the place of the DenseNet
LAYOUTS = {"mae": "openphenom", "perturbation": "torchvision"}


def load(folder: str | Path, dtype: str = "") -> ImageModel:
    """The model of a release folder, after its checksums; what
    `opening.load` does with such a folder.

    Args:
      folder: that `write` filled.
      dtype: compute type instead of that of the run.

    Raises:
      UserError: a file is missing, or differs from its checksum; or as `read`.
    """
    folder = Path(folder)
    if not (folder / SUMS).is_file():
        raise UserError(
            f"{folder} is no release folder: it has no {SUMS}. Give the folder that `python -m"
            " phenomjax.export --format release` wrote, downloaded whole."
        )
    for line in (folder / SUMS).read_text("utf-8", "replace").splitlines():
        expected, _, name = line.partition("  ")
        if not (folder / name).is_file() or files.sha256(folder / name) != expected:
            state = "differs from its checksum" if (folder / name).is_file() else "is missing"
            raise UserError(
                f"{folder / name} {state}: the release was changed, or not downloaded whole."
                " Download it again."
            )
    return read(folder, dtype)


WEIGHTS, CONFIG = "model.safetensors", "config.json"


def read(folder: Path, dtype: str = "") -> ImageModel:
    """A model from the folder that `write` made, with all its parameters, bit for bit.

    Raises:
      UserError: no such folder, another format or layout, or weights that do not fit.
    """
    try:
        content = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{folder} holds no release: its {CONFIG} cannot be read ({error}). Give the folder"
            " that an export wrote."
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            f"{folder} holds no release: its {CONFIG} is no JSON object but a"
            f" {type(content).__name__}. Give the folder that an export wrote."
        )
    if (
        content.get("format") != about.RELEASE
        or content.get("version") != about.VERSION
        or content.get("layout") not in LAYOUTS.values()
    ):
        raise UserError(
            f"{folder / CONFIG} says format {content.get('format')!r}, version"
            f" {content.get('version')}, layout {content.get('layout')!r}; this phenomjax reads"
            f" 'phenomjax release', version 1, with the layout {' or '.join(LAYOUTS.values())}."
            " Export the run again, or install the phenomjax that wrote it."
        )
    step = content.get("step")
    if not isinstance(step, int):
        raise UserError(
            f"{folder / CONFIG} says step {step!r}, which is no number: it is damaged. Download the"
            " release again."
        )
    known = about.Found(about.checked(content, f"{folder / CONFIG}"), CONFIG)
    (name,) = (name for name, layout in LAYOUTS.items() if layout == content["layout"])
    config = keys.base(name)
    settings.recall(config, known)
    config.model.dtype = dtype or config.model.dtype
    state = read_arrays(folder / WEIGHTS)
    settings.check_sizes(config, len(state), sum(x.size for x in state.values()))
    module = openphenom if name == "mae" else densenet
    params = settings.built(lambda: module.from_state_dict(state, config.model))
    if config.model.scan_layers:
        params = jax.tree.map(np.asarray, vit.stack_layers(params))
    return Trained(
        folder,
        step,
        config,
        cast(ImageObjective, tasks.make(config)),
        params,
        fingerprint(params),
    )
