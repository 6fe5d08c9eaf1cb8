"""What the commands on a trained model share: their first flags, and the checks of numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import arg

from phenomjax.engine.options import EngineOptions
from phenomjax.system.errors import UserError, check_folder_of

# of a run, or of one of its checkpoints; a release folder does as well
Checkpoint = Annotated[str, arg(metavar="DIR")]


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(EngineOptions):
    """What images and sequences have in common."""

    GROUPS: ClassVar[dict[str, str]] = {"compute_dtype": "machine"}

    checkpoint: Checkpoint
    """workdir of a run (its newest checkpoint), or one of its checkpoints/STEP folders"""
    compute_dtype: Literal["", "auto", "float32", "bfloat16"] = ""
    """of the computation; nothing: as in the run"""
    devices: Annotated[int, arg(metavar="N")] = 0
    """of this machine, over which a batch is divided; 0: all"""


def check_one_process(options: EngineOptions) -> None:
    """Raises UserError where several processes of this machine are asked for."""
    if options.jobs > 1:
        raise UserError(
            f"`jobs` {options.jobs}: one process uses all devices of this machine. Leave it out."
        )


def check_least(options: object, **least: int) -> None:
    """Raises UserError for numbers among the options that are below their least."""
    for name, value in least.items():
        if getattr(options, name) < value:
            raise UserError(f"`{name}` is {getattr(options, name)}; it must be at least {value}.")


def check_numbers_and_folder(options: object, out: Path, **least: int) -> None:
    """`check_least`, and that the folder of the output is there."""
    check_least(options, **least)
    check_folder_of(out)
