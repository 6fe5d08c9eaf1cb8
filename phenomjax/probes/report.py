"""The report of an evaluation: results.json, report.md and figures, as a pure function of the results."""

import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phenomjax import outputs
from phenomjax import report as run_report
from phenomjax.probes import drawings, report_text
from phenomjax.probes.results import published_row
from phenomjax.probes.suite import Suite
from phenomjax.probes.verdicts import best_head, by_label, identity_cut, judge, measured, splits, unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Key = tuple[str, str, str, str]  # task, label, split (test set), method
KINDS = ("bars_", "confusion_", "reliability_", "identity_", "mutations_")  # how figures' names begin
MAX_CLASSES = 30  # of a confusion matrix that can be read


@dataclass(frozen=True)
class Checkpoint:
    """A model that was evaluated. Its `name` is the `model` of its rows."""

    name: str
    path: str
    step: int
    fingerprint: str
    parameters: int
    task: str  # of its training, such as "causal_lm"


@dataclass(frozen=True)
class Confusion:
    """counts: int64 [true, predicted], of proteins or residues, in the order of `classes`."""

    counts: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Reliability:
    """probability: float32 [n] of the predicted class, of each protein or residue; right: bool [n]."""

    probability: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class MutationMap:
    """Effects of single substitutions. measured, predicted: float64 [20, positions], NaN where there is none, letters in alphabetic order."""

    wild_type: str
    offset: int
    measured: np.ndarray
    predicted: np.ndarray


@dataclass
class Details:
    """What the report needs beside the rows of results.

    Attributes:
      checkpoints: in the order of their columns and colours.
      command: that makes this report again.
      suite: path of the suite file.
      data: folder of the data.
      tasks: {task: {"train": rows, "validation": rows, TEST: rows, "fingerprint": sha256}} of the tasks that were evaluated.
      confusion, reliability: by (task, label, split, method).
      mutations: by (task, method).
      leakage: rows of leakage.report.
      notes: what was left out, and why.
      seconds: that the evaluation took.
      versions: of the packages.
    """

    checkpoints: list[Checkpoint] = field(default_factory=list)
    command: str = ""
    suite: str = ""
    data: str = ""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    confusion: dict[Key, Confusion] = field(default_factory=dict)
    reliability: dict[Key, Reliability] = field(default_factory=dict)
    mutations: dict[tuple[str, str], MutationMap] = field(default_factory=dict)
    leakage: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=run_report.versions)


@dataclass(frozen=True)
class Picture:
    """A figure of the report: what it is of, its file, its caption, and how it is drawn."""

    task: str
    label: str
    name: str
    caption: str
    draw: "Callable[[], Figure]"


def write(out: Path, results: list[dict[str, Any]], details: Details, suite: Suite) -> list[Path]:
    """Writes results.json, report.md and figures/*.png below `out`, each whole or not at all; returns their paths.

    Args:
      out: folder.
      results: rows of probes.results.
      details: see there.
      suite: that was evaluated.
    """
    known = {row["task"] for row in results}
    rows = [*results, *(_published(row) for row in suite.published if row["task"] in known)]
    verdicts = judge(rows, suite)
    figures = list(_figures(rows, details, suite))
    paths = [outputs.save_figure(one.draw(), out / "figures" / one.name) for one in figures]
    for old in (out / "figures").glob("*.png"):  # of an earlier report of more tasks
        if old not in paths and old.name.startswith(KINDS):
            old.unlink()
    text = report_text.page(rows, details, suite, verdicts, figures)
    head = {
        "command": details.command, "suite": details.suite, "data": details.data, "seconds": round(details.seconds, 1),
        "versions": details.versions, "checkpoints": [asdict(one) for one in details.checkpoints], "tasks": details.tasks,
        "verdicts": [one.as_dict() for one in verdicts], "leakage": details.leakage, "notes": details.notes,
    }  # fmt: skip
    return [
        outputs.write_text(out / "results.json", _json(head, rows)),
        outputs.write_text(out / "report.md", text),
        *paths,
    ]


def _published(row: dict[str, Any]) -> dict[str, Any]:
    found = {"average": "", "interval": None, "count": None, "residues": None, "seeds": None, "seed_std": None} | row
    return published_row(found, row["task"], row["method"], row["source"])


