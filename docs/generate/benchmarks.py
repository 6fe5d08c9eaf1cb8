"""The pages of benchmarks: what was asked, the command, what it printed, which goals are reached.

Written at build by mkdocs-gen-files from `bench/` and `bench/results/`: the text of a result is
shown as it is; its date, machine and commit are read from its head, its goals from the lines that
say `goal …: met`, `NOT met`, `reached` or `MISSED`. A benchmark or a result file that is in none of
the pages below ends the build.
"""

import ast
import re
import subprocess
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench/results"
REFUSED = ("NOT met", "MISSED")

# page: title; (command, question, result files without bench/results/)
PAGES = {
    "reading": (
        "Reading data",
        [
            (
                "bench.loader",
                "CPU time a crop of the whole loader, against memmap, TensorStore, and zarr-python"
                " with a torch DataLoader",
                ["loader_amd_epyc.txt"],
            ),
            (
                "bench.archives",
                "opening and cropping banks of 1, 10 and 100 million images, and 3,000 banks at"
                " once",
                [],
            ),
            (
                "bench.labelled_loader",
                "what batches in parts of one experiment cost, against batches of all",
                ["labelled_loader_cpu.txt"],
            ),
            (
                "bench.lanes",
                "tokens a CPU second that the loaders of the language models read",
                ["lanes_cpu.txt"],
            ),
        ],
    ),
    "preparing": (
        "Preparing data",
        [
            (
                "bench.prepare",
                "raw images into a bank, against decoding alone and against the least work that a"
                " bank needs; `--curve`: to a million images",
                ["prepare_cpu.txt"],
            ),
            (
                "bench.sequences",
                "MB of FASTA a CPU second into a bank, against pyfastx, needletail and seqkit;"
                " `--workers`: by 1, 2 and 4 workers, and by Dask",
                ["sequences_cpu.txt"],
            ),
            (
                "bench.mirror",
                "MB and files a CPU second, against rclone and s5cmd on the same server",
                ["mirror_cpu.txt"],
            ),
            (
                "bench.engine",
                "CPU time a unit and memory of driver and scheduler, from a thousand to a million"
                " units",
                ["engine_cpu.txt"],
            ),
            (
                "bench.curate",
                "memory and CPU time of curating 1 and 10 million images, against pandas",
                ["curate_cpu.txt"],
            ),
            (
                "bench.gates",
                "planted images out of focus, empty, dead or saturated that curation finds, against"
                " a plain spectrum slope; CPU ms an image",
                ["gates_cpu.txt"],
            ),
            (
                "bench.curated_map",
                "the map of an MAE trained on what curation kept, against that of all, at equal"
                " steps",
                ["curated_map.txt"],
            ),
        ],
    ),
    "training": (
        "Training",
        [
            (
                "bench.mae_step",
                "training step and encoder inference against PyTorch; on a GPU also MFU and memory",
                ["mae_step_cpu.txt"],
            ),
            (
                "bench.lm_step",
                "training step of Transformer-XL, XLNet and ELMo against PyTorch and Hugging Face;"
                " on a GPU also MFU and memory",
                ["lm_step_cpu.txt"],
            ),
            ("bench.gpu", "all that is measured on one GPU, in one call", []),
            (
                "bench.traffic",
                "what the kernels of an H100's program move through its memory, read without a GPU",
                ["h100_programs.txt"],
            ),
            (
                "bench.collectives",
                "collective operations of the compiled step at 8 to 1024 devices, and what they"
                " cost on a given network",
                ["collectives.txt"],
            ),
            (
                "bench.scaling",
                "weak and strong scaling through the SLURM launcher, beside the published numbers"
                " of ProtTrans",
                ["scaling.txt"],
            ),
        ],
    ),
    "survival": (
        "Survival",
        [
            (
                "bench.restart",
                "seconds from the kill of a process until it trains again; `--standby`: from the"
                " loss of a node",
                ["restart.txt"],
            ),
            (
                "pytest -n 0 -s tests/checkpoints/test_kill.py tests/*/test_*slurm.py"
                " tests/cluster/test_elastic.py --full",
                "the kill tests with their full counts: is a killed run bit for bit the run that"
                " was never killed?",
                ["survival.txt"],
            ),
            (
                "bench.second_tier",
                "what copies of the state in memory cost a step, against one memcpy",
                [],
            ),
            (
                "bench.stragglers",
                "what watching for slow processes costs, whom it names in 2,000 healthy steps, and"
                " how soon it names one that was slowed",
                ["stragglers_cpu.txt"],
            ),
            (
                "phenomjax.sweep --config configs/mae_demo.py --study runs/mae_sweep",
                "a sweep on SLURM: do trials stop early, and go on after they were promoted?",
                ["sweep_mae.txt", "sweep_txl.txt"],
            ),
        ],
    ),
    "forecasts": (
        "Forecasts",
        [
            (
                "bench.forecasts",
                "ladders of an MAE and of a Transformer-XL, forecasts written before their large"
                " runs, and the outcomes",
                ["forecasts.txt", "forecast_mae", "forecast_txl"],
            ),
            (
                "bench.scaling_fit",
                "how often intervals of a law and of forecasts hold the truth; errors on published"
                " points, fitted below a budget",
                ["scaling_fit.txt"],
            ),
            (
                "bench.mup",
                "the best learning rate against width, standard and muP",
                [
                    *("mup_mae.txt", "mup_mae.png", "mup_mae.json"),
                    *("mup_causal_lm.txt", "mup_causal_lm.png", "mup_causal_lm.json"),
                ],
            ),
            (
                "phenomjax.scaling recall",
                "is a model of a lower loss a better map?",
                ["scaling_recall.txt", "scaling_recall.png", "scaling_recall.csv"],
            ),
        ],
    ),
    "inference": (
        "Embedding",
        [
            (
                "bench.inference",
                "embedding end to end against the encoder alone, PyTorch, ONNX Runtime and"
                " OpenVINO; on a GPU torch.compile and TensorRT",
                ["inference_amd_epyc.txt"],
            ),
        ],
    ),
    "maps": (
        "Maps",
        [
            (
                "bench.maps",
                "recall of five sources in a map of 17,000 genes, against looking pairs up one by"
                " one; mean average precision, against copairs",
                ["maps_amd_epyc.txt"],
            ),
            (
                "bench.plates",
                "memory and CPU time of align and aggregate over hundreds of plates, against pandas"
                " and scikit-learn",
                ["plates_cpu.txt"],
            ),
            (
                "phenomjax.maps demo",
                "a map of a simulated screen whose truth is known, against the encoder's untrained"
                " twin and hand-made features",
                ["maps_demo.png", "maps_demo.json"],
            ),
            (
                "phenomjax.maps demo --with perturbation",
                "the same with two weakly supervised models beside the MAE, and what their labels"
                " leak",
                [
                    "maps_demo_perturbation.png",
                    "maps_demo_perturbation.json",
                    "maps_demo_leak.json",
                ],
            ),
            (
                "bench.batches",
                "what a staining shift costs a weakly supervised model, and how much AdaBN and"
                " control-stabilised statistics bring back",
                ["batches_cpu.txt"],
            ),
        ],
    ),
    "models": (
        "What small models learn",
        [
            (
                "bench.real_images",
                "what a small MAE and CA-MAE learn from six public image sets, and whether they"
                " follow a drug's dose",
                ["real_images_cpu.txt"],
            ),
            (
                "bench.protein_lm",
                "what small language models learn from real proteins, against n-grams, with and"
                " without memory",
                ["protein_lm_cpu.txt"],
            ),
            (
                "phenomjax.evaluate --suite configs/eval/protein.py",
                "what these models know of structure and localization, against baselines that need"
                " no model",
                ["protein_suite_cpu.txt"],
            ),
            (
                "bench.protein_floors",
                "the baselines of the evaluation suite beside floors that were measured elsewhere",
                ["protein_floors_cpu.txt"],
            ),
        ],
    ),
}
# Modules of bench/ that others run; they are no commands of their own.
PARTS = {"archive_probe", "hlo", "lm_peer", "mae_peer", "programs", "rounds", "sequence_workers"}

