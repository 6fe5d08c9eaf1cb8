"""Reads the file of an evaluation suite, and tells what is wrong with it."""

import dataclasses
import re
from collections.abc import Iterable

from phenomjax.probes.suites import suite as suite_lib
from phenomjax.probes.suites.suite import BASELINES, HEADS, KINDS, Mutations, Suite, Task
from phenomjax.system.errors import UserError, did_you_mean
from phenomjax.system.user_files import UserFile

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
    file = UserFile(spec, "suite", _told)
    found = file.call("get_config")
    if not isinstance(found, Suite):
        raise UserError(
            f"get_config of {file.path} returned a {type(found).__name__}; it must return a"
            " phenomjax.probes.suites.suite.Suite."
        )
    for key, entry in found.tasks.items():
        _check(f"The suite {file.path}, task '{key}'", entry)
    return dataclasses.replace(found, data=data) if data else found


def _told(error: Exception) -> str | None:
    """What is wrong with a file that gives an entry a key that it has not."""
    text = " ".join(str(error).split()).rstrip(".")
    wrong = re.match(
        r"(\w+)\.__init__\(\) (?:got an unexpected keyword argument '(\w+)'|missing)", text
    )
    entry = getattr(suite_lib, wrong[1], None) if wrong else None
    if not wrong or not dataclasses.is_dataclass(entry):
        return None
    known = [field.name for field in dataclasses.fields(entry)]
    what = (
        f"{wrong[1]} has no key '{wrong[2]}'.{did_you_mean(wrong[2], known)}"
        if wrong[2]
        else f"{text.replace('.__init__()', ' is')}."
    )
    return (
        f"{what} Keys of {wrong[1]}: {', '.join(known)}. What they mean stands in"
        " phenomjax/probes/suites/suite.py."
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
