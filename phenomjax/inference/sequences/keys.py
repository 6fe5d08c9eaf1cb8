"""Keys of arrays in files that find them by name (HDF5, NPZ): no two records share one."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from phenomjax.system import files

# What a name cannot hold: HDF5 takes "/" for a group, and a NUL ends a name in both
_FORBIDDEN = {"hdf5": "/\0", "npz": "\0"}


def of_names(names: Sequence[str], kind: str) -> list[str]:
    """A key for each record, made of its id.

    An id that is a key already is the key of the first record that has it. Of every other record
    the forbidden signs become "_", and a number is added where the key is that of another.

    Args:
      names: ids, which may repeat.
      kind: "hdf5" or "npz".
    """
    table = str.maketrans(dict.fromkeys(_FORBIDDEN[kind], "_"))
    plain = [_plain(name.translate(table)) for name in names]
    taken = {name for name, key in zip(names, plain, strict=True) if name == key}
    free, numbers, found = set(taken), dict[str, int](), list[str]()
    for name, key in zip(names, plain, strict=True):
        if name == key and key in free:
            free.remove(key)
            found.append(key)
            continue
        candidate, number = key, numbers.get(key, 1)
        while candidate in taken:
            number += 1
            candidate = f"{key}_{number}"
        numbers[key] = number
        taken.add(candidate)
        found.append(candidate)
    return found


def _plain(key: str) -> str:
    """A key that is none of HDF5's words for the present group."""
    return key if key.strip(".") else key.replace(".", "_") or "_"


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    files.write_text(path, text.getvalue())
