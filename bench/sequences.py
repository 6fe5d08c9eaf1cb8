"""FASTA to a token bank: MB of text per CPU second and peak memory, against pyfastx and needletail
with a loop in Python, and seqkit.

    python -m bench.sequences            # about 3 minutes, and 2 GB in a temporary folder
    python -m bench.sequences --quick    # 60 MB, 3 rounds
    python -m bench.sequences --workers  # 1, 2, 4 workers, Dask, 10 million: bench.sequence_workers

The same generated file in alternating rounds, each method in a fresh process; one process each. CPU
seconds (user and system) are counted from when the imports are done and each method has read a
small file (so no compilation, as from the second run on); "with start" counts all of the process.
What the loops leave out is in their favour: no splits, no checksums, 64-bit hashes in a set that
grows with the data. Peers: pip install pyfastx needletail; apt install seqkit.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from bench import sequence_workers

GOAL = 200  # MB per CPU second
MEMORY_MIB = 1024
LETTERS = "ACDEFGHIKLMNPQRSTVWYX"
ROWS = 2**17


def write_fasta(path: Path, megabytes: int) -> int:
    """Random proteins with headers as UniRef has them, 60 columns, one in ten a duplicate; returns
    the number of records.
    """
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"LAGVESIKRDTPNQFYMHCWXUBZ", np.uint8)
    shares = np.array(
        [
            9.9,
            8.3,
            7.1,
            6.9,
            6.7,
            6.6,
            5.9,
            5.8,
            5.5,
            5.5,
            5.3,
            4.7,
            4.1,
            3.9,
            3.9,
            2.9,
            2.4,
            2.3,
            1.4,
            1.1,
            0.02,
            0.001,
            0.001,
            0.001,
        ]
    )
    size, count, kept = 0, 0, []
    with path.open("wb") as file:
        while size < megabytes * 10**6:
            if kept and count % 10 == 9:
                body = kept[rng.integers(len(kept))]
            else:
                length = int(np.clip(rng.lognormal(5.6, 0.6), 20, 5000))
                text = rng.choice(letters, length, p=shares / shares.sum()).tobytes()
                body = b"\n".join(text[i : i + 60] for i in range(0, length, 60))
                kept = [*kept[-999:], body]
            record = (
                b">UniRef90_A%09d Uncharacterized protein n=%d Tax=Escherichia coli TaxID=562"
                b" RepID=A%09d_ECOLX\n%b\n"
                % (
                    count,
                    count % 7 + 1,
                    count,
                    body,
                )
            )
            file.write(record)
            size += len(record)
            count += 1
    return count


def loop(records: Iterable[tuple[str, str, bytes]], out: Path) -> tuple[int, int]:
    """What a user of a FASTA parser writes: tokens, offsets and metadata, in one pass; returns
    sequences and tokens.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = bytearray(b"\xff" * 256)
    for number, letter in enumerate(LETTERS):
        table[ord(letter)] = table[ord(letter.lower())] = 7 + number
    for letter in "UZOBJuzobj":
        table[ord(letter)] = 7 + LETTERS.index("X")
    schema = pa.schema([("id", pa.string()), ("length", pa.int32()), ("description", pa.string())])
    seen: set[int] = set()
    lengths: list[int] = []
    ids: list[str] = []
    descriptions: list[str] = []
    with (
        (out / "tokens").open("wb") as file,
        pq.ParquetWriter(out / "m.parquet", schema, compression="zstd") as writer,
    ):

        def flush() -> None:
            columns = [ids, lengths[len(lengths) - len(ids) :], descriptions]
            writer.write_table(
                pa.table(
                    [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)],
                    schema=schema,
                )
            )
            ids.clear()
            descriptions.clear()

        for name, description, sequence in records:
            tokens = sequence.translate(table).rstrip(b"*")
            key = hash(tokens)
            if not tokens or b"\xff" in tokens or key in seen:
                continue
            seen.add(key)
            file.write(tokens + b"\x03")
            ids.append(name)
            descriptions.append(description)
            lengths.append(len(tokens))
            if len(ids) == ROWS:
                flush()
        flush()
    np.save(out / "offsets", np.cumsum([0, *lengths]) + np.arange(len(lengths) + 1))
    return len(lengths), sum(lengths) + len(lengths)


def by_pyfastx(path: Path) -> Iterator[tuple[str, str, bytes]]:
    import pyfastx

    for name, sequence, comment in pyfastx.Fastx(str(path), comment=True):
        yield name, comment, sequence.encode()


def by_needletail(path: Path) -> Iterator[tuple[str, str, bytes]]:
    import needletail

    for record in needletail.parse_fastx_file(str(path)):
        name, _, description = record.id.partition(" ")
        yield name, description, record.seq.encode()


def by_lines(path: Path) -> Iterator[tuple[str, str, bytes]]:
    header, parts = b"", []
    with path.open("rb") as file:
        for line in file:
            if line[:1] == b">":
                if header:
                    name, _, description = header.decode().partition(" ")
                    yield name, description, b"".join(parts)
                header, parts = line[1:].rstrip(), []
            else:
                parts.append(line.rstrip())
    name, _, description = header.decode().partition(" ")
    yield name, description, b"".join(parts)


def phenomjax(path: Path, out: Path) -> tuple[int, int]:
    from phenomjax.data.sequences.bank import open_token_bank
    from phenomjax.prepare.sequences import command as sequences_command

    sequences_command.run(sequences_command.Options(source=(path,), out=out / "b.zarr", jobs=1))
    bank = open_token_bank(out / "b.zarr")
    return len(bank), bank.tokens.size


