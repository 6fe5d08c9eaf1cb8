"""What the workdir itself keeps: metrics.jsonl and figures."""

import json
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from phenomjax.system import files
from phenomjax.system.types import Figure
from phenomjax.training.metrics import FILE, MetricsLine, read_metrics

log = logging.getLogger("phenomjax")


def run_name(workdir: Path) -> str:
    """What a run is called beside others: its folder, and of a trial also its sweep."""
    if workdir.parent.name == "trials":
        return f"{workdir.parents[1].name}/{workdir.name}"
    return workdir.name


class WorkdirFiles:
    """WORKDIR/metrics.jsonl, one object a line with `step` first, and WORKDIR/figures.

    Args:
      workdir: folder of the run.
      resume_step: the step that was restored: lines beyond it are cut and written again; None for a
        new run.
      redo: evaluators that are to run again at that step: lines of theirs are cut too.
    """

    def __init__(self, workdir: Path, resume_step: int | None, redo: Collection[str] = ()):
        self._figures, path = workdir / "figures", workdir / FILE
        if resume_step is None:
            path.unlink(missing_ok=True)
        elif path.exists():
            lines, damaged = read_metrics(path)
            lines = [line for line in lines if line.step <= resume_step]
            lines = [line for line in lines if line.step < resume_step or not _of(line, redo)]
            torn_at_its_end = path.read_bytes()[-1:] != b"\n"
            for number in damaged[:-1] if torn_at_its_end else damaged:
                log.warning("line %d of %s is damaged, and is left out", number, path)
            files.write_text(path, "".join(line.text + "\n" for line in lines))
        self._file = path.open("a")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()  # for those who look on; `flush` is for the loss of power

    def figure(self, step: int, name: str, figure: Figure) -> None:
        path = files.save_figure(figure, self._figures / f"{name}_{step:07d}.png", dpi=110)
        log.info("wrote %s", path)

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, done: bool = False) -> None:
        self.flush()
        self._file.close()


def _of(line: MetricsLine, evaluators: Collection[str]) -> bool:
    """Whether a line holds metrics of one of some evaluators."""
    return any(name.split("/")[0] in evaluators for name in line.values)
