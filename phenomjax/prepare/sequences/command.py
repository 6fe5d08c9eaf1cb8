"""python -m phenomjax.prepare sequences: FASTA, text, CSV or JSON lines to a token bank. The job
itself is in sequence_job.py.
"""

import argparse
import logging
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from phenomjax import __version__
from phenomjax.data import zarr_files
from phenomjax.data.sequences import mmseqs, records
from phenomjax.data.sequences.bank import BOUNDARIES, open_token_bank
from phenomjax.data.sequences.encode import RARE_RULES
from phenomjax.data.sequences.sources import SequenceFile, find_sources
from phenomjax.data.sequences.vocabulary import ALPHABETS, UNITS
from phenomjax.prepare.sequences.job import SequenceJob, bucket_bits
from phenomjax.prepare.sequences.pieces import PieceSettings
from phenomjax.prepare.work_folder import DONE, check_same, lock
from phenomjax.system import processes
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.processes import core_count

log = logging.getLogger("phenomjax")
SHOWN = 5  # rejected records on the screen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `sequences`."""
    add = parser.add_argument
    add(
        "--source",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="files, plain or compressed with gzip or Zstandard",
    )
    add("--out", type=Path, required=True, help="the bank to make, NAME.zarr")
    add(
        "--format",
        choices=records.FORMATS,
        help=(
            "of the files: FASTA, one sequence a line, CSV or TSV with a header, or JSON lines "
            "(default: by the name or first letter of each file)"
        ),
    )
    add(
        "--alphabet",
        choices=ALPHABETS,
        help=(
            "tokens: protein by residue, smiles by atom, bytes of text such as source code "
            "(default: protein for FASTA and text, smiles for CSV, bytes for JSON lines)"
        ),
    )
    add("--column", default="smiles", help="CSV: the column with the sequences (default smiles)")
    add(
        "--field",
        default="code",
        metavar="FIELD[,FIELD]",
        help=(
            "JSON lines: the field with the sequences; the texts of several are "
            "joined (default code)"
        ),
    )
    add(
        "--id",
        metavar="NAME",
        help="CSV, JSON lines: the column or field with the ids (default: FILE:LINE)",
    )
    add(
        "--rare",
        choices=RARE_RULES,
        default="x",
        help=(
            "protein: U, Z, O, B become X, keep ids of their own, or reject the sequence; "
            "J becomes X or rejects (default x)"
        ),
    )
    add(
        "--boundary",
        choices=BOUNDARIES,
        default="eos",
        help=(
            "tokens that bound each sequence: <eos> after it, or <bos> before it too (default eos)"
        ),
    )
    add(
        "--min-length",
        type=int,
        default=1,
        metavar="N",
        help="leave out shorter sequences, in tokens (default 1)",
    )
    add(
        "--max-length", type=int, metavar="N", help="leave out longer sequences (default: keep all)"
    )
    add(
        "--max-ambiguous",
        type=float,
        default=1.0,
        metavar="SHARE",
        help=(
            "protein: leave out sequences with a larger share of X, after "
            "--rare (default 1: keep all)"
        ),
    )
    add(
        "--keep-duplicates",
        action="store_true",
        help="keep equal sequences; otherwise the first one in the order of the files stays",
    )
    add(
        "--validation",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of the sequences, chosen by the hash of each (default 0.01)",
    )
    add(
        "--test",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="the same for the test split (default 0.01)",
    )
    add(
        "--clusters",
        type=Path,
        metavar="TSV",
        help=(
            "split by cluster: a ..._cluster.tsv of MMseqs2, representative and member; the hash "
            "of the representative's id decides, and an id that is in no cluster stands for itself"
        ),
    )
    add(
        "--cluster",
        type=float,
        metavar="IDENTITY",
        help=(
            "keep only the representatives of clusters at this identity, for instance 0.3; "
            "runs `mmseqs easy-linclust`, which must be on the PATH"
        ),
    )
    add(
        "--cluster-coverage",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="share of a member that must align with its representative (default 0.8)",
    )
    add(
        "--jobs",
        type=int,
        default=0,
        help=(
            "processes; plain FASTA files are divided among them, other files go one to a process "
            "(default: number of cores)"
        ),
    )


