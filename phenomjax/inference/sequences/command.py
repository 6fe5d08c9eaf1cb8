"""Embeds sequences with a trained language model: one vector a protein, or one a residue.

python -m phenomjax.embed sequences --checkpoint runs/txl --source p.fasta.gz --out embeddings.zarr

The command can be killed at any time and run again: it goes on where it was. Equal sequences are
computed once, and the order of the records changes no number; other records in the same files may,
by rounding. Exit codes: 0 done; 1 done, but records were rejected; 2 a mistake in the arguments or
the input; 75 stopped by a signal.
"""

import contextlib
import dataclasses
import itertools
import logging
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import jax
from tyro.conf import FlagCreatePairsOff, arg

from phenomjax.data import store as stores
from phenomjax.data import zarr_files
from phenomjax.data.sequences.formats.asking import asking
from phenomjax.data.sequences.formats.guess import looks_like
from phenomjax.data.sequences.formats.letters import SAMPLE, Letters, check_proteins
from phenomjax.data.sequences.formats.recognise import check_words, head_lines, look
from phenomjax.data.sequences.sources import find_sources, first_texts
from phenomjax.engine import choose, units, work_folder
from phenomjax.engine.work_folder import Description
from phenomjax.inference.options import (
    EmbedOptions,
    check_numbers_and_folder,
    check_one_process,
)
from phenomjax.inference.sequences import (
    batches,
    cluster,
    queries,
    segments,
    store,
    table_queries,
)
from phenomjax.inference.sequences.embed import embed
from phenomjax.prepare import publishing
from phenomjax.system import ending, files
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError, less_at_once
from phenomjax.system.files import read_json
from phenomjax.system.log import counted
from phenomjax.system.processes import stop_on_signals
from phenomjax.trained import opening
from phenomjax.trained.model import SequenceModel

log = logging.getLogger("phenomjax")
# what differs, where the values say nothing
WORDS = {
    "fingerprint": "the sequences of `source`",
    "checkpoint_fingerprint": "the parameters of `checkpoint`",
    "step": "the step of `checkpoint`",
}
NOT_COMPARED = ("checkpoint", "format", "version")
NAMES = {"pooling": "pool"}  # that options have for what is recorded


@dataclass(frozen=True, kw_only=True)
class Options(EmbedOptions):
    """Of `python -m phenomjax.embed sequences`."""

    GROUPS: ClassVar[dict[str, str]] = {
        "format": "file",
        "dtype": "embedding",
        "batch_tokens": "machine",
    }

    source: Annotated[tuple[Path, ...], arg(metavar="FILE …")]
    """FASTA files, text with one sequence a line, tables (CSV, TSV, Parquet, .xlsx) or JSON lines;
    plain or compressed"""
    out: Path
    """what to write: NAME.zarr (array `embeddings` and metadata.parquet, rows in the order of the
    files), NAME.h5 (one dataset an id, as bio_embeddings reads; for biotrainer:
    phenomjax.probes.biotrainer) or NAME.npz (one array an id); the keys of the last two are listed
    in OUT.keys.csv"""
    format: Literal["fasta", "text", "named", "smi", "csv", "jsonl"] | None = None
    """of the files: FASTA, one sequence a line, a name and a sequence a line, a SMILES and a name a
    line, a table with a header, or JSON lines (None: by the beginning and the name of each file)"""
    column: Annotated[str | None, arg(metavar="NAME")] = None
    """tables, JSON lines: the column or field with the sequences (None: found by its name, such as
    sequence, seq, smiles, and told)"""
    id: Annotated[str | None, arg(metavar="NAME")] = None
    """tables, JSON lines: the column or field with the ids (None: found by its name, such as id,
    name, entry, else FILE:LINE)"""
    no_header: FlagCreatePairsOff[bool] = False
    """tables: the first line is a row; columns are called 1, 2, 3"""
    gaps: Literal["strip", "reject"] | None = None
    """alignments (A2M, A3M, FASTA with gaps): take '-' and '.' out, or reject sequences that have
    them (None: an alignment is an error)"""
    accept_nucleotides: bool = False
    """take sequences of which over 95 % are A, C, G, T, U or N as proteins; otherwise they are
    rejected as DNA or RNA"""
    dtype: Literal["float16", "float32"] = "float32"
    """of the result"""
    per: Literal["protein", "residue"] = "protein"
    """what a vector stands for"""
    pool: Literal["mean", "max"] = "mean"
    """over the residues, per protein"""
    layer: Annotated[int | None, arg(metavar="N")] = None
    """0 = the embedding, then the layers; None: the last one, ELMo: the sum of all"""
    batch_tokens: Annotated[int, arg(metavar="N")] = 0
    """of a batch, padding included; less if memory runs out; 0: 16384, 2048 on a CPU"""
    segment_len: Annotated[int, arg(metavar="N")] = 0
    """longer proteins are read by segments of N tokens with the model's memory or states; 0: as in
    the run's evaluation; ELMo, which no segmentation changes: 512"""


