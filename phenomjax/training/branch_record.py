"""What is said of a run that goes on from another one, and WORKDIR/continued_from.json: where it
comes from, what differs, and what becomes of the learning rate and the data.
"""

import json
import logging
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from phenomjax import optim
from phenomjax.config import batches, schedules, stored
from phenomjax.config.checks import flatten
from phenomjax.data.batches import Batches
from phenomjax.system import files
from phenomjax.system.log import table
from phenomjax.training.course import JUMP

log = logging.getLogger("phenomjax")
RECORD = "continued_from.json"
# what belongs to a folder, not to what is computed
OWN = ("continue_from", "batches_before", "init_", "stop_at_step")


def tell(
    c: ConfigDict, theirs: ConfigDict, workdir: Path, place: tuple[Path, int, int], why: str
) -> None:
    """Says, and writes down, where the run comes from and what differs.

    Args:
      c: of the new run.
      theirs: of the other one.
      workdir: of the new run.
      place: folder of the other run, its step, and the position in the data there.
      why: the data begin anew, or "".
    """
    run, step, position = place
    mine, old = flatten(c), flatten(theirs)
    differ = {
        key: (old.get(key), mine.get(key))
        for key in sorted(mine.keys() | old.keys())
        if not key.startswith(OWN) and mine.get(key) != old.get(key)
    }
    last = max(min(step, theirs.num_steps - 1), 0)  # of a run that is over nothing comes behind it
    was, becomes = (
        float(f"{optim.schedule(each)(at):.6g}") for each, at in ((theirs, last), (c, step))
    )
    data = (
        f"begin anew: {why}. What was read before may come again"
        if why
        else f"go on at position {position}, nothing is read twice"
    )
    files.write_json(
        workdir / RECORD,
        {
            "run": str(run),
            "step": step,
            "data": data,
            "learning_rate": [was, becomes],
            "differences": differ,
            "before": _lineage(run),
        },
    )
    said = {key: pair for key, pair in differ.items() if not key.startswith(stored.CHANGEABLE[1:])}
    rows = [[key, str(a)[:40], str(b)[:40]] for key, (a, b) in said.items()]
    log.info(
        "continue_from: goes on at step %d of %s, with its parameters and optimiser state; the data"
        " %s; learning rate %.3g -> %.3g%s",
        *(step, run, data, was, becomes),
        "\n" + table(["key", "there", "here"], rows) if rows else "; no key differs",
    )
    meant = differ.keys() & {"optimizer.learning_rate", "optimizer.schedule_from"}
    if abs(becomes - was) > JUMP * max(becomes, was) and not meant:
        log.warning(
            "continue_from: the learning rate goes at once from %.3g to %.3g, for the schedule '%s'"
            " over %d steps is there at step %d. To go on at the rate that it had: %s; to rise and"
            " fall once more: --config.optimizer.schedule_from=%d%s",
            *(was, becomes, c.optimizer.schedule, c.num_steps, step),
            *(schedules.words(c, "constant", learning_rate=was), step),
            # rates of a schedule are multiples of the learning rate
            "; to keep this schedule from the rate that it had:"
            f" --config.optimizer.learning_rate={c.optimizer.learning_rate * was / becomes:.6g}"
            if was and becomes
            else "",
        )
    rows_before, rows_now = (
        Batches(each).rows(position) for each in (batches.stages(theirs), batches.own(c))
    )
    if rows_before != rows_now and not meant:
        ratio = rows_now / max(rows_before, 1)
        log.info(
            "continue_from: batches go from %d to %d rows, and the learning rate stays as it is"
            " configured. Rules that are in use: times %.3g (linear), times %.3g (square root).",
            *(rows_before, rows_now, ratio, ratio**0.5),
        )


def _lineage(run: Path) -> list[dict[str, Any]]:
    """Where the run before comes from itself: [{"run", "step"}, …], newest first."""
    try:
        record = json.loads((run / RECORD).read_text())
        return [{"run": record["run"], "step": record["step"]}, *record["before"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []
