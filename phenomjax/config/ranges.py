"""What each key may be, declared beside its default: `c.optimizer.clip_norm = number(0.0, least=0,
zero="off")` in a `Section` gives the key its default and its range.

A key without a range (of an objective from outside) takes any value of its default's type.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from phenomjax.config.checks import flatten
from phenomjax.system.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Range:
    """What a key may be.

    Attributes:
      kind: int, float, bool, str or tuple.
      least, most: ends of a number, or of each number of a tuple; None = none.
      above, below: ends that are outside themselves.
      choices: names that it can be; () = any text.
      zero: what 0 means ("off", "all"), where people of other programs write -1.
      items: how many a tuple has, where that is fixed; 0 = any number.
    """

    kind: type
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    zero: str = ""
    items: int = 0

    def holds(self, value: Any) -> bool:
        """Whether a value lies within."""
        if isinstance(value, tuple):
            return (not self.items or len(value) in (0, self.items)) and all(map(self.holds, value))
        if isinstance(value, str):
            return not self.choices or value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """The range in words: "above 0 and at most 1"."""
        ends = (
            ("at least", self.least),
            ("above", self.above),
            ("at most", self.most),
            ("below", self.below),
        )
        words = " and ".join(f"{word} {end}" for word, end in ends if end is not None)
        return words or "a finite number"


class Declared(NamedTuple):
    """A default with its range, on the way into a `Section`."""

    default: Any
    allowed: Range


def number(
    default: float,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    zero: str = "",
) -> Any:
    """A finite float and its ends."""
    allowed = Range(float, least, most, above, below, zero=zero)
    return Declared(float(default), allowed)


def whole(
    default: int, least: int | None = None, most: int | None = None, *, zero: str = ""
) -> Any:
    """An int and its ends."""
    return Declared(default, Range(int, least, most, zero=zero))


def choice(default: str, choices: Iterable[str]) -> Any:
    """One of some names."""
    return Declared(default, Range(str, choices=tuple(choices)))


def flag(default: bool) -> Any:
    """True or False."""
    return Declared(default, Range(bool))


def text(default: str) -> Any:
    """Any text."""
    return Declared(default, Range(str))


def several(
    default: tuple = (),
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    choices: Iterable[str] = (),
    items: int = 0,
) -> Any:
    """A tuple, whose numbers lie between ends, or whose names are some of these."""
    allowed = Range(tuple, least, most, above, choices=tuple(choices), items=items)
    return Declared(default, allowed)


class Section(ConfigDict):
    """A ConfigDict that remembers the ranges of what is declared in it."""

    def __init__(self, *args: Any, **kwargs: Any):
        object.__setattr__(self, "_ranges", {})
        super().__init__(*args, **kwargs)

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, Declared):
            self._ranges[key] = value.allowed
            value = value.default
        super().__setitem__(key, value)


def declared(section: ConfigDict, prefix: str = "") -> dict[str, Range]:
    """{dotted key: its range} of a section and those within it."""
    own = {prefix + key: allowed for key, allowed in getattr(section, "_ranges", {}).items()}
    for key, value in section.items():
        if isinstance(value, ConfigDict):
            own |= declared(value, f"{prefix}{key}.")
    return own


def check(config: ConfigDict, ranges: Mapping[str, Range]) -> None:
    """Checks each value against the range of its key.

    Raises:
      UserError: the first key whose value lies outside.
    """
    for key, value in flatten(config).items():
        allowed = ranges.get(key)
        if allowed and not allowed.holds(value):
            raise UserError(" ".join(_mistake(key, value, allowed)))


def _mistake(key: str, value: Any, allowed: Range) -> Iterator[str]:
    if allowed.choices:
        names = value if isinstance(value, tuple) else (value,)
        wrong = next(name for name in names if name not in allowed.choices)
        yield (
            f"config.{key} is '{wrong}'.{did_you_mean(str(wrong), allowed.choices)} It can be"
            f" {', '.join(allowed.choices)}."
        )
        return
    many = isinstance(value, tuple)
    if many and allowed.items and len(value) not in (0, allowed.items):
        yield f"config.{key} has {len(value)} values; it must have {allowed.items}, or none."
        return
    yield f"config.{key} is {value}; {'each' if many else 'it'} must be {allowed}."
    if allowed.zero and not many:
        zero = allowed.kind(0)
        yield f"{zero} = {allowed.zero}: set --config.{key}={zero}."
