"""The help of a command: its examples first, to be pasted, then what it does, then its flags, in
groups where there are many.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import os
import re
import shutil
import sys
import textwrap
import types
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import tyro

WIDTH = 100
# `python -m MODULE …`, with the lines that a backslash or a deeper dash joins to it
EXAMPLE = re.compile(
    r"^( *)python -m [\w.]+(?! \w+: )(?!: )(?:.*\\\n)*.*(?:\n\1 +-.*)*\n?", re.MULTILINE
)
TITLE = re.compile(r"\s*python -m [\w. ]+: (\w)")  # of a module's docstring
# what stands behind a flag, by the kind of its value
VALUES = {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH"}
UNSAID: tuple[Any, ...] = (None, "", (), False)  # defaults that say nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Screen:
    """What every command shows; nothing that it writes depends on it."""

    quiet: bool = False
    """show warnings, errors and results alone"""
    json: bool = False
    """end with one JSON object on stdout: exit_code, written, next, an error, and numbers; all
    else goes to stderr"""


def examples(page: str) -> list[str]:
    """The command lines that a page begins with, one a line; those further down stay there."""
    return _apart(page)[0]


def _apart(page: str) -> tuple[list[str], str]:
    """The first examples of a page, and the page without them."""
    found, first = list(EXAMPLE.finditer(page)), 1
    while first < len(found) and found[first].start() == found[first - 1].end():
        first += 1
    lines = [" ".join(one[0].replace("\\\n", " ").split()) for one in found[:first]]
    if not found:
        return [], page
    before = re.sub(r":\s*$", ".\n\n", page[: found[0].start()])  # they stood below it
    return lines, before + page[found[first - 1].end() :]


def page_of(page: str) -> str:
    """A docstring as help: its examples, then its paragraphs, filled."""
    found, page = _apart(TITLE.sub(lambda first: first[1].upper(), page, count=1))
    title = "example" if len(found) == 1 else "examples"
    first = [f"{title}:\n" + "\n".join(f"  {one}" for one in found)] if found else []
    rest = [_filled(one) for one in re.split(r"\n\s*\n", page) if one.strip()]
    return "\n\n".join([*first, *rest])


def _filled(paragraph: str) -> str:
    """A paragraph in lines of the screen's width; a list and indented lines stay as they are."""
    text = paragraph.strip("\n").rstrip()
    if re.search(r"^(  +|[*|-] )", text, re.MULTILINE):
        return text
    return textwrap.fill(
        " ".join(text.split()), width(), break_long_words=False, break_on_hyphens=False
    )


def width() -> int:
    """Columns that help fills."""
    return max(min(shutil.get_terminal_size().columns, WIDTH), 40)


def commands_page(usage: str, page: str, commands: Mapping[str, str]) -> str:
    """The help of a program with several commands: {name: what it does}."""
    wide = max(map(len, commands)) + 2
    fill = textwrap.TextWrapper(
        width(), initial_indent="  ", subsequent_indent=" " * (wide + 2), break_on_hyphens=False
    ).fill
    lines = [fill(f"{name:<{wide}}{text}") for name, text in commands.items()]
    return "\n\n".join(filter(None, [page_of(page), f"usage: {usage}", "\n".join(lines)]))


