"""python -m phenomjax.prepare sequences: FASTA, text, CSV or JSON lines to a token bank."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pyarrow.parquet as pq
from tyro.conf import arg

from phenomjax import __version__
from phenomjax.data import zarr_files
from phenomjax.data.sequences import mmseqs, records
from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.data.sequences.sources import SequenceFile, find_sources
from phenomjax.data.sequences.vocabulary import UNITS
from phenomjax.prepare import growing
from phenomjax.prepare.sequences.clusters import ClusterFile
from phenomjax.prepare.sequences.job import SequenceJob, bucket_bits
from phenomjax.prepare.sequences.pieces import PieceSettings
from phenomjax.system import files
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.options import unrecorded
from phenomjax.system.processes import core_count, stop_on_signals

log = logging.getLogger("phenomjax")
SHOWN = 5  # rejected records on the screen
Share = Annotated[float, arg(metavar="SHARE")]


@dataclass(frozen=True)
class Options:
    """Files of sequences, what is kept of them, how they are split, and the bank to make."""

    source: Annotated[tuple[Path, ...], arg(metavar="FILE [FILE ...]")]
    """files, plain or compressed with gzip or Zstandard"""

    out: Path
    """the bank to make, NAME.zarr"""

    format: Literal["fasta", "text", "csv", "jsonl"] | None = None
    """of the files: FASTA, one sequence a line, CSV or TSV with a header, or JSON lines (None: by
    the name or first letter of each file)"""

    alphabet: Literal["protein", "smiles", "bytes"] | None = None
    """tokens: protein by residue, smiles by atom, bytes of text such as source code (None: protein
    for FASTA and text, smiles for CSV, bytes for JSON lines)"""

    column: str = "smiles"
    """CSV: the column with the sequences"""

    field: Annotated[str, arg(metavar="FIELD[,FIELD]")] = "code"
    """JSON lines: the field with the sequences; the texts of several are joined"""

    id: Annotated[str | None, arg(metavar="NAME")] = None
    """CSV, JSON lines: the column or field with the ids (None: FILE:LINE)"""

    rare: Literal["x", "keep", "reject"] = "x"
    """protein: U, Z, O, B become X, keep ids of their own, or reject the sequence; J becomes X or
    rejects"""

    boundary: Literal["eos", "bos_eos"] = "eos"
    """tokens that bound each sequence: <eos> after it, or <bos> before it too"""

    min_length: int = 1
    """leave out shorter sequences, in tokens"""

    max_length: int | None = None
    """leave out longer sequences (None: keep all)"""

    max_ambiguous: Share = 1.0
    """protein: leave out sequences with a larger share of X, after `rare` (1: keep all)"""

    keep_duplicates: bool = False
    """keep equal sequences; otherwise the first one in the order of the files stays"""

    validation: Share = 0.01
    """of the sequences, chosen by the hash of each"""

    test: Share = 0.01
    """the same for the test split"""

    clusters: Annotated[Path | None, arg(metavar="TSV")] = None
    """split by cluster: a ..._cluster.tsv of MMseqs2, representative and member, a .clstr of CD-HIT
    or a .uc of UCLUST; the hash of the representative's id decides, and an id that is in no cluster
    stands for itself. Ids are looked up as they stand, then as MMseqs2 shortens them"""

    min_clustered: float = unrecorded(0.9)
    """the share of the sequences that must be in a cluster of `clusters`; with fewer, the file is
    another one's, and nothing is made"""

    min_cluster_ids: float = unrecorded(0.1)
    """the share of the ids of `clusters` that must be those of sequences, for the same reason"""

    cluster: Annotated[float | None, arg(metavar="IDENTITY")] = None
    """keep only the representatives of clusters at this identity, for instance 0.3; runs `mmseqs
    easy-linclust`, which must be on the PATH"""

    cluster_coverage: Share = 0.8
    """share of a member that must align with its representative"""

    jobs: int = unrecorded(0)
    """processes; plain FASTA files are divided among them, other files go one to a process (0:
    number of cores)"""


