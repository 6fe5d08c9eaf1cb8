"""What each key may be, declared beside its default: `c.optimizer.clip_norm = number(0.0, least=0,
zero="off")` in a `Section` gives the key its default and its range.

A key without a range (of an objective from outside) takes any value of its default's type.
"""

import math
import numbers
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
      kind: int, float, bool or str; of a tuple, of its items.
      least, most: ends of a number, or of each number of a tuple; None = none.
      above, below: ends that are outside themselves.
      also: a number outside the ends that it can be all the same.
      choices: names that it can be; () = any text.
      zero: what 0 means ("off", "all"), where people of other programs write -1.
      depth: 1 of a tuple, 2 of a tuple of tuples.
      where: (a key beside it, values of that key): with other values nothing reads it. Without
        values, any that is not empty, 0 or False.
    """

    kind: type
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    also: float | None = None
    choices: tuple[str, ...] = ()
    zero: str = ""
    depth: int = 0
    where: tuple[str, tuple[str, ...]] | None = None

    def holds(self, value: Any) -> bool:
        """Whether a value lies within."""
        return self._holds(value, self.depth)

    def _holds(self, value: Any, depth: int) -> bool:
        if depth:
            return isinstance(value, tuple) and all(self._holds(one, depth - 1) for one in value)
        if not self.is_kind(value):
            return False
        if self.kind is str:
            return value in self.choices if self.choices else bool(value) or not self.depth
        return self.kind is bool or value == self.also or self._within(value)

    def is_kind(self, value: Any) -> bool:
        """Whether a value, or an item of one, is of the kind."""
        kinds: type = {int: numbers.Integral, float: numbers.Real}.get(self.kind, self.kind)
        return isinstance(value, kinds) and (self.kind is bool or not isinstance(value, bool))

    def kind_in_words(self) -> str:
        """What a value must be, wherever it lies."""
        return ("a list of lists, each " if self.depth > 1 else "a list, each " * self.depth) + (
            _WORDS[self.kind]
        )

    def is_like(self, value: Any, depth: int | None = None) -> bool:
        """Whether a value is of the kind, and nested as it must be; it may lie outside."""
        depth = self.depth if depth is None else depth
        if not depth:
            return self.is_kind(value)
        return isinstance(value, tuple) and all(self.is_like(each, depth - 1) for each in value)

    def _within(self, value: Any) -> bool:
        return (
            abs(value) < math.inf  # an int too, however large
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
        told = (f"{word} {end}" for word, end in ends if end is not None and end != LARGEST)
        words = [" and ".join(told)]
        words = [f"{self.also}", *words] if self.also is not None else words
        return " or ".join(filter(None, words)) or _WORDS[self.kind]

    def off(self, default: Any) -> Any:
        """The value that says that it is not used."""
        return self.kind(0) if self.zero else default


LARGEST = 2**31 - 1  # of a whole number
_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "a text",
}


class Declared(NamedTuple):
    """A default with its range, on the way into a `Section`."""

    default: Any
    allowed: Range


# Each declares a key by its default; `limits` are more attributes of its `Range`.


def number(
    default: float, least: float | None = None, most: float | None = None, **limits: Any
) -> Any:
    """A finite float and its ends."""
    return Declared(float(default), Range(float, least, most, **limits))


def share(default: float, **limits: Any) -> Any:
    """A float from 0 to 1."""
    return number(default, 0, 1, **limits)


def whole(default: int, least: int | None = None, most: int = LARGEST, **limits: Any) -> Any:
    """An int and its ends; 32 bits hold it."""
    return Declared(default, Range(int, least, most, **limits))


def choice(default: str, choices: Iterable[str], **limits: Any) -> Any:
    """One of some names."""
    return Declared(default, Range(str, choices=tuple(choices), **limits))


def flag(default: bool, **limits: Any) -> Any:
    """True or False."""
    return Declared(default, Range(bool, **limits))


def text(default: str, **limits: Any) -> Any:
    """Any text."""
    return Declared(default, Range(str, **limits))


def several(kind: type, default: tuple = (), *, depth: int = 1, **limits: Any) -> Any:
    """A tuple of numbers between ends, or of texts."""
    most = {"most": LARGEST} if kind is int else {}
    return Declared(default, Range(kind, depth=depth, **most | limits))


class Section(ConfigDict):
    """A ConfigDict that remembers the ranges of what is declared in it."""

    def __init__(self, *args: Any, **kwargs: Any):
        object.__setattr__(self, "_ranges", {})
        super().__init__(*args, **kwargs)

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, Declared):
            self._ranges[key] = value.allowed
            value = value.default
        elif type(value) is ConfigDict:  # of an objective from outside
            value = Section(value)
        super().__setitem__(key, value)


def declared(section: ConfigDict, prefix: str = "") -> dict[str, Range]:
    """{dotted key: its range} of a section and those within it."""
    own = {prefix + key: allowed for key, allowed in getattr(section, "_ranges", {}).items()}
    for key, value in section.items():
        if isinstance(value, ConfigDict):
            own |= declared(value, f"{prefix}{key}.")
    return own


def check(values: Mapping[str, Any], section: "Section") -> None:
    """Checks each value of a flat configuration against the range of its key.

    Args:
      values: {dotted key: value}.
      section: declares the keys.

    Raises:
      UserError: the first key whose value lies outside, or that is set and read by nothing.
    """
    ranges, defaults = declared(section), flatten(section)
    for key, value in values.items():
        allowed = ranges.get(key)
        if allowed and not allowed.holds(value):
            raise UserError(" ".join(_mistake(key, value, allowed, defaults[key])))
        if allowed and defaults[key] == "" and str(value).lower() in ("none", "null"):
            raise UserError(
                f"config.{key} is {value!r}, which would be taken for a name. For none set"
                f" --config.{key}=''."
            )
    for key, allowed in ranges.items():
        if reads(allowed, key, values) or values[key] == defaults[key]:
            continue
        if allowed.zero and not values[key]:
            continue
        assert allowed.where
        chosen, names = _beside(key, allowed.where[0]), allowed.where[1]
        mend = f"--config.{key}={_word(allowed.off(defaults[key]))}"
        mend += f" or --config.{chosen}={names[0]}." if names else f" or give --config.{chosen}."
        raise UserError(
            f"config.{key} is {values[key]}, which nothing reads where config.{chosen} is"
            f" {values[chosen]!r}. Set {mend}"
        )


def reads(allowed: Range, key: str, values: Mapping[str, Any]) -> bool:
    """Whether a run with these values reads a key of a range."""
    if not allowed.where:
        return True
    other, names = allowed.where
    value = values.get(_beside(key, other))
    return value in names if names else bool(value)


def _word(value: Any) -> str:
    """A value as it stands in a command line."""
    return f'"{value}"' if isinstance(value, tuple) else str(value) or "''"


def _beside(key: str, other: str) -> str:
    """The dotted key of a key in the same section."""
    return ".".join([*key.split(".")[:-1], other])


def _mistake(key: str, value: Any, allowed: Range, default: Any) -> Iterator[str]:
    many = allowed.depth > 0
    if many and not isinstance(value, tuple):
        yield f"config.{key} is {value!r}, which is no tuple; e.g. ({value!r},)."
        return
    if allowed.depth > 1 and not all(isinstance(item, tuple) for item in value):
        yield f"config.{key} is {value!r}, which is no tuple of tuples, such as ((1, 2), (3, 4))."
        yield f"Its default: --config.{key}={_word(default)}."
        return
    if allowed.choices:
        wrong = next(name for name in (value if many else (value,)) if name not in allowed.choices)
        yield (
            f"config.{key} is '{wrong}'.{did_you_mean(str(wrong), allowed.choices)} It can be"
            f" {', '.join(name or repr('') for name in allowed.choices)}."
        )
        if not many and default in allowed.choices:
            yield f"Its default: --config.{key}={_word(default)}."
        return
    if many and allowed.kind is str and len(set(map(str, value))) and "" not in value:
        yield f"config.{key} is {value!r}, and each must be a text: set"
        yield f'--config.{key}="{tuple(map(str, value))}".'
        return
    told, word = str(allowed), _WORDS[allowed.kind]
    if not many and isinstance(value, int) and value > LARGEST:
        told = f"at most {allowed.most}"
    items = value if many else (value,)
    for _ in range(1, allowed.depth):
        items = tuple(each for item in items for each in item)
    if told != word and not all(allowed.is_kind(x) and abs(x) < math.inf for x in items):
        told = f"{word}, {told}"
    if many and "" in value and allowed.kind is str:
        told += " that is not empty"
    yield f"config.{key} is {value!r}; {'each' if many else 'it'} must be {told}."
    if many and value == ("",):
        yield f'For none set --config.{key}="()".'
    if allowed.zero and not many and isinstance(value, int | float) and value < 0:
        zero = allowed.kind(0)
        yield f"{zero} = {allowed.zero}: set --config.{key}={zero}."
    elif value != ("",) and allowed.holds(default):
        yield f"Its default: --config.{key}={_word(default)}."
