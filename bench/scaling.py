"""Weak and strong scaling of training through the SLURM launcher: `python -m bench.scaling [--nodes
1,2,4] [--out bench/results/scaling.txt]`.

Every run is `sbatch launch/train.sbatch` on that many nodes. On a machine with SLURM that is the
one used (whole nodes, one task a GPU); else a SLURM with that many nodes is started on this machine
(../shared/tools/slurm_up), whose nodes share its cores: that shows what launching, collectives over
loopback and waiting for one another cost, and no speed-up. Sizes are small there; on a cluster give
the real ones: --txl configs/prot_txl.py:uniref --mae configs/mae.py:L/8 --banks
PROTEINS.zarr,SCREEN.zarr --txl_rows 32 --mae_rows 256.

Weak scaling: rows a node are constant, efficiency = batch time of one node / batch time. Strong
scaling: rows a step are constant, efficiency = speed-up / nodes. Rates are those of each run's
metrics.jsonl, whose lines come every --log steps; the first line holds the start and is left out;
of a run the median counts, and of the rounds, which alternate over all cases, again the median.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import rounds

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT.parent / "shared" / "tools"
UNITS = {"txl": "residues", "mae": "images"}
SMALL = {  # what fits a laptop
    "txl": {
        "model.num_layers": 2,
        "model.embed_dim": 128,
        "model.num_heads": 2,
        "model.mlp_dim": 512,
        "model.mem_len": 64,
        "data.segment_len": 64,
    },
    "mae": {
        "model.embed_dim": 128,
        "model.depth": 3,
        "model.num_heads": 4,
        "model.decoder_dim": 64,
        "model.decoder_depth": 1,
        "model.decoder_num_heads": 4,
        "model.patch_size": 8,
        "data.crop_size": 32,
    },
}
PUBLISHED = """published, Transformer-XL, weak scaling (the protein proposal's tables)
  AWS, V100         8 GPUs 1719.9 ms, 16 1785 ms, 32 1769 ms, 64 2028 ms,
                    128 (16 nodes) 2082 ms: 13.2 x of 16, 83 %
  NVIDIA cluster    1 GPU 665 ms, 8 712 ms (93 %), 32 740 ms (90 %), 240 (30 nodes) 840 ms: 79 %"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", default="1,2,4")
    parser.add_argument("--models", default="txl,mae")
    parser.add_argument("--modes", default="weak,strong")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--log", type=int, default=10, help="steps a line of metrics")
    parser.add_argument("--preset", default="dp", help="dp or fsdp")
    parser.add_argument("--txl", default="", help="experiment file (default: a small one)")
    parser.add_argument("--mae", default="", help="experiment file (default: a small one)")
    parser.add_argument("--banks", default="", help="token bank,image bank (default: simulated)")
    parser.add_argument(
        "--txl_rows",
        type=int,
        default=8,
        help="rows a node; strong scaling has those of the largest number of nodes",
    )
    parser.add_argument("--mae_rows", type=int, default=16)
    parser.add_argument(
        "--sbatch",
        default="",
        help="more options for sbatch, e.g. '--partition=gpu --gpus-per-node=8'",
    )
    parser.add_argument(
        "--keep",
        default="",
        help="folder for the runs, on a disk that all nodes see (default: a temporary one)",
    )
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    counts = [int(x) for x in options.nodes.split(",")]
    lab = shutil.which("sbatch") is None or not (
        "SLURM_CONF" in os.environ or Path("/etc/slurm/slurm.conf").exists()
    )
    cases = [
        (model, mode, n)
        for model in options.models.split(",")
        for mode in options.modes.split(",")
        for n in counts
    ]
    times: dict[tuple, list[tuple[float, int]]] = {case: [] for case in cases}
    head = rounds.header(
        rounds.gpu_name() or f"{len(os.sched_getaffinity(0))} cores for all nodes",
        ("jax", "jaxlib", "flax"),
    )
    with contextlib.ExitStack() as stack:
        folder = Path(
            options.keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="scaling"))
        )
        environment = stack.enter_context(simulated_slurm(max(counts))) if lab else dict(os.environ)
        banks = dict(
            zip(
                ("txl", "mae"),
                options.banks.split(",") if options.banks else simulate(folder),
                strict=True,
            )
        )
        for number in range(options.rounds):
            for case in cases:
                times[case].append(
                    one_run(case, number, folder, banks, environment, options, max(counts))
                )
                print(
                    f"round {number + 1}: {case[0]} {case[1]} {case[2]} node(s):"
                    f" {1e3 * times[case][-1][0]:.1f} ms a step",
                    flush=True,
                )
    text = "\n".join([head, *tables(cases, times, options, lab), "", PUBLISHED])
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n")
    return 0


