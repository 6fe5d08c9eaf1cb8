"""Reads the XML files of instruments: element by element, gigabytes in little memory, and safely.

A file with a DTD is refused, so no entity can be defined in it: neither bombs nor files of this
machine. Damage is a UserError that names the line.
"""

import codecs
import functools
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import cast
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

from phenomjax.data import store
from phenomjax.prepare.images.instruments.entries import without
from phenomjax.system.errors import UserError

_CHUNK = 1 << 20
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\x00", "utf-16-le"),  # without a mark
    (b"\x00<", "utf-16-be"),
)


@functools.lru_cache(maxsize=1024)  # a file has a few dozen, each millions of times
def local(tag: str) -> str:
    """A tag or an attribute without its namespace: every version of an instrument has another."""
    return tag.rsplit("}", 1)[-1]


def attributes(element: Element) -> dict[str, str]:
    """The attributes by their local names, blanks around values cut."""
    return {local(name): value.strip() for name, value in element.attrib.items()}


def texts(element: Element) -> dict[str, str]:
    """The text of each child by its local name; the first of several, "" of an empty one."""
    found: dict[str, str] = {}
    for child in element:
        found.setdefault(local(child.tag), (child.text or "").strip())
    return found


def read(source: Path, file: str, wanted: Collection[str]) -> Iterator[tuple[str, Element]]:
    """Yields (local name, element): first the root at its start, with its attributes only, then
    each element with one of the wanted local names when it is complete.

    Args:
      source: the source folder.
      file: relative to it.
      wanted: local names; an element inside a wanted one comes with that one too.

    Raises:
      UserError: unreadable, not XML, damaged, or with a DTD.
    """
    parser: XMLPullParser = XMLPullParser(("start", "end"))
    open_elements: list[Element] = []
    inside = 0  # how many wanted elements are open
    try:
        for piece in _text(source, file):
            parser.feed(piece)
            # read_events also yields comments and namespaces where those are asked for
            for event, element in cast(Iterator[tuple[str, Element]], parser.read_events()):
                name = local(element.tag)
                if event == "start":
                    if not open_elements:
                        yield name, element
                    open_elements.append(element)
                    inside += name in wanted
                    continue
                open_elements.pop()
                inside -= name in wanted
                if name in wanted:
                    yield name, element
                if not inside and open_elements:  # read: nothing of it is kept
                    open_elements[-1].remove(element)
        parser.close()
    except ParseError as error:
        raise UserError(_damaged(file, str(error))) from error


def _text(source: Path, file: str) -> Iterator[str]:
    """The text of the file in pieces; a DTD is refused."""
    before = ""
    try:
        with store.open_input(source / file) as stream:
            data = stream.read(_CHUNK)
            decoder = _decoder(data, file)
            first = True
            while data:
                piece = decoder.decode(data)
                if first:
                    piece = piece.lstrip()  # blanks before <?xml are no XML, but common
                if "<!DOCTYPE" in before + piece:
                    raise UserError(
                        f"{file} has a document type (<!DOCTYPE ...>), which no instrument writes"
                        f" and which is not read for safety. Delete that line, {without(file)}."
                    )
                before, first = piece[-10:], False
                yield piece
                data = stream.read(_CHUNK)
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}): may you not read it, or was it moved?"
        ) from error


def _decoder(data: bytes, file: str) -> codecs.IncrementalDecoder:
    """By the mark at the start, else by what the XML declaration says, else UTF-8. A byte that is
    wrong in a file that says it is UTF-8 is shown as a question mark: only names hold such.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if encoding is None:
        said = re.match(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.:-]+)[\"']", data[:400])
        encoding = said[1].decode("ascii") if said else "utf-8"
        if encoding.lower().replace("-", "").startswith("utf16"):
            encoding = "utf-8"  # it says so, but one byte a character was just matched
    try:
        return codecs.getincrementaldecoder(encoding)(errors="replace")
    except LookupError as error:
        raise UserError(
            f"{file} says that its encoding is {encoding!r}, which is not known here: save it as"
            f" UTF-8, {without(file)}."
        ) from error


def _damaged(file: str, why: str) -> str:
    where = re.sub(r"^(.*): line (\d+), column \d+$", r"line \2: \1", why)
    return (
        f"{file} is no whole XML file ({where}): it was copied in part or is damaged. Copy it again"
        f" from the instrument, {without(file)}."
    )
