"""A selection: which images or sequences of which banks; `prepare subset` and `prepare curate`
write it, and `data.selection` of a run names it.

A Parquet file of one row an image that is chosen: `bank` (a position in the list of banks that its
description has), `row` (in that bank) and what the row is called there, in the order of banks and
rows. A bank is known by the tables of its metadata, not by its place, so it may be copied or moved;
one that `prepare append` has made longer since still begins with them.

A selection that judges (version 2, of `prepare curate`) has a row for every image, and says of each
whether it is `kept` and for what `reason`.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Integer

from phenomjax.data import store
from phenomjax.system import files
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
FORMAT, VERSION = "selection", 2
PLAIN = 1  # version of a file that lists what is chosen alone
DESCRIPTION = b"phenomjax"  # key of the description in the file
KEYS = {"images": ("experiment", "plate", "well", "site", "time"), "sequences": ("id",)}
MAKE = "`python -m phenomjax.prepare subset --bank BANK --where CONDITION --out NAME.parquet`"
REASON = pa.dictionary(pa.int16(), pa.string())
Rows = Integer[np.ndarray, "rows"]


class Bank(Protocol):
    """What a selection must know of an image bank or a token bank."""

    path: Path
    attributes: dict[str, Any]
    fingerprint: str

    def __len__(self) -> int: ...


class Part(NamedTuple):
    """A table of metadata that a bank begins or goes on with."""

    rows: int
    sha256: str


class Chosen(NamedTuple):
    """What is chosen of one bank.

    Attributes:
      rows: in ascending order.
      fingerprint: of what is chosen: the same after the bank was made longer.
    """

    rows: Rows
    fingerprint: str


class Judged(NamedTuple):
    """What became of every image of a bank.

    Attributes:
      kept: whether it is chosen.
      reason: of each, its place in `reasons`.
      reasons: all there are.
    """

    kept: Bool[np.ndarray, "rows"]
    reason: Integer[np.ndarray, "rows"]
    reasons: Sequence[str]


class Source(NamedTuple):
    """A bank of a selection.

    Attributes:
      path: where it was.
      fingerprint: of the bank then.
      parts: its tables then, up to the last of which something is chosen.
      of: its images or sequences then.
    """

    path: str
    fingerprint: str
    parts: tuple[Part, ...]
    of: int


def kind_of(bank: Bank) -> str:
    """ "images" or "sequences"."""
    return "sequences" if bank.attributes.get("format") == "token_bank" else "images"


def parts_of(bank: Bank) -> tuple[Part, ...]:
    """The tables that the metadata of a bank consist of; of a bank that is never made longer, or is
    none of ours, all of it.
    """
    tables = getattr(bank, "tables", ()) if kind_of(bank) == "images" else ()
    return tuple(
        Part(table.rows, table.sha256 or store.sha256(bank.path / table.file)) for table in tables
    ) or (Part(len(bank), bank.fingerprint),)


def is_selection(path: Path) -> bool:
    """Whether a file is a selection, or says so."""
    if not store.is_file(path):
        return False
    try:
        with store.open_input(path) as file:
            return DESCRIPTION in (pq.read_schema(file).metadata or {})
    except (pa.ArrowException, OSError, ValueError):
        return False


def choose(path: str | Path, banks: Sequence[Bank]) -> list[Chosen]:
    """What `data.selection` chooses of each bank; nothing at all if it is ""."""
    return Selection(Path(path)).of(banks) if str(path) else []


class Selection:
    """A selection on disk.

    Args:
      path: the file.

    Attributes:
      path: of it.
      kind: "images" or "sequences".
      banks: what it was made of.
      judges: whether it has a row of every image, of which only those that are kept are chosen.
      made: how, as its command recorded it.

    Raises:
      UserError: there is none, or it is something else or damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        if not store.is_file(path):
            what = "is a folder" if store.is_dir(path) else "is not there"
            raise UserError(
                f"The selection {store.url(path)} {what}. Name a file that {MAKE} wrote; a bank"
                " that a subset was copied into goes into data.banks."
            )
        try:
            with store.open_input(path) as file:
                schema = pq.read_schema(file)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._no_selection(f"cannot be read as Parquet ({_first(error)})") from error
        if DESCRIPTION not in (schema.metadata or {}):
            raise self._no_selection("is a table, and not one of `prepare subset` or `curate`")
        try:
            described = json.loads(schema.metadata[DESCRIPTION])
            if described["format"] != FORMAT:
                raise ValueError(f"format {described['format']!r}")
            version = int(described["version"])
            self.judges = version > PLAIN
            if version > VERSION:
                raise UserError(
                    f"The selection {path} has format version {version}, this phenomjax reads up to"
                    f" version {VERSION}. Make it again here, or install the phenomjax that wrote"
                    " it."
                )
            self.kind, self.made = str(described["kind"]), dict(described["made"])
            self.banks = tuple(
                Source(
                    str(one["path"]),
                    str(one["fingerprint"]),
                    tuple(Part(int(rows), str(sha256)) for rows, sha256 in one["parts"]),
                    int(one["of"]),
                )
                for one in described["banks"]
            )
            if not all(source.parts for source in self.banks):
                raise ValueError("a bank without tables")
            if self.kind not in KEYS or schema.field("row").type != pa.int64():
                raise ValueError(f"kind {self.kind!r}")
            if self.judges and schema.field("kept").type != pa.bool_():
                raise ValueError("it does not say what is kept")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise self._no_selection(f"has a damaged description ({_first(error)})") from error

    def rows(self) -> list[Rows]:
        """The rows of each of its banks that are chosen.

        Raises:
          UserError: the file is damaged.
        """
        columns = ["bank", "row", *(["kept"] if self.judges else [])]
        found: list[list[np.ndarray]] = [[] for _ in self.banks]
        try:
            with store.open_input(self.path) as opened, pq.ParquetFile(opened) as file:
                for batch in file.iter_batches(columns=columns):
                    batch = batch.filter(batch["kept"]) if self.judges else batch
                    numbers, rows = (batch[name].to_numpy() for name in ("bank", "row"))
                    for number in np.unique(numbers):
                        small = rows[numbers == number].astype(_narrow(self.banks[number].of))
                        found[number].append(small)
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            raise self._no_selection(f"is damaged ({_first(error)})") from error
        joined = [np.concatenate([np.zeros(0, np.int32), *parts]) for parts in found]
        for source, rows in zip(self.banks, joined, strict=True):
            if len(rows) and (rows[0] < 0 or rows[-1] >= source.of or (np.diff(rows) <= 0).any()):
                raise self._no_selection(f"is damaged: its rows of {source.path} do not ascend")
        return joined

    def of(self, banks: Sequence[Bank]) -> list[Chosen]:
        """What is chosen of each of these banks, all of which it must have been made of.

        Raises:
          UserError: one is another bank.
        """
        rows, found = self.rows(), list[Chosen]()
        free = dict[tuple[str, Part], list[int]]()  # of thousands of banks, by their first table
        for number, source in enumerate(self.banks):
            free.setdefault((self.kind, source.parts[0]), []).append(number)
        for bank in banks:
            parts = parts_of(bank)
            fits = [
                number
                for number in free.get((kind_of(bank), parts[0]), ())
                if parts[: len(self.banks[number].parts)] == self.banks[number].parts
            ]
            if not fits:
                raise self._other_bank(bank)
            # two banks may have the same metadata, such as one screen with two intensity rules
            number = min(
                fits,
                key=lambda one: (
                    self.banks[one].fingerprint != bank.fingerprint,
                    Path(self.banks[one].path).name != bank.path.name,
                ),
            )
            free[self.kind, parts[0]].remove(number)
            found.append(Chosen(rows[number], _fingerprint(bank, self.banks[number], rows[number])))
        for number in sorted(number for left in free.values() for number in left):
            if len(rows[number]):
                log.warning(
                    "%s chooses %d %s of %s too, which is not among the banks",
                    *(self.path, len(rows[number]), self.kind, self.banks[number].path),
                )
        return found

    def describe(self) -> str:
        """What it is, as lines."""
        made = {name: value for name, value in self.made.items() if name != "sha256"}
        lines = {"selection": f"{self.path}, of {self.kind}"}
        for source, rows in zip(self.banks, self.rows(), strict=True):
            lines[source.path] = f"{len(rows):,} of {source.of:,}"
        lines |= {reason: f"{count:,}" for reason, count in self.reasons().items()}
        lines |= {f"--{name}" if name != "phenomjax" else name: str(v) for name, v in made.items()}
        return "\n".join(f"{name + ':':19} {text}" for name, text in lines.items())

    def reasons(self) -> dict[str, int]:
        """How many images each reason kept or dropped, most first; {} of one that does not judge.

        Raises:
          UserError: the file is damaged.
        """
        if not self.judges:
            return {}
        counts = Counter[str]()
        try:
            with store.open_input(self.path) as opened, pq.ParquetFile(opened) as file:
                for batch in file.iter_batches(columns=["reason"]):
                    for one in pc.value_counts(batch["reason"].cast(pa.string())).to_pylist():
                        counts[str(one["values"])] += one["counts"]
        except (pa.ArrowException, OSError, ValueError, LookupError) as error:
            raise self._no_selection(f"is damaged ({_first(error)})") from error
        return dict(counts.most_common())

    def _other_bank(self, bank: Bank) -> UserError:
        names = ", ".join(source.path for source in self.banks[:4])
        more = f" and {len(self.banks) - 4} more" if len(self.banks) > 4 else ""
        same = next((s for s in self.banks if Path(s.path).name == bank.path.name), None)
        known = sum(part.rows for part in same.parts) if same else 0
        cause = (
            f"It has {len(bank)} {kind_of(bank)} and the selection was made when the one of this"
            f" name had {same.of}, the first {known} with other metadata: it was prepared again."
            if same
            else "It is another bank, or was prepared again."
        )
        return UserError(
            f"The selection {self.path} is not one of the bank {bank.path}, but of {names}{more}."
            f" {cause} Rows would mean other {self.kind}. Choose the same by their names with"
            f" `python -m phenomjax.prepare subset --bank {bank.path} --selection {self.path} --out"
            f" NAME.parquet`, or train on the banks that it was made of."
        )

    def _no_selection(self, what: str) -> UserError:
        return UserError(
            f"{self.path} is no selection: it {what}. Make one with {MAKE}; rows or names in a"
            " table of your own become one with `python -m phenomjax.prepare subset --bank BANK"
            " --selection TABLE --out NAME.parquet`."
        )


