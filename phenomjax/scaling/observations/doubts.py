"""What makes one doubt the numbers of a table: another unit than was meant, runs that diverged,
numbers that contradict each other.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64

from phenomjax.scaling.observations import checks
from phenomjax.system.errors import UserError

LossUnit = Literal["", "nats", "bits", "perplexity"]
Values = Float64[np.ndarray, " runs"]


def loss_unit(name: str, given: LossUnit) -> LossUnit:
    """The unit of the loss: given, or by the column's name.

    Raises:
      UserError: the name says another one than nats, and nothing is given.
    """
    if given:
        return given
    plain = re.sub(r"[\W_]+", " ", name.lower())
    for unit, pattern in (
        ("bits", r"\b(bits?|bp[cbt]|bpd|log2)\b"),
        ("perplexity", r"\b(ppl|perplexity|perplexities)\b"),
    ):
        if re.search(pattern, plain):
            raise UserError(
                f"The column '{name}' seems to be a loss in {unit}, and a law is fitted to nats."
                f" Give `loss_unit` {unit}, which converts it, or `loss_unit` nats if it is in nats"
                " all the same."
            )
    return "nats"


def check_scales(
    path: Path,
    columns: Mapping[str, str],
    params: Values,
    seen: Values,
    flops: Values,
    loss: Values,
    loss_unit: LossUnit,
) -> None:
    """Raises UserError where a whole column must be counted in something else."""
    if not len(params):
        return
    for role, values, least in (("params", params, 1e4), ("tokens", seen, 1e3)):
        if role in columns and values.max() < least:
            name = columns[role]
            raise UserError(
                f"The column '{name}' of {path} ({role}) goes from {values.min():.4g} to"
                f" {values.max():.4g}: it seems to count in millions or billions. Write"
                f" {role}={name}*1e6 or {role}={name}*1e9 in `columns`."
            )
    if "tokens" in columns and "flops" in columns:
        middle = float(np.median(flops / (6 * params * seen)))
        if not 1 / 50 < middle < 50:
            raise UserError(
                f"Parameters, {columns['tokens']} and {columns['flops']} of {path} do not fit"
                f" each other: C / 6ND is {middle:.3g} (about 1 for transformers). Columns are"
                " exchanged, or one is counted in thousands, millions or billions: name the right"
                f" ones in `columns`, or write a factor, as in tokens={columns['tokens']}*1e9."
            )
    if "tokens" not in columns and seen.max() < 1e3:
        raise UserError(
            f"The column '{columns['flops']}' of {path} (flops) goes from {flops.min():.4g} to"
            f" {flops.max():.4g}, which pays for {seen.max():.3g} units of data (C / 6N): it holds"
            f" no FLOPs, or counts them in a larger unit. Write tokens={columns['flops']} in"
            f" `columns`, or a factor, as in flops={columns['flops']}*1e18."
        )
    if "tokens" in columns and np.median(seen / params) > 1e6:
        raise UserError(
            f"The column '{columns['tokens']}' of {path} (tokens) has"
            f" {np.median(seen / params):.3g} a parameter (median), and no run has that. If it"
            f" holds FLOPs, write flops={columns['tokens']} in `columns`; if the parameters are"
            f" counted in thousands, params={columns['params']}*1e3."
        )
    # a guess among so many pieces as the largest vocabularies have is worth 12 nats
    if not loss_unit and np.median(loss) > 12:
        raise UserError(
            f"The column '{columns['loss']}' of {path} goes from {loss.min():.4g} to"
            f" {loss.max():.4g}: as a loss in nats that is worse than any guess. If it is a"
            " perplexity, give `loss_unit` perplexity; if it is a loss of another kind, `loss_unit`"
            " nats takes it as it is."
        )


def odd(
    params: Values,
    seen: Values,
    flops: Values,
    loss: Values,
    good: Bool[np.ndarray, " runs"],
) -> dict[int, str]:
    """Runs that do not fit the others, {number: why}; of those that are `good`."""
    places = np.flatnonzero(good)
    if len(places) < checks.FEWEST:
        return {}
    n, d, c, losses = (values[places] for values in (params, seen, flops, loss))
    odd = dict[int, str]()
    with_both = np.isfinite(c)
    if with_both.all():
        relation = np.log(c / (6 * n * d))
        for place in np.flatnonzero(np.abs(relation - np.median(relation)) > np.log(3)):
            odd[int(places[place])] = (
                f"C = {c[place]:.4g} and 6ND = {6 * n[place] * d[place]:.4g} disagree by"
                f" {np.exp(abs(relation[place])):.3g} x, where the other runs have"
                f" {np.exp(np.median(relation)):.3g}: one of the three numbers is wrong."
            )
    for place in np.flatnonzero(bits := checks.in_bits(n, d, losses)):
        odd[int(places[place])] = (
            f"its loss {losses[place]:.4g} fits the others as"
            f" {losses[place] / checks.BITS:.4g}: it is in bits, theirs is in nats (1 nat"
            " = 1.4427 bits; multiply it by 0.6931)."
        )
    away = checks.outliers(n, d, np.where(bits, losses / checks.BITS, losses))
    for place in np.flatnonzero(away):
        expected = losses[place] / np.exp(away[place])
        cause = (
            "the run diverged, or its loss is in another unit"
            if away[place] > 0
            else "its loss is in another unit, or of other data"
        )
        odd.setdefault(
            int(places[place]),
            f"its loss {losses[place]:.4g} is {np.exp(abs(away[place])):.3g} x"
            f" {'above' if away[place] > 0 else 'below'} the {expected:.4g} of runs around it:"
            f" {cause} (`on_bad_run` keep takes it as it is).",
        )
    return odd
