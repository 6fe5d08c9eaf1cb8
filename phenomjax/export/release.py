"""Release folders: weights, configuration, card, a loader for PyTorch, checksums; read back before
they get their name.
"""

import shutil
from pathlib import Path

from phenomjax.export import card, weights
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained.model import ImageModel
from phenomjax.trained.release import SUMS, load

TORCH = Path(__file__).with_name("torch_encoder.py")


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
    card.write(folder / "README.md", model, name, licence, release=True)
    (folder / "LICENSE").write_text(f"SPDX-License-Identifier: {licence}\n")
    shutil.copyfile(TORCH, folder / "encoder.py")
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
