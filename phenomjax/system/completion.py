"""Completion of `phenomjax` in a shell: commands, their flags and the words of these, made of the
same options that the commands read.
"""

import contextlib
import dataclasses
import functools
import importlib
import io
import operator
from collections.abc import Mapping
from typing import Annotated, Any

import tyro

from phenomjax.system import help_pages
from phenomjax.system.errors import UserError, did_you_mean

SHELLS = {  # where a script belongs
    "bash": "~/.local/share/bash-completion/completions/phenomjax",
    "zsh": "a folder of $fpath, named _phenomjax",
    "fish": "~/.config/fish/completions/phenomjax.fish",
}


def script(shell: str, commands: Mapping[str, tuple[str, str]]) -> str:
    """What a shell reads to complete `phenomjax`.

    Args:
      shell: bash, zsh or fish.
      commands: {name: (module, what it does)} of the program.

    Raises:
      UserError: another shell.
    """
    if shell not in SHELLS:
        raise UserError(
            f"There is no completion for '{shell}'.{did_you_mean(shell, SHELLS)} Give one of"
            f" {', '.join(SHELLS)}, and put what is printed into {SHELLS['bash']} (bash), into"
            f" {SHELLS['zsh']} (zsh), or into {SHELLS['fish']} (fish)."
        )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        tyro.cli(
            _one_of({name: _of_module(module, text) for name, (module, text) in commands.items()}),
            args=["--tyro-print-completion", shell],
            prog="phenomjax",
            use_underscores=True,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    return printed.getvalue()


def _of_module(name: str, text: str) -> Any:
    """The options of a command, or of the one of its commands that is chosen."""
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    if hasattr(module, "any_options"):  # they depend on its words
        return help_pages.shown(module.any_options()), text
    if hasattr(module, "COMMANDS"):
        chosen = _one_of({one: _of_module(*entry) for one, entry in module.COMMANDS.items()})
        return dataclasses.make_dataclass("Chosen", [("command", chosen)]), text
    return help_pages.shown(module.Options), text


def _one_of(kinds: Mapping[str, tuple[Any, str]]) -> Any:
    found = [
        Annotated[kind, tyro.conf.subcommand(name, description=text)]
        for name, (kind, text) in kinds.items()
    ]
    return functools.reduce(operator.or_, found)
