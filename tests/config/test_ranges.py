"""Ranges of keys: declared beside their defaults, checked before a run."""

import re

import pytest

from phenomjax import config
from phenomjax.config import keys, ranges
from phenomjax.config.checks import flatten
from phenomjax.system.errors import UserError


def changed(**values):
    c = config.base()
    c.data.simulate.plates = 1
    c.update_from_flattened_dict({name.replace("__", "."): v for name, v in values.items()})
    return c


@pytest.mark.parametrize(
    "values,text",
    [
        (
            {"optimizer__clip_norm": -1.0},
            "config.optimizer.clip_norm is -1.0; it must be at least 0. 0.0 = off: set"
            " --config.optimizer.clip_norm=0.0.",
        ),
        ({"optimizer__b1": 1.5}, "is 1.5; it must be at least 0 and below 1."),
        ({"optimizer__learning_rate": float("nan")}, "is nan; it must be at least 0."),
        ({"optimizer__learning_rate": float("inf")}, "is inf; it must be at least 0."),
        ({"seed": -1}, "config.seed is -1; it must be at least 0 and at most 4294967295."),
        ({"eval__every_steps": -1}, "0 = never: set --config.eval.every_steps=0."),
    ],
)
def test_a_value_outside_its_range_is_refused_with_its_mend(values, text):
    with pytest.raises(UserError, match=re.escape(text)):
        config.finalize(changed(**values))


def test_defaults_lie_within_their_ranges():
    declared = ranges.declared(keys._declare("mae"))
    values = flatten(config.base())
    assert [key for key in declared if not declared[key].holds(values[key])] == []
    assert {type(values[key]) for key in declared} == {r.kind for r in declared.values()}
