"""What a run says on the screen: before it compiles, after its first step, at every line of
metrics, and last.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from phenomjax import optim, sharding
from phenomjax.checkpoints.checkpointer import Checkpointer
from phenomjax.models import parameter_names
from phenomjax.state import TrainState
from phenomjax.step import StepMetrics
from phenomjax.system import ending
from phenomjax.system.errors import EXIT_DONE, EXIT_STOPPED
from phenomjax.system.log import duration
from phenomjax.system.versions import versions
from phenomjax.tasks.work import step_flops
from phenomjax.training.context import RunContext
from phenomjax.training.goodput import describe
from phenomjax.training.rates import Lap

log = logging.getLogger("phenomjax")
own = log.getChild("process")  # what each process says into its own file


def this_process() -> None:
    """Says who this process is."""
    own.info(
        "process %d of %d on %s (pid %d), %d device(s) of %d; SLURM job %s",
        jax.process_index(),
        jax.process_count(),
        socket.gethostname(),
        os.getpid(),
        jax.local_device_count(),
        jax.device_count(),
        os.environ.get("SLURM_JOB_ID", "none"),
    )


def first_lines(run: RunContext, abstract: TrainState, shardings: TrainState) -> None:
    """Logs versions, devices, mesh, parameters, state size, FLOPs a step, and the data.

    Args:
      run: what was made.
      abstract: shapes of the state.
      shardings: its NamedShardings.
    """
    config, mesh = run.config, run.mesh
    log.info(
        "phenomjax %(phenomjax)s, jax %(jax)s, flax %(flax)s, Python %(python)s, git %(git)s",
        versions(),
    )
    log.info(
        "%d process(es), %d device(s) of kind %s; mesh %s, preset %s; %d rows a step, %d a device",
        jax.process_count(),
        jax.device_count(),
        jax.devices()[0].device_kind,
        " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1) or "of one",
        config.mesh.preset,
        config.global_batch_size,
        config.global_batch_size // sharding.row_shards(mesh),
    )
    for step, rows in config.batch_ramp:
        log.info("from step %d on %d rows a step", step, rows)
    _never_reached(config)
    log.info("parameters:\n%s", sharding.describe(abstract.params, shardings.params))
    pairs = zip(jax.tree.leaves(abstract), jax.tree.leaves(shardings), strict=True)
    _fine_tuning(config, abstract)
    size = sum(np.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in pairs)
    flops = step_flops(run.task, config, abstract.params, run.spec)
    log.info("state: %.1f MiB per device; %.3g model FLOPs a step", size / 2**20, flops)
    log.info("workdir: %s", run.workdir)
    log.info("data: %s", run.loader.describe())
    val = run.val_loader
    log.info("data: %s", val.describe() if val else "validation: none, nothing is held out")


def _never_reached(config: ConfigDict) -> None:
    """Warns of what was to change behind the last step."""
    data = config.data
    later = {
        "batch_ramp": config.batch_ramp,
        "data.weights_later": data.weights_later if "weights_later" in data else (),
    }
    for key, rows in later.items():
        if beyond := [int(row[0]) for row in rows if row[0] >= config.num_steps]:
            log.warning(
                "config.%s changes something from step %d on, and the run ends at config.num_steps"
                " %d: that never comes. Set another --config.%s, or a larger --config.num_steps.",
                *(key, beyond[0], config.num_steps, key),
            )


def _fine_tuning(config: ConfigDict, abstract: TrainState) -> None:
    """Says what is frozen, and what rates by layer come to."""
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree)) / 1e6  # noqa: E731
    if config.freeze:
        trained, held = parameter_names.divide(abstract.params, config.freeze)
        log.info("%.2f M parameters are trained, %.2f M frozen", count(trained), count(held))
    if config.optimizer.layer_decay != 1.0:
        names = [parameter_names.name_of(p) for p, _ in jax.tree.leaves_with_path(abstract.params)]
        rates = {name: np.min(optim.layer_rate(name, config)) for name in names}
        least = min(rates, key=lambda name: rates[name])
        log.info(
            "learning rates by layer: times %.3g in %s, times %.3g behind the last layer",
            *(rates[least], least, max(rates.values())),
        )


def continuing(step: int, source: str) -> None:
    """Says what was restored."""
    log.info("continuing at step %d from %s", step, source)


def first_step(step: int, values: StepMetrics) -> None:
    """Waits for the first step, and says that it is done: from here on it trains."""
    begin = time.perf_counter()
    jax.block_until_ready(values)
    log.info("first step done, %.1f s after its dispatch", time.perf_counter() - begin)
    own.info("first step done: %d", step)


def step_line(run: RunContext, step: int, values: Mapping[str, float], lap: Lap) -> None:
    """Logs the metrics of a step.

    Args:
      run: whose step it is.
      step: number of finished steps.
      values: means of the losses, and rates.
      lap: what the rates are of.
    """
    log.info(
        "step %d/%d  loss %.4f  grad norm %.3g  lr %.3g  %.4g %s/s  data wait %.0f %%  ETA %s",
        step,
        run.config.num_steps,
        values["train/loss"],
        values["train/grad_norm"],
        values["train/lr"],
        values[f"perf/{run.loader.unit}_per_s"],
        run.loader.unit,
        100 * values["perf/data_wait"],
        lap.left(run.config.num_steps - step),
    )


def last_lines(
    run: RunContext, checkpoints: Checkpointer, step: int, stopped: bool, early: str = ""
) -> int:
    """Logs what was written where, and what to do next.

    Args:
      run: that ends.
      checkpoints: of it.
      step: number of finished steps.
      stopped: to be continued by the same command.
      early: why the run is over before its last step, or "".

    Returns:
      The exit code of the run.
    """
    if early and not stopped:
        log.info("stopped early at step %d of %d: %s", step, run.config.num_steps, early)
    how, best = "stopped" if stopped else "done", checkpoints.best_step()
    log.info("%s at step %d after %s", how, step, duration(time.monotonic() - run.began))
    named = "" if best is None else f" (best {run.config.checkpoint.best_metric}: {best})"
    steps = ", ".join(map(str, checkpoints.steps()))
    left = f"checkpoints of steps {steps}{named}, metrics.jsonl, config.json, figures"
    ending.wrote(run.workdir, left)
    ending.note(step=step, num_steps=run.config.num_steps, best_step=best, stopped=stopped)
    starts = len(run.goodput.earlier) + 1
    log.info("goodput: %s", describe(run.goodput.write(step), starts))
    own.info("%s at step %d", how, step)
    if stopped:
        asked = 0 < run.config.stop_at_step <= step  # where the same command would stop again
        log.info(
            "run the same command again%s to continue at step %d",
            " with --config.stop_at_step=0, or a higher one," * asked,
            step,
        )
        return EXIT_STOPPED
    command = run.task.next_command.format(workdir=run.workdir)
    log.info("look at %s", run.workdir / "figures")
    ending.then("use it", command.replace("{", "{{").replace("}", "}}"))
    return EXIT_DONE
