"""Commands and their options: a frozen dataclass each, whose fields are the flags, the help, the
record in the output, and what an earlier run is compared with. Every command also has the flags of
`help_pages.Screen`, --quiet and --json, without a field for them.

A field's docstring (the string below it) is its help. Parsing is tyro's: `--crop_size` and
`--crop-size` are one flag, a tuple takes several words, `tyro.conf.Positional[str]` has no flag,
`Annotated[Path, tyro.conf.arg(metavar="DIR")]` another word in the help, a mistyped flag gets its
nearest.

A class may look at the words before they are parsed, for mistakes that it can explain better:
`check_words(words)`.

A command that reads a configuration has a field `overrides`, hidden from its help: the words
`--config.KEY=VALUE` of its command line go there as they are.

Below the door nobody sees a dash: an error or a log line of a library names a setting in backquotes
(`crop_size`), and the door makes a flag of it.
"""

import contextlib
import dataclasses
import functools
import importlib
import io
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import tyro

from phenomjax.system import ending, help_pages, mistakes, outputs
from phenomjax.system.errors import EXIT_DONE, UserError, did_you_mean
from phenomjax.system.log import log_to_stderr
from phenomjax.system.user_files import expanded

SUM = "_sha256"  # of a record: what is in the file that the setting before it names
Options = TypeVar("Options")


def unrecorded(default: Any) -> Any:
    """A field that the result does not depend on (devices, threads, where caches lie): neither
    recorded nor compared with an earlier run.
    """
    return dataclasses.field(default=default, metadata={"decides": False})


def parse(kind: type[Options], argv: Sequence[str], prog: str, page: str) -> Options:
    """Options from the words of a command line; ends the program with 0 after --help.

    Args:
      kind: a frozen dataclass.
      argv: words behind the program's name.
      prog: how the program is called, for the help.
      page: what it does, for the help.

    Raises:
      UserError: a flag that there is not, a value that it does not take, one that is missing; a
        seed below 0, which no generator of random numbers takes; `--config.KEY` without its value.
    """
    return _parsed(kind, argv, prog, page)[0]


def _parsed(
    kind: type[Options], argv: Sequence[str], prog: str, page: str
) -> tuple[Options, help_pages.Screen]:
    fields = cast(type[Any], kind).__dataclass_fields__
    getattr(kind, "check_words", lambda _: None)(argv)
    overrides = list[str]()
    if "overrides" in fields:
        overrides = [word for word in argv if word.startswith("--config.")]
        argv = [word for word in argv if word not in overrides]
        for word in overrides:
            if "=" not in word:
                raise UserError(
                    f"'{word}' is not an option. Values of all runs are given as"
                    " --config.KEY=VALUE."
                )
    _check_values(kind, argv)
    if {"-h", "--help"} & set(argv):
        print(help_pages.page_of(page), end="\n\n")
    # tyro asks only whether stdout is a terminal
    tyro._experimental_options["ansi_codes"] = help_pages.coloured()
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            found = tyro.cli(
                help_pages.shown(kind),
                args=_words(kind, argv),
                prog=prog,
                description="",
                use_underscores=True,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as end:
        if end.code and (text := mistakes.explained(told.getvalue(), kind, argv, prog)):
            raise UserError(text) from None
        print(told.getvalue(), end="", file=sys.stderr)
        raise
    values, screen = help_pages.apart(found)
    if overrides:
        values["overrides"] = tuple(overrides)
    seed = values.get("seed", 0)
    if isinstance(seed, int) and seed < 0:
        raise UserError(f"The seed is {seed}; it must be 0 or more.")
    return kind(**values), screen


def _check_values(kind: type[Any], argv: Sequence[str]) -> None:
    """Raises UserError for a switch with a value, a path of no letters (of a variable of the shell
    that is not set), and a word of dashes alone.
    """
    flags = mistakes.flag_names(kind)
    paths = {
        flag
        for flag, one in flags.items()
        if one.field.default != "" and re.search(r"Path|metavar='(DIR|FILE|PATH)", str(one.hint))
    }
    switches = {flag for flag, one in flags.items() if one.hint is bool}
    switches |= {*mistakes.flag_names(help_pages.Screen)}
    for word, behind in itertools.zip_longest(argv, argv[1:]):
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            continue
        flag = name[2:].replace("-", "_")
        if not flag:
            raise UserError(f"'{word}' is no flag: leave it out.")
        if flag in switches and equals:
            raise UserError(f"--{flag} takes no value: give --{flag} alone, or leave it out.")
        if "\0" in word + (behind or ""):
            raise UserError(f"--{flag} holds the sign NUL, which cannot be read: leave it out.")
        if (value if equals else behind) == "" and flag in paths:
            raise UserError(f"--{flag} is empty: give a path. Is a variable of the shell not set?")


def _words(kind: type[Any], argv: Sequence[str]) -> list[str]:
    """A command line as tyro understands it: a text with a space is a value though it begins with
    a dash (`--sbatch "--time=60 --mem=0"`), and of an unknown `--nmae=1` it finds the nearest only
    if the value is a word of its own. A `~` that the shell left becomes the home folder.
    """
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    words, known = list[str](), {field.name for field in fields} | {"quiet", "json"}
    for word in argv:
        name, equals, value = word.partition("=")
        value = expanded(value)
        word = f"{name}={value}" if equals and word.startswith("--") else expanded(word)
        if words and re.match(r"-.* ", word) and re.fullmatch(r"--[\w-]+", words[-1]):
            words[-1] += f"={word}"
        elif equals and name.startswith("--") and name[2:].replace("-", "_") not in known:
            words += [name, value]
        else:
            words.append(word)
    return words


def recorded(options: Any) -> dict[str, Any]:
    """What a result records of its options, as JSON has it: all that decide it."""
    fields = [field for field in dataclasses.fields(options) if field.metadata.get("decides", True)]
    return {field.name: _plain(getattr(options, field.name)) for field in fields}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], words: Mapping[str, str] | None = None
) -> list[str]:
    """ "`name` was 1, is now 2" for each setting in which two records differ; or what `words` calls
    a setting whose values say nothing.
    """
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    names = [name for name in names if name.removesuffix(SUM) not in {*names} - {name}]
    words = words or {}

    def said(name: str) -> str:
        if name.endswith(SUM):
            return f"the content of `{name.removesuffix(SUM)}` is not what it was"
        return f"`{name}` was {_typed(before.get(name))}, is now {_typed(now.get(name))}"

    return [words.get(name) or said(name) for name in names]


