"""All commands on one screen, in the order of work: `phenomjax COMMAND …`, and `python -m
phenomjax COMMAND …`.

Nothing is imported but the command that is asked for; each is also `python -m phenomjax.MODULE`.
"""

import importlib
import os
import platform
import runpy
import sys
from collections.abc import Container

from phenomjax.system import ending  # noqa: F401 (tells scripts of an error, too)
from phenomjax.system.errors import EXIT_DONE, UserError, did_you_mean, exit_on_user_error

COMMANDS = {  # name: (module, what it does)
    "prepare": ("phenomjax.prepare", "raw images or sequences to a bank; inspect one; simulate"),
    "preflight": ("phenomjax.preflight", "check hosts, data and ten steps before a large run"),
    "main": ("phenomjax.main", "train, or continue a run: --config FILE --workdir DIR"),
    "sweep": ("phenomjax.sweep", "search over the keys of a configuration"),
    "scaling": ("phenomjax.scaling", "know the loss of a large run from a ladder of small ones"),
    "runs": ("phenomjax.runs", "compare the runs below folders"),
    "reconstructions": (
        "phenomjax.runs.reconstructions",
        "what trained autoencoders make of crops",
    ),
    "seal": ("phenomjax.checkpoints.seal", "write the SHA-256 of a checkpoint that you trust"),
    "embed": ("phenomjax.embed", "images or sequences to vectors"),
    "maps": ("phenomjax.maps", "embeddings to maps of biology: align, relate, benchmark, explore"),
    "score": ("phenomjax.score", "effects of mutations, without training"),
    "sample": ("phenomjax.sample", "new sequences from a causal model"),
    "evaluate": (
        "phenomjax.evaluate",
        "what a protein model knows; perturbations that an image model tells apart",
    ),
    "export": ("phenomjax.export", "a checkpoint as ONNX, StableHLO, TensorRT or a release"),
    "convert": ("phenomjax.convert", "weights of other projects to ours, and back"),
}
PAGE = """examples:
  phenomjax prepare simulate --out screen.zarr
  phenomjax main --config configs/mae_demo.py --workdir runs/mae_demo
  phenomjax prepare --help

Pretrains models of cells and of proteins: raw data to banks, training, embeddings, maps.
"""
ALSO = """phenomjax COMMAND --help says more.
phenomjax --version tells versions; phenomjax --print-completion bash|zsh|fish completes commands in
the shell. All commands take --quiet and --json; colours are shown on a terminal alone, and not
where NO_COLOR is set."""
SHOWN = ("jax", "jaxlib", "flax", "numpy", "zarr")  # their versions decide numbers and files
SYNONYMS = {"train": "main"}
HOMES = ("prepare", "scaling", "maps")  # that have commands of their own


def main() -> int:
    """Shows the commands, or runs the one that is named.

    Raises:
      UserError: no such command.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS)) + 2
        lines = [f"  {one:<{width}}{text}" for one, (_, text) in COMMANDS.items()]
        print(PAGE, "usage: phenomjax COMMAND …", "", *lines, "", ALSO, sep="\n")
        return EXIT_DONE
    if name == "--version":
        print(*versions(), sep="\n")
        return EXIT_DONE
    if name.partition("=")[0] in ("--print-completion", "--print_completion"):
        from phenomjax.system import completion

        shell = name.partition("=")[2] or "".join(sys.argv[2:3])
        print(completion.script(shell, COMMANDS))
        return EXIT_DONE
    name = SYNONYMS.get(name, name)
    if name.startswith("-"):
        raise UserError(
            f"Flags stand behind the command: phenomjax COMMAND {name}."
            f" Commands: {', '.join(COMMANDS)}."
        )
    if name not in COMMANDS:
        homes = [home for home in HOMES if name in commands_of(home)]
        near = did_you_mean(name, [*COMMANDS, *SYNONYMS])
        if homes:
            near = (
                " Did you mean " + " or ".join(f"'phenomjax {home} {name}'" for home in homes) + "?"
            )
        raise UserError(f"phenomjax has no command '{name}'.{near} It has {', '.join(COMMANDS)}.")
    sys.argv[:2] = [f"phenomjax {name}"]
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    return EXIT_DONE


def commands_of(home: str) -> Container[str]:
    """Names of the commands of a command."""
    return importlib.import_module(f"{COMMANDS[home][0]}.__main__").COMMANDS


def versions() -> list[str]:
    """Of phenomjax, Python, and what decides numbers and files."""
    from importlib import metadata

    others = [f"{name} {metadata.version(name)}" for name in SHOWN]
    python = platform.python_version()
    return [f"phenomjax {metadata.version('phenomjax')}", f"Python {python}, {', '.join(others)}"]


def run() -> None:
    """What `phenomjax` of the shell starts. As with `python -m`, modules of the working folder can
    be imported: experiment files, and objectives from outside.
    """
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    exit_on_user_error(main)


if __name__ == "__main__":
    run()
