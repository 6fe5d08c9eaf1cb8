"""Which figures a report has, and of what."""

import re
from collections.abc import Iterator
from functools import partial

from phenomjax.probes.reports import bars, figures, layout
from phenomjax.probes.reports.details import Details, ReportFigure
from phenomjax.probes.reports.results import Row, largest_count, measured, value_of
from phenomjax.probes.reports.results import models as models_of
from phenomjax.probes.reports.verdicts import best_head, by_label, identity_cut, splits, unit
from phenomjax.probes.suites.suite import Suite

# how figures' names begin
KINDS = ("bars_", "confusion_", "reliability_", "identity_", "mutations_")
MAX_CLASSES = 30  # of a confusion matrix that can be read


def choose(rows: list[Row], details: Details, suite: Suite) -> Iterator[ReportFigure]:
    """What is drawn, in the order of the report."""
    names = [one.name for one in details.checkpoints] + models_of(rows)
    colour = layout.colours(list(dict.fromkeys(names)))
    for task, label, own in by_label(rows, suite):
        tests = [name for name in splits(own) if identity_cut(name)[1] is None]
        if not tests:
            continue
        counts = {name: largest_count(r for r in own if r["split"] == name) for name in tests}
        largest = sorted(tests, key=lambda name: -counts[name])[: bars.MAX_TESTS]
        shown = [name for name in tests if name in largest]
        more = len(tests) > len(shown)
        left = f" The {len(shown)} largest of {len(tests)} tests." if more else ""
        yield ReportFigure(
            task,
            label,
            _file("bars", f"{task}_{label}"),
            f"Main metric with 95 % intervals over {unit(suite.tasks[task])}.{left}",
            partial(bars.bars, own, shown, list(colour), f"{task}: {label}"),
        )
        yield from _identities(task, label, own, list(colour), colour)
        yield from _answers(task, label, largest[0], own, details, colour)
    yield from _mutations(rows, details)


def _answers(
    task: str, label: str, test: str, rows: list[Row], details: Details, colour: dict[str, str]
) -> Iterator[ReportFigure]:
    """Confusion and reliability of the best head of each model."""
    sure, mixed = {}, {}
    for model in colour:
        there = [key[3] for key in details.confusion if key[:3] == (task, label, test)]
        heads = [method.removeprefix(f"{model}: ") for method in there]
        best, _, _ = best_head(rows, model, test, heads or ("",))
        if best is None:
            continue
        key = (task, label, test, best["method"])
        mixed[best["method"]] = details.confusion[key]
        if key in details.reliability:
            sure[best["method"]] = details.reliability[key]
    title, stem = f"{task}: {label} on {test}", f"{task}_{label}"
    if mixed and len(next(iter(mixed.values())).classes) <= MAX_CLASSES:
        yield ReportFigure(
            task,
            label,
            _file("confusion", stem),
            f"Confusion on {test}, the best head of each model.",
            partial(figures.confusion, mixed, title),
        )
    if sure:
        of_method = {method: colour[method.rsplit(": ", 1)[0]] for method in sure}
        yield ReportFigure(
            task,
            label,
            _file("reliability", stem),
            f"Reliability on {test}: whether a model is as often right as it is sure.",
            partial(figures.reliability, sure, of_method, f"{title}: reliability"),
        )


def _mutations(rows: list[Row], details: Details) -> Iterator[ReportFigure]:
    """Measured and predicted effects, of the best model."""
    for task in dict.fromkeys(key[0] for key in details.mutations):
        own = [r for r in rows if r["task"] == task and r["kind"] == "model" and measured(r)]
        own = [r for r in own if (task, r["method"]) in details.mutations]
        best = max(own, key=value_of, default=None)
        if best is not None:
            told = f"{task}: {best['method']}, Spearman's rho {value_of(best):.3f}"
            yield ReportFigure(
                task,
                best["label"],
                _file("mutations", task),
                f"Measured and predicted effects, {best['method']}.",
                partial(figures.mutation_map, details.mutations[task, best["method"]], told),
            )


def _identities(
    task: str, label: str, rows: list[Row], models: list[str], colour: dict[str, str]
) -> Iterator[ReportFigure]:
    """Accuracy against identity to the training set: nearest neighbour and best classifier of each
    model, and alignment.
    """
    cuts = [identity_cut(row["split"]) for row in rows]
    for test in dict.fromkeys(name for name, cut in cuts if cut):
        here = [row for row in rows if identity_cut(row["split"])[0] == test]
        lines: dict[str, list[Row]] = {}
        style: dict[str, dict[str, str]] = {}
        for model in models:
            own = [row for row in here if row["kind"] == "model" and row["model"] == model]
            heads = {row["head"] or "" for row in own} - {"nearest"}
            best, _, _ = best_head(rows, model, test, tuple(heads) or ("",))
            for head, marker, dash in (
                (best["head"] if best else "", "o", "-"),
                ("nearest", "^", "--"),
            ):
                if found := [row for row in own if row["head"] == head]:
                    name = found[0]["method"]
                    lines[name] = found
                    style[name] = {"color": colour[model], "marker": marker, "linestyle": dash}
        if found := [row for row in here if row.get("baseline") == "alignment"]:
            name = found[0]["method"].removeprefix("baseline: ")
            lines[name] = found
            style[name] = {"color": "black", "marker": "s", "linestyle": ":"}
        if any(measured(row) for found in lines.values() for row in found):
            yield ReportFigure(
                task,
                label,
                _file("identity", f"{task}_{label}_{test}"),
                f"{test}: what is left when close relatives of the training set are taken out.",
                partial(figures.identity, lines, style, f"{task}: {label} on {test}"),
            )


def _file(kind: str, what: str) -> str:
    return f"{kind}_{re.sub(r'[^A-Za-z0-9]+', '_', what).strip('_')}.png"
