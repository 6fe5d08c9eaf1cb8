"""A bank while it grows in OUT/.prepare, for one set of arguments; whether it is finished; and
whether the files that it is made of have changed since.

Sources are known by content: their sha256 is in the bank. It is compared where size or date differ,
or on request.
"""

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from phenomjax.data import store
from phenomjax.data.zarr_files import NAME, UNFINISHED
from phenomjax.engine import work_folder
from phenomjax.system import files, locks
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
# what decides the content of a bank, by name, as it is recorded in it
Arguments = dict[str, Any]
# what is listed beside a bank; all that is left where nothing could go into it
LISTS = {"rejected.parquet", "left_out.parquet", "in_no_cluster.parquet", "remarks.parquet"}
SOURCES = "sources"  # the stamps, among the arguments that a bank records
DATES = "sources.json"  # beside them in the bank: {path: date}, so that little is read again
OLDER = "arguments.json"  # what an older phenomjax began work with
_OLDER = re.compile(r"(.*) \((\d+) bytes\)")  # how sources were recorded before their content was


def name(path: Path) -> str:
    """A source as it is recorded: whole, and in a store with its scheme."""
    return store.url(path) if store.is_remote(path) else str(path.resolve())


@dataclass(frozen=True)
class Stamp:
    """What is known of a file that a bank is made of.

    Attributes:
      path: where it is, whole.
      bytes: its size.
      modified_ns: its date.
      sha256: of its content; "" where it was not read yet, or an older phenomjax recorded none.
    """

    path: str
    bytes: int
    modified_ns: int = 0
    sha256: str = ""

    @classmethod
    def of(cls, path: Path, sha256: str = "") -> "Stamp":
        """The stamp of a file that is there."""
        return cls(name(path), store.size(path), store.modified_ns(path), sha256)

    def dated(self) -> tuple[str, int, int]:
        """All but the content."""
        return self.path, self.bytes, self.modified_ns

    def to_json(self) -> dict[str, str | int]:
        """All of it, as JSON has it."""
        return asdict(self)

    def recorded(self) -> dict[str, str | int]:
        """As a bank records it: without the date, which says nothing of the bank."""
        return {name: value for name, value in asdict(self).items() if name != "modified_ns"}


def changed(before: Sequence[Stamp], verify: bool = False) -> list[str]:
    """What has happened to files since they were stamped: "NAME (what differs)" of each that is
    another one now.

    A file of the same size and date counts as the same. Where they differ, or with `verify`, the
    content is read and compared.

    Args:
      before: their stamps.
      verify: read all of them.
    """
    return [f"{stamp.path} ({text})" for stamp in before if (text := _difference(stamp, verify))]


def _difference(before: Stamp, verify: bool) -> str:
    path = Path(before.path)
    if not store.is_file(path):
        return "it is gone"
    now = Stamp.of(path)
    if now.bytes != before.bytes:
        return f"it had {before.bytes:,} bytes, it has {now.bytes:,} now"
    if not before.sha256:
        date = before.modified_ns and now.modified_ns != before.modified_ns
        return "its date is another one" if date else ""
    if not verify and now.dated() == before.dated():
        return ""
    sha256 = store.sha256(path)
    if sha256 != before.sha256:
        return f"its content: sha256 was {before.sha256[:12]}, is now {sha256[:12]}"
    if now.modified_ns != before.modified_ns:
        log.info("%s has another date, and the same content", path)
    return ""


@contextlib.contextmanager
def at_work(
    out: Path, arguments: Arguments, overwrite: bool = False, begun: Sequence[str] = ()
) -> Iterator[Path]:
    """Keeps OUT/.prepare to this process, begun with these arguments; yields its path.

    An error before anything was done leaves nothing, so that other arguments may follow.

    Args:
      out: the bank.
      arguments: those of today.
      overwrite: what was begun with other arguments is thrown away.
      begun: names in `out` that the work begins with, and that go with it.

    Raises:
      UserError: another process has it, or it was begun with other arguments.
    """
    work = out / UNFINISHED
    with work_folder.hold(work):
        if (work / OLDER).is_file():
            raise UserError(
                f"{out} was begun by an older phenomjax, whose work this one cannot continue."
                f" Delete {out} and run the same command again."
            )
        _forget_sizes(work / work_folder.DESCRIPTION)
        try:
            work_folder.begin(work, arguments)
        except work_folder.OtherSettings:
            if not overwrite:
                raise
            log.warning("%s was begun with other settings: it begins again", out)
            _empty(work, ("lock",))
            work_folder.begin(work, arguments)
        try:
            yield work
        except UserError:
            if not any((work / "units").glob("*")):
                for made in begun:
                    files.remove(out / made)
                abandon(out)
            raise


def abandon(out: Path) -> None:
    """Deletes OUT/.prepare, and OUT if nothing else is in it."""
    files.remove(out / UNFINISHED)
    with contextlib.suppress(OSError):
        out.rmdir()


def _forget_sizes(description: Path) -> None:
    """Makes arguments of an older phenomjax, which had the sizes of files in them, those of
    today.
    """
    if description.is_file():
        before = files.read_json(description)
        now = _split_older(before)[0]
        now.pop("clusters", None)  # which are among the files that `goes_on` looks at
        if now != before:
            files.write_json(description, now)


