"""The work between a plan and a bank: percentiles, shards, and the end; can be killed at any time
and run again.

It works in OUT/.prepare: each finished image is one shard whose row in a staging array is a digest
of its files and of what was done to them, and one line in finished.jsonl. At the end the shards are
renamed into the order of the bank, so a rejected image leaves no hole, and the folder is the same
however often the job was interrupted.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.data import zarr_files
from phenomjax.data.images import bank
from phenomjax.prepare.images import eight_bit, metadata, raw_images
from phenomjax.prepare.images.plan import ImageFiles, ImagePlan, RejectedImage
from phenomjax.prepare.images.raw_images import Numbers
from phenomjax.prepare.work_folder import DONE
from phenomjax.system import processes
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.files import write_text
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")
BLOCK = 32  # images whose histograms are added up before they are written down
STAGED_ROWS = 2**60  # rows of the staging array


class ImageJob:
    """One run of the work.

    Args:
      out: the bank's folder.
      plan: what there is to do.
      source: where images come from; size and dtype are those of the bank.
      rule: how pixels become 8-bit.
      chunk: height and width of the inner chunks.
      codec: one of bank.CODECS.
      jobs: number of processes.
      strict: raise at the first bad image.
      stop: ends the work early when set.
    """

    def __init__(
        self,
        out: Path,
        plan: ImagePlan,
        source: raw_images.RawImages,
        rule: eight_bit.Rule,
        *,
        chunk: int,
        codec: str,
        jobs: int,
        strict: bool,
        stop: threading.Event,
    ):
        self.out, self.plan, self.source, self.rule, self.chunk, self.codec = (
            out,
            plan,
            source,
            rule,
            chunk,
            codec,
        )
        self.jobs, self.strict, self.stop = jobs, strict, stop
        self.work = out / zarr_files.UNFINISHED
        self.staged = self.work / "staged"
        self.dtype = source.dtype if rule.kind == "keep" else "uint8"
        self._create(self.staged, STAGED_ROWS, {})
        self._undo_finalize()

    def _create(self, path: Path, count: int, attributes: dict) -> None:
        shape = (count, *self.source.size, len(self.plan.channels))
        bank.create_bank(
            path,
            shape,
            self.dtype,
            self.plan.channels,
            attributes=attributes,
            chunk=self.chunk,
            codec=self.codec,
        )

    def intensity_numbers(self, known: dict[str, dict[str, list[int]]]) -> dict[tuple, Numbers]:
        """The numbers of the rule for each (experiment, plate); {} after a stop.

        Args:
          known: percentiles of an earlier bank, {plate label: {channel: (low, high)}}; those plates
            are not counted again.
        """
        plates: dict[tuple, list[ImageFiles]] = {}
        for entry in self.plan.entries:
            plates.setdefault(entry.key[:2], []).append(entry)
        if self.rule.kind == "keep":
            return dict.fromkeys(plates)
        if self.rule.kind == "range":
            return {
                plate: [(int(self.rule.low), int(self.rule.high))] * len(self.plan.channels)
                for plate in plates
            }
        folder = self.work / "histograms"
        folder.mkdir(exist_ok=True)
        numbers: dict[tuple, Numbers] = {}
        waiting, tasks = {}, []
        for plate, entries in plates.items():
            if set(self.plan.channels) <= known.get(_label(plate), {}).keys():
                pairs = (known[_label(plate)][channel] for channel in self.plan.channels)
                numbers[plate] = [(low, high) for low, high in pairs]
                continue
            blocks = [entries[i : i + BLOCK] for i in range(0, len(entries), BLOCK)]
            files = [
                folder / f"{self._digest([entry.stamp for entry in block])}.npz" for block in blocks
            ]
            summary = folder / f"{self._digest([file.name for file in files])}.json"
            waiting[plate] = (summary, files)
            if not summary.is_file():
                tasks += [
                    (file, block)
                    for file, block in zip(files, blocks, strict=True)
                    if not file.is_file()
                ]
        sizes = {file: len(block) for file, block in tasks}
        progress = Progress("intensity percentiles", sum(sizes.values()), "images")
        count = functools.partial(raw_images.count_pixels, self.source)
        for file, bad in processes.run_tasks(count, tasks, self.jobs, self.stop):
            if bad and self.strict:
                raise UserError(f"{bad}. (--strict stops at the first bad image.)", EXIT_FAILED)
            progress.update(sizes[file])
        if self.stop.is_set():
            return {}
        return numbers | {plate: self._percentiles(*files) for plate, files in waiting.items()}

    def _percentiles(self, summary: Path, files: list[Path]) -> Numbers:
        if not summary.is_file():
            total = np.zeros((len(self.plan.channels), 65536), np.int64)
            for file in files:
                with np.load(file) as block:
                    total += block["counts"]
            write_text(
                summary,
                json.dumps([eight_bit.percentile_range(counts, self.rule) for counts in total]),
            )
        for file in files:
            file.unlink(missing_ok=True)
        return [(low, high) for low, high in json.loads(summary.read_text())]

    def _digest(self, parts: list) -> str:
        described = (parts, self.source.size, self.source.dtype, self.source.planes, self.rule)
        return hashlib.sha256(repr(described).encode()).hexdigest()

    def staging_rows(self, numbers: dict[tuple, Numbers]) -> dict[int, ImageFiles]:
        """Each image by its row in the staging array, in the order of the plan."""
        return {
            int(self._digest([e.stamp, numbers[e.key[:2]]])[:15], 16): e for e in self.plan.entries
        }

    def write_images(
        self, rows: dict[int, ImageFiles], numbers: dict[tuple, Numbers]
    ) -> tuple[dict[int, str], list[RejectedImage]]:
        """Converts what is not finished yet.

        Returns:
          finished: {row in the staging array: checksum of the sources}, in the order of the plan.
          rejected: all that is bad, in the order of the plan.
        """
        journal = self.work / "finished.jsonl"
        there = {entry.name for entry in os.scandir(self.staged / "images")}
        written = {
            row: checksum
            for row, checksum in _read_journal(journal).items()
            if row in rows and bank.shard_path(self.staged, row).name in there
        }
        rejected: dict[int, RejectedImage] = {}
        progress = Progress("prepare images", len(rows), "images", done=len(written))
        tasks = [
            (row, entry, numbers[entry.key[:2]])
            for row, entry in rows.items()
            if row not in written
        ]
        write = functools.partial(raw_images.write_image, self.source, self.staged)
        with journal.open("a") as lines:
            for done in processes.run_tasks(
                write, tasks, min(self.jobs, max(len(tasks), 1)), self.stop
            ):
                progress.update()
                if done.rejected:
                    rejected[done.row] = done.rejected
                    if self.strict:
                        raise UserError(
                            f"{done.rejected}. (--strict stops at the first bad image.)",
                            EXIT_FAILED,
                        )
                    continue
                lines.write(json.dumps([done.row, done.checksum]) + "\n")
                lines.flush()
                written[done.row] = done.checksum
        finished = {row: written[row] for row in rows if row in written}
        return finished, self.plan.rejected + [rejected[row] for row in rows if row in rejected]

    def finalize(
        self,
        finished: dict[int, str],
        rejected: list[RejectedImage],
        numbers: dict,
        table: pa.Table,
        attributes: dict,
    ) -> None:
        """Renames the shards into the order of the bank and writes what describes them; may be
        killed and repeated.

        Args:
          finished: rows of the staging array, in the order of the bank.
          rejected: listed in rejected.parquet.
          numbers: of `intensity_numbers`, recorded.
          table: metadata of the finished images.
          attributes: more to record in the bank.
        """
        write_text(self.work / "order.json", json.dumps(list(finished)))
        self._create(
            self.out, len(finished), {"intensity": self._recorded_intensity(numbers)} | attributes
        )
        for index, row in enumerate(finished):
            os.replace(bank.shard_path(self.staged, row), bank.shard_path(self.out, index))
        bank.write_metadata(self.out, table)
        if rejected:
            write_rejected(self.out, rejected)
        # One rename finishes the bank; deleting the work folder may be killed half way without
        # harm.
        os.replace(self.work, self.out / DONE)
        shutil.rmtree(self.out / DONE)

    def _undo_finalize(self) -> None:
        """Takes shards back from an end that was killed: the source may have changed since, and the
        order with it.
        """
        order = self.work / "order.json"
        if order.is_file():
            for index, row in enumerate(json.loads(order.read_text())):
                shard = bank.shard_path(self.out, index)
                if shard.is_file():
                    os.replace(shard, bank.shard_path(self.staged, row))
            order.unlink()
        for name in (
            "rejected.parquet",
            "metadata.parquet",
            "metadata.parquet.partial",
            "zarr.json",
        ):
            (self.out / name).unlink(missing_ok=True)

    def _recorded_intensity(self, numbers: dict[tuple, Numbers]) -> dict:
        text = (
            "keep"
            if self.rule.kind == "keep"
            else f"{self.rule.kind}:{self.rule.low:g}:{self.rule.high:g}"
        )
        recorded: dict = {"rule": text, "source_dtype": self.source.dtype}
        if self.rule.kind != "keep":
            recorded["numbers"] = {
                _label(plate): dict(zip(self.plan.channels, pairs or [], strict=True))
                for plate, pairs in numbers.items()
            }
        return recorded


def _label(plate: tuple[str | None, ...]) -> str:
    return "/".join(part for part in plate if part)


def write_rejected(out: Path, rejected: list[RejectedImage]) -> Path:
    """Writes OUT/rejected.parquet: experiment, plate, well, site, file, reason, detail of each bad
    image.
    """
    columns = {name: [bad.key[i] for bad in rejected] for i, name in enumerate(metadata.KEYS)}
    columns |= {
        name: [getattr(bad, name) for bad in rejected] for name in ("file", "reason", "detail")
    }
    schema = pa.schema([(name, pa.string()) for name in columns])
    pq.write_table(pa.table(columns, schema=schema), out / "rejected.parquet")
    return out / "rejected.parquet"


def _read_journal(path: Path) -> dict[int, str]:
    """Reads {row: checksum}; cuts off a last line that a kill left half-written."""
    if not path.is_file():
        return {}
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(path, len(whole))
    return dict(json.loads(line) for line in whole.splitlines())
