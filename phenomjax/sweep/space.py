"""Search spaces, written in a config file beside the values that they vary:

    from phenomjax.sweep.space import choice, log_uniform, uniform

    def search_space():
        return {"model.patch_size": choice(8, 16), "model.mask_ratio": uniform(0.5, 0.9),
        "optimizer.learning_rate": log_uniform(1e-4, 1e-2)}

A key is a dotted key of the configuration. Nothing here needs Optuna, so that a config file with a
space also trains without it.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypedDict

from ml_collections import ConfigDict

from phenomjax.config import checks
from phenomjax.system.errors import UserError, did_you_mean
from phenomjax.system.user_files import UserFile, split

# Keys that the sweep itself needs to be the same in all trials.
FIXED = ("num_steps", "stop_at_step", "lr_find", "stop_early.metric", "eval.every_steps", "task")

Value = int | float | str | bool


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values (numbers, texts, True and False)."""

    values: tuple[Value, ...]


@dataclasses.dataclass(frozen=True)
class Range:
    """A number between two, both included; `step` 0 means any number in between."""

    low: float
    high: float
    step: float = 0.0
    log: bool = False
    integer: bool = False


Axis = Choice | Range


class StoredRange(TypedDict):
    """A range as JSON can hold it."""

    low: float
    high: float
    step: float
    log: bool
    integer: bool


# as JSON can hold it; a choice is a list
StoredSpace = dict[str, list[Value] | StoredRange]


def choice(*values: Value) -> Choice:
    """One of these values."""
    return Choice(values)


def uniform(low: float, high: float, step: float = 0.0) -> Range:
    """A real number, equally likely everywhere; with `step` only low, low + step, …"""
    return Range(float(low), float(high), float(step))


def log_uniform(low: float, high: float) -> Range:
    """A real number whose logarithm is equally likely everywhere, as for learning rates."""
    return Range(float(low), float(high), log=True)


def integer(low: int, high: int, step: int = 1) -> Range:
    """A whole number."""
    return Range(low, high, step, integer=True)


def of_config(text: str) -> dict[str, Axis]:
    """The search space of a config file.

    Args:
      text: `--config` of the command line, FILE or FILE:ARG; `search_space` takes ARG when it has a
        parameter, as `get_config` does.

    Raises:
      UserError: the file has no `search_space`, or it returns something else than a dict of axes.
    """
    example = 'def search_space(): return {"optimizer.learning_rate": log_uniform(1e-4, 1e-2)}'
    stored = split(text)[0].endswith(".json")  # the configuration of a run
    file = None if stored else UserFile(text, "search space", _told)
    path = file.path if file else text
    if file is None or not file.has("search_space"):
        there = "Name what varies with `vary` KEY=A,B, or add" if stored else "Add"
        raise UserError(
            f"{path} has no search_space(): a sweep does not know what to vary. {there} to"
            f" {'an experiment file' if stored else 'that file'} `from phenomjax.sweep.space import"
            f" log_uniform` and `{example}` (phenomjax/sweep/space.py lists the constructors)."
        )
    space = file.call("search_space", arg_is_others=True)
    if not isinstance(space, dict) or not all(isinstance(axis, Axis) for axis in space.values()):
        raise UserError(
            f"search_space() of {path} must return a dict of keys and axes, such as `{example}`."
        )
    return space


def _told(error: Exception) -> str | None:
    """Of a constructor that was called wrongly."""
    if not isinstance(error, TypeError):
        return None
    return (
        f"search_space() fails: {error}. The constructors and their arguments stand in"
        " phenomjax/sweep/space.py."
    )


def of_words(words: Sequence[str], config: ConfigDict) -> dict[str, Axis]:
    """A space of choices from the command line.

    Args:
      words: "KEY=A,B,…" each.
      config: whose keys tell the types of the values.

    Raises:
      UserError: a word that is not of this form, a key twice, a value twice or of another type.
    """
    known, space = checks.flatten(config), dict[str, Axis]()
    for word in words:
        key, equals, text = word.partition("=")
        if not key or not equals or key in space:
            what = "names a key twice" if key in space else "is not KEY=A,B"
            raise UserError(
                f"`vary` {word} {what}. Give each key of the configuration once, with its values"
                " separated by commas: `vary` seed=0,1,2 data.cell_type=HUVEC,RPE."
            )
        kind = type(known.get(key, ""))
        try:
            values = [_value(part, kind) for part in text.split(",")]
        except (KeyError, ValueError):
            raise UserError(
                f"`vary` {word}: config.{key} is of type {kind.__name__} ({known[key]!r}), and not"
                " all of these values are."
            ) from None
        if len(set(values)) < len(values):
            raise UserError(f"`vary` {word} names a value twice. Name each once.")
        space[key] = Choice(tuple(values))
    return space


