"""python -m phenomjax.prepare sequences: FASTA, text, SMILES, tables or JSON lines to a token
bank.
"""

import itertools
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from phenomjax import __version__
from phenomjax.data import store, zarr_files
from phenomjax.data.sequences import mmseqs
from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.data.sequences.formats.asking import asking
from phenomjax.data.sequences.formats.columns import check_fields, find_columns
from phenomjax.data.sequences.formats.guess import looks_like
from phenomjax.data.sequences.formats.letters import SAMPLE, Letters, check_proteins
from phenomjax.data.sequences.formats.recognise import (
    FORMATS,
    check_words,
    find_format,
    head_lines,
    look,
)
from phenomjax.data.sequences.sources import SequenceFile, find_sources, first_texts
from phenomjax.engine import choose
from phenomjax.engine.options import EngineOptions
from phenomjax.engine.units import Executor
from phenomjax.prepare import growing
from phenomjax.prepare.sequences import report
from phenomjax.prepare.sequences.clusters import ClusterFile
from phenomjax.prepare.sequences.job import SequenceJob, bucket_bits
from phenomjax.prepare.sequences.pieces import PieceSettings
from phenomjax.system.errors import EXIT_STOPPED, UserError
from phenomjax.system.options import unrecorded
from phenomjax.system.processes import core_count, stop_on_signals

log = logging.getLogger("phenomjax")
FASTAS = ("fasta", "pir", "pearson")
Share = Annotated[float, arg(metavar="SHARE")]


@dataclass(frozen=True, kw_only=True)
class Options(EngineOptions):
    """Files of sequences, what is kept of them, how they are split, and the bank to make."""

    source: Annotated[tuple[Path, ...], arg(metavar="FILE [FILE ...]")]
    """files, on disks or in stores (s3://, gs://, http://), plain or compressed with gzip,
    Zstandard, bzip2 or xz. FASTA is divided among the processes if it is plain, BGZF (`bgzip`) or
    Zstandard in the seekable format; other files go one to a process"""

    out: Path
    """the bank to make, NAME.zarr"""

    format: Literal["fasta", "text", "named", "smi", "csv", "jsonl"] | None = None
    """of the files: FASTA (also PIR and Pearson's), one sequence a line, a name and a sequence a
    line, a SMILES and a name a line, CSV or TSV (also Parquet, .xlsx) with a header, or JSON lines
    (None: by the beginning and the name of each file)"""

    alphabet: Literal["protein", "smiles", "bytes"] | None = None
    """tokens: protein by residue, smiles by atom, bytes of text such as source code (None: protein
    for FASTA and text, smiles for .smi, bytes for JSON lines; for CSV by the column)"""

    column: Annotated[str | None, arg(metavar="NAME")] = None
    """CSV: the column with the sequences (None: the one whose name says it, such as smiles,
    sequence or seq)"""

    no_header: FlagCreatePairsOff[bool] = False
    """CSV: the first line is a row; columns are called 1, 2, 3"""

    field: Annotated[str, arg(metavar="FIELD[,FIELD]")] = "code"
    """JSON lines: the field with the sequences; the texts of several are joined"""

    id: Annotated[str | None, arg(metavar="NAME")] = None
    """CSV, JSON lines: the column or field with the ids (None: FILE:LINE)"""

    rare: Literal["x", "keep", "reject"] = "x"
    """protein: U, Z, O, B become X, keep ids of their own, or reject the sequence; J becomes X or
    rejects"""

    gaps: Literal["strip", "reject"] | None = None
    """alignments (A2M, A3M, FASTA with gaps): take '-' and '.' out, or reject sequences that have
    them (None: an alignment is an error)"""

    accept_nucleotides: bool = False
    """take sequences of which over 95 % are A, C, G, T, U or N as proteins; otherwise they are
    rejected as DNA or RNA"""

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

    verify_sources: bool = unrecorded(False)
    """compare the content of all files with what the bank records; otherwise only that of files
    whose size or date is another one"""

    overwrite: bool = unrecorded(False)
    """where OUT was made or begun with other settings or files, make it again in its place; what is
    there stays until the new one is whole"""


