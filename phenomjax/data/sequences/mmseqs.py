"""MMseqs2 (Steinegger & Söding 2017) on sequences in memory: search and clustering, its files in a
temporary folder.
"""

import functools
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phenomjax.system.errors import EXIT_FAILED, UserError

log = logging.getLogger("phenomjax")

COVERAGES = {"both": 0, "target": 1, "query": 2}  # --cov-mode
_COLUMNS = "query,target,fident,qcov,tcov,bits,evalue"
_KINDS = (np.int64, np.int64, np.float32, np.float32, np.float32, np.float32, np.float64)


@dataclass(frozen=True)
class Hits:
    """Local alignments, one row each, in the order of the queries.

    Attributes:
      query, target: int64 [hits], numbers of the sequences.
      identity: float32 [hits], identical residues over the columns of the alignment, gaps between
        its ends included (--seq-id-mode 0).
      query_coverage, target_coverage: float32 [hits], share of the sequence that the alignment
        spans.
      bits: float32 [hits], bit score.
      evalue: float64 [hits].
    """

    query: np.ndarray
    target: np.ndarray
    identity: np.ndarray
    query_coverage: np.ndarray
    target_coverage: np.ndarray
    bits: np.ndarray
    evalue: np.ndarray

    def __len__(self) -> int:
        return len(self.query)


def available() -> bool:
    """Whether `mmseqs` is on the PATH."""
    return shutil.which("mmseqs") is not None


def find(purpose: str) -> str:
    """The path of mmseqs.

    Raises:
      UserError: it is not installed; the message begins with the purpose.
    """
    program = shutil.which("mmseqs")
    if program is None:
        raise UserError(
            f"{purpose} needs MMseqs2, and there is no program `mmseqs` on the PATH. Install it:"
            " `apt install mmseqs2`, or `conda install -c bioconda mmseqs2`."
        )
    return program


