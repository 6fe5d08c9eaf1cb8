"""MMseqs2 (Steinegger & Söding 2017): search and clustering of sequences in memory, its files in a
temporary folder, and linclust of a FASTA file.
"""

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.processes import core_count

log = logging.getLogger("phenomjax")

COVERAGES = {"both": 0, "target": 1, "query": 2}  # --cov-mode
_COLUMNS = "query,target,fident,qcov,tcov,bits,evalue"
_KINDS = (np.int64, np.int64, np.float32, np.float32, np.float32, np.float32, np.float64)

# What MMseqs2 (releases 10 to 18) takes of an id: after a prefix of a database, up to the next bar.
_DATABASES = (
    r"^(?:consensus_)?(?:uc|(?:cl|sp|tr|gb|ref|pdb|bbs|lcl)\||(?:pir|prf)\|\||(?:gnl|pat)\|[^|]*\|"
    r"|gi\|[^|]*\|[^|]*\|)([^|]*).*$"
)


def shorten(names: pa.Array) -> pa.Array:
    """Ids as MMseqs2 writes them into its tables: sp|Q1|NAME becomes Q1, gnl|db|x becomes x, uc7
    becomes 7; what it does not know stays.

    Args:
      names: Arrow strings [n].
    """
    short = pc.replace_substring_regex(names, _DATABASES, r"\1")
    return pc.replace_substring_regex(short, "^consensus_", "")


@dataclass(frozen=True)
class Hits:
    """Local alignments, one row each, in the order of the queries.

    Attributes:
      query, target: numbers of the sequences.
      identity: identical residues over the columns of the alignment, gaps between its ends included
        (--seq-id-mode 0).
      query_coverage, target_coverage: share of the sequence that the alignment spans.
      bits: bit score.
      evalue: expected number of such hits by chance.
    """

    query: Int[np.ndarray, " hits"]
    target: Int[np.ndarray, " hits"]
    identity: Float[np.ndarray, " hits"]
    query_coverage: Float[np.ndarray, " hits"]
    target_coverage: Float[np.ndarray, " hits"]
    bits: Float[np.ndarray, " hits"]
    evalue: Float[np.ndarray, " hits"]

    def __len__(self) -> int:
        return len(self.query)


def available() -> bool:
    """Whether `mmseqs` is on the PATH."""
    return shutil.which("mmseqs") is not None


def find(purpose: str, otherwise: str = "") -> str:
    """The path of mmseqs.

    Args:
      purpose: begins the message where it is not installed.
      otherwise: ends it: what else may be done.

    Raises:
      UserError: it is not installed.
    """
    program = shutil.which("mmseqs")
    if program is None:
        raise UserError(
            f"{purpose} needs MMseqs2, and there is no program `mmseqs` on the PATH. Install it:"
            f" `apt install mmseqs2`, or `conda install -c bioconda mmseqs2`{otherwise}."
        )
    return program


@functools.cache
def version() -> str:
    """What `mmseqs version` says, "" without it."""
    program = shutil.which("mmseqs")
    if program is None:
        return ""
    return subprocess.run([program, "version"], capture_output=True, text=True).stdout.strip()


