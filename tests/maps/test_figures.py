"""Pictures of a map show what they say: triangles, order, curves, labels that cover none; UMAP is
seeded; mistakes are named.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from phenomjax.maps.relations.recall import TAILS, recall_of
from phenomjax.maps.tables.reading import read
from phenomjax.maps.tables.writing import write
from phenomjax.maps.views import draw, figures, layouts
from phenomjax.statistics.cosines import unit_rows
from phenomjax.system.errors import UserError
from tests.lab.maps import run
from tests.maps.test_proximity import simulated_map

UMAP = """
import numpy as np
from phenomjax.maps.views.layouts import umap
random = np.random.default_rng(0)
features = np.repeat(5 * random.normal(size=(2, 8)), 7, axis=0) + random.normal(size=(14, 8))
one, two = umap(features, seed=3), umap(features, seed=3)
assert np.array_equal(one, two), "not the same for the same seed"
first, second = one[:7], one[7:]
gap = np.linalg.norm(first.mean(0) - second.mean(0))
spread = max(np.linalg.norm(g - g.mean(0), axis=1).max() for g in (first, second))
assert gap > 2 * spread, "the two groups are not apart"
"""


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """A raw and a corrected map of a simulated screen, its genes and its complexes, as files."""
    folder = tmp_path_factory.mktemp("pictures")
    screen, raw = simulated_map(arm_bias=0.0, noise=0.3)
    write(raw, folder / "raw.parquet")
    write(raw.with_features(raw.features - raw.features[::2].mean(0)), folder / "corrected.parquet")
    screen.genes.to_pandas().to_parquet(folder / "genes.parquet")
    screen.relationships.to_pandas().to_csv(folder / "complexes.csv", index=False)
    return folder


def test_pictures_through_the_front_door(maps, monkeypatch):
    """Heat map, scatter, recall curves and genome map, with their numbers; the UMAP is another
    test's.
    """
    chosen = [f"GENE{k:03d}" for k in (1, 5, 2, 6, 3, 7, 4, 8)]
    (maps / "names.txt").write_text("\n".join(chosen[4:]) + "\n")
    words = (
        "--profiles",
        maps / "raw.parquet",
        "--corrected",
        maps / "corrected.parquet",
        "--out",
        maps / "out",
    )
    more = ("--relationships", maps / "complexes.csv", "--genes", maps / "genes.parquet")
    assert run("pictures", *words, *more, "--names", *chosen[:4], f"@{maps / 'names.txt'}") == 0
    for name in ("heatmap.png", "pca.png", "recall.png", "chromosomes.png"):
        assert (maps / "out" / name).read_bytes()[:4] == b"\x89PNG"
    shown = pd.read_csv(maps / "out" / "heatmap.csv", index_col=0)
    assert list(shown.index) == list(shown.columns) and sorted(shown.index) == sorted(chosen)
    order = ["complex 1" if name <= "GENE004" else "complex 2" for name in shown.index]
    assert order in (sorted(order), sorted(order)[::-1])  # the two complexes are not mixed
    raw, corrected = read(maps / "raw.parquet"), read(maps / "corrected.parquet")
    rows = [raw.metadata.index[raw.metadata["perturbation"] == name][0] for name in shown.index]
    below, above = (
        unit_rows(profiles.features[rows]) @ unit_rows(profiles.features[rows]).T
        for profiles in (raw, corrected)
    )
    assert np.allclose(np.tril(shown), np.tril(below), atol=1e-6) and np.allclose(
        np.triu(shown, 1), np.triu(above, 1), atol=1e-6
    )
    assert np.abs(below - above).max() > 0.01

    curves = json.loads((maps / "out" / "recall.json").read_text())["complexes"]
    genes = (raw.metadata["perturbation_type"] == "crispr").to_numpy()
    names = {name: row for row, name in enumerate(raw.metadata["perturbation"][genes])}
    pairs = pd.read_csv(maps / "complexes.csv")[["entity1", "entity2"]].map(names.get).to_numpy()
    for name, profiles in (("raw", raw), ("corrected", corrected)):
        vectors = unit_rows(profiles.features[genes])
        cosine = vectors @ vectors.T
        null = cosine[np.triu_indices(len(cosine), 1)]
        expected = [
            recall_of(null, cosine[pairs[:, 0], pairs[:, 1]], tail, 1 - tail) for tail in TAILS
        ]
        assert (
            curves[name]["recall"] == pytest.approx(expected, abs=1 / len(pairs))
            and curves[name]["pairs"] == len(pairs) == 72
        )
        assert all(
            low <= value <= high
            for low, value, high in zip(
                curves[name]["low"], expected, curves[name]["high"], strict=True
            )
        )

    for names, error in (
        (["GENE0001"], "Did you mean 'GENE001'"),
        (["GENE001"], "shows 2 to 300 rows"),
        (["@nowhere.txt"], "no file nowhere.txt"),
    ):
        with pytest.raises(UserError, match=error):
            run("pictures", *words, "--names", *names)
    (maps / "foreign.csv").write_text("entity1,entity2\nTP53,MDM2\n")
    with pytest.raises(UserError, match="same kind of symbols"):
        run("pictures", *words, "--relationships", maps / "foreign.csv")
    with pytest.raises(UserError, match=r"several pictures are drawn, into a folder.*--out .*heat"):
        run("pictures", *words, "--out", maps / "heat.png")
    with pytest.raises(UserError, match="other rows than the map itself: in row 0"):
        draw.same_rows(raw, raw.take(np.arange(len(raw))[::-1]), "other.parquet")
    fewer = np.flatnonzero(np.arange(len(raw)) % 3)  # empty rows were left out of the first map
    found = draw.same_rows(raw.take(fewer), corrected, "corrected.parquet")
    assert np.array_equal(found.features, corrected.features[fewer])
    with pytest.raises(UserError, match="rows, the map itself"):
        draw.same_rows(raw, corrected.take(fewer), "corrected.parquet")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UserError, match="pip install umap-learn"):
        layouts.umap(raw.features)


def test_labels_cover_none():
    """Of many crowded points, the names that are written cover no other name, and at least a third
    finds a place.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    random = np.random.default_rng(0)
    xy = np.concatenate([random.normal(size=(200, 2)), random.normal(size=(60, 2)) * 0.15])
    names = [f"PERTURBATION{k}" for k in range(260)]
    figure = figures.scatter(
        xy, ["gene"] * 200 + ["compound"] * 60, names=names, named=range(170, 230), title="t"
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for text in figure.axes[0].texts if text.get_text() in names]
    assert len(texts) >= 20
    boxes = [Text.get_window_extent(text) for text in texts]  # without their lines to the points
    covered = [(a, b) for a in range(len(boxes)) for b in range(a) if boxes[a].overlaps(boxes[b])]
    assert covered == []
    heat = figures.heat_map(
        [f"a long name of row {k}" for k in range(40)], np.eye(40), title="title"
    )
    FigureCanvasAgg(heat).draw()
    rows = [label.get_window_extent() for label in heat.axes[0].get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in zip(rows[1:], rows, strict=False))
    assert min(box.x0 for box in rows) >= 0


def test_umap_is_seeded():
    """The same seed gives the same UMAP, and it keeps two groups apart.

    In a process without compilation, which takes a quarter of the time.
    """
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", UMAP], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
