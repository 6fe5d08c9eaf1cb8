"""Mutations of small files: of their bytes, of the lines of a text, and of the values of JSON."""

import copy
import json
import random

WORDS = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\r",
    b"\n\n",
    b"\xe9",
    b"\xf0\x9f\xa7\xac",
    b'"',
    b"'",
    b"\t",
    b",",
    b";",
    b"|",
    b">",
    b"#",
    b"%s{}`",
    b"-",
    b"0x",
    b"1e999",
    b"nan",
    b"NA",
    b"-1",
    b"99999999999999999999",
    b"\xc2\xb2",
    b"A" * 1500,
    b"../../x",
    b"<!--",
]
VALUES = [
    None,
    True,
    0,
    -1,
    1.5,
    2**31,
    2**63,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\u0000",
    "\ud800",
    "²",
    "{}%s`",
    "../..",
    [],
    [[]],
    [None],
    {},
    {"": {}},
    [0] * 40,
]


def of_bytes(data: bytes, draw: random.Random) -> bytes:
    """One to three changes at drawn places."""
    for _ in range(draw.randint(1, 3)):
        change = draw.choice([_flip, _cut, _remove, _repeat, _insert, _insert, _lines, _encode])
        data = change(data, draw)
    return data


def _place(data: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randint(0, len(data))
    return start, min(len(data), start + draw.choice([1, 2, 7, 50, 1000]))


def _flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 4, 30]) if data else 0):
        changed[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(changed)


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.choice([0, 1, 8, len(data) // 2, max(len(data) - 1, 0)])]


def _remove(data: bytes, draw: random.Random) -> bytes:
    start, stop = _place(data, draw)
    return data[:start] + data[stop:]


def _repeat(data: bytes, draw: random.Random) -> bytes:
    start, stop = _place(data, draw)
    return data[:stop] + data[start:stop] * draw.choice([1, 2, 20]) + data[stop:]


def _insert(data: bytes, draw: random.Random) -> bytes:
    start, _ = _place(data, draw)
    return data[:start] + draw.choice(WORDS) + data[start:]


def _lines(data: bytes, draw: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    number = draw.randrange(len(lines))
    change = draw.choice(["swap", "drop", "repeat", "word"])
    if change == "swap":
        draw.shuffle(lines)
    elif change == "drop":
        del lines[number]
    elif change == "repeat":
        lines.insert(draw.randrange(len(lines) + 1), lines[number])
    else:
        for mark in (b",", b"\t", b" "):
            if mark in lines[number]:
                fields = lines[number].split(mark)
                fields[draw.randrange(len(fields))] = draw.choice(WORDS)
                lines[number] = mark.join(fields)
                break
    return b"".join(lines)


def _encode(data: bytes, draw: random.Random) -> bytes:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    encoding = draw.choice(["utf-16", "utf-16-le", "utf-8-sig", "latin-1", "utf-32"])
    return text.encode(encoding, "replace")


def of_json(data: bytes, draw: random.Random) -> bytes:
    """One to three changes of keys and values; data that are no JSON come back as they are."""
    try:
        content = json.loads(data)
    except ValueError:
        return data
    holder = [content]
    for _ in range(draw.randint(1, 3)):
        _change(holder, draw)
    text = json.dumps(holder[0])
    return text.encode("utf-8", "surrogatepass")


def _change(holder: list, draw: random.Random) -> None:
    """Walks down from the one item of a list, and changes something on the way."""
    place: list | dict = holder
    key: object = 0
    while isinstance(place[key], list | dict) and place[key] and draw.random() < 0.8:
        place = place[key]
        key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
    change = draw.random()
    if change < 0.7 or place is holder:
        place[key] = copy.deepcopy(draw.choice(VALUES))
    elif change < 0.8 and isinstance(place, dict):
        place[f"{key}x"] = place.pop(key)
    elif change < 0.9:
        del place[key]
    else:
        place[key] = [place[key], copy.deepcopy(place[key])]