def search(
    queries: Sequence[str],
    targets: Sequence[str],
    *,
    identity: float = 0.0,
    coverage: float = 0.0,
    coverage_of: str = "both",
    evalue: float = 1e-3,
    sensitivity: float = 7.5,
    max_hits: int = 300,
    threads: int = 0,
    cache: Path | None = None,
    purpose: str = "Searching for similar sequences",
) -> Hits:
    """Aligns every query with the targets that look like it (`mmseqs easy-search`).

    Its prefilter wants two similar k-mers on one diagonal, so that relatives below 25 to 30 %
    identity are found in part only, and sequences below about 15 residues hardly: no hit does not
    mean no relative.

    Args:
      queries, targets: proteins. Equal ones are allowed, an empty list too.
      identity: the least, of 0 to 1.
      coverage: the least share of the sequence in `coverage_of` ("query", "target", "both") that an
        alignment spans.
      evalue: the highest.
      sensitivity: -s of MMseqs2, 1 (fast) to 7.5.
      max_hits: of a query that pass the prefilter.
      threads: 0 = all cores of this process.
      cache: a folder that keeps results, by all that they depend on; None = none is kept.
      purpose: begins the message where there is no MMseqs2.

    Raises:
      UserError: mmseqs is missing, or failed.
    """
    find(purpose)
    options = _words(
        {
            "--alignment-mode": 3,
            "--seq-id-mode": 0,
            "--min-seq-id": identity,
            "-c": coverage,
            "--cov-mode": COVERAGES[coverage_of],
            "-e": evalue,
            "-s": sensitivity,
            "--max-seqs": max_hits,
        }
    )

    def make() -> list[np.ndarray]:
        columns: list[tuple[str, ...]] = [()] * len(_KINDS)
        if len(queries) and len(targets):
            with _folder(queries=queries, targets=targets) as folder:
                files_of = ["queries.fasta", "targets.fasta", "hits.tsv", "work"]
                output = ["--format-output", _COLUMNS]
                words = ["easy-search", *files_of, *output, *options, *_threads(threads)]
                _run(words, folder, folder / "hits.tsv")
                rows = _table(folder / "hits.tsv")
            columns = list(zip(*rows, strict=True)) or columns
        arrays = [
            np.array(column, dtype=kind) for column, kind in zip(columns, _KINDS, strict=True)
        ]
        order = np.lexsort((arrays[1], -arrays[5], arrays[0]))
        return [array[order] for array in arrays]

    return Hits(*_kept(cache, ["search", *options], [queries, targets], make))


def cluster(
    sequences: Sequence[str],
    identity: float,
    coverage: float = 0.5,
    *,
    threads: int = 0,
    cache: Path | None = None,
    purpose: str = "Clustering sequences",
) -> Int[np.ndarray, " sequences"]:
    """Clusters proteins (`mmseqs easy-cluster`, cascaded, with what its set-cover leaves put to the
    best centre).

    Args:
      sequences: [n]; equal ones are always in one cluster.
      identity: of a member's alignment with the centre of its cluster, 0 to 1.
      coverage: share of the member, of 0 to 1, that it spans (--cov-mode 1), so that fragments go
        with the whole protein.
      threads: 0 = all cores of this process.
      cache: a folder that keeps results, by all that they depend on; None = none is kept.
      purpose: begins the message where there is no MMseqs2.

    Returns:
      The number of the centre of each sequence's cluster, its first copy.

    Raises:
      UserError: mmseqs is missing, or failed.
    """
    find(purpose)
    # Sorted, so that the order of the files has no say.
    different, copies = np.unique(np.array(sequences, object), return_inverse=True)
    texts: list[str] = different.tolist()
    options = [*_of_members(identity, coverage), "--cluster-reassign", "1"]

    def make() -> list[np.ndarray]:
        centres = np.arange(len(texts))
        if len(texts) > 1:
            with _folder(all=texts) as folder:
                files_of = ["all.fasta", "result", "work"]
                words = ["easy-cluster", *files_of, *options, *_threads(threads)]
                table = folder / "result_cluster.tsv"
                _run(words, folder, table)
                for centre, member in _table(table):
                    centres[int(member)] = int(centre)
        return [centres]

    (centres,) = _kept(cache, ["cluster", *options], [texts], make)
    first = np.full(len(texts), len(sequences), np.int64)
    np.minimum.at(first, copies, np.arange(len(sequences)))
    return first[centres[copies]] if len(sequences) else np.zeros(0, np.int64)