def run(options: Options) -> int:
    """Prepares a bank; returns the exit code: 0 done, 1 done with rejected records, 75 stopped by a
    signal.
    """
    _check(options)
    if not options.source:
        raise UserError("`source` names no file. Give at least one.")
    if store.is_remote(options.out):
        raise UserError(
            f"`out` {store.url(options.out)} is in a store, where nothing can grow. Make the bank"
            " in a folder that all workers see, then copy it: python -m phenomjax.prepare mirror"
            f" {options.out.name} {store.url(options.out)}."
        )
    if options.cluster:
        mmseqs.find("--cluster", "; or leave --cluster out")
    with asking():
        sources, alphabet, column = _understand(options)
    if options.cluster and alphabet != "protein":
        raise UserError(
            f"`cluster` is for proteins, and these are {alphabet}. Leave it out; exact duplicates"
            " are left out anyway."
        )
    if alphabet != "protein" and any(source.kind in FASTAS for source in sources):
        raise UserError(
            f"FASTA files hold proteins here, not {alphabet}. Write a sequence and its name a line:"
            """ awk '/^>/ {name = substr($0, 2); next} {print $0 "\\t" name}' FILE > NEW.smi, and"""
            " name NEW.smi; or give CSV or JSON lines."
        )
    _check_letters(options, sources, alphabet, column)
    arguments = _arguments(options, sources, alphabet, column)
    if growing.is_finished(
        options.out,
        arguments,
        "token bank",
        _recorded,
        verify=options.verify_sources,
        overwrite=options.overwrite,
        otherwise="add --overwrite",
    ):
        return report.finished(options.out, options.verify_sources)
    settings = PieceSettings(
        work=options.out / zarr_files.UNFINISHED,
        alphabet=alphabet,
        rare=options.rare,
        boundary=options.boundary,
        min_length=options.min_length,
        max_length=options.max_length,
        max_ambiguous=options.max_ambiguous,
        column=column,
        name=options.id,
        validation=options.validation,
        test=options.test,
        bucket_bits=bucket_bits(sources),
        keep_duplicates=options.keep_duplicates,
        clusters=options.clusters is not None,
        gaps=options.gaps or "reject",
        nucleotides=options.accept_nucleotides,
    )
    try:
        return prepare(options.out, sources, settings, arguments, options)
    except OSError as error:
        raise report.of_system(error, options.out, options.source) from error


def prepare(
    out: Path,
    sources: list[SequenceFile],
    settings: PieceSettings,
    arguments: dict,
    options: Options,
) -> int:
    """Runs the job in OUT/.prepare; returns the exit code.

    Args:
      out: the bank.
      sources: the files.
      settings: what becomes of them.
      arguments: what is recorded in the bank, and must be the same when it goes on.
      options: of the clustering, and who does the work.
    """
    cluster_file = None
    if options.clusters:
        least = options.min_clustered, options.min_cluster_ids
        cluster_file = ClusterFile(options.clusters, *least)
    begun = {name: value for name, value in arguments.items() if name != "clusters"}
    with growing.at_work(out, begun, options.overwrite), stop_on_signals() as stop:
        verify = options.verify_sources
        job = SequenceJob(out, sources, settings, stop, options.clusters, verify)
        recorded: growing.Arguments = {}
        if not job.is_assembled:
            with choose.executor(options, settings.work) as executor:
                counts = _make(job, executor, cluster_file, options)
            if counts is None:
                return _stopped()
            stamps = {growing.SOURCES: [stamp.recorded() for stamp in job.stamps()]}
            recorded = {"prepare": arguments | stamps | {"phenomjax": __version__}}
            recorded |= {"counts": counts}
        job.finish(recorded)
    return report.made(out)


def _make(
    job: SequenceJob, executor: Executor, cluster_file: ClusterFile | None, options: Options
) -> dict[str, int] | None:
    """Does all steps up to the bank's files; returns the counts to record, None if it was stopped.

    Raises:
      UserError: nothing is left of the files.
    """
    threads = options.jobs or core_count()
    steps = (
        lambda: job.scan(executor, cluster_file),
        job.check_unchanged,
        lambda: job.deduplicate(executor),
        lambda: job.check_clusters(cluster_file),
        lambda: job.reduce(options.cluster, options.cluster_coverage, threads),
    )
    for step in steps:
        step()
        if job.stop.is_set():
            return None
    counts = job.counts()
    if not counts["kept"]:
        raise report.nothing_kept(job.out, counts, job.write_rejected())
    job.assemble(executor)
    return None if job.stop.is_set() else counts | job.repeated_ids()


