"""Object stores and web servers as ends of a mirror (`places.Place`)."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from phenomjax.data import store
from phenomjax.data.stores import clients
from phenomjax.data.stores.marks import folder_marks
from phenomjax.prepare.mirror.ends.digests import Digests, part_size
from phenomjax.prepare.mirror.ends.places import (
    PIECE,
    WHOLE,
    Blocks,
    Buffer,
    Content,
    Entry,
    Steps,
    Taken,
    Trouble,
)

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

LISTED = 1000  # entries that are taken from a listing at a time
AHEAD = 4  # parts of a large object on their way at a time
TRIES = 3  # of an object that arrives with other bytes


class StorePlace:
    """A bucket, a part of one, or a web server."""

    has_folders, together = False, 1

    def __init__(self, path: Path, single: str = ""):
        self.path, self.single, self.name = path, single, store.url(path)
        self.scheme = store.place(path)[0]
        self.lists = not self.scheme.startswith("http")
        self.sure = not _endpoint(self.scheme).startswith("http:")

        self._base = store.place(path)[2]

    @functools.cached_property
    def _client(self) -> "clients.Client":
        return clients.client(*store.place(self.path)[:2], verified=True)

    def _key(self, key: str) -> str:
        return self._base if self.single else f"{self._base}/{key}" if self._base else key

    def entries(self, scratch: Path) -> Iterator[Entry]:
        if self.single:
            found = self.entry(self.single)
            yield from [found] if found else []
            return
        # a listing of hours goes on behind the last name when its line breaks
        last, tries = "", 0
        while True:
            try:
                for found in self._listed(last):
                    yield found
                    last, tries = max(last, found.key), 0
                return
            except store.StoreError as error:
                tries += 1
                if tries == TRIES or error.why not in ("answer", "timeout"):
                    raise

    def _listed(self, after: str) -> Iterator[Entry]:
        import obstore

        base = self._base
        start = f"{base}/" if base else ""
        folder = ""  # one that a mark names, and that may be empty
        with store.errors(self.path):
            for chunk in obstore.list(
                self._client,
                prefix=base or None,
                offset=f"{start}{after}" if after else None,
                chunk_size=LISTED,
            ):
                marks = folder_marks(self._client, chunk)
                for meta in chunk:
                    if not meta["path"].startswith(start) or meta["path"] == base:
                        continue
                    key = meta["path"][len(start) :] + "/" * (meta["path"] in marks)
                    if folder and not key.startswith(folder):
                        yield Entry(folder, 0, "folder")
                    folder = key if key.endswith("/") else ""
                    if not folder:
                        yield Entry(key, meta["size"], _stamp(meta))
        if folder:
            yield Entry(folder, 0, "folder")

    def entry(self, key: str) -> Entry | None:
        import obstore

        with contextlib.suppress(store.NotThere), store.errors(self.path):
            meta = obstore.head(self._client, self._key(key))
            return Entry(key, meta["size"], _stamp(meta))
        return None

    @contextlib.contextmanager
    def _reading(self, entry: Entry) -> Iterator[None]:
        import obstore

        try:
            with store.errors(f"{self.path}/{entry.key}"):
                try:
                    yield
                except obstore.exceptions.PreconditionError:
                    raise Trouble("changed", "was replaced since it was listed") from None
        except store.NotThere:
            raise Trouble("vanished", "was deleted since it was listed") from None
        except store.StoreError as error:
            if error.why == "denied":
                raise Trouble("unreadable", str(error)) from None
            raise

    def read(self, entry: Entry) -> Content:
        import obstore

        with self._reading(entry):
            found = obstore.get(self._client, self._key(entry.key), options=_if_same(entry))
            data = found.bytes()
        if len(data) != entry.bytes:
            raise Trouble("changed", f"has {len(data):,} bytes, and had {entry.bytes:,}")
        return data

    def blocks(self, entry: Entry, start: int = 0) -> Iterator[Buffer]:
        with self._reading(entry):
            yield from self._from(entry, start)

    def _from(self, entry: Entry, start: int) -> Iterator[Buffer]:
        import obstore

        if start:
            options: GetOptions = {**_if_same(entry), "range": {"offset": start}}
            with contextlib.suppress(obstore.exceptions.NotSupportedError):
                found = obstore.get(self._client, self._key(entry.key), options=options)
                if found.range[0] == start:
                    yield from (memoryview(piece) for piece in found.stream(PIECE))
                    return
        # or of a server without ranges: from 0 again
        found, at = obstore.get(self._client, self._key(entry.key), options=_if_same(entry)), 0
        for one in found.stream(PIECE):
            piece = memoryview(one)
            if at + len(piece) > start:
                yield piece[max(start - at, 0) :]
            at += len(piece)

    def parts(self, size: int) -> list[int]:
        return [0] if size <= WHOLE else [part_size(size)]

    def write(self, key: str, data: Content, digests: Digests, replace: bool) -> Steps[str]:
        import obstore

        yield

        mode: Literal["create", "overwrite"] = "overwrite" if replace else "create"
        for _attempt in range(TRIES):
            with store.errors(f"{self.path}/{key}"):
                try:
                    made = obstore.put(
                        self._client, self._key(key), data, mode=mode, use_multipart=False
                    )
                except obstore.exceptions.AlreadyExistsError:
                    raise Taken from None
            stamp = made["e_tag"] or ""
            if digests.prove(stamp) or self._same(Entry(key, len(data), stamp), digests):
                return stamp
            mode = "overwrite"  # what is there is ours, and wrong
        raise Trouble("failed", f"arrived with other bytes {TRIES} times", stamp)

    def write_large(
        self, entry: Entry, blocks: Blocks, etags: list[str], replace: bool
    ) -> tuple[str, Digests]:
        """In parts, which become visible together; where it is killed, it begins at 0 again."""
        import obstore

        size = part_size(entry.bytes)
        for _attempt in range(TRIES):
            digests = Digests.proving(etags, entry.bytes, [size])
            content = _Passing(blocks(0), digests)
            with store.errors(f"{self.path}/{entry.key}"):
                try:
                    made = obstore.put(
                        self._client,
                        self._key(entry.key),
                        content,
                        chunk_size=size,
                        max_concurrency=AHEAD,
                        use_multipart=True,
                    )
                except Exception:
                    if content.error is not None:  # of the source, which obstore wraps
                        raise content.error from None
                    raise
            stamp = made["e_tag"] or ""
            if digests.prove(stamp) or self._same(entry._replace(stamp=stamp), digests):
                return stamp, digests
        raise Trouble("failed", f"arrived with other bytes {TRIES} times", stamp)

    def _same(self, entry: Entry, digests: Digests) -> bool:
        """Reads back where the ETag proves nothing, twice if it must: the way back errs too."""
        for _ in range(2):
            back = Digests()
            for block in [self.read(entry)] if entry.bytes <= WHOLE else self.blocks(entry):
                back.update(block)
            if back.sha256.digest() == digests.sha256.digest():
                return True
        return False

    def flush(self) -> None:
        """Nothing to bring anywhere: what a store has taken, it has."""

    def tidy(self) -> None:
        """Nothing that could be seen: parts of uploads belong to the rules of the bucket."""


class _Passing:
    """Blocks on their way into an upload, with what went wrong where they come from."""

    def __init__(self, blocks: Iterator[Buffer], digests: Digests):
        self.blocks, self.digests = blocks, digests
        self.error: BaseException | None = None

    def __iter__(self) -> "_Passing":
        return self

    def __next__(self) -> Buffer:
        try:
            block = next(self.blocks)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            raise
        self.digests.update(block)
        return block


def _endpoint(scheme: str) -> str:
    found = {"s3": clients.s3_endpoint, "gs": clients.google_endpoint}.get(scheme, lambda: None)()
    return found or ("http:" if scheme == "http" else "https:")


def _stamp(meta: "ObjectMeta") -> str:
    return meta["e_tag"] or meta["last_modified"].isoformat()


def _if_same(entry: Entry) -> "GetOptions":
    return {"if_match": entry.stamp} if entry.stamp.endswith('"') else {}
