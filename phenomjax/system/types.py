"""Names of the trees that cross rooms. Nothing of JAX is imported: leaves are arrays of any kind,
or their shapes.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

# nested by the names of modules; float32 arrays
Params: TypeAlias = Mapping[str, Any]
# {name: array with the rows as leading axis}
Batch: TypeAlias = Mapping[str, Any]
# what a task hands from step to step: any tree of arrays with the rows as leading axis
Carry: TypeAlias = Any
# {"val/loss": value}
Metrics: TypeAlias = Mapping[str, float]
