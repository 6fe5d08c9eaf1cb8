"""The index of errors: a page for each part of the program, from `error_texts`."""

import collections
import re

from docs.generate.error_texts import HOLE, Error, errors
from docs.generate.source import CODE, ROOT, markdown, source_link
from tests.kinds import offers

FLAG = re.compile(r"(?<![\w-])--[a-z][\w.]*\b")
MOST = 90  # characters of a heading
# {page: (title, rooms of it)}; a room is a folder, or a file, below phenomjax
PAGES = {
    "configuration": (
        "The configuration of a run",
        ("config", "tasks", "models", "sharding", "optim"),
    ),
    "training": (
        "Training, and what runs in many processes",
        ("training", "checkpoints", "cluster", "engine", "preflight", "sweep", "runs"),
    ),
    "every-command": ("Every command", ("__main__", "system")),
    "prepare": ("Raw files to banks", ("prepare",)),
    "data": ("Banks, files and stores", ("data",)),
    "models": (
        "Trained models",
        ("trained", "inference", "embed", "score", "sample", "export", "convert"),
    ),
    "maps": ("Maps and profiles", ("maps", "statistics")),
    "evaluation": ("Evaluations", ("probes", "evaluate")),
    "scaling": ("Scaling and forecasts", ("scaling",)),
}
INTRO = """# Errors

Every text with which a command can stop, or leave out a file or a record: what is wrong, what
mends it, and where in the code it is raised. They are read from the source when this site is built,
so the list is whole.

Paste a few words of what you see into the search above. What differs from case to case (names,
numbers, paths) stands here in slanted letters; [of several parts | one is printed].

- A command that stops so has [exit code](exit-codes.md) 2, unless it says otherwise: running it
  again changes nothing until the cause is mended.
- A file or a record that cannot be used does not stop the work. It is listed beside the result
  (`rejected.parquet`, `OUT.invalid.csv`, the manifest of a copy) with the text that is found here.
- Where the mend is a flag or a key, its name stands in the text: see
  [Commands](commands.md) and [Configuration](configuration.md).

| page | texts |
| --- | --- |
"""


def index() -> str:
    """The page that leads to the others."""
    counts = {name: len(_of(name)) for name in PAGES}
    rows = [f"| [{PAGES[n][0]}](errors/{n}.md) | {count} |" for n, count in counts.items()]
    return INTRO + "\n".join(rows) + "\n"


def _of(name: str) -> list[Error]:
    return [error for error in errors() if error.room in PAGES[name][1]]


def page(name: str) -> str:
    """A page of PAGES: its rooms, their files, their errors; equal texts once, with all places."""
    lines = [f"# {PAGES[name][0]}\n\nWhat stops a command here: see [Errors](../errors.md).\n"]
    for room in PAGES[name][1]:
        lines.append(f"## `phenomjax.{room}`\n")
        of_file = collections.defaultdict(lambda: collections.defaultdict(list))
        for error in (one for one in errors() if one.room == room):
            of_file[error.module][error.text].append(error)
        for module, texts in of_file.items():
            lines.append(f"### `{module.removeprefix('phenomjax.')}`\n")
            lines += [_entry(same) for same in texts.values()]
    return "\n".join(lines)


def _entry(same: list[Error]) -> str:
    error = same[0]
    title = HOLE.sub("…", with_flags(error.sentences[0])).replace("`", "")
    if len(title) > MOST:
        title = f"{title[: title.rindex(' ', 0, MOST)]} …"
    what, mend = error.what, error.mend
    said = [_shown(what)] if what else []
    said += [f"**{_shown(mend)}**"] if mend else []
    places = [source_link(path_of(one.module), one.line, one.function) for one in same]
    by = printed_by(error)
    facts = [", ".join(places), *([f"printed by {by}"] if by else [])]
    facts += [f"exit code {error.code}"] if error.code else []
    return f"#### {markdown(title)}\n\n{' '.join(said)}\n\n{' · '.join(facts)}\n"


def _shown(text: str) -> str:
    """A text as the door prints it, as Markdown: settings are flags, what differs is slanted."""
    parts = CODE.split(markdown(with_flags(text)))
    for at in range(0, len(parts), 2):
        flags = FLAG.sub(r"`\g<0>`", parts[at])
        parts[at] = HOLE.sub(lambda hole: f"<var>{hole[0][1:-1]}</var>", flags)
    return "".join(parts)


def with_flags(text: str) -> str:
    """A text with its settings in backquotes as flags in backquotes."""
    flags = frozenset().union(*(flags for _, flags in offers.doors().values()))
    return re.sub(r"`(\w+)`", lambda m: f"`--{m[1]}`" if m[1] in flags else m[0], text)


def path_of(module: str) -> str:
    """The file of a module."""
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def printed_by(error: Error) -> str:
    """The commands whose code reaches an error."""
    node = (error.module, error.function.split(".")[0])
    found = [command for command in offers.doors() if node in offers.reached(command)]
    names = [f"`{one.removeprefix('phenomjax.').removeprefix('probes.')}`" for one in found]
    if len(names) > 8:
        names = [*names[:6], f"{len(names) - 6} more"]
    return ", ".join(names)
