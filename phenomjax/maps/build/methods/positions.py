"""The effects of position taken out of features; see maps/positions/correction.py."""

import logging

import numpy as np
from jaxtyping import Bool, Shaped

from phenomjax.maps.build.methods.scaling import batches_of, mean_and_scale
from phenomjax.maps.build.methods.streams import Rows, Stream, Values
from phenomjax.maps.positions.correction import position_effects
from phenomjax.maps.positions.places import rows_and_columns
from phenomjax.maps.tables.profiles import Record
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")

LEAST_POSITIONS = 8  # with controls: of fewer no row or column is known
LEAST_REPEATS = 8  # further controls in these positions, on other plates: they tell the noise


def without_positions(
    stream: Stream,
    batches: Shaped[np.ndarray, " rows"],
    controls: Bool[np.ndarray, " rows"],
    positions: Shaped[np.ndarray, " rows"],
) -> tuple[Stream, Record]:
    """The stream without the effects of position, each in units of its batch's controls; and what
    was found.

    Raises:
      UserError: positions that name no place on a plate, or controls that do not tell it.
    """
    names, code = np.unique(positions.astype(str), return_inverse=True)
    place = np.stack(rows_and_columns(names.astype(object)), axis=1)
    known: Bool[np.ndarray, " positions"] = np.asarray((place > 0).all(1))
    batch, groups = batches_of(batches)
    used = controls & known[code]
    if not known.any():
        raise UserError(
            "`correct_positions`: no row names a place on its plate, as A01 does. Name the column"
            " of wells with `well`."
        )
    lacking = sum(controls[rows].sum() < 2 for rows in groups)
    if lacking:
        raise UserError(
            f"`correct_positions` is fitted on controls, and {lacking} of {len(groups)} batches"
            " have fewer than 2. Name them with `control`, join batches with a coarser `batch`, or"
            " leave these out."
        )
    present, local, counts = np.unique(code[used], return_inverse=True, return_counts=True)
    repeats = int(used.sum()) - len(present)
    if len(present) < LEAST_POSITIONS or repeats < LEAST_REPEATS:
        raise UserError(
            f"`correct_positions`: {int(used.sum())} controls lie in {len(present)} positions,"
            " which do not tell what position does: at least"
            f" {LEAST_POSITIONS} positions are needed, and {LEAST_REPEATS} more controls in them on"
            " other plates. Give more plates of the layout, or leave it out."
        )

    fitted = [mean_and_scale(stream, rows[controls[rows]]) for rows in groups]
    means, scales = map(np.stack, zip(*fitted, strict=True))
    sums, squares = np.zeros((len(present), stream.dim)), np.zeros(stream.dim)
    where = np.cumsum(used)
    for rows, values in stream.blocks(np.flatnonzero(used), "align: positions"):
        values = (values - means[batch[rows]]) / scales[batch[rows]]
        np.add.at(sums, local[where[rows] - 1], values)
        squares += (values**2).sum(0)
    average = sums / counts[:, None]
    noise = np.maximum(squares - (average**2 * counts[:, None]).sum(0), 0) / repeats
    noise = np.where(noise > 1e-12, noise, 0)
    found = position_effects(average, counts, noise, place, present)
    found.effects[~known] = found.of_controls[~known] = 0

    def step(values: Values, rows: Rows) -> Values:
        mine = controls[rows][:, None]
        effect = np.where(mine, found.of_controls[code[rows]], found.effects[code[rows]])
        return values - effect * scales[batch[rows]]

    unknown = int((~known[code]).sum())
    record = {
        "positions": int(known.sum()),
        "positions_with_controls": len(present),
        "variances": found.variances,
        "rows_without_position": unknown,
    }
    log.info(
        "align: positions corrected by %d controls in %d of %d positions; of a control's variance"
        " within its batch, position explains %.0f %% (row %.2f, column %.2f, wells around %.2f,"
        " own %.2f times the noise)%s",
        used.sum(),
        len(present),
        known.sum(),
        100 * (share := sum(found.variances.values())) / (1 + share),
        *found.variances.values(),
        f"; {unknown} rows name no position and stay as they are" if unknown else "",
    )
    return stream.then(step), record