def run(args: argparse.Namespace) -> int:
    """Prepares a bank; returns the exit code: 0 done, 1 done with rejected records, 75 stopped by a
    signal.
    """
    _check(args)
    if args.cluster:
        mmseqs.find("--cluster", "; or leave --cluster out")
    sources = find_sources(args.source, args.format)
    alphabet = _alphabet(args, sources)
    if args.cluster and alphabet != "protein":
        raise UserError(
            f"--cluster is for proteins, and these are {alphabet}. Leave it out; exact duplicates"
            " are left out anyway."
        )
    if alphabet != "protein" and any(source.kind == "fasta" for source in sources):
        raise UserError(
            f"FASTA files hold proteins here, not {alphabet}. Give {alphabet} one a line (--format"
            " text), as CSV or JSON lines."
        )
    _check_columns(args, sources)
    arguments = _arguments(args, sources, alphabet)
    if _is_finished(args.out, arguments):
        return _report_finished(args.out)
    settings = PieceSettings(
        work=args.out / zarr_files.UNFINISHED,
        alphabet=alphabet,
        rare=args.rare,
        boundary=args.boundary,
        min_length=args.min_length,
        max_length=args.max_length,
        max_ambiguous=args.max_ambiguous,
        column=_columns(args, sources),
        name=args.id,
        validation=args.validation,
        test=args.test,
        bucket_bits=bucket_bits(sources),
        keep_duplicates=args.keep_duplicates,
        clusters=args.clusters is not None,
    )
    return prepare(args.out, sources, settings, arguments, args.jobs or core_count(), args)


def prepare(
    out: Path,
    sources: list[SequenceFile],
    settings: PieceSettings,
    arguments: dict,
    jobs: int,
    args: argparse.Namespace,
) -> int:
    """Runs the job in OUT/.prepare; returns the exit code.

    Args:
      out: the bank.
      sources: the files.
      settings: what becomes of them.
      arguments: what is recorded in the bank, and must be the same when it goes on.
      jobs: number of processes.
      args: of the clustering.
    """
    with lock(out, arguments), processes.stop_on_signals() as stop:
        job = SequenceJob(out, sources, settings, jobs, stop)
        steps = (
            lambda: job.scan(args.clusters),
            job.deduplicate,
            lambda: job.reduce(args.cluster, args.cluster_coverage),
        )
        if not job.is_assembled:
            for step in steps:
                step()
                if stop.is_set():
                    return _stopped()
            counts = job.counts()
            if not counts["kept"]:
                raise _nothing_kept(out, counts, job.write_rejected())
            job.assemble({"prepare": arguments | {"phenomjax": __version__}, "counts": counts})
            if stop.is_set():
                return _stopped()
        job.finalize()
    return _report(out)


def _check(args: argparse.Namespace) -> None:
    if args.jobs < 0:
        raise UserError(f"--jobs must be 1 or more, or 0 for the number of cores, not {args.jobs}.")
    if args.min_length < 1 or (args.max_length is not None and args.max_length < args.min_length):
        raise UserError(
            f"--min-length {args.min_length} and --max-length {args.max_length} leave nothing: 1 <="
            " min <= max."
        )
    for name in ("validation", "test", "max_ambiguous", "cluster", "cluster_coverage"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"--{name.replace('_', '-')} is a share from 0 to 1, not {value:g}.")
    if args.cluster == 0:
        raise UserError(
            "--cluster 0 would put all sequences into one cluster. Give an identity above 0, for"
            " instance 0.3."
        )
    if args.validation + args.test > 1:  # all of a bank may be held out, beside others to train on
        raise UserError(
            f"--validation {args.validation:g} and --test {args.test:g} are more than all sequences"
            " together."
        )
    if args.clusters and args.cluster:
        raise UserError(
            "--clusters splits by clusters that you have, --cluster makes some and keeps one"
            " sequence of each: give one of the two."
        )
    if args.clusters and not args.clusters.is_file():
        raise UserError(
            f"There is no cluster file {args.clusters}. Name the ..._cluster.tsv that MMseqs2"
            " wrote."
        )


def _alphabet(args: argparse.Namespace, sources: list[SequenceFile]) -> str:
    if args.alphabet:
        return args.alphabet
    usual = {records.FORMATS[source.kind]: source for source in sources}
    if len(usual) > 1:
        named = ", ".join(
            f"{source.path.name} looks like {alphabet}" for alphabet, source in usual.items()
        )
        raise UserError(
            f"A bank has one alphabet, and the files differ: {named}. Say --alphabet, or prepare"
            " them one by one."
        )
    return next(iter(usual))


def _columns(args: argparse.Namespace, sources: list[SequenceFile]) -> tuple[str, ...]:
    return (
        tuple(args.field.split(",")) if any(s.kind == "jsonl" for s in sources) else (args.column,)
    )


def _check_columns(args: argparse.Namespace, sources: list[SequenceFile]) -> None:
    if {"csv", "jsonl"} <= {source.kind for source in sources}:
        raise UserError(
            "Prepare CSV and JSON lines one after the other: --column is of the one, --field of the"
            " other."
        )
    for source in sources:
        if source.kind in ("csv", "jsonl"):
            wanted = [*_columns(args, [source]), *([args.id] if args.id else [])]
            records.check_columns(source.path, source.kind, wanted)


