"""What the program's texts offer, and which commands can print them: read from the source, without
running it.

A text can be printed by the commands whose code reaches the function (or class) that it stands in.
The reach is that of names: a function reaches what its body names, in its own module or another.
"""

import ast
import dataclasses
import functools
import importlib
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

import phenomjax
from phenomjax.system import help_pages

ROOT = Path(phenomjax.__file__).parent
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z_-]*[a-z])\b(?!\.)")
SETTING = re.compile(r"`([a-z][a-z_]+)`")
# a command of ours with its words, up to the end of the code span or of the sentence
COMMAND = re.compile(
    r"python -m (phenomjax[.\w]*)((?: (?![A-Z(])[^`;)\n]*?)?)(?=`|;|\)|\n|\. |\.?$)"
)
OTHERS = re.compile(
    r"`(?:vsearch|mmseqs|pip|uv|git|eval|dask|sbatch|srun|nvidia-smi|cd|\{\})[ {][^`]*`"
)
ERRORS = ("UserError", "Unsaid", "BadFile", "Damaged", "Trouble")  # their texts reach the user
Node = tuple[str, str]  # module, name at its top
# Modules that a command imports by a name that only the run knows.
DYNAMIC = {
    "phenomjax.embed images": ("phenomjax.inference.runtimes.",),
    "phenomjax.convert": ("phenomjax.convert.",),
    "phenomjax.main": ("phenomjax.config.",),
}


@dataclass(frozen=True)
class Text:
    """A text in the source; what is put in when it runs stands as {}."""

    node: Node
    line: int
    text: str
    error: bool  # of an error, where a door makes flags of `settings`

    @property
    def place(self) -> str:
        return f"{self.node[0]}:{self.line}"


@functools.cache
def modules() -> dict[str, ast.Module]:
    """{name: parsed source} of the package."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text())
    return found


@functools.cache
def doors() -> dict[str, tuple[Node, frozenset[str]]]:
    """{command line: (what it runs, its flags)}."""
    found = {}
    for program, (module, kinds) in programs().items():
        flags = set().union(*(_flags(kind) for kind in kinds))
        flags |= {"config"} if program == "phenomjax.sweep" else set()
        start = "main" if {"config", "workdir"} <= flags and "study" not in flags else "run"
        found[program] = ((module, start), frozenset(flags))
    return found


@functools.cache
def programs() -> dict[str, tuple[str, list[type]]]:
    """{command line: (module that runs it, its options)}, of all doors."""
    from phenomjax.maps import __main__ as maps
    from phenomjax.prepare import __main__ as prepare
    from phenomjax.prepare import simulate
    from phenomjax.scaling import __main__ as scaling

    single = ["score", "sample", "evaluate", "convert", "export", "sweep", "runs"]
    single += ["main", "preflight", "runs.reconstructions", "checkpoints.seal", "probes.biotrainer"]
    found = {}
    for name in single:
        module = f"phenomjax.{name}"
        inner = f"{module}.__main__" if (ROOT / name.replace(".", "/")).is_dir() else module
        found[module] = (inner, [importlib.import_module(inner).Options])
    inner = "phenomjax.probes.perturbations.command"
    perturbations = [importlib.import_module(inner).Options]
    found["phenomjax.evaluate perturbations"] = (inner, perturbations)
    embed = importlib.import_module("phenomjax.embed").COMMANDS
    for program, table in (
        ("phenomjax.prepare", prepare.COMMANDS),
        ("phenomjax.maps", maps.COMMANDS),
        ("phenomjax.embed", embed),
        ("phenomjax.scaling", scaling.COMMANDS),
    ):
        for command, (module, _) in table.items():
            if command == "simulate":
                kinds = [simulate.options_of(kind) for kind in simulate.KINDS]
            else:
                kinds = [importlib.import_module(module).Options]
            found[f"{program} {command}"] = (module, kinds)
    return found


def _flags(kind: type) -> set[str]:
    """Names of the flags of a dataclass of options, those with other names and negations too."""
    found = {"help", *(field.name for field in dataclasses.fields(help_pages.Screen))}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if tyro.conf.Positional in getattr(hint, "__metadata__", ()):
            continue
        found.add(name)
        bare = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
        found |= {f"no_{name}"} if bare is bool else set()
        for extra in getattr(hint, "__metadata__", ()):
            found |= {alias.lstrip("-") for alias in getattr(extra, "aliases", None) or ()}
            found |= {extra.name} if getattr(extra, "name", None) else set()
    return found


@functools.cache
def texts() -> tuple[Text, ...]:
    """All texts of the package but its docstrings."""
    return tuple(text for name, tree in modules().items() for text in _texts(name, tree))


def _texts(module: str, tree: ast.Module) -> Iterator[Text]:
    for top in tree.body:
        nodes = list(ast.walk(top))
        # strings that stand alone are docstrings, and help below fields
        alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        errors = {
            id(inner)
            for node in nodes
            if isinstance(node, ast.Call)
            and getattr(node.func, "id", getattr(node.func, "attr", "")) in ERRORS
            for inner in ast.walk(node)
        }
        joined = {
            id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values
        }
        for node in nodes:
            if id(node) in alone or id(node) in joined:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = [str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values]
                text = "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            for name in _names(top):
                yield Text((module, name), node.lineno, text, id(node) in errors)


def _names(top: ast.stmt) -> list[str]:
    """Names that a statement at the top of a module defines."""
    if isinstance(top, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [top.name]
    targets = top.targets if isinstance(top, ast.Assign) else [getattr(top, "target", None)]
    return [n.id for t in targets if t is not None for n in ast.walk(t) if isinstance(n, ast.Name)]


@functools.cache
def edges() -> dict[Node, set[Node]]:
    """{definition: what its body names}, annotations left out."""
    found: dict[Node, set[Node]] = {}
    for module, tree in modules().items():
        imported = _imports(module)
        own = {name for top in tree.body for name in _names(top)}
        for top in tree.body:
            nodes = list(_code(top))
            local, reached = imported | _imported(nodes), set()
            for node in nodes:
                if isinstance(node, ast.Name) and node.id in own:
                    reached.add((module, node.id))
                elif isinstance(node, ast.Name) and node.id in local:
                    reached.add(local[node.id])
                elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    target, name = local.get(node.value.id, ("", ""))
                    if not name and target in modules():
                        reached.add((target, node.attr))
            for name in _names(top):
                found.setdefault((module, name), set()).update(reached)
    return found


def _code(top: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of annotations."""
    yield top
    for field, value in ast.iter_fields(top):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _code(child)


