"""The work between sequence files and a token bank, in OUT/.prepare; can be killed at any time and
run again.

scan the files into pieces -> find duplicates -> (cluster) -> write the bank's files -> rename them
into OUT. The bank is the same, byte for byte, for any number of processes and however often the job
was interrupted.
"""

import functools
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from phenomjax.data.sequences import compiled, mmseqs
from phenomjax.data.sequences.bank import BOUNDARIES, SPLITS, write_description
from phenomjax.data.sequences.sources import SequenceFile
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.engine.work_folder import DONE
from phenomjax.prepare.sequences import assemble, clusters
from phenomjax.prepare.sequences.assemble import DROPPED, PieceList
from phenomjax.prepare.sequences.pieces import STOP, PieceSettings, scan
from phenomjax.system import processes
from phenomjax.system.files import write_text
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")
# of source files a bucket of hashes: some 10 million short sequences
BUCKET_INPUT_BYTES, MOST_BITS = 2**29, 12
COMPRESSION = 4  # how much larger a compressed file is than it looks, about


def bucket_bits(sources: list[SequenceFile]) -> int:
    """How many bits of the hash tell the bucket: so many that a bucket fits into memory."""
    total = sum(source.size * (COMPRESSION if source.compressed else 1) for source in sources)
    return min(MOST_BITS, max(0, ((total - 1) // BUCKET_INPUT_BYTES).bit_length()))


class SequenceJob:
    """One run of the work.

    Args:
      out: the bank's folder.
      sources: the files.
      settings: what becomes of them.
      jobs: number of processes.
      stop: ends the work early when set.
    """

    def __init__(
        self,
        out: Path,
        sources: list[SequenceFile],
        settings: PieceSettings,
        jobs: int,
        stop: threading.Event,
    ):
        self.out, self.sources, self.settings, self.jobs, self.stop = (
            out,
            sources,
            settings,
            jobs,
            stop,
        )
        self.work = settings.work
        self._assembled = self.work / "assembled.json"
        self._plan: PieceList | None = None
        (self.work / STOP).unlink(missing_ok=True)
        self._check_sources()
        for name in () if self.is_assembled else ("pieces", "ends", "duplicates", "bank/tokens"):
            (self.work / name).mkdir(parents=True, exist_ok=True)

    @property
    def is_assembled(self) -> bool:
        """Whether only the last renames are missing."""
        return self._assembled.is_file()

    def _check_sources(self) -> None:
        """Throws away what was made of files that have changed since."""
        stamps = [[str(s.path.resolve()), s.size, s.path.stat().st_mtime_ns] for s in self.sources]
        record = self.work / "sources.json"
        if record.is_file() and json.loads(record.read_text()) != stamps:
            log.warning(
                "the source files have changed since the job was interrupted: it begins again"
            )
            record.unlink()
            for path in self.work.iterdir():
                if path.name not in ("lock", "arguments.json"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            for name in ("tokens", "offsets"):
                shutil.rmtree(self.out / name, ignore_errors=True)
            for name in ("metadata.parquet", "rejected.parquet", "zarr.json"):
                (self.out / name).unlink(missing_ok=True)
        write_text(record, json.dumps(stamps))

    def _workers(self, tasks: int, part: int = 1) -> int:
        """Processes that are worth their start: one for each eighth of a piece, `part` times as
        much where the work is light.
        """
        size = sum(source.size for source in self.sources)
        return max(1, min(self.jobs, tasks, size * 8 // (self.settings.piece_bytes * part) + 1))

    def scan(self, cluster_file: Path | None) -> None:
        """Reads the files into pieces."""
        if cluster_file:
            log.info("reading the clusters of %s", cluster_file)
            clusters.build_table(cluster_file, self.work / "clusters")
        tasks, done = [], 0
        for source in sorted(
            self.sources, key=lambda source: (source.divided, -source.size)
        ):  # the longest tasks first
            if not source.divided:
                tasks += [] if self.settings.end(source).is_file() else [(source, 0)]
                done += source.size if self.settings.end(source).is_file() else 0
                continue
            for number in range(self._count(source)):
                if self.settings.piece(source.number, number).is_dir():
                    done += self._size(source, number)
                else:
                    tasks.append((source, number))
        progress = Progress(
            "read", sum(s.size for s in self.sources) // 1000, "kB", done=done // 1000
        )
        with _Watch(
            self.settings,
            [source for source, _ in tasks if not source.divided],
            progress,
            self.stop,
        ):
            run = functools.partial(scan, self.settings)
            for source, number in processes.run_tasks(
                run, tasks, self._workers(len(tasks)), self.stop
            ):
                if source.divided:
                    progress.update(self._size(source, number) // 1000)

    def _count(self, source: SequenceFile) -> int:
        if source.divided:
            return max(1, -(-source.size // self.settings.piece_bytes))
        return int(self.settings.end(source).read_text())

    def _size(self, source: SequenceFile, number: int) -> int:
        return min(source.size - number * self.settings.piece_bytes, self.settings.piece_bytes)

    @property
    def plan(self) -> PieceList:
        """All pieces, once they are there."""
        if self._plan is None:
            places = [
                (source.number, number)
                for source in self.sources
                for number in range(self._count(source))
            ]
            pieces = [self.settings.piece(*place) for place in places]
            self._plan = PieceList(
                self.settings, self.sources, pieces, [owner for owner, _ in places]
            )
        return self._plan

    def deduplicate(self) -> None:
        """Finds equal sequences, and marks what stays."""
        buckets, pieces = 2**self.settings.bucket_bits, len(self.plan.pieces)
        if not self.settings.keep_duplicates:
            self._run(assemble.find_duplicates, range(buckets), "find duplicates", "buckets", 4)
        if not self.stop.is_set():
            self._run(assemble.mark_wanted, range(pieces), "mark", "pieces", 64)

    def _run(
        self,
        function: Callable[[PieceList, int], int],
        tasks: range,
        label: str,
        unit: str,
        part: int,
    ) -> None:
        progress = Progress(label, len(tasks), unit)
        run = functools.partial(function, self.plan)
        for _ in processes.run_tasks(run, tasks, self._workers(len(tasks), part), self.stop):
            progress.update()

    def reduce(self, identity: float | None, coverage: float) -> None:
        """Keeps the representatives of clusters that MMseqs2 makes at an identity; None: nothing is
        done.
        """
        if identity is None:
            return
        folder = self.work / "linclust"
        folder.mkdir(exist_ok=True)
        fasta = folder / "sequences.fasta"
        if not fasta.is_file():
            self._write_fasta(fasta)
        found = mmseqs.linclust(fasta, folder, identity, coverage, self.jobs, self.stop)
        if found is None:
            return
        first = np.cumsum([0, *(len(assemble.read_wanted(piece)) for piece in self.plan.pieces)])
        chosen = np.memmap(folder / "chosen", np.uint8, "w+", shape=(max(1, int(first[-1])),))
        for batch in clusters.read_clusters(found):
            chosen[batch.column(0).cast("int64").to_numpy()] = 1
        for piece, start in zip(self.plan.pieces, first, strict=False):
            wanted = np.fromfile(piece / "wanted", np.uint8)
            wanted[chosen[start : start + len(wanted)] == 0] = DROPPED
            assemble.write_arrays(piece / "chosen", wanted)

    def _write_fasta(self, target: Path) -> None:
        """What is wanted so far, named by number."""
        letters = np.array(
            [ord(token) if len(token) == 1 else 0 for token in vocabulary("protein").tokens],
            np.uint8,
        )
        before, after = (len(part) for part in BOUNDARIES[self.settings.boundary])
        partial, first = target.with_suffix(".partial"), 0
        with partial.open("wb") as file:
            for piece in self.plan.pieces:
                wanted, sizes = (
                    assemble.read_wanted(piece),
                    assemble.read_lengths(piece).astype(np.int64) + before + after,
                )
                stops = sizes.cumsum()
                tokens = np.memmap(piece / "tokens", np.uint8, "r") if len(wanted) else stops
                for i in np.flatnonzero(wanted != DROPPED):
                    text = letters[
                        tokens[stops[i] - sizes[i] + before : stops[i] - after]
                    ].tobytes()
                    file.write(b">%d\n%b\n" % (first + i, text))
                first += len(wanted)
        os.replace(partial, target)

    def counts(self) -> dict[str, int]:
        """What became of the records: those of `pieces.summaries`, kept, duplicates, and those that
        clustering left out.
        """
        found, outcomes = assemble.summaries(self.plan)
        kept = sum(
            int((assemble.read_wanted(piece) != DROPPED).sum()) for piece in self.plan.pieces
        )
        single = sum(
            int((np.fromfile(piece / "wanted", np.uint8) != DROPPED).sum())
            for piece in self.plan.pieces
        )
        left_out = {
            "duplicates": found["records"] - single,
            "in_other_clusters": single - kept,
            "too_short": outcomes[compiled.TOO_SHORT],
            "too_long": outcomes[compiled.TOO_LONG],
            "too_ambiguous": outcomes[compiled.AMBIGUOUS],
            "rejected": found["rejected"],
        }
        read = kept + sum(left_out.values())
        return {"read": read, "kept": kept} | left_out | {"in_no_cluster": found["strangers"]}

    def write_rejected(self) -> Path | None:
        """Writes OUT/rejected.parquet where nothing else will be written; None if nothing was
        rejected.
        """
        _, _ = assemble.write_part(self.plan, assemble.make_layout(self.plan), ("rejected", 0))
        made, target = self.work / "bank" / "rejected.parquet", self.out / "rejected.parquet"
        if not pq.read_metadata(made).num_rows:
            return None
        os.replace(made, target)
        return target

    def assemble(self, options: dict) -> None:
        """Writes the files of the bank into OUT/.prepare/bank."""
        layout = assemble.make_layout(self.plan)
        tasks = assemble.parts(self.plan, layout)
        run = functools.partial(assemble.write_part, self.plan, layout)
        progress = Progress("write", len(tasks), "files")
        checksums: dict[str, str] = {}
        for _, made in processes.run_tasks(run, tasks, self._workers(len(tasks), 4), self.stop):
            progress.update()
            checksums |= made
        if self.stop.is_set() and progress.done < len(tasks):
            return
        pieces = len(self.plan.pieces)
        edges = [int(layout.records[split * pieces]) for split in range(len(SPLITS) + 1)]
        spans = {name: edges[i : i + 2] for i, name in enumerate(SPLITS)}
        ordered = dict(sorted(checksums.items(), key=lambda item: (len(item[0]), item[0])))
        words = vocabulary(self.settings.alphabet)
        write_description(
            self.work / "bank", words, self.settings.boundary, spans, options, ordered
        )
        rejected = self.work / "bank" / "rejected.parquet"
        if not pq.read_metadata(rejected).num_rows:
            rejected.unlink()
        write_text(self._assembled, "{}")

    def finalize(self) -> None:
        """Renames the files into OUT; one rename of the work folder finishes the bank."""
        for name in ("tokens", "offsets", "metadata.parquet", "rejected.parquet", "zarr.json"):
            if (self.work / "bank" / name).exists():
                os.replace(self.work / "bank" / name, self.out / name)
        os.replace(self.work, self.out / DONE)
        shutil.rmtree(self.out / DONE)


class _Watch:
    """A thread beside the workers: tells them to stop, and shows how far they are in files that are
    read from the beginning.
    """

    def __init__(
        self,
        settings: PieceSettings,
        sources: list[SequenceFile],
        progress: Progress,
        stop: threading.Event,
    ):
        self._settings, self._progress, self._stop = settings, progress, stop
        self._seen, self._done = {source: 0 for source in sources}, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.2):
            if self._stop.is_set():
                (self._settings.work / STOP).touch()
            for source, before in self._seen.items():
                position = self._settings.position(source)
                text = position.read_text() if position.is_file() else ""
                now = source.size if self._settings.end(source).is_file() else int(text or 0)
                if now > before:
                    self._progress.update((now - before) // 1000)
                    self._seen[source] = now
