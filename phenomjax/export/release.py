"""Release folders: weights, configuration, card, a loader for PyTorch, checksums; read back before they get their name."""

import shutil
from pathlib import Path

from phenomjax import digests
from phenomjax.errors import EXIT_FAILED, UserError
from phenomjax.export import card, weights
from phenomjax.inference.image_model import ImageModel

SUMS = "SHA256SUMS"
TORCH = Path(__file__).with_name("torch_encoder.py")


def write(folder: Path, model: ImageModel, name: str, licence: str) -> None:
    """Fills an empty folder with a release, and loads it back.

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
            "A release needs a licence: without one nobody may use it. Give its SPDX name, for instance --licence CC-BY-4.0 or --licence MIT."
        )
    weights.write(folder, model)
    card.write(folder / "README.md", model, name, licence, release=True)
    (folder / "LICENSE").write_text(f"SPDX-License-Identifier: {licence}\n")
    shutil.copyfile(TORCH, folder / "encoder.py")
    names = sorted(path.name for path in folder.iterdir())
    (folder / SUMS).write_text("".join(f"{digests.sha256(folder / name)}  {name}\n" for name in names))
    if load(folder).fingerprint != model.fingerprint:
        raise UserError(
            f"The release {folder} does not load as the model that was written to it. Is the disk failing?", EXIT_FAILED
        )


def load(folder: str | Path, dtype: str = "") -> ImageModel:
    """The model of a release folder, after its checksums; what `image_model.load` does with such a folder.

    Args:
      folder: that `write` filled.
      dtype: compute type instead of that of the run.

    Raises:
      UserError: a file is missing, or differs from its checksum; or as `weights.read`.
    """
    folder = Path(folder)
    if not (folder / SUMS).is_file():
        raise UserError(
            f"{folder} is no release folder: it has no {SUMS}. Give the folder that `--format release` wrote, downloaded whole."
        )
    for line in (folder / SUMS).read_text().splitlines():
        expected, _, name = line.partition("  ")
        if not (folder / name).is_file() or digests.sha256(folder / name) != expected:
            state = "differs from its checksum" if (folder / name).is_file() else "is missing"
            raise UserError(
                f"{folder / name} {state}: the release was changed, or not downloaded whole. Download it again."
            )
    return weights.read(folder, dtype)
