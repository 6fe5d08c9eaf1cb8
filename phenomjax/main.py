"""Trains: `python -m phenomjax.main --config configs/mae_demo.py --workdir runs/mae_demo [--config.KEY=VALUE …]`.

Exit codes: 0 done, 1 failed or diverged, 2 configuration or input error (never retried), 75 stopped after saving and 76 ended by the
watchdog (run the same command again). Many hosts: `sbatch launch/train.sbatch --config … --workdir …`, one machine: `launch/local.py -n 4 -- …`.
"""

import contextlib
import sys
from collections.abc import Iterator

from absl import flags
from ml_collections import ConfigDict, config_flags

from phenomjax import cluster, errors, progress
from phenomjax.errors import UserError


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
    workdir = flags.DEFINE_string("workdir", None, "Folder of the run; an interrupted run continues in it.")
    cluster.define_flags()
    if {"--help", "-h", "-help"} & set(sys.argv[1:]):
        own = (f.name for f in flags.FLAGS.get_flags_for_module(sys.argv[0]))
        print(
            doc,
            *(f"  --{n}: {flags.FLAGS[n].help}" for n in dict.fromkeys([*own, "config", "workdir", *cluster.FLAGS])),
            sep="\n",
        )
        print("Every key with its default and meaning stands in phenomjax/config.py; experiments stand in configs/.")
        return None
    with explained():
        flags.FLAGS(sys.argv)
        if config_flag.value is not None:
            config_flag.value.keys()  # a file that could not be read says so only now
    for name in ("config", "workdir"):
        if flags.FLAGS[name].value is None:
            raise UserError(
                f"--{name} is missing: python -m {program} --config configs/mae_demo.py --workdir runs/mae_demo"
            )
    return config_flag.value, workdir.value


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns what absl and ml_collections raise for a flag, a key or a config file into a UserError."""
    try:
        yield
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError, SyntaxError) as error:
        text = error.args[0] if isinstance(error, KeyError) else error  # str() of a KeyError is quoted
        first = " ".join(str(text).split()).rstrip(".?")[:300]
        raise UserError(
            f"{first}. Keys and defaults stand in phenomjax/config.py; experiments stand in configs/ (see --help)."
        ) from None


def main() -> int:
    """Reads the flags, connects the processes, runs the loop."""
    found = read_flags(__doc__)
    if found is None:
        return 0
    progress.log_to_stderr()
    cluster.start_from_flags()
    with cluster.connected():
        from phenomjax import train

        return train.run(*found)


if __name__ == "__main__":
    errors.exit_on_user_error(main)