def _split_older(before: Arguments) -> tuple[Arguments, list[Stamp]]:
    """Arguments without the sizes of files, and those sizes."""
    found: list[Stamp] = []

    def strip(value: object) -> object:
        if isinstance(value, list):
            return [strip(one) for one in value]
        match = _OLDER.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return value
        found.append(Stamp(match[1], int(match[2])))
        return match[1]

    named: Arguments = {
        name: strip(before[name]) for name in ("source", "clusters") if name in before
    }
    return {**before, **named}, found


def goes_on(
    work: Path, stamps: Sequence[Stamp], known: Mapping[str, str], verify: bool = False
) -> bool:
    """Whether work that was begun can go on with the files of today. If one has changed, the work
    folder is emptied and False comes back; which of the two it is, is told.

    Args:
      work: the work folder.
      stamps: of the files, as they are now.
      known: sha256 by path, of those whose content was read before.
      verify: compare the content of all.
    """
    record = work / "sources.json"
    same = True
    if record.is_file():
        rows = json.loads(record.read_text())
        older = any(not isinstance(row, dict) for row in rows)  # of another version
        before = [] if older else [Stamp(**row | {"sha256": ""}) for row in rows]
        dates = [stamp.dated() for stamp in stamps]
        if older or verify or [stamp.dated() for stamp in before] != dates:
            # A file whose content was not read yet is another one if its date is.
            before = [
                Stamp(*stamp.dated(), known.get(stamp.path, "unknown" if verify else ""))
                for stamp in before
            ]
            differ = changed(before, verify)
            others = [stamp.path for stamp in before] != [stamp.path for stamp in stamps]
            same = not older and not others and not differ
            if older:
                log.warning("%s was begun by an older phenomjax, so it begins again", work.parent)
            elif not same:
                what = f"{differ[0]} has changed" if differ else "other files are named"
                log.warning("%s since the job was interrupted, so it begins again", what)
            else:
                log.info("the job goes on")
    if not same:
        _empty(work, ("lock", work_folder.DESCRIPTION))
    files.write_text(record, json.dumps([stamp.to_json() for stamp in stamps]))
    return same


def _empty(work: Path, keep: Sequence[str]) -> None:
    for path in work.iterdir():
        if path.name not in keep:
            files.remove(path)


def is_finished(
    out: Path,
    arguments: Arguments,
    kind: str,
    recorded: Callable[[Path], Arguments | None],
    *,
    verify: bool = False,
    overwrite: bool = False,
    otherwise: str = "",
) -> bool:
    """Whether the bank was made before, with these arguments and of the files as they are now.

    Args:
      out: the bank.
      arguments: those of today.
      kind: what the bank is, for the errors.
      recorded: the arguments that a bank was made with, the stamps of its files under SOURCES; None
        where another program wrote it.
      verify: compare the content of all files, not only of those with another size or date.
      overwrite: a bank that was made with other arguments or files counts as not made; it stays
        until the new one takes its place.
      otherwise: what may be done to make it again, where that is not to delete it.

    Raises:
      UserError: something else is there.
    """
    work = out / UNFINISHED
    # Neither is there where a worker that nobody waited for has made the folder anew.
    begun = any((work / n).is_file() for n in (locks.FILE, OLDER, work_folder.DESCRIPTION))
    there = out.exists() and not begun and ((out / NAME).is_file() or not work.is_dir())
    if not there or (out.is_dir() and not {p.name for p in out.iterdir()} - LISTS):
        return False
    if not (out / NAME).is_file():
        raise UserError(
            f"`out` {out} is there already and is no {kind}. Give the name of a new folder,"
            " NAME.zarr."
        )
    files.remove(work)  # with which nothing opens the bank
    before = recorded(out)
    if before is None:
        raise UserError(
            f"`out` {out} is a {kind} that another program wrote. Give the name of a new folder."
        )
    before, stamps = _split_older(before)
    dates = files.read_json(out / DATES) if (out / DATES).is_file() else {}
    recorded_stamps = [Stamp(**row) for row in before.pop(SOURCES, [])]
    dated = [replace(one, modified_ns=dates.get(one.path, 0)) for one in recorded_stamps]
    stamps = dated or stamps
    same = {name: value for name, value in before.items() if name != "phenomjax"}
    again = otherwise or f"delete {out}"
    mend = f"Give the same to reuse it, another `out`, or {again} to make it again."
    try:
        work_folder.check_same(f"{out} was made", same, arguments, mend)
        if differ := changed(stamps, verify):
            more = f", and {len(differ) - 1} more" if len(differ) > 1 else ""
            raise work_folder.OtherSettings(
                f"{out} was made of files that have changed since: {differ[0]}{more}. Give another"
                f" `out` to have both, or {again} to make it again."
            )
    except work_folder.OtherSettings as error:
        if not overwrite:
            raise
        log.warning("%s It is made again.", str(error).split(". ")[0] + ".")
        return False
    work_folder.tidy(out)
    return True
