"""The page of every configuration key: default, range and meaning.

A key's meaning is the comment above the line that declares it, its range what it is declared with.
Where that line stands, a `Section` is asked while the keys are declared.
"""

import collections
import contextlib
import dataclasses
import functools
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from docs.generate.source import (
    ROOT,
    comment_above,
    docstring_of,
    lines_of,
    markdown,
    sentence,
    source_link,
)
from phenomjax.config import objectives, ranges
from phenomjax.config.checks import flatten
from phenomjax.config.keys import declare
from phenomjax.data.simulated.screen_config import SimulationConfig

ROOMS = ROOT / "phenomjax" / "config"
INTRO = """# Configuration

Every key of a run, with its default, what it may be, and what it means. This page is made from
`phenomjax/config`, where each key is declared once.

A run takes its keys from an experiment file, and the command line comes on top:

```text
python -m phenomjax.main --config configs/mae.py:L/8,mask=0.75 --workdir runs/l8 \\
  --config.optimizer.learning_rate=3e-5 --config.data.banks="('a.zarr','b.zarr')"
```

- A key that does not exist is an error that names the nearest one. A value out of its range is an
  error, too, before any device is touched.
- A tuple is written as Python writes it, in quotes. A tuple key that is given several times takes
  all its values.
- What was resolved stands in `WORKDIR/config.json`, and `--config WORKDIR/config.json` runs it
  again.
- `config.task` chooses the objective. A task has the keys of [every task](#every-task), those that
  it shares with others, and its own. An objective of your own brings its own keys.
"""


