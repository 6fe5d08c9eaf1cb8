"""What the tests of the pages share: small banks and runs, made once a session."""

import os
from pathlib import Path

import pytest

from tests.lab import pages


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    if kept := os.environ.get("PHENOMJAX_SHELF"):
        return pages.Shelf(Path(kept))
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "xdist" in str(folder) or "popen" in folder.name else folder
    return pages.Shelf(shared / "shelf")