def _typed(value: Any) -> Any:
    """A value as a user types it: the words of a list, not Python's."""
    if value is None:
        return "not given"
    if isinstance(value, list | tuple):
        return " ".join(str(one) for one in value) or "nothing"
    return value


def run_command(
    kind: type[Options],
    run: Callable[[Options], int | None],
    prog: str,
    page: str,
    argv: Sequence[str] | None = None,
) -> int | None:
    """Reads the options of a command and runs it.

    Raises:
      UserError: of `run`, its settings written as flags.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    with ending.told(prog.removeprefix("python -m "), "--json" in words) as told:
        options, screen = _parsed(kind, words, prog, page)
        flags = {one.field.name: flag for flag, one in mistakes.flag_names(kind).items()}
        spelt = functools.partial(help_pages.with_flags, names=flags)
        log_to_stderr(screen.quiet, spelt)
        try:
            outputs.check(options)
            code = run(options)
        except UserError as error:
            raise UserError(spelt(str(error)), error.exit_code) from error
        except OSError as error:
            if (mistake := outputs.told(error)) is None:
                raise
            raise mistake from error
        told.exit_code = code or EXIT_DONE
    return code


def run_chosen(
    commands: Mapping[str, tuple[str, str]], prog: str, page: str, argv: Sequence[str] | None = None
) -> int | None:
    """Runs one of several commands; only its module is imported.

    Args:
      commands: {name: (module with `Options` and `run(options)`, one line of help)}.
      prog: how the program is called.
      page: what it does, for the help.
      argv: words behind the program's name; those of this process if None.

    Raises:
      UserError: no such command; or of the command.
    """
    name, *words = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help"):
        texts = {one: text for one, (_, text) in commands.items()}
        print(help_pages.commands_page(f"{prog} COMMAND …", page, texts))
        print(f"\n{prog} COMMAND --help says more.")
        return EXIT_DONE
    if name not in commands:
        there = ", ".join(commands)
        if name.startswith("-"):
            raise UserError(
                f"Flags stand behind the command: {prog} COMMAND {name}. It has {there}."
            )
        raise UserError(
            f"{prog} has no command '{name}'.{did_you_mean(name, commands)} It has {there}."
        )
    module = importlib.import_module(commands[name][0])
    return run_command(module.Options, module.run, f"{prog} {name}", module.__doc__ or "", words)
