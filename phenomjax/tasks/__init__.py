"""Pretraining objectives.

A task is a handful of pure functions; nothing else in the program knows which one is running. What
it must have says protocol.py; each has a file here and its keys in a file of the same name in
phenomjax/config.
"""

from pathlib import Path
from typing import cast

from ml_collections import ConfigDict

from phenomjax.config import objectives
from phenomjax.tasks.protocol import MEMBERS, Loader, Task, means, reading

__all__ = ["Loader", "Task", "make", "means", "reading", "resolve"]


def resolve(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Completes a finalized config with what its data say."""
    objective = cast(type[Task], objectives.class_of(config.task, MEMBERS))
    return objective.resolve(config, workdir)


def make(config: ConfigDict) -> Task:
    """The task of a resolved config."""
    objective = cast(type[Task], objectives.class_of(config.task, MEMBERS))
    return objective(config)
