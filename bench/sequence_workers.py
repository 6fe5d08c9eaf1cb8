"""`prepare sequences` by 1, 2 and 4 workers of this machine and of a Dask cluster on loopback; the
files of hashes that are opened with and without merging; what 2.5 billion sequences would take.

    python -m bench.sequences --workers            # 10 million sequences: about 15 minutes, 8 GB
    python -m bench.sequences --workers --quick    # 1 million, 2 rounds

Generated proteins, one in four a duplicate. CPU seconds of all processes of a run but the scheduler
and idle workers' start; wall time says little where other programs share the cores. The runs of a
round alternate; medians of the rounds. The model: each step is linear in sequences (the table shows
it), so CPU seconds of the largest run x 2.5 billion / its sequences, and the opens of files of
hashes (`count_opens`) at the time that one takes here, and at 1 ms, a busy parallel file system's.
"""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SIZES = (10**6, 3 * 10**6, 10**7)
WORKERS = (1, 2, 4)
BILLIONS = 2.5e9
SMALL_PIECES = 2**20  # bytes, for runs of many pieces
ROOT = Path(__file__).resolve().parent.parent


def write(path: Path, count: int) -> None:
    """Proteins of some 130 residues, in files that are written in a second a million."""
    rng = np.random.default_rng(0)
    pool = rng.choice(np.frombuffer(b"LAGVESIKRDTPNQFYMHCW", np.uint8), 2**24).tobytes()
    step = 2**16
    with path.open("wb") as file:
        for first in range(0, count, step):
            size = min(step, count - first)
            starts = rng.integers(0, len(pool) - 1000, size)
            lengths = np.clip(rng.lognormal(4.7, 0.5, size), 20, 900).astype(int)
            again = np.flatnonzero(rng.random(size) < 0.24)
            again = again[again > 0]
            others = (rng.random(len(again)) * again).astype(int)
            starts[again], lengths[again] = starts[others], lengths[others]
            rows = zip(range(first, first + size), starts.tolist(), lengths.tolist(), strict=True)
            file.write(
                b"".join(
                    b">UniRef90_%09d protein n=1\n%b\n" % (number, pool[start : start + length])
                    for number, start, length in rows
                )
            )