HEAD = """# Benchmarks

Each number here was printed by one command of `bench/`, beside a peer or a limit that was
measured in the same run, in alternating rounds, by medians. Most machines were shared, so CPU time
is the figure to trust; the load stands in the head of each output. These pages are made from
[`bench/results/`](../../bench/results) when the site is built: nothing on them is written by hand
but the questions.

The commands need the development set (`make test` installs it) and
`pip install torch==2.13.0 transformers==4.37.2`.
[How a number gets in](../../CONTRIBUTING.md#how-a-number-gets-into-the-readme).

"""


@dataclass(frozen=True)
class Goal:
    """A line of a result that says whether a goal is reached."""

    about: str  # what was measured: the head of its block, and its own words
    measured: str
    goal: str
    reached: bool
    date: str  # of the measurement, where its text has one


def goals(text: str) -> list[Goal]:
    """The goals in a result's text.

    Raises:
        ValueError: A line says that something is missed, in a form that is not read here.
    """
    found: list[Goal] = []
    date = ""
    for paragraph in re.split(r"\n\s*\n", text):
        dates = re.findall(r"\b20\d\d-\d\d-\d\d\b", paragraph)
        date = dates[0] if dates else date
        heads = [line for line in paragraph.splitlines() if not re.match(r"\s|AMD|20\d\d-", line)]
        block = re.split(r"[:,]|  ", heads[0])[0] if heads else ""
        for line in paragraph.splitlines():
            if met := re.match(r"\s+(.*?),? goal ([\d.]+%?)(?: \(.*?\))?: (met|NOT met)\s*$", line):
                measured = re.sub(r"\s{2,}", ", ", met[1].strip())
                found.append(Goal(block, measured, met[2], met[3] == "met", date))
            elif said := re.match(r"\s+(reached|MISSED)\s+(.*?): (.+)$", line):
                found.append(Goal(block, said[3], said[2], said[1] == "reached", date))
            elif any(word in line for word in REFUSED):
                raise ValueError(f"a goal that docs/generate/benchmarks.py does not read: {line}")
    return found


