"""python -m phenomjax.prepare images: raw microscopy files to an image bank.

The job can be killed at any time and run again. It works in OUT/.prepare: each finished image is one shard named by a
digest of its files and of what was done to them, and one line in finished.jsonl. At the end the shards are renamed into the
order of the bank, so a rejected image leaves no hole, and the folder is the same however often the job was interrupted.
"""

import argparse
import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax import __version__
from phenomjax.data import bank
from phenomjax.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.prepare import convert, intensity, layouts, metadata, workers
from phenomjax.prepare.plan import Entry, Plan, Rejected, make_plan
from phenomjax.progress import Progress

log = logging.getLogger("phenomjax")
BLOCK = 32  # images whose histograms are added up before they are written down
STAGED_ROWS = 2**60  # rows of the staging array: an image's row there is its digest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `images`."""
    add = parser.add_argument
    add("--source", type=Path, required=True, help="folder with the raw files (folders below it included)")
    add("--out", type=Path, required=True, help="the bank to make, NAME.zarr")
    add("--layout", required=True, help=f"names of the files: {', '.join(layouts.LAYOUTS)}")
    add(
        "--pattern",
        help="generic: regular expression with groups well (or row, column), plate, site, channel, experiment",
    )
    add("--default", action="append", default=[], metavar="GROUP=VALUE", help="for a group that the names leave out")
    add(
        "--channels",
        default="",
        metavar="ID=NAME,...",
        help="which channels, their names and order (default: layout's)",
    )
    add("--metadata", type=Path, help="CSV or Parquet, one row a well, joined by plate and well")
    add(
        "--rename",
        action="append",
        default=[],
        metavar="COLUMN=NAME",
        help="column of --metadata to a name of the bank's",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one value for all images the table says nothing of",
    )
    add("--experiment", help="same as --set experiment=...")
    add("--cell-type", help="same as --set cell_type=...")
    add("--intensity", help=f"range:LOW:HIGH, percentile:LOW:HIGH of each plate and channel, or keep (default: keep for "
        f"8-bit files, {intensity.DEFAULT_16_BIT.replace('%', '%%')} for 16-bit files)")  # fmt: skip
    add("--pixel-size-um", type=float, help="size of a pixel in micrometres, recorded in the bank")
    add("--chunk", type=int, default=128, help="height and width of the inner chunks in pixels (default 128)")
    add("--codec", default="blosc-lz4", help=f"{', '.join(bank.CODECS)} (default blosc-lz4)")
    add("--jobs", type=int, default=0, help="processes (default: number of cores)")
    add("--strict", action="store_true", help="stop at the first bad image instead of finishing the good ones")


def run(args: argparse.Namespace) -> int:
    """Prepares a bank; returns the exit code: 0 done, 1 done with rejected images, 75 stopped by a signal."""
    layout, out = layouts.find(args.layout), args.out
    rule = intensity.parse(args.intensity) if args.intensity else None
    if args.codec not in bank.CODECS:
        raise UserError(f"Unknown --codec {args.codec!r}{bank.did_you_mean(args.codec, bank.CODECS)}.")
    if args.chunk < 1:
        raise UserError(f"--chunk must be at least 1 pixel, not {args.chunk}.")
    defaults = metadata.parse_pairs(args.default, "--default", layouts.GROUPS[:5])
    constants = _constants(args)
    renames = metadata.parse_pairs(args.rename, "--rename", (*metadata.KEYS, *metadata.VALUES, "row", "column"))
    if renames and not args.metadata:
        raise UserError("--rename names columns of a --metadata table, and there is none. Add --metadata TABLE.")
    joiner = metadata.Joiner(args.metadata, renames) if args.metadata else None
    arguments = _arguments(args)
    if _is_finished(out, arguments):
        return _report_finished(out)
    channels = [item for item in args.channels.split(",") if item]
    plan = make_plan(args.source, layout, args.pattern, defaults, channels)
    log.info("%s: %d images, channels %s", args.source, len(plan.entries), ", ".join(plan.channels))
    if plan.rejected and (args.strict or not plan.entries):
        raise UserError(f"{plan.rejected[0]}.", EXIT_FAILED)
    if joiner:
        joiner.check_plates({entry.key[:2] for entry in plan.entries})
    source = convert.Source(args.source, layout.name == "ome-zarr", plan.planes)
    source = convert.probe(source, plan)
    if rule is None:
        rule = intensity.parse("keep" if source.dtype == "uint8" else intensity.DEFAULT_16_BIT)
    with _lock(out, arguments) as work, workers.stop_on_signals() as stop:
        job = _Job(args, arguments, plan, source, rule, work, stop)
        numbers = job.intensity_numbers()
        finished, rejected = job.write_images(numbers)
        if stop.is_set():
            done = len(finished)
            log.warning("stopped; %d of %d images are finished. The same command continues.", done, len(plan.entries))
            return EXIT_STOPPED
        if not finished:
            raise UserError(
                f"All {len(rejected)} images were rejected, so there is no bank. The first one: {rejected[0]}.",
                EXIT_FAILED,
            )
        entries = [(entry, finished[number]) for number, entry in job.numbered(numbers) if number in finished]
        job.finalize([number for number, _ in job.numbered(numbers) if number in finished], entries, rejected, numbers,
                     joiner, constants)  # fmt: skip
    return _report(out, len(entries), rejected)


