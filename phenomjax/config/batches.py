"""The keys of how many rows the batches of a run have, and their checks."""

import itertools

from ml_collections import ConfigDict

from phenomjax.config.ranges import Section, several, whole
from phenomjax.system.errors import UserError


def add_keys(c: Section) -> None:
    """Adds them."""
    # rows (crops, lanes of tokens) a step over all devices and hosts
    c.global_batch_size = whole(64, least=1)
    # ((step, rows), ...): from these steps on they are so many, e.g. ((1000, 128), (4000, 256));
    # () = always global_batch_size. Steps whose data a roll-back skipped count
    c.batch_ramp = several(int, least=1, depth=2)
    # filled in by continue_from: (position in the data, rows) of the batches of the runs before;
    # the last is where this one begins
    c.batches_before = several(int, least=0, depth=2)


def own(c: ConfigDict) -> list[tuple[int, int]]:
    """(step, rows) of a run from its first step on, whatever was before; a search for a learning
    rate has the first alone.
    """
    ramp = [(step, rows) for step, rows in c.batch_ramp] if not c.lr_find else []
    return [(0, c.global_batch_size), *ramp]


def stages(c: ConfigDict) -> list[tuple[int, int]]:
    """(position in the data, rows of the batches from there on), of the runs before too; the first
    is where the data of this run begin (`data.batches.Batches`).
    """
    before = [(position, rows) for position, rows in c.batches_before]
    if not before:
        return own(c)
    return before + [(step, rows) for step, rows in own(c) if step > before[-1][0]]


def mean_rows(c: ConfigDict) -> float:
    """Rows of a step, on average over the run and those before it whose data it goes on with."""
    whole = stages(c)
    begin, spans = whole[0][0], itertools.pairwise([*whole, (c.num_steps, 0)])
    read = sum(rows * max(min(end, c.num_steps) - at, 0) for (at, rows), (end, _) in spans)
    return read / max(c.num_steps - begin, 1)


def check(c: ConfigDict) -> None:
    """Checks that a ramp is one.

    Raises:
      UserError: it is not pairs of steps and rows, or its steps do not rise.
    """
    ramp = c.batch_ramp
    pairs = all(len(stage) == 2 for stage in (*ramp, *c.batches_before))
    if not pairs or any(one[0] >= other[0] for one, other in itertools.pairwise(ramp)):
        before = f" and config.batches_before {c.batches_before}" * bool(c.batches_before)
        raise UserError(
            f"config.batch_ramp is {ramp}{before}; it must be pairs of a step and the rows of a"
            " batch from there on, with steps that rise: --config.batch_ramp="
            f'"(({max(c.num_steps // 4, 1)}, {2 * c.global_batch_size}),)"'
        )
