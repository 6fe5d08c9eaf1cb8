"""The explorer's page, opened from disk and driven in a real browser: what it shows is what NumPy
computes, and it loads nothing.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.names import choose, entities
from phenomjax.maps.tables.profiles import Profiles, feature_names
from phenomjax.maps.tables.writing import write
from phenomjax.maps.views import explore
from phenomjax.statistics.cosines import unit_rows
from phenomjax.system.errors import UserError
from tests.lab.maps import run

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\">&amp;"


def browser_path() -> str:
    """The browser of PHENOMJAX_CHROMIUM, or of the PATH; skips where there is none."""
    pytest.importorskip(
        "playwright.sync_api",
        reason="needs playwright, which drives the browser: pip install playwright",
    )
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    path = os.environ.get("PHENOMJAX_CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )
    if not path:
        pytest.skip(
            "needs a Chromium or Chrome: apt-get install chromium, or name one in"
            " PHENOMJAX_CHROMIUM"
        )
    return path


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """A small simulated bank, and a raw and a corrected map of its perturbations, one of them with
    a hostile name.
    """
    folder = tmp_path_factory.mktemp("explore")
    config = SimulationConfig(
        num_plates=2,
        wells_per_plate=24,
        field_px=64,
        num_complexes=3,
        num_single_genes=4,
        num_compounds=3,
        num_doses=2,
        cell_radius=14.0,
    )
    write_screen(folder / "screen.zarr", config, jobs=1)
    wells = pd.read_parquet(folder / "screen.zarr" / "metadata.parquet")
    keys = ["perturbation", "perturbation_type", "gene", "concentration", "is_control"]
    table = wells[~wells["is_control"]][keys].drop_duplicates(["perturbation", "concentration"])
    table = table.sort_values(
        ["perturbation_type", "perturbation", "concentration"],
        ascending=[False, True, True],
        ignore_index=True,
    )
    odd = pd.DataFrame(
        [
            {
                "perturbation": HOSTILE,
                "perturbation_type": "compound",
                "gene": "GENE01",
                "concentration": 1.0,
                "is_control": False,
            }
        ]
    )
    table = pd.concat([table, odd], ignore_index=True)
    random = np.random.default_rng(0)
    raw = Profiles(
        random.normal(size=(len(table), 12)).astype(np.float32),
        table,
        feature_names(12),
        {"sources": [{"path": HOSTILE}]},
    )
    corrected = raw.with_features(raw.features - raw.features[:9].mean(0))
    write(raw, folder / "raw.parquet")
    write(corrected, folder / "corrected.parquet")
    return folder, raw, corrected


def expected_neighbours(profiles, table, row, kind, sign, count=10):
    """[(name, cosine)] as NumPy has it."""
    vectors = unit_rows(profiles.features)
    cosine = vectors @ vectors[row]
    rows = [
        r
        for r in np.argsort(-sign * cosine, kind="stable")
        if r != row and table["kind"][r] == kind and sign * cosine[r] > 0
    ]
    return [(table["name"][r], float(cosine[r])) for r in rows[:count]]


def test_page_in_a_browser(screen):
    """Search, neighbours, the switch between maps, heat map (zoom, point, click), scatter,
    thumbnails, tables to keep; no console error.
    """
    from playwright.sync_api import sync_playwright

    path = browser_path()
    folder, raw, corrected = screen
    words = (
        "--profiles",
        folder / "raw.parquet",
        "--corrected",
        folder / "corrected.parquet",
        "--bank",
        folder / "screen.zarr",
    )
    assert (
        run(
            "explore",
            *words,
            "--layout",
            "pca",
            "--title",
            HOSTILE,
            "--thumbnail_px",
            48,
            "--out",
            folder / "map.html",
        )
        == 0
    )
    table = entities(raw, Columns())
    problems, requests = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.on(
            "console",
            lambda message: (
                problems.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((folder / "map.html").as_uri())
        page.wait_for_selector("body[data-ready=yes]")
        assert page.title() == HOSTILE  # shown as it is, never run

        def neighbours(side, kind):
            items = page.locator(f"#{side}-{kind} li[data-name]").evaluate_all(
                "list => list.map(li => [li.dataset.name, +li.dataset.cosine])"
            )
            return [(name, pytest.approx(cosine, abs=2e-3)) for name, cosine in items]

        page.fill("#search", "gene0")
        page.wait_for_selector("#hits li")
        assert page.get_attribute("#search", "aria-expanded") == "true"
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        assert page.inner_text("#chosen") == table["name"][1] and page.is_hidden("#hits")
        for which, profiles in ((1, corrected), (0, raw)):
            page.check(f"#maps input[value='{which}']")
            for kind, letter in (("gene", "g"), ("compound", "c")):
                for side, sign in (("similar", 1), ("opposite", -1)):
                    expected = expected_neighbours(profiles, table, 1, kind, sign)
                    assert expected and expected == neighbours(side, letter)
        text = page.inner_text("#similar-g li:first-child .p")
        vectors = unit_rows(raw.features)
        all_pairs = (vectors @ vectors.T)[np.triu_indices(len(raw), 1)]
        first = expected_neighbours(raw, table, 1, "gene", 1)[0][1]
        assert float(text.removeprefix("p ")) == pytest.approx(
            np.mean(all_pairs >= first), abs=0.008
        )

        # Thumbnails: of this gene's wells and of controls, all of them decoded.
        captions = page.locator("#pictures figcaption").all_inner_texts()
        assert captions[0].startswith(table["perturbation"][1]) and any(
            "DMSO" in c or "non_targeting" in c for c in captions
        )
        assert all(
            size == 32
            for size in page.locator("#pictures img").evaluate_all(
                "list => list.map(image => image.naturalWidth)"
            )
        )
        assert "blue is" in page.inner_text("#pictures .note")

        # Heat map of chosen rows: point at a square, zoom by wheel, key and button, drag, click.
        page.fill("#set", "GENE01, gene02 GENE03; nobody\n" + table["name"][len(table) - 1])
        page.click("#set-form button[type=submit]")
        assert (
            "nobody" in page.inner_text("#status")
            and page.get_attribute("#heat", "data-rows") == "4"
        )
        order = page.input_value("#set").split("\n")
        assert sorted(order) == sorted(["GENE01", "GENE02", "GENE03", HOSTILE])
        page.focus("#heat")
        page.locator("#heat").scroll_into_view_if_needed()
        box = page.locator("#heat").bounding_box()
        area = page.evaluate("heatArea()")
        # row 0, column 2
        spot = [area["left"] + area["size"] * 5 / 8, area["top"] + area["size"] / 8]
        page.mouse.move(box["x"] + spot[0], box["y"] + spot[1])
        rows = [table.index[table["name"] == order[k]][0] for k in (0, 2)]
        values = [
            float(unit_rows(p.features)[rows[0]] @ unit_rows(p.features)[rows[1]])
            for p in (raw, corrected)
        ]
        told = page.inner_text("#cell")
        assert told.startswith(f"{order[0]} and {order[2]}: cosine")
        numbers = [float(n.replace("\u2212", "-")) for n in re.findall(r"[+\u2212]\d\.\d{3}", told)]
        assert numbers == pytest.approx(values, abs=2e-3)
        assert page.inner_text("#tip") == told
        page.mouse.wheel(0, -300)
        page.wait_for_function("+document.getElementById('heat').dataset.scale > 2")
        page.keyboard.press("0")
        assert page.get_attribute("#heat", "data-scale") == "1"
        page.click(".zoom:has(~ #heat) [data-zoom=in]")
        assert page.get_attribute("#heat", "data-scale") == "1.5"
        page.mouse.move(box["x"] + spot[0], box["y"] + spot[1])
        page.mouse.down()
        page.mouse.move(box["x"] + spot[0] - 60, box["y"] + spot[1] - 10, steps=3)
        page.mouse.up()
        # a drag is no click
        assert page.evaluate("heat.x") > 0 and page.inner_text("#chosen") == table["name"][1]
        page.keyboard.press("0")
        page.mouse.click(box["x"] + spot[0], box["y"] + spot[1])
        assert page.inner_text("#chosen") == order[0]
        colour = page.evaluate(
            "([x, y]) => [...$('heat').getContext('2d').getImageData(x, y, 1, 1).data]",
            [area["left"] + 4, area["top"] + 4],
        )
        assert colour[:3] == [103, 0, 31]  # the diagonal: cosine 1

        # The scatter: the chosen point is under the pointer where the page says it is.
        page.locator("#scatter").scroll_into_view_if_needed()
        box, where = (
            page.locator("#scatter").bounding_box(),
            page.evaluate("({area: scatterArea(), x: layout[4], y: layout[5]})"),
        )
        page.mouse.click(
            *(
                box[k] + where["area"][side] + where[k] * where["area"]["size"]
                for k, side in (("x", "left"), ("y", "top"))
            )
        )
        assert page.inner_text("#chosen") == table["name"][2]

        with page.expect_download() as download:
            page.click("#save-neighbours")
        kept = pd.read_csv(download.value.path())
        assert len(kept) == len(table) - 1 and kept["cosine"].is_monotonic_decreasing
        page.goto((folder / "map.html").as_uri() + "#gene03")
        page.reload()
        page.wait_for_selector("body[data-ready=yes]")
        assert page.inner_text("#chosen") == "GENE03"  # a link to a gene
        browser.close()
    assert problems == []
    assert {url.split(":")[0] for url in requests} <= {"file", "data", "blob"}


def test_page_holds_the_map(screen, monkeypatch):
    """Precision, size and escaping, without a browser."""
    _, raw, _ = screen
    table = entities(raw, Columns())
    text = explore.page({"this map": raw}, table, title=HOSTILE, layout="none", precision="int8")
    assert HOSTILE not in text and text.count("</script>") == 4
    assert not re.search(r"(src|href)=.?(https?:)?//", text) and "default-src 'none'" in text
    random = np.random.default_rng(0)
    vectors = unit_rows(random.normal(size=(500, 64)) * np.geomspace(3, 0.01, 64))
    for precision, dims, most in (("float16", 64, 5e-4), ("int8", 64, 0.01), ("float16", 40, 0.02)):
        packed, (mean, worst) = explore.pack(vectors, precision, dims)
        assert (
            mean < worst < most
            and len(packed) == -(-500 * dims * explore.PRECISIONS[precision] // 3) * 4
        )
    for name in ("explore.html", "explore.css", "explore.js", "explore_views.js"):
        assert "http" not in re.sub(
            r'http-equiv="[^"]+"', "", Path(explore.PAGE / name).read_text()
        )
    assert choose(["gene02", "CPD01"], table)[0] == table.index[table["name"] == "GENE02"][0]
    with pytest.raises(UserError, match="Did you mean 'GENE02'"):
        choose(["GENE_02"], table)
    with pytest.raises(UserError, match="one HTML file"):
        run("explore", "--profiles", screen[0] / "raw.parquet", "--out", screen[0] / "map")
    wells = Profiles(
        np.tile(raw.features, (6, 1)), pd.concat([raw.metadata] * 6, ignore_index=True), raw.names
    )
    with pytest.raises(UserError, match="Aggregate first"):
        entities(wells, Columns())
