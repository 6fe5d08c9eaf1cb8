"""The built site in a real browser, opened from the disk: it asks nothing of any other machine, its
search finds, and no page is wider than a desk's or a phone's window.

`make docs` builds it; CI does so before it runs the tests.
"""

import pytest

from tests.lab import ROOT
from tests.lab.browser import (  # noqa: F401
    DESK,
    FAINT,
    OVERFLOW,
    PHONE,
    browser,
    open_page,
)

SITE = ROOT / ".cache/site"
PAGES = [  # one of each kind
    "index",
    "gallery",
    "benchmarks/index",
    "concepts/house",
    "how-to/microscopes",
    "reference/commands/maps",
    "reference/errors/data",
    "tutorials/protein_lm",
]


def is_built():
    """Whether the site is there, and none of the pages and scripts that it is made of is newer."""
    index = SITE / "index.html"
    sources = [ROOT / "mkdocs.yml", *(ROOT / "docs").rglob("*.*")]
    sources = [one for one in sources if "__pycache__" not in one.parts]
    return index.exists() and max(map(mtime, sources)) <= mtime(index)


def mtime(path):
    return path.stat().st_mtime


pytestmark = pytest.mark.skipif(
    not is_built(), reason="needs the site as it is now, which `make docs` builds"
)


@pytest.mark.parametrize("name", PAGES)
def test_no_page_overflows_or_is_faint(open_page, name):  # noqa: F811
    tab = open_page(SITE / f"{name}.html")
    for size in (DESK, PHONE):
        tab.set_viewport_size(size)
        assert tab.evaluate(OVERFLOW) <= 0, size
    assert tab.evaluate(FAINT) == []
    tab = open_page(SITE / f"{name}.html", color_scheme="dark")
    assert tab.evaluate(FAINT) == []


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("mask_ratio", "reference/configuration.html"),
        ("the seed is it must be 0 or more", "reference/errors/every-command.html"),
        ("images_per_shard", "reference/commands/prepare.html"),
    ],
)
def test_search_finds(open_page, words, page):  # noqa: F811
    tab = open_page(SITE / "index.html")
    for size in (DESK, PHONE):
        tab.set_viewport_size(size)
        if size == PHONE:
            tab.reload()
            tab.click("label[for=__search] >> visible=true")
        tab.click(".md-search__input")
        tab.fill(".md-search__input", words[:-1])
        tab.keyboard.type(words[-1])  # each key searches anew
        tab.wait_for_selector(f".md-search-result__link[href*='{page}'] >> visible=true")