def seqkit(path: Path, out: Path) -> tuple[int, int]:
    """Upper case and no duplicates, as text: a part of the job."""
    command = f"seqkit seq --threads 1 -u {path} | seqkit rmdup --threads 1 -s -o {out}/x.fasta"
    subprocess.run(command, shell=True, check=True, stderr=subprocess.DEVNULL)
    return 0, 0


METHODS: dict[str, tuple[Callable[[Path, Path], tuple[int, int]], str]] = {
    "phenomjax": (phenomjax, ""),
    "pyfastx + loop": (lambda path, out: loop(by_pyfastx(path), out), "pyfastx"),
    "needletail + loop": (lambda path, out: loop(by_needletail(path), out), "needletail"),
    "lines of Python": (lambda path, out: loop(by_lines(path), out), ""),
    "seqkit seq | rmdup (no tokens)": (seqkit, "seqkit"),
}


def cpu_seconds() -> float:
    """CPU time of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used)


def worker(name: str, path: Path, small: Path, folder: Path) -> None:
    """Runs one method once, in this fresh process, and prints what it took."""
    function, _ = METHODS[name]
    outputs = []
    for number, source in enumerate((small, path)):
        out = folder / str(number)
        out.mkdir()
        cpu, wall = cpu_seconds(), time.perf_counter()
        outputs = function(source, out)
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    peak = (
        max(
            resource.getrusage(who).ru_maxrss
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        / 1024
    )
    print(
        json.dumps(
            {"cpu": cpu, "wall": wall, "with_start": cpu_seconds(), "peak": peak, "made": outputs}
        )
    )


def measure(folder: Path, path: Path, small: Path, rounds: int) -> dict[str, list[dict]]:
    """What each round of each method took."""
    names = []
    for name, (_, needs) in METHODS.items():
        missing = needs and not (
            shutil.which(needs) if needs == "seqkit" else importlib.util.find_spec(needs)
        )
        if missing:
            print(
                f"{name}: {needs} is not installed ({'apt' if needs == 'seqkit' else 'pip'} install"
                f" {needs}); left out"
            )
        else:
            names.append(name)
    results: dict[str, list[dict]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            work = Path(tempfile.mkdtemp(dir=folder))
            command = [
                sys.executable,
                "-m",
                "bench.sequences",
                "--worker",
                name,
                str(path),
                str(small),
                str(work),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
            shutil.rmtree(work)
    made = {tuple(runs[0]["made"]) for runs in results.values()} - {(0, 0)}
    if len(made) != 1:
        raise AssertionError(f"the methods disagree about sequences and tokens: {made}")
    return results


def report(results: dict[str, list[dict]], size: int) -> None:
    """Prints medians over the rounds, and the medians of the ratios within a round."""
    ours = np.array([run["cpu"] for run in results["phenomjax"]])
    print(
        f"{'':32}{'MB/CPU s':>9}{'(best)':>8}{'MB/s':>7}"
        f"{'with start':>12}{'peak MiB':>10}{'ours x':>8}"
    )
    for name, runs in results.items():
        cpu, wall, start, peak = (
            np.array([run[key] for run in runs]) for key in ("cpu", "wall", "with_start", "peak")
        )
        rate = size / 1e6 / np.median(cpu)
        print(
            f"{name:32}{rate:9.0f}{size / 1e6 / cpu.min():8.0f}{size / 1e6 / np.median(wall):7.0f}"
            f"{size / 1e6 / np.median(start):12.0f}{peak.max():10.0f}{np.median(cpu / ours):8.2f}"
        )
    rate, peak = size / 1e6 / np.median(ours), max(run["peak"] for run in results["phenomjax"])
    for reached, text in (
        (rate >= GOAL, f"at least {GOAL} MB of FASTA per CPU second: {rate:.0f}"),
        (peak < MEMORY_MIB, f"less than {MEMORY_MIB} MiB of memory: {peak:.0f}"),
    ):
        print(f"  {'reached' if reached else 'MISSED '}  {text}", flush=True)


def machine() -> str:
    """CPU, cores, versions, load and commit, for the head of a results file."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    cpu = next(
        (line.split(": ")[1] for line in text.splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    versions = []
    for name in ("numpy", "numba", "pyarrow", "pyfastx", "needletail"):
        if importlib.util.find_spec(name):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = (
        subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    )
    return (
        f"{cpu}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; Python"
        f" {platform.python_version()}, {', '.join(versions)}; commit {commit}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="60 MB, 3 rounds")
    parser.add_argument(
        "--worker", nargs=4, metavar=("NAME", "FILE", "SMALL", "FOLDER"), help=argparse.SUPPRESS
    )
    parser.add_argument("--workers", action="store_true", help="of bench.sequence_workers")
    parser.add_argument("--run", nargs=6, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.run:
        kind, workers, path, folder, piece, shelf = flags.run
        sequence_workers.run_once(
            kind, int(workers), Path(path), Path(folder), int(piece), int(shelf)
        )
        return
    if flags.workers:
        print(machine(), flush=True)
        sequence_workers.main(flags.quick)
        return
    if flags.worker:
        worker(flags.worker[0], *map(Path, flags.worker[1:]))
        return
    megabytes, rounds = (60, 3) if flags.quick else (flags.megabytes, flags.rounds)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "x.fasta", Path(folder) / "small.fasta"
        write_fasta(small, 1)
        count = write_fasta(path, megabytes)
        size = path.stat().st_size
        print(
            f"{size / 1e6:.0f} MB, {count} records; medians of {rounds} alternating rounds",
            flush=True,
        )
        report(measure(Path(folder), path, small, rounds), size)


if __name__ == "__main__":
    main()