def _usage() -> tuple[float, float]:
    """CPU seconds of this process and its children; MiB of the largest."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return (
        sum(part.ru_utime + part.ru_stime for part in used),
        max(part.ru_maxrss for part in used) / 1024,
    )


def _of_process(pid: int) -> tuple[float, float]:
    """CPU seconds of a process, and MiB that it had at most (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    peak = next(
        int(line.split()[1]) / 1024
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK"), peak


def _children(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += _children(int(child))
    return found


@contextlib.contextmanager
def _cluster(workers: int, folder: Path) -> Iterator[tuple[str, list[int]]]:
    """A Dask cluster on loopback; yields the scheduler's file and the processes of the workers."""
    file, dask = folder / "scheduler.json", [sys.executable, "-m"]
    loopback = ["--host", "127.0.0.1", "--no-dashboard"]
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [*dask, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        start(
            "distributed.cli.dask_scheduler",
            *loopback,
            "--port",
            "0",
            "--scheduler-file",
            f"{file}",
        )
        nanny = start(
            "distributed.cli.dask_worker",
            *("--scheduler-file", f"{file}", *loopback, "--nthreads", "1", "--memory-limit", "0"),
            *(
                "--nworkers",
                f"{workers}",
                "--local-directory",
                f"{folder}",
                "--death-timeout",
                "60",
            ),
        )
        while True:  # until all are there
            there = _children(nanny.pid)
            if file.is_file() and sum(_is_worker(pid) for pid in there) >= workers:
                break
            time.sleep(0.5)
        time.sleep(3)
        yield str(file), there


def _is_worker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def run_once(kind: str, workers: int, path: Path, folder: Path, piece: int, shelf: int) -> None:
    """One run in this fresh process; prints what it took, as JSON."""
    from phenomjax.prepare.sequences import command
    from phenomjax.prepare.sequences.pieces import PieceSettings

    sizes = {"piece_bytes": piece, "shelf_pieces": shelf} if piece else {}
    if piece:
        sizes["bucket_bits"] = 8
    command.PieceSettings = lambda **given: PieceSettings(**(given | sizes))  # type: ignore
    opened = [0]

    def hook(event: str, details: tuple[object, ...]) -> None:
        if event == "open" and isinstance(details[0], str):
            name = details[0]
            opened[0] += name.endswith("/hashes") or "/merged" in name or "/duplicates/" in name

    sys.addaudithook(hook)
    with contextlib.ExitStack() as stack:
        engine, others = "local", []
        if kind == "dask":
            engine, others = stack.enter_context(_cluster(workers, folder))
        before, start = _usage()[0] + sum(_of_process(pid)[0] for pid in others), time.monotonic()
        options = command.Options(
            source=(path,), out=folder / "b.zarr", jobs=workers, engine=engine
        )
        command.run(options)
        wall, (cpu, peak) = time.monotonic() - start, _usage()
        told = [_of_process(pid) for pid in others]
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {
        "cpu": cpu + sum(one for one, _ in told) - before,
        "wall": wall,
        "peak": max([peak, *(one for _, one in told)]),
        "driver": driver,
        "opens": opened[0],
    }
    print(json.dumps(found))


def _run(folder: Path, *words: object) -> dict[str, float]:
    work = Path(tempfile.mkdtemp(dir=folder))
    kind, workers, path, *more = words
    given = [str(word) for word in (kind, workers, path, work, *(more or (0, 0)))]
    done = subprocess.run(
        [sys.executable, "-m", "bench.sequences", "--run", *given],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    shutil.rmtree(work)
    return json.loads(done.stdout.splitlines()[-1])


def main(quick: bool) -> None:
    """Runs all, and prints tables and the projection."""
    sizes, rounds = (SIZES[:1], 2) if quick else (SIZES, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {count: folder / f"{count}.fasta" for count in sizes}
        for count, path in paths.items():
            write(path, count)
        first = paths[sizes[0]]
        _run(folder, "local", 1, first)  # compiles
        cases = [(kind, count) for kind in ("local", "dask") for count in WORKERS]
        found: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in cases}
        for turn in range(rounds):
            for case in cases[turn % len(cases) :] + cases[: turn % len(cases)]:
                found[case].append(_run(folder, *case, first))
        print(f"{sizes[0]:,} sequences, {first.stat().st_size / 1e6:.0f} MB; medians of {rounds}")
        print(f"{'':14}{'CPU s':>8}{'wall s':>8}{'largest MiB':>13}{'driver MiB':>12}")
        for (kind, workers), runs in found.items():
            median = {key: float(np.median([run[key] for run in runs])) for key in runs[0]}
            print(
                f"{kind + ' x ' + str(workers):14}{median['cpu']:8.1f}{median['wall']:8.1f}"
                f"{median['peak']:13.0f}{median['driver']:12.0f}",
                flush=True,
            )
        opens = _opens(folder, first)
        _project(folder, paths, opens)


def _opens(folder: Path, path: Path) -> float:
    """Runs of many pieces and buckets with and without merging; returns seconds an open."""
    pieces = -(-path.stat().st_size // SMALL_PIECES)
    plain, merged = (_run(folder, "local", 1, path, SMALL_PIECES, shelf) for shelf in (10**6, 16))
    print(
        f"{pieces} pieces x 256 buckets: {plain['opens']:,.0f} opens and {plain['cpu']:.1f} CPU s;"
        f" 16 pieces merged: {merged['opens']:,.0f} opens and {merged['cpu']:.1f} CPU s"
    )
    return max(plain["cpu"] - merged["cpu"], 0.0) / (plain["opens"] - merged["opens"])


def _project(folder: Path, paths: dict[int, Path], open_seconds: float) -> None:
    from phenomjax.prepare.sequences.assembly.duplicates import count_opens
    from phenomjax.prepare.sequences.pieces import PIECE_BYTES, SHELF_PIECES

    print(f"{'sequences':>12}{'CPU s':>8}{'CPU s/million':>15}{'largest MiB':>13}")
    for count, path in paths.items():
        took = _run(folder, "local", 1, path)
        each = took["cpu"] / count
        print(f"{count:12,}{took['cpu']:8.1f}{each * 1e6:15.2f}{took['peak']:13.0f}", flush=True)
    bytes_each = path.stat().st_size / count
    pieces = int(BILLIONS * bytes_each / PIECE_BYTES) + 1
    for text, number in (("as generated", pieces), ("10 TB of text", 10**13 // PIECE_BYTES)):
        share = number / pieces
        merged, plain = (count_opens(number, 4096, shelf) for shelf in (SHELF_PIECES, number))
        print(
            f"2.5 billion, {text}: {number:,} pieces, {each * BILLIONS * share / 3600:.0f} core"
            f" hours; {merged / 1e6:.1f} million opens of files of hashes"
            f" ({merged * open_seconds / 3600:.1f} core hours here, {merged / 3.6e6:.1f} hours at 1"
            f" ms), without merging {plain / 1e6:,.0f} million ({plain / 3.6e6:.0f} hours at 1 ms)"
        )
