"""The pages of the Python API: a page a room, a heading a module, its public names from the
docstrings.
"""

import ast

from docs.generate.source import ROOT

PACKAGE = ROOT / "phenomjax"
INTRO = """# Python API

Everything that the commands do can be called from Python. A page a room of the house; names that
begin with an underscore are not shown, and may change. Begin with [Python, by hand](../python.md):
the dozen calls that people need. Not here are the rooms that serve one command each (`cluster`,
`engine`, `preflight`, `prepare`, `runs`, `standby`, `sweep`) and the options of the commands, which
[Commands](../commands.md) has.

| room | what it holds |
| --- | --- |
"""
# rooms that one calls from Python; a file at the root of the package is in the room "loop"
ROOMS = (
    *("loop", "config", "tasks", "models", "data", "checkpoints", "training", "trained"),
    *("inference", "maps", "probes", "statistics", "scaling", "figures", "convert", "export"),
    "system",
)
DOORS = ("__main__", "command", "options")
LOOP = ("train", "step", "state", "sharding", "optim")


def modules(room: str) -> list[str]:
    """The modules of a room that have public names, without doors."""
    if room == "loop":
        return [f"phenomjax.{name}" for name in LOOP]
    found = []
    for path in sorted((PACKAGE / room).rglob("*.py")):
        names = path.relative_to(ROOT).with_suffix("").parts
        if names[-1] not in DOORS and _public(ast.parse(path.read_text())):
            found.append(".".join(names).removesuffix(".__init__"))
    return found


def _public(tree: ast.Module) -> bool:
    """Whether a module defines a function or a class for others."""
    kinds = ast.FunctionDef | ast.ClassDef
    return any(isinstance(one, kinds) and one.name[0] != "_" for one in tree.body)


def what(room: str) -> str:
    """The first sentence of a room's docstring."""
    if room == "loop":
        return "The loop: training, one step, what it changes, sharding, optimisers."
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def index() -> str:
    """The page that leads to the others."""
    rows = [f"| [`{room}`]({room}.md) | {what(room)} |" for room in ROOMS]
    return INTRO + "\n".join(rows) + "\n"


def page(room: str) -> str:
    """The page of a room: a line for each module, which mkdocstrings makes its names of."""
    lines = [f"# {room}\n\n{what(room)}\n"]
    lines += [f"::: {module}\n" for module in modules(room)]
    return "\n".join(lines)
