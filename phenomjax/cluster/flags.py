"""The flags of a program that runs in several processes."""

import contextlib
import re
import sys
from collections.abc import Container, Iterable, Iterator, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from phenomjax.cluster.start import start
from phenomjax.system.errors import UserError

FLAGS = ("coordinator", "num_processes", "process_id", "local_devices")


def define_flags() -> None:
    """Defines the flags of a front door that runs on several processes."""
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, where no SLURM step says it.")
    flags.DEFINE_integer(
        "num_processes", 0, "Number of processes; 0 = what SLURM's step says, or 1."
    )
    flags.DEFINE_integer("process_id", 0, "Which of them this is.")
    flags.DEFINE_integer(
        "local_devices", 0, "Devices that each process must see, as the launcher promised; 0 = any."
    )


def start_from_flags() -> None:
    """Connects this process as the flags or SLURM's environment say, and checks the devices that
    the launcher promised.
    """
    f = flags.FLAGS
    start(f.coordinator, f.num_processes, f.process_id, f.local_devices)


def read_flags(doc: str, program: str = "phenomjax.main") -> tuple[ConfigDict, str] | None:
    """Defines and reads the flags of a front door to a run.

    Args:
      doc: shown by --help, before the flags.
      program: module that the user called.

    Returns:
      (config, workdir), or None when help was asked for.

    Raises:
      UserError: an unknown or missing flag, or a config file that cannot be read.
    """
    config_flag = config_flags.DEFINE_config_file(
        "config", None, "Experiment file, e.g. configs/mae.py:L/8,mask=0.75.", lock_config=True
    )
    workdir = flags.DEFINE_string(
        "workdir", None, "Folder of the run; an interrupted run continues in it."
    )
    define_flags()
    if {"--help", "-h", "-help"} & set(sys.argv[1:]):
        own = [f.name for f in flags.FLAGS.get_flags_for_module(sys.argv[0])]
        names = dict.fromkeys([*own, "config", "workdir", *FLAGS])
        print(doc, *(f"  --{name}: {flags.FLAGS[name].help}" for name in names), sep="\n")
        print(
            "Every key with its default and meaning stands in phenomjax/config; experiments stand"
            " in configs/."
        )
        return None
    with explained():
        flags.FLAGS(sys.argv)
        if config_flag.value is not None:
            config_flag.value.keys()  # a file that could not be read says so only now
    for name in ("config", "workdir"):
        if flags.FLAGS[name].value is None:
            raise UserError(
                f"--{name} is missing: python -m {program} --config configs/mae_demo.py --workdir"
                " runs/mae_demo"
            )
    return config_flag.value, workdir.value


def read_config(text: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The configuration of a command line, read as `phenomjax.main` reads it.

    Args:
      text: FILE or FILE:ARG.
      overrides: `--config.KEY=VALUE` each.

    Raises:
      UserError: a file that cannot be read, an unknown key, a value of another type.
    """
    values = flags.FlagValues()
    words = ["phenomjax", f"--config={text}", *overrides]
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, lock_config=True, sys_argv=words
    )
    with explained():
        values(words)
        holder.value.keys()
        return ConfigDict(holder.value.to_dict())


def without(overrides: Iterable[str], keys: Container[str]) -> list[str]:
    """The words --config.KEY=VALUE whose keys are not among these: of a tuple that is given twice,
    ml_collections makes one long one.
    """
    return [w for w in overrides if w.removeprefix("--config.").split("=")[0] not in keys]


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns what absl and ml_collections raise for a flag, a key or a file into a UserError."""
    try:
        yield
    except (
        flags.Error,
        AttributeError,
        KeyError,
        ValueError,
        TypeError,
        OSError,
        SyntaxError,
    ) as error:
        # str() of a KeyError is quoted
        text = error.args[0] if isinstance(error, KeyError) else error
        first = " ".join(str(text).split()).rstrip(".?")[:300] + "."
        if close := re.search(r'Did you mean "(\S+)" instead of "(\S+)"', first):
            first = f"There is no key '{close[2]}'. Did you mean '{close[1]}'?"
        elif alone := re.fullmatch(r"""["']+(\w+)["']+\.""", first):
            first = f"There is no key '{alone[1]}' there."
        raise UserError(
            f"{first} Keys and defaults stand in phenomjax/config; experiments stand in configs/"
            " (see --help)."
        ) from None
