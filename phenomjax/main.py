"""Trains: `python -m phenomjax.main --config configs/mae_demo.py --workdir runs/mae_demo
[--config.KEY=VALUE …]`.

Exit codes: 0 done, 1 failed or diverged, 2 configuration or input error (never retried), 75 stopped
after saving and 76 ended by the watchdog (run the same command again). Many hosts: `sbatch
launch/train.sbatch --config … --workdir …`, one machine: `launch/local.py -n 4 -- …`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from phenomjax.cluster import flags as cluster_flags
from phenomjax.cluster import presence
from phenomjax.cluster.flags import read_flags
from phenomjax.system import errors
from phenomjax.system.log import log_to_stderr

if TYPE_CHECKING:
    from phenomjax.training.evaluators import Factory


def main() -> int:
    """Reads the flags, connects the processes, runs the loop."""
    found = read_flags(__doc__)
    if found is None:
        return 0
    log_to_stderr()
    cluster_flags.start_from_flags()
    with presence.connected():
        from phenomjax import train

        config, workdir = found
        return train.run(config, workdir, evaluators_of(config))


def evaluators_of(config: ConfigDict) -> "Sequence[Factory]":
    """What a run measures and draws now and then. Probes, if the configuration wants them: they
    stand on trained models, and a run without them imports nothing of these.
    """
    from phenomjax.training.evaluators import STANDARD, Figures, Validation

    if not config.probes.every_steps:
        return STANDARD
    from phenomjax.probes.during_training import Probing

    return Validation.of, Probing, Figures


if __name__ == "__main__":
    errors.exit_on_user_error(main)
