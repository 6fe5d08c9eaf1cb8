"""What the generators read from source files: comments above a line, and texts as Markdown."""

import ast
import functools
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"(`[^`]*`)")
REPOSITORY = "https://github.com/phenomjax/phenomjax"


@functools.cache
def lines_of(path: Path) -> tuple[str, ...]:
    """The lines of a file."""
    return tuple(path.read_text().splitlines())


def comment_above(path: Path, line: int) -> str:
    """The comment that ends right above a line (from 1 on), as one paragraph; or ""."""
    lines, found = lines_of(path), list[str]()
    for text in reversed(lines[: line - 1]):
        if not text.strip().startswith("# "):
            break
        found.insert(0, text.strip()[2:])
    return " ".join(found)


def docstring_of(path: Path) -> str:
    """The docstring of a file."""
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def markdown(text: str) -> str:
    """A text in which nothing is markup but its code spans."""
    parts = CODE.split(text)
    return "".join(
        part
        if at % 2
        else re.sub(r"([*\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", part).replace("<", "&lt;")
        for at, part in enumerate(parts)
    )


NAMES = re.compile(
    r"""`[^`]*`|"[^"\s]*"|[\w./@*<>-]*\w_[\w*][\w./@*<>-]*|(?<![\w`-])--?[a-z][\w.=-]*|WORKDIR[/\w@]*"""
)


def sentence(text: str) -> str:
    """A comment as a sentence: a capital, unless it begins with a name, and a full stop; names of
    settings and their values as code.
    """
    text = " ".join(text.split())
    if re.match(r"[a-z]{2,}[ ,;:-]", text) or re.match(r"a [a-z]{2,}\b(?! =)", text):
        text = text[0].upper() + text[1:]
    if text and not text.endswith((".", "!", "?", ":")):
        text += "."
    return markdown(NAMES.sub(_as_code, text))


def _as_code(match: re.Match[str]) -> str:
    name = match[0].rstrip(".'")
    return match[0] if name.startswith("`") else f"`{name}`{match[0][len(name) :]}"


def cell(text: str) -> str:
    """Markdown that stands in a table: bars within code are none of the table's."""
    parts = CODE.split(text)
    parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
    return "".join(parts)


def source_link(path: str, line: int = 0, name: str = "") -> str:
    """A link to a file of the repository, or to a line of it."""
    return f"[`{name or path}`]({REPOSITORY}/blob/main/{path}{f'#L{line}' if line else ''})"


def docstring_page(text: str) -> str:
    """The docstring of an experiment or a command as Markdown: text as text, commands and tables as
    they stand.
    """
    lines = list[str]()
    for part in re.split(r"\n\s*\n", text):
        is_block = re.search(r"^(  |python |make )|  +\S+  +", part, re.MULTILINE)
        lines.append(f"```text\n{_block(part)}\n```" if is_block else markdown(part))
    return "\n\n".join(lines)


def _block(part: str) -> str:
    """A block without the indent that all of its lines share; a command on several lines again,
    which a docstring joins.
    """
    part = textwrap.dedent(part.strip("\n"))
    return re.sub(r"^(python -m \S+ .*?\S)  +(?=--)", r"\1 \\\n  ", part, flags=re.MULTILINE)
