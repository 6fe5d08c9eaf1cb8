"""`prepare mirror` against rclone and s5cmd: MB and files for a second of client CPU, up and down.

    python -m bench.mirror            # about 10 minutes, and 6 GB in a temporary folder
    python -m bench.mirror --quick    # a fifth of the data, 2 rounds

The same files between a disk and `rclone serve s3` on loopback, in alternating rounds, each copy by
a fresh process into an empty place, 16 objects at a time, one process. CPU seconds (user and
system) are the client's alone; those of a copy of one small file, which are the start of the
program, are taken off and given apart. Mirror computes sha256 and reads back or proves what it
wrote; rclone compares MD5; s5cmd compares sizes. Programs: .venv/servers/bin
(tests/requirements-servers.txt).
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.rounds import ROOT, header

PROGRAMS = ROOT / ".venv" / "servers" / "bin"
KEY, SECRET = "benchbenchbench", "bench-secret-for-loopback"
THREADS = 16


def commands(endpoint: str, source: str, target: str, work: Path) -> dict[str, list[str]]:
    """The command line of each program, between a folder and "bank/…" of the server."""
    flags = ["--s3-provider", "Other", "--s3-endpoint", endpoint]
    flags += ["--s3-access-key-id", KEY, "--s3-secret-access-key", SECRET]
    flags += ["--transfers", str(THREADS), "--checkers", str(THREADS), "--config", "/dev/null"]
    up = target.startswith("bank/")
    ends = {
        "rclone": (source, f":s3:{target}") if up else (f":s3:{source}", target),
        "s5cmd": ((f"{source}/*", f"s3://{target}/") if up else (f"s3://{source}/*", f"{target}/")),
        "mirror": (source, f"s3://{target}") if up else (f"s3://{source}", target),
    }
    s5cmd = ["--endpoint-url", endpoint, "--numworkers", str(THREADS), "cp"]
    mirror = ["-m", "phenomjax.prepare", "mirror", *ends["mirror"], "--jobs", "1"]
    return {
        "mirror": [sys.executable, *mirror, "--work", str(work)],
        "rclone": [str(PROGRAMS / "rclone"), "copy", *ends["rclone"], *flags],
        "s5cmd": [str(PROGRAMS / "s5cmd"), *s5cmd, *ends["s5cmd"]],
    }


@contextmanager
def server(folder: Path):
    """`rclone serve s3` of a folder on loopback; yields its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--vfs-cache-mode", "off"]
    process = subprocess.Popen(
        [PROGRAMS / "rclone", *words, f"--auth-key={KEY},{SECRET}", folder],
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def timed(command: list[str], endpoint: str) -> tuple[float, float]:
    """CPU seconds and wall seconds of a command that must end with 0."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{command}: {log.read().decode(errors='replace')[-2000:]}")
    wall = time.perf_counter() - start
    return used.ru_utime + used.ru_stime, wall


def write(folder: Path, count: int, size: int) -> Path:
    """Files of random bytes, a hundred in a folder."""
    for number in range(count):
        path = folder / f"{number // 100:03d}" / f"file-{number:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    return folder


def equal(one: Path, other: Path) -> bool:
    """Whether two folders have the same files."""
    return not subprocess.run(["diff", "-r", one, other], capture_output=True).returncode


def main() -> None:
    """Prints a line a program, direction and kind of files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    share, rounds = (5, 2) if options.quick else (1, options.rounds)
    print(header("", ("obstore",)))
    for name in ("rclone", "s5cmd"):
        words = [PROGRAMS / name, "version"]
        print(subprocess.run(words, capture_output=True, text=True).stdout.splitlines()[0])
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        served = folder / "served" / "bank"
        served.mkdir(parents=True)
        kinds = {
            "one small": write(folder / "one", 1, 1000),
            "small": write(folder / "small", 2000 // share, 64 << 10),
            "large": write(folder / "large", 4, (128 << 20) // share),
        }
        for kind, source in kinds.items():
            shutil.copytree(source, served / f"from {kind}")
        with server(served.parent) as endpoint:
            for direction in ("up", "down"):
                for kind, source in kinds.items():
                    _compare(folder, served, endpoint, direction, kind, source, rounds)


starts: dict[tuple[str, str], float] = {}  # CPU seconds of a copy of one file


def _compare(
    folder: Path,
    served: Path,
    endpoint: str,
    direction: str,
    kind: str,
    source: Path,
    rounds: int,
) -> None:
    target, found = folder / "target", dict[str, list[tuple[float, float]]]()
    for number in range(rounds):
        for name in ("mirror", "rclone", "s5cmd"):
            # rclone remembers folders that it has served: each copy goes into a new one
            new = f"{kind} {number} {name}"
            up = (str(source), f"bank/{new}")
            ends = up if direction == "up" else (f"bank/from {kind}", str(target))
            command = commands(endpoint, *ends, folder / "work")[name]
            found.setdefault(name, []).append(timed(command, endpoint))
            made = served / new if direction == "up" else target
            if not equal(source, made):
                raise RuntimeError(f"{name} {direction}: {made} is not as {source}")
            # ext4 goes round inodes of files that were deleted in the last minutes, at a price
            if kind == "large":
                shutil.rmtree(made)
            else:
                made.rename(folder / f"copied {direction} {new}")
            target.with_name("target.manifest.parquet").unlink(missing_ok=True)
    files = [path for path in source.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    rates = {}
    for name, rows in found.items():
        cpu, wall = (statistics.median(column) for column in zip(*rows, strict=True))
        if kind == "one small":
            starts[direction, name] = cpu
            print(f"{direction:4}  start   {name:7} {cpu:6.2f} CPU s {wall:6.2f} s")
            continue
        work = max(cpu - starts[direction, name], 1e-3)
        rates[name] = size / work
        print(
            f"{direction:4}  {kind:6}  {name:7} {size / work:6.0f} MB and"
            f" {len(files) / work:6.0f} files a CPU s ({work:5.2f} s, {wall:5.2f} s wall)"
        )
    for name in ("rclone", "s5cmd"):
        if name in rates:
            print(f"{direction:4}  {kind:6}  mirror / {name}: {rates['mirror'] / rates[name]:.2f}")


if __name__ == "__main__":
    main()