Place = tuple[Path, int, int]


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of one or several tasks, declared in one place.

    Attributes:
      name: dotted, without `config.`.
      place: (file, line, what number it has) of its declaration.
      allowed: its range.
      meaning: from the comment.
      defaults: {task: default}.
    """

    name: str
    place: Place
    allowed: ranges.Range
    meaning: str
    defaults: dict[str, Any]

    @property
    def section(self) -> str:
        return self.name.rpartition(".")[0]


@contextlib.contextmanager
def _places() -> Iterator[dict[tuple[int, str], Place]]:
    """{(id of a section, key): the place that declared it or made it}, filled while inside."""
    found: dict[tuple[int, str], Place] = {}
    set_item = ranges.Section.__setitem__

    def setting(section: ranges.Section, key: str, value: Any) -> None:
        if isinstance(value, ranges.Declared | ranges.Section):
            frame = sys._getframe(1)
            while frame and Path(frame.f_code.co_filename).parent != ROOMS:
                frame = frame.f_back
            found[id(section), key] = Path(frame.f_code.co_filename), frame.f_lineno, len(found)
        set_item(section, key, value)

    with mock.patch.object(ranges.Section, "__setitem__", setting):
        yield found


def _walk(section: ranges.Section, prefix: str = "") -> Iterator[tuple[str, ranges.Section, str]]:
    """(dotted name, the section it stands in, its name there) of all keys and sections."""
    for key, value in section.items():
        yield prefix + key, section, key
        if isinstance(value, ranges.Section):
            yield from _walk(value, f"{prefix}{key}.")


@functools.cache
def _read() -> tuple[tuple[Key, ...], dict[tuple[str, str], str]]:
    """All keys of all tasks; and {(task, section): what it is}."""
    found: dict[tuple[str, Path, int], Key] = {}
    sections: dict[tuple[str, str], str] = {}
    for task in objectives.known():
        with _places() as places:
            declared = declare(task)
        allowed, defaults = ranges.declared(declared), flatten(declared)
        for name, section, key in _walk(declared):
            file, line, _ = places[id(section), key]
            meaning = comment_above(file, line)
            if isinstance(section[key], ranges.Section):
                sections[task, name] = meaning
                continue
            if name.startswith("data.simulate.") and not _own(file, line, key):
                meaning = _of_screens()[key]
            one = found.setdefault(
                (name, file, line),
                Key(name, places[id(section), key], allowed[name], sentence(meaning), {}),
            )
            one.defaults[task] = defaults[name]
    return tuple(sorted(found.values(), key=lambda key: key.place[2])), sections


def _own(file: Path, line: int, key: str) -> bool:
    """Whether a declaration names its key, rather than all settings of a class in a loop."""
    return f".{key} = " in lines_of(file)[line - 1]


@functools.cache
def _of_screens() -> dict[str, str]:
    """{setting of a simulated screen: what it is}, from its class's docstring."""
    text = textwrap.dedent((SimulationConfig.__doc__ or "").partition("Attributes:\n")[2])
    entries = re.findall(r"^(\w+): ((?:.|\n +)+)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}


def every_key() -> tuple[Key, ...]:
    """All keys of all tasks, in the order of their declaration."""
    return _read()[0]


def type_of(allowed: ranges.Range) -> str:
    """What a key may be, in words: "int, at least 1"; "one of `a`, `b`"."""
    many = {0: "", 1: "tuple of ", 2: "tuple of tuples of "}[allowed.depth]
    if allowed.choices:
        names = ", ".join(f'`"{name}"`' for name in allowed.choices)
        return f"{many or 'one of '}{names}"
    kind = {int: "int", float: "float", bool: "bool", str: "str"}[allowed.kind]
    told = str(allowed)
    many = many + kind
    return many if told in ranges._WORDS.values() else f"{many}, {told}"


def _default(key: Key) -> str:
    """The default in words; each task's, where they differ."""
    if key.name == "task":
        return "that of the experiment file"
    tasks_of = collections.defaultdict(list)
    for task, value in key.defaults.items():
        tasks_of[repr(value)].append(task)
    if len(tasks_of) == 1:
        return f"`{next(iter(tasks_of))}`"
    return "; ".join(f"`{value}` of {', '.join(tasks)}" for value, tasks in tasks_of.items())


def _where(key: Key) -> str:
    """Which other key must say so, or nothing reads this one."""
    if not key.allowed.where:
        return ""
    other, values = key.allowed.where
    name = f"{key.section}.{other}".lstrip(".")
    if not values:
        return f"Read where `{name}` is set."
    return f"Read where `{name}` is {' or '.join(f'`{value!r}`' for value in values)}."


def _entry(key: Key, anchor: str) -> str:
    zero = key.allowed.zero
    known = not zero or re.search(r"\b0(\.0)? = ", key.meaning)
    facts = [type_of(key.allowed), f"default {_default(key)}"]
    words = [key.meaning, "" if known else f"0 = {zero}.", _where(key)]
    return (
        f"#### `{key.name}` {{ #{anchor} }}\n\n{' · '.join(facts)}\n\n"
        f"{' '.join(filter(None, words))}\n"
    )


TRANSFORMERS = ("causal_lm", "mae", "permutation_lm", "perturbation")
IMAGES, SEQUENCES = ("mae", "perturbation"), ("bidirectional_lm", "causal_lm", "permutation_lm")
SHARED = {
    tuple(sorted((*IMAGES, *SEQUENCES))): "Every task",
    IMAGES: "Objectives on images",
    SEQUENCES: "Objectives on sequences",
    TRANSFORMERS: "Transformers",
}
TITLES = {
    "mae": "Masked autoencoders",
    "perturbation": "Which perturbation was this well given?",
    "causal_lm": "Transformer-XL",
    "permutation_lm": "XLNet",
    "bidirectional_lm": "ELMo",
}
ORDER = [
    tuple(sorted((*IMAGES, *SEQUENCES))),
    TRANSFORMERS,
    IMAGES,
    *((task,) for task in IMAGES),
    SEQUENCES,
    *((task,) for task in ("causal_lm", "permutation_lm", "bidirectional_lm")),
]


def _slug(tasks: tuple[str, ...]) -> str:
    return tasks[0] if len(tasks) == 1 else SHARED[tasks].lower().replace(" ", "-")


def _heading(tasks: tuple[str, ...]) -> str:
    if len(tasks) == 1:
        file = f"phenomjax/config/{tasks[0]}.py"
        return (
            f"## {TITLES[tasks[0]]}: `{tasks[0]}` {{ #{_slug(tasks)} }}\n\n"
            f"{markdown(docstring_of(ROOT / file))} {source_link(file)}\n"
        )
    names = ", ".join(f"`{task}`" for task in tasks)
    return f"## {SHARED[tasks]} {{ #{_slug(tasks)} }}\n\nKeys of {names}.\n"


def page() -> str:
    """The page."""
    groups: dict[tuple[str, ...], list[Key]] = collections.defaultdict(list)
    for key in every_key():
        groups[tuple(key.defaults)].append(key)
    sections, lines, seen = _read()[1], [INTRO], set[str]()
    for tasks in ORDER:
        lines.append(_heading(tasks))
        before, own = None, groups.pop(tasks)
        order = list(dict.fromkeys(key.section for key in own))
        for key in sorted(own, key=lambda key: order.index(key.section)):
            if key.section != before:
                before = key.section
                title = f"`{before}`" if before else "The run"
                lines.append(f"### {title} {{ #{_slug(tasks)}-{before or 'run'} }}\n")
                about = sentence(sections.get((tasks[0], before), ""))
                lines += [f"{about}\n"] if about else []
            anchor = f"{tasks[0]}-{key.name}" if key.name in seen else key.name
            seen.add(key.name)
            lines.append(_entry(key, anchor))
    if groups:
        raise ValueError(f"There is no heading for the keys of {', '.join(map(str, groups))}.")
    return "\n".join(lines)
