"""Trains: `python -m phenomjax.main --config configs/mae_demo.py --workdir runs/mae_demo
[--config.KEY=VALUE …]`.

Exit codes: 0 done, 1 failed or diverged, 2 configuration or input error (never retried), 75 stopped
after saving and 76 ended by the watchdog (run the same command again). Many hosts: `sbatch
launch/train.sbatch --config … --workdir …`, one machine: `launch/local.py -n 4 -- …`.

To go on from a checkpoint of a run with another learning rate, schedule, batch or mixture, in a
folder of its own: --config.continue_from=WORKDIR or WORKDIR@STEP, and what is to differ.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from phenomjax.cluster import flags as cluster_flags
from phenomjax.cluster import presence
from phenomjax.config.experiment import read_flags
from phenomjax.system import errors
from phenomjax.system.log import log_to_stderr

if TYPE_CHECKING:
    from phenomjax.training.evaluators import Factory


def main() -> int:
    """Reads the flags, connects the processes, runs the loop."""
    log_to_stderr()
    found = read_flags(__doc__)
    if found is None:
        return 0
    cluster_flags.start_from_flags()
    with presence.connected():
        from phenomjax import train

        config, workdir = found
        return train.run(config, workdir, evaluators_of(config))


def evaluators_of(config: ConfigDict) -> "Sequence[Factory]":
    """What a run measures and draws now and then. Probes and a forecast, if the configuration wants
    them: they stand on trained models, and a run without them imports nothing of these.

    Raises:
      UserError: the forecast cannot be read, or is of another task.
    """
    from phenomjax.training.evaluators import Factory, Figures, Validation

    made: list[Factory] = [Validation.of, Figures]
    if config.scaling.forecast:
        from phenomjax.scaling.forecast import during_training

        made[0] = during_training.factory(config)
    if config.probes.every_steps:
        from phenomjax.probes.during_training import Probing

        made.insert(1, Probing)
    return made


if __name__ == "__main__":
    errors.exit_on_user_error(main)
