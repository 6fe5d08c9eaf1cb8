"""What `prepare sequences` says at its end, and what it exits with."""

import errno
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.data.sequences.vocabulary import UNITS
from phenomjax.prepare import growing, next_steps
from phenomjax.system import ending
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from phenomjax.system.log import counted

log = logging.getLogger("phenomjax")
SHOWN = 5  # rejected records on the screen


def finished(out: Path, verified: bool) -> int:
    """Says that there is nothing to do; returns the exit code.

    Args:
      out: the bank.
      verified: whether the content of its files was compared.
    """
    rejected = out / "rejected.parquet"
    bad = pq.read_metadata(rejected).num_rows if rejected.is_file() else 0
    how = "content" if verified else "size and date (--verify_sources compares the content)"
    if growing.SOURCES not in open_token_bank(out).attributes["options"]["prepare"]:
        how = "size (an older phenomjax recorded nothing of their content)"
    log.info(
        "%s is finished already: %s, %d rejected. Its files are the same by %s. Nothing to do.",
        out,
        counted(len(open_token_bank(out)), "sequence"),
        bad,
        how,
    )
    return EXIT_FAILED if bad else EXIT_DONE


def describe_counts(counts: dict[str, int]) -> str:
    """'2,100 records read: 2,099 kept, 1 duplicates, …' of a bank's options["counts"]."""
    parts = [
        f"{number:,} {name.replace('_', ' ')}"
        for name, number in counts.items()
        if number and name not in ("read", "repeated_ids", "as_x")
    ]
    read = counted(counts["read"], "record")
    text = f"{read} read: {', '.join(parts) or 'none kept'}"
    return re.sub(r"\b1 duplicates\b", "1 duplicate", text)


def made(out: Path) -> int:
    """Says what is in a new bank, and what is not; returns the exit code."""
    bank = open_token_bank(out)
    counts = bank.attributes["options"]["counts"]
    log.info("%s", describe_counts(counts))
    unit = UNITS[bank.vocabulary.name]
    spans = ", ".join(f"{name} {last - first:,}" for name, (first, last) in bank.splits.items())
    ending.wrote(
        out,
        f"{counted(len(bank), 'sequence')} ({spans}), {bank.tokens.size:,} {unit} and boundary"
        " tokens",
    )
    ending.note(sequences=len(bank), tokens=bank.tokens.size, counts=counts)
    if counts.get("as_x"):
        log.info(
            "%s residues are X: X in the files, or J, or with --rare x also U, Z, O and B",
            f"{counts['as_x']:,}",
        )
    if counts.get("repeated_ids"):
        log.warning(
            "%d sequences have an id that another one has too; all are in the bank, told apart by"
            " their place in metadata.parquet and the column `source`",
            counts["repeated_ids"],
        )
    if (left_out := out / "left_out.parquet").is_file():
        members = " and members of other clusters" if counts.get("in_other_clusters") else ""
        log.info("duplicates%s are listed in %s", members, left_out)
    if counts.get("in_no_cluster"):
        log.warning(
            "%s in no cluster of the --clusters file, each standing for itself: listed in %s",
            counted(counts["in_no_cluster"], "sequence"),
            out / "in_no_cluster.parquet",
        )
    rejected = out / "rejected.parquet"
    if rejected.is_file():
        log.error(
            "%d rejected, the other records are in the bank. All are listed in %s:%s",
            counts["rejected"],
            rejected,
            _first(rejected),
        )
    next_steps.look(out)
    next_steps.train([bank])
    return EXIT_FAILED if rejected.is_file() else EXIT_DONE


def _first(rejected: Path) -> str:
    """The first rejected records, one a line."""
    with pq.ParquetFile(rejected) as file:
        rows = next(file.iter_batches(SHOWN)).to_pylist()
        more = file.metadata.num_rows - len(rows)
    lines = "".join(f"\n  {number}. {_rejection(row)}" for number, row in enumerate(rows, 1))
    return lines + (f"\n  and {more} more" if more else "") + _hints(rejected)


def _hints(rejected: Path) -> str:
    """What may be done about rejected records, one a line."""
    gaps = dna = 0
    with pq.ParquetFile(rejected) as file:  # which may have millions of rows
        for part in file.iter_batches(columns=["reason", "detail"]):
            aligned = pc.match_substring(part["detail"], "is a gap of an alignment")
            gaps += pc.sum(aligned).as_py() or 0
            dna += pc.sum(pc.equal(part["reason"], "nucleotides")).as_py() or 0
    found = (
        (gaps, "have gaps, as rows of an alignment: --gaps strip takes the gaps out"),
        (dna, "look like DNA or RNA: translate them, or keep them with --accept_nucleotides"),
    )
    return "".join(
        f"\n  {count:,} {text} (with another --out, or --overwrite)"
        for count, text in found
        if count
    )


def _rejection(row: dict) -> str:
    name = f"record {row['id']} " if row["id"] else ""
    return f"{row['reason']}: {row['file']}, {name}at byte {row['offset']}: {row['detail']}"


def of_system(error: OSError, out: Path, sources: Sequence[Path]) -> UserError:
    """The error of a disk or a file, in the user's words.

    Args:
      error: what the system said.
      out: the bank.
      sources: the files that it is made of.
    """
    reason, where = error.strerror or str(error), str(error.filename or out)
    again = f"What is done is kept in {out}: mend that, and run the same command again."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = (
            f"The disk of {out} is full ({reason}). Preparing takes about twice the size of the"
            " text there until the bank is whole. What is done is kept: make room, and run the same"
            " command again."
        )
    elif where in map(str, sources):
        text = (
            f"{where} could not be read any more: {reason}. It was there when the job began, so it"
            f" was moved, or its disk is away. {again}"
        )
    elif isinstance(error, PermissionError):
        text = f"{where} may not be read or written by you: {reason}. {again}"
    else:
        text = f"{where}: {reason}. {again}"
    return UserError(text, EXIT_FAILED)


def nothing_kept(out: Path, counts: dict[str, int], rejected: Path | None) -> UserError:
    """Leaves nothing of a bank without sequences; returns the error.

    Args:
      out: the bank.
      counts: what became of the records.
      rejected: the list of rejected ones; None if there are none.
    """
    growing.abandon(out)
    if rejected is None:
        return UserError(
            f"No sequence is left, so there is no bank. {describe_counts(counts)}. Widen"
            " `min_length`, `max_length` or `max_ambiguous`."
        )
    with pq.ParquetFile(rejected) as file:
        first = _rejection(next(file.iter_batches(1)).to_pylist()[0])
    return UserError(
        f"All records were rejected, so there is no bank. The first one: {first}. They are listed"
        f" in {rejected}. Mend the files and run the same command again; if they have another"
        " format or alphabet, say so with `format` and `alphabet`.",
        EXIT_FAILED,
    )
