"""The settings of the engines, given as `--engine_option NAME=VALUE …`."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from phenomjax.system.errors import UserError, did_you_mean
from phenomjax.system.processes import DEATHS

CLUSTER_DEATHS = 10
Kind = TypeVar("Kind", bound="Local")
# minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes[:seconds]
TIME = re.compile(r"(\d+)(:\d+){0,2}|\d+-\d+(:\d+){0,2}")


@dataclass(frozen=True)
class Local:
    """Processes of this machine.

    Attributes:
      deaths: how often a unit is tried that ends its process.
    """

    deaths: int = DEATHS

    def check(self) -> None:
        """Raises UserError if the values do not fit."""
        if self.deaths < 1:
            raise UserError(f"`engine_option` deaths={self.deaths} must be 1 or more.")


@dataclass(frozen=True)
class Running(Local):
    """A Dask cluster that runs already.

    Attributes:
      deaths: more than on one machine, for whole nodes go, and take the innocent with them.
      resource: what a unit asks for of its worker, such as GPU (dask worker --resources GPU=1);
        then a worker does one unit at a time whatever the number of its threads.
      tls_ca, tls_cert, tls_key: files for a cluster at tls://…, where Dask's own configuration does
        not name them.
    """

    deaths: int = CLUSTER_DEATHS
    resource: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""


@dataclass(frozen=True)
class Slurm(Local):
    """Workers in SLURM jobs.

    Attributes:
      deaths: as of a running cluster.
      nodes: jobs that are kept running, each on one node.
      cpus, mem, gpus: of each job; `mem` as SLURM has it, 32G.
      workers: in each job; one for each of its GPUs, or else of its CPUs.
      time: limit of a job as SLURM has it; its workers leave before, and the next job takes over.
      partition, account: of SLURM.
      sbatch: more options of sbatch, in one word: "sbatch=--qos=low --constraint=avx512".
      prologue: a shell command that prepares a job: "prologue=module load python".
      interface: network that scheduler and workers listen on, ib0; the one that leads to SLURM's
        controller if not given.
      tls: encrypt, and let in only who can read the work folder.
      every: seconds between two looks at the queue.
    """

    deaths: int = CLUSTER_DEATHS
    nodes: int = 1
    cpus: int = 1
    mem: str = ""
    gpus: int = 0
    workers: int = 0
    time: str = "4:00:00"
    partition: str = ""
    account: str = ""
    sbatch: str = ""
    prologue: str = ""
    interface: str = ""
    tls: bool = False
    every: float = 30.0

    def check(self) -> None:
        """Raises UserError if the values do not fit."""
        super().check()
        for name, least in (("nodes", 1), ("cpus", 1), ("gpus", 0), ("workers", 0)):
            if getattr(self, name) < least:
                raise UserError(
                    f"`engine_option` {name}={getattr(self, name)} must be {least} or more."
                )
        if not TIME.fullmatch(self.time):
            raise UserError(
                f"`engine_option` time={self.time} is no time of SLURM: give minutes, H:MM:SS or"
                " D-HH:MM:SS."
            )
        if self.every <= 0:
            raise UserError(f"`engine_option` every={self.every:g} must be more than 0.")

    @property
    def seconds(self) -> int:
        """The limit of a job."""
        days, _, clock = self.time.rpartition("-")
        parts = [int(part) for part in clock.split(":")]
        if days:
            hours, minutes, seconds = (*parts, 0, 0)[:3]
        elif len(parts) == 3:
            hours, minutes, seconds = parts
        else:
            hours, (minutes, seconds) = 0, (*parts, 0)[:2]
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def parse(kind: type[Kind], words: Sequence[str]) -> Kind:
    """Settings from NAME=VALUE words.

    Raises:
      UserError: an unknown name, or a value that does not fit.
    """
    types, given = get_type_hints(kind), dict[str, Any]()
    for word in words:
        name, equals, value = word.partition("=")
        name = name.replace("-", "_")
        if name not in types:
            raise UserError(
                f"`engine_option` {word!r}: this engine has no {name!r}.{did_you_mean(name, types)}"
                f" It has {', '.join(field.name for field in dataclasses.fields(kind))}."
            )
        try:
            if not equals:
                raise ValueError
            given[name] = _value(types[name], value)
        except ValueError:
            what = {int: "an integer", float: "a number", bool: "true or false"}
            raise UserError(
                f"`engine_option` {word!r} must be {name}=VALUE, the value"
                f" {what.get(types[name], 'a text')}."
            ) from None
    settings = kind(**given)
    settings.check()
    return settings


def _value(kind: type, text: str) -> object:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    return kind(text)
