"""The report of an evaluation: results.json, report.md and figures, as a pure function of the
results.
"""

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from phenomjax.probes.reports import figures as reports_figures
from phenomjax.probes.reports import text as reports_text
from phenomjax.probes.reports.details import Details, ReportFigure
from phenomjax.probes.reports.results import Row, largest_count, measured, published_row, value_of
from phenomjax.probes.reports.results import models as models_of
from phenomjax.probes.reports.verdicts import (
    best_head,
    by_label,
    identity_cut,
    judge,
    splits,
    unit,
)
from phenomjax.probes.suites.suite import Suite
from phenomjax.system import files

# how figures' names begin
KINDS = ("bars_", "confusion_", "reliability_", "identity_", "mutations_")
MAX_CLASSES = 30  # of a confusion matrix that can be read


def write(out: Path, results: Sequence[Row], details: Details, suite: Suite) -> list[Path]:
    """Writes results.json, report.md and figures/*.png below `out`, each whole or not at all;
    returns their paths.

    Args:
      out: folder.
      results: rows of probes.results.
      details: see there.
      suite: that was evaluated.
    """
    known = {row["task"] for row in results}
    rows = [*results, *(published_row(**row) for row in suite.published if row["task"] in known)]
    verdicts = judge(rows, suite)
    figures = list(_figures(rows, details, suite))
    paths = [files.save_figure(one.draw(), out / "figures" / one.name) for one in figures]
    for old in (out / "figures").glob("*.png"):  # of an earlier report of more tasks
        if old not in paths and old.name.startswith(KINDS):
            old.unlink()
    text = reports_text.page(rows, details, suite, verdicts, figures)
    head = {
        "command": details.command,
        "suite": details.suite,
        "data": details.data,
        "seconds": round(details.seconds, 1),
        "versions": details.versions,
        "checkpoints": [asdict(one) for one in details.checkpoints],
        "tasks": details.tasks,
        "verdicts": [one.as_dict() for one in verdicts],
        "leakage": details.leakage,
        "notes": details.notes,
    }
    return [
        files.write_text(out / "results.json", _json(head, rows)),
        files.write_text(out / "report.md", text),
        *paths,
    ]


def _json(head: Mapping[str, object], rows: Sequence[Row]) -> str:
    """The head, and one row of results a line; what is no number becomes null, as JSON has it."""

    def plain(x: object) -> object:
        if isinstance(x, dict):
            return {str(key): plain(value) for key, value in x.items()}
        if isinstance(x, (list, tuple)):
            return [plain(value) for value in x]
        x = x.item() if isinstance(x, np.generic) else x
        return None if isinstance(x, float) and not math.isfinite(x) else x

    first = json.dumps({"head": plain(head)}, indent=1, ensure_ascii=False, allow_nan=False)
    lines = [json.dumps(plain(row), ensure_ascii=False, allow_nan=False) for row in rows]
    return first.removesuffix("\n}") + ',\n "results": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"


