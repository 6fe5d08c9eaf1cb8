"""Names of the trees that cross rooms. Nothing of JAX is imported: leaves are arrays of any kind,
or their shapes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

# nested by the names of modules; float32 arrays
Params: TypeAlias = Mapping[str, Any]
# {name: array with the rows as leading axis}
Batch: TypeAlias = Mapping[str, Any]
# what a task hands from step to step: a tree of arrays with the rows as leading axis, and `Shared`
Carry: TypeAlias = Any
# {"val/loss": value}
Metrics: TypeAlias = Mapping[str, float]


class Shared(NamedTuple):
    """What a carry holds that belongs to no row, such as the running statistics of batch norm.

    All devices have the same. It is averaged over micro-batches as gradients are; a checkpoint
    keeps it, and whoever evaluates or embeds gets it beside the parameters.

    Attributes:
      value: {name: tree of float32 arrays}; no parameters have that name.
    """

    value: Mapping[str, Any]
