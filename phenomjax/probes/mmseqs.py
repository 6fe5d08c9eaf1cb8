"""MMseqs2 (Steinegger & Söding 2017) on sequences in memory: search and clustering, its files in a temporary folder."""

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phenomjax.errors import EXIT_FAILED, UserError

COVERAGES = {"both": 0, "target": 1, "query": 2}  # --cov-mode
_COLUMNS = "query,target,fident,qcov,tcov,bits,evalue"


@dataclass(frozen=True)
class Hits:
    """Local alignments, one row each, in the order of the queries.

    Attributes:
      query, target: int64 [hits], numbers of the sequences.
      identity: float32 [hits], identical residues over the columns of the alignment, gaps between its ends included (--seq-id-mode 0).
      query_coverage, target_coverage: float32 [hits], share of the sequence that the alignment spans.
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
            f"{purpose} needs MMseqs2, and there is no program `mmseqs` on the PATH. Install it: `apt install mmseqs2`, or "
            "`conda install -c bioconda mmseqs2`."
        )
    return program


@functools.cache
def version() -> str:
    """What `mmseqs version` says, "" without it."""
    program = shutil.which("mmseqs")
    return subprocess.run([program, "version"], capture_output=True, text=True).stdout.strip() if program else ""


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
    purpose: str = "Searching for similar sequences",
) -> Hits:
    """Aligns every query with the targets that look like it (`mmseqs easy-search`).

    Its prefilter wants two similar k-mers on one diagonal, so that relatives below 25 to 30 % identity are found in part only, and
    sequences below about 15 residues hardly: no hit does not mean no relative.

    Args:
      queries, targets: proteins. Equal ones are allowed, an empty list too.
      identity: the least, of 0 to 1.
      coverage: the least share of the sequence in `coverage_of` ("query", "target", "both") that an alignment spans.
      evalue: the highest.
      sensitivity: -s of MMseqs2, 1 (fast) to 7.5.
      max_hits: of a query that pass the prefilter.
      threads: 0 = all cores of this process.
      purpose: begins the message where there is no MMseqs2.

    Raises:
      UserError: mmseqs is missing, or failed.
    """
    program = find(purpose)
    columns: list[list[str]] = [[] for _ in _COLUMNS.split(",")]
    if len(queries) and len(targets):
        with tempfile.TemporaryDirectory(prefix="phenomjax_mmseqs_") as name:
            folder = Path(name)
            write_fasta(folder / "queries.fasta", queries)
            write_fasta(folder / "targets.fasta", targets)
            _run(
                [
                    program, "easy-search", "queries.fasta", "targets.fasta", "hits.tsv", "work", "--format-output", _COLUMNS,
                    "--alignment-mode", "3", "--seq-id-mode", "0", "--min-seq-id", f"{identity:g}", "-c", f"{coverage:g}",
                    "--cov-mode", str(COVERAGES[coverage_of]), "-e", f"{evalue:g}", "-s", f"{sensitivity:g}",
                    "--max-seqs", str(max_hits), "--threads", str(threads or _cores()),
                ],
                folder,
            )  # fmt: skip
            rows = [line.split("\t") for line in (folder / "hits.tsv").read_text().splitlines()]
            columns = [list(column) for column in zip(*rows, strict=True)] or columns
    kinds = (np.int64, np.int64, np.float32, np.float32, np.float32, np.float32, np.float64)
    arrays = [np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)]
    order = np.lexsort((arrays[1], -arrays[5], arrays[0]))
    return Hits(*(array[order] for array in arrays))


def cluster(
    sequences: Sequence[str],
    identity: float,
    coverage: float = 0.5,
    *,
    threads: int = 0,
    purpose: str = "Clustering sequences",
) -> np.ndarray:
    """Clusters proteins (`mmseqs easy-cluster`, cascaded, with what its set-cover leaves put to the best centre).

    Args:
      sequences: [n]; equal ones are always in one cluster.
      identity: of a member's alignment with the centre of its cluster, 0 to 1.
      coverage: share of both sequences, of 0 to 1, that it spans.
      threads: 0 = all cores of this process.
      purpose: begins the message where there is no MMseqs2.

    Returns:
      int64 [n]: the number of the centre of each sequence's cluster, its first copy.

    Raises:
      UserError: mmseqs is missing, or failed.
    """
    program = find(purpose)
    first: dict[str, int] = {}
    copies = np.array([first.setdefault(text, number) for number, text in enumerate(sequences)], np.int64)
    centres = copies.copy()
    if len(first) > 1:
        with tempfile.TemporaryDirectory(prefix="phenomjax_mmseqs_") as name:
            folder = Path(name)
            # By text, so that the order of the files has no say in the clusters.
            write_fasta(folder / "all.fasta", sorted(first), [first[text] for text in sorted(first)])
            _run(
                [
                    program, "easy-cluster", "all.fasta", "result", "work", "--min-seq-id", f"{identity:g}", "-c", f"{coverage:g}",
                    "--cov-mode", "0", "--cluster-reassign", "1", "--threads", str(threads or _cores()),
                ],
                folder,
            )  # fmt: skip
            for line in (folder / "result_cluster.tsv").read_text().splitlines():
                centre, member = line.split("\t")
                centres[int(member)] = int(centre)
        centres = centres[copies]
    return centres


def write_fasta(path: Path, sequences: Sequence[str], numbers: Sequence[int] | None = None) -> None:
    """Writes proteins with their numbers as names."""
    names = range(len(sequences)) if numbers is None else numbers
    with path.open("w") as file:
        file.writelines(f">{number}\n{text}\n" for number, text in zip(names, sequences, strict=True))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(command: list[str], folder: Path) -> None:
    """Runs MMseqs2 in a folder; it ends with this call, whatever happens."""
    with (folder / "log").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 15)
                process.wait()
    if code:
        last = " ".join((folder / "log").read_text(errors="replace").split("\n")[-6:])[-600:]
        raise UserError(
            f"`{' '.join(command[1:3])}` of MMseqs2 ({command[0]}) ended with code {code}. Its last lines: {last} The usual causes are too "
            f"little memory, or no room in {tempfile.gettempdir()} (TMPDIR names another folder).",
            EXIT_FAILED,
        )