@less_at_once("batch_tokens")
def run(options: Options) -> int:
    """Embeds; returns the exit code.

    Raises:
      UserError: a mistake in the options or the input.
    """
    if not options.source:
        raise UserError("Nothing to embed is named. Give `source` FILE.")
    if stores.is_remote(options.out):
        return publishing.publish(
            options, options.out, lambda here: run(dataclasses.replace(options, out=here))
        )
    out, kind = options.out, store.output_format(options.out)
    check_numbers_and_folder(options, out, batch_tokens=0, segment_len=0, devices=0)
    check_one_process(options)
    if options.engine != "local":
        jax.config.update("jax_platforms", "cpu")  # devices are the workers'
    model = opening.load_sequences(options.checkpoint, options.compute_dtype)
    layers = model.task.num_feature_layers
    if options.layer is not None and not 0 <= options.layer < layers:
        raise UserError(
            f"`layer` {options.layer}: this model has layers 0 (the embedding) to {layers - 1}."
        )
    is_local = options.engine == "local"
    devices = cluster.chosen_devices(options.devices if is_local else 1)
    work = out.with_name(out.name + ".partial")
    _check_letters(options, model.task.words.name)
    pool = None if options.per == "residue" else options.pool
    task = cluster.Task(
        str(stores.absolute(options.checkpoint)),
        options.compute_dtype,
        model.fingerprint,
        options.layer,
        pool,
        options.dtype,
        options.devices,
    )
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        stack.enter_context(work_folder.hold(work))
        workers = stack.enter_context(contextlib.ExitStack())
        executor = workers.enter_context(choose.executor(options, stores.absolute(work)))
        spool = work / f"{files.PARTIAL}tokens"
        found = queries.read(
            list(options.source),
            model.task.words.name,
            model.task.rare,
            spool,
            options.format,
            wanted_columns(options),
            gaps=options.gaps or "reject",
            nucleotides=options.accept_nucleotides,
        )
        store.check_ids(found, kind)
        seen: units.Note | None
        if is_local:
            seen = cluster.machine(model, options.devices)
        else:
            seen = _recorded(out, kind, work)
            seen = seen or cluster.look(executor, stores.absolute(work), task, stop)
        if seen is None:
            return _stopped()
        description = _describe(options, model, found, seen)
        if _finished(out, kind, description, work):
            return _code(found)
        settings, place = _compared(description)
        work_folder.begin(work, settings, place, WORDS)
        os.replace(spool, work / "tokens")  # the same bytes as those that workers may be reading
        features = segments.SegmentFeatures(model, options.layer, pool, options.dtype, devices)
        per_residue = options.per == "residue"
        rows = store.FeatureStore(work, found, features.dim, options.dtype, per_residue)
        plan = batches.plan(
            found.lengths[found.order] + sum(map(len, model.task.boundary)),
            description["segment_len"],
            description["batch_tokens"],
            description["devices"],
        )
        if is_local:
            numbers = [i for _, unit in rows.units(plan) for i in unit if i >= rows.saved]
            whole = embed(found, features, rows, plan, numbers, stop)
        else:
            task = task._replace(
                precision=description["compute_dtype"],
                devices=description["devices"],
            )
            whole = cluster.embed(executor, stores.absolute(work), task, found, rows, plan, stop)
        if not whole:
            return _stopped()
        workers.close()
        rows.take_all(plan)
        rows.finish(out, kind, description)
    _report(out, found, features.dim, options)
    return _code(found)


def wanted_columns(options: Options) -> table_queries.Wanted:
    """What the options say of tables and JSON lines."""
    return table_queries.Wanted(options.column, options.id, not options.no_header)


