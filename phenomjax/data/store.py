"""Places in object stores beside those on disks: `s3://bucket/key`, `gs://bucket/key` and
`http(s)://host/path` (to read) are read, listed and written by the same calls as local files.

A location is a `Path`: `Path("s3://bucket/x")` is spelt `s3:/bucket/x` inside the program, users
may write it so too, and `url` gives it back. Never call `.resolve()`, `.absolute()` or `.exists()`
on one that may be remote. obstore moves objects, TensorStore reads arrays (`kvstore`).
"""

import contextlib
import difflib
import functools
import hashlib
import io
import os
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from phenomjax.data.stores import clients
from phenomjax.data.stores.errors import NotThere, StoreError, explain
from phenomjax.data.stores.marks import folder_marks
from phenomjax.data.stores.ranges import Ranges
from phenomjax.data.stores.sinks import Hashing, Sink
from phenomjax.data.stores.walking import Listed, walk
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError, first_of

if TYPE_CHECKING:
    from phenomjax.data.stores.clients import Client

__all__ = ["Listed", "NotThere", "StoreError"]  # and all below
REMOTE = re.compile(r"(s3|gs|https?):/+(?!/)")
BLOCK = 1 << 20  # bytes that an `open_input` reads ahead
PIECE = 8 << 20  # bytes of an object that `fetch` holds at a time
ZARR = ("zarr.json", ".zgroup", ".zattrs", ".zarray")  # one of them makes a folder on a web server
MD5 = re.compile("[0-9a-f]{32}")
TRIES = 3
BROKEN = ("answer", "timeout")  # lists that obstore does not ask for again


def is_remote(path: str | Path) -> bool:
    """Whether a location is in a store and not in the file system."""
    return REMOTE.match(str(path)) is not None


def url(path: str | Path) -> str:
    """A location as its user writes it, "s3://bucket/x"; a local path as it is."""
    text = str(path)
    found = REMOTE.match(text)
    return f"{found[1]}://{text[found.end() :]}" if found else text


def place(path: str | Path) -> tuple[str, str, str]:
    """The scheme, the bucket (or server), and the key of a remote location."""
    text = str(path)
    found = REMOTE.match(text)
    if found is None:
        raise ValueError(f"{text} is not in a store")
    bucket, _, key = text[found.end() :].partition("/")
    if found[1].startswith("http"):
        if "?" in key:
            raise UserError(
                f"{found[1]}://{bucket}/{key.partition('?')[0]} is followed by a question mark."
                " What comes after it may be a secret, which would end up in logs and records:"
                " give an address without it, s3:// or gs:// with credentials. In the name of a"
                " file write %3F."
            )
        key = urllib.parse.unquote(key)  # obstore quotes
    key = "/".join(part for part in key.split("/") if part)
    return found[1], bucket, key


def client(path: str | Path) -> "tuple[Client, str]":
    """obstore's client for a remote location, and the key there; wrap its use in `errors`."""
    scheme, bucket, key = place(path)
    return clients.client(scheme, bucket), key


@contextlib.contextmanager
def errors(path: str | Path) -> Iterator[None]:
    """Makes StoreErrors of what clients raise for a remote location; all else passes."""
    if not is_remote(path):
        yield
        return
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = explain(
            url(path), error, signed=clients.kind(url(path).partition(":")[0]) != "none"
        )
        if found is None:
            raise
        raise found from None  # its own text may quote headers and signed addresses


def read_bytes(path: str | Path, start: int = 0, stop: int | None = None) -> bytes:
    """The content of a file, or its bytes from `start` to before `stop` (counted from the end where
    negative).

    Raises:
      NotThere, FileNotFoundError: no such file.
      StoreError: the store does not give it.
    """
    if not is_remote(path):
        with Path(path).open("rb") as file:
            total = os.fstat(file.fileno()).st_size if start < 0 or (stop or 0) < 0 else 0
            first = max(start + total, 0) if start < 0 else start
            file.seek(first)
            last = stop + total if stop is not None and stop < 0 else stop
            return file.read() if last is None else file.read(max(last - first, 0))
    import obstore

    with errors(path):
        if start == 0 and stop is None:
            content = io.BytesIO()
            total = fetch(path, content)
            return content.getvalue()[:total]
        store, key = client(path)
        if start < 0 or (stop or 0) < 0 or stop is None:
            total = size(path)
            start = max(start + total, 0) if start < 0 else start
            stop = total if stop is None else stop + total if stop < 0 else stop
            stop = min(stop, total)
        if stop <= start:
            return b""
        return bytes(obstore.get_range(store, key, start=start, end=stop))


