"""Which checkpoint a run continues from: all processes verify it together, agree, and set a damaged
one aside.
"""

import contextlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from phenomjax.checkpoints import seal
from phenomjax.checkpoints import workdir as workdir_lib
from phenomjax.checkpoints.workdir import CHECKPOINTS
from phenomjax.cluster import messages
from phenomjax.config import stored
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
# keys of the item `meta`: {metric: value}; older checkpoints have the loss alone
SCORES, VAL_LOSS = "scores", "val_loss"


def newest_good(
    workdir: Path, metric: str = "val/loss", held: int | None = None
) -> tuple[int | None, dict[int, float | None]]:
    """Verifies the newest checkpoint, and if it is damaged sets it aside and takes the one before;
    all processes call it together.

    Each process hashes its share of the files; process 0 alone lists and renames, so that all speak
    of the same checkpoints.

    Args:
      workdir: of the run.
      metric: that says which checkpoint is the best.
      held: step that is held in memory: unless the disk has a newer one, nothing is hashed.

    Returns:
      (the step to restore: `held` where it is newest, or None for a new run; `config.rank` by step
      of all sealed checkpoints).

    Raises:
      UserError: there were checkpoints and none is good, or the disk fails.
    """
    main = messages.is_main()
    candidates = messages.gather("found", _tidy(workdir) if main else [])[0]
    good = None
    if held is not None and held >= max(candidates, default=-1):
        # What is on the disk is looked at when it is needed.
        unread = [(step, _rank(workdir, step, metric)) for step in candidates] if main else []
        return held, dict(messages.gather("unread", unread)[0])
    for step in reversed(candidates):
        wrong = damage(workdir / CHECKPOINTS / str(step))
        if not wrong:
            good = step
            break
        if main:
            with _writing(workdir):
                workdir_lib.set_aside(workdir, step, wrong)
    ranks = messages.gather("good", _settle(workdir, good, candidates, metric) if main else [])[0]
    return good, dict(ranks)


def damage(folder: Path, items: Sequence[str] = ()) -> list[str]:
    """`seal.damage` of a checkpoint, found by all processes together: each hashes its share."""
    mine = seal.damage(folder, jax.process_index(), jax.process_count(), items)
    return sorted({line for lines in messages.gather("damage", mine) for line in lines})


def _tidy(workdir: Path) -> list[int]:
    """Process 0 at the start: cleans, sets aside what lost its digests, and returns the steps that
    are left.
    """
    folder = workdir / CHECKPOINTS
    if not (workdir / workdir_lib.PROGRESS).exists():
        steps = workdir_lib.steps(workdir)
        if steps and not workdir_lib.sealed_steps(workdir):
            raise UserError(
                f"The checkpoints of steps {steps} in {folder} have no digests, so nobody can say"
                " that they are whole: they were written by an older version, or copied without"
                " their SHA256SUMS.* and without the file progress. If you trust them, run `python"
                f" -m phenomjax.checkpoints.seal {folder}/*`, then the same command again."
            )
        if not steps:
            with _writing(workdir):
                workdir_lib.record_step(workdir, -1)
    with _writing(workdir):
        workdir_lib.clean(workdir)
    for step in workdir_lib.steps(workdir):
        if wrong := seal.structure(folder / str(step))[1]:
            with _writing(workdir):
                workdir_lib.set_aside(workdir, step, wrong)
    return workdir_lib.steps(workdir)


def _settle(
    workdir: Path, good: int | None, candidates: list[int], metric: str
) -> list[tuple[int, float | None]]:
    """Process 0 after the verification: records the newest good step, and returns all steps with
    their ranks.
    """
    before = workdir_lib.recorded_step(workdir)
    if good is None and (candidates or before >= 0):
        # else the next start would find nothing, and begin anew
        if not (workdir / workdir_lib.PROGRESS).exists():
            with _writing(workdir):
                workdir_lib.record_step(workdir, max(candidates, default=0))
        aside = workdir / workdir_lib.DAMAGED
        raise UserError(
            f"No checkpoint in {workdir / CHECKPOINTS} is good, although the run had saved some;"
            f" nothing was started. Damaged ones are in {aside}: `cd {aside}/STEP && sha256sum -c"
            " --quiet SHA256SUMS.*` says which files differ, and a whole copy of one can be put"
            f" back as {workdir / CHECKPOINTS}/STEP. To begin again, give another --workdir."
        )
    if good is None:
        return []
    if good != before:
        if good < before:
            log.warning(
                "the newest good checkpoint is that of step %d: the run continues there", good
            )
        with _writing(workdir):
            workdir_lib.record_step(workdir, good)
    return [(step, _rank(workdir, step, metric)) for step in workdir_lib.steps(workdir)]


def memory(folder: Path) -> dict[str, Any]:
    """What the loop remembers in a checkpoint, and its scores.

    Raises:
      OSError, ValueError: there is nothing, or it is damaged.
    """
    return json.loads((folder / "meta" / "metadata").read_text())


def _rank(workdir: Path, step: int, metric: str) -> float | None:
    """`config.rank` of a checkpoint, None where it is unknown."""
    try:
        meta = memory(workdir / CHECKPOINTS / str(step))
    except (OSError, ValueError):
        # weights from elsewhere have none; an older checkpoint's damage is told when it is used
        return None
    return stored.rank(meta.get(SCORES) or {"val/loss": meta.get(VAL_LOSS)}, metric)


@contextlib.contextmanager
def _writing(workdir: Path) -> Iterator[None]:
    """Something inside writes into the workdir.

    Raises:
      UserError: the disk is full or read-only.
    """
    try:
        yield
    except OSError as error:
        if told := workdir_lib.workdir_error(error, workdir, str(error.filename or workdir)):
            raise told from error
        raise


def kept(losses: dict[int, float | None], latest: int, best: int, every: int = 0) -> set[int]:
    """The checkpoints that stay.

    Args:
      losses: `config.rank` by step, such as the validation loss; None where it is unknown: no
        candidate for the best.
      latest: how many of the newest stay.
      best: how many with the lowest stay; of equal ones the newer.
      every: all multiples of it stay; 0 = none.
    """
    ranked = sorted(
        (math.inf if math.isnan(loss) else loss, -step)
        for step, loss in losses.items()
        if loss is not None
    )
    return (
        set(sorted(losses)[max(len(losses) - latest, 0) :])
        | {-step for _, step in ranked[:best]}
        | {step for step in losses if every and step % every == 0}
    )
