"""What a run makes once and all its parts share: mesh, task, data, and who is told what goes on."""

import time
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from phenomjax import sharding, tasks
from phenomjax.cluster import messages
from phenomjax.cluster import start as cluster_start
from phenomjax.state import TrainState, shared
from phenomjax.system.errors import UserError
from phenomjax.system.types import Batch, Params
from phenomjax.tasks import Loader, Task
from phenomjax.training import goodput
from phenomjax.training.goodput import Goodput
from phenomjax.training.phases import Phases
from phenomjax.training.size import Size, size_of, specs_of
from phenomjax.training.watchdog import Watchdog


@dataclass(frozen=True)
class RunContext:
    """What all parts of a run share.

    Attributes:
      config: resolved.
      workdir: folder of the run.
      began: by `time.monotonic`, when the run began.
      mesh: of all devices of all processes.
      rows, everywhere: shardings of a batch, and of what all processes read.
      block: number of the block of a global batch's rows that this process reads.
      task: the pretraining objective.
      loader: training data.
      val_loader: held-out data, or None.
      goodput: counts where the time goes.
      watchdog: ends a run that hangs.
      phase: tells both, and the other processes, what goes on.
    """

    config: ConfigDict
    workdir: Path
    began: float
    mesh: Mesh
    rows: NamedSharding
    everywhere: NamedSharding
    block: int
    task: Task
    loader: Loader
    val_loader: Loader | None
    goodput: Goodput
    watchdog: Watchdog
    phase: Phases

    @property
    def spec(self) -> Batch:
        """Shapes of a global batch, of the first kind where there are several."""
        return specs_of(self.loader)[0]

    def size(self, params: Params) -> Size:
        """What the run costs and reads.

        Args:
          params: of the model, or their shapes.
        """
        return size_of(self.config, self.task, self.loader, params)

    def judged(self, state: TrainState) -> Params:
        """What evaluators judge: the parameters, or their moving average where there is one, and
        what the carry shares.
        """
        return {**(state.ema or state.params), **shared(state.carry)}

    def raw(self, state: TrainState) -> Params | None:
        """The parameters themselves, where their moving average is judged."""
        return {**state.params, **shared(state.carry)} if state.ema else None


def make_context(config: ConfigDict, workdir: Path) -> RunContext:
    """Makes the mesh, the task and its loaders, and begins to count the time.

    Args:
      config: resolved.
      workdir: folder of the run.

    Raises:
      UserError: the batch or the devices do not divide, or the data cannot be read.
    """
    began = time.monotonic()
    mesh, task = sharding.make_mesh(config), tasks.make(config)
    index, count = sharding.row_block(mesh)
    clock = Goodput(
        workdir / goodput.FILE,
        # a notebook's process is older than its run
        goodput.process_began() if cluster_start.started() else time.time(),
        messages.is_main(),
        jax.device_count(),
        jax.process_count(),
    )
    loader, val_loader = (task.loader(split, index, count) for split in ("train", "val"))
    assert loader is not None  # only "val" may be without data
    if config.batch_ramp and not hasattr(loader, "batches"):
        raise UserError(
            f"config.batch_ramp is {config.batch_ramp}, and the data of config.task"
            f" '{config.task}' come in batches of one size: its loader knows no `stages` (see"
            ' phenomjax/data/batches.py). Set --config.batch_ramp="()".'
        )
    watchdog = Watchdog(config.watchdog.min_seconds, config.watchdog.slow_seconds)
    return RunContext(
        config=config,
        workdir=workdir,
        began=began,
        mesh=mesh,
        rows=sharding.batch_sharding(mesh),
        everywhere=sharding.replicated(mesh),
        block=index,
        task=task,
        loader=loader,
        val_loader=val_loader,
        goodput=clock,
        watchdog=watchdog,
        phase=Phases(clock, watchdog),
    )
