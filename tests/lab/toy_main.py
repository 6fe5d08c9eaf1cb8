"""phenomjax.main with the toy task and planted trouble, for survival tests: `python
tests/lab/toy_main.py --config configs/mae.py:S/8 --workdir …`.

Environment: TOY_STEP_SECONDS, TOY_EVAL_SECONDS, TOY_COMPILE_SECONDS (how long each takes),
TOY_WIDTH (the state is WIDTH x WIDTH floats), TOY_NAN=STEP, TOY_STUCK=RANK:STEP and
TOY_RAISE=RANK:STEP (once a workdir).
"""

import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import toy_task  # noqa: E402  after the path above

from phenomjax import main  # noqa: E402
from phenomjax.config import mae  # noqa: E402
from phenomjax.system import errors  # noqa: E402
from phenomjax.tasks import mae as mae_task  # noqa: E402


def _seconds(name):
    time.sleep(float(os.environ.get(name, 0)))


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
        return super().batch(step)


class TroubledTask(toy_task.ToyTask):
    def loader(self, split, process_index, process_count):
        return TroubledLoader(self.config, split, process_index, process_count)

    def loss(self, params, batch, key, carry):
        _seconds("TOY_COMPILE_SECONDS")  # runs while the step is traced
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
    mae.check = lambda config: None  # there is no bank
    errors.exit_on_user_error(main.main)
