"""What a run costs and what it reads: `WORKDIR/size.json`, from which others are forecast."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from phenomjax.config import batches
from phenomjax.models import parameter_names
from phenomjax.system import files
from phenomjax.system.types import Batch, Params
from phenomjax.tasks import Loader, Task
from phenomjax.tasks.work import step_flops


@dataclasses.dataclass(frozen=True)
class Size:
    """The numbers of a run that laws of scaling stand on.

    Attributes:
      params: trainable parameters, without those of `freeze`.
      flops_per_step: model FLOPs, as of `step_flops`; where batches are of several kinds, their
        mean.
      unit: what data are counted in: "images", "residues".
      units_per_step: that a step reads; where batches grow, on average.
      units_per_epoch: of the training split, each once.
      data: {data set: checksum}.
    """

    params: int
    flops_per_step: float
    unit: str
    units_per_step: int
    units_per_epoch: int
    data: dict[str, str]

    def write(self, workdir: Path) -> None:
        """Writes `size.json` in the folder of a run."""
        files.write_json(workdir / "size.json", dataclasses.asdict(self))


def specs_of(loader: Loader) -> list[Batch]:
    """Shapes of a global batch, of each kind."""
    return [
        {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in kind.items()}
        for kind in loader.specs
    ]


def params_of(task: Task, batch: Batch) -> Params:
    """Shapes of a model's parameters, from those of a batch."""
    return jax.eval_shape(
        lambda key: task.init(key, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)),
        jax.random.key(0),
    )


def size_of(config: ConfigDict, task: Task, loader: Loader, params: Params) -> Size:
    """The size of a run.

    Args:
      config: resolved.
      task: of it.
      loader: of its training data.
      params: of the model, or their shapes.
    """
    mean = batches.mean_rows(config) / config.global_batch_size
    units = config.global_batch_size * loader.units_per_row
    trained, _ = parameter_names.divide(params, config.freeze)
    flops = [step_flops(task, config, params, kind) for kind in specs_of(loader)]
    return Size(
        params=sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(trained)),
        flops_per_step=mean * float(np.mean(flops)),
        unit=loader.unit,
        units_per_step=round(mean * units),
        units_per_epoch=loader.steps_per_epoch * units,
        data=dict(loader.fingerprints),
    )
