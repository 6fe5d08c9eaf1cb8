"""A link that leads nowhere is named with its file; those of this repository all lead somewhere."""

import subprocess
from pathlib import Path

import pytest

from docs.generate import check_links

GONE = "docs" + "/gone.md"
SETTINGS = """
site_url: https://example.org/site/
repo_url: https://example.org/code
nav: [{Home: index.md}, {Reference: [{Keys: reference/keys.md}]}]
markdown_extensions: [{toc: {slugify: !!python/object/apply:a.b {kwds: {case: lower}}}}]
"""


@pytest.fixture
def repository(tmp_path):
    """A repository with two pages, a picture and a generated page in its nav."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "mkdocs.yml").write_text(SETTINGS)
    (tmp_path / "docs/index.md").write_text("# The `house`, and more\n\n## Again\n\n## Again\n")
    (tmp_path / "figure.png").write_bytes(b"\x89PNG")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "[a](docs/index.md#the-house-and-more) [b](docs/index.md#again_1) ![c](figure.png)",
        "[a](./docs/reference/keys.md#anything) [b](https://example.org/site/reference/keys.html)",
        "[a](https://example.org/code/blob/main/figure.png) [b](https://elsewhere.org/x)",
        "```\n[a](nowhere.md)\n```\n`[b](nowhere.md)` see docs/index.md",
    ],
)
def test_good(repository, text):
    (repository / "README.md").write_text(text)
    assert check_links.problems(repository) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](nowhere.md)", "README.md: no nowhere.md for the link to nowhere.md"),
        (
            "[a](docs/index.md#hous)",
            "no heading #hous in docs/index.md; it has again, again_1, the",
        ),
        ('<img src="no.png">', "README.md: no no.png for the link to no.png"),
        ("[a](https://example.org/code/tree/main/launch)", "README.md: no launch for the link"),
        ("[a](https://example.org/site/how-to/keys.html)", "README.md: no docs/how-to/keys"),
        (f"as {GONE} says", f"README.md: names {GONE}, which is not there"),
    ],
)
def test_bad(repository, text, problem):
    (repository / "README.md").write_text(text)
    found = check_links.problems(repository)
    assert len(found) == 1 and problem in found[0]


def test_here():
    assert check_links.problems(Path(__file__).parents[2]) == []
