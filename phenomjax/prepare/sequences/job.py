"""The work between sequence files and a token bank, in OUT/.prepare; can be killed at any time and
run again.

scan the files into pieces -> find duplicates -> (cluster) -> write the bank's files -> hand them
over to OUT. Each step but the clustering is of units (phenomjax.engine), done by whatever executor
there is; this process holds some numbers a piece. The bank is the same, byte for byte, for any
number of processes and however often the job was interrupted.
"""

import functools
import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.data.sequences import compiled, mmseqs
from phenomjax.data.sequences.bank import BOUNDARIES, SPLITS, table_name, write_description
from phenomjax.data.sequences.sources import SequenceFile, first_ids
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.engine import work_folder
from phenomjax.engine.units import Argument, Executor, Note, Notes, Unit
from phenomjax.prepare import growing
from phenomjax.prepare.growing import Arguments
from phenomjax.prepare.sequences import cluster_files, clusters
from phenomjax.prepare.sequences.assembly import duplicates, parts, tables
from phenomjax.prepare.sequences.assembly.layout import BankLayout
from phenomjax.prepare.sequences.division import Division
from phenomjax.prepare.sequences.pieces import HASH, STOP, PieceSettings, scan, unit_of
from phenomjax.prepare.sequences.plan import (
    DROPPED,
    PieceList,
    read_lengths,
    read_wanted,
    write_arrays,
)
from phenomjax.prepare.sequences.reading import Reading
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")
# of source files a bucket of hashes: some 10 million short sequences
BUCKET_INPUT_BYTES, MOST_BITS = 2**29, 12
FIRST_FILES, ENOUGH_IDS = 20, 20  # whose first ids are looked up in the clusters, before the work
COMPRESSION = 4  # how much larger a compressed file is than it looks, about
SLOWER = (8, 1)  # how much longer other formats take than FASTA, about


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
      stop: ends the work early when set.
      clusters: the file of clusters that splits go by.
      verify: compare the content of the files with what was read before.
    """

    def __init__(
        self,
        out: Path,
        sources: list[SequenceFile],
        settings: PieceSettings,
        stop: threading.Event,
        clusters: Path | None = None,
        verify: bool = False,
    ):
        self.out, self.sources, self.settings = out, sources, settings
        self.stop, self.work, self.notes = stop, settings.work, Notes(settings.work)
        self._chosen: list[np.ndarray] = []  # by the clustering, records and tokens of each piece
        (self.work / STOP).unlink(missing_ok=True)
        self._files = [*(source.path for source in sources), *([clusters] if clusters else [])]
        self._check_sources(verify)
        for name in () if self.is_assembled else ("pieces", "positions"):
            (self.work / name).mkdir(exist_ok=True)

    @property
    def is_assembled(self) -> bool:
        """Whether the bank is only to be handed over."""
        return work_folder.result_path(self.work, self.out).exists()

    def stamps(self) -> list[growing.Stamp]:
        """The files that the bank is made of, the clusters last, with what is known of their
        content.
        """
        return [
            growing.Stamp.of(path, self._sha256(number)) for number, path in enumerate(self._files)
        ]

    def _sha256(self, number: int) -> str:
        name = f"sha256-{number}"
        return self.notes.read(name)["sha256"] if self.notes.is_committed(name) else ""

    def _check_sources(self, verify: bool) -> None:
        """Throws away what was made of files that have changed since."""
        now = self.stamps()
        known = {stamp.path: stamp.sha256 for stamp in now}
        assembled = self.is_assembled
        if not growing.goes_on(self.work, now, known, verify) and assembled:
            begun = ("tokens", "offsets", "zarr.json", *growing.LISTS)
            for name in (*begun, *(path.name for path in self.out.glob("metadata*.parquet"))):
                files.remove(self.out / name)  # that it had begun to hand over

    def check_unchanged(self) -> None:
        """Looks whether the files are still those that were read.

        Raises:
          UserError: one is not.
        """
        began = json.loads((self.work / "sources.json").read_text())
        began = [growing.Stamp(**row) for row in began]
        for before, now in zip(began, self.stamps(), strict=True):
            if before.dated() != now.dated():
                raise UserError(
                    f"{now.path} was changed while it was read. Run the same command again when it"
                    " is whole; it begins again by itself.",
                    EXIT_FAILED,
                )

    def _worth(self, tasks: int, part: int = 1) -> int:
        """How many processes are worth their start, which takes as long as a piece: one a piece,
        `part` times as much where the work is light.
        """
        size = sum(
            source.size * (COMPRESSION if source.compressed else 1) * SLOWER[source.kind == "fasta"]
            for source in self.sources
        )
        return max(1, min(tasks, size // (self.settings.piece_bytes * part) + 1))

    def scan(self, executor: Executor, cluster_file: clusters.ClusterFile | None) -> None:
        """Reads the files into pieces.

        Raises:
          UserError: the cluster file is another one's; or what ended every process that read it,
            when all else is read.
        """
        if cluster_file:
            log.info("reading the clusters of %s", cluster_file.path)
            clusters.build_table(cluster_file.path, self.work / "clusters")
            if not self.notes.is_committed(unit_of(self.sources[0], 0).name):
                self._check_first_ids(cluster_file)
        division = Division(self.settings, self.sources)
        division.find(executor, self.stop)
        sources = division.sources
        hashes = (
            Unit(f"sha256-{number}", (replace(sources[0], number=number, path=path), HASH))
            for number, path in enumerate(self._files)
        )
        most = self._worth(sum(map(division.count, sources)) + len(self._files))
        with Reading(self.settings, sources, self.notes, self.stop) as reading:
            run = functools.partial(scan, self.settings)
            for name, _ in executor.run(
                self.work,
                run,
                itertools.chain(division.units(), hashes),
                self.stop,
                aside=reading.set_aside,
                at_most=most,
            ):
                reading.finished(name)
        reading.check()
        if not self.stop.is_set():
            counts = [
                division.count(source)
                if source.divided
                else int(self.notes.read(unit_of(source, 0).name)["pieces"])
                for source in sources
            ]
            PieceList.write(self.work, counts, [source.name for source in sources])

    def _check_first_ids(self, file: clusters.ClusterFile) -> None:
        """Looks up the first ids of the files, before hours of work."""
        table = clusters.ClusterTable(self.work / "clusters")
        chosen = self.sources[:: -(-len(self.sources) // FIRST_FILES)]
        names = pa.array([name for source in chosen for name in first_ids(source)], pa.string())
        strangers = table.representatives(names).strangers
        if len(names) < ENOUGH_IDS:  # a few say nothing of shares
            return
        # The first ones are no sample: half of what must be found in all.
        lenient = replace(file, least=file.least / 2, least_of_ids=0.0)
        missing = names.filter(pa.array(strangers))
        known = len(names) - len(missing)
        clusters.check_share(lenient, table, known, len(missing), missing[:3].to_pylist())

    @property
    def plan(self) -> PieceList:
        """All pieces, when they are there."""
        return PieceList.read(self.settings)

    def deduplicate(self, executor: Executor) -> None:
        """Finds equal sequences, and marks what stays."""
        plan, before = self.plan, "merged-" if self.plan.merged else ""
        if not self.settings.keep_duplicates:
            if plan.merged:
                self._run(executor, duplicates.merge, "merge", plan.shelves, "shelves", 4)
            buckets, name = 2**self.settings.bucket_bits, f"{before}duplicates"
            self._run(executor, duplicates.find, name, buckets, "buckets", 4)
        part = 1 if plan.merged else 64
        self._run(executor, duplicates.mark, f"{before}marked", plan.shelves, "shelves", part)

    def _run(
        self,
        executor: Executor,
        function: Callable[[PieceSettings, Path, int], Note],
        name: str,
        count: int,
        unit: str,
        part: int,
    ) -> None:
        """Does what is not committed of the units NAME-0, NAME-1, …, unless it was stopped."""
        if self.stop.is_set():
            return
        units = (Unit(f"{name}-{number}", number) for number in range(count))
        self._do(executor, function, units, Progress(name, count, unit), part)

    def _do(
        self,
        executor: Executor,
        function: Callable[[PieceSettings, Path, Argument], Note],
        units: Iterable[Unit[Argument]],
        progress: Progress,
        part: int,
    ) -> None:
        run = functools.partial(function, self.settings)
        most = self._worth(progress.total, part)
        for _ in executor.run(self.work, run, units, self.stop, at_most=most):
            progress.update()

    @functools.cached_property
    def _marks(self) -> list[Note]:
        """What marking the pieces of each shelf found."""
        before = "merged-" if self.plan.merged else ""
        return [self.notes.read(f"{before}marked-{n}") for n in range(self.plan.shelves)]

    def _summary(self) -> dict[str, int]:
        """The counts of all pieces, added up."""
        names = self._marks[0]["summary"]
        return {name: sum(mark["summary"][name] for mark in self._marks) for name in names}

    def check_clusters(self, file: clusters.ClusterFile | None) -> None:
        """Looks whether the cluster file has the sequences of all pieces.

        Raises:
          UserError: too few.
        """
        if file is None or not (found := self._summary())["records"]:
            return
        examples = [name for mark in self._marks for name in mark["strangers"]]
        table = clusters.ClusterTable(self.work / "clusters")
        known = found["records"] - found["strangers"]
        clusters.check_share(file, table, known, found["strangers"], examples[:3])

    def reduce(self, identity: float | None, coverage: float, threads: int) -> None:
        """Keeps the representatives of clusters that MMseqs2 makes at an identity, in this process;
        None: nothing is done.
        """
        if identity is None:
            return
        folder, plan = self.work / "linclust", self.plan
        folder.mkdir(exist_ok=True)
        fasta = folder / "sequences.fasta"
        if not fasta.is_file():
            self._write_fasta(fasta)
        log.info("clustering at %g, by this process on this machine", identity)
        found = mmseqs.linclust(fasta, folder, identity, coverage, threads, self.stop)
        if found is None:
            return
        first = np.cumsum([0, *(len(read_wanted(piece)) for piece in plan.folders())])
        chosen = np.memmap(folder / "chosen", np.uint8, "w+", shape=(max(1, int(first[-1])),))
        for batch in cluster_files.read_clusters(found):
            chosen[batch.column(0).cast("int64").to_numpy()] = 1
        for piece, start in zip(plan.folders(), first, strict=False):
            wanted = np.fromfile(piece / "wanted", np.uint8)
            wanted[chosen[start : start + len(wanted)] == 0] = DROPPED
            write_arrays(piece / "chosen", wanted)
            self._chosen.append(duplicates.count_wanted(self.settings, piece, wanted))

    def _write_fasta(self, target: Path) -> None:
        """What is wanted so far, named by number."""
        letters = np.array(
            [ord(token) if len(token) == 1 else 0 for token in vocabulary("protein").tokens],
            np.uint8,
        )
        before, after = (len(part) for part in BOUNDARIES[self.settings.boundary])
        first = 0
        with files.replacing(target) as partial, partial.open("wb") as file:
            for piece in self.plan.folders():
                wanted = read_wanted(piece)
                sizes = read_lengths(piece).astype(np.int64) + before + after
                stops = sizes.cumsum()
                tokens = np.memmap(piece / "tokens", np.uint8, "r") if len(wanted) else stops
                for i in np.flatnonzero(wanted != DROPPED):
                    ids = tokens[stops[i] - sizes[i] + before : stops[i] - after]
                    text = letters[ids].tobytes()
                    file.write(b">%d\n%b\n" % (first + i, text))
                first += len(wanted)

    def _layout(self) -> BankLayout:
        """Where everything that is wanted comes to lie."""
        if self._chosen:
            records, tokens = np.stack(self._chosen, axis=2)
        else:
            records, tokens = (
                np.concatenate([np.array(mark[name], np.int64) for mark in self._marks]).T
                for name in ("records", "tokens")
            )
        return BankLayout.of(records, tokens)

    def counts(self) -> dict[str, int]:
        """What became of the records: those of their summaries, kept, duplicates, and those that
        clustering left out.
        """
        found, kept = self._summary(), int(self._layout().records[-1])
        outcomes = np.sum([mark["outcomes"] for mark in self._marks], axis=0).tolist()
        single = sum(int(np.sum(mark["records"])) for mark in self._marks)
        left_out = {
            "duplicates": found["records"] - single,
            "in_other_clusters": single - kept,
            "too_short": outcomes[compiled.TOO_SHORT],
            "too_long": outcomes[compiled.TOO_LONG],
            "too_ambiguous": outcomes[compiled.AMBIGUOUS],
            "rejected": found["rejected"],
        }
        read = kept + sum(left_out.values())
        as_x = {"as_x": found["as_x"]} if found["as_x"] else {}
        strangers = {"in_no_cluster": found["strangers"]}
        return {"read": read, "kept": kept} | left_out | strangers | as_x

    def write_rejected(self) -> Path | None:
        """Writes NAME_rejected.parquet beside OUT, where there will be no bank; None if nothing was
        rejected.
        """
        self._layout().write(self.work)
        parts.write_part(self.settings, self.work, ("rejected", 0))
        made = self.work / "bank" / "rejected.parquet"
        target = self.out.with_name(f"{self.out.stem}_rejected.parquet")
        if not pq.read_metadata(made).num_rows:
            return None
        files.write_bytes(target, made.read_bytes())
        return target

    def assemble(self, executor: Executor) -> None:
        """Writes the files of the bank into OUT/.prepare/bank."""
        layout = self._layout()
        layout.write(self.work)
        count = sum(1 for _ in parts.parts(self.settings, layout))
        units = parts.parts(self.settings, layout)
        self._do(executor, parts.write_part, units, Progress("write", count, "files"), 4)

    def repeated_ids(self) -> dict[str, int]:
        """How many records have an id that another one has too, where any do."""
        count = int(self.notes.read("write-metadata").get("repeated_ids", 0))
        return {"repeated_ids": count} if count else {}

    def finish(self, options: Arguments) -> None:
        """Describes the files and hands them over to OUT; may be killed and repeated."""
        if not self.is_assembled:
            for name in tables.LISTS:  # of a bank that this one takes the place of
                files.remove(self.out / f"{name}.parquet")
        work_folder.finish(self.work, functools.partial(self._make, options), self.out)

    def _make(self, options: Arguments, path: Path) -> None:
        made, checksums = self.work / "bank", {}
        layout = BankLayout.read(self.work)
        for unit in parts.parts(self.settings, layout):
            checksums.update(self.notes.read(unit.name)["checksums"])
        # What the notes name, not what lies there: a killed worker may have left half a file.
        lists = [f"{name}.parquet" for name in tables.LISTS]
        lists = [name for name in lists if pq.read_metadata(made / name).num_rows]
        for name in [*checksums, *lists]:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            files.link(made / name, path / name)
        pieces = len(self.plan)
        edges = [int(layout.records[split * pieces]) for split in range(len(SPLITS) + 1)]
        spans = {name: edges[i : i + 2] for i, name in enumerate(SPLITS)}
        ordered = dict(sorted(checksums.items(), key=lambda item: (len(item[0]), item[0])))
        dates = {stamp.path: stamp.modified_ns for stamp in self.stamps()}
        files.write_json(path / growing.DATES, dates)
        words, rows = vocabulary(self.settings.alphabet), self.settings.table_rows
        starts = range(0, edges[-1], rows)
        described = [
            {"file": table_name(number), "rows": min(rows, edges[-1] - start)}
            for number, start in enumerate(starts)
        ]
        write_description(path, words, self.settings.boundary, spans, options, ordered, described)
