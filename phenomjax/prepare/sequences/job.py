"""The work between sequence files and a token bank, in OUT/.prepare; can be killed at any time and
run again.

scan the files into pieces -> find duplicates -> (cluster) -> write the bank's files -> hand them
over to OUT. Each step is of units (phenomjax.engine). The bank is the same, byte for byte, for any
number of processes and however often the job was interrupted.
"""

import functools
import json
import logging
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.data.sequences import compiled, mmseqs
from phenomjax.data.sequences.bank import BOUNDARIES, SPLITS, write_description
from phenomjax.data.sequences.sources import SequenceFile, first_ids
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.engine import work_folder
from phenomjax.engine.local import Pool
from phenomjax.engine.units import Argument, Function, Notes, Unit
from phenomjax.prepare import growing
from phenomjax.prepare.growing import Arguments
from phenomjax.prepare.sequences import assemble, cluster_files, clusters
from phenomjax.prepare.sequences.assemble import DROPPED, PieceList
from phenomjax.prepare.sequences.pieces import HASH, STOP, PieceSettings, scan, unit_of
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")
# of source files a bucket of hashes: some 10 million short sequences
BUCKET_INPUT_BYTES, MOST_BITS = 2**29, 12
FIRST_FILES, ENOUGH_IDS = 20, 20  # whose first ids are looked up in the clusters, before the work
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
      clusters: the file of clusters that splits go by.
      verify: compare the content of the files with what was read before.
    """

    def __init__(
        self,
        out: Path,
        sources: list[SequenceFile],
        settings: PieceSettings,
        jobs: int,
        stop: threading.Event,
        clusters: Path | None = None,
        verify: bool = False,
    ):
        self.out, self.sources, self.settings, self.jobs = out, sources, settings, jobs
        self.stop, self.work, self.notes = stop, settings.work, Notes(settings.work)
        self.plan = PieceList(settings, tuple(sources))
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
            for name in ("tokens", "offsets", "metadata.parquet", "zarr.json", *growing.LISTS):
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

    def _pool(self, tasks: int, part: int = 1) -> Pool:
        """As many processes as are worth their start: one for each eighth of a piece, `part` times
        as much where the work is light.
        """
        size = sum(source.size for source in self.sources)
        worth = size * 8 // (self.settings.piece_bytes * part) + 1
        return Pool(max(1, min(self.jobs, tasks, worth)))

    def scan(self, cluster_file: clusters.ClusterFile | None) -> None:
        """Reads the files into pieces.

        Raises:
          UserError: the cluster file is another one's.
        """
        if cluster_file:
            log.info("reading the clusters of %s", cluster_file.path)
            clusters.build_table(cluster_file.path, self.work / "clusters")
            if not self.notes.is_committed(unit_of(self.sources[0], 0).name):
                self._check_first_ids(cluster_file)
        # the longest tasks first
        longest = sorted(self.sources, key=lambda source: (source.divided, -source.size))
        units = [
            unit_of(source, number)
            for source in longest
            for number in range(self.plan.count(source) if source.divided else 1)
        ]
        units += [
            Unit(f"sha256-{number}", (replace(self.sources[0], number=number, path=path), HASH))
            for number, path in enumerate(self._files)
        ]
        left = [unit for unit in units if not self.notes.is_committed(unit.name)]
        total, missing = (
            sum(self._size(*unit.argument) for unit in some) for some in (units, left)
        )
        progress = Progress("read", total // 1000, "kB", done=(total - missing) // 1000)
        read = [unit for unit in left if unit.argument[1] != HASH]
        sizes = {unit.name: self._size(*unit.argument) for unit in read if unit.argument[0].divided}
        streams = [unit.argument[0] for unit in read if not unit.argument[0].divided]
        with _Watch(self.settings, streams, progress, self.stop):
            run = functools.partial(scan, self.settings)
            for name, _ in self._pool(len(left)).run(self.work, run, left, self.stop):
                if name in sizes:
                    progress.update(sizes[name] // 1000)

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

    def check_clusters(self, file: clusters.ClusterFile | None) -> None:
        """Looks whether the cluster file has the sequences of all pieces.

        Raises:
          UserError: too few.
        """
        if file is None:
            return
        found, _ = assemble.summaries(self.plan)
        if not found["records"]:
            return
        lists = (piece / "strangers.arrow" for piece in self.plan.pieces)
        first = next((path for path in lists if path.is_file()), None)
        examples: list[str] = []
        if first:
            examples = pa.ipc.open_file(first).read_all()["id"][:3].to_pylist()
        table = clusters.ClusterTable(self.work / "clusters")
        known = found["records"] - found["strangers"]
        clusters.check_share(file, table, known, found["strangers"], examples)

    def _size(self, source: SequenceFile, number: int) -> int:
        if number == HASH:
            return 0
        if not source.divided:
            return source.size
        return min(source.size - number * self.settings.piece_bytes, self.settings.piece_bytes)

    def deduplicate(self) -> None:
        """Finds equal sequences, and marks what stays."""
        buckets, pieces = 2**self.settings.bucket_bits, len(self.plan.pieces)
        if not self.settings.keep_duplicates:
            named = (Unit(f"duplicates-{number}", number) for number in range(buckets))
            find = functools.partial(assemble.find_duplicates, self.plan)
            self._run(find, named, Progress("find duplicates", buckets, "buckets"), 4)
        if not self.stop.is_set():
            named = (Unit(f"mark-{number}", number) for number in range(pieces))
            mark = functools.partial(assemble.mark_wanted, self.plan)
            self._run(mark, named, Progress("mark", pieces, "pieces"), 64)

    def _run(
        self,
        function: Function[Argument],
        units: Iterable[Unit[Argument]],
        progress: Progress,
        part: int,
    ) -> None:
        """Does what is not committed."""
        pool = self._pool(progress.total, part)
        for _ in pool.run(self.work, function, units, self.stop):
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
        for batch in cluster_files.read_clusters(found):
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
        first = 0
        with files.replacing(target) as partial, partial.open("wb") as file:
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
        as_x = {"as_x": found["as_x"]} if found["as_x"] else {}
        strangers = {"in_no_cluster": found["strangers"]}
        return {"read": read, "kept": kept} | left_out | strangers | as_x

    def write_rejected(self) -> Path | None:
        """Writes NAME_rejected.parquet beside OUT, where there will be no bank; None if nothing was
        rejected.
        """
        assemble.make_layout(self.plan).write(self.work)
        assemble.write_part(self.plan, self.work, ("rejected", 0))
        made = self.work / "bank" / "rejected.parquet"
        target = self.out.with_name(f"{self.out.stem}_rejected.parquet")
        if not pq.read_metadata(made).num_rows:
            return None
        files.write_bytes(target, made.read_bytes())
        return target

    def assemble(self) -> None:
        """Writes the files of the bank into OUT/.prepare/bank."""
        layout = assemble.make_layout(self.plan)
        layout.write(self.work)
        count = sum(1 for _ in assemble.parts(self.plan, layout))
        write = functools.partial(assemble.write_part, self.plan)
        units = assemble.parts(self.plan, layout)
        self._run(write, units, Progress("write", count, "files"), 4)

    def repeated_ids(self) -> dict[str, int]:
        """How many records have an id that another one has too, where any do."""
        count = int(self.notes.read("write-metadata").get("repeated_ids", 0))
        return {"repeated_ids": count} if count else {}

    def finish(self, options: Arguments) -> None:
        """Describes the files and hands them over to OUT; may be killed and repeated."""
        if not self.is_assembled:
            for name in assemble.LISTS:  # of a bank that this one takes the place of
                files.remove(self.out / f"{name}.parquet")
        work_folder.finish(self.work, functools.partial(self._make, options), self.out)

    def _make(self, options: Arguments, path: Path) -> None:
        made, checksums = self.work / "bank", {}
        layout = assemble.BankLayout.read(self.work)
        for unit in assemble.parts(self.plan, layout):
            checksums.update(self.notes.read(unit.name)["checksums"])
        # What the notes name, not what lies there: a killed worker may have left half a file.
        lists = [f"{name}.parquet" for name in assemble.LISTS]
        lists = [name for name in lists if pq.read_metadata(made / name).num_rows]
        for name in [*checksums, *lists]:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            files.link(made / name, path / name)
        pieces = len(self.plan.pieces)
        edges = [int(layout.records[split * pieces]) for split in range(len(SPLITS) + 1)]
        spans = {name: edges[i : i + 2] for i, name in enumerate(SPLITS)}
        ordered = dict(sorted(checksums.items(), key=lambda item: (len(item[0]), item[0])))
        dates = {stamp.path: stamp.modified_ns for stamp in self.stamps()}
        files.write_json(path / growing.DATES, dates)
        words = vocabulary(self.settings.alphabet)
        write_description(path, words, self.settings.boundary, spans, options, ordered)


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
        self._notes = Notes(settings.work)
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
                done = self._notes.is_committed(unit_of(source, 0).name)
                now = source.size if done else int(text or 0)
                if now > before:
                    self._progress.update((now - before) // 1000)
                    self._seen[source] = now