@functools.cache
def version() -> str:
    """What `mmseqs version` says, "" without it."""
    program = shutil.which("mmseqs")
    return (
        subprocess.run([program, "version"], capture_output=True, text=True).stdout.strip()
        if program
        else ""
    )


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
    program = find(purpose)
    options = [
        "--alignment-mode",
        "3",
        "--seq-id-mode",
        "0",
        "--min-seq-id",
        f"{identity:g}",
        "-c",
        f"{coverage:g}",
        "--cov-mode",
        str(COVERAGES[coverage_of]),
        "-e",
        f"{evalue:g}",
        "-s",
        f"{sensitivity:g}",
        "--max-seqs",
        str(max_hits),
    ]

    def make() -> list[np.ndarray]:
        columns: list[list[str]] = [[] for _ in _KINDS]
        if len(queries) and len(targets):
            with tempfile.TemporaryDirectory(prefix="phenomjax_mmseqs_") as name:
                folder = Path(name)
                write_fasta(folder / "queries.fasta", queries)
                write_fasta(folder / "targets.fasta", targets)
                files = [
                    "queries.fasta",
                    "targets.fasta",
                    "hits.tsv",
                    "work",
                    "--format-output",
                    _COLUMNS,
                ]
                _run(
                    [
                        program,
                        "easy-search",
                        *files,
                        *options,
                        "--threads",
                        str(threads or _cores()),
                    ],
                    folder,
                )
                rows = [line.split("\t") for line in (folder / "hits.tsv").read_text().splitlines()]
                columns = [list(column) for column in zip(*rows, strict=True)] or columns
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
) -> np.ndarray:
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
      int64 [n]: the number of the centre of each sequence's cluster, its first copy.

    Raises:
      UserError: mmseqs is missing, or failed.
    """
    program = find(purpose)
    # Sorted, so that the order of the files has no say.
    different, copies = np.unique(np.array(sequences, object), return_inverse=True)
    texts: list[str] = different.tolist()
    options = [
        "--min-seq-id",
        f"{identity:g}",
        "-c",
        f"{coverage:g}",
        "--cov-mode",
        "1",
        "--cluster-reassign",
        "1",
    ]

    def make() -> list[np.ndarray]:
        centres = np.arange(len(texts))
        if len(texts) > 1:
            with tempfile.TemporaryDirectory(prefix="phenomjax_mmseqs_") as name:
                folder = Path(name)
                write_fasta(folder / "all.fasta", texts)
                files = ["all.fasta", "result", "work"]
                _run(
                    [
                        program,
                        "easy-cluster",
                        *files,
                        *options,
                        "--threads",
                        str(threads or _cores()),
                    ],
                    folder,
                )
                for line in (folder / "result_cluster.tsv").read_text().splitlines():
                    centre, member = line.split("\t")
                    centres[int(member)] = int(centre)
        return [centres]

    (centres,) = _kept(cache, ["cluster", *options], [texts], make)
    first = np.full(len(texts), len(sequences), np.int64)
    np.minimum.at(first, copies, np.arange(len(sequences)))
    return first[centres[copies]] if len(sequences) else np.zeros(0, np.int64)


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
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, *arrays)
    os.replace(partial, path)
    return arrays


def write_fasta(path: Path, sequences: Sequence[str]) -> None:
    """Writes proteins with their numbers as names."""
    with path.open("w") as file:
        file.writelines(f">{number}\n{text}\n" for number, text in enumerate(sequences))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(command: list[str], folder: Path) -> None:
    """Runs MMseqs2 in a folder; it ends with this call, whatever happens."""
    with (folder / "log").open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 15)
                process.wait()
    if code:
        last = " ".join((folder / "log").read_text(errors="replace").split("\n")[-6:])[-600:]
        raise UserError(
            f"`{' '.join(command[1:3])}` of MMseqs2 ({command[0]}) ended with code {code}. Its last"
            f" lines: {last} The usual causes are too little memory, or no room in"
            f" {tempfile.gettempdir()} (TMPDIR names another folder).",
            EXIT_FAILED,
        )


def find_mmseqs() -> str:
    """The path of mmseqs.

    Raises:
      UserError: it is not installed.
    """
    program = shutil.which("mmseqs")
    if program is None:
        raise UserError(
            "--cluster needs MMseqs2, and there is no program `mmseqs` on the PATH. Install it:"
            " `apt install mmseqs2`, or `conda install -c bioconda mmseqs2`; or leave --cluster"
            " out."
        )
    return program


def run_linclust(
    fasta: Path, folder: Path, identity: float, coverage: float, threads: int, stop: threading.Event
) -> Path | None:
    """Clusters a FASTA file; returns the table of representative and member, which is there only
    when it is whole.

    Args:
      fasta: the sequences.
      folder: for the result and all that MMseqs2 writes meanwhile.
      identity, coverage: --min-seq-id and -c of linclust: a member aligns with at least that share
        of its own length (--cov-mode 1).
      threads: of MMseqs2.
      stop: ends it when set; then there is no result.

    Raises:
      UserError: mmseqs is missing, or failed; its last lines are in the message.
    """
    result = folder / "result_cluster.tsv"
    if result.is_file():
        return result
    program, work = find_mmseqs(), folder / "running"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    command = [
        program,
        "easy-linclust",
        str(fasta),
        str(work / "result"),
        str(work / "tmp"),
        "--min-seq-id",
        f"{identity:g}",
        "-c",
        f"{coverage:g}",
        "--cov-mode",
        "1",
        "--threads",
        str(threads),
    ]
    log.info("%s", " ".join(command))
    with (folder / "mmseqs.log").open("w") as output:
        # A session of its own: Ctrl-C comes to this program alone, which ends MMseqs2 with all that
        # it started.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        while process.poll() is None:
            if stop.wait(0.2):
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
                return None
    code = process.returncode
    if code or not (work / "result_cluster.tsv").is_file():
        last = " ".join((folder / "mmseqs.log").read_text(errors="replace").split("\n")[-6:])[-600:]
        raise UserError(
            f"mmseqs ended with code {code}. Its last lines: {last} All of its output:"
            f" {folder / 'mmseqs.log'}. The usual causes are too little memory or disk. Run the"
            " same command again; it continues from here.",
            EXIT_FAILED,
        )
    os.replace(work / "result_cluster.tsv", result)
    shutil.rmtree(work)
    return result
