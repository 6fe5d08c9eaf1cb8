"""Copies a folder, a bank, any Zarr or a single file between file systems and object stores, and
verifies all of it.

python -m phenomjax.prepare mirror s3://archive/screen.zarr /data/screen.zarr
python -m phenomjax.prepare mirror /data/screen.zarr gs://bucket/screen.zarr --rate 500MB/s
python -m phenomjax.prepare mirror s3://archive/raw /data/raw --dry_run

The content of a folder goes into the destination. DST.manifest.parquet lists key, bytes, sha256 and
state of every object. Exit code 0: all is there and verified. Nothing is deleted, and what differs
in the destination is replaced only with --overwrite. The same command goes on after a kill, copies
nothing twice that was whole, and later brings what has come since. A large file on a disk goes on
in its middle; a large object in a store begins again, since parts of uploads belong to a process.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from phenomjax.data import store
from phenomjax.engine import choose
from phenomjax.engine.options import EngineOptions
from phenomjax.prepare.mirror import checks, dry_run, job, rate
from phenomjax.prepare.mirror.copying import Ends
from phenomjax.system import ending
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.log import counted, duration
from phenomjax.system.options import unrecorded
from phenomjax.system.processes import stop_on_signals

log = logging.getLogger("phenomjax")


@dataclass(frozen=True, kw_only=True)
class Options(EngineOptions):
    """Options of `prepare mirror`."""

    src: Positional[Annotated[str, arg(metavar="SRC")]]
    """folder or file, s3://…, gs://… or http(s)://…"""

    dst: Positional[Annotated[str, arg(metavar="DST")]]
    """folder or file, s3://… or gs://…; with "/" at the end a file goes into it"""

    only: Annotated[tuple[str, ...], arg(metavar="GLOB …|S.parquet|train|val")] = ()
    """copy a part: keys by patterns such as 'images/*'; of an image bank what the images of a
    selection need (`prepare subset`); of a bank what a split needs (images: by plates, a tenth for
    val). Descriptions and tables come along"""

    overwrite: bool = unrecorded(False)
    """replace what is in the destination with other content; without it that is listed"""

    rate: str = unrecorded("")
    """at most this over all workers: 500MB/s, 2GiB/s, 10Gb/s"""

    dry_run: bool = unrecorded(False)
    """copy nothing: tell objects, bytes and days"""

    lines: tuple[float, ...] = unrecorded((1.0, 10.0, 100.0))
    """Gb/s of the lines for which --dry_run tells days"""

    work: Annotated[str, arg(metavar="DIR")] = unrecorded("")
    """where the plan and the state of the work lie, on a disk that all workers see; default:
    DST.mirror beside a destination on a disk, NAME-….mirror in the present folder for one in a
    store"""


def run(options: Options) -> int:
    """Copies, and tells what became of it."""
    ends = _ends(options)
    if not ends.target.name:
        raise UserError(f"The destination {ends.target} has no name. Give a folder in it.")
    work = store.absolute(options.work) if options.work else job.default_work(ends.target)
    settings = {"only": list(options.only)}
    part = None
    if options.only:  # what reads banks is slow to import
        from phenomjax.prepare.mirror.wanted import wanted

        part = wanted(ends.source, options.only)
    checks.check(ends, work)  # before any worker is started
    goes_on = (work / "plan.json").is_file()
    if options.dry_run:
        return dry_run.tell(ends, part, options.lines)
    with (
        stop_on_signals() as stop,
        choose.executor(options, work) as executor,
    ):
        done = job.mirror(ends, executor, stop, work=work, settings=settings, wanted=part)
    if not done.manifest:
        log.info("stopped; the same command goes on. The state of the work is in %s", work)
        return EXIT_STOPPED
    code = report(ends, done)
    if code == EXIT_DONE and goes_on and (since := job.left(ends, part)):
        log.error(
            "%s of the source came or changed since this work was begun: run the same command again"
            " to copy that too",
            counted(since, "object"),
        )
        return EXIT_FAILED
    return code


def _ends(options: Options) -> Ends:
    source, target = _place(options.src), _place(options.dst)
    single = ""
    if store.is_file(source):
        bucket = store.is_remote(target) and not store.place(target)[2]
        if options.dst.endswith("/") or bucket or target.is_dir():
            target /= source.name
        single = target.name
    elif not (store.is_dir(source) or store.is_file(job.manifest_path(source))):
        web = "" if store.has_lists(source) else " On a web server a folder needs a manifest, or"
        raise UserError(
            f"There is no {store.url(source)}: neither a file nor a folder has this name."
            f"{web and web + ' must be a Zarr.'} Correct the source."
        )
    bound = rate.parse(options.rate) if options.rate else 0.0
    return Ends(source, target, single, options.overwrite, bound)


def _place(text: str) -> Path:
    """A location, the same one wherever a worker is."""
    path = Path(text)
    if store.is_remote(path):
        return path
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise UserError(
            f"{text} is no address that phenomjax knows: s3://…, gs://…, http(s)://…, or a path."
        )
    # "." and ".." have no name to put a manifest beside
    return path.resolve() if path.name in ("", "..") else path.absolute()


def report(ends: Ends, done: job.Outcome) -> int:
    """Tells what a mirror has done; returns the exit code."""
    log.info(
        "mirror: %s, %.2f GB, in %s: %d copied (%.2f GB in %s, %.1f MB/s), %d verified before",
        counted(done.objects, "object"),
        done.bytes / 1e9,
        store.url(ends.target),
        done.copied,
        done.copied_bytes / 1e9,
        duration(done.seconds),
        done.copied_bytes / done.seconds / 1e6,
        done.whole,
    )
    ending.wrote(done.manifest, "key, bytes, sha256 and state of each object")
    ending.note(objects=done.objects, bytes=done.bytes, copied=done.copied, states=done.states)
    if not done.states:
        return EXIT_DONE
    total = sum(done.states.values())
    lines = "".join(f"\n  {key}: {state}, {detail}" for state, key, detail in done.first_bad)
    more = total - len(done.first_bad)
    log.error(
        "%s not as in the source (%s); all else is there and verified:%s%s\n%s",
        counted(total, "object"),
        ", ".join(f"{count} {state}" for state, count in sorted(done.states.items())),
        lines,
        f"\n  and {more} more, in the manifest" if more else "",
        _mend(ends, done),
    )
    return EXIT_FAILED


def _mend(ends: Ends, done: job.Outcome) -> str:
    words = []
    if "differs" in done.states:
        places = f"{store.url(ends.source)} {store.url(ends.target)}"
        again = f"`python -m phenomjax.prepare mirror {places} --overwrite`"
        words.append(f"What differs stays; {again} replaces it.")
    if set(done.states) - {"differs"}:
        words.append("Mend the rest, and run the same command again: it copies what is missing.")
    return " ".join(words)