@functools.cache
def _imports(module: str) -> dict[str, Node]:
    """What a module imports at its top, or under a condition there."""
    return _imported([n for n in modules()[module].body if not isinstance(n, ast.FunctionDef)])


def _imported(nodes: list[ast.AST]) -> dict[str, Node]:
    """{local name: (module, name in it)}; the name is "" where it is a module."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("phenomjax"):
            for one in node.names:
                whole = f"{node.module}.{one.name}"
                is_module = whole in modules()
                found[one.asname or one.name] = (
                    (whole, "") if is_module else (node.module, one.name)
                )
        elif isinstance(node, ast.Import):
            for one in node.names:
                if one.asname and one.name in modules():
                    found[one.asname] = (one.name, "")
    return found


@functools.cache
def reached(command: str) -> frozenset[Node]:
    """Definitions that a command's code reaches."""
    start, _ = doors()[command]
    by_name = [node for node in edges() if node[0].startswith(DYNAMIC.get(command, ("-",)))]
    seen, left = set(), [start, (start[0], "main"), *by_name]
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        left += [_defined(one) for one in edges().get(node, ())]
    return frozenset(seen)


def _defined(node: Node) -> Node:
    """Where a name is defined that a package only hands on."""
    module, name = node
    for _ in range(4):
        if (module, name) in edges() or module not in modules():
            break
        module, name = _imports(module).get(name, (module, name))
    return module, name


def named(name: str, rest: str) -> list[str]:
    """The commands that a command line in a text can mean; none if there is no such command."""
    known, name = list(doors()), name.rstrip(".")
    words = rest.split()
    inner = [one for one in known if words and one == f"{name} {words[0]}"]
    if not inner and (name in known or not any(one.startswith(f"{name} ") for one in known)):
        return [one for one in known if one == name]
    # `embed` tells by its flags, and a text may speak of a whole room
    all_of = [one for one in known if one.startswith(f"{name} ")]
    return inner or (all_of if not words or not words[0][:1].isalpha() else [])
