"""The text of an evaluation's report, as Markdown."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from phenomjax.probes.reports.bars import ordered
from phenomjax.probes.reports.results import Row, has_value, largest_count, measured
from phenomjax.probes.reports.verdicts import (
    Verdict,
    by_label,
    goodness,
    identity_cut,
    metric_name,
    sentence,
    splits,
    summary,
    unit,
)
from phenomjax.probes.suites.leakage import Overlap
from phenomjax.probes.suites.suite import Mutations, Suite, Task
from phenomjax.statistics.comparison import BEATS, number

if TYPE_CHECKING:
    from phenomjax.probes.reports.details import Details, ReportFigure

FEW = 20  # members of a subset whose numbers mean little
# The published sizes, for whom a small model was not shown to learn.
LARGER = {
    "causal_lm": (
        "configs/prot_txl.py:uniref --config.data.banks=\"('uniref100.zarr',)\" --workdir"
        " runs/prot_txl"
    ),
    "permutation_lm": (
        "configs/prot_xlnet.py:uniref --config.data.banks=\"('uniref100.zarr',)\" --workdir"
        " runs/prot_xlnet"
    ),
    "bidirectional_lm": (
        "configs/seqvec.py:uniref50 --config.data.banks=\"('uniref50.zarr',)\" --workdir"
        " runs/seqvec"
    ),
}


def page(
    rows: Sequence[Row],
    details: "Details",
    suite: Suite,
    verdicts: Sequence[Verdict],
    figures: Sequence["ReportFigure"],
) -> str:
    """The whole page.

    Args:
      rows: of results, published ones included.
      details: see there.
      suite: that was evaluated.
      verdicts: of verdicts.judge.
      figures: that stand in figures/.
    """
    sources = list(dict.fromkeys(row["source"] or "" for row in rows if row["kind"] == "published"))
    models = [one.name for one in details.checkpoints]
    parts = [
        f"# Evaluation of {', '.join(models)}" if models else "# Evaluation",
        *_subject(details, suite),
        "## What the numbers say",
        (
            "A model *beats* a baseline when their 95 % intervals do not overlap. Values are means"
            " over the heads' seeds; intervals are bootstraps over the proteins (variants,"
            " molecules) of a test, and do not contain what another training of the model would"
            " change."
        ),
        "\n".join(f"- {line}" for line in summary(verdicts)) or "No model has a number.",
        *_larger(details, verdicts),
        *_verdicts(verdicts),
        "## Results",
        (
            "Value [95 % interval]; **bold**: the best that was computed here. *Italic*: published,"
            " of models with other training data."
        ),
    ]
    for task, label, own in by_label(rows, suite):
        parts += _label(task, label, own, rows, suite, models, sources)
        parts += [
            f"![{one.caption}](figures/{one.name})\n\n{one.caption}"
            for one in figures
            if (one.task, one.label) == (task, label)
        ]
    parts += ["## Leakage", _leakage(details.leakage)]
    parts += [
        "## What was left out",
        "\n".join(f"- {note}" for note in details.notes) or "Nothing.",
    ]
    if sources:
        parts += [
            "## Sources of the published numbers",
            "\n".join(f"{i}. {text}" for i, text in enumerate(sources, 1)),
        ]
    parts += [
        "## Run it again",
        f"```\n{details.command}\n```",
        ", ".join(f"{k} {v}" for k, v in details.versions.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table; bars in cells are escaped."""

    def line(cells: Sequence[object]) -> str:
        return (
            "| "
            + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
            + " |"
        )

    return "\n".join([line(header), "|" + " --- |" * len(header), *map(line, lines)])


def _subject(details: "Details", suite: Suite) -> list[str]:
    """What was evaluated."""
    checkpoints = table(
        ("model", "objective", "parameters", "step", "checkpoint", "fingerprint"),
        [
            (
                c.name,
                c.task,
                f"{c.parameters:,}",
                f"{c.step:,}",
                f"`{c.path}`",
                f"`{c.fingerprint[:12]}`",
            )
            for c in details.checkpoints
        ],
    )
    lines = []
    for name, counts in details.tasks.items():
        task = suite.tasks.get(name)
        tests = [
            f"{split} {n:,}"
            for split, n in counts.items()
            if split not in ("train", "validation", "fingerprint")
        ]
        labels = ", ".join(task.labels) if isinstance(task, Task) else task.target if task else ""
        without = isinstance(task, Mutations)
        train = (
            ["without training", ""]
            if without
            else [f"{counts.get(s, 0):,}" for s in ("train", "validation")]
        )
        lines.append((name, labels, *train, ", ".join(tests)))
    took = f" It took {details.seconds / 60:.1f} minutes." if details.seconds else ""
    return [
        "## What was evaluated",
        checkpoints if details.checkpoints else "",
        f"The models were frozen. Suite `{details.suite}`, data in `{details.data}`.{took}",
        table(("task", "predicted", "train", "validation", "tests"), lines) if lines else "",
    ]