def linclust(
    fasta: Path, folder: Path, identity: float, coverage: float, threads: int, stop: threading.Event
) -> Path | None:
    """Clusters a FASTA file (`mmseqs easy-linclust`).

    Args:
      fasta: the sequences.
      folder: for the result and all that MMseqs2 writes meanwhile.
      identity, coverage: --min-seq-id and -c: a member aligns with at least that share of its own
        length (--cov-mode 1).
      threads: of MMseqs2.
      stop: ends it when set; then there is no result.

    Returns:
      The table of representative and member, which is there only when it is whole.

    Raises:
      UserError: mmseqs is missing, or failed; its last lines are in the message.
    """
    result, work = folder / "result_cluster.tsv", folder / "running"
    if result.is_file():
        return result
    files.remove(work)
    work.mkdir(parents=True)
    places = [str(path.absolute()) for path in (fasta, work / "result", work / "tmp")]
    words = ["easy-linclust", *places, *_of_members(identity, coverage), *_threads(threads)]
    log.info("%s", " ".join(["mmseqs", *words]))
    again = "Run the same command again; it continues from here."
    if not _run(words, folder, work / result.name, stop, mend=again):
        return None
    os.replace(work / result.name, result)
    files.remove(work)
    return result


def _words(options: dict[str, float]) -> list[str]:
    texts = {key: str(of) if isinstance(of, int) else f"{of:g}" for key, of in options.items()}
    return [word for pair in texts.items() for word in pair]


def _of_members(identity: float, coverage: float) -> list[str]:
    """What a member of a cluster must share with its centre."""
    return _words({"--min-seq-id": identity, "-c": coverage, "--cov-mode": 1})


def _threads(count: int) -> list[str]:
    return ["--threads", str(count or core_count())]


def _kept(
    cache: Path | None,
    options: list[str],
    texts: list[Sequence[str]],
    make: Callable[[], list[np.ndarray]],
) -> list[np.ndarray]:
    """What `make` returns, or what it returned for the same options and sequences."""
    if cache is None:
        return make()
    digest = hashlib.sha256(" ".join([version(), *options]).encode())
    for of in texts:
        digest.update(f"\n\n{len(of)}".encode())
        for text in of:
            digest.update(f"\n{text}".encode())
    path = cache / f"mmseqs_{digest.hexdigest()[:32]}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            return [stored[f"arr_{number}"] for number in range(len(stored.files))]
    arrays = make()
    with files.replacing(path, shared=True) as partial:
        np.savez_compressed(partial, *arrays)
    return arrays


@contextlib.contextmanager
def _folder(**sequences: Sequence[str]) -> Iterator[Path]:
    """A temporary folder with NAME.fasta of each of these, proteins named by their numbers."""
    with tempfile.TemporaryDirectory(prefix="phenomjax_mmseqs_") as name:
        for file, texts in sequences.items():
            lines = (f">{number}\n{text}\n" for number, text in enumerate(texts))
            (Path(name) / f"{file}.fasta").write_text("".join(lines))
        yield Path(name)


def _table(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def _run(
    words: list[str],
    folder: Path,
    result: Path,
    stop: threading.Event | None = None,
    mend: str = "TMPDIR names another place for such folders.",
) -> bool:
    """Runs MMseqs2 in a folder; it ends with this call, whatever happens.

    Args:
      words: of its command line.
      folder: that it works in, and where its output is kept as mmseqs.log.
      result: the file that is there after a success.
      stop: ends it when set.
      mend: what may be done when it fails, for the message.

    Returns:
      False if `stop` was set before its end.

    Raises:
      UserError: it failed; its last lines are in the message.
    """
    program, output = find(f"`{words[0]}`"), folder / "mmseqs.log"
    with output.open("w") as file:
        # A session of its own: Ctrl-C comes to this program alone, which ends MMseqs2 with all that
        # it started.
        process = subprocess.Popen(
            [program, *words],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while not _ended(process):
                if stop is not None and stop.is_set():
                    return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    if process.returncode or not result.is_file():
        lacks = "" if process.returncode else f", but without its result {result.name}"
        last = " ".join(output.read_text(errors="replace").split("\n")[-6:])[-600:]
        raise UserError(
            f"`{words[0]}` of MMseqs2 ({program}) ended with code {process.returncode}{lacks}. Its"
            f" last lines: {last} The usual causes are too little memory, or no room in {folder}."
            f" {mend}",
            EXIT_FAILED,
        )
    return True


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Waits for a process a moment."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.2)
        return True
    return False
