"""The explorer's page, opened from disk and driven in a real browser: what it shows is what NumPy
and SciPy compute, and it loads nothing.
"""

import re

import numpy as np
import pandas as pd
import pytest

from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
from phenomjax.maps.relations.relationships import read_relationships
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.counts import cell_counts
from phenomjax.maps.tables.metadata.tidying import tidied
from phenomjax.maps.tables.names import choose, entities
from phenomjax.maps.tables.profiles import Profiles, feature_names
from phenomjax.maps.tables.writing import write
from phenomjax.maps.views import annotations, differences, html_page, layouts
from phenomjax.statistics.cosines import unit_rows
from phenomjax.statistics.permutation import q_values
from phenomjax.system.errors import UserError
from tests.lab import plates
from tests.lab.maps import offered, run

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\">&amp;"
NAMED = (
    *("Cells_AreaShape_Area", "Cells_Intensity_MeanIntensity_DNA"),
    *("Nuclei_Texture_Contrast_ER_3_00_256", "Nuclei_Intensity_MeanIntensity_ER"),
    *("Nuclei_Correlation_Correlation_DNA_ER", "Cytoplasm_RadialDistribution_FracAtD_DNA_1of4"),
)
LAPTOP = {"width": 1366, "height": 768}


@pytest.fixture
def opened(open_page, screen):
    """Opens the page, and waits until the map is there."""

    def opening(viewport=LAPTOP, address="", file="map.html", **settings):
        page = open_page(screen["folder"] / file, address, viewport, **settings)
        page.wait_for_selector("body[data-ready=yes]")
        return page

    return opening


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """A small simulated bank, a raw and a corrected map of its perturbations, one of them with a
    hostile name, their wells, scores and known pairs; and the page of all of it.
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
    odd = {"perturbation": HOSTILE, "perturbation_type": "compound", "gene": "GENE01"}
    odd |= {"concentration": 1.0, "is_control": False}
    table = pd.concat([table, pd.DataFrame([odd])], ignore_index=True)
    compound = table["perturbation"]
    table.loc[compound == "CPD01", "gene"] = "GENE01|GENE05"
    known = {"CPD01": "colchicine", "CPD02": "a-compound-with-a-very-long-name-that-is-never-cut"}
    table["compound_name"] = compound.map(known)
    genes = table["perturbation_type"] == "crispr"
    table["mechanism"] = np.where(genes, "knock-out", "inhibitor|stabiliser")
    table.loc[:3, "mechanism"] = "spliceosome"
    table["pubchem_cid"] = compound.map({"CPD01": 6167.0})
    table["InChIKey"] = compound.map({"CPD02": "IAKHMKGGTNLKSZ-INIZCTEOSA-N"})
    table["num_profiles"] = np.where(np.arange(len(table)) == 2, 1, 4)
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
    scores = pd.DataFrame({"perturbation": table["perturbation"].unique()})
    scores["activity"] = np.linspace(0.9, 0.1, len(scores))
    scores["activity_q"] = np.where(scores["activity"] > 0.5, 0.01, 0.4)
    scores["consistency"], scores["consistency_q"] = 0.3, 0.03
    (folder / "active").mkdir()
    scores.to_parquet(folder / "active" / "filter.parquet")
    (folder / "CORUM.gmt").write_text(
        "splicing\tx\tGENE01\tGENE02\tGENE03\tGENE99\nother\tx\tGENE05\tGENE06\n"
    )
    of_wells = named_wells(table)
    of_wells.to_parquet(folder / "wells.parquet")
    files = {
        "--corrected": folder / "corrected.parquet",
        "--bank": folder / "screen.zarr",
        "--activity": folder / "active",
        "--relationships": folder / "CORUM.gmt",
        "--wells": folder / "wells.parquet",
    }
    words = [word for pair in files.items() for word in pair]
    more = ("--clusters", 3, "--title", HOSTILE, "--thumbnail_px", 48, "--out", folder / "map.html")
    assert run("explore", "--profiles", folder / "raw.parquet", *words, *more) == 0
    return {
        "folder": folder,
        "raw": raw,
        "corrected": corrected,
        "table": entities(raw, Columns()),
        "scores": scores,
        "wells": of_wells,
    }


def named_wells(table):
    """Wells of the perturbations on two plates, with eight controls each: named features, cells."""
    random, rows = np.random.default_rng(1), []
    for plate in ("P1", "P2"):
        names = [None] * 8 + table["perturbation"].tolist()
        doses = [np.nan] * 8 + table["concentration"].tolist()
        values = random.normal(size=(len(names), len(NAMED))) + (plate == "P2")
        values[8 + 1, 1] += 30  # GENE02, the DNA of its cells
        cells = random.integers(900, 1100, len(names))
        cells[8 + 3] = 200  # GENE04
        rows.append(
            pd.DataFrame(
                {
                    "Metadata_Plate": plate,
                    "Metadata_Well": [
                        f"{'ABCDEF'[k // 8]}{k % 8 + 1:02d}" for k in range(len(names))
                    ],
                    "Metadata_perturbation": names,
                    "Metadata_concentration": doses,
                    "Metadata_control_type": ["negcon"] * 8 + [None] * len(table),
                    "Metadata_Count_Cells": cells,
                    **{name: values[:, k].astype(np.float32) for k, name in enumerate(NAMED)},
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


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


def neighbours(page, kind):
    """[(name, cosine)] as the page shows them."""
    items = page.locator(f"#list-{kind} tr[data-name]").evaluate_all(
        "list => list.map(line => [line.dataset.name, +line.dataset.cosine])"
    )
    return [(name, pytest.approx(cosine, abs=2e-3)) for name, cosine in items]


def go_to(page, name):
    """Chooses a row by the search."""
    page.fill("#search", name)
    page.keyboard.press("Enter")


def test_search_neighbours_and_maps(screen, opened):
    """Names found by any part in any column, neighbours of both maps with p, links to a row."""
    page, raw, table = opened(), screen["raw"], screen["table"]
    assert page.title() == HOSTILE  # shown as it is, never run
    page.fill("#search", "ene0")
    page.wait_for_selector("#hits li")
    assert page.get_attribute("#search", "aria-expanded") == "true"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.inner_text("#chosen") == table["name"][1] and page.is_hidden("#hits")
    for which, profiles in ((1, screen["corrected"]), (0, raw)):
        page.locator(f"#maps input[value='{which}']").dispatch_event("click")
        for side, sign in (("similar", 1), ("opposite", -1)):
            page.click(f"[data-side={side}]")
            for kind, letter in (("gene", "g"), ("compound", "c")):
                expected = expected_neighbours(profiles, table, 1, kind, sign)
                assert expected and expected == neighbours(page, letter)
    page.click("[data-side=similar]")
    text = page.inner_text("#list-g tbody tr:first-child .p")
    vectors = unit_rows(raw.features)
    all_pairs = (vectors @ vectors.T)[np.triu_indices(len(raw), 1)]
    first = expected_neighbours(raw, table, 1, "gene", 1)[0][1]
    assert float(text) == pytest.approx(np.mean(all_pairs >= first), abs=0.008)
    page.select_option("#only", "c")
    assert page.locator("#list-g").count() == 0 and neighbours(page, "c")

    # Any part of any name: a readable name, a target, a mechanism, an id; told which column.
    for word, name in (
        ("colch", "CPD01 0.01 µM"),
        ("6167", "CPD01 0.01 µM"),
        ("IAKHMKGG", "CPD02 0.01 µM"),
        ("splice", "GENE01"),
        ("ENE05", "GENE05"),
    ):
        page.fill("#search", word)
        hits = page.locator("#hits li[role=option]").all_inner_texts()
        assert name in hits[0] or name.split()[0] in hits[0], (word, hits)
        page.keyboard.press("Enter")
        assert page.evaluate("data.names[chosen]") == name
    page.fill("#search", "abili")
    assert "mechanism: inhibitor|stabiliser" in page.locator("#hits li").first.inner_text()
    page.fill("#search", "qqq")
    assert "no name in this map" in page.inner_text("#hits")
    page.keyboard.press("Escape")

    with page.expect_download() as download:
        page.click("#save-neighbours")
    kept = pd.read_csv(download.value.path())
    assert len(kept) == len(table) - 1 and kept["cosine"].is_monotonic_decreasing
    assert {"activity_q", "consistency_q", "cells", "replicates", "known"} <= set(kept)
    assert opened(address="#gene03").inner_text("#chosen") == "GENE03"  # a link to a gene


def test_what_is_known_of_a_row(screen, opened):
    """Activity, replicates, cells and warnings, known pairs, links out, doses, features, cells."""
    page, table, wells = opened(), screen["table"], screen["wells"]
    go_to(page, "GENE01")
    control = wells["Metadata_control_type"] == "negcon"
    usual = wells[control].groupby("Metadata_Plate")["Metadata_Count_Cells"].median()
    counted = wells[wells["Metadata_perturbation"] == "GENE01"]["Metadata_Count_Cells"]
    share = (counted.to_numpy() / usual.to_numpy()).mean()
    facts = page.inner_text("#facts").replace("\n", " ")
    assert (
        f"mAP 0.90 q 0.01 consistency 0.30 q 0.03 replicates 4 cells a well {counted.mean():,.0f}"
        in facts
    )
    assert f"{100 * share:.0f} % of controls" in facts and "known partners 5" in facts
    assert page.inner_text("#warnings") == ""
    lines = page.locator("#lists tr[data-name]").evaluate_all(
        "list => list.map(line => [line.dataset.name, line.innerText])"
    )
    splicing = ["GENE02", "GENE03"]
    assert all(("CORUM" in text) == (name in splicing) for name, text in lines if "GENE" in name)
    page.click("[data-side=known]")
    shown = dict(
        zip(splicing, sorted(page.locator("#list-g tbody tr").all_inner_texts()), strict=True)
    )
    assert sorted(name for name, _ in neighbours(page, "g")) == splicing
    cells = [
        f"{wells[wells['Metadata_perturbation'] == name]['Metadata_Count_Cells'].mean():,.0f}"
        for name in splicing
    ]
    for (name, text), replicates, count in zip(shown.items(), "41", cells, strict=True):
        q, n, many = text.split()[-3:]
        assert text.startswith(name) and "CORUM" in text and (q, n) == ("0.01", replicates)
        assert int(many.replace(",", "")) == pytest.approx(int(count.replace(",", "")), abs=1)
    assert sorted(name for name, _ in neighbours(page, "c")) == sorted(
        table["name"][table["gene"].str.contains("GENE01") & (table["kind"] == "compound")]
    )
    assert "is its target" in page.inner_text("#list-c")
    page.click("[data-side=similar]")

    go_to(page, "GENE04")
    assert re.search(
        r"Likely toxic: \d+ cells a well, \d+ % of the controls", page.inner_text("#warnings")
    )
    go_to(page, "GENE03")
    assert "One replicate" in page.inner_text("#warnings")
    go_to(page, HOSTILE)
    assert "Not active" in page.inner_text("#warnings") and "mAP q 0.4" in page.inner_text(
        "#warnings"
    )

    def links():
        return page.locator("#links a").evaluate_all("list => list.map(link => link.href)")

    assert links()[0].startswith("https://pubchem.ncbi.nlm.nih.gov/#query=%3C%2Fscript")
    go_to(page, "colchicine")
    assert links()[0] == "https://pubchem.ncbi.nlm.nih.gov/compound/6167"
    assert [link.split("term=")[1] for link in links()[1:]] == [
        "GENE01%5Bsym%5D%20AND%20human%5Borgn%5D",
        "GENE05%5Bsym%5D%20AND%20human%5Borgn%5D",
    ]
    # Doses of this compound: four lines of two points, a click goes to the other dose.
    assert page.locator("#dose-lines svg").count() == 4
    assert page.locator("#dose-lines circle").count() == 8
    names = page.locator("#dose-lines svg").first.get_attribute("aria-label")
    lengths = np.linalg.norm(screen["corrected"].features, axis=1)
    rows = np.flatnonzero(table["perturbation"] == "CPD01")
    assert [float(text) for text in re.findall(r"µM: ([\d.]+)", names)] == pytest.approx(
        lengths[rows], rel=5e-3
    )
    page.locator("#dose-lines circle:not(.now)").first.dispatch_event("click")
    assert page.evaluate("data.names[chosen]") == "CPD01 10 µM"
    go_to(page, "a-compound")
    assert links()[0].endswith("compound/IAKHMKGGTNLKSZ-INIZCTEOSA-N")
    assert page.is_hidden("#doses") is False and page.inner_text("#chosen").endswith("never-cut")

    # Features in standard deviations of the controls of their plate, mean of two wells.
    go_to(page, "GENE02")
    z = []
    for _, plate in wells.groupby("Metadata_Plate"):
        own = plate[plate["Metadata_control_type"] == "negcon"][list(NAMED)]
        one = plate[plate["Metadata_perturbation"] == "GENE02"][list(NAMED)]
        z.append(((one - own.mean()) / own.std()).to_numpy()[0])
    z = np.mean(z, 0)
    first = page.inner_text("#feature-list li:first-child").split("\n")
    assert (
        first[0] == NAMED[int(np.argmax(np.abs(z)))].replace("_", " ") == NAMED[1].replace("_", " ")
    )
    assert float(first[-1].replace("\u2212", "-")) == pytest.approx(z[1], rel=0.02)
    grid = {
        line.split("\t")[0]: line.split("\t")[1:]
        for line in page.inner_text("#parts").split("\n")[1:]
    }
    assert float(grid["ER"][2]) == pytest.approx(np.abs(z[[2, 3, 4]]).mean(), abs=0.15)
    assert float(grid["DNA"][0]) == pytest.approx(abs(z[1]), rel=0.02)
    page.select_option("#against", index=1)
    assert page.inner_text("#feature-list li:first-child").split("\n")[-1] != first[-1]

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
    assert "blue is" in page.inner_text("#pictures .note >> nth=0")


def test_heat_map_of_a_set(screen, opened):
    """Chosen rows: point at a square, zoom by wheel, key and button, drag, click."""
    page, table = opened(), screen["table"]
    go_to(page, "GENE02")
    page.keyboard.press("2")
    page.click("#edit summary")
    page.fill("#set", "GENE01, gene02 GENE03; nobody\n" + table["name"][len(table) - 1])
    page.click("#set-form button[type=submit]")
    assert (
        "nobody" in page.inner_text("#status") and page.get_attribute("#heat", "data-rows") == "4"
    )
    order = page.input_value("#set").split("\n")
    assert sorted(order) == sorted(["GENE01", "GENE02", "GENE03", HOSTILE])
    page.focus("#heat")
    box = page.locator("#heat").bounding_box()
    area = page.evaluate("heatArea()")
    # row 0, column 2
    spot = [area["left"] + area["size"] * 5 / 8, area["top"] + area["size"] / 8]
    page.mouse.move(box["x"] + spot[0], box["y"] + spot[1])
    rows = [table.index[table["name"] == order[k]][0] for k in (0, 2)]
    values = [
        float(unit_rows(p.features)[rows[0]] @ unit_rows(p.features)[rows[1]])
        for p in (screen["raw"], screen["corrected"])
    ]
    told = page.inner_text("#cell")
    assert told.startswith(f"{order[0]} and {order[2]}: cosine")
    numbers = [float(n.replace("\u2212", "-")) for n in re.findall(r"[+\u2212]\d\.\d{3}", told)]
    assert numbers == pytest.approx(values, abs=2e-3)
    assert page.inner_text("#tip") == told
    # a name of 60 letters is written whole: in the room there is, smaller
    room = page.evaluate(
        "(() => { const {room, shrink} = heatNames(), pen = $('heat').getContext('2d'); pen.font ="
        " FONT; return [room, shrink * Math.max(...set.map(row => pen.measureText(title(row))"
        ".width))]; })()"
    )
    assert room[1] <= room[0] <= 0.42 * box["width"] + 1
    page.mouse.wheel(0, -300)
    page.wait_for_function("+document.getElementById('heat').dataset.scale > 2")
    page.keyboard.press("0")
    assert page.get_attribute("#heat", "data-scale") == "1"
    page.click("#set-section [data-zoom=in]")
    assert page.get_attribute("#heat", "data-scale") == "1.5"
    page.mouse.move(box["x"] + spot[0], box["y"] + spot[1])
    page.mouse.down()
    page.mouse.move(box["x"] + spot[0] - 60, box["y"] + spot[1] - 10, steps=3)
    page.mouse.up()
    # a drag is no click
    assert page.evaluate("heat.x") > 0 and page.inner_text("#chosen") == table["name"][1]
    page.focus("#heat")
    page.keyboard.press("0")
    page.mouse.click(box["x"] + spot[0], box["y"] + spot[1])
    assert page.inner_text("#chosen") == order[0]
    colour = page.evaluate(
        "([x, y]) => [...$('heat').getContext('2d').getImageData(x, y, 1, 1).data]",
        [area["left"] + 4, area["top"] + 4],
    )
    assert colour[:3] == [103, 0, 31]  # the diagonal: cosine 1
    # a dot on known pairs, of genes or of targets
    splicing = {"GENE01", "GENE02", "GENE03", HOSTILE}
    known = {frozenset((a, b)) for a in splicing for b in splicing if a != b}
    pairs = page.evaluate("order.map(a => order.map(b => a !== b && relations(a, b).length > 0))")
    assert pairs == [[frozenset((a, b)) in known for b in order] for a in order]
    assert not page.is_hidden("#dot-note")


def test_scatter_colours_lasso_enrichment(screen, opened):
    """Points under the pointer, colours by column with their counts, a lasso to the heat map, and
    what is enriched in it as SciPy and Benjamini-Hochberg have it.
    """
    from scipy.stats import hypergeom

    page, table = opened(), screen["table"]
    box, where = (
        page.locator("#scatter").bounding_box(),
        page.evaluate("({area: scatterArea(), layout: [...layout]})"),
    )
    assert box["y"] + box["height"] <= LAPTOP["height"]  # above the fold of a laptop
    xy = np.array(where["layout"]).reshape(-1, 2)
    vectors = unit_rows(screen["corrected"].features, np.float32)
    expected, method = layouts.place(vectors, "auto")
    assert method == "pca" and xy == pytest.approx(layouts.in_unit_square(expected), abs=1e-3)
    pixels = xy * where["area"]["size"] + [
        box["x"] + where["area"]["left"],
        box["y"] + where["area"]["top"],
    ]
    page.mouse.move(*pixels[2])
    assert page.inner_text("#tip").startswith(table["name"][2])
    page.mouse.click(*pixels[2])
    assert page.inner_text("#chosen") == table["name"][2]

    options = page.locator("#colour option").all_inner_texts()
    assert {
        "kind",
        "active or not",
        "mAP",
        "cells a well",
        "mechanism",
        "cluster (k-means)",
    } <= set(options)
    page.select_option("#colour", label="mechanism")
    legend = page.locator("#legend button").evaluate_all(
        "list => list.map(one => [one.dataset.level, +one.lastChild.textContent])"
    )
    mechanism = screen["raw"].metadata["mechanism"]
    assert dict(legend) == mechanism.value_counts().to_dict()
    colours = "[...data.names.keys()].map(row => paint.of(row))"
    groups = pd.Series(page.evaluate(colours)).groupby(mechanism).unique()
    assert [len(group) for group in groups] == [1, 1, 1] and len(np.unique(groups.str[0])) == 3
    page.select_option("#colour", label="cells a well")
    cells = np.array(page.evaluate("data.cells.values"))
    greens = [int(one[4:-1].split(",")[1]) for one in page.evaluate(colours)]  # rise in viridis
    assert np.array_equal(np.argsort(cells)[[0, -1]], [np.argmin(greens), np.argmax(greens)]) or (
        greens[np.argmax(cells)] == max(greens) and greens[np.argmin(cells)] == min(greens)
    )
    page.select_option("#colour", label="mechanism")
    page.locator("#legend button[data-level=spliceosome]").click()
    assert sorted(page.input_value("#set").split("\n")) == ["GENE01", "GENE02", "GENE03", "GENE04"]
    assert page.is_visible("#heat") and page.is_hidden("#scatter")

    page.keyboard.press("1")
    page.click("#lasso")
    wanted = sorted(np.argsort(xy[:, 0])[:9].tolist())
    edge = (
        (np.sort(xy[:, 0])[8:10].mean() * where["area"]["size"]) + box["x"] + where["area"]["left"]
    )
    left, top, bottom = box["x"] + 1, box["y"] + 1, box["y"] + where["area"]["size"] + 10
    page.mouse.move(left, top)
    page.mouse.down()
    for corner in ((edge, top), (edge, bottom), (left, bottom), (left, top + 5)):
        page.mouse.move(*corner, steps=2)
    page.mouse.up()
    assert sorted(page.input_value("#set").split("\n")) == sorted(table["name"][wanted])
    assert page.inner_text("#set-count") == "9" and "9 perturbations" in page.inner_text("#status")

    found = page.evaluate(
        "(() => { const {tested, good} = enrichment(order); return [tested, good.map(one =>"
        " [one.what, one.name, one.p, one.q])]; })()"
    )
    terms = {
        "mechanism": mechanism.str.split("|"),
        "target": table["gene"]
        .where(table["kind"] == "compound", "")
        .str.split("|")
        .map(lambda one: [t for t in one if t]),
    }
    members = {"splicing": {"GENE01", "GENE02", "GENE03"}, "other": {"GENE05", "GENE06"}}
    own = [set(g.split("|")) for g in table["gene"]]
    terms["perturbation type"] = screen["raw"].metadata["perturbation_type"].map(lambda one: [one])
    terms["CORUM"] = pd.Series([[n for n, m in members.items() if m & names] for names in own])
    p = {}
    for what, lists in terms.items():
        told = lists.map(len) > 0
        for name in sorted({one for row in lists for one in row}):
            has = lists.map(lambda row, name=name: name in row)
            marked, population = int(has.sum()), int(told.sum())
            if table["perturbation"][has].nunique() > 1 and marked < population:
                k, n = int(has[wanted].sum()), int(told[wanted].sum())
                p[what, name] = hypergeom.sf(k - 1, population, marked, n)
    q = dict(zip(p, q_values(np.array(list(p.values()))), strict=True))
    assert found[0] == len(p)
    for what, name, one_p, one_q in found[1]:
        assert one_p == pytest.approx(p[what, name], rel=1e-9)
        assert one_q == pytest.approx(q[what, name], rel=1e-9)
    for case in ((3, 9, 4, 23), (1, 5, 2, 23), (4, 4, 4, 23), (0, 9, 4, 23)):
        k, n, marked, population = case
        assert page.evaluate(f"hypergeometric({k}, {n}, {marked}, {population})") == pytest.approx(
            hypergeom.sf(k - 1, population, marked, n), rel=1e-9
        )
    # The four of one mechanism are enriched in it, and three of them are a complex.
    page.evaluate("setHeat([0, 1, 2, 3], true)")
    told = page.locator("#enrichment .term").all_inner_texts()
    assert any(text.startswith("spliceosome") for text in told)
    assert any(text.startswith("3 of 6 pairs known") for text in told)


def test_a_set_larger_than_the_heat_map_is_tested_whole(screen, opened):
    """The page of a map without controls, whose cells are compared with the median."""
    rows, folder = 230, screen["folder"]
    table = pd.DataFrame({"Metadata_perturbation": [f"C{k:03d}" for k in range(rows)]})
    table["Metadata_mechanism"] = ["common"] * 150 + ["rare"] * 55 + ["common"] * 25
    table["Metadata_Count_Cells"] = np.arange(rows) + 100
    random = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    features = pd.DataFrame(random, columns=feature_names(4))
    pd.concat([table, features], axis=1).to_parquet(folder / "many.parquet")
    out = folder / "many.html"
    assert run("explore", "--profiles", folder / "many.parquet", "--out", out) == 0
    page = opened(file="many.html")
    page.evaluate("pick([...data.names.keys()].slice(0, 205), 'Lasso')")
    assert page.inner_text("#set-count") == "200"
    line = page.locator("#enrichment .term[data-term=rare]").inner_text()
    assert "mechanism: 55 of 205, in the map 55 of 230" in line
    assert "2 terms were tested, in all 205 of the set." in page.inner_text("#enrichment")
    options = page.locator("#colour option").all_inner_texts()
    assert "cells, share of this map's median" in options


@pytest.mark.parametrize("width", [1920, 1366, 1024, 390])
def test_layout(opened, width):
    """No width scrolls sideways or cuts a name off; keys, light and dark, back."""
    page = opened(
        {"width": width, "height": 768}, color_scheme="dark" if width == 1920 else "light"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    go_to(page, HOSTILE)
    cut = "list => list.filter(one => one.scrollWidth > one.clientWidth + 1).length"
    assert (
        page.locator("#chosen, #lists button, #lists small, #about, .brand h1").evaluate_all(cut)
        == 0
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.is_visible("#scatter") and (width < 1700 or page.is_visible("#heat"))
    lightness = "parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
    assert (page.evaluate(lightness) < 60) == (width == 1920)
    if width != 1366:
        return
    left = page.locator(".left").bounding_box()
    assert left["height"] > 768 and left["width"] > 400  # used, down to the fold
    page.keyboard.press("t")
    assert page.evaluate(lightness) < 60
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    second = page.locator("#lists tr[data-name]").nth(1).get_attribute("data-name")
    page.keyboard.press("Enter")
    assert page.evaluate("data.names[chosen]") == second
    page.keyboard.press("[")
    assert page.inner_text("#chosen") == HOSTILE
    page.keyboard.press("?")
    assert page.is_visible("#help") and "off by" in page.inner_text("#precision")
    page.keyboard.press("Escape")
    assert page.is_hidden("#help")


def test_page_holds_the_map(screen):
    """Precision, size and escaping, without a browser; a page of names alone."""
    raw, table = screen["raw"], screen["table"]
    text = html_page.page({"this map": raw}, table, title=HOSTILE, place="none", precision="int8")
    assert HOSTILE not in text and text.count("</script>") == 8
    whole = (screen["folder"] / "map.html").read_text()
    for one in (text, whole):
        assert HOSTILE not in one and "default-src 'none'" in one
        assert not re.search(r"(src|href)=.?(https?:)?//|@import|url\(", one)
    random = np.random.default_rng(0)
    vectors = unit_rows(random.normal(size=(500, 64)) * np.geomspace(3, 0.01, 64))
    for precision, dims, most in (("float16", 64, 5e-4), ("int8", 64, 0.01), ("float16", 40, 0.02)):
        packed, (mean, worst) = html_page.pack(vectors, precision, dims)
        assert (
            mean < worst < most
            and len(packed) == -(-500 * dims * html_page.PRECISIONS[precision] // 3) * 4
        )
    assert choose(["gene02", "CPD01"], table)[0] == table.index[table["name"] == "GENE02"][0]
    with pytest.raises(UserError, match="Did you mean 'GENE02'"):
        choose(["GENE_02"], table)
    with pytest.raises(UserError, match="one HTML file"):
        run("explore", "--profiles", screen["folder"] / "raw.parquet", "--out", "map")
    words = "--profiles", screen["folder"] / "raw.parquet", "--layout", "none"
    near = offered("explore", "query", *words, "--out", screen["folder"] / "bare.html")
    assert choose(near.names, table) == [0] and near.profiles == (str(words[1]),)
    wells = Profiles(
        np.tile(raw.features, (6, 1)), pd.concat([raw.metadata] * 6, ignore_index=True), raw.names
    )
    with pytest.raises(UserError, match="Aggregate first"):
        entities(wells, Columns())


def test_mistakes_are_named(screen, tmp_path):
    """Files that are no scores, of other perturbations, without controls."""
    words = (
        "explore",
        "--profiles",
        screen["folder"] / "raw.parquet",
        "--out",
        tmp_path / "m.html",
    )
    pd.DataFrame({"perturbation": ["X"], "activity": [1.0]}).to_parquet(tmp_path / "no_q.parquet")
    pd.DataFrame({"perturbation": ["X"], "activity": [1.0], "activity_q": [0.1]}).to_csv(
        tmp_path / "other.csv", index=False
    )
    (tmp_path / "pairs.csv").write_text("entity1,entity2\nTP53,MDM2\n")
    other = screen["wells"].copy()
    other["Metadata_perturbation"] = other["Metadata_perturbation"] + "x"
    other.to_parquet(tmp_path / "other.parquet")
    screen["wells"].assign(Metadata_control_type=None).to_parquet(tmp_path / "bare.parquet")
    for flag, value, error in (
        (
            "--activity",
            tmp_path / "non_q.parquet",
            f"Did you mean {tmp_path}/no_q.parquet? Give the",
        ),
        ("--activity", tmp_path / "no_q.parquet", "but none of perturbation with activity_q"),
        ("--activity", tmp_path / "other.csv", "scores X, …, none of which is in the map"),
        ("--relationships", tmp_path / "pairs.csv", "none of the pairs of pairs has both partners"),
        ("--wells", tmp_path / "other.parquet", "none of their perturbations is in the map"),
        ("--wells", tmp_path / "bare.parquet", "no batch has 4 negative controls"),
    ):
        with pytest.raises(UserError, match=re.escape(error)):
            run(*words, flag, value)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Metadata_Object_Count",
            "Count_Cells",
            "Metadata_Count_Nuclei",
            "cell_count",
            "Cells_Count",
        ),
        *("num_cells", "Image_Metadata_Count_Cells", "number_of_nuclei", "n_objects", "CellCount"),
    ],
)
def test_columns_that_count_cells(name):
    """As other programs name them; a map's own count of profiles is none."""
    assert cell_counts(["num_profiles", "Cells_Neighbors_NumberOfNeighbors", name]) == [name]