def coloured() -> bool:
    """Whether help and mistakes may be coloured: on a terminal alone, and not where NO_COLOR is set
    (https://no-color.org).
    """
    return sys.stdout.isatty() and sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def groups(kind: type[Any]) -> dict[str, str]:
    """{field of an options dataclass: title of its group}; "" for those that come first.

    A class (or a base, of its own fields) says `GROUPS: ClassVar = {"first field": "title", …}`:
    from that field on they belong to the group.
    """
    found, inherited = dict[str, str](), kind.__mro__[::-1]
    for owner in inherited:
        starts, title = vars(owner).get("GROUPS", {}), ""
        for name in vars(owner).get("__annotations__", {}):
            title = starts.get(name, title)
            found[name] = title or (found.get(name, "") if name not in starts else "")
    return {field.name: found.get(field.name, "") for field in dataclasses.fields(kind)}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A field of an options dataclass, as a command line has it.

    Attributes:
      flag: its name there; "" of a word without a flag, and of what no user gives.
      field: of the dataclass.
      hint: its type, with all that is annotated.
    """

    flag: str
    field: dataclasses.Field[Any]
    hint: Any

    @property
    def told(self) -> tuple[Any, ...]:
        """What is annotated."""
        return annotated(self.hint)

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        unset = dataclasses.MISSING
        return self.field.default is unset and self.field.default_factory is unset


def settings(kind: type[Any]) -> list[Setting]:
    """The fields of an options dataclass, in their order."""
    found, hints = list[Setting](), get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        told = annotated(hint)
        flag = next((one.name for one in told if getattr(one, "name", None)), field.name)
        if tyro.conf.Positional in told or tyro.conf.Suppress in told:
            flag = ""
        found.append(Setting(flag, field, hint))
    return found


def annotated(hint: Any) -> tuple[Any, ...]:
    """What stands beside the type in `Annotated`."""
    return getattr(hint, "__metadata__", ())


def shown(kind: type[Any]) -> type[Any]:
    """The dataclass that tyro reads in place of an options dataclass: its groups as parts, and the
    flags of every command.
    """
    join_lines(cast(Hashable, kind))
    move_shared(kind)
    parts: dict[str, list[Any]] = {"": []}
    titles = groups(kind)
    for one in settings(kind):
        parts.setdefault(titles[one.field.name], []).append(_shown(one, titles))
    own = parts.pop("")
    join_lines(Screen)
    own += [_shown(one, ()) for one in settings(Screen)]
    for number, (title, fields) in enumerate(parts.items()):
        part = dataclasses.make_dataclass(f"Part{number}", fields, frozen=True, kw_only=True)
        own.append((f"part_{number}", Annotated[part, tyro.conf.arg(name=title)]))
    return dataclasses.make_dataclass("Shown", own, frozen=True, kw_only=True)


def apart(parsed: Any) -> tuple[dict[str, Any], Screen]:
    """What tyro read of `shown`: {field: value} of the options dataclass, and the rest."""
    found = dict[str, Any]()
    for name, value in vars(parsed).items():
        found |= vars(value) if re.fullmatch(r"part_\d+", name) else {name: value}
    return found, Screen(**{one.name: found.pop(one.name) for one in dataclasses.fields(Screen)})


def _shown(one: Setting, flags: Iterable[str]) -> tuple[str, Any, Any]:
    """A setting as tyro gets it: with a word for its value, the settings that its help names in
    backquotes as flags, and no default that says nothing.
    """
    field, hint, told = one.field, one.hint, one.told
    default = field.default
    extra: dict[str, Any] = {}
    if text := next((one.help for one in told[::-1] if getattr(one, "help", None)), None):
        extra["help"] = with_flags(text, flags)
    appends = tyro.conf.UseAppendAction in told
    if not appends and any(type(default) is type(one) and default == one for one in UNSAID):
        extra["help_behavior_hint"] = ""
    if value := _value(hint):
        extra["metavar"] = value
    copied = dataclasses.field(  # type: ignore[call-overload]
        default=default, default_factory=field.default_factory, kw_only=True
    )
    return field.name, Annotated[hint, tyro.conf.arg(**extra)] if extra else hint, copied


def _value(hint: Any) -> str:
    """The word behind a flag; "" to leave it to tyro."""
    if any(getattr(one, "metavar", None) for one in annotated(hint)):
        return ""
    bare = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    if get_origin(bare) in (Union, types.UnionType):
        bare, *others = [one for one in get_args(bare) if one is not type(None)]
        if others:
            return ""
    if get_origin(bare) is tuple and get_args(bare)[1:] == (...,):
        inner = get_args(bare)[0]
        return f"{VALUES[inner]} …" if inner in VALUES else ""
    if get_origin(bare) is Literal:
        return "|".join(map(str, get_args(bare)))
    return VALUES.get(bare, "")


def with_flags(text: str, names: Mapping[str, Any] | Iterable[str]) -> str:
    """A text with its settings in backquotes as flags: "`crop_size` is 0" becomes "--crop_size is
    0".

    Args:
      text: any.
      names: of the settings; or {setting: its flag, where that may have another name}.
    """
    flags = names if isinstance(names, Mapping) else {name: name for name in names}
    return re.sub(r"`(\w+)`", lambda one: f"--{flags[one[1]]}" if one[1] in flags else one[0], text)


def move_shared(kind: type[Any]) -> None:
    """Brings the fields of bases that say `SHOWN_LAST` to the end: those of the command come first
    in its help.
    """
    fields = kind.__dataclass_fields__
    for owner in kind.__mro__[1:]:
        for name in owner.__annotations__ if vars(owner).get("SHOWN_LAST") else ():
            if name in fields:
                fields[name] = fields.pop(name)


@functools.cache
def join_lines(kind: type[Any]) -> None:
    """Makes one paragraph of each field's docstring: tyro would keep its line breaks."""
    for owner in filter(dataclasses.is_dataclass, kind.__mro__):
        hints = get_type_hints(owner, include_extras=True)  # a class below may have others
        try:
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        except OSError:  # a class that has no source
            continue
        for field, text in itertools.pairwise(cast(ast.ClassDef, definition).body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(words))):
                    helpful = tyro.conf.arg(help=" ".join(words.split()))
                    owner.__annotations__[name] = Annotated[hints[name], helpful]
