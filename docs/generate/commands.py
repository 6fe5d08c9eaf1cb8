"""The pages of the commands: what each does, and its flags, as its own `--help` has them."""

import argparse
import dataclasses
import functools
import importlib
import itertools
import re
import warnings
from collections.abc import Iterator
from typing import Any

import tyro

from docs.generate.source import ROOT, cell, docstring_page, markdown, sentence
from phenomjax.__main__ import COMMANDS
from phenomjax.system import help_pages
from tests.kinds import offers

INTRO = """# Commands

`phenomjax COMMAND …` and `python -m phenomjax.COMMAND …` are the same. `--help` of each shows what
stands on its page here; both come from the same source. `--crop_size` and `--crop-size` are one
flag. A flag that takes several values takes them as words behind it. [Exit codes](exit-codes.md)
are the same for all, and the [errors](errors.md) have an index.

Every command also takes `--quiet`, which shows warnings, errors and results alone, and `--json`,
which ends with one JSON object on stdout (`exit_code`, `written`, `next`, an error, numbers) and
sends all else to stderr. `phenomjax --version` tells versions; `phenomjax --print-completion bash`
(or `zsh`, `fish`) prints what completes commands and flags in the shell. `main`, `preflight` and
what starts runs take any key of the [configuration](configuration.md) as `--config.KEY=VALUE`.

| command | what it does |
| --- | --- |
"""
# flags that are said once, above
EVERY = {"--help", *(f"--{field.name}" for field in dataclasses.fields(help_pages.Screen))}
WORDS = {"perturbations": "which perturbations weakly supervised models of images tell apart"}
# commands that are not in the list that `phenomjax --help` shows
MORE = {
    "probes.biotrainer": ("phenomjax.probes.biotrainer", "vectors for biotrainer's evaluations"),
}


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a command.

    Attributes:
      names: with their dashes; of a word without a flag, what stands for it.
      value: what stands behind it in the help; "" of a switch.
      help: what it is.
      default: as text; "" where it is required, or nothing by default.
      required: whether it must be given.
      group: heading in the help; "" of the first.
    """

    names: tuple[str, ...]
    value: str
    help: str
    default: str
    required: bool
    group: str


@functools.cache
def flags_of(kind: type[Any]) -> tuple[Flag, ...]:
    """The flags of a dataclass of options."""
    return tuple(_flags(_parser(kind)))


def _parser(kind: type[Any]) -> argparse.ArgumentParser:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return tyro.extras.get_parser(
            help_pages.shown(kind),
            use_underscores=True,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )


def _flags(parser: argparse.ArgumentParser) -> Iterator[Flag]:
    for group in parser._action_groups:
        for action in group._group_actions:
            if set(action.option_strings) & EVERY:
                continue
            words = " ".join((action.help or "").split())
            found = re.search(r" ?\((?:default: (.*)|required|optional)\)$", words)
            default = (found[1] or "") if found else ""
            metavar = action.metavar if isinstance(action.metavar, str) else ""
            title = group.title or ""
            yield Flag(
                names=tuple(action.option_strings) or (metavar or action.dest,),
                value=metavar if action.option_strings else "",
                help=words[: found.start()] if found else words,
                default="" if default in ("None", "''", "") else default,
                required=bool(action.required) or "(required)" in words,
                group="" if title in ("options", "positional arguments") else title,
            )


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line, or one of several of a command (`prepare images`).

    Attributes:
      name: its words behind `phenomjax`.
      what: what it does, in a line.
      page: its docstring.
      kinds: (kind, flags); several where the flags depend on one of them.
    """

    name: str
    what: str
    page: str
    kinds: tuple[tuple[str, tuple[Flag, ...]], ...]


@functools.cache
def commands() -> dict[str, tuple[Command, ...]]:
    """{command of `phenomjax`: it, or all that it has}."""
    return {name: tuple(_commands(name, *entry)) for name, entry in (COMMANDS | MORE).items()}


def _commands(name: str, module: str, what: str) -> Iterator[Command]:
    inner = importlib.import_module(_door(module))
    table = getattr(inner, "COMMANDS", {})
    for line, (place, kinds) in offers.programs().items():
        if line.split()[0] != module:
            continue
        word = line.removeprefix(module).strip()
        of_kinds = [(getattr(kind, "kind", "") if len(kinds) > 1 else "", kind) for kind in kinds]
        yield Command(
            f"{name} {word}".strip(),
            table[word][1] if word in table else WORDS.get(word, what),
            importlib.import_module(place).__doc__ or "",
            tuple((title, flags_of(kind)) for title, kind in of_kinds),
        )


def _door(module: str) -> str:
    return f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module


def index() -> str:
    """The page that leads to the others."""
    rows = []
    for name, own in commands().items():
        what = (COMMANDS | MORE)[name][1]
        rows.append(f"| [`{name}`](commands/{name}.md) | {markdown(what)} |")
        if len(own) > 1:
            rows += [
                f"| [`{one.name}`](commands/{name}.md#{_anchor(one)}) | {markdown(one.what)} |"
                for one in own
            ]
    return INTRO + "\n".join(rows) + "\n"


def _anchor(command: Command) -> str:
    return command.name.replace(" ", "-").replace(".", "-")


def page(name: str) -> str:
    """The page of a command of `phenomjax`."""
    own = commands()[name]
    module, what = (COMMANDS | MORE)[name]
    lines = [f"# {name}\n\n{sentence(what)}\n"]
    if len(own) > 1:
        told = importlib.import_module(_door(module)).__doc__ or ""
        lines.append(f"{docstring_page(told)}\n")
    for command in own:
        if len(own) > 1:
            lines.append(
                f"## {command.name} {{ #{_anchor(command)} }}\n\n{sentence(command.what)}\n"
            )
        lines.append(f"{docstring_page(command.page)}\n" if command.page else "")
        for kind, flags in command.kinds:
            if kind:
                lines.append(f"### `--kind {kind}`\n")
            for group, within in itertools.groupby(flags, key=lambda flag: flag.group):
                lines += [f"**{group.removesuffix(' options').capitalize()}**\n"] if group else []
                lines += ["| flag | what it is |", "| --- | --- |", *map(_row, within), ""]
    return "\n".join(lines)


def _row(flag: Flag) -> str:
    value = f" {flag.value}" if flag.value else ""
    names = [f"`{name}{'' if name.startswith('--no_') else value}`" for name in flag.names]
    told = "**Required.**" if flag.required else ""
    told = told or (f"Default `{flag.default}`." if flag.default not in ("", "False") else "")
    return f"| {cell(', '.join(names))} | {cell(f'{sentence(flag.help)} {told}'.strip())} |"
