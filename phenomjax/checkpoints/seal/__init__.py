"""SHA-256 of every file of a checkpoint, so that a damaged one is never trained on: `cd STEP &&
sha256sum -c SHA256SUMS.*`.

Process i of n hashes every n-th file of the sorted list and writes SHA256SUMS.iii-of-nnn; with all
n of them the checkpoint is *sealed*. The size of a file needs no column of its own: content of
another length has another digest.

`python -m phenomjax.checkpoints.seal STEP` (__main__.py) seals a checkpoint that has none.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from phenomjax.system.files import PARTIAL, sha256, write_text

SUMS = re.compile(r"SHA256SUMS\.(\d{3,})-of-(\d{3,})")
LINE = re.compile(r"([0-9a-f]{64})  ([^\n\\]+)\n")


def listing(folder: Path) -> list[str]:
    """Sorted names, relative to the folder, of all files in it but the digests, which other
    processes are writing meanwhile.

    Raises:
      OSError: the folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    names = []
    for place, _, files in os.walk(folder, onerror=fail):
        prefix = Path(place).relative_to(folder)
        names += [(prefix / name).as_posix() for name in files if not name.startswith(PARTIAL)]
    return sorted(name for name in names if not SUMS.fullmatch(name))


def write_share(folder: Path, index: int = 0, count: int = 1) -> None:
    """Hashes every `count`-th file and writes their digests.

    Args:
      folder: a committed checkpoint.
      index: which of the processes this is.
      count: number of processes.
    """
    names = listing(folder)[index::count]
    lines = [f"{sha256(folder / name, flush=True)}  {name}\n" for name in names]
    write_text(folder / f"SHA256SUMS.{index:03d}-of-{count:03d}", "".join(lines), flush=True)


def sealed(folder: Path) -> bool:
    """Whether the digests of all processes are there (not whether they are right)."""
    return not shares(folder)[1]


def shares(folder: Path) -> tuple[list[Path], list[str]]:
    """The files of digests, one a process, and what is wrong with their number."""
    found = (
        {p: m for p in sorted(folder.iterdir()) if (m := SUMS.fullmatch(p.name))}
        if folder.is_dir()
        else {}
    )
    counts = sorted({int(m[2]) for m in found.values()})
    have = {int(m[1]) for m in found.values()}
    if not found:
        return [], ["it has no digests (no file SHA256SUMS.*)"]
    if len(counts) > 1:
        return list(found), [f"it has the digests of {' and of '.join(map(str, counts))} processes"]
    missing = [f"SHA256SUMS.{i:03d}-of-{counts[0]:03d}" for i in range(counts[0]) if i not in have]
    if missing or len(found) != counts[0]:
        return list(found), [f"its digests {', '.join(missing)} are missing"]
    return list(found), []


def structure(folder: Path, items: Sequence[str] = ()) -> tuple[dict[str, str], list[str]]:
    """Compares names only.

    Args:
      folder: a checkpoint.
      items: only files below these folders count; () for all.

    Returns:
      (digests of the files that are there, by name; what is wrong: missing and extra files, lost or
      torn digests).
    """
    try:
        written, wrong = shares(folder)
        there = set(listing(folder))
    except OSError as error:
        return {}, [f"it cannot be read ({error.strerror or error})"]
    sums: dict[str, str] = {}
    for path in written:
        try:
            text = path.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            wrong.append(f"{path.name} cannot be read ({error})")
            continue
        pairs = LINE.findall(text)
        if "".join(f"{digest}  {name}\n" for digest, name in pairs) != text or len(pairs) != len(
            {name for _, name in pairs} - sums.keys()
        ):
            wrong.append(f"{path.name} is not as it was written")
        sums |= {name: digest for digest, name in pairs}
    mine = lambda name: not items or name.split("/")[0] in items  # noqa: E731
    wrong += [f"{name} is missing" for name in sorted(sums.keys() - there) if mine(name)]
    wrong += [f"{name} is extra" for name in sorted(there - sums.keys()) if mine(name)]
    return {name: digest for name, digest in sums.items() if mine(name) and name in there}, wrong


def damage(folder: Path, index: int = 0, count: int = 1, items: Sequence[str] = ()) -> list[str]:
    """What is wrong with a checkpoint; [] for a good one.

    Args:
      folder: a checkpoint.
      index: which of the processes that look this is: each hashes every `count`-th file.
      count: how many look.
      items: only files below these folders count; () for all.
    """
    sums, wrong = structure(folder, items)
    for name in sorted(sums)[index::count]:
        try:
            if sha256(folder / name) != sums[name]:
                wrong.append(f"{name} is not as it was written")
        except OSError as error:
            wrong.append(f"{name} cannot be read ({error.strerror or error})")
    return wrong
