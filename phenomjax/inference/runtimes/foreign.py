"""What the runtimes beside JAX share: their options, a thread that runs batches, and the comparison
with JAX when they start.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from phenomjax.inference.runtimes.choose import NOTHING, Given, Result
from phenomjax.system.errors import EXIT_FAILED, UserError, did_you_mean
from phenomjax.trained.graphs import graph
from phenomjax.trained.model import ImageModel

log = logging.getLogger("phenomjax")
CHECKED = 8  # crops of the comparison
# An embedding's cosine to that of JAX in float32, at least; a runtime that falls below does not
# start. Trained weights give 0.9999 in
# 16 bit and 0.99 to 0.999 in int8.
LIMITS = {"float32": 0.99999, "float16": 0.999, "bfloat16": 0.999, "int8": 0.98}
COMMON = ("precision", "bank", "cache", "min_cosine")


@dataclass(frozen=True)
class ForeignOptions:
    """What every foreign runtime is told.

    Attributes:
      precision: of the products.
      bank: where calibration crops come from; "" = the bank that the model was trained on, or drawn
        cells.
      cache: the cache folder; "" = the default one.
      min_cosine: to JAX float32, below which the runtime does not start.
      extra: the options that only this runtime has, with their defaults, as text.
    """

    precision: str
    bank: str
    cache: str
    min_cosine: float
    extra: Mapping[str, str]


def read_options(
    name: str, given: Mapping[str, str], precisions: tuple[str, ...], extra: Mapping[str, str]
) -> ForeignOptions:
    """Checks the options of a runtime.

    Args:
      name: of the runtime.
      given: by the user.
      precisions: that it has, the default first.
      extra: options that only this runtime has, with their defaults.

    Raises:
      UserError: unknown name or value.
    """
    known = (*COMMON, *extra)
    if unknown := [option for option in given if option not in known]:
        raise UserError(
            f"The {name} runtime has no option '{unknown[0]}'.{did_you_mean(unknown[0], known)}"
            f" There are: {', '.join(known)}."
        )
    precision = given.get("precision") or precisions[0]
    if precision not in precisions:
        raise UserError(
            f"precision={precision}: the {name} runtime computes in {', '.join(precisions)}."
        )
    try:
        limit = float(given.get("min_cosine") or LIMITS[precision])
    except ValueError:
        raise UserError(
            f"min_cosine={given['min_cosine']} is not a number; give one such as min_cosine=0.99."
        ) from None
    values = {option: given.get(option) or default for option, default in extra.items()}
    return ForeignOptions(precision, given.get("bank", ""), given.get("cache", ""), limit, values)


def number(options: ForeignOptions, name: str, least: int = 0) -> int:
    """An option as a whole number; raises UserError if it is none."""
    text = options.extra[name]
    if not text.isdigit() or int(text) < least:
        raise UserError(f"{name}={text} is not a whole number of at least {least}.")
    return int(text)


class ForeignRuntime:
    """Runs batches in a thread of its own; the libraries let go of the interpreter meanwhile, so
    the loader decodes the next batch.

    Attributes:
      name, precision, description: as `choose.Runtime` says.
      agreement: with JAX float32, measured at the start.
    """

    def __init__(
        self, name: str, precision: str, description: str, run: Callable[[np.ndarray], np.ndarray]
    ):
        self.name, self.precision, self.description = name, precision, description
        self.agreement: graph.Agreement | None = None
        self._run = run
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    def submit(self, pixels: np.ndarray, given: Given = NOTHING) -> Result:
        return self._thread.submit(self._run, pixels).result

    def check(
        self,
        model: ImageModel,
        chosen: graph.GraphSettings,
        batch_size: int,
        options: ForeignOptions,
    ) -> "ForeignRuntime":
        """Compares itself with JAX float32 on a few crops, says how far apart they are, and returns
        itself.

        Raises:
          UserError: too far apart, with exit code 1.
        """
        crops = graph.sample_crops(
            model, chosen, min(CHECKED, batch_size), options.bank, seed=1
        )  # not those of the calibration
        expected = graph.jax_reference(model, chosen)(crops)
        batch = crops[np.arange(batch_size) % len(crops)]
        self.agreement = graph.compare(self.submit(batch)()[: len(crops)], expected)
        self.description += f"; on {len(crops)} crops against JAX float32: {self.agreement}"
        log.info("runtime %s, %s: %s", self.name, self.precision, self.description)
        if not self.agreement.cosine >= options.min_cosine:
            raise UserError(
                f"The embeddings of `runtime` {self.name} in {self.precision} are too far from"
                f" those of JAX float32: {self.agreement}, and the cosine must be at least"
                f" {options.min_cosine:g}. Use another precision (for instance float32 or"
                " bfloat16), more calibration crops, or accept it with the option min_cosine.",
                EXIT_FAILED,
            )
        return self
