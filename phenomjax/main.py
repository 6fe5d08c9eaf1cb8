"""Trains a model, or continues a run that was stopped: the same command again goes on where it was.

python -m phenomjax.main --config configs/mae_demo.py --workdir runs/mae_demo
python -m phenomjax.main --config configs/mae_demo.py --workdir runs/short --config.num_steps=50

Every key of the configuration is set by --config.KEY=VALUE. Keys, with default, range and meaning,
stand in phenomjax/config; experiments stand in configs/.

Many hosts: `sbatch launch/train.sbatch --config … --workdir …`; several processes of one machine:
`python launch/local.py -n 4 -- --config … --workdir …`.

To go on from a checkpoint of a run with another learning rate, schedule, batch or mixture, in a
folder of its own: --config.continue_from=WORKDIR or WORKDIR@STEP, and what is to differ.

Exit codes: 0 done; 1 failed or diverged; 2 a mistake in configuration or input, never retried; 75
stopped after saving, and 76 ended by the watchdog: run the same command again.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from phenomjax.cluster import flags as cluster_flags
from phenomjax.cluster import presence
from phenomjax.config.experiment import RunOptions, run_door
from phenomjax.system import errors
from phenomjax.system.user_files import expanded

if TYPE_CHECKING:
    from phenomjax.training.evaluators import Factory


class Options(RunOptions):
    """Of `python -m phenomjax.main`."""


def main(argv: Sequence[str] | None = None) -> int | None:
    """Reads the flags, connects the processes, runs the loop."""
    return run_door(Options, run, "python -m phenomjax.main", __doc__ or "", argv)


def run(options: Options, config: ConfigDict) -> int:
    """Trains; returns the exit code."""
    cluster_flags.start_as_told(options)
    with presence.connected():
        from phenomjax import train

        return train.run(config, expanded(options.workdir), evaluators_of(config))


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