def newest(found: list[Goal]) -> list[Goal]:
    """The last row of each goal: what was measured again counts as it is now."""
    last: dict[tuple[str, ...], Goal] = {}
    for goal in found:
        what = re.sub(r"[-+]?\d[\d.]*", "", goal.measured)  # without its numbers
        key = goal.about, goal.goal, what
        if key not in last or goal.date >= last[key].date:
            last[key] = goal
    return list(last.values())


def origin(path: Path) -> tuple[str, str, str]:
    """Date, machine and commit of a result, from its head; else the date of its own commit."""
    text = "\n".join(path.read_text().splitlines()[:14])
    date = re.search(r"\b20\d\d-\d\d-\d\d\b", text)
    machine = re.search(r"AMD EPYC[^;,:]*?(?=  |[;,:]| \d cores| Python|$)", text, re.MULTILINE)
    commit = re.search(r"\bcommit (?:in )?([0-9a-f]{7,})", text)
    when = date[0] if date else ""
    if not when:
        command = ["git", "log", "-1", "--format=%cs", "--", str(path)]
        when = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return when, machine[0].strip() if machine else "", commit[1] if commit else ""


def about(command: str) -> str:
    """What a benchmark's file says of itself."""
    path = ROOT / (command.split()[0].replace(".", "/") + ".py")
    if not command.startswith("bench.") or not path.exists():
        return ""
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def heading(command: str) -> str:
    """What a benchmark is called on its page: its command, a long one without its options."""
    if len(command) < 46:
        return command
    return " ".join(takewhile(lambda word: not re.search(r"^-|/", word), command.split()))


def anchor(command: str) -> str:
    """The name of its heading."""
    return slugify(case="lower")(heading(command), "-")


def files(names: list[str]) -> list[Path]:
    """The files of a benchmark, those of folders one by one."""
    found: list[Path] = []
    for name in names:
        path = RESULTS / name
        found += sorted(path.iterdir()) if path.is_dir() else [path]
    return found


