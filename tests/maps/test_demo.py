"""The demo of the maps: a small screen from images to a page, again without work that is done, and
without an encoder.
"""

import dataclasses
import json

import pytest

from phenomjax.checkpoints import loading
from phenomjax.data.simulated.cells import CHANNELS
from phenomjax.maps.demo import command as demo
from phenomjax.maps.demo import results
from phenomjax.maps.__main__ import main
from phenomjax.system.errors import UserError
from tests.tasks.test_mae import make_batch, make_config, start

SMALL = {
    "--plates": 2,
    "--wells": 48,
    "--field-px": 64,
    "--cell-radius": 12,
    "--num-complexes": 6,
    "--genes-per-complex": 3,
    "--num-single-genes": 30,
    "--inactive-fraction": 1.0,
    "--num-compounds": 3,
    "--num-doses": 2,
    "--num-arms": 2,
    "--arm-bias": 2,
}


def test_from_images_to_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "SCREEN", SMALL)
    few = {kind: dataclasses.replace(one, dims=12) for kind, one in demo.FEATURES.items()}
    monkeypatch.setattr(demo, "FEATURES", few)
    config = make_config(len(CHANNELS), model__channels=CHANNELS)
    loading.write(tmp_path / "run", config, start(config, make_batch(len(CHANNELS)))[1])
    arguments = [
        "demo",
        "--checkpoint",
        str(tmp_path / "run"),
        "--out",
        str(tmp_path / "out"),
        "--plates",
        "2",
    ]
    assert main(arguments) == 0
    told = capsys.readouterr().err
    results = json.loads((tmp_path / "out/demo.json").read_text())
    assert set(results) == set(demo.FEATURES)
    for states in results.values():
        for state in ("raw", "corrected"):
            assert (
                0 <= states[state]["recall"]["value"] <= 1
                and states[state]["recall"]["count"] == 6 * 3
            )
            assert states[state]["target_average_precision"]["count"] == 3
    # The planted bias is in the hand-made features even of so small a screen, and the correction
    # takes some of it away.
    bias = {
        state: results["intensity"][state]["proximity"]["value"] for state in ("raw", "corrected")
    }
    assert bias["raw"] > 0.55 and abs(bias["corrected"] - 0.5) < bias["raw"] - 0.5
    for name in (
        "demo.png",
        "map.html",
        "pictures/heatmap.png",
        "pictures/pca.png",
        "pictures/chromosomes.png",
    ):
        assert (tmp_path / "out" / name).stat().st_size > 10_000, name
    shown = (tmp_path / "out/names.txt").read_text().split()
    assert len(shown) >= 12 and shown[0].startswith("GENE") and shown[-1].startswith("CPD")
    assert "**untrained** (an untrained network, random weights of seed 0): the map " in told
    for states in results.values():  # a map of one row a perturbation has no replicates
        assert states["raw"]["activity"]["count"] and not states["corrected"]["activity"]["count"]
    assert "recall of complexes" in told and "$ python -m phenomjax.maps align" in told

    # The block search embeds the same screen itself; the tiny encoder has two blocks.
    searched = [
        "--checkpoint",
        str(tmp_path / "run"),
        "--bank",
        str(tmp_path / "out/screen.zarr"),
        "--out",
        str(tmp_path / "blocks"),
    ]
    assert main(["blocks", *searched]) == 0
    found = json.loads((tmp_path / "blocks/blocks.json").read_text())
    assert list(found["blocks"]) == ["1", "2"] and str(found["best"]) in found["blocks"]

    before = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out/embeddings.zarr").rglob("*")
    }
    monkeypatch.setattr(results, "read_results", lambda *_: pytest.fail("stopped before the summary"))
    monkeypatch.setattr(demo, "_command", stop_after(demo._command, "embed"))
    assert main(arguments) == 75
    assert {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out/embeddings.zarr").rglob("*")
    } == before


def stop_after(command, name):
    """Runs commands until one of a name, whose exit code becomes 75."""
    return lambda words: command(words) or (75 if words[0].endswith(name) else 0)


def test_without_an_encoder(tmp_path):
    with pytest.raises(
        UserError, match=r"either --profiles E\.zarr.*or --checkpoint DIR and --bank"
    ):
        main(["blocks", "--out", str(tmp_path / "out")])
    with pytest.raises(
        UserError,
        match=r"no trained run at .*absent\. Train the demo's encoder first with `make demo`",
    ):
        main(["demo", "--checkpoint", str(tmp_path / "absent"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
