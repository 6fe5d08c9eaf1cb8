"""What `python -m phenomjax.evaluate` is asked: options, and what they choose."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from phenomjax.engine.options import EngineOptions
from phenomjax.probes.suites.suite import Suite
from phenomjax.system.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Options(EngineOptions):
    """Of `python -m phenomjax.evaluate`."""

    checkpoint: Annotated[tuple[str, ...], arg(metavar="DIR [DIR ...]")]
    """workdirs of runs (their newest checkpoints), or WORKDIR/checkpoints/STEP folders; several are
    compared"""
    out: Annotated[Path, arg(metavar="DIR")]
    """folder of the report: report.html for a browser, report.md, results.json, figures/"""
    names: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = ()
    """of the checkpoints in the report; by default of their workdirs"""
    suite: Annotated[str, arg(metavar="FILE[:ARG]")] = "configs/eval/protein.py"
    """tasks: a file of configs/eval; :full = all of the data, :quick = a few hundred proteins"""
    data: Annotated[str, arg(metavar="DIR")] = ""
    """folder of the suite's files; by default the one that the suite names"""
    tasks: Annotated[tuple[str, ...], arg(metavar="TASK [TASK ...]")] = ()
    """only these of the suite"""
    cache: Annotated[Path | None, arg(metavar="DIR")] = None
    """folder of embeddings and alignments, which reports may share; by default OUT/cache"""
    bank: Annotated[tuple[Path, ...], arg(metavar="ZARR [ZARR ...]")] = ()
    """pretraining banks, searched for sequences of the tests; by default those that the runs name,
    where they still are"""
    compute_dtype: Literal["auto", "float32", "bfloat16"] | None = None
    """of the embeddings' computation; by default as in the run"""


def chosen(suite: Suite, names: Sequence[str]) -> Suite:
    """The suite with these tasks only; all of them where none is named."""
    for name in names:
        if name not in suite.tasks:
            raise UserError(
                f"`tasks` {name} is not in the suite.{did_you_mean(name, suite.tasks)} It has"
                f" {', '.join(suite.tasks)}."
            )
    if not names:
        return suite
    return dataclasses.replace(suite, tasks={name: suite.tasks[name] for name in names})


def model_names(checkpoints: Sequence[str], names: Sequence[str]) -> list[str]:
    """Short names of checkpoints, all different: those given, or the names of the workdirs, with
    the step where it tells two apart.
    """
    if names and len(names) != len(checkpoints):
        raise UserError(
            f"`names` has {len(names)} names for the {len(checkpoints)} folders of `checkpoint`."
            " Give as many."
        )
    if not names:
        paths = [Path(path).absolute() for path in checkpoints]
        steps = [path.name if path.parent.name == "checkpoints" else "" for path in paths]
        folders = [
            path.parents[1].name if step else path.name
            for path, step in zip(paths, steps, strict=True)
        ]
        names = [
            f"{folder} {step}".strip() if folders.count(folder) > 1 else folder
            for folder, step in zip(folders, steps, strict=True)
        ]
    if len(set(names)) < len(names):
        raise UserError(
            f"Two checkpoints have the same name ({', '.join(names)}). Tell them apart with"
            " `names`."
        )
    return list(names)