def _figures(rows: list[Row], details: Details, suite: Suite) -> Iterator[ReportFigure]:
    """What is drawn, in the order of the report."""
    names = [one.name for one in details.checkpoints] + models_of(rows)
    models = list(dict.fromkeys(names))
    colour = reports_figures.colours(models)
    for task, label, own in by_label(rows, suite):
        tests = [name for name in splits(own) if identity_cut(name)[1] is None]
        if not tests:
            continue
        counts = {name: largest_count(r for r in own if r["split"] == name) for name in tests}
        largest = sorted(tests, key=lambda name: -counts[name])[: reports_figures.MAX_TESTS]
        shown, title, stem = (
            [name for name in tests if name in largest],
            f"{task}: {label}",
            f"{task}_{label}",
        )
        left = (
            f" The {len(shown)} largest of {len(tests)} tests." if len(shown) < len(tests) else ""
        )
        yield ReportFigure(
            task,
            label,
            _file("bars", stem),
            f"Main metric with 95 % intervals over {unit(suite.tasks[task])}.{left}",
            functools.partial(reports_figures.bars, own, shown, models, title),
        )
        yield from _identities(task, label, own, models, colour)
        test = largest[0]
        sure, mixed = {}, {}
        for model in models:
            heads = [
                key[3].removeprefix(f"{model}: ")
                for key in details.confusion
                if key[:3] == (task, label, test)
            ]
            best, _, _ = best_head(own, model, test, heads or ("",))
            if best is None:
                continue
            key = (task, label, test, best["method"])
            mixed[best["method"]] = details.confusion[key]
            if key in details.reliability:
                sure[best["method"]] = details.reliability[key]
        if mixed and len(next(iter(mixed.values())).classes) <= MAX_CLASSES:
            yield ReportFigure(
                task,
                label,
                _file("confusion", stem),
                f"Confusion on {test}, the best head of each model.",
                functools.partial(reports_figures.confusion, mixed, f"{title} on {test}"),
            )
        if sure:
            of_method = {method: colour[method.rsplit(": ", 1)[0]] for method in sure}
            yield ReportFigure(
                task,
                label,
                _file("reliability", stem),
                f"Reliability on {test}: whether a model is as often right as it is sure.",
                functools.partial(
                    reports_figures.reliability, sure, of_method, f"{title} on {test}: reliability"
                ),
            )
    for task in dict.fromkeys(key[0] for key in details.mutations):
        own = [
            r
            for r in rows
            if r["task"] == task
            and r["kind"] == "model"
            and (task, r["method"]) in details.mutations
        ]
        best = max((r for r in own if measured(r)), key=value_of, default=None)
        if best is not None:
            yield ReportFigure(
                task,
                best["label"],
                _file("mutations", task),
                f"Measured and predicted effects, {best['method']}.",
                functools.partial(
                    reports_figures.mutation_map,
                    details.mutations[task, best["method"]],
                    f"{task}: {best['method']}, Spearman's rho {value_of(best):.3f}",
                ),
            )


def _identities(
    task: str, label: str, rows: list[Row], models: list[str], colour: dict[str, str]
) -> Iterator[ReportFigure]:
    """Accuracy against identity to the training set: nearest neighbour and best classifier of each
    model, and alignment.
    """
    for test in dict.fromkeys(
        identity_cut(row["split"])[0] for row in rows if identity_cut(row["split"])[1]
    ):
        here = [row for row in rows if identity_cut(row["split"])[0] == test]
        lines: dict[str, list[Row]] = {}
        style: dict[str, dict[str, str]] = {}
        for model in models:
            heads = {
                row["head"] or ""
                for row in here
                if row["kind"] == "model" and row["model"] == model
            }
            best, _, _ = best_head(rows, model, test, tuple(heads - {"nearest"}) or ("",))
            for head, marker, dash in (
                (best["head"] if best else "", "o", "-"),
                ("nearest", "^", "--"),
            ):
                if found := [
                    r
                    for r in here
                    if r["kind"] == "model" and (r["model"], r["head"]) == (model, head)
                ]:
                    lines[found[0]["method"]] = found
                    style[found[0]["method"]] = {
                        "color": colour[model],
                        "marker": marker,
                        "linestyle": dash,
                    }
        if found := [row for row in here if row.get("baseline") == "alignment"]:
            lines[found[0]["method"].removeprefix("baseline: ")] = found
            style[found[0]["method"].removeprefix("baseline: ")] = {
                "color": "black",
                "marker": "s",
                "linestyle": ":",
            }
        if any(measured(row) for found in lines.values() for row in found):
            yield ReportFigure(
                task,
                label,
                _file("identity", f"{task}_{label}_{test}"),
                f"{test}: what is left when close relatives of the training set are taken out.",
                functools.partial(
                    reports_figures.identity, lines, style, f"{task}: {label} on {test}"
                ),
            )


def _file(kind: str, what: str) -> str:
    return f"{kind}_{re.sub(r'[^A-Za-z0-9]+', '_', what).strip('_')}.png"
