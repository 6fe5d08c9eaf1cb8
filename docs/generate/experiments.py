"""The page of the experiment files: the lab-book page that each one's docstring is."""

import ast

from docs.generate.source import ROOT, docstring_of, docstring_page, source_link

INTRO = """# Experiment files

Each file in `configs/` is one experiment: a function `get_config` that starts from the defaults and
changes some [keys](configuration.md). Its first lines are a page of a lab book: what it is, the
command, hardware, time, and the numbers to expect. Copy the nearest one to begin your own.

```text
python -m phenomjax.main --config configs/FILE.py[:ARGUMENT] --workdir runs/NAME
```
"""


def experiments() -> dict[str, str]:
    """{path of an experiment file or a suite: its docstring}."""
    files = [*ROOT.glob("configs/*.py"), *ROOT.glob("configs/*/*.py")]
    return {str(path.relative_to(ROOT)): docstring_of(path) for path in sorted(files)}


def page() -> str:
    """The page."""
    lines = [INTRO]
    for path, text in experiments().items():
        title, _, rest = text.partition("\n\n")
        name = path.removeprefix("configs/")
        lines.append(f"## `{name}`\n\n{docstring_page(title)}\n\n{source_link(path)}\n")
        if argument := _argument(path):
            lines.append(f"Argument behind the colon, by default `{argument}`.\n")
        lines.append(f"{docstring_page(rest)}\n")
    return "\n".join(lines)


def _argument(path: str) -> str:
    """The default of the argument of `get_config`."""
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name in ("get_config", "get_suite"):
            return "".join(str(ast.literal_eval(one)) for one in node.args.defaults)
    return ""