def run(options: Options) -> int:
    """Prepares a bank; returns the exit code: 0 done, 1 done with rejected records, 75 stopped by a
    signal.
    """
    _check(options)
    if not options.source:
        raise UserError("`source` names no file. Give at least one.")
    if options.cluster:
        mmseqs.find("--cluster", "; or leave --cluster out")
    sources = find_sources(list(options.source), options.format)
    alphabet = _alphabet(options, sources)
    if options.cluster and alphabet != "protein":
        raise UserError(
            f"`cluster` is for proteins, and these are {alphabet}. Leave it out; exact duplicates"
            " are left out anyway."
        )
    if alphabet != "protein" and any(source.kind == "fasta" for source in sources):
        raise UserError(
            f"FASTA files hold proteins here, not {alphabet}. Give {alphabet} one a line (`format`"
            " text), as CSV or JSON lines."
        )
    _check_columns(options, sources)
    arguments = _arguments(options, sources, alphabet)
    if growing.is_finished(options.out, arguments, "token bank", _recorded):
        return _report_finished(options.out)
    settings = PieceSettings(
        work=options.out / zarr_files.UNFINISHED,
        alphabet=alphabet,
        rare=options.rare,
        boundary=options.boundary,
        min_length=options.min_length,
        max_length=options.max_length,
        max_ambiguous=options.max_ambiguous,
        column=_columns(options, sources),
        name=options.id,
        validation=options.validation,
        test=options.test,
        bucket_bits=bucket_bits(sources),
        keep_duplicates=options.keep_duplicates,
        clusters=options.clusters is not None,
    )
    return prepare(options.out, sources, settings, arguments, options.jobs or core_count(), options)


def prepare(
    out: Path,
    sources: list[SequenceFile],
    settings: PieceSettings,
    arguments: dict,
    jobs: int,
    options: Options,
) -> int:
    """Runs the job in OUT/.prepare; returns the exit code.

    Args:
      out: the bank.
      sources: the files.
      settings: what becomes of them.
      arguments: what is recorded in the bank, and must be the same when it goes on.
      jobs: number of processes.
      options: of the clustering.
    """
    cluster_file = None
    if options.clusters:
        least = options.min_clustered, options.min_cluster_ids
        cluster_file = ClusterFile(options.clusters, *least)
    with growing.at_work(out, arguments), stop_on_signals() as stop:
        job = SequenceJob(out, sources, settings, jobs, stop)
        steps = (
            lambda: job.scan(cluster_file),
            lambda: job.check_clusters(cluster_file),
            job.deduplicate,
            lambda: job.reduce(options.cluster, options.cluster_coverage),
        )
        recorded: growing.Arguments = {"prepare": arguments | {"phenomjax": __version__}}
        if not job.is_assembled:
            for step in steps:
                step()
                if stop.is_set():
                    return _stopped()
            counts = job.counts()
            if not counts["kept"]:
                raise _nothing_kept(out, counts, job.write_rejected())
            recorded |= {"counts": counts}
            job.assemble()
            if stop.is_set():
                return _stopped()
        job.finish(recorded)
    return _report(out)


