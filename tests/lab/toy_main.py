"""phenomjax.main with the toy task and planted trouble, for survival tests: `python
tests/lab/toy_main.py --config configs/mae.py:S/8 --workdir …`.

Environment: TOY_STEP_SECONDS, TOY_EVAL_SECONDS, TOY_COMPILE_SECONDS (how long each takes),
TOY_WIDTH (the state is WIDTH x WIDTH floats), TOY_NAN=STEP, TOY_STUCK=RANK:STEP and
TOY_RAISE=RANK:STEP (once a workdir), TOY_DEVICE_SECONDS (a step takes all devices),
TOY_SLOW=RANK:WHAT:SECONDS:STEP (more, from that step on: "input", "host" or "compute").
"""

import itertools
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402  after the environment above
import numpy as np  # noqa: E402
import toy_task  # noqa: E402  after the path above
from jax.sharding import PartitionSpec  # noqa: E402

from phenomjax import main  # noqa: E402
from phenomjax.cluster import messages  # noqa: E402
from phenomjax.config import mae  # noqa: E402
from phenomjax.system import errors  # noqa: E402
from phenomjax.tasks import mae as mae_task  # noqa: E402


def _seconds(name):
    time.sleep(float(os.environ.get(name, 0)))


def _slow(what, step):
    """Seconds that this process takes longer."""
    rank, kind, seconds, first = os.environ.get("TOY_SLOW", "-1:::0").split(":")
    mine = int(rank) == jax.process_index() and kind == what and step >= int(first)
    return float(seconds) if mine else 0.0


def _compute(rows, ids):
    """What a device does longest."""
    step = int(np.asarray(ids)[0]) // 1000  # as the toy's loader counts
    time.sleep(float(os.environ["TOY_DEVICE_SECONDS"]) + _slow("compute", step))
    return rows


class TroubledLoader(toy_task.ToyLoader):
    """Slow, stuck or failing where the environment says."""

    def __init__(self, config, split, process_index, process_count):
        super().__init__(config, split, process_index, process_count)
        self.process_index = process_index
        if "TOY_NAN" in os.environ:
            self.bad_steps = (int(os.environ["TOY_NAN"]),)

    def _planted(self, name, step):
        place = os.environ.get(name)
        if self.split != "train" or place != f"{self.process_index}:{step}":
            return False
        marker = Path(os.environ["TOY_WORKDIR"]) / f"{name}.done"
        if marker.exists():
            return False
        marker.touch()
        return True

    def batch(self, step):
        _seconds("TOY_STEP_SECONDS" if self.split == "train" else "TOY_EVAL_SECONDS")
        if self._planted("TOY_STUCK", step):
            time.sleep(1e6)
        if self._planted("TOY_RAISE", step):
            raise ValueError(f"planted at step {step}")
        time.sleep(_slow("input", step) if self.split == "train" else 0)
        return super().batch(step)


class TroubledTask(toy_task.ToyTask):
    def loader(self, split, process_index, process_count):
        return TroubledLoader(self.config, split, process_index, process_count)

    def loss(self, params, batch, key, carry):
        _seconds("TOY_COMPILE_SECONDS")  # runs while the step is traced
        if "TOY_DEVICE_SECONDS" in os.environ:
            pixels = jax.shard_map(
                lambda rows, ids: jax.pure_callback(_compute, rows, rows, ids),
                in_specs=(PartitionSpec("data"),) * 2,
                out_specs=PartitionSpec("data"),
            )(batch["pixels"], batch["image"])
            batch = batch | {"pixels": pixels}
        return super().loss(params, batch, key, carry)


if __name__ == "__main__":
    workdir = [
        a.split("=", 1)[-1] if "=" in a else sys.argv[i + 1]
        for i, a in enumerate(sys.argv)
        if "--workdir" in a
    ]
    os.environ.setdefault("TOY_WORKDIR", workdir[0])
    toy_task.WIDTH = int(os.environ.get("TOY_WIDTH", toy_task.WIDTH))
    mae_task.Objective = TroubledTask
    if "TOY_SLOW" in os.environ:
        asked, calls = messages.stop_requested, itertools.count()
        messages.stop_requested = lambda: time.sleep(_slow("host", next(calls))) or asked()
    mae.check = lambda config: None  # there is no bank
    errors.exit_on_user_error(main.main)
