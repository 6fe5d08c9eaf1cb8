"""The page of the formats, from their schemas in docs/reference/schemas/.

A schema says of a format, beside what JSON Schema knows: `x-where` its description stands, which
command writes it (`x-command`), the files of its folder (`x-files`, by patterns), the columns of
its tables (`x-columns`) and what each version of it brought (`x-history`).
"""

import json
from collections.abc import Sequence
from typing import Any

from docs.generate.source import ROOT, sentence

FOLDER = ROOT / "docs" / "reference" / "schemas"
ORDER = (
    *("image_bank", "token_bank", "image_bank_index", "selection", "run", "release"),
    *("embeddings", "profiles"),
)
OBJECTS = ("sweep_object", "preflight_object")  # what --json prints
INTRO = """# Formats

What the commands write, so that other programs can read it: which files there are, what each says
of itself, and what changed from version to version. Each has a JSON schema, against which the tests
hold files that the commands have written.

Arrays are Zarr v3, tables are Parquet. Every program that reads these reads ours. A folder gets its
name when it is whole: what is interrupted is never taken for a result.

- An older version is read as long as this page lists it. A newer one is an error that says so.
- A reader of your own should look at `format` and `version`, and pass over keys that it does not
  know: new ones come without a new version where older programs can do without them.
"""


def schemas(names: Sequence[str] = ORDER) -> dict[str, dict[str, Any]]:
    """{format: its schema}."""
    return {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in names}


def page() -> str:
    """The page."""
    formats = [_of(name, schema) for name, schema in schemas().items()]
    objects = [_of_object(name, schema) for name, schema in schemas(OBJECTS).items()]
    return "\n".join([INTRO, *formats, *objects])


def _of_object(name: str, schema: dict[str, Any]) -> str:
    command = schema["x-command"]
    lines = [
        f"## {schema['title']} {{ #{name} }}\n",
        f"{schema['description']} Where there is an `error`, keys may be missing. Command:"
        f" [`{command}`](commands/{command}.md); schema: [{name}.json](schemas/{name}.json).\n",
        "| key | type | what it is |",
        "| --- | --- | --- |",
        *_keys(schema),
    ]
    return "\n".join(lines) + "\n"


def _of(name: str, schema: dict[str, Any]) -> str:
    command = schema["x-command"]
    door = command.split()[0]
    anchor = f"#{command.replace(' ', '-')}" if " " in command else ""
    lines = [
        f"## {schema['title']} {{ #{name} }}\n",
        f"{schema['description']} Written by [`{command}`](commands/{door}.md{anchor});"
        f" schema: [{name}.json](schemas/{name}.json).\n",
        "| file | what it is |",
        "| --- | --- |",
        *(f"| `{file}` | {sentence(words)} |" for file, words in schema["x-files"].items()),
    ]
    for table, columns in schema["x-columns"].items():
        lines += [f"\n| column of `{table}` | what it is |", "| --- | --- |"]
        lines += [f"| `{column}` | {sentence(words)} |" for column, words in columns.items()]
    lines += [f"\nWhat it says of itself ({schema['x-where']}):\n", "| key | type | what it is |"]
    lines += ["| --- | --- | --- |", *_keys(schema)]
    lines += ["\n| version | what it brought |", "| --- | --- |"]
    lines += [
        f"| {version} | {sentence(words)} |" for version, words in schema["x-history"].items()
    ]
    return "\n".join(lines) + "\n"


def _keys(schema: dict[str, Any]) -> list[str]:
    rows = []
    for key, of in schema["properties"].items():
        needed = "" if key in schema["required"] else " May be missing."
        what = of.get("description", "What it is." if key == "format" else "Of the format.")
        told = what if "](" in what else sentence(what)
        rows.append(f"| `{key}` | {_kind(of)} | {told}{needed} |")
    return rows


def _kind(of: dict[str, Any]) -> str:
    if "const" in of:
        return f"`{json.dumps(of['const'])}`"
    if "enum" in of:
        return " or ".join(f"`{json.dumps(value)}`" for value in of["enum"])
    kind = of.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else kind