def _check(options: Options) -> None:
    if options.jobs < 0:
        raise UserError(
            f"`jobs` must be 1 or more, or 0 for the number of cores, not {options.jobs}."
        )
    if options.min_length < 1 or (
        options.max_length is not None and options.max_length < options.min_length
    ):
        raise UserError(
            f"`min_length` {options.min_length} and `max_length` {options.max_length} leave"
            " nothing: 1 <= min <= max."
        )
    shares = ("validation", "test", "max_ambiguous", "cluster", "cluster_coverage")
    for name in (*shares, "min_clustered", "min_cluster_ids"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"`{name}` is a share from 0 to 1, not {value:g}.")
    if options.cluster == 0:
        raise UserError(
            "`cluster` 0 would put all sequences into one cluster. Give an identity above 0, for"
            " instance 0.3."
        )
    # all of a bank may be held out, beside others to train on
    if options.validation + options.test > 1:
        raise UserError(
            f"`validation` {options.validation:g} and `test` {options.test:g} are more than all"
            " sequences together."
        )
    if options.clusters and options.cluster:
        raise UserError(
            "`clusters` splits by clusters that you have, `cluster` makes some and keeps one"
            " sequence of each: give one of the two."
        )
    if options.clusters and not options.clusters.is_file():
        raise UserError(
            f"There is no cluster file {options.clusters}. Name the ..._cluster.tsv that MMseqs2"
            " wrote."
        )


def _alphabet(options: Options, sources: list[SequenceFile]) -> str:
    if options.alphabet:
        return options.alphabet
    usual = {records.FORMATS[source.kind]: source for source in sources}
    if len(usual) > 1:
        named = ", ".join(
            f"{source.path.name} looks like {alphabet}" for alphabet, source in usual.items()
        )
        raise UserError(
            f"A bank has one alphabet, and the files differ: {named}. Say `alphabet`, or prepare"
            " them one by one."
        )
    return next(iter(usual))


def _columns(options: Options, sources: list[SequenceFile]) -> tuple[str, ...]:
    return (
        tuple(options.field.split(","))
        if any(s.kind == "jsonl" for s in sources)
        else (options.column,)
    )


def _check_columns(options: Options, sources: list[SequenceFile]) -> None:
    if {"csv", "jsonl"} <= {source.kind for source in sources}:
        raise UserError(
            "Prepare CSV and JSON lines one after the other: `column` is of the one, `field` of the"
            " other."
        )
    for source in sources:
        if source.kind in ("csv", "jsonl"):
            wanted = [*_columns(options, [source]), *([options.id] if options.id else [])]
            records.check_columns(source.path, source.kind, wanted)


def _arguments(options: Options, sources: list[SequenceFile], alphabet: str) -> growing.Arguments:
    """The arguments that decide what is in the bank, as they are recorded in it."""
    kinds = {source.kind for source in sources}
    found: growing.Arguments = {
        "source": [f"{source.path.resolve()} ({source.size} bytes)" for source in sources]
    }
    found |= {"format": sorted(kinds), "alphabet": alphabet}
    found |= {"column": options.column} if "csv" in kinds else {}
    found |= {"field": options.field} if "jsonl" in kinds else {}
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
    found |= {name: getattr(options, name) for name in [*names, "cluster"]}
    found |= {"cluster_coverage": options.cluster_coverage} if options.cluster else {}
    if options.clusters:
        found["clusters"] = (
            f"{options.clusters.resolve()} ({options.clusters.stat().st_size} bytes)"
        )
    return {name: value for name, value in found.items() if value not in (None, False, "")}


def _recorded(path: Path) -> growing.Arguments | None:
    return open_token_bank(path).attributes["options"].get("prepare")


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
            "%d sequences are in no cluster of the --clusters file; each stands for itself. They"
            " are listed in %s",
            counts["in_no_cluster"],
            out / "in_no_cluster.parquet",
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
        files.remove(out)
        return UserError(
            f"No sequence is left, so there is no bank. {describe_counts(counts)}. Widen"
            " `min_length`, `max_length` or `max_ambiguous`."
        )
    with pq.ParquetFile(rejected) as file:
        first = _rejection(next(file.iter_batches(1)).to_pylist()[0])
    return UserError(
        f"All records were rejected, so there is no bank. The first one: {first}. They are listed"
        f" in {rejected}. Mend the files and run the same command again; if they have another"
        f" format or alphabet, say so with `format` and `alphabet`, and delete {out} first.",
        EXIT_FAILED,
    )
