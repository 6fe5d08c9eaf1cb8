"""phenomjax.preflight with the toy task and planted faults: PLANT="what:RANK,…" in the
environment.
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402  after the path above
import toy_task  # noqa: E402

from phenomjax.config import mae  # noqa: E402
from phenomjax.preflight import exchange, files, hosts, runner, stand  # noqa: E402
from phenomjax.system import errors  # noqa: E402
from phenomjax.system import versions as system_versions  # noqa: E402
from phenomjax.tasks import mae as mae_task  # noqa: E402

stand.LIMITS["data"] = 5.0
from phenomjax.preflight import __main__ as preflight  # noqa: E402  after the limit above

exchange.SILENT_SECONDS, runner.GRACE_SECONDS, files.SEEN_SECONDS = 5.0, 2.0, 1.0
PLANTED = dict(pair.split(":") for pair in os.environ.get("PLANT", "").split(",") if pair)


def here(what):
    """Whether this process has a fault, or all have (rank "all")."""
    return PLANTED.get(what) in (str(jax.process_index()), "all")


class Clock:
    """time.time of a host whose clock is wrong."""

    def __getattr__(self, name):
        return getattr(time, name)

    def time(self):
        return time.time() + 5 * here("clock")


class Loader(toy_task.ToyLoader):
    def batch(self, step):
        if here("hang"):
            time.sleep(1000)
        if here("gone"):
            os.kill(os.getpid(), signal.SIGKILL)
        if here("unreadable"):
            raise PermissionError(13, "Permission denied", "/data/screen.zarr")
        arrays = super().batch(step)
        # not in the run on one process
        if here("rows") and step == 3 and len(arrays["row"]) < self.size:
            arrays["pixels"] = arrays["pixels"] * 1.01
        return arrays


class Task(toy_task.ToyTask):
    def loader(self, split, process_index, process_count):
        return Loader(self.config, split, process_index, process_count)


if __name__ == "__main__":
    versions = system_versions.versions
    system_versions.versions = lambda: versions() | ({"jax": "0.9.0"} if here("version") else {})
    hosts.time = Clock()
    mae_task.Objective = Task
    mae.check = lambda config: None  # there is no bank
    errors.exit_on_user_error(preflight.main)