def fetch(path: str | Path, file: Sink, *, check: bool = True) -> int:
    """Writes a whole object into an open file, a piece at a time; returns its bytes.

    Args:
      path: of the object.
      file: at its start; is written once more from there if the bytes were wrong.
      check: compare with the store's mark, the MD5 of most objects. It is another thing of some
        (uploaded in parts, encrypted by keys of one's own): then bytes count that came twice.
    """
    import obstore

    before = None
    with errors(path):
        store, key = client(path)
        for _ in range(TRIES):
            found, total, digest = obstore.get(store, key), 0, hashlib.md5(usedforsecurity=False)
            mark = (found.meta["e_tag"] or "").strip('"')
            marked = check and MD5.fullmatch(mark) is not None
            for piece in found.stream(PIECE):
                total += file.write(piece)
                if marked:
                    digest.update(piece)
            if total != (wanted := found.meta["size"]):
                raise StoreError(
                    f"{url(path)} came as {total} bytes of {wanted}: it was replaced while it was"
                    " read, or the connection broke. Run the same command again.",
                    "answer",
                    EXIT_FAILED,
                )
            if not marked or digest.hexdigest() in (mark, before):
                return total
            before = digest.hexdigest()
            file.seek(0)
    raise StoreError(
        f"{url(path)} came {TRIES} times with different bytes, none with the MD5 that the store"
        " has for it: something on the way changes them. Check the network and its proxies; then"
        " run the same command again.",
        "answer",
        EXIT_FAILED,
    )


def size(path: str | Path) -> int:
    """Bytes of a file."""
    if not is_remote(path):
        return os.stat(path).st_size
    import obstore

    with errors(path):
        store, key = client(path)
        return obstore.head(store, key)["size"]


def modified_ns(path: str | Path) -> int:
    """When a file was written, in nanoseconds since 1970; 0 where a server does not say."""
    if not is_remote(path):
        return os.stat(path).st_mtime_ns
    import obstore

    with errors(path):
        store, key = client(path)
        return int(obstore.head(store, key)["last_modified"].timestamp() * 1e9)


def is_file(path: str | Path) -> bool:
    """Whether a file or an object is there."""
    if not is_remote(path):
        return Path(path).is_file()
    if not place(path)[2]:
        return False
    try:
        size(path)
    except NotThere:
        return False
    return True


def is_dir(path: str | Path) -> bool:
    """Whether a folder is there: something whose name begins with it. On a web server, which lists
    nothing, a Zarr group or array.
    """
    if not is_remote(path):
        return Path(path).is_dir()
    if has_lists(path):
        return next(iter(list_files(path)), None) is not None
    return any(is_file(f"{path}/{name}") for name in ZARR)


def list_files(path: str | Path, after: str = "") -> Iterator[Listed]:
    """All files below a folder in the order of their names, as a stream; hidden ones too.

    Args:
      path: of the folder; one that is not there has no files.
      after: begin behind this name, which need not be there.

    Raises:
      StoreError: the store does not list.
    """
    if not is_remote(path):
        yield from walk(Path(path), "", after)
        return
    key = place(path)[2]
    if not has_lists(path):
        raise UserError(
            f"{url(path)} cannot be listed: web servers do not say what they have. Banks are read"
            " from there without a list; for anything else name the files, or use the s3:// or"
            " gs:// address of the same data."
        )
    start, last = f"{key}/" if key else "", after
    tries = 0
    while True:
        try:
            for listed in _list(path, start, last):
                yield listed
                last, tries = listed.name, 0
            return
        except StoreError as error:
            tries += 1
            if tries == TRIES or error.why not in BROKEN:
                raise


def _list(path: str | Path, start: str, after: str) -> Iterator[Listed]:
    import obstore

    with errors(path):
        store, key = client(path)
        behind = f"{start}{after}" if after else None
        for chunk in obstore.list(store, prefix=key or None, offset=behind):
            marks = folder_marks(store, chunk)
            for entry in chunk:
                name = entry["path"]
                if name.startswith(start) and name != key and name not in marks:
                    yield Listed(name[len(start) :], entry["size"], entry["e_tag"] or "")


def absolute(path: str | Path) -> Path:
    """A location that means the same in any working folder."""
    return Path(path) if is_remote(path) else Path(path).absolute()


def has_lists(path: str | Path) -> bool:
    """Whether a location says what it has; web servers do not."""
    return not str(path).startswith("http") or not is_remote(path)


def names(path: str | Path) -> list[str]:
    """Sorted names in a folder, files and folders; none where it is not there."""
    if not is_remote(path):
        return files.names(Path(path))
    if not has_lists(path):
        return [name for name in ZARR if is_file(f"{path}/{name}")]
    return sorted({*folders(path), *_one_level(path, "objects")})


