"""The notebooks run from top to bottom, and stand in the repository without outputs."""

import os
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert 'find_spec("phenomjax") is None' in code[0].source  # an empty Colab installs first


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """Executes every cell in an empty folder; few steps, unless PHENOMJAX_NOTEBOOK_STEPS asks for
    more.
    """
    monkeypatch.setenv("PHENOMJAX_NOTEBOOK_STEPS", os.environ.get("PHENOMJAX_NOTEBOOK_STEPS", "1"))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    )
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    # pictures go into the notebook, as they do for a reader
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(path, as_version=4)
    start = time.monotonic()
    # The notebook's shell commands and error cells are judged below, not only its Python.
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    print(f"{path.name}: {time.monotonic() - start:.0f} s")
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "error:" not in text
    pictures = [output for output in outputs if "image/png" in getattr(output, "data", {})]
    assert len(pictures) >= 6
    if "PHENOMJAX_NOTEBOOK_KEEP" in os.environ:  # to look at it
        nbformat.write(notebook, os.environ["PHENOMJAX_NOTEBOOK_KEEP"])
