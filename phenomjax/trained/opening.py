"""Opens a checkpoint of a masked autoencoder as a model ready to use."""

from pathlib import Path

from phenomjax import tasks
from phenomjax.system.errors import UserError
from phenomjax.tasks.mae import MaskedAutoencoder
from phenomjax.trained import parameters
from phenomjax.trained.image_model import ImageModel


def load(path: str | Path, dtype: str = "") -> ImageModel:
    """Loads the newest checkpoint of a run, or the one that is named.

    Args:
      path: workdir, WORKDIR/checkpoints/STEP, or a release folder.
      dtype: compute type instead of that of the run: "auto", "float32" or "bfloat16".

    Raises:
      UserError: there is no checkpoint, or it is of no masked autoencoder.
    """
    if (Path(path) / "SHA256SUMS").is_file():  # a release folder, `phenomjax.export`
        from phenomjax.trained import release

        return release.load(path, dtype)
    read = parameters.read(path, dtype)
    task = tasks.make(read.config)
    if not isinstance(task, MaskedAutoencoder):
        raise UserError(
            f"--checkpoint {path} holds a model of task '{read.config.task}', which does not read"
            " images. Give a run of task 'mae', or embed sequences with --source FILE instead of"
            " --bank."
        )
    return ImageModel(read.path, read.step, read.config, task, read.params, read.fingerprint)
