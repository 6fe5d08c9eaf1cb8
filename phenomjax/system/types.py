"""Names of what crosses rooms. Nothing of JAX is imported: leaves are arrays of any kind,
or their shapes.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import matplotlib.figure

# nested by the names of modules; float32 arrays
Params: TypeAlias = Mapping[str, Any]
# {name: array with the rows as leading axis}
Batch: TypeAlias = Mapping[str, Any]
# what a task hands from step to step: a tree of arrays with the rows as leading axis, and `Shared`
Carry: TypeAlias = Any
# {"val/loss": value}
Metrics: TypeAlias = Mapping[str, float]
# only who draws one loads matplotlib, a fifth of what a run imports
Figure: TypeAlias = "matplotlib.figure.Figure"


class Shared(NamedTuple):
    """What a carry holds that belongs to no row, such as the running statistics of batch norm.

    All devices have the same. It is averaged over micro-batches as gradients are; a checkpoint
    keeps it, and whoever evaluates or embeds gets it beside the parameters.

    Attributes:
      value: {name: tree of float32 arrays}; no parameters have that name.
    """

    value: Mapping[str, Any]
