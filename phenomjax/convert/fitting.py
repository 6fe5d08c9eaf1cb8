"""Whether weights fit a model: counting their layers, and saying what does not."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from phenomjax.system.errors import UserError

SHOWN = 8  # problems that an error lists


def count(names: Iterable[str], prefix: str) -> int:
    """Different parts that follow "PREFIX." in names, such as the layers of a model."""
    return len(
        {name[len(prefix) + 1 :].split(".")[0] for name in names if name.startswith(prefix + ".")}
    )


def refuse(problems: Sequence[str], what: str, mend: str) -> None:
    """Raises UserError if there are problems; `what` does not fit the model, and `mend` helps."""
    if problems:
        more = f", and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"{what} not fit the model, nothing was converted: {'; '.join(problems[:SHOWN])}{more}."
            f" {mend}"
        )


def without_place(left: Mapping[str, np.ndarray]) -> list[str]:
    """A problem for each array that was not used."""
    return [f"{name} {np.shape(left[name])} has no place in the model" for name in sorted(left)]


def shape(arrays: Mapping[str, np.ndarray], name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of an array that sizes are read from.

    Raises:
      UserError: it is missing, has another number of dimensions, or none of its sizes is there.
    """
    if name not in arrays:
        raise UserError(
            f"There is no {name} among the arrays: they are not all of the model. Convert the state"
            " dict of the whole model."
        )
    found = np.shape(arrays[name])
    if len(found) != dimensions or 0 in found:
        raise UserError(
            f"{name} has the shape {found}, where {dimensions} sizes above 0 are wanted: the"
            " arrays are of another model, or damaged."
        )
    return found


def check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises UserError for arrays that hold a NaN or an infinity, naming them."""
    bad = [name for name, x in arrays.items() if x.dtype.kind == "f" and not np.isfinite(x).all()]
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise UserError(
            f"These arrays hold values that are no numbers: {', '.join(bad[:SHOWN])}{more}. The"
            " training diverged, or the file is damaged; take an earlier checkpoint, or copy it"
            " again."
        )
