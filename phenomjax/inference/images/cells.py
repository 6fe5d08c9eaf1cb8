"""The cell types of a bank's images, for a model that is told them."""

import logging

import numpy as np
from jaxtyping import Int32

from phenomjax.data.images.bank import ImageBank
from phenomjax.system.errors import UserError
from phenomjax.trained.model import ImageModel

log = logging.getLogger("phenomjax")


def cell_types(model: ImageModel, bank: ImageBank) -> Int32[np.ndarray, " images"] | None:
    """For each image the place of its cell type in `model.cell_types`, -1 for another; None of a
    model that is not told it.

    Raises:
      UserError: the model knows no cell type of the bank.
    """
    known = tuple(model.config.model.cell_types) if model.task.reads_cell_type else ()
    if not known:
        return None
    runs = bank.runs(("cell_type",))
    names = [name for (name,) in runs.values()]
    places = np.array([known.index(name) if name in known else -1 for name in names], np.int32)
    found = np.repeat(places[runs.groups], np.diff(runs.starts, append=len(bank)))
    if not (count := int((found < 0).sum())):
        return found
    others = ", ".join(name or "nothing" for name in names if name not in known)
    what = (
        f"cell type {others} in the metadata of {bank.path}, of which the model knows nothing (it"
        f" was trained with {', '.join(known)})"
    )
    if count == len(bank):
        raise UserError(
            f"All {count} images have {what}. Spell it as the model does, in a bank that is made"
            " again with `python -m phenomjax.prepare images --set cell_type=NAME`, or use a model"
            " that was trained with these, or without model.cell_type."
        )
    log.warning("%d images have %s: they are embedded as of no known type", count, what)
    return found