def _value(text: str, kind: type) -> Value:
    """A value of the command line as one of this type."""
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    if kind not in (int, float, str):
        raise ValueError
    value: Value = kind(text)
    return value


def check(space: dict[str, Axis], config: ConfigDict, source: str) -> None:
    """Checks every key and every end of every axis against the configuration.

    Args:
      space: by key.
      config: whose keys they are.
      source: file of the search space, or the option in backquotes.

    Raises:
      UserError: an empty space or axis, an unknown key, a value of another type than the key's, a
        key that must not vary.
    """
    if not space:
        raise UserError(f"search_space() of {source} is empty: there is nothing to vary.")
    known = checks.flatten(config)
    for key, axis in space.items():
        where = source if source[0] == "`" else f"search_space() of {source}"
        where = f"{where}: {key}"
        if key not in known:
            raise UserError(f"{where} is not a key of the configuration.{did_you_mean(key, known)}")
        if key in FIXED:
            raise UserError(
                f"{where} cannot vary: trials are compared at the same steps. Give it with"
                f" --config.{key}=…"
            )
        if isinstance(axis, Choice):
            if not axis.values or any(type(v) not in (int, float, str, bool) for v in axis.values):
                raise UserError(
                    f"{where} must be a choice between numbers, texts, True or False, at least one."
                )
        elif (
            not (math.isfinite(axis.low) and math.isfinite(axis.high) and axis.low <= axis.high)
            or axis.step < 0
        ):
            raise UserError(
                f"{where} goes from {axis.low} to {axis.high} in steps of {axis.step}: that range"
                " is empty."
            )
        elif axis.log and axis.low <= 0:
            raise UserError(f"{where} begins at {axis.low}; a logarithmic range begins above 0.")
        for value in axis.values if isinstance(axis, Choice) else (axis.low, axis.high):
            trial, (*parents, leaf) = ConfigDict(config.to_dict()), key.split(".")
            node = trial
            for name in parents:
                node = node[name]
            try:
                node[leaf] = value
            except TypeError:
                kind = type(known[key]).__name__
                raise UserError(
                    f"{where} takes {value!r}, but config.{key} is of type {kind} ({known[key]!r})."
                ) from None


def grid(space: dict[str, Axis]) -> dict[str, tuple[Value, ...]]:
    """The values of each axis of a grid.

    Raises:
      UserError: an axis without steps.
    """
    values = dict[str, tuple[Value, ...]]()
    for key, axis in space.items():
        if isinstance(axis, Range) and (not axis.step or (axis.log and not axis.integer)):
            raise UserError(
                f"`sampler` grid needs countable values, and {key} is any number from {axis.low:g}"
                f" to {axis.high:g}. Write it as choice(…) or uniform(low, high, step) in"
                " search_space(), or take `sampler` random or tpe."
            )
        if isinstance(axis, Range):
            count = int((axis.high - axis.low) / axis.step + 1e-9) + 1
            numbers = [axis.low + i * axis.step for i in range(count)]
            values[key] = tuple(int(n) if axis.integer else round(n, 12) for n in numbers)
        else:
            values[key] = axis.values
    return values


def to_json(space: dict[str, Axis]) -> StoredSpace:
    """As JSON can hold it, for the study's settings."""
    stored: StoredSpace = {}
    for key, axis in space.items():
        if isinstance(axis, Choice):
            stored[key] = list(axis.values)
        else:
            stored[key] = StoredRange(
                low=axis.low, high=axis.high, step=axis.step, log=axis.log, integer=axis.integer
            )
    return stored


def from_json(stored: StoredSpace) -> dict[str, Axis]:
    """What `to_json` wrote."""
    return {
        key: Choice(tuple(axis)) if isinstance(axis, list) else Range(**axis)
        for key, axis in stored.items()
    }