def _verdicts(verdicts: Sequence[Verdict]) -> list[str]:
    """A heading a task and label, a sentence a test and model; of identity subsets the strictest
    that is not tiny.
    """
    parts = []
    for task, label in dict.fromkeys((v.task, v.label) for v in verdicts):
        own = [v for v in verdicts if (v.task, v.label) == (task, label)]
        strict: dict[str, float] = {}
        for v in own:
            test, cut = identity_cut(v.split)
            if cut is not None and v.count >= FEW:
                strict[test] = min(cut, strict.get(test, cut))
        shown = [
            v for v in own if (found := identity_cut(v.split))[1] in (None, strict.get(found[0]))
        ]
        parts += [f"### {task}: {label}", "\n".join(f"- {sentence(v)}" for v in shown)]
    return parts


def _larger(details: "Details", verdicts: Sequence[Verdict]) -> list[str]:
    """The command of the published size, where a model is not shown to beat its random-weights
    twin.
    """
    found = []
    largest: dict[tuple[str, str], int] = {}
    for v in verdicts:
        largest[v.task, v.label] = max(v.count, largest.get((v.task, v.label), 0))
    for one in details.checkpoints:
        own = [v for v in verdicts if v.model == one.name and v.count == largest[v.task, v.label]]
        lost = dict.fromkeys(
            f"{v.task} ({v.label})"
            for v in own
            for c in v.comparisons
            if c.twin and c.outcome != BEATS
        )
        if lost and one.task in LARGER:
            found.append(
                f"Here {one.name} is not shown to do better than the same network with random"
                f" weights: {', '.join(lost)}. A larger model that is trained longer, on GPUs, is"
                " what to try next:\n\n```\npython -m phenomjax.main --config"
                f" {LARGER[one.task]}\n```"
            )
    return found


def _label(
    task: str,
    label: str,
    own: Sequence[Row],
    rows: Sequence[Row],
    suite: Suite,
    models: list[str],
    sources: list[str],
) -> list[str]:
    """The table of a label's main metric, published numbers of other tests, and the other metrics
    folded away.
    """
    tests = splits(own)
    if not tests:
        return []
    computed = next(row for row in own if row["kind"] != "published")
    parts = [
        f"### {task}: {label}",
        f"{metric_name(computed['metric'], computed['average'])}; n: {unit(suite.tasks[task])}.",
        _main_table(own, tests, models, sources),
    ]
    if quoted := [
        (f"*{r['method']}*", r["split"], f"*{number(r['value'])}*", _source(r, sources))
        for r in own
        if r["kind"] == "published" and r["split"] not in tests
    ]:
        parts += [
            "Published, on other test sets than these:",
            table(("method", "test", "value", "source"), quoted),
        ]
    if others := [
        (
            r["method"],
            r["split"],
            metric_name(r["metric"], r["average"]),
            number(r["value"], r["interval"]),
        )
        for r in rows
        if (r["task"], r["label"]) == (task, label)
        and r["kind"] != "published"
        and r not in own
        and measured(r)
    ]:
        folded = table(("method", "test", "metric", "value"), others)
        parts.append(f"<details><summary>Other metrics</summary>\n\n{folded}\n\n</details>")
    return parts


def _main_table(
    rows: Sequence[Row], tests: Sequence[str], models: list[str], sources: list[str]
) -> str:
    """A line a method, a column a test."""
    header, best = ["method"], {}
    for name in tests:
        here = [row for row in rows if row["split"] == name and row["kind"] != "published"]
        header.append(f"{name} (n = {largest_count(here):,})")
        best[name] = max((goodness(row) for row in here if has_value(row)), default=None)
    found = {(row["method"], row["split"]): row for row in reversed(rows)}
    lines = []
    for method in [row["method"] for row in ordered(rows, tests, models)]:
        cells = []
        for name in tests:
            row = found.get((method, name))
            if row is None:
                cells.append("")
            elif row["kind"] == "published":
                cells.append(f"*{number(row['value'])}* {_source(row, sources)}")
            else:
                text = number(row["value"], row["interval"])
                is_best = has_value(row) and goodness(row) == best[name]
                cells.append(f"**{text}**" if is_best else text)
        lines.append((method, *cells))
    return table(header, lines)


def _source(row: Row, sources: list[str]) -> str:
    """The number of a published row's source."""
    return f"[{sources.index(row['source'] or '') + 1}]"


def _leakage(rows: Sequence[Overlap]) -> str:
    if not rows:
        return "Nothing was compared."

    def share(count: int | None, of_all: float | None) -> str:
        if count is None:
            return "not counted"
        return f"{count:,} ({of_all:.1%})" if count else "0"

    def example(row: Overlap) -> str:
        return ", ".join(
            f"{one['id']} is {one['other_id']} ({one['identity']:.0%})"
            for one in row["examples"][:2]
        )

    header = (
        "task",
        "test",
        "compared with",
        "tested",
        "exact copies",
        "near-identical",
        "such as",
        "note",
    )
    lines = [
        (
            r["task"],
            r["split"],
            r["other"],
            f"{r['count']:,}",
            share(r["exact"], r["exact_share"]),
            share(r["near"], r["near_share"]),
            example(r),
            r["note"],
        )
        for r in rows
    ]
    return "Test sequences that stand in other data too, exactly or near-identically.\n\n" + table(
        header, lines
    )