def _constants(args: argparse.Namespace) -> dict:
    pairs = list(args.set)
    pairs += [f"experiment={args.experiment}"] if args.experiment else []
    pairs += [f"cell_type={args.cell_type}"] if args.cell_type else []
    parsed = metadata.parse_pairs(pairs, "--set", ("experiment", *metadata.VALUES))
    return {name: metadata.check_value(name, text, f"--set {name}={text}") for name, text in parsed.items()}


def _arguments(args: argparse.Namespace) -> dict:
    """The arguments that decide what is in the bank, as they are recorded in it."""
    names = ("layout", "pattern", "default", "channels", "rename", "set", "experiment", "cell_type", "intensity")
    found = {"source": str(args.source.resolve())}
    found |= {name: getattr(args, name) for name in (*names, "pixel_size_um", "chunk", "codec")}
    if args.metadata:
        digest = hashlib.sha256(args.metadata.read_bytes()).hexdigest()
        found |= {"metadata": str(args.metadata.resolve()), "metadata_sha256": digest}
    return {name: value for name, value in found.items() if value not in (None, [], "")}


def _check_same(out: Path, before: dict, now: dict) -> None:
    changed = [
        f"--{name.replace('_', '-')} was {before.get(name, 'not given')}, is now {now.get(name, 'not given')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise UserError(
            f"{out} was made with other arguments: {'; '.join(changed)}. Give the same arguments to continue, another --out for "
            f"a second bank, or delete {out} to start again."
        )


def _is_finished(out: Path, arguments: dict) -> bool:
    if not out.exists() or (out / bank.UNFINISHED).is_dir() or not any(out.iterdir()):
        return False
    if not (out / "zarr.json").is_file():
        raise UserError(f"--out {out} is there already and is no image bank. Give the name of a new folder, NAME.zarr.")
    before = bank.open_bank(out).attributes.get("prepare")
    if before is None:
        raise UserError(f"--out {out} is an image bank that another program wrote. Give the name of a new folder.")
    _check_same(out, {name: value for name, value in before.items() if name != "phenomjax"}, arguments)
    return True


def _report_finished(out: Path) -> int:
    count, rejected = len(bank.open_bank(out)), out / "rejected.parquet"
    bad = pq.read_metadata(rejected).num_rows if rejected.is_file() else 0
    log.info("%s is finished already: %d images, %d rejected. Nothing to do.", out, count, bad)
    return EXIT_FAILED if bad else EXIT_DONE


def _report(out: Path, count: int, rejected: list[Rejected]) -> int:
    log.info("wrote %s: %d images", out, count)
    if not rejected:
        return EXIT_DONE
    lines = "".join(f"\n  {i + 1}. {bad.reason}: {bad}" for i, bad in enumerate(rejected[:5]))
    more = f"\n  and {len(rejected) - 5} more" if len(rejected) > 5 else ""
    log.error(
        "%d rejected, the other %d images are in the bank. All are listed in %s:%s%s\n"
        "Training can use the bank as it is. To have the rejected images too, mend them, delete %s and run again.",
        len(rejected), count, out / "rejected.parquet", lines, more, out,
    )  # fmt: skip
    return EXIT_FAILED


@contextlib.contextmanager
def _lock(out: Path, arguments: dict) -> Iterator[Path]:
    """Takes OUT/.prepare for this process; it disappears with the last step of the job."""
    work = out / bank.UNFINISHED
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another process is preparing {out} now. Wait for it, or give another --out.") from error
        record = work / "arguments.json"
        if record.is_file():
            _check_same(out, json.loads(record.read_text()), arguments)
        else:
            _write_text(record, json.dumps(arguments))
        yield work