def table(rows: list[tuple[str, ...]], *heads: str) -> str:
    """A Markdown table."""
    cells = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(each) + " |" for each in cells) + "\n\n"


def page(name: str) -> str:
    """One page of results."""
    title, entries = PAGES[name]
    parts = [f"# {title}\n\n"]
    for command, question, names in entries:
        parts.append(f"## `{heading(command)}`\n\n{question[0].upper() + question[1:]}.\n\n")
        parts.append(f"```sh\npython -m {command}\n```\n\n")
        if said := about(command):
            parts.append(f'??? info "What it does"\n\n    ```text\n{indent(said)}\n    ```\n\n')
        if not names:
            parts.append("No result of it is in `bench/results/` yet.\n\n")
        others = []
        for path in files(names):
            place = f"../../{path.relative_to(ROOT)}"
            if path.suffix == ".png":
                parts.append(f"![{question}]({place})\n\n")
            elif path.suffix == ".txt":
                when, machine, commit = origin(path)
                head = ", ".join(filter(None, [when, machine, commit and f"commit `{commit}`"]))
                parts.append(f"[`{path.name}`]({place}): {head}\n\n")
                parts.append(f"```text\n{path.read_text().rstrip()}\n```\n\n")
            else:
                others.append(f"[`{path.relative_to(RESULTS)}`]({place})")
        if others:
            parts.append(f"All numbers: {', '.join(others)}.\n\n")
    return "".join(parts)


def indent(text: str) -> str:
    """Text inside an admonition."""
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def index() -> str:
    """The first page: which goals are reached, all commands, and what was not measured."""
    reached, commands, missing = [], [], []
    for name, (_, entries) in PAGES.items():
        for command, question, names in entries:
            texts = [path for path in files(names) if path.suffix == ".txt"]
            for path in texts:
                for goal in newest(goals(path.read_text())):
                    word = "reached" if goal.reached else "**not reached**"
                    link = f"[`{command}`]({name}.md#{anchor(command)})"
                    when = goal.date or origin(path)[0]
                    reached.append((link, goal.about, goal.measured, goal.goal, word, when))
            when, _, commit = max(map(origin, texts)) if texts else ("", "", "")
            link = f"[{question}]({name}.md#{anchor(command)})" if names else question
            commands.append((f"`python -m {command}`", link, when, f"`{commit}`" if commit else ""))
            if not names:
                missing.append(f"* `python -m {command}`: {question}\n")
    misses = sum("not" in row[4] for row in reached)
    return "".join(
        [
            HEAD,
            "## What is reached, and what is not\n\n",
            f"Of {len(reached)} goals that the commands hold themselves to, {misses} are missed."
            " They stay here until they are reached. Where a goal was measured again, its newest"
            " row counts; the older ones stand on the page of the command.\n\n",
            table(reached, "command", "what", "measured", "goal", "", "when"),
            "## The commands\n\n",
            table(commands, "command", "question", "last run", "commit"),
            "## Not measured yet\n\nOf these no result has been committed:\n\n",
            *missing,
        ]
    )


def unplaced() -> list[str]:
    """Benchmarks and result files that are on no page."""
    commands = {entry[0].split()[0] for _, entries in PAGES.values() for entry in entries}
    named = {name for _, entries in PAGES.values() for entry in entries for name in entry[2]}
    modules = {path.stem for path in (ROOT / "bench").glob("*.py")} - PARTS - {"__init__"}
    return [
        *(f"bench/{name}.py" for name in sorted(modules) if f"bench.{name}" not in commands),
        *sorted(
            f"bench/results/{path.name}" for path in RESULTS.iterdir() if path.name not in named
        ),
        *sorted(f"bench/results/{name} (gone)" for name in named if not (RESULTS / name).exists()),
    ]


if __name__ == "<run_path>":  # of mkdocs-gen-files
    import mkdocs_gen_files

    if left := unplaced():
        raise ValueError(f"on no page of docs/generate/benchmarks.py: {', '.join(left)}")
    for name, text in {"index": index(), **{name: page(name) for name in PAGES}}.items():
        with mkdocs_gen_files.open(f"benchmarks/{name}.md", "w") as file:
            file.write(text)
