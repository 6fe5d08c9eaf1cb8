"""Embeds sequences with a trained language model: one vector a protein, or one a residue.
`phenomjax.embed` is its door.
"""

import argparse
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from phenomjax.inference.options import check_arguments
from phenomjax.inference.sequences import queries, segments
from phenomjax.inference.sequences import store as sequences_store
from phenomjax.inference.sequences.embed import embed
from phenomjax.system import locks
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.files import read_json
from phenomjax.system.processes import stop_on_signals
from phenomjax.trained import opening
from phenomjax.trained.model import SequenceModel

log = logging.getLogger("phenomjax")


def add_arguments(group: "argparse._ArgumentGroup") -> None:
    """The flags that belong to sequences alone."""
    add = group.add_argument
    add(
        "--source",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="FASTA files, or text with one sequence a line; plain, gzip, Zstandard",
    )
    add(
        "--per",
        choices=("protein", "residue"),
        default="protein",
        help="what a vector stands for (default protein)",
    )
    add(
        "--pool",
        choices=segments.POOLS,
        default="mean",
        help="over the residues, per protein (default mean)",
    )
    add(
        "--layer",
        type=int,
        metavar="N",
        help="0 = the embedding, then the layers (default: the last one, ELMo: the sum of all)",
    )
    add(
        "--batch_tokens",
        type=int,
        default=0,
        metavar="N",
        help="of a batch, padding included; less if memory runs out (default 16384, 2048 on a CPU)",
    )
    add(
        "--segment_len",
        type=int,
        default=0,
        metavar="N",
        help=(
            "longer proteins are read by segments of N tokens with the model's memory or "
            "states (default: as in the run's evaluation; ELMo, which no segmentation changes: 512)"
        ),
    )


def run(args: argparse.Namespace) -> int:
    """Embeds; returns the exit code.

    Raises:
      UserError: a mistake in the arguments or the input.
    """
    args.dtype = args.dtype or "float32"
    kind = sequences_store.output_format(args.out)
    check_arguments(args, batch_tokens=0, segment_len=0, devices=0)
    model = opening.load_sequences(args.checkpoint, args.compute_dtype)
    layers = model.task.num_feature_layers
    if args.layer is not None and not 0 <= args.layer < layers:
        raise UserError(
            f"--layer {args.layer}: this model has layers 0 (the embedding) to {layers - 1}."
        )
    devices = jax.local_devices()
    if args.devices > len(devices):
        raise UserError(
            f"--devices {args.devices}: this machine has {len(devices)} ({devices[0].device_kind})."
        )
    work = args.out.with_name(args.out.name + ".partial")
    with stop_on_signals() as stop, _hold(work):
        found = queries.read(args.source, model.task.words.name, model.task.rare, work / "tokens")
        sequences_store.check_ids(found, kind)
        description = _describe(args, model, found)
        if _finished(args.out, kind, description, work):
            return _code(found)
        _same_job(work / "job.json", description)
        features = segments.Features(
            model,
            args.layer,
            None if args.per == "residue" else args.pool,
            args.dtype,
            devices[: args.devices or None],
        )
        store = sequences_store.Store(work, found, features.dim, args.dtype, args.per == "residue")
        if not embed(
            found,
            model,
            features,
            store,
            description["segment_len"],
            description["batch_tokens"],
            len(devices[: args.devices or None]),
            stop,
        ):
            log.info("stopped; the same command goes on from here")
            return EXIT_STOPPED
        store.finish(args.out, kind, description)
    _report(args.out, found, features.dim, args.per)
    return _code(found)


def _describe(args: argparse.Namespace, model: SequenceModel, found: queries.Queries) -> dict:
    """What decides the numbers, as it is recorded beside them."""
    return {
        "checkpoint": str(model.path),
        "checkpoint_fingerprint": model.fingerprint,
        "step": model.step,
        "task": model.config.task,
        "per": args.per,
        "pooling": args.pool if args.per == "protein" else "none",
        "layer": "default" if args.layer is None else args.layer,
        "dtype": args.dtype,
        "compute_dtype": np.dtype(model.task.dtype).name,
        "batch_tokens": args.batch_tokens or segments.default_batch_tokens(),
        "segment_len": args.segment_len or model.task.inference_segment_len,
        "devices": args.devices or len(jax.local_devices()),
        "fingerprint": found.fingerprint,
    }


@contextmanager
def _hold(work: Path) -> Iterator[None]:
    """Keeps the work folder to this process; removes it again if nothing came of it."""
    with locks.hold(
        work, f"Another process is writing {work} now. Wait for it, or give another --out."
    ):
        try:
            yield
        finally:
            if work.is_dir() and not (work / "job.json").is_file():
                for path in (work / "tokens", work / "lock"):
                    path.unlink(missing_ok=True)
                work.rmdir()


def _differences(before: dict, now: dict) -> list[str]:
    """What differs between two descriptions; a run that was moved is the same."""
    names = {
        "fingerprint": "the sequences of --source",
        "checkpoint_fingerprint": "the parameters of --checkpoint",
        "step": "the step of --checkpoint",
    }
    differ = [name for name in now if before.get(name) != now[name] and name != "checkpoint"]
    return [
        names.get(name) or f"--{name} was {before.get(name)}, is now {now[name]}" for name in differ
    ]


def _same_job(path: Path, description: dict) -> None:
    """Raises UserError if the work folder was begun with other arguments or sequences."""
    if path.is_file():
        if differ := _differences(read_json(path), description):
            raise UserError(
                f"{path.parent} was begun with other arguments: {'; '.join(differ)}. Give the same"
                f" to go on, another --out, or delete {path.parent} to start again."
            )
        return
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(description, indent=2))
    os.replace(partial, path)


def _finished(out: Path, kind: str, description: dict, work: Path) -> bool:
    """Whether the result is there already; raises UserError if something else is."""
    if not out.exists():
        return False
    before: dict = {}
    if kind == "zarr" and (out / "zarr.json").is_file():
        before = (read_json(out / "zarr.json").get("attributes") or {}).get("phenomjax") or {}
    elif kind != "zarr" and (work / "job.json").is_file():  # killed between the last two steps
        before = read_json(work / "job.json")
    if before and not _differences(before, description):
        log.info("%s is there already, made with the same arguments; nothing to do", out)
        shutil.rmtree(work)
        return True
    raise UserError(f"--out {out} is there already. Give another name, or remove it first.")


def _code(found: queries.Queries) -> int:
    return EXIT_FAILED if found.rejected else EXIT_DONE


def _report(out: Path, found: queries.Queries, dim: int, per: str) -> None:
    rows = len(found) if per == "protein" else int(found.lengths.sum())
    rejected = f"; {len(found.rejected)} records were rejected, see above" if found.rejected else ""
    log.info("wrote %s: %d x %d, one row a %s%s", out, rows, dim, per, rejected)