class _Job:
    """One run of the work between a plan and a bank."""

    def __init__(
        self, args, arguments: dict, plan: Plan, source: convert.Source, rule: intensity.Rule, work: Path, stop
    ):
        self.out, self.arguments, self.plan, self.source, self.rule = args.out, arguments, plan, source, rule
        self.work, self.stop, self.strict = work, stop, args.strict
        self.jobs = args.jobs or len(os.sched_getaffinity(0))
        self.chunk, self.codec, self.pixel_size_um = args.chunk, args.codec, args.pixel_size_um or plan.pixel_size_um
        self.staged = work / "staged"
        self.dtype = source.dtype if rule.kind == "keep" else "uint8"
        shape = (STAGED_ROWS, *source.size, len(plan.channels))
        bank.create_bank(self.staged, shape, self.dtype, plan.channels, chunk=self.chunk, codec=self.codec)
        self._undo_finalize()

    def _plates(self) -> dict[tuple, list[Entry]]:
        plates: dict[tuple, list[Entry]] = {}
        for entry in self.plan.entries:
            plates.setdefault(entry.key[:2], []).append(entry)
        return plates

    def intensity_numbers(self) -> dict[tuple, list[tuple[int, int]] | None]:
        """(low, high) of each channel for each (experiment, plate); None when pixels are kept."""
        plates = self._plates()
        if self.rule.kind == "keep":
            return dict.fromkeys(plates)
        if self.rule.kind == "range":
            return {plate: [(int(self.rule.low), int(self.rule.high))] * len(self.plan.channels) for plate in plates}
        folder = self.work / "histograms"
        folder.mkdir(exist_ok=True)
        numbers, tasks, waiting = {}, [], {}
        for plate, entries in plates.items():
            blocks = [entries[i : i + BLOCK] for i in range(0, len(entries), BLOCK)]
            files = [folder / f"{self._digest([e.stamp for e in block])}.npz" for block in blocks]
            summary = folder / f"{self._digest([file.name for file in files])}.json"
            if summary.is_file():
                numbers[plate] = [tuple(pair) for pair in json.loads(summary.read_text())]
                continue
            open_files = {file for file in files if not file.is_file()}
            waiting[plate] = (files, summary, open_files)
            tasks += [(file, block, plate) for file, block in zip(files, blocks, strict=True) if file in open_files]
        images = sum(len(block) for _, block, _ in tasks)
        progress = Progress("intensity percentiles", images, "images")
        plate_of = {file: (plate, len(block)) for file, block, plate in tasks}
        count = functools.partial(convert.count_pixels, self.source)
        work = ((file, block) for file, block, _ in tasks)
        for plate, (_, _, open_files) in list(waiting.items()):
            if not open_files:
                numbers[plate] = self._percentiles(*waiting.pop(plate)[:2])
        for file, _, bad in workers.run_tasks(count, work, self.jobs, self.stop):
            if bad and self.strict:
                raise UserError(f"{bad}.", EXIT_FAILED)
            plate, size = plate_of[file]
            progress.update(size)
            waiting[plate][2].discard(file)
            if not waiting[plate][2]:
                numbers[plate] = self._percentiles(*waiting.pop(plate)[:2])
        return {plate: numbers[plate] for plate in plates if plate in numbers}

    def _percentiles(self, files: list[Path], summary: Path) -> list[tuple[int, int]]:
        import numpy as np

        total = np.zeros((len(self.plan.channels), 65536), np.int64)
        for file in files:
            with np.load(file) as block:
                if len(block["counts"]):
                    total += block["counts"]
        found = [intensity.percentile_range(counts, self.rule) for counts in total]
        _write_text(summary, json.dumps(found))
        for file in files:
            file.unlink()
        return found

    def _digest(self, parts: list) -> str:
        described = (parts, self.source.size, self.source.dtype, self.source.planes, self.rule)
        return hashlib.sha256(repr(described).encode()).hexdigest()

    def numbered(self, numbers: dict) -> Iterator[tuple[int, Entry]]:
        """Each image with its row in the staging array: a digest of what goes in and what is done to it."""
        for entry in self.plan.entries:
            if entry.key[:2] in numbers:
                yield int(self._digest([entry.stamp, numbers[entry.key[:2]]])[:15], 16), entry

    def write_images(self, numbers: dict) -> tuple[dict[int, str], list[Rejected]]:
        """Converts what is not finished yet.

        Returns:
          finished: {row in the staging array: checksum of the sources}.
          rejected: in the order of the plan.
        """
        journal = self.work / "finished.jsonl"
        before = _read_journal(journal)
        finished = {
            n: before[n] for n, _ in self.numbered(numbers) if n in before and bank.shard_path(self.staged, n).is_file()
        }
        rejected: dict[int, Rejected] = {}
        progress = Progress("prepare images", len(self.plan.entries), "images", done=len(finished))
        tasks = ((n, entry, numbers[entry.key[:2]]) for n, entry in self.numbered(numbers) if n not in finished)
        tasks = list(tasks)
        write = functools.partial(convert.write_image, self.source, self.staged)
        with journal.open("a") as lines:
            for done in workers.run_tasks(write, iter(tasks), self.jobs, self.stop):
                progress.update()
                if done.rejected:
                    rejected[done.number] = done.rejected
                    log.error("rejected: %s", done.rejected)
                    if self.strict:
                        raise UserError(f"{done.rejected}. (--strict stops at the first bad image.)", EXIT_FAILED)
                    continue
                lines.write(json.dumps([done.number, done.checksum]) + "\n")
                lines.flush()
                finished[done.number] = done.checksum
        ordered = [rejected[n] for n, _ in self.numbered(numbers) if n in rejected]
        return finished, self.plan.rejected + ordered

    def finalize(self, rows: list[int], entries: list[tuple[Entry, str]], rejected, numbers, joiner, constants) -> None:
        """Renames the shards into the order of the bank and writes what describes them. May be killed and repeated."""
        table = _table(entries, joiner, constants)
        _write_text(self.work / "order.json", json.dumps(rows))
        attributes = {"intensity": self._recorded_intensity(numbers), "pixel_size_um": self.pixel_size_um}
        attributes["prepare"] = self.arguments | {"phenomjax": __version__}
        shape = (len(rows), *self.source.size, len(self.plan.channels))
        bank.create_bank(
            self.out, shape, self.dtype, self.plan.channels, attributes=attributes, chunk=self.chunk, codec=self.codec
        )
        for row, number in enumerate(rows):
            os.replace(bank.shard_path(self.staged, number), bank.shard_path(self.out, row))
        bank.write_metadata(self.out, table)
        if rejected:
            _write_rejected(self.out / "rejected.parquet", rejected)
        # In one rename the bank is finished: what is left of the work folder carries another name.
        trash = self.out / ".prepare_done"
        os.replace(self.work, trash)
        shutil.rmtree(trash)

    def _undo_finalize(self) -> None:
        """Takes shards back from an end that was killed: the source may have changed since, and the order with it."""
        order = self.work / "order.json"
        if not order.is_file():
            return
        for row, number in enumerate(json.loads(order.read_text())):
            shard = bank.shard_path(self.out, row)
            if shard.is_file():
                os.replace(shard, bank.shard_path(self.staged, number))
        for name in ("rejected.parquet", "metadata.parquet", "zarr.json"):
            (self.out / name).unlink(missing_ok=True)
        order.unlink()

    def _recorded_intensity(self, numbers: dict) -> dict:
        text = "keep" if self.rule.kind == "keep" else f"{self.rule.kind}:{self.rule.low:g}:{self.rule.high:g}"
        recorded = {"rule": text, "source_dtype": self.source.dtype}
        if self.rule.kind != "keep":
            recorded["numbers"] = {
                "/".join(part for part in plate if part): dict(zip(self.plan.channels, pairs, strict=True))
                for plate, pairs in numbers.items()
            }
        return recorded


