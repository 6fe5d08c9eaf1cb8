"""The report of an evaluation: results.json, report.md, report.html and figures, as a pure
function of the results.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from phenomjax.figures.pages.report import page
from phenomjax.probes.reports import chosen_figures
from phenomjax.probes.reports import text as reports_text
from phenomjax.probes.reports.details import Details
from phenomjax.probes.reports.results import Row, published_row
from phenomjax.probes.reports.verdicts import judge
from phenomjax.probes.suites.suite import Suite
from phenomjax.statistics.comparison import BEATS, BELOW, NOT_SHOWN
from phenomjax.system import files
from phenomjax.system.log import counted


def write(out: Path, results: Sequence[Row], details: Details, suite: Suite) -> list[Path]:
    """Writes results.json, report.md, report.html (the same for a browser, with its figures inside)
    and figures/*.png below `out`, each whole or not at all;
    returns their paths.

    Args:
      out: folder.
      results: rows of all methods.
      details: see there.
      suite: that was evaluated.
    """
    known = {row["task"] for row in results}
    rows = [*results, *(published_row(**row) for row in suite.published if row["task"] in known)]
    verdicts = judge(rows, suite)
    figures = list(chosen_figures.choose(rows, details, suite))
    paths = [files.save_figure(one.draw(), out / "figures" / one.name) for one in figures]
    for old in (out / "figures").glob("*.png"):  # of an earlier report of more tasks
        if old not in paths and old.name.startswith(chosen_figures.KINDS):
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
        files.write_text(out / "report.html", in_browser(text, out, details)),
        *paths,
    ]


def in_browser(text: str, out: Path, details: Details) -> str:
    """The page of a report whose figures are written."""
    marks = {BEATS: "good", NOT_SHOWN: "warn", BELOW: "bad"}
    summary = f"{counted(len(details.checkpoints), 'model')}, {counted(len(details.tasks), 'task')}"
    return page(text, out, summary, marks)


def plain(x: object) -> object:
    """As JSON has it: null in place of what is no number."""
    if isinstance(x, dict):
        return {str(key): plain(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [plain(value) for value in x]
    x = x.item() if isinstance(x, np.generic) else x
    return None if isinstance(x, float) and not math.isfinite(x) else x


def _json(head: Mapping[str, object], rows: Sequence[Row]) -> str:
    """The head, and one row of results a line."""
    first = json.dumps({"head": plain(head)}, indent=1, ensure_ascii=False, allow_nan=False)
    lines = [json.dumps(plain(row), ensure_ascii=False, allow_nan=False) for row in rows]
    return first.removesuffix("\n}") + ',\n "results": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
