"""The notebooks of colab/ as pages, with what their cells printed and drew at full length.

    make notebooks      # or python -m docs.generate.notebooks [NAME ...]: some minutes each

Writes the pages of docs/tutorials and the pictures beside them. They are committed, for a run takes
longer than a build of the site may; tests/colab runs every cell with few steps, and checks that the
pages have the cells of today.
"""

import io
import os
import re
import shutil
import sys
import tempfile
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
PAGES = ROOT / "docs" / "tutorials"
HEAD, TAIL = 5, 7  # lines of an output that are shown, where it is longer than both
WIDTH = 1100  # pixels of a picture
COLAB = "https://colab.research.google.com/github/phenomjax/phenomjax/blob/main/colab"


def execute(path: Path, folder: Path, steps: int | None) -> NotebookNode:
    """Runs a notebook in a folder.

    Args:
      path: of the notebook.
      folder: where it writes.
      steps: of each training; None: the notebook's own number.

    Raises:
      CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
    )
    environment.pop("MPLBACKEND", None)  # pictures go into the notebook, as they do for a reader
    environment.pop("PHENOMJAX_NOTEBOOK_STEPS", None)
    if steps:
        environment["PHENOMJAX_NOTEBOOK_STEPS"] = str(steps)
    # the notebook's shell commands and error cells are judged by the caller, not only its Python
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=3000, kernel_name="python3", resources=resources)
    client.execute(env=environment)
    return notebook


def page(
    notebook: NotebookNode, name: str, folder: Path, write: Callable[[str, bytes], None]
) -> str:
    """An executed notebook as Markdown.

    Args:
      notebook: with outputs.
      name: of its file.
      folder: that it ran in: paths are told from there.
      write: takes the name and the bytes of each picture.
    """
    parts, number = list[str](), 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(block(cell.source))
        for kind, content in _outputs(cell):
            if kind == "png":
                number += 1
                write(f"{name}/{number}.png", _small(b64decode(content)))
                parts.append(f"![What the cell above draws]({name}/{number}.png)")
            elif kind == "text":
                text = _shortened(content.replace(f"{folder}{os.sep}", ""))
                parts.append(f"```text\n{text}\n```")
            elif "<iframe" in content:
                parts.append("*(Here the notebook shows the page that it has made.)*")
            else:
                table = re.sub(r"<style.*?</style>", "", content, flags=re.DOTALL)
                table = re.sub(r"<table[^>]*>", "<table>", table)  # the site scrolls such a one
                parts.append("\n".join(line.strip() for line in table.strip().splitlines()))
    title, _, rest = parts[0].partition("\n")
    about = (
        f"*[Open it in Colab]({COLAB}/{name}.ipynb), or take"
        f" [the notebook](../../colab/{name}.ipynb): this page shows what it printed and drew.*"
    )
    return "\n\n".join([title, about, rest.strip(), *parts[1:]]) + "\n"


def block(source: str) -> str:
    """A cell of code on its page, without the semicolon that hides its value in a notebook."""
    return f"<!-- test: parse tests/colab runs it -->\n```python\n{source.removesuffix(';')}\n```"


def _outputs(cell: NotebookNode) -> Iterator[tuple[str, str]]:
    """(kind, content): text of one run of prints together, png as base64, html."""
    text = ""
    for output in cell.outputs:
        if output.output_type == "stream":
            text += output.text
            continue
        if text:
            yield "text", text
            text = ""
        data = output.get("data", {})
        kind = next((k for k in ("image/png", "text/html", "text/plain") if k in data), None)
        if kind:
            yield {"image/png": "png", "text/html": "html"}.get(kind, "text"), data[kind]
    if text:
        yield "text", text


def _shortened(text: str) -> str:
    """The first and the last lines of a long output."""
    lines = [line.rstrip() for line in text.strip("\n").splitlines()]
    if len(lines) > HEAD + TAIL:
        lines = [*lines[:HEAD], "…", *lines[-TAIL:]]
    return "\n".join(lines)


def _small(png: bytes) -> bytes:
    """A picture of at most WIDTH pixels in 256 colours."""
    picture, out = Image.open(io.BytesIO(png)).convert("RGB"), io.BytesIO()
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)))
    picture.quantize(256).save(out, "PNG", optimize=True)
    return out.getvalue()


def main(names: list[str]) -> None:
    """Makes the pages of some notebooks, or of all."""

    def write(name: str, content: bytes) -> None:
        (PAGES / name).write_bytes(content)

    for path in NOTEBOOKS:
        if names and path.stem not in names:
            continue
        print(f"{path.name} …", file=sys.stderr, flush=True)
        shutil.rmtree(PAGES / path.stem, ignore_errors=True)
        (PAGES / path.stem).mkdir(parents=True)
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder), None)
        text = page(notebook, path.stem, Path(folder), write)
        (PAGES / f"{path.stem}.md").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