def test_cells_of_a_map_and_its_columns(tmp_path):
    """Cell counts outlive aggregation as means, and are told against controls that the map keeps;
    columns are what they hold.
    """
    table = plates.screen()
    counts = np.where(table["Metadata_control_type"] == "negcon", 1000, 500)
    counts[table["Metadata_broad_sample"] == "CMP-003"] = 90
    table.insert(3, "Metadata_Count_Cells", counts + np.arange(len(table)) // 96)
    table.insert(4, "Metadata_pubchem_cid", table["Metadata_Well"].map(hash).abs().astype(float))
    table.to_parquet(tmp_path / "wells.parquet")
    words = ("--profiles", tmp_path / "wells.parquet", "--out", tmp_path / "map.parquet")
    assert run("aggregate", *words) == 0
    found = pd.read_parquet(tmp_path / "map.parquet").set_index("Metadata_broad_sample")
    assert found["Metadata_Count_Cells"]["CMP-003"] == 91  # 90, 91, 92
    cells = annotations.cells_of_map(
        found[["Metadata_Count_Cells"]], ["compound"] * (len(found) - 1) + ["control"]
    )
    last = found["Metadata_Count_Cells"].iloc[-1]
    assert cells["share"] == annotations.numbers(found["Metadata_Count_Cells"] / last)
    columns, large = annotations.metadata_columns(found.reset_index())
    kinds = {
        column["name"]: (column["kind"], column["searched"], column["colours"])
        for column in columns
    }
    assert large == [] and kinds["Metadata_gene"] == ("text", True, True)
    assert kinds["Metadata_Count_Cells"][0] == "number"
    assert kinds["Metadata_pubchem_cid"][0] == "text" and kinds["Metadata_Well"][1] is False
    cid = columns[annotations.column_of(columns, ["pubchem_cid"])]
    assert all(level.isdigit() for level in cid["levels"])
    odd = pd.DataFrame(
        {7: [["A", "B"], ["C"], None], "when": pd.to_datetime(["2024-01-01"] * 2 + [None])}
    ).assign(yes=[True, False, None], infinite=[1, np.inf, np.nan])
    columns, _ = annotations.metadata_columns(tidied(odd))
    assert [column["levels"] for column in columns] == [
        ["A|B", "C"],
        ["2024-01-01 00:00:00"],
        ["False", "True"],
        [],
    ]
    assert columns[-1]["values"] == [1.0, None, None]


def test_parts_of_features():
    """Compartments and channels by the names of CellProfiler, and of channelwise embeddings."""
    compartments, channels, groups = differences.parts(NAMED)
    assert (compartments, channels) == (["Cells", "Cytoplasm", "Nuclei"], ["DNA", "ER"])
    assert groups == [[0], [0, 0], [2, 1], [2, 1], [2, 0, 1], [1, 0]]
    assert differences.parts(["DNA_0000", "DNA_0001", "ER_0000"]) == (
        [],
        ["DNA", "ER"],
        [[-1, 0], [-1, 0], [-1, 1]],
    )
    assert not differences.named(["feature_0000", "PC_12", "17"]) and differences.named(NAMED)
    random = np.random.default_rng(0)
    features = random.normal(size=(50, 6)).astype(np.float32)
    features[:, 2] = 4.0  # says nothing, and is left out
    features[7, 0] = 60
    found = differences.of_map(Profiles(features, pd.DataFrame(index=range(50)), NAMED))
    assert found.names == tuple(name for name in NAMED if name != NAMED[2])
    middle = np.median(features[:, 0])
    mad = 1.4826 * np.median(np.abs(features[:, 0] - middle))
    assert found.values[7, 0] == pytest.approx((60 - middle) / mad, rel=1e-5)
    _, head = found.pack(4 / 3 * 101)  # room for two features
    assert len(head["names"]) == 2 and head["left_out"] == 3


def test_layouts_and_sets(tmp_path, monkeypatch):
    """Few points lie on two main axes, many in a UMAP; sets keep the names of their complexes."""
    random = np.random.default_rng(0)
    features = random.normal(size=(layouts.UMAP_FROM, 3)).astype(np.float32)
    monkeypatch.setattr(layouts, "umap", lambda features, *_: features[:, :2])
    assert layouts.place(features)[1] == "umap" and layouts.place(features[1:])[1] == "pca"
    assert layouts.place(features[1:], "umap")[1] == "umap"
    assert layouts.place(features[:4]) == (None, "") == layouts.place(features, "none")
    unit = unit_rows(features[:200], np.float32)
    xy, _ = layouts.place(unit, "pca")
    centred = unit - unit.mean(0)
    main = np.linalg.svd(centred.astype(np.float64))[2][:2]
    assert np.abs(xy) == pytest.approx(np.abs(centred @ main.T), abs=1e-4)
    groups = np.repeat(np.eye(3, dtype=np.float32), (20, 10, 5), axis=0)
    assert layouts.clusters(groups, 3).tolist() == [0] * 20 + [1] * 10 + [2] * 5
    assert layouts.clusters(groups, 0) is None and layouts.clusters(groups[:19]) is None
    for name, text in (
        ("a.tsv", "first\tA B C\nsecond\tC D\n"),
        ("a.gmt", "first\t-\tA\tB\tC\nsecond\t-\tC\tD\n"),
        ("a.csv", "complex_name,genes\nfirst,A;B;C\nsecond,C;D\n"),
    ):
        (tmp_path / name).write_text(text)
        found = read_relationships(tmp_path / name)
        assert found.sets == {"first": ["A", "B", "C"], "second": ["C", "D"]}
        assert len(found.pairs) == 4
