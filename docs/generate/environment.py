"""The page of environment variables: those that launchers name in their first lines, and those that
the program reads.

A launcher lists a variable in its first lines (`PHENOMJAX_NAME   what it says (default: …)`). One
that only programs of ours tell each other is a constant of one of them, or exported by one, with a
comment above it.
"""

import ast
import re
from collections.abc import Iterator

from docs.generate.source import ROOT, cell, comment_above, lines_of, sentence, source_link

INTRO = """# Environment variables

What a launcher or a program is told by its environment. `sbatch` passes on the environment of the
shell that calls it, so `PHENOMJAX_SPARES=1 sbatch launch/train.sbatch …` is enough. Keys of a run
are never taken from here: they stand in its [configuration](configuration.md).
"""
ENTRY = re.compile(r"^(#?   ?)(PHENOMJAX_\w+)  +(\S.*(?:\n\1  +\S.*)*)", re.MULTILINE)
DECLARED = re.compile(r'^(?:[A-Z_, ]+ = .*"(PHENOMJAX_\w+)"|export (PHENOMJAX_\w+)=)')
OURS = re.compile(r"PHENOMJAX_[A-Z_]*[A-Z]")
# of other programs, and what they change here
OTHERS = {
    "AWS_*": "credentials, region and endpoint of S3, as for Amazon's own tools",
    "CUDA_VISIBLE_DEVICES": "which GPUs the processes of a node may use",
    "GOOGLE_*": "the same of Google Cloud Storage",
    "HF_ENDPOINT": "the hub to which `export` publishes a release",
    "JAX_PLATFORMS": "`cpu` trains on the CPU though there are GPUs",
    "MLFLOW_TRACKING_URI": "where the experiment of `log.mlflow_experiment` is kept",
    "NO_COLOR": "no colours in help, on terminals too (others never get any)",
    "SLURM*": "who the processes of a job are, and where they find one another",
    "STORAGE_EMULATOR_HOST": "an emulator of Google Cloud Storage, in place of it",
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "so long a store may send nothing (default: 20)",
    "XDG_CACHE_HOME": "the user's cache folder, where `PHENOMJAX_CACHE` says nothing",
    "XLA_FLAGS": "options of the compiler; ours come before them",
}


def launchers() -> dict[str, list[tuple[str, str]]]:
    """{file of launch/: (variable, what it says) that its first lines list}."""
    found = {}
    for path in sorted((ROOT / "launch").iterdir()):
        if path.is_file():
            entries = [
                (name, re.sub(r"\s+#?\s*", " ", words))
                for _, name, words in ENTRY.findall(path.read_text())
            ]
            found[f"launch/{path.name}"] = entries
    return {file: entries for file, entries in found.items() if entries}


def declared() -> Iterator[tuple[str, str, str]]:
    """(variable, what it says, file) of those that a file declares below a comment."""
    for path in sorted([*ROOT.glob("phenomjax/**/*.py"), *ROOT.glob("launch/*")]):
        if not path.is_file():
            continue
        for at, line in enumerate(lines_of(path), 1):
            if DECLARED.match(line):
                for name in OURS.findall(line):
                    yield name, comment_above(path, at), str(path.relative_to(ROOT))


def read_by_program() -> set[str]:
    """All variables that the code asks for by their name."""
    found = set[str]()
    for path in ROOT.glob("phenomjax/**/*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "environ" in text else ():
            match node:
                case ast.Call(
                    func=ast.Attribute(value=owner, attr="get"),
                    args=[ast.Constant(str(name)), *_],
                ):
                    pass
                case ast.Subscript(value=owner, slice=ast.Constant(str(name))):
                    pass
                case _:
                    continue
            if "environ" in ast.unparse(owner) and re.fullmatch(r"[A-Z][A-Z0-9_]+", name):
                found.add(name)
    return found


def page() -> str:
    """The page."""
    lines = [INTRO]
    for file, entries in launchers().items():
        lines.append(
            f"## `{file}`\n\n{source_link(file)}\n\n| variable | what it says |\n| --- | --- |"
        )
        lines += [f"| `{name}` | {_cell(words)} |" for name, words in entries]
        lines.append("")
    lines.append("## The program, and between programs\n\n| variable | what it says | |")
    lines.append("| --- | --- | --- |")
    lines += [f"| `{n}` | {_cell(words)} | {source_link(file)} |" for n, words, file in declared()]
    lines.append("\n## Of other programs\n\n| variable | what it changes |\n| --- | --- |")
    lines += [f"| `{name}` | {_cell(words)} |" for name, words in OTHERS.items()]
    return "\n".join(lines) + "\n"


def _cell(words: str) -> str:
    return cell(sentence(words))
