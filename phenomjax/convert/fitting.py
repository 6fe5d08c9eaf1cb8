"""Whether weights fit a model: counting their layers, and saying what does not."""

from collections.abc import Iterable, Sequence

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
