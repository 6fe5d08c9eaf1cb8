"""A run that is started again in its folder, where its length may have changed."""

import logging
from pathlib import Path

from ml_collections import ConfigDict

from phenomjax import optim
from phenomjax.checkpoints import workdir as workdir_lib
from phenomjax.config import schedules, stored
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
JUMP = 0.05  # a rate that differs by more than this share is another one


def going_on(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The configuration of this start of a run; where the run has begun, it is known to be the same
    one, with what stays as it began.

    Raises:
      UserError: the folder holds another run, or one that is beyond its new end.
    """
    if not workdir_lib.begun(workdir):
        return config
    # Checkpoints without their config are an error of `load`: nobody could say whose they are.
    before = stored.load(workdir / "config.json")
    config = stored.as_begun(config, before)
    stored.check_same_run(config, before, workdir)
    tell_of_new_length(config, before, workdir)
    return config


def tell_of_new_length(config: ConfigDict, before: ConfigDict, workdir: Path) -> None:
    """Says what another `num_steps` does to a run that has begun: schedules end there, so the whole
    course of the learning rate moves.

    Args:
      config: of this start.
      before: of the start before.
      workdir: of the run.

    Raises:
      UserError: the run is beyond its new end.
    """
    step, steps = workdir_lib.saved_step(workdir), config.num_steps
    if steps < step:
        there = [each for each in workdir_lib.sealed_steps(workdir) if each <= steps]
        raise UserError(
            f"config.num_steps is {steps}, and the run in {workdir} is at step {step} already:"
            " there is nothing to train, and steps are not taken back. To start it again as it"
            f" is, set --config.num_steps={max(before.num_steps, step)}."
            + (
                f" To go on from an earlier step in a folder of its own, give another --workdir,"
                f" --config.continue_from={workdir}@{there[-1]} (there are {there}) and the"
                " --config.num_steps at which that run is to end."
                if there
                else f" The checkpoints there are those of steps"
                f" {workdir_lib.sealed_steps(workdir)}."
            )
        )
    if steps == before.num_steps or step <= 0:
        return
    was, kept, becomes = (
        float(rate(at))
        for rate, at in (
            (optim.schedule(before), step - 1),
            (optim.schedule(before), step),
            (optim.schedule(config), step),
        )
    )
    name = config.optimizer.schedule
    if abs(becomes - kept) <= JUMP * max(becomes, kept):
        log.info(
            "config.num_steps was %d and is %d: the schedule '%s' is of the new length; at step %d"
            " the learning rate is %.3g, as it was",
            *(before.num_steps, steps, name, step, becomes),
        )
        return
    log.warning(
        "config.num_steps was %d and is %d, and the schedule '%s' ends there: at step %d the"
        " learning rate goes from %.3g to %.3g. If that is not meant, stop this run. Ways to train"
        " longer, in another --workdir, with --config.continue_from=%s@%d --config.num_steps=%d and"
        "\n  at the rate that it had: %s"
        "\n  a new warm-up and fall over the steps that are left:"
        " --config.optimizer.schedule_from=%d"
        "\n  stable, then down in the last steps (from a checkpoint before the rate fell): %s",
        *(before.num_steps, steps, name, step, was, becomes, workdir, step, steps),
        schedules.words(config, "constant", learning_rate=was),
        step,
        schedules.words(config, "wsd"),
    )