def _check(options: Options) -> None:
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


def _understand(options: Options) -> tuple[list[SequenceFile], str, tuple[str, ...]]:
    """The files, their alphabet, and the columns or fields with the sequences.

    Raises:
      UserError: a file is nothing of the kind, or what it is cannot be told.
    """
    sources = find_sources(list(options.source), options.format)
    kinds = {source.kind for source in sources}
    if "jsonl" in kinds and kinds & {"csv", "table"}:
        raise UserError(
            "Prepare CSV and JSON lines one after the other: `column` is of the one, `field` of the"
            " other."
        )
    columns, usual = dict[str, Path](), dict[str, SequenceFile]()
    for number, source in enumerate(sources):
        alphabet = FORMATS.get(source.kind, "protein")
        if source.kind in ("csv", "table"):
            found = find_columns(
                find_format(source.path, options.format),
                options.column,
                options.id,
                options.alphabet,
                not options.no_header,
            )
            sources[number] = replace(source, form=found.form, header=not options.no_header)
            columns[",".join(found.names)] = source.path
            alphabet = found.alphabet or FORMATS["csv"]
            log.info(
                "%s: %ssequences are in column '%s', read as %s, ids %s",
                source.path,
                f"{found.said}; " if found.said else "",
                ",".join(found.names),
                options.alphabet or alphabet,
                f"in column '{options.id}'" if options.id else "are FILE:LINE (--id COLUMN)",
            )
        elif source.kind == "named" and looks_like(list(first_texts(source))) == "smiles":
            alphabet = "smiles"
            log.info("%s: names and SMILES", source.path)
        elif source.kind == "jsonl":
            fields = [*options.field.split(","), *([options.id] if options.id else [])]
            check_fields(source.path, fields, options.alphabet)
        elif source.kind == "text" and options.alphabet != "bytes":
            lines = head_lines(look(source.path))
            check_words(source.path, [line for line in lines if line.strip()])
        usual[alphabet] = source
    if len(columns) > 1:
        raise UserError(
            "The files have their sequences in columns of different names:"
            f" {', '.join(f'{name} ({path.name})' for name, path in columns.items())}. Prepare them"
            " one by one."
        )
    if options.alphabet is None and len(usual) > 1:
        named = ", ".join(
            f"{source.path.name} looks like {alphabet}" for alphabet, source in usual.items()
        )
        raise UserError(
            f"A bank has one alphabet, and the files differ: {named}. Say `alphabet`, or prepare"
            " them one by one."
        )
    column = tuple(columns) or tuple(options.field.split(","))
    return sources, options.alphabet or next(iter(usual)), column


def _check_letters(
    options: Options, sources: list[SequenceFile], alphabet: str, column: tuple[str, ...]
) -> None:
    """Looks at the first sequences of each file, before hours of work."""
    if alphabet != "protein":
        return
    for source in sources:
        texts = list(itertools.islice(first_texts(source, column), SAMPLE))
        if source.kind == "text" and options.alphabet is None and looks_like(texts) == "smiles":
            raise UserError(
                f"{source.path}: its first sequence, {texts[0][:30]!r}, looks like a SMILES, and"
                " text is read as proteins. Say which: --alphabet smiles, or --alphabet protein."
            )
        check_proteins(source.path, Letters.of(texts), options.gaps, options.accept_nucleotides)


def _arguments(
    options: Options, sources: list[SequenceFile], alphabet: str, column: tuple[str, ...]
) -> growing.Arguments:
    """The arguments that decide what is in the bank, as they are recorded in it."""
    kinds = {source.kind for source in sources}
    found: growing.Arguments = {"source": [growing.name(source.path) for source in sources]}
    found |= {"format": sorted(kinds), "alphabet": alphabet}
    found |= {"column": ",".join(column)} if kinds & {"csv", "table"} else {}
    found |= {"field": options.field} if "jsonl" in kinds else {}
    names = [
        "id",
        "no_header",
        "gaps",
        "accept_nucleotides",
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
    found |= {"clusters": str(options.clusters.resolve())} if options.clusters else {}
    return {name: value for name, value in found.items() if value not in (None, False, "")}


def _recorded(path: Path) -> growing.Arguments | None:
    return open_token_bank(path).attributes["options"].get("prepare")


def _stopped() -> int:
    log.warning("stopped. Run the same command again to continue.")
    return EXIT_STOPPED
