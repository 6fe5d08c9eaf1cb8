"""What `prepare inspect` says of a token bank: counts, lengths, composition, splits, first records,
and damaged files.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from phenomjax.data import store
from phenomjax.data.sequences.bank import (
    FORMAT,
    METADATA_SCHEMA,
    SPLITS,
    TokenBank,
    damaged_files,
    open_token_bank,
)
from phenomjax.data.sequences.vocabulary import SPECIALS, UNITS
from phenomjax.data.zarr_files import UNFINISHED, opening
from phenomjax.prepare import growing, next_steps
from phenomjax.system import ending
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from phenomjax.system.log import Progress

FIRST, SHOWN_TOKENS = 3, 60  # records shown, and tokens of each
QUICK_TOKENS = 2**24  # that --quick counts
PART = 2**22  # elements read at a time


def is_token_bank(path: Path) -> bool:
    """Whether a folder says of itself that it is a token bank, or is becoming one."""
    if store.is_file(path / UNFINISHED / "sources.json"):
        return True
    try:
        group = json.loads(store.read_bytes(path / "zarr.json"))
        return group["attributes"]["phenomjax"]["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def inspect(path: Path, quick: bool) -> int:
    """Prints the description; returns 1 when a file is damaged, each of which is named.

    Args:
      path: the bank.
      quick: leave out the checksums, and count the composition of the first tokens only.
    """
    bank = open_token_bank(path)
    with opening(path):
        print(describe(bank))
    damaged = [] if quick else _check(bank)
    if not damaged:
        try:
            print(_lengths(bank), _composition(bank, quick), _first_records(bank), sep="\n")
        except UserError as error:  # a file that is missing, which --quick did not look for
            damaged = [str(error)]
    for name in damaged:
        print(f"damaged: {name}")
    ending.note(sequences=len(bank), tokens=bank.tokens.size, damaged=len(damaged))
    if damaged:
        print(
            f"{len(damaged)} damaged files. Copy them again from where the bank came from, or"
            " delete the bank and prepare it again."
        )
        return EXIT_FAILED
    print(
        "integrity: not checked (--quick)"
        if quick
        else "integrity: every checksum and offset is right"
    )
    next_steps.train([bank])
    return EXIT_DONE


def describe(bank: TokenBank) -> str:
    """What the bank says of itself, as lines."""
    entry, words = bank.attributes, bank.vocabulary
    # a web server does not say
    listed = store.list_files(bank.path) if store.has_lists(bank.path) else ()
    stored = sum(file.bytes for file in listed)
    unit = UNITS.get(words.name, "tokens")
    lines = {
        "bank": f"{store.url(bank.path)}, fingerprint {bank.fingerprint[:12]}",
        "sequences": f"{len(bank):,}",
        "tokens": (
            f"{bank.tokens.size:,} ({unit} and boundary tokens), {stored / 2**20:.1f} MiB stored"
        ),
        "vocabulary": f"{words.name}, version {words.version}, {len(words)} tokens",
        "boundary": bank.boundary,
    }
    for name in SPLITS:
        first, last = bank.splits[name]
        share = (last - first) / max(len(bank), 1)
        lines[name] = f"{last - first:,} sequences ({share:.2%})" + (
            f", {bank.num_tokens(name):,} tokens" if last > first else ""
        )
    counts = entry["options"].get("counts")
    if counts:
        lines["prepared from"] = ", ".join(
            f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items() if number
        )
    options = entry["options"].get("prepare", {})
    lines |= {
        f"--{name.replace('_', '-')}": _short(value)
        for name, value in options.items()
        if name not in ("boundary", "phenomjax", "sources")
    }
    return "\n".join(f"{name + ':':19}{text}" for name, text in lines.items())


def _short(value) -> str:
    if not isinstance(value, list):
        return str(value)
    return ", ".join(map(str, value[:3])) + (
        f" and {len(value) - 3} more" if len(value) > 3 else ""
    )


def _check(bank: TokenBank) -> list[str]:
    """Files that are missing, changed, or contradict each other."""
    damaged = damaged_files(bank.path)
    known = {*bank.attributes["checksums"], *growing.LISTS, "zarr.json", growing.DATES}
    listed = store.list_files(bank.path) if store.has_lists(bank.path) else ()
    found = (file.name for file in listed)
    damaged += [
        f"{name} (no file of this bank: delete it)"
        for name in found
        if name not in known and not name.startswith("truth/")  # of a simulation
    ]
    if damaged:
        return damaged
    last = 0
    for start in range(0, len(bank.offsets), PART):
        part = bank.offsets[start : start + PART]
        if part[0] < last or (np.diff(part) < 0).any():
            return ["offsets (they do not ascend)"]
        last = int(part[-1])
    if last != bank.tokens.size:
        return [f"offsets (they end at token {last}, there are {bank.tokens.size})"]
    rows = sum(pq.read_metadata(bank.table(name)).num_rows for name in bank.tables)
    return (
        [] if rows == len(bank) else [f"metadata.parquet ({rows} rows for {len(bank)} sequences)"]
    )


def _lengths(bank: TokenBank) -> str:
    """Quantiles of the lengths, without boundaries, and a small histogram by factors of two."""
    extra = {"eos": 1, "bos_eos": 2}[bank.boundary]
    # of each length; the longest protein has 45,000 residues, so this stays small
    counts = np.zeros(1, np.int64)
    for start in range(0, len(bank), PART):
        lengths = np.diff(bank.offsets[start : min(start + PART, len(bank)) + 1]) - extra
        more = np.bincount(lengths)
        counts, more = (
            np.pad(part, (0, max(len(counts), len(more)) - len(part))) for part in (counts, more)
        )
        counts = counts + more
    if not counts.sum():
        return "lengths:           none"
    cumulative = counts.cumsum()
    quantiles = [
        int(np.searchsorted(cumulative, max(1, share * cumulative[-1])))
        for share in (0, 0.25, 0.5, 0.75, 0.95, 1)
    ]
    mean = (counts * np.arange(len(counts))).sum() / counts.sum()
    edges = [0, *(2**i for i in range(len(counts).bit_length() + 1))]
    lines = [
        "lengths:           "
        + ", ".join(
            f"{name} {value:,}"
            for name, value in zip(
                ("min", "25 %", "median", "75 %", "95 %", "max"), quantiles, strict=True
            )
        )
        + f", mean {mean:,.1f}"
    ]
    for low, high in itertools.pairwise(edges):
        count = int(counts[low:high].sum())
        if count:
            lines.append(
                f"  {low:>9,} to {high - 1:<9,} {count:>13,}"
                f" {'#' * max(1, round(50 * count / counts.sum()))}"
            )
    return "\n".join(lines)


def _composition(bank: TokenBank, quick: bool) -> str:
    total = min(bank.tokens.size, QUICK_TOKENS) if quick else bank.tokens.size
    counts, progress = np.zeros(256, np.int64), Progress("count tokens", total, "tokens")
    for start in range(0, total, PART):
        part = bank.tokens[start : min(start + PART, total)]
        counts += np.bincount(part, minlength=256)
        progress.update(len(part))
    words = bank.vocabulary.tokens
    listed = sorted(
        (i for i in range(len(SPECIALS), len(words)) if counts[i]), key=lambda i: -counts[i]
    )
    body = max(1, counts[len(SPECIALS) :].sum())
    shown = ", ".join(
        f"{words[i] if words[i].isprintable() else repr(words[i])} {counts[i] / body:.2%}"
        for i in listed[:30]
    )
    special = ", ".join(f"{words[i]} {counts[i]:,}" for i in range(len(SPECIALS)) if counts[i])
    strange = int(counts[len(words) :].sum())
    more = f" and {len(listed) - 30} more" if len(listed) > 30 else ""
    return f"composition:       {shown}{more}\nspecial tokens:    {special or 'none'}" + (
        f"\n{strange} tokens are in no vocabulary" if strange else ""
    )


def _first_records(bank: TokenBank) -> str:
    with pq.ParquetFile(bank.table("metadata.parquet")) as file:
        rows = next(file.iter_batches(FIRST, columns=METADATA_SCHEMA.names), None)
        rows = rows.to_pylist() if rows else []
    lines = []
    for index, row in enumerate(rows):
        ids, source = bank.sequence(index), row["source"] + ", " * bool(row["source"])
        text = bank.vocabulary.decode(ids[: SHOWN_TOKENS + 1])
        more = "..." if len(ids) > SHOWN_TOKENS + 2 else ""
        lines.append(
            f"record {index}:          {row['id']} ({source}length {row['length']:,})"
            f" {row['description'][:80]}"
        )
        lines.append(f"                   {text!r}{more}")
    return "\n".join(lines)
