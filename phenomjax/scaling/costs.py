"""What a run of a configuration costs and reads, by the task's own count, without training."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from phenomjax import tasks
from phenomjax.config import keys
from phenomjax.training.size import Size, params_of, size_of, specs_of


def count_on_cpu() -> None:
    """Leaves accelerators to those who train: shapes are counted without one."""
    jax.config.update("jax_platforms", "cpu")


def cost_of(config: ConfigDict, workdir: Path) -> Size:
    """The size of a run, as its `size.json` will have it.

    Args:
      config: as read from an experiment file.
      workdir: where data go that the configuration simulates.

    Raises:
      UserError: a mistake in the configuration, or its data cannot be read.
    """
    config = tasks.resolve(keys.finalize(config), workdir)
    task = tasks.make(config)
    loader = task.loader("train", 0, 1)
    assert loader is not None  # only "val" may be without data
    return size_of(config, task, loader, params_of(task, specs_of(loader)[0]))