def write(
    path: Path,
    kind: str,
    banks: Sequence[tuple[Bank, Rows]],
    names: Iterator[pa.Table],
    made: dict[str, Any],
    judged: Sequence[Judged] = (),
) -> Path:
    """Writes a selection, whole or not at all.

    Args:
      path: of the file.
      kind: "images" or "sequences".
      banks: each with the rows that are chosen of it; with `judged` all rows.
      names: tables of the columns KEYS[kind] of these rows, together all of them in order.
      made: how it was made, recorded.
      judged: of each bank, what became of its images.
    """
    described = {
        "format": FORMAT,
        "version": VERSION if judged else PLAIN,
        "kind": kind,
        "made": made,
        "banks": [
            {
                "path": str(bank.path),
                "fingerprint": bank.fingerprint,
                "parts": _reaching(parts_of(bank), rows),
                "of": len(bank),
            }
            for bank, rows in banks
        ],
    }
    fields = [("bank", pa.int32()), ("row", pa.int64())]
    fields += [(name, pa.string()) for name in KEYS[kind]]
    fields += [("kept", pa.bool_()), ("reason", REASON)] if judged else []
    schema = pa.schema(fields)
    schema = schema.with_metadata({DESCRIPTION: json.dumps(described)})
    places = ((number, rows) for number, (_, rows) in enumerate(banks) if len(rows))
    number, left = next(places, (0, np.zeros(0, np.int64)))
    with (
        files.replacing(path) as partial,
        pq.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        for table in names:
            while len(table):
                if not len(left):
                    number, left = next(places)
                part, table = table[: len(left)], table[len(left) :]
                rows, left = left[: len(part)], left[len(part) :]
                bank = pa.array(np.full(len(rows), number, np.int32))
                columns = [bank, pa.array(rows.astype(np.int64))]
                columns += [part[name].cast(pa.string()) for name in KEYS[kind]]
                columns += _verdicts(judged[number], rows) if judged else []
                writer.write_table(pa.table(columns, schema=schema))
    return path


def _verdicts(judged: Judged, rows: Rows) -> list[pa.Array]:
    codes = pa.array(judged.reason[rows].astype(np.int16))
    reasons = pa.DictionaryArray.from_arrays(codes, pa.array(judged.reasons, pa.string()))
    return [pa.array(judged.kept[rows]), reasons]


def _reaching(parts: Sequence[Part], rows: Rows) -> list[Part]:
    """The parts up to the last of which something is chosen, one at least."""
    last, end = int(rows[-1]) if len(rows) else 0, 0
    for number, part in enumerate(parts, start=1):
        end += part.rows
        if last < end:
            return list(parts[:number])
    return list(parts)


def _fingerprint(bank: Bank, source: Source, rows: Rows) -> str:
    """Of what is chosen. All of a bank, or all that it was before it was made longer, is the bank
    itself: a run that began on it goes on.
    """
    if len(rows) == sum(part.rows for part in source.parts):
        later = len(parts_of(bank)) - len(source.parts)
        return str(bank.attributes["appended"][-later]["before"]) if later else bank.fingerprint
    digest = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
    return files.sha256_json([[*map(list, source.parts)], digest])


def _narrow(count: int) -> np.dtype:
    """The type of rows of a bank of so many: memory counts at 100 million."""
    return np.dtype(np.int32 if count < 2**31 else np.int64)


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
