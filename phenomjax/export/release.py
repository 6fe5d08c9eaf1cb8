"""Release folders: weights, configuration, card, loaders for PyTorch and `transformers`, checksums;
read back before they get their name.
"""

import json
import shutil
from pathlib import Path

from phenomjax.export import card, published, weights
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained.model import ImageModel
from phenomjax.trained.release import CONFIG, SUMS, load

LOADERS = ("encoder.py", "modeling_phenomjax.py")  # of PyTorch, and of `transformers`
# What `AutoConfig` and `AutoModel` look for in config.json.
TRANSFORMERS = {
    "model_type": "phenomjax",
    "architectures": ["PhenomjaxModel"],
    "auto_map": {
        "AutoConfig": "modeling_phenomjax.PhenomjaxConfig",
        "AutoModel": "modeling_phenomjax.PhenomjaxModel",
    },
}


def write(folder: Path, model: ImageModel, name: str, licence: str) -> str:
    """Fills an empty folder with a release, and loads it back; returns how the two compare.

    Args:
      folder: exists, and is empty.
      model: to publish.
      name: of the model, for the card.
      licence: SPDX name, such as CC-BY-4.0; a release without one can be used by nobody.

    Raises:
      UserError: no licence; or what was read back is not what was written (exit code 1).
    """
    if not licence.strip():
        raise UserError(
            "A release needs a licence: without one nobody may use it. Give its SPDX name, for"
            " instance `licence` CC-BY-4.0 or MIT."
        )
    said = weights.write(folder, model)
    described = json.loads((folder / CONFIG).read_text())
    files.write_json(folder / CONFIG, described | TRANSFORMERS)
    card.write(folder / "README.md", model, name, licence, release=True)
    (folder / "LICENSE").write_text(f"SPDX-License-Identifier: {licence}\n")
    for name_of_file in LOADERS:
        shutil.copyfile(Path(published.__file__).with_name(name_of_file), folder / name_of_file)
    names = sorted(path.name for path in folder.iterdir())
    (folder / SUMS).write_text(
        "".join(f"{files.sha256(folder / name)}  {name}\n" for name in names)
    )
    if load(folder).fingerprint != model.fingerprint:
        raise UserError(
            f"The release {folder} does not load as the model that was written to it. Is the disk"
            " failing?",
            EXIT_FAILED,
        )
    return said
