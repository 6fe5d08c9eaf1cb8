"""The images of a run's splits, and what its network says of them, from embeddings on disk."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from jaxtyping import Float, Float32, Int64

from phenomjax.data.embeddings import open_array
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.labels.screen import Screen
from phenomjax.data.images.labels.splits import rows_of
from phenomjax.models import classifier
from phenomjax.probes.perturbations.scores import ranks
from phenomjax.statistics.cosines import unit_rows
from phenomjax.tasks.perturbation import Perturbation
from phenomjax.trained.model import Trained

BLOCK = 1 << 14  # images whose scores are in memory at a time
COLUMNS = ("experiment", "cell_type", "perturbation_type")


def of_split(
    screen: Screen, split: str, classes: Sequence[str], cell_types: Sequence[str]
) -> pd.DataFrame | None:
    """One row an image of a split: bank (number), row, image (a name that all runs share), COLUMNS
    and label (-1: none of the classes); None where the split has no image.
    """
    rows = rows_of(screen, split)
    if rows is None:
        return None
    parts = [
        _of_bank(number, bank, own.array())
        for number, (bank, own) in enumerate(zip(screen.banks, rows, strict=True))
    ]
    label = screen.labels(classes, cell_types).label[screen.numbering.of(rows)]
    return pd.concat(parts, ignore_index=True).assign(label=label)


def _of_bank(number: int, bank: ImageBank, rows: Int64[np.ndarray, " images"]) -> pd.DataFrame:
    found = {"bank": number, "row": rows, "image": [f"{bank.path.name} {row}" for row in rows]}
    for name in COLUMNS:
        column = bank.column(name).take(rows)
        found[name] = ["" if value is None else str(value) for value in column.to_pylist()]
    return pd.DataFrame(found)


class Embedded:
    """The embeddings of the images of banks, one a row.

    Args:
      folders: E.zarr of each bank, by site.
    """

    def __init__(self, folders: Sequence[Path]):
        self._arrays = [open_array(folder / "embeddings") for folder in folders]
        self._images = [
            pq.read_table(folder / "metadata.parquet", columns=["image"])["image"].to_numpy()
            for folder in folders
        ]

    def there(self, images: pd.DataFrame) -> pd.DataFrame:
        """The images that could be read."""
        kept = np.zeros(len(images), bool)
        for number, known in enumerate(self._images):
            mine = (images.bank == number).to_numpy()
            kept[mine] = np.isin(images.row.to_numpy()[mine], known)
        return images[kept]

    def read(self, images: pd.DataFrame) -> Float32[np.ndarray, "images dim"]:
        """The embeddings of some images, all of which are `there`."""
        found = np.empty((len(images), self._arrays[0].shape[1]), np.float32)
        for number, (array, known) in enumerate(zip(self._arrays, self._images, strict=True)):
            mine = np.flatnonzero(images.bank == number)
            order = np.argsort(known, kind="stable")
            places = order[np.searchsorted(known, images.row.to_numpy()[mine], sorter=order)]
            found[mine] = array[places].read().result()
        return found


def judged_by_head(
    model: Trained[Perturbation], embedded: Embedded, images: pd.DataFrame
) -> pd.DataFrame:
    """The images with `rank`, by the network's own head."""
    head = classifier.Head(**classifier.build(model.config.model, jnp.float32).head)
    params = {"params": jax.device_put(model.params["head"])}
    score = jax.jit(lambda x: head.apply(params, x).best)
    return _ranked(embedded, images, lambda x: np.asarray(score(x)))


def judged_by_means(
    embedded: Embedded, images: pd.DataFrame, train: pd.DataFrame, classes: int
) -> pd.DataFrame:
    """The images with `rank`, by the cosine to the mean of each class's training images, after the
    mean of all of these is taken off.
    """
    train = train[train.label >= 0]
    sums, counts = 0.0, np.bincount(train.label, minlength=classes)
    for start in range(0, len(train), BLOCK):
        part = train.iloc[start : start + BLOCK]
        one_hot = np.arange(classes)[:, None] == part.label.to_numpy()
        sums = sums + one_hot.astype(np.float64) @ embedded.read(part)
    centre = np.asarray(sums).sum(0) / len(train)
    means = unit_rows(np.asarray(sums) / np.maximum(counts, 1)[:, None] - centre)
    means[counts == 0] = np.nan  # bad images alone: no image is near it
    return _ranked(embedded, images, lambda x: unit_rows(x - centre) @ means.T)


def _ranked(
    embedded: Embedded,
    images: pd.DataFrame,
    score: Callable[[Float32[np.ndarray, "images dim"]], Float[np.ndarray, "images classes"]],
) -> pd.DataFrame:
    found = [np.zeros(0, np.int64)]
    for start in range(0, len(images), BLOCK):
        part = images.iloc[start : start + BLOCK]
        found.append(ranks(score(embedded.read(part)), part.label.to_numpy()))
    return images.assign(rank=np.concatenate(found))
