"""The JSON of Zarr folders that others wrote: read so that no oddity of it ends in a traceback.

It is read here and not through a library of models: those that there are (ome-zarr-models,
ngff-zarr) bring zarr-python, pydantic or Dask, take NGFF 0.4 and 0.5 to the letter, and refuse a
plate whole; what labs have is older, or differs in a key, and its good wells are wanted.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from phenomjax.data import store
from phenomjax.system.errors import UserError


def read_object(file: Path) -> dict[str, object]:
    """The object that a file of JSON holds.

    Raises:
      UserError: it cannot be read, is no UTF-8, no JSON, or no object.
    """
    try:
        content = json.loads(store.read_bytes(file).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 text (byte {error.start}): it is damaged. Copy it again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is not valid JSON ({error}): it is damaged. Copy it again."
        ) from error
    except OSError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{file} cannot be read ({error.strerror}). Allow it to be read, or copy it again."
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{file} holds {_kind(content)} where Zarr has an object {{...}}: it is damaged, or no"
            " file of Zarr. Copy it again."
        )
    return content


def attributes(folder: Path) -> Mapping[str, object]:
    """The OME attributes of a Zarr group, {} for anything else.

    Raises:
      UserError: its metadata is damaged.
    """
    for name in ("zarr.json", ".zattrs"):
        file = folder / name
        if not store.is_file(file):
            continue
        content = read_object(file)
        found = content if name == ".zattrs" else as_map(content.get("attributes"))
        if found:
            return as_map(found.get("ome")) or found
    return {}


def attributes_or_none(folder: Path) -> Mapping[str, object]:
    """The same; {} too where its metadata is damaged."""
    try:
        return attributes(folder)
    except UserError:
        return {}


def as_map(value: object) -> dict[str, object]:
    """An object of JSON; {} for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[object]:
    """A list of JSON; [] for anything else."""
    return value if isinstance(value, list) else []


def as_whole(value: object) -> int | None:
    """A whole number, also one that is written as text or as 3.0; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return int(value)
    return None


def as_number(value: object) -> float | None:
    """A finite number, also one that is written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_text(value: object) -> str | None:
    """A text or a number as a text without blanks around it; None for anything else or nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    # JSON can spell halves of characters, which no file or table can hold
    return str(value).encode("utf-8", "backslashreplace").decode().strip() or None


def _kind(value: object) -> str:
    names = {list: "a list", str: "a text", type(None): "null", bool: "true or false"}
    return names.get(type(value), "a number")
