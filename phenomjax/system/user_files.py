"""Python files of users, FILE or FILE:ARG: an experiment, a search space, a suite. What is wrong in
them is told with its line.
"""

import functools
import importlib.machinery
import importlib.util
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import phenomjax
from phenomjax.system.errors import UserError, did_you_mean, first_of

log = logging.getLogger("phenomjax")
SHIPPED = "configs"  # a folder of the repository that every installation has, too


def split(spec: str) -> tuple[str, str | None]:
    """FILE and ARG of a word; None without a colon."""
    if Path(spec).is_file():  # its name may hold one
        return spec, None
    name, colon, arg = spec.partition(":")
    return name, arg if colon else None


def expanded(text: str) -> str:
    """A path that begins with the home folder (`~/runs`, `~you/runs`) in full: the shell leaves
    the `~` of --flag=~/runs as it is. Any other text stays.
    """
    return os.path.expanduser(text) if text.startswith("~") else text


def at_step(text: str) -> tuple[str, int | None]:
    """WORKDIR and STEP of WORKDIR@STEP; any other text and None."""
    workdir, _, step = text.rpartition("@")
    return (workdir, int(step)) if workdir and step.isdecimal() else (text, None)


def same_path(one: str, other: str) -> bool:
    """Whether two paths are spellings of the same file or folder; of the store's, the same URL."""
    one, other = one.rstrip("/"), other.rstrip("/")
    if one == other or "://" in one + other or not (one and other):
        return one == other
    return os.path.realpath(expanded(one)) == os.path.realpath(expanded(other))


def shipped(path: Path) -> Path:
    """Where `configs/…` lies that came with phenomjax: in the package where that was installed from
    a wheel, else beside it. Of other paths themselves.
    """
    package = Path(phenomjax.__file__).parent
    if path.parts[:1] != (SHIPPED,):
        return path
    return (package if (package / SHIPPED).is_dir() else package.parent) / path


@functools.cache
def _say(name: Path, path: Path) -> None:
    """Says once that a file is not that of the working folder."""
    log.info("%s: not in this folder, so the one that came with phenomjax, %s", name, path)


class UserFile:
    """A file that was run. `configs/…` that the working folder has not is the one that came with
    phenomjax.

    Args:
      spec: FILE or FILE:ARG.
      what: it is called in errors ("experiment").
      explain: a better text for an error that the file raised, or None.

    Raises:
      UserError: there is no such file, or it cannot be run.
    """

    def __init__(
        self, spec: str, what: str, explain: Callable[[Exception], str | None] = lambda _: None
    ):
        self.spec, self.what, self._explain = spec, what, explain
        name, self.arg = split(spec)
        self.path = Path(expanded(name))
        if not self.path.exists() and (ours := shipped(self.path)).is_file():
            _say(self.path, ours)
            self.path = ours
        if not self.path.exists() or self.path.is_dir():
            raise UserError(self._missing())
        self._module = self._run(self._load)

    def _missing(self) -> str:
        """What to say where there is no such file."""
        if "://" in self.spec:
            return f"{self.spec} is an address: copy the {self.what}, and give its file."
        if self.path.is_dir():
            near = sorted(str(path) for path in self.path.glob("*.py"))
            ours = self.path / "config.json"
            there = f"Give one of {first_of(near)}." if near else "Give a file."
            if ours.is_file():
                there = f"The configuration of that run is {ours}."
            return f"{self.path} is a folder, and a file is wanted for the {self.what}. {there}"
        folders = self.path.parent, shipped(self.path).parent
        near = sorted({str(folders[0] / path.name) for one in folders for path in one.glob("*.py")})
        there = f"There are {first_of(near)}." if near else f"Looked in {Path.cwd()}."
        close = did_you_mean(str(self.path), near)
        return f"The {self.what} {self.path} does not exist.{close} {there} Give FILE or FILE:ARG."

    def _load(self) -> ModuleType:
        name = f"{self.what.replace(' ', '_')}_{self.path.stem}"
        loader = importlib.machinery.SourceFileLoader(name, str(self.path))
        described = importlib.util.spec_from_loader(name, loader)
        assert described
        module = sys.modules[name] = importlib.util.module_from_spec(described)
        loader.exec_module(module)
        return module

    def _run(self, code: Callable[[], Any]) -> Any:
        """What some code of the file returns.

        Raises:
          UserError: its own, or of whatever else it raised.
        """
        try:
            return code()
        except UserError:
            raise
        except Exception as error:  # whatever a user's file may raise
            lines = [
                frame.lineno
                for frame in traceback.extract_tb(error.__traceback__)
                if Path(frame.filename) == self.path
            ]
            if isinstance(error, SyntaxError) and error.filename == str(self.path):
                lines.append(error.lineno)
            where = f"{self.path}, line {lines[-1]}" if lines else str(self.path)
            text = error.msg if isinstance(error, SyntaxError) else error
            if isinstance(error, KeyError) and error.args:  # its text is quoted
                text = error.args[0]
            told = self._explain(error) or (
                f"the {self.what} {self.spec} cannot be read: {type(error).__name__}:"
                f" {' '.join(str(text).split()).rstrip('.')}. Correct the file."
            )
            raise UserError(f"{where}: {told}") from error

    def has(self, function: str) -> bool:
        """Whether the file defines a function."""
        return callable(getattr(self._module, function, None))

    def call(self, function: str, arg_is_others: bool = False) -> Any:
        """What a function of the file returns, for ARG where one is given.

        Args:
          function: its name.
          arg_is_others: ARG may be meant for another function of the file.

        Raises:
          UserError: it is not there, takes no ARG or wants one, or fails.
        """
        if not self.has(function):
            raise UserError(
                f"{self.path} has no function {function}()."
                f"{did_you_mean(function, vars(self._module))} A file of this kind returns its"
                f" {self.what} there."
            )
        code = getattr(self._module, function)
        parameters = inspect.signature(code).parameters.values()
        given = [] if self.arg is None or (arg_is_others and not parameters) else [self.arg]
        wanted = [p for p in parameters if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
        if given and not parameters:
            raise UserError(
                f"{self.path} takes no argument, and '{self.arg}' stands behind the colon of"
                f" '{self.spec}'. Give {self.path} alone."
            )
        if len(wanted) > len(given):
            raise UserError(
                f"{self.path} wants an argument ({wanted[0].name}): give it as"
                f" {self.path}:{wanted[0].name.upper()}."
            )
        return self._run(lambda: code(*given))
