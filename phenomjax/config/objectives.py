"""What `config.task` names, and where its keys and its class stand.

An objective of ours is a file of the same name in two rooms: `phenomjax/config/NAME.py` holds its
keys, `phenomjax/tasks/NAME.py` its class, under the name `Objective`. One from outside is
`package.module:Objective`, a class in a module that holds the keys too. The keys of a module are
two functions: `add_sections(config)` adds `config.model` and `config.data` with all defaults,
`check(config)` raises a UserError for values that cannot be. VALIDATED, if it is there, names what
validation measures beside val/loss and can choose the best checkpoint.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

from ml_collections import ConfigDict

from phenomjax.system.errors import UserError, did_you_mean

ROOT = Path(__file__).parents[1]
OUTSIDE = "or package.module:Class, for one of your own"


class Keys(Protocol):
    """A module with the keys of an objective."""

    __name__: str

    def add_sections(self, config: ConfigDict, /) -> None:
        """Adds `config.model` and `config.data`, and may change other defaults."""

    def check(self, config: ConfigDict, /) -> None:
        """Raises UserError for values of `config.model` and `config.data` that cannot be."""


def known() -> tuple[str, ...]:
    """The objectives of ours: those with a file in both rooms."""
    keys, tasks = (
        {module.name for module in pkgutil.iter_modules([str(ROOT / room)])}
        for room in ("config", "tasks")
    )
    return tuple(sorted(keys & tasks))


def keys_of(task: str) -> Keys:
    """The module with the keys of an objective.

    Raises:
      UserError: there is no such objective, or its module has no keys.
    """
    if ":" not in task:
        _check_known(task)
        return cast(Keys, importlib.import_module(f"phenomjax.config.{task}"))
    module = _outside(task)
    missing = [f"{name}(config)" for name in _missing(module, ("add_sections", "check"))]
    if missing:
        raise UserError(
            f"config.task is '{task}', but {module.__name__} has no {' and no '.join(missing)}:"
            " its keys are not known. Write add_sections, which adds config.model and config.data"
            " with their defaults, and check, which raises UserError for values that cannot be, or"
            " import both, e.g. from phenomjax.config.mae."
        )
    return cast(Keys, module)


def class_of(task: str, members: Iterable[str]) -> type:
    """The class of an objective.

    Args:
      task: `config.task`.
      members: what it must have.

    Raises:
      UserError: there is no such class, or it lacks members.
    """
    if ":" not in task:
        _check_known(task)
        return importlib.import_module(f"phenomjax.tasks.{task}").Objective
    module, name = _outside(task), task.partition(":")[2]
    found = getattr(module, name, None)
    if not inspect.isclass(found):
        own = [each for each, _ in inspect.getmembers(module, inspect.isclass)]
        raise UserError(
            f"config.task is '{task}', but {module.__name__} has no class"
            f" '{name}'.{did_you_mean(name, own)} Its classes: {', '.join(own) or 'none'}."
        )
    missing = _missing(found, members)
    if missing:
        raise UserError(
            f"config.task is '{task}', but {name} lacks {', '.join(missing)}: it is no objective."
            " phenomjax/tasks/protocol.py says what each does."
        )
    return found


def _check_known(task: str) -> None:
    names = known()
    if task not in names:
        raise UserError(
            f"config.task is '{task}'.{did_you_mean(task, names)} It can be {', '.join(names)},"
            f" {OUTSIDE}."
        )


def _missing(owner: ModuleType | type, names: Iterable[str]) -> list[str]:
    return [name for name in names if not hasattr(owner, name)]


def _outside(task: str) -> ModuleType:
    """Imports the module of `package.module:Class`."""
    name = task.partition(":")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise UserError(
                f"config.task is '{task}', but there is no module {error.name}. It is looked for"
                " where Python imports from: install it, start from the folder that holds it with"
                " `python -m phenomjax.main`, or add that folder to PYTHONPATH."
            ) from None
        raise UserError(
            f"config.task is '{task}', and importing {name} failed: {error}. Install what it needs."
        ) from error
    except ValueError:  # an empty name
        raise UserError(
            f"config.task is '{task}', which names no module: write package.module:Class."
        ) from None
