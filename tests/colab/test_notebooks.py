"""The notebooks run from top to bottom, and stand in the repository without outputs."""

import os
import re

import nbformat
import pytest

from docs.generate import notebooks
from docs.generate.notebooks import NOTEBOOKS

PICTURE = re.compile(r"!\[[^]]*\]\(([\w/]+\.png)\)")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert 'find_spec("phenomjax") is None' in code[0].source  # an empty Colab installs first


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_page_has_the_cells_of_today(path):
    page = (notebooks.PAGES / f"{path.stem}.md").read_text()
    title, _, rest = nbformat.read(path, as_version=4).cells[0].source.partition("\n")
    assert page.startswith(title + "\n") and rest.strip() in page, "run `make notebooks`"
    for cell in nbformat.read(path, as_version=4).cells[1:]:
        shown = notebooks.block(cell.source) if cell.cell_type == "code" else cell.source
        assert shown in page, "run `make notebooks`"
    drawn = {str(one.relative_to(notebooks.PAGES)) for one in notebooks.PAGES.glob("*/*.png")}
    assert {name for name in drawn if name.startswith(path.stem)} == set(PICTURE.findall(page))
    assert "/tmp" not in page


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    """Executes every cell in an empty folder; few steps, unless PHENOMJAX_NOTEBOOK_STEPS asks for
    more.
    """
    steps = int(os.environ.get("PHENOMJAX_NOTEBOOK_STEPS", 1))
    notebook = notebooks.execute(path, tmp_path, steps)
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "error:" not in text
    pictures = [output for output in outputs if "image/png" in getattr(output, "data", {})]
    assert len(pictures) >= 6
    files = {}
    page = notebooks.page(notebook, path.stem, tmp_path, files.__setitem__)
    assert page.startswith("# ") and str(tmp_path) not in page
    assert len(files) == len(pictures) and set(PICTURE.findall(page)) == set(files)
    assert all(content.startswith(b"\x89PNG") for content in files.values())
