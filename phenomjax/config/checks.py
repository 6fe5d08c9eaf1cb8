"""Checks of single keys, each with the mend in its message."""

import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from phenomjax.data import store
from phenomjax.system.errors import UserError


def divides_batch(config: ConfigDict, key: str) -> None:
    """Checks that a dotted key divides the batch, also where a ramp makes it larger."""
    value = flatten(config)[key]
    sizes = [("global_batch_size", config.global_batch_size)]
    sizes += [("batch_ramp: a batch of", rows) for _, rows in config.batch_ramp]
    for name, rows in sizes:
        if rows % value:
            most = max(each for each in range(1, value) if not rows % each)
            raise UserError(
                f"config.{name} {rows} is not a multiple of config.{key} {value}. Set"
                f" --config.{key}={most}, or other numbers of rows."
            )


def check_banks(config: ConfigDict, simulated: int, command: str, simulate: str) -> None:
    """Checks that there are banks to read, or a simulation to make one (`simulated` > 0); the
    commands of `prepare` mend it.
    """
    if not config.data.banks and not simulated:
        raise UserError(
            "config.data.banks is empty: there is nothing to train on. Make a bank with `python -m"
            f" phenomjax.prepare {command.split()[0]}` (or `{simulate}`) and give it with"
            " --config.data.banks=\"('bank.zarr',)\"."
        )
    named = list(map(str, config.data.banks))
    whole = [bank if "://" in bank else os.path.realpath(bank) for bank in named]
    if twice := next((bank for bank in whole if whole.count(bank) > 1), ""):
        raise UserError(
            f"config.data.banks names {twice} {whole.count(twice)} times, so all that it holds"
            " would be there as often. Name it once, and give it a larger share with"
            " --config.data.weights."
        )
    if store.is_remote(config.data.cache):
        raise UserError(
            f"config.data.cache is '{config.data.cache}'; it must be a folder on a local disk."
        )
    for path in config.data.banks:
        index = Path(path).suffix == ".parquet" and store.is_file(path)  # of image banks
        if not index and not store.is_dir(path):
            raise UserError(
                f"config.data.banks names {path}, which does not exist.{store.beside(path)} Make"
                f" it with `python -m phenomjax.prepare {command} --out {path}`, or correct the"
                " path."
            )


def check_selection(config: ConfigDict) -> None:
    """Checks that the selection is a file, where one is named, and that there is something in the
    subset.
    """
    path = config.data.selection
    if path and not store.is_file(path):
        what = "is a folder; a bank goes into" if store.is_dir(path) else "does not exist"
        mend = (
            " --config.data.banks."
            if store.is_dir(path)
            else ". Make it with `python -m phenomjax.prepare subset --bank BANK --where CONDITION"
            f" --out {path}`, or correct the path."
        )
        raise UserError(f"config.data.selection names {path}, which {what}{mend}")


def flatten(config: ConfigDict | dict, prefix: str = "") -> dict[str, Any]:
    """Returns {"model.depth": 12, ...} with lists as tuples."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = _tuples(value)
    return flat


def _tuples(value: Any) -> Any:
    """Lists, also within lists, as tuples: JSON knows no others."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
