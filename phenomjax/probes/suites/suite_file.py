"""Reads the file of an evaluation suite, and tells what is wrong with it."""

import dataclasses
import importlib.util
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

from phenomjax.probes.suites import suite as suite_lib
from phenomjax.probes.suites.suite import BASELINES, HEADS, KINDS, Mutations, Suite, Task
from phenomjax.system.errors import UserError, did_you_mean

SPLITS = ("given", "hash", "cluster", "scaffold")
ALPHABETS = ("protein", "smiles")


def load(spec: str, data: str = "") -> Suite:
    """Calls `get_config` of a suite file.

    Args:
      spec: FILE or FILE:ARG.
      data: folder of the data instead of the suite's; "" = the suite's.

    Raises:
      UserError: the file is missing or wrong; names the place, the key and those that are known.
    """
    name, colon, arg = spec.partition(":")
    path = Path(name)
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.py"))
        there = (
            f" There are {', '.join(near)}." if near else f" Looked in {path.parent.absolute()}."
        )
        raise UserError(
            f"The suite {name} does not exist.{did_you_mean(name, near)}{there} Give FILE or"
            " FILE:ARG, e.g. configs/eval/protein.py:quick."
        )
    try:
        found = _call(path, [arg] if colon else [])
    except UserError:
        raise
    except Exception as error:  # whatever a user's file may raise
        raise UserError(_told(path, spec, error)) from error
    if not isinstance(found, Suite):
        raise UserError(
            f"get_config of {name} returned a {type(found).__name__}; it must return a"
            " phenomjax.probes.suites.suite.Suite."
        )
    for key, entry in found.tasks.items():
        _check(f"The suite {name}, task '{key}'", entry)
    return dataclasses.replace(found, data=data) if data else found


def _call(path: Path, arguments: list[str]) -> object:
    """What `get_config` of a file returns."""
    described = importlib.util.spec_from_file_location(f"suite_{path.stem}", path)
    assert described and described.loader  # it ends in .py, or Python would not know how to read it
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(
            f"{path} has no function get_config(arg='').{did_you_mean('get_config', vars(module))}"
            " A suite file returns its Suite there."
        )
    return module.get_config(*arguments)


def _told(path: Path, spec: str, error: Exception) -> str:
    """What is wrong with a file that raised something."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == path
    ]
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename) == path:
        lines.append(error.lineno)
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    text = " ".join(str(error).split()).rstrip(".")
    wrong = re.match(
        r"(\w+)\.__init__\(\) (?:got an unexpected keyword argument '(\w+)'|missing)", text
    )
    entry = getattr(suite_lib, wrong[1], None) if wrong else None
    if wrong and dataclasses.is_dataclass(entry):
        known = [field.name for field in dataclasses.fields(entry)]
        what = (
            f"{wrong[1]} has no key '{wrong[2]}'.{did_you_mean(wrong[2], known)}"
            if wrong[2]
            else f"{text.replace('.__init__()', ' is')}."
        )
        return (
            f"{where}: {what} Keys of {wrong[1]}: {', '.join(known)}. What they mean stands in"
            " phenomjax/probes/suites/suite.py."
        )
    return (
        f"{where}: the suite {spec} cannot be read: {type(error).__name__}: {text}. Correct the"
        " file."
    )


def _check(where: str, entry: object) -> None:
    """Raises UserError for a name in an entry that nothing has."""
    if isinstance(entry, Mutations):
        return
    if not isinstance(entry, Task):
        raise UserError(
            f"{where} is a {type(entry).__name__}; it must be a Task or Mutations of"
            " phenomjax.probes.suites.suite."
        )
    if not entry.sources or not entry.labels:
        raise UserError(
            f"{where} has no {'labels' if entry.sources else 'sources'}, so there is nothing to"
            " learn. Give at least one."
        )
    _known(where, "alphabet", [entry.alphabet], ALPHABETS)
    _known(where, "heads", entry.heads, HEADS)
    _known(where, "baselines", entry.baselines, BASELINES)
    _known(where, "split.by", [entry.split.by], SPLITS)
    for name, label in entry.labels.items():
        _known(f"{where}, label '{name}'", "kind", [label.kind], KINDS)


def _known(where: str, key: str, values: Iterable[str], known: Iterable[str]) -> None:
    if isinstance(values, str):
        raise UserError(
            f"{where}: {key} is the text '{values}' where names are listed. Write ('{values}',)."
        )
    for value in values:
        if value not in known:
            raise UserError(
                f"{where}: {key} has '{value}'.{did_you_mean(value, known)} It can be"
                f" {', '.join(known)}."
            )
