"""The configuration of a command line: an experiment file, or the config.json of a run, with
`--config.KEY=VALUE` on top.
"""

import ast
import contextlib
import difflib
import re
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from ml_collections import ConfigDict
from tyro.conf import arg

from phenomjax.cluster.flags import ProcessOptions, speaks
from phenomjax.config import stored
from phenomjax.config.checks import flatten
from phenomjax.config.keys import base, declare
from phenomjax.config.ranges import Range, declared
from phenomjax.system.ending import silence
from phenomjax.system.errors import UserError, did_you_mean, first_of
from phenomjax.system.help_pages import Screen
from phenomjax.system.options import run_command
from phenomjax.system.user_files import UserFile, expanded, split

RunOptionsT = TypeVar("RunOptionsT", bound="RunOptions")
# --config.KEY=VALUE, and --noconfig.KEY of a switch
OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)(=?)(.*)", re.DOTALL)
# what programs of others call a key
SYNONYMS = {
    "batch_size": "global_batch_size",
    "lr": "optimizer.learning_rate",
    "steps": "num_steps",
    "max_steps": "num_steps",
    "wd": "optimizer.weight_decay",
    "grad_clip": "optimizer.clip_norm",
    "gradient_accumulation_steps": "optimizer.accumulate_steps",
    "precision": "model.dtype",
}
# what programs of others call a key that is not used
NOTHING = ("none", "null", "nil", "off", "no", "never", "false")
BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def read_config(text: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The configuration of a command line.

    Args:
      text: FILE or FILE:ARG of an experiment, or the config.json of a run.
      overrides: words `--config.KEY=VALUE`, or `--config.KEY` and `VALUE`. Of a tuple that is
        given several times all values count.

    Raises:
      UserError: a file that cannot be read, an unknown key, a value of another type.
    """
    config = _read_file(text)
    with config.unlocked():
        for key, values in _pairs(overrides, flatten(config)).items():
            _set(config, key, values)
    return ConfigDict(config.to_dict())  # references of one key to another follow what was set


def with_values(config: ConfigDict, values: Mapping[str, object]) -> ConfigDict:
    """A copy of a configuration with other values.

    Args:
      config: any.
      values: {dotted key: value, or its text}.

    Raises:
      UserError: an unknown key, a value of another type.
    """
    changed = ConfigDict(config.to_dict())
    for key, value in values.items():
        _check_key(key, flatten(config))
        _set(changed, key, [str(value)])
    return changed


def _read_file(text: str) -> ConfigDict:
    """The configuration of a file alone."""
    name, arg = split(text)
    if name.endswith(".json"):
        if arg is not None:
            raise UserError(
                f"{name} is a stored configuration and takes no argument ('{arg}' stands behind the"
                f" colon). Give {name} alone, and values as --config.KEY=VALUE."
            )
        return stored.load(Path(expanded(name)))
    file = UserFile(text, "experiment")
    config = file.call("get_config")
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config() of {file.path} returned a {type(config).__name__}; it must return the"
            " configuration that it made with phenomjax.config.base()."
        )
    return config


def _pairs(words: Sequence[str], known: Mapping[str, Any]) -> dict[str, list[str]]:
    """{key: its values as text} of the words of a command line."""
    found, rest = dict[str, list[str]](), list(words)
    while rest:
        word = rest.pop(0)
        match = OVERRIDE.fullmatch(word)
        if not match:
            raise UserError(f"'{word}' is not --config.KEY=VALUE.")
        no, key, equals, value = match.groups()
        _check_key(key, known)
        if not equals and isinstance(known[key], bool):
            there = not no and bool(rest) and rest[0].lower() in BOOLEANS
            value = rest.pop(0) if there else "false" if no else "true"
        elif no:
            raise UserError(
                f"--noconfig.{key} turns a switch off, and config.{key} is {known[key]!r}: give"
                f" --config.{key}=VALUE."
            )
        elif not equals:
            if not rest or OVERRIDE.fullmatch(rest[0]):
                raise UserError(f"--config.{key} has no value: give --config.{key}=VALUE.")
            value = rest.pop(0)
        found.setdefault(key, []).append(value)
    return found


def _check_key(key: str, known: Mapping[str, Any]) -> None:
    """Raises UserError for a key that is none, with the nearest."""
    if key in known:
        return
    inside = [name for name in known if name.startswith(key + ".")]
    if inside:
        raise UserError(
            f"config.{key} is a section: give one of its keys, {first_of(inside, 40)}, as"
            f" --config.{inside[0]}=VALUE."
        )
    alike = _alike(key, known)
    close = f" Did you mean '{alike}'?" if alike else did_you_mean(key, known)
    raise UserError(
        f"There is no key '{key}'.{close} Keys and defaults stand in phenomjax/config; experiments"
        " stand in configs/ (see --help)."
    )


def _alike(name: str, known: Iterable[str]) -> str:
    """The key that somebody means by its last word, or by what others call it; or ""."""
    leaf = name.rpartition(".")[2]
    same = [key for key in known if key.rpartition(".")[2] == leaf]
    return SYNONYMS.get(name) or next(iter(difflib.get_close_matches(name, same, 1, 0.0)), "")


def _set(config: ConfigDict, key: str, texts: Sequence[str]) -> None:
    """Sets a key to the last of some values, or, of a tuple, to all of them."""
    task, (*parents, leaf) = str(config.task), key.split(".")
    for name in parents:
        config = config[name]
    default, text = config[leaf], texts[-1]
    try:
        if isinstance(default, list | tuple):
            config[leaf] = tuple(item for text in texts for item in _items(text))
        else:
            config[leaf] = _value(text, type(default))
    except (ValueError, KeyError, TypeError):
        kinds = {bool: "true or false", int: "a whole number", float: "a number"}
        wanted = kinds.get(type(default), "a list, such as \"('a', 'b')\" or \"(1, 2)\"")
        raise UserError(
            f"--config.{key}={text} is not {wanted}, and config.{key} is (now {default!r})."
            f" {_instead(key, text, default, declared(declare(task)).get(key))}"
        ) from None


def _instead(key: str, text: str, default: Any, allowed: Range | None) -> str:
    """What to set in place of a value of another kind."""
    if type(default) is int:
        with contextlib.suppress(ValueError, OverflowError):  # no number, or not a finite one
            if (whole := float(text)) == int(whole):  # such as 1e3
                return f"Set --config.{key}={int(whole)}."
    if allowed and allowed.zero and text.lower() in NOTHING:
        return f"{allowed.kind(0)} = {allowed.zero}: set --config.{key}={allowed.kind(0)}."
    if isinstance(default, list | tuple):
        return f'Set --config.{key}="{tuple(default)}", or leave it out.'
    return f"Set --config.{key}={default}, or leave it out."


def _value(text: str, kind: type) -> Any:
    if kind is bool:
        return BOOLEANS[text.lower()]
    return kind(text) if kind in (int, float) else text


def _items(text: str) -> tuple[Any, ...]:
    """Of "('a', 'b')", or "a" alone."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if "," in text or text[:1] in ("(", "["):  # quotes are missing
            raise ValueError from None
        value = text
    return tuple(value) if isinstance(value, list | tuple) else (value,)


@dataclass(frozen=True, kw_only=True)
class RunOptions(ProcessOptions):
    """Of the front doors to a run."""

    config: Annotated[str, arg(metavar="FILE[:ARG]", help_behavior_hint="(required)")] = ""
    """experiment, such as configs/mae.py:L/8,mask=0.75; or the config.json of a run"""
    workdir: Annotated[str, arg(metavar="DIR", help_behavior_hint="(required)")] = ""
    """folder of the run; an interrupted run continues in it"""

    @classmethod
    def check_words(cls, words: Sequence[str]) -> None:
        """Raises UserError for a word that is no flag of ours, and stands behind none."""
        switches = {"help", *(field.name for field in fields(Screen))}
        known = [*(field.name for field in fields(cls)), *switches]
        wants_value = False
        for word in words:
            name, equals, _ = word.removeprefix("--").partition("=")
            if word.startswith("--"):
                if name.replace("-", "_") not in known:
                    raise UserError(_unknown(name, words, known))
                wants_value = not equals and name not in switches
            elif wants_value or word == "-h":
                wants_value = False
            else:
                raise UserError(
                    f"'{word}' stands alone: give --config FILE, --workdir DIR, and values as"
                    " --config.KEY=VALUE."
                )


def run_door(
    kind: type[RunOptionsT],
    run: Callable[[RunOptionsT, ConfigDict], int],
    prog: str,
    page: str,
    argv: Sequence[str] | None = None,
) -> int | None:
    """Reads the command line of a front door to a run, with its `--config.KEY=VALUE`, and runs it.

    Args:
      kind: its options.
      run: is called with them and the configuration.
      prog: how the program is called.
      page: what it does, for the help.
      argv: words behind the program's name; those of this process if None.

    Raises:
      UserError: an unknown or missing flag, or a configuration that cannot be read.
    """
    overrides, others = split_words(sys.argv[1:] if argv is None else argv)

    def start(options: RunOptionsT) -> int:
        if not speaks(options):
            silence()
        for name in ("config", "workdir"):
            if not getattr(options, name):
                raise UserError(
                    f"--{name} is missing: {prog} --config configs/mae_demo.py --workdir"
                    " runs/mae_demo"
                )
        return run(options, read_config(options.config, overrides))

    return run_command(kind, start, prog, page, others)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of --config.KEY, with their values, and the others."""
    overrides, others, wants_value = list[str](), list[str](), False
    for word in words:
        match = OVERRIDE.fullmatch(word)
        mine = match is not None or (wants_value and not word.startswith("--"))
        (overrides if mine else others).append(word)
        wants_value = match is not None and not match[3]
    return overrides, others


def _unknown(name: str, words: Sequence[str], flags: Iterable[str]) -> str:
    """What to say of a flag that there is not."""
    keys = flatten(base())
    if alike := _alike(name, keys):
        given = dict(word.lstrip("-").split("=", 1) for word in words if "=" in word)
        return (
            f"There is no flag --{name}. Keys of the configuration are given as"
            f" --config.{alike}={given.get(name, 'VALUE')}."
        )
    near = did_you_mean(name, [*flags, *(f"config.{key}" for key in keys)])
    return f"There is no flag --{name}.{near} See --help."


def without(overrides: Iterable[str], keys: Container[str]) -> list[str]:
    """The words --config.KEY=VALUE whose keys are not among these: of a tuple that is given twice,
    all values count.
    """
    return [w for w in overrides if w.removeprefix("--config.").split("=")[0] not in keys]