@contextlib.contextmanager
def simulated_slurm(nodes: int) -> Iterator[dict[str, str]]:
    """Starts a SLURM of one-core nodes on this machine; yields the environment of its commands."""
    folder = tempfile.mkdtemp(prefix="lab", dir="/tmp")
    try:
        subprocess.run(
            [TOOLS / "slurm_up", folder, "--nodes", str(nodes), "--cpus", "1", "--gpus", "0"],
            check=True,
            stdout=sys.stderr,
        )
        shell = subprocess.run(
            f". {folder}/env.sh; env -0", shell=True, check=True, capture_output=True, text=True
        )
        pairs = [x.partition("=") for x in shell.stdout.split("\0") if x]
        variables = {
            name: value for name, _, value in pairs if not name.startswith("JAX_COMPILATION")
        }
        yield variables | {
            "PHENOMJAX_TASKS_PER_NODE": "1",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
            "OMP_NUM_THREADS": "1",
        }
    finally:
        subprocess.run([TOOLS / "slurm_down", folder, "--purge"], stdout=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)


def simulate(folder: Path) -> list[str]:
    """Banks of simulated proteins and cells."""
    from phenomjax.data.simulated.families import FamilyConfig, write_families
    from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen

    write_families(folder / "proteins.zarr", FamilyConfig(families=40, members=40))
    write_screen(
        folder / "screen.zarr",
        SimulationConfig(num_plates=2, wells_per_plate=24, sites_per_well=1, field_px=128),
    )
    return [str(folder / "proteins.zarr"), str(folder / "screen.zarr")]


def one_run(
    case: tuple,
    number: int,
    folder: Path,
    banks: dict[str, str],
    environment: dict[str, str],
    options: argparse.Namespace,
    largest: int,
) -> tuple[float, int]:
    """(seconds a step, devices) of one job."""
    model, mode, nodes = case
    workdir, rows = (
        folder / f"{model}_{mode}_{nodes}_{number}",
        {"txl": options.txl_rows, "mae": options.mae_rows}[model],
    )
    given = {"txl": options.txl, "mae": options.mae}[model]
    settings = {} if given else SMALL[model]
    settings |= {
        "data.banks": repr((banks[model],)),
        "global_batch_size": rows * (nodes if mode == "weak" else largest),
        "num_steps": options.steps,
        "log.every_steps": options.log,
        "log.tensorboard": False,
        "eval.every_steps": 0,
        "checkpoint.every_steps": options.steps,
        "checkpoint.keep_best": 0,
        "mesh.preset": options.preset,
    }
    script = [
        "launch/train.sbatch",
        "--config",
        given or {"txl": "configs/prot_txl.py:small", "mae": "configs/mae.py:S/8"}[model],
    ]
    arguments = [
        "--workdir",
        str(workdir),
        *(f"--config.{name}={value}" for name, value in settings.items()),
    ]
    log = folder / f"{workdir.name}.log"
    command = [
        "sbatch",
        "--wait",
        f"--nodes={nodes}",
        f"--output={log}",
        *options.sbatch.split(),
        *script,
        *arguments,
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        tail = log.read_text()[-2000:] if log.exists() else ""
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}{tail}")
    return read_run(workdir, settings["global_batch_size"])


def read_run(workdir: Path, rows: int) -> tuple[float, int]:
    """(seconds a step, devices) of a finished run, from its metrics.jsonl and goodput.json."""
    config = json.loads((workdir / "config.json").read_text())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    unit = "images" if config["task"] == "mae" else "residues"
    rates = [line[f"perf/{unit}_per_s"] for line in lines if f"perf/{unit}_per_s" in line][1:]
    per_row = 1 if unit == "images" else config["data"]["segment_len"]
    starts = json.loads((workdir / "goodput.json").read_text())["starts"]
    return rows * per_row / statistics.median(rates), starts[-1]["devices"]


def tables(cases: list[tuple], times: dict, options: argparse.Namespace, lab: bool) -> list[str]:
    """The table of each model and mode."""
    lines = []
    if lab:
        cores = len(os.sched_getaffinity(0))
        lines.append(
            f"The nodes are processes that share {cores} cores: this shows overheads, not speed-up."
            f" From {cores} nodes on, without any overhead, weak scaling would take longer in"
            " proportion, and strong scaling would end."
        )
    for model, mode in dict.fromkeys(case[:2] for case in cases):
        chosen = [case for case in cases if case[:2] == (model, mode)]
        rows = {"txl": options.txl_rows, "mae": options.mae_rows}[model]
        what = (
            f"{rows} rows a node"
            if mode == "weak"
            else f"{rows * max(case[2] for case in chosen)} rows a step"
        )
        lines += [
            (
                f"\n{model}, {mode} scaling, {options.preset}, {what}, median of {options.rounds}"
                " rounds (fastest, slowest)"
            ),
            "  nodes  devices   batch time ms                 scale-up   efficiency",
        ]
        first = statistics.median(seconds for seconds, _ in times[chosen[0]])
        for case in chosen:
            found = [seconds for seconds, _ in times[case]]
            seconds, share = statistics.median(found), case[2] / chosen[0][2]
            speed = first / seconds * (share if mode == "weak" else 1.0)
            spread = f"({1e3 * min(found):.1f}, {1e3 * max(found):.1f})"
            lines.append(
                f"  {case[2]:5d}  {times[case][0][1]:7d}   {1e3 * seconds:8.1f} {spread:20s}"
                f" {speed:8.2f} x {speed / share:10.1%}"
            )
    return lines


if __name__ == "__main__":
    sys.exit(main())
