"""The options of every command whose work is units: who does them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tyro.conf import arg

from phenomjax.system.options import unrecorded


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Who does the units of a job; the result does not depend on it."""

    SHOWN_LAST: ClassVar[bool] = True
    GROUPS: ClassVar[dict[str, str]] = {"engine": "machine"}

    engine: Annotated[str, arg(metavar="local|slurm|tcp://…|FILE")] = unrecorded("local")
    """what does the work: processes of this machine; Dask workers that are kept running as SLURM
    jobs; or a Dask cluster that runs already, by the address or the file of its scheduler"""

    engine_option: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE …")] = unrecorded(())
    """of the engine, such as nodes=16 cpus=8 mem=32G time=4:00:00 partition=cpu"""

    jobs: int = unrecorded(0)
    """processes of this machine, for --engine local; 0: number of cores"""
