"""Pixels that a bank does not hold as they are (signed, 32 bit, floats, masks): the user declares
what becomes 0 and 255, and is told which bounds a sample of the source has.
"""

import math

import numpy as np

from phenomjax.prepare.images.pixels import eight_bit, raw_images
from phenomjax.prepare.images.pixels.raw_images import BadFile, RawImages
from phenomjax.prepare.images.plan import ImagePlan
from phenomjax.system.errors import UserError

SAMPLE = 16  # images


def rule_for(given: eight_bit.Rule | None, source: RawImages, plan: ImagePlan) -> eight_bit.Rule:
    """The rule of intensity: the given one, or that of the source's type.

    Args:
      given: of `--intensity`.
      source: with the type of its pixels.
      plan: of the images, to measure some.

    Raises:
      UserError: these pixels need a declared range, and none was given.
    """
    if source.dtype in ("uint8", "uint16"):
        default = "keep" if source.dtype == "uint8" else eight_bit.DEFAULT_16_BIT
        return given or eight_bit.parse(default)
    kind = np.dtype(source.dtype).kind
    if given and (given.kind == "range" or (given.kind == "keep" and kind in "bui")):
        return given
    what = f"The images have {source.dtype} pixels, and a bank holds uint8 or uint16"
    found = _bounds(source, plan)
    if found is None:
        return eight_bit.parse("range:0:1")  # none can be read; each is named when it is its turn
    count, lowest, highest = found
    upper = highest if lowest != highest else str(eight_bit.number(math.floor(float(lowest)) + 1))
    measured = f"In a sample of {count} images they go from {lowest} to {highest}"
    flag = f"--intensity range:{lowest}:{upper}"
    kept = (
        " None of these is below 0 or above 65535: --intensity keep holds them as they are, as"
        " uint16."
        if kind in "iu" and int(lowest) >= 0 and int(highest) <= 65535
        else ""
    )
    raise UserError(
        f"{what}. {measured}: `intensity` says what becomes 0 and 255, for instance {flag} (wider"
        f" where other images are darker or brighter; what is outside is clipped).{kept}"
    )


def _bounds(source: RawImages, plan: ImagePlan) -> tuple[int, str, str] | None:
    """(images, lowest, highest pixel) of a sample, as the type writes them."""
    lowest, highest = [], []
    for entry in plan.sample(SAMPLE):
        try:
            image, _ = raw_images.load_image(source, entry)
        except BadFile:  # named when it is its turn
            continue
        lowest.append(image.min())
        highest.append(image.max())
    if not lowest:
        return None
    if np.dtype(source.dtype).kind == "b":
        return len(lowest), "0", "1"
    return len(lowest), str(min(lowest)), str(max(highest))
