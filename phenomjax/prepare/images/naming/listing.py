"""Every file of a source folder, and which of them are no images of the screen, by name alone."""

import collections
import fnmatch
import hashlib
import itertools
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import store
from phenomjax.data.images.ngff.metadata_files import attributes_or_none
from phenomjax.prepare.images.formats import readers
from phenomjax.prepare.images.records import FileStatus, Finding
from phenomjax.system.errors import UserError, did_you_mean

# Pictures of a plate that instruments write beside its images. MetaXpress: NAME_thumbGUID.tif.
_THUMBNAIL = re.compile(
    r"(?:.*/)?(?:thumb(?:nail)?s?/.*|thumb(?:nail)?s?[-_ ][^/]*|[^/]*_thumb(?:nail)?[0-9a-f-]*)"
    r"\.[a-z0-9]+",
    re.IGNORECASE,
)
# Images, or archives of them, that no reader here reads.
_OTHER_FORMATS = (
    *(".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".nd2", ".czi", ".lif", ".flex"),
    *(".c01", ".dib", ".oib", ".oif", ".oir", ".vsi", ".ims", ".mrc", ".zvi", ".svs", ".mvd2"),
    *(".zip", ".tar", ".tgz", ".7z", ".rar", ".tif.gz", ".tiff.gz", ".tif.zst", ".dcm", ".btf"),
)
ZARR = ("zarr.json", ".zgroup", ".zarray")
LARGEST_PART = 32_768  # files that are read at once
THUMBNAIL, EXCLUDED, OTHER_FORMAT = "thumbnail", "excluded", "other_format"
# An image's name with something behind it: what a copy has that was not finished, or a spare one.
_UNFINISHED = re.compile(
    rf".*(?:{'|'.join(map(re.escape, readers.SUFFIXES))})[^/a-z0-9]?[^/]{{1,40}}", re.IGNORECASE
)
UNFINISHED = "unfinished"
# What else instruments leave among the images; asked of files alone whose name no layout knows.
# CellVoyager: DC_camera.tif (dark current), SC_filter.tif (shading).
_SIDECARS = {
    "shading": re.compile(
        r"(?:SC|DC)_.*|.*(?:flat[-_ ]?field|dark[-_ ]?(?:field|current)|shading|illum).*",
        re.IGNORECASE,
    ),
    "overview": re.compile(
        r".*(?:overview|preview|montage|mosaic|stitch|projection|plate[-_ ]?map).*", re.IGNORECASE
    ),
}


class Root(NamedTuple):
    """A folder of a source.

    Attributes:
      prefix: relative to the source, with a "/" behind it; "" for the source itself.
      deep: the folders below it are meant too.
    """

    prefix: str = ""
    deep: bool = True


class Listed(NamedTuple):
    """What lies in a source folder.

    Attributes:
      unused: items of --exclude that fit nothing.
      files: all files but hidden ones and those that are left out, in order of their paths.
      rejected: what cannot be read by its name: links to nothing, loops, names that are no UTF-8.
      remarks: images that are left out on purpose.
    """

    files: dict[str, FileStatus]
    rejected: list[Finding]
    remarks: list[Finding]
    unused: tuple[str, ...] = ()


def is_image(file: str) -> bool:
    """Whether the suffix is that of an image, in any case."""
    return file.lower().endswith(readers.SUFFIXES)


def _is_text(file: str) -> bool:
    """Whether it says something of an image whose name it has."""
    return file.lower().endswith(
        (".xml", ".txt", ".json", ".csv", ".md5", ".sha256", ".aux", ".log")
    )


def sidecar(file: str) -> str | None:
    """What an image is that is none of the screen, by its name: "shading" or "overview"."""
    name = file.rsplit("/", 1)[-1]
    return next((kind for kind, known in _SIDECARS.items() if known.fullmatch(name)), None)


def kinds_of_names(files: Iterable[str]) -> str:
    """Kinds of names with how many there are of each, numbers as #: "12 like snap_#.tif"."""
    counts = collections.Counter(
        re.sub(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9]+", "#", Path(file).name)
        for file in files
    )
    parts = [f"{count} like {kind}" for kind, count in counts.most_common(4)]
    return ", ".join(parts) + (f" and {len(counts) - 4} other kinds" if len(counts) > 4 else "")


def quoted(text: str) -> str:
    """A text as the shell takes it, always in quotes."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


def shown(path: str) -> str:
    """A path as text that can be printed and stored: bytes that are no UTF-8 as `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def walk(source: Path, exclude: Sequence[str] = (), roots: Sequence[Root] | None = None) -> Listed:
    """Lists a source folder and the folders below it, or some folders of it.

    Hidden files (.DS_Store, ._copy) are passed over, and what lies in OME-Zarr images.

    Args:
      source: the folder.
      exclude: items of --exclude, for the path relative to the source, in any case.
      roots: the folders, where not all are meant; an item of `exclude` may fit nothing in them.

    Raises:
      UserError: the source is no folder, or nothing fits an item of `exclude`.
    """
    check_folder(source)
    if not store.has_lists(source):
        next(store.list_files(source), None)  # its error
    found = Listed({}, [], [])
    unused = dict.fromkeys(exclude)
    patterns = {item: re.compile(fnmatch.translate(item), re.IGNORECASE) for item in exclude}
    # one that is written in full means that file, not one in other capitals
    exactly = {
        item: plain for item in exclude if store.is_file(source / (plain := _unescaped(item)))
    }
    for file, status in _files(source, found, roots or (Root(),)):
        fitting = [
            item
            for item, pattern in patterns.items()
            if pattern.match(file) and exactly.get(item, file) == file
        ]
        for item in fitting:
            unused.pop(item, None)
        if fitting:
            detail = f"is left out by --exclude '{fitting[0]}'"
            found.remarks.append(Finding(EXCLUDED, detail, shown(file)))
        elif is_image(file) and _THUMBNAIL.fullmatch(file):
            detail = "is a thumbnail, by its name, and was left out"
            found.remarks.append(Finding(THUMBNAIL, detail, shown(file)))
        elif file.lower().endswith(_OTHER_FORMATS):
            detail = (
                "is of a format that is not read here, and was left out: export it as TIFF (unpack"
                " an archive), if it belongs to the screen"
            )
            found.remarks.append(Finding(OTHER_FORMAT, detail, shown(file)))
            found.files[file] = status
        elif not is_image(file) and _UNFINISHED.fullmatch(file) and not _is_text(file):
            detail = (
                "is called like an image with something behind it, a copy that was not finished or"
                " a spare one, and was left out: copy it again, or rename it"
            )
            found.remarks.append(Finding(UNFINISHED, detail, shown(file)))
            found.files[file] = status
        elif is_image(file) and shown(file) != file:
            detail = "has a name that is no UTF-8, which no bank can hold: rename it"
            found.rejected.append(Finding("file_name", detail, shown(file)))
        else:
            found.files[file] = status
    bad = {finding.file for finding in found.rejected}
    for item in list(unused):
        if any(patterns[item].match(file) for file in bad):
            unused.pop(item)
    if roots is None:
        check_excluded(source, unused, found.files)
    return found._replace(
        unused=tuple(unused),
        rejected=[
            finding
            for finding in found.rejected
            if not any(pattern.match(finding.file) for pattern in patterns.values())
        ],
    )


def check_excluded(source: Path, unused: Iterable[str], files: Iterable[str]) -> None:
    """Raises a UserError for an item of --exclude that fits nothing, with an example of `files`."""
    for item in unused:
        wider = f"*{item.strip('*')}*"
        fits = re.compile(fnmatch.translate(wider), re.IGNORECASE)
        hint = f" Did you mean '{wider}'?" if any(map(fits.match, files)) else ""
        raise UserError(
            f"`exclude` {item!r} fits no file of {source}. It is compared with the whole path below"
            f" the source, such as {next(iter(files), 'Images/overview.tif')!r}: * stands for"
            f" any text, folders included.{hint}"
        )


def folders_below(source: Path, prefix: str) -> tuple[list[str], list[str]]:
    """The files in a folder of a source, and the folders in it that `walk` would enter, each with a
    "/" behind it.
    """
    below: list[str] = []
    files = [file for file, _ in _files(source, Listed({}, [], []), [Root(prefix, False)], below)]
    return files, below


def count(source: Path, prefix: str, most: int) -> int:
    """About how many files there are below a folder; ends a little above `most`."""
    if store.is_remote(source):
        return sum(1 for _ in itertools.islice(store.list_files(source / prefix), most + 1))
    found, waiting, seen = 0, [source / prefix], set[tuple[int, int]]()
    while waiting and found <= most:
        try:
            folder = waiting.pop()
            if (identity := _identity(folder)) in seen:
                continue
            seen.add(identity)
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        waiting.append(Path(entry.path))
                    else:
                        found += 1
        except OSError:
            continue
    return found


def _unescaped(item: str) -> str:
    """What `glob.escape` was given."""
    return re.sub(r"\[([*?[])\]", r"\1", item)


def check_folder(source: Path) -> None:
    """Raises a UserError that names what is like it when the source is no folder."""
    if store.is_dir(source):
        return
    if store.is_file(source):
        raise UserError(
            f"`source` {source} is a file, and a folder is wanted: give {source.parent}, the folder"
            " that holds the images."
        )
    near = (
        did_you_mean(source.name, store.names(source.parent)) if store.is_dir(source.parent) else ""
    )
    raise UserError(f"The source folder {store.url(source)} is not there.{near}")


def _files(
    source: Path, found: Listed, roots: Sequence[Root], below: list[str] | None = None
) -> Iterable[tuple[str, FileStatus]]:
    """Yields the files in order of their names; adds to `found` what cannot be read, and OME-Zarr
    images, and to `below` the folders that are not meant.
    """
    if store.is_remote(source):
        yield from _files_of_store(source, found, roots, below)
        return
    rejected = found.rejected
    waiting: list[tuple[str, bool, tuple[tuple[int, int], ...]]] = []
    for root in reversed(roots):
        names = root.prefix.rstrip("/").split("/")
        chain = [source, *(source.joinpath(*names[: i + 1]) for i in range(len(names)) if names[0])]
        try:
            waiting.append((root.prefix, root.deep, tuple(map(_identity, chain))))
        except OSError as error:  # it is gone since it was listed
            detail = f"cannot be read ({error.strerror}): was it moved while the source was read?"
            rejected.append(Finding("unreadable", detail, shown(root.prefix)))
    while waiting:
        prefix, deep, above = waiting.pop()
        folders = []
        try:
            with os.scandir(source / prefix) as entries:
                there = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            detail = f"cannot be read ({error.strerror}): may you not open this folder?"
            rejected.append(Finding("unreadable", detail, shown(prefix)))
            continue
        for entry in there:
            path = prefix + entry.name
            if entry.name.startswith("."):
                continue
            try:
                status = entry.stat()
                if entry.is_dir():
                    identity = (status.st_dev, status.st_ino)
                    if identity in above:
                        detail = "is a link to a folder above it, a loop: remove the link"
                        rejected.append(Finding("link_loop", detail, shown(path)))
                    elif _is_ours(source / path):
                        continue
                    elif not _is_zarr(source / path):
                        folders.append((path + "/", (*above, identity)))
                    elif {"plate", "multiscales"} & attributes_or_none(source / path).keys():
                        detail = "is OME-Zarr, and was left out: --layout ome-zarr reads plates"
                        found.remarks.append(Finding(OTHER_FORMAT, detail, shown(path)))
                    continue
            except OSError as error:
                detail = f"cannot be read ({error.strerror}): may you not read it?"
                if entry.is_symlink():
                    target = shown(os.readlink(source / path))
                    detail = f"is a link to {target}, which is not there: copy the file itself"
                rejected.append(Finding("dangling_link", detail, shown(path)))
                continue
            if not stat.S_ISREG(status.st_mode):
                detail = "is no file but a device or a pipe: copy what it stands for"
                rejected.append(Finding("unreadable", detail, shown(path)))
                continue
            yield path, FileStatus(status.st_size, status.st_mtime_ns)
        if deep:
            waiting.extend((folder, True, chain) for folder, chain in reversed(folders))
        elif below is not None:
            below.extend(folder for folder, _ in folders)


def _files_of_store(
    source: Path, found: Listed, roots: Sequence[Root], below: list[str] | None
) -> Iterable[tuple[str, FileStatus]]:
    """`_files` of a source in a store, where there are no links; files of a folder come before its
    folders, as on a disk.
    """
    for root in roots:
        files: dict[str, FileStatus] = {}
        zarrs: set[str] = set()
        for name, size, mark in store.list_files(source / root.prefix):
            folder, _, last = name.rpartition("/")
            if not root.deep and folder:
                continue
            if last in ZARR and folder:
                zarrs.add(f"{root.prefix}{folder}/")
            elif not any(part.startswith(".") for part in name.split("/")):
                stamp = int.from_bytes(hashlib.sha256(mark.encode()).digest()[:7])
                files[root.prefix + name] = FileStatus(size, stamp)
        for zarr in sorted(zarrs):
            if {"plate", "multiscales"} & attributes_or_none(source / zarr).keys():
                detail = "is OME-Zarr, and was left out: --layout ome-zarr reads plates"
                found.remarks.append(Finding(OTHER_FORMAT, detail, shown(zarr.rstrip("/"))))
        for path in sorted(files, key=_as_on_a_disk):
            if not any(path[: place + 1] in zarrs for place, c in enumerate(path) if c == "/"):
                yield path, files[path]
        if not root.deep and below is not None:
            there = store.folders(source / root.prefix)
            names = [f"{root.prefix}{name}/" for name in there if not name.startswith(".")]
            below.extend(name for name in names if not _is_zarr(source / name))


def _as_on_a_disk(path: str) -> list[tuple[bool, str]]:
    *folders, name = path.split("/")
    return [*((True, folder) for folder in folders), (False, name)]


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_ours(folder: Path) -> bool:
    """What --dry-run and inspect write beside a bank."""
    written = {"_dry_run": "images.csv", "_inspect": "contact_sheet.png"}
    return any(
        folder.name.endswith(end) and (folder / file).is_file() for end, file in written.items()
    )


def _is_zarr(folder: Path) -> bool:
    return any(store.is_file(folder / name) for name in ZARR)


def suffixes(files: Iterable[str]) -> str:
    """What kinds of files there are, for messages: "12 .xml, 3 without suffix"."""
    counts = collections.Counter(Path(file).suffix for file in files)
    shares = (f"{count} {suffix or 'without suffix'}" for suffix, count in counts.most_common(5))
    return ", ".join(shares) or "no files"