def _check_letters(options: Options, alphabet: str) -> None:
    """Looks whether the first lines of texts are one word each, and the first sequences of each
    file proteins, if the model reads proteins.
    """
    with asking():
        sources = find_sources(list(options.source), options.format)
        for source in sources:
            if source.kind == "text" and alphabet != "bytes":
                lines = head_lines(look(source.path))
                check_words(source.path, [line for line in lines if line.strip()])
    for source in sources if alphabet == "protein" else ():
        texts: Iterable[str] = first_texts(source)
        if source.kind in ("csv", "table", "jsonl"):
            texts = table_queries.first_texts(source, alphabet, wanted_columns(options))
        texts = list(itertools.islice(texts, SAMPLE))
        # CCO would be two cysteines and a pyrrolysine.
        said = source.kind == "smi" or "smiles" in (options.column or "").lower()
        signs = said or any(re.search(r"[a-z()=#\[\d]", text) for text in texts)
        named = source.kind in ("smi", "named", "text", "csv", "table", "jsonl")
        if named and signs and looks_like(texts) == "smiles":
            raise UserError(
                f"{source.path} holds SMILES, and the model of `checkpoint` reads proteins. Give a"
                " file of proteins, or the run of a model of SMILES (configs/smiles_txl.py)."
            )
        found = Letters.of(texts)
        check_proteins(source.path, found, options.gaps, options.accept_nucleotides)


def _stopped() -> int:
    log.info("stopped; the same command goes on from here")
    return EXIT_STOPPED


def _recorded(out: Path, kind: str, work: Path) -> Description | None:
    """What those said who began the work or made the result, if any did."""
    before: Description = {}
    if out.exists() and kind == "zarr":
        before = zarr_files.read_entry(out)
    elif (work / work_folder.DESCRIPTION).is_file():
        before = read_json(work / work_folder.DESCRIPTION)
    if not before and out.exists():  # something else, as will be said
        return {"batch_tokens": 0, "devices": 0, "compute_dtype": ""}
    return before if "batch_tokens" in before else None


def _describe(
    options: Options, model: SequenceModel, found: queries.Queries, seen: Description
) -> Description:
    """What decides the numbers, as it is recorded beside them; `seen` on the machine."""
    return {
        "checkpoint": str(model.path),
        "checkpoint_fingerprint": model.fingerprint,
        "step": model.step,
        "task": model.config.task,
        "per": options.per,
        "pooling": options.pool if options.per == "protein" else "none",
        "layer": "default" if options.layer is None else options.layer,
        "dtype": options.dtype,
        "compute_dtype": seen["compute_dtype"],
        "batch_tokens": options.batch_tokens or seen["batch_tokens"],
        "segment_len": options.segment_len or model.task.inference_segment_len,
        "devices": options.devices or seen["devices"],
        "fingerprint": found.fingerprint,
    }


def _compared(description: Description) -> tuple[Description, Description]:
    """A description as (what decides the numbers, by the names of the options; the rest): a run may
    be moved.
    """
    settings = {NAMES.get(name, name): value for name, value in description.items()}
    rest = {name: settings.pop(name) for name in NOT_COMPARED if name in settings}
    return settings, rest


def _finished(out: Path, kind: str, description: Description, work: Path) -> bool:
    """Whether the result is there already; raises UserError if something else is."""
    if not out.exists():
        return False
    before: Description = {}
    if kind == "zarr":
        before = _compared(zarr_files.read_entry(out))[0]
    # killed between the last two steps
    elif (work / work_folder.DESCRIPTION).is_file():
        before = _compared(read_json(work / work_folder.DESCRIPTION))[0]
    if before == _compared(description)[0]:
        log.info("%s is there already, made with the same arguments; nothing to do", out)
        shutil.rmtree(work)
        return True
    raise UserError(f"`out` {out} is there already. Give another name, or remove it first.")


def _code(found: queries.Queries) -> int:
    return EXIT_FAILED if found.rejected else EXIT_DONE


def _report(out: Path, found: queries.Queries, dim: int, options: Options) -> None:
    rows = len(found) if options.per == "protein" else int(found.lengths.sum())
    ending.wrote(out, f"{counted(rows, 'vector')} of {dim} numbers, one a {options.per}")
    ending.note(rows=rows, dim=dim, rejected=len(found.rejected))
    if options.per == "protein":
        ending.then(
            "see what the model knows",
            "python -m phenomjax.evaluate --checkpoint {} --suite configs/eval/simulated.py"
            " --out report",
            options.checkpoint,
        )
    if found.rejected:
        listed = store.rejected_of(out, store.output_format(out))
        log.warning("rejected: %s, listed in %s", counted(len(found.rejected), "record"), listed)
