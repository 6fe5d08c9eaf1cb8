"""What is no measurement: the bounds, as flags of every command that reads profiles."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from phenomjax.system.errors import UserError

Share = Annotated[float, tyro.conf.arg(metavar="SHARE")]


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """Of every command that reads profiles; `cleaning.clean` holds to them."""

    GROUPS: ClassVar[dict[str, str]] = {"quality": "quality"}

    quality: Literal["on", "off"] = "on"
    """leave out empty wells and features that are no measurements, bound outliers"""
    nan: Literal["fill", "error", "drop_features", "drop_rows"] = "fill"
    """features that are NaN or infinite: beyond --max_missing they are left out, the rest is filled
    with the median of the batch; or an error; or every such feature or row is left out"""
    max_missing: Share = 0.05
    """of rows that a feature may lack, with --nan fill"""
    max_deviation: float = 500.0
    """values further from their batch's median, in robust standard deviations (1.4826 MAD), are
    brought to the furthest within"""
    min_spread: float = 1e-3
    """a feature whose controls vary less than this, in standard deviations of their batch, has no
    scale and is left out"""


def check(options: QualityOptions) -> None:
    """Bounds that make no sense.

    Raises:
      UserError: there are some.
    """
    if not 0 <= options.max_missing <= 1:
        raise UserError(
            f"`max_missing` is {options.max_missing:g}; it is a share of the rows, from 0 to 1."
        )
    if not options.max_deviation > 0:
        raise UserError(
            f"`max_deviation` is {options.max_deviation:g}; it must be above 0 (inf for no bound)."
        )
    if not 0 <= options.min_spread < 1:
        raise UserError(
            f"`min_spread` is {options.min_spread:g}; it must be at least 0 (0 asks for nothing)"
            " and below 1."
        )