def _json(head: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The head, and one row of results a line; what is no number becomes null, as JSON has it."""

    def plain(x: Any) -> Any:
        if isinstance(x, dict):
            return {str(key): plain(value) for key, value in x.items()}
        if isinstance(x, (list, tuple)):
            return [plain(value) for value in x]
        x = x.item() if isinstance(x, np.generic) else x
        return None if isinstance(x, float) and not math.isfinite(x) else x

    first = json.dumps({"head": plain(head)}, indent=1, ensure_ascii=False, allow_nan=False)
    lines = [json.dumps(plain(row), ensure_ascii=False, allow_nan=False) for row in rows]
    return first.removesuffix("\n}") + ',\n "results": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"


def _figures(rows: list[dict[str, Any]], details: Details, suite: Suite) -> Iterator[Picture]:
    """What is drawn, in the order of the report."""
    models = list(
        dict.fromkeys([c.name for c in details.checkpoints] + [r["model"] for r in rows if r["kind"] == "model"])
    )
    colour = drawings.colours(models)
    for task, label, own in by_label(rows, suite):
        tests = [name for name in splits(own) if identity_cut(name)[1] is None]
        if not tests:
            continue
        counts = {
            name: max(r["count"] for r in own if r["split"] == name and r["kind"] != "published") for name in tests
        }
        largest = sorted(tests, key=lambda name: -counts[name])[: drawings.MAX_TESTS]
        shown, title, stem = [name for name in tests if name in largest], f"{task}: {label}", f"{task}_{label}"
        left = f" The {len(shown)} largest of {len(tests)} tests." if len(shown) < len(tests) else ""
        yield Picture(
            task, label, _file("bars", stem), "Main metric with 95 % intervals over "
            f"{unit(suite.tasks[task])}.{left}", functools.partial(drawings.bars, own, shown, models, title),
        )  # fmt: skip
        yield from _identities(task, label, own, models, colour)
        test = largest[0]
        sure, mixed = {}, {}
        for model in models:
            heads = [key[3].removeprefix(f"{model}: ") for key in details.confusion if key[:3] == (task, label, test)]
            best, _, _ = best_head(own, model, test, heads or ("",))
            if best is None:
                continue
            key = (task, label, test, best["method"])
            mixed[best["method"]] = details.confusion[key]
            if key in details.reliability:
                sure[best["method"]] = details.reliability[key]
        if mixed and len(next(iter(mixed.values())).classes) <= MAX_CLASSES:
            yield Picture(
                task, label, _file("confusion", stem), f"Confusion on {test}, the best head of each model.",
                functools.partial(drawings.confusion, mixed, f"{title} on {test}"),
            )  # fmt: skip
        if sure:
            of_method = {method: colour[method.rsplit(": ", 1)[0]] for method in sure}
            yield Picture(
                task, label, _file("reliability", stem), f"Reliability on {test}: whether a model is as often right as it is sure.",
                functools.partial(drawings.reliability, sure, of_method, f"{title} on {test}: reliability"),
            )  # fmt: skip
    for task in dict.fromkeys(key[0] for key in details.mutations):
        own = [
            r for r in rows if r["task"] == task and r["kind"] == "model" and (task, r["method"]) in details.mutations
        ]
        best = max((r for r in own if measured(r)), key=lambda r: r["value"], default=None)
        if best is not None:
            yield Picture(
                task, best["label"], _file("mutations", task), f"Measured and predicted effects, {best['method']}.",
                functools.partial(drawings.mutation_map, details.mutations[task, best["method"]],
                                  f"{task}: {best['method']}, Spearman's rho {best['value']:.3f}"),
            )  # fmt: skip


def _identities(
    task: str, label: str, rows: list[dict[str, Any]], models: list[str], colour: dict[str, str]
) -> Iterator[Picture]:
    """Accuracy against identity to the training set: nearest neighbour and best classifier of each model, and alignment."""
    for test in dict.fromkeys(identity_cut(row["split"])[0] for row in rows if identity_cut(row["split"])[1]):
        here = [row for row in rows if identity_cut(row["split"])[0] == test]
        lines: dict[str, list[dict[str, Any]]] = {}
        style: dict[str, dict[str, Any]] = {}
        for model in models:
            heads = {row["head"] for row in here if row["kind"] == "model" and row["model"] == model}
            best, _, _ = best_head(rows, model, test, tuple(heads - {"nearest"}) or ("",))
            for head, marker, dash in ((best["head"] if best else "", "o", "-"), ("nearest", "^", "--")):
                if found := [r for r in here if r["kind"] == "model" and (r["model"], r["head"]) == (model, head)]:
                    lines[found[0]["method"]] = found
                    style[found[0]["method"]] = {"color": colour[model], "marker": marker, "linestyle": dash}
        if found := [row for row in here if row.get("baseline") == "alignment"]:
            lines[found[0]["method"].removeprefix("baseline: ")] = found
            style[found[0]["method"].removeprefix("baseline: ")] = {"color": "black", "marker": "s", "linestyle": ":"}
        if any(measured(row) for found in lines.values() for row in found):
            yield Picture(
                task, label, _file("identity", f"{task}_{label}_{test}"), f"{test}: what is left when close relatives of the training "
                "set are taken out.", functools.partial(drawings.identity, lines, style, f"{task}: {label} on {test}"),
            )  # fmt: skip


def _file(kind: str, what: str) -> str:
    return f"{kind}_{re.sub(r'[^A-Za-z0-9]+', '_', what).strip('_')}.png"