def folders(path: str | Path) -> list[str]:
    """Sorted names of the folders in a folder; none where there is no list."""
    if is_remote(path):
        return _one_level(path, "common_prefixes") if has_lists(path) else []
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _one_level(path: str | Path, part: Literal["objects", "common_prefixes"]) -> list[str]:
    import obstore

    for left in reversed(range(TRIES)):
        try:
            with errors(path):
                store, key = client(path)
                found = obstore.list_with_delimiter(store, prefix=key or None)
            break
        except StoreError as error:
            if error.why not in BROKEN or not left:
                raise
    there = [one if isinstance(one, str) else one["path"] for one in found[part]]
    return sorted(name.rstrip("/").rpartition("/")[2] for name in there if name != key)


def listing(path: str | Path) -> str:
    """The first names in a folder, for error messages."""
    return first_of(names(path)) or "nothing"


def beside(path: str | Path) -> str:
    """What to say of a path that leads to nothing: " Did you mean runs/mae?", the nearest name
    where it breaks off, or what is there instead, " In runs: a, b and 3 more."
    """
    path = Path(path)
    above = [path.parent] if is_remote(path) else [*path.parents]
    folder = next((one for one in above if is_dir(one)), path.parent)
    broken, *rest = path.relative_to(folder).parts
    # without the suffix, which would make all files of a kind alike
    there = [name for name in names(folder) if not name.startswith(".")]
    stems = {name: name.partition(".")[0].lower() for name in there}
    stem = broken.partition(".")[0].lower()
    if near := difflib.get_close_matches(stem, set(stems.values()), n=1, cutoff=0.6):
        alike = [name for name, one in stems.items() if one == near[0]]
        close = folder / difflib.get_close_matches(broken, alike, n=1, cutoff=0)[0]
        whole = close.joinpath(*rest)
        return f" Did you mean {url(whole if is_dir(whole) or is_file(whole) else close)}?"
    where = f"this folder, {Path.cwd()}" if folder == Path() else url(folder)
    return f" In {where}: {first_of(there) or 'nothing'}."


def write_bytes(path: str | Path, content: bytes, *, create: bool = False) -> bool:
    """Writes a file or an object, whole or not at all.

    Args:
      path: of it.
      content: of it.
      create: only where there is none; where there is one, return False.
    """
    if not is_remote(path):
        if create:
            return files.create_bytes(Path(path), content)
        files.write_bytes(Path(path), content, shared=True)
        return True
    import obstore

    check_writable(path)
    with errors(path):
        store, key = client(path)
        try:
            obstore.put(store, key, content, mode="create" if create else "overwrite")
        except obstore.exceptions.AlreadyExistsError:
            return False
    return True


def check_writable(path: str | Path) -> None:
    """Raises UserError for a location that can only be read."""
    if not has_lists(path):
        raise UserError(
            f"{url(path)} cannot be written: http:// and https:// are read only. Give a folder, or"
            " an s3:// or gs:// address."
        )


def read_json(path: str | Path) -> dict[str, Any]:
    """A file that holds an object of JSON, or a UserError that names it."""
    if not is_remote(path):
        return files.read_json(Path(path))
    return files.json_object(url(path), read_bytes(path))


def open_input(path: str | Path) -> IO[bytes]:
    """A file to read from and to seek in, for pyarrow and others."""
    if not is_remote(path):
        return Path(path).open("rb")
    return io.BufferedReader(Ranges(functools.partial(read_bytes, path), size(path)), BLOCK)


def sha256(path: str | Path) -> str:
    """Digest of a file, read once at constant memory."""
    if not is_remote(path):
        return files.sha256(Path(path))
    digest = Hashing()
    fetch(path, digest)
    return digest.sha256.hexdigest()


def kvstore(path: str | Path) -> dict[str, Any]:
    """TensorStore's description of a folder, local ones too; it holds no secrets."""
    if not is_remote(path):
        # TensorStore takes no path with "..".
        return {"driver": "file", "path": os.path.realpath(path) + "/"}
    scheme, bucket, key = place(path)
    start = f"{key}/" if key else ""
    again = {"max_retries": clients.MAX_RETRIES}
    if scheme == "s3":
        kind, endpoint = clients.kind("s3"), clients.s3_endpoint()
        sources = {"none": "anonymous", "environment": "environment", "profile": "profile"}
        chain = {"type": sources.get(kind, "default")}
        if kind == "profile" and os.environ.get("AWS_PROFILE"):
            chain["profile"] = os.environ["AWS_PROFILE"]
        entry: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": start}
        entry |= {"s3_request_retries": again, "aws_credentials": chain}
        if region := clients.credentials.aws_region():
            entry["aws_region"] = region
        return entry | ({"endpoint": endpoint} if endpoint else {})
    if scheme == "gs":
        if endpoint := clients.google_endpoint():
            os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", endpoint)
        return {"driver": "gcs", "bucket": bucket, "path": start, "gcs_request_retries": again}
    entry = {"driver": "http", "base_url": f"{scheme}://{bucket}", "http_request_retries": again}
    return entry | {"path": f"/{urllib.parse.quote(key)}/"}