def _arguments(
    args: argparse.Namespace, sources: list[SequenceFile], alphabet: str
) -> dict[str, Any]:
    """The arguments that decide what is in the bank, as they are recorded in it."""
    kinds = {source.kind for source in sources}
    found: dict[str, Any] = {
        "source": [f"{source.path.resolve()} ({source.size} bytes)" for source in sources]
    }
    found |= {"format": sorted(kinds), "alphabet": alphabet}
    found |= {"column": args.column} if "csv" in kinds else {}
    found |= {"field": args.field} if "jsonl" in kinds else {}
    names = [
        "id",
        "rare",
        "boundary",
        "min_length",
        "max_length",
        "max_ambiguous",
        "keep_duplicates",
        "validation",
        "test",
    ]
    found |= {name: getattr(args, name) for name in [*names, "cluster"]}
    found |= {"cluster_coverage": args.cluster_coverage} if args.cluster else {}
    if args.clusters:
        found["clusters"] = f"{args.clusters.resolve()} ({args.clusters.stat().st_size} bytes)"
    return {name: value for name, value in found.items() if value not in (None, False, "")}


def _is_finished(out: Path, arguments: dict) -> bool:
    if (
        not out.exists()
        or (out / zarr_files.UNFINISHED).is_dir()
        or (out.is_dir() and not any(out.iterdir()))
    ):
        return False
    if not (out / "zarr.json").is_file():
        raise UserError(
            f"--out {out} is there already and is no token bank. Give the name of a new folder,"
            " NAME.zarr."
        )
    before = open_token_bank(out).attributes["options"].get("prepare")
    if before is None:
        raise UserError(
            f"--out {out} is a token bank that another program wrote. Give the name of a new"
            " folder."
        )
    check_same(
        out, {name: value for name, value in before.items() if name != "phenomjax"}, arguments
    )
    if (out / DONE).is_dir():  # killed while it tidied up
        shutil.rmtree(out / DONE)
    return True


def _stopped() -> int:
    log.warning("stopped. Run the same command again to continue.")
    return EXIT_STOPPED


def _report_finished(out: Path) -> int:
    rejected = out / "rejected.parquet"
    bad = pq.read_metadata(rejected).num_rows if rejected.is_file() else 0
    log.info(
        "%s is finished already: %d sequences, %d rejected. Nothing to do.",
        out,
        len(open_token_bank(out)),
        bad,
    )
    return EXIT_FAILED if bad else EXIT_DONE


def describe_counts(counts: dict[str, int]) -> str:
    """'2,100 records read: 2,099 kept, 1 duplicates, …' of a bank's options["counts"]."""
    parts = [
        f"{number:,} {name.replace('_', ' ')}"
        for name, number in counts.items()
        if number and name != "read"
    ]
    return f"{counts['read']:,} records read: {', '.join(parts) or 'none kept'}"


def _report(out: Path) -> int:
    made = open_token_bank(out)
    counts = made.attributes["options"]["counts"]
    log.info("%s", describe_counts(counts))
    unit = UNITS[made.vocabulary.name]
    spans = ", ".join(f"{name} {last - first:,}" for name, (first, last) in made.splits.items())
    log.info(
        "wrote %s: %d sequences (%s), %d %s and boundary tokens",
        out,
        len(made),
        spans,
        made.tokens.size,
        unit,
    )
    if counts.get("in_no_cluster"):
        log.warning(
            "%d sequences are in no cluster of the --clusters file; each stands for itself",
            counts["in_no_cluster"],
        )
    rejected = out / "rejected.parquet"
    if not rejected.is_file():
        return EXIT_DONE
    log.error(
        "%d rejected, the other records are in the bank. All are listed in %s:%s",
        counts["rejected"],
        rejected,
        _first(rejected),
    )
    return EXIT_FAILED


def _first(rejected: Path) -> str:
    """The first rejected records, one a line."""
    with pq.ParquetFile(rejected) as file:
        rows = next(file.iter_batches(SHOWN)).to_pylist()
        more = file.metadata.num_rows - len(rows)
    lines = "".join(f"\n  {number}. {_rejection(row)}" for number, row in enumerate(rows, 1))
    return lines + (f"\n  and {more} more" if more else "")


def _rejection(row: dict) -> str:
    name = f"record {row['id']} " if row["id"] else ""
    return f"{row['reason']}: {row['file']}, {name}at byte {row['offset']}: {row['detail']}"


def _nothing_kept(out: Path, counts: dict[str, int], rejected: Path | None) -> UserError:
    if rejected is None:
        shutil.rmtree(out)
        return UserError(
            f"No sequence is left, so there is no bank. {describe_counts(counts)}. Widen"
            " --min-length, --max-length or --max-ambiguous."
        )
    with pq.ParquetFile(rejected) as file:
        first = _rejection(next(file.iter_batches(1)).to_pylist()[0])
    return UserError(
        f"All records were rejected, so there is no bank. The first one: {first}. They are listed"
        f" in {rejected}. Mend the files and run the same command again; if they have another"
        f" format or alphabet, say so with --format and --alphabet, and delete {out} first.",
        EXIT_FAILED,
    )
