"""FASTA, text, SMILES, tables or JSON lines become a token bank.

python -m phenomjax.prepare sequences --source uniref50.fasta.gz --out uniref50.zarr
python -m phenomjax.prepare sequences --source p.fasta --out p.zarr --cluster 0.3 --validation 0.01

What a file is, is told by its content. Exact duplicates are left out, and validation and test are
chosen by the hash of each sequence, so that more data move nothing between splits. Records that
cannot be read are in BANK/rejected.parquet, and the good ones are kept. The command can be killed
at any time and run again: the bank is the same, byte for byte.

Exit codes: 0 done; 1 done, but records were rejected; 2 a mistake in the options or the input; 75
stopped by a signal.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from phenomjax import __version__
from phenomjax.data import store, zarr_files
from phenomjax.data.sequences import mmseqs
from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.data.sequences.formats.asking import asking
from phenomjax.data.sequences.sources import SequenceFile
from phenomjax.engine import choose
from phenomjax.engine.units import Executor
from phenomjax.prepare import growing, publishing
from phenomjax.prepare.sequences import report
from phenomjax.prepare.sequences.clusters import ClusterFile
from phenomjax.prepare.sequences.job import SequenceJob, bucket_bits
from phenomjax.prepare.sequences.options import Options, arguments_of, check
from phenomjax.prepare.sequences.pieces import PieceSettings
from phenomjax.prepare.sequences.understanding import check_letters, understand
from phenomjax.system.errors import EXIT_STOPPED, UserError
from phenomjax.system.processes import core_count, stop_on_signals

log = logging.getLogger("phenomjax")
FASTAS = ("fasta", "pir", "pearson")
Share = Annotated[float, arg(metavar="SHARE")]


def run(options: Options) -> int:
    """Prepares a bank; returns the exit code: 0 done, 1 done with rejected records, 75 stopped by a
    signal.
    """
    check(options)
    if not options.source:
        raise UserError("`source` names no file. Give at least one.")
    if store.is_remote(options.out):
        return publishing.publish(
            options, options.out, lambda here: run(dataclasses.replace(options, out=here))
        )
    if options.cluster:
        mmseqs.find("--cluster", "; or leave --cluster out")
    with asking():
        sources, alphabet, column = understand(options)
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
    check_letters(options, sources, alphabet, column)
    arguments = arguments_of(options, sources, alphabet, column)
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


def _recorded(path: Path) -> growing.Arguments | None:
    return open_token_bank(path).attributes["options"].get("prepare")


def _stopped() -> int:
    log.warning("stopped. Run the same command again to continue.")
    return EXIT_STOPPED