def _table(entries: list[tuple[Entry, str]], joiner, constants: dict) -> pa.Table:
    keys = [entry.key for entry, _ in entries]
    columns, unmatched = metadata.describe(keys, joiner, constants)
    if joiner:
        rows = len(joiner.rows)
        log.info("%s: %d of %d rows have images", joiner.path, len(joiner.used), rows)
        if unmatched:
            names = ", ".join("/".join(part for part in key if part) for key in unmatched[:3])
            log.warning("%d of %d images have no row in %s, e.g. %s; their columns stay empty",
                        len(unmatched), len(keys), joiner.path, names)  # fmt: skip
        if not joiner.used:
            sample = ", ".join("/".join(key) for key in list(joiner.rows)[:2])
            raise UserError(
                f"No row of {joiner.path} fits an image: its keys ({', '.join(joiner.keys)}) are like {sample}, the images' "
                f"like {'/'.join(part for part in keys[0] if part)} (experiment, plate, well, site). Correct the table, or give "
                "the plate's name with --default plate=NAME."
            )
    columns |= {name: [key[i] for key in keys] for i, name in enumerate(metadata.KEYS) if name != "experiment"}
    columns["source"] = [";".join(entry.files) for entry, _ in entries]
    columns["checksum"] = [checksum for _, checksum in entries]
    return pa.table([pa.array(columns[f.name], f.type) for f in bank.METADATA_SCHEMA], schema=bank.METADATA_SCHEMA)


def _write_rejected(path: Path, rejected: list[Rejected]) -> None:
    columns = {name: [bad.key[i] for bad in rejected] for i, name in enumerate(metadata.KEYS)}
    columns |= {name: [getattr(bad, name) for bad in rejected] for name in ("file", "reason", "detail")}
    schema = pa.schema([(name, pa.string()) for name in columns])
    pq.write_table(pa.table(columns, schema=schema), path)


def _read_journal(path: Path) -> dict[int, str]:
    """Reads {row: checksum}; cuts off a last line that a kill left half-written."""
    if not path.is_file():
        return {}
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(path, len(whole))
    return dict(json.loads(line) for line in whole.splitlines())


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
