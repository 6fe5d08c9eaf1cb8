"""The pages of `runs --html` and of reports, in a real browser: light and dark, at a desk and on a
phone, by keys alone; nothing is loaded.
"""

import base64
import json

import pytest

from phenomjax.figures.pages import report
from phenomjax.runs import __main__ as runs
from tests.lab.browser import DESK, PHONE, faults
from tests.runs.test_runs import make

HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
TEXT = f"""# Evaluation of {HOSTILE}

A line before all parts.

## What the numbers say

- It **beats** the twin, and **is below** a peer;
  <b onclick="broken()">bold</b> [x](javascript:broken()).

### sites: site

| method | test (n = 1,000) | note |
| --- | --- | --- |
| a: cnn | **0.650 [0.600, 0.700]** | best |
| a{"_with_a_long_name" * 6} | 0.5 | {HOSTILE} |
| c | - | |
| d | 1,000.5 | |

![Accuracy by test.](figures/bars.png)

Accuracy by test.

![No file](../elsewhere.png)

<details><summary>Other metrics</summary>

| method | value |
| --- | --- |
| a | 1 |

</details>

### sites: site

```
python -m phenomjax.evaluate --checkpoint {"runs/a_long_name " * 9}
```
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both pages."""
    place = tmp_path_factory.mktemp("pages")
    lines = [
        {"step": s, "train/loss": 40 / s, "val/loss": 2 + 1 / s, "perf/goodput": 0.5}
        for s in (10, 2000, 3000)
    ]
    metrics = "".join(json.dumps(line) + "\n" for line in lines)
    make(place / "runs" / "b", metrics=metrics, optimizer__learning_rate=0.01)
    make(place / "runs" / "a_long_name_of_a_run_of_a_study" / "c", metrics=metrics[:60])
    make(place / "runs" / "d", metrics=metrics.replace("40", "2"), num_steps=3000)
    assert runs.main([str(place / "runs"), "--html", str(place / "runs.html")]) == 0
    (place / "figures").mkdir()
    (place / "figures" / "bars.png").write_bytes(PIXEL)
    marks = {"beats": "good", "is below": "bad"}
    (place / "report.html").write_text(report.page(TEXT, place, "1 model, 1 task", marks))
    return place


@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "light"), (PHONE, "dark")])
def test_all_can_read_them(folder, open_page, viewport, scheme):
    for name in ("runs.html", "report.html"):
        page = open_page(folder / name, viewport=viewport, color_scheme=scheme)
        for theme in (scheme, {"light": "dark", "dark": "light"}[scheme]):
            assert page.evaluate("document.documentElement.dataset.theme") == theme
            assert faults(page) == {}, (name, theme)
            page.keyboard.press("t")


def column(page, number):
    return page.locator(f"table >> nth=0 >> tbody tr td:nth-child({number})").all_inner_texts()


def test_runs(folder, open_page):
    """The table sorts by keys, boxes hide curves, pointing tells a value."""
    page = open_page(folder / "runs.html")
    assert page.inner_text("h1") == "3 runs" and page.inner_text(".brand p") == "2 done, 1 stopped"
    head = page.locator("th button", has_text="step")
    head.focus()
    for key, first in (("Enter", "0/10"), ("Space", "3000")):
        page.keyboard.press(key)
        assert column(page, 3)[0].startswith(first)
    assert page.locator("th[aria-sort=descending]").inner_text().strip() == "step"
    assert column(page, 3)[-1] == "0/10"
    name = page.locator("tbody tr").first.inner_text().split()[0]
    box = page.locator("tbody input").first
    which = box.get_attribute("value")
    drawn = page.locator(f"svg .run{which}")
    assert drawn.count() == 3 and drawn.first.is_visible()
    box.focus()
    assert page.locator("svg .looked").count() == 3
    page.keyboard.press("Space")
    assert not drawn.first.is_visible()
    page.click("[data-all=yes]")
    figure = page.locator("figure", has=page.get_by_role("heading", name="val/loss"))
    said = figure.locator("svg").get_attribute("aria-label")
    assert said.startswith("val/loss by step, 2 to 2.1. Last: ")
    assert figure.locator(".axis").count() >= 3 and "1,000" in figure.inner_text()
    assert "logarithmic" in page.locator("figure", has_text="train/loss").inner_text()
    box = figure.locator(f"svg .run{which} path").bounding_box()
    page.mouse.move(box["x"] + 1, box["y"] + 1)
    assert page.inner_text("#tip") == f"{name}\nstep 10: 2.1"
    page.mouse.move(0, 0)
    assert page.is_hidden("#tip")


def test_report(folder, open_page):
    """Parts of Markdown, verdicts as marks, figures inside, numbers that sort, names as text."""
    page = open_page(folder / "report.html")
    assert page.title() == page.inner_text("h1") == f"Evaluation of {HOSTILE}"
    marks = {"beats": "chip good", "is below": "chip bad"}
    for words, kind in marks.items():
        assert page.locator("strong", has_text=words).get_attribute("class") == kind
    assert '<b onclick="broken()">bold</b> [x](javascript:broken())' in page.inner_text(
        "li >> nth=-1"
    )
    links = page.locator("nav a").evaluate_all("list => list.map(one => one.hash.slice(1))")
    ids = page.locator("h2, h3").evaluate_all("list => list.map(one => one.id)")
    assert links == ids and len(set(ids)) == 3
    assert page.locator(".panel").count() == 2
    (image,) = page.locator("img").all()
    assert image.get_attribute("alt") == "Accuracy by test." and image.evaluate(
        "x => x.naturalWidth"
    )
    assert page.inner_text("article").count("Accuracy by test.") == 1  # of Markdown's two
    assert "No file (../elsewhere.png)" in page.inner_text("article")
    page.locator("th button", has_text="test").first.click()
    assert column(page, 2) == ["0.5", "0.650 [0.600, 0.700]", "1,000.5", "-"]
    assert HOSTILE in column(page, 3)
    assert page.locator("table >> nth=0 >> td.number").count() == 4
    assert page.is_hidden("details table")
    page.click("summary")
    assert page.is_visible("details table")
