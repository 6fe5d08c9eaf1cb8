"""The demo of the maps: a small screen from images to a page, again without work that is done, and
without an encoder.
"""

import ast
import dataclasses
import json
import runpy

import numpy as np
import pandas as pd
import pytest

from phenomjax import config
from phenomjax.checkpoints import loading
from phenomjax.data.simulated.cells import CHANNELS
from phenomjax.maps.__main__ import main
from phenomjax.maps.demo import command as demo
from phenomjax.maps.demo import results as demo_results
from phenomjax.maps.demo import supervision
from phenomjax.system.errors import UserError
from tests.lab import ROOT
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
    small = make_config(len(CHANNELS), model__channels=CHANNELS)
    loading.write(tmp_path / "run", small, start(small, make_batch(len(CHANNELS)))[1])
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
    monkeypatch.setattr(
        demo_results, "read_results", lambda *_: pytest.fail("stopped before the summary")
    )
    monkeypatch.setattr(demo, "run_step", stop_after(demo.run_step, "embed"))
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


def test_weak_supervision_beside_it(tmp_path):
    """The commands that train and embed: on later plates of the same genes, with and without the
    bias, from the configs in the repository.
    """
    options = demo.Options(out=tmp_path, plates=6, with_="perturbation")
    plain = demo.steps(dataclasses.replace(options, with_=None))
    added = [list(map(str, words)) for words in demo.steps(options)[len(plain) :]]
    simulated = [words for words in added if words[1] == "simulate"]
    for words, bias in zip(simulated, ("0.0", "2"), strict=True):
        flags = dict(zip(words[2::2], words[3::2], strict=True))
        assert (flags["--first_plate"], flags["--arm-bias"]) == ("6", bias)
        assert flags["--plates"] == "8"
        (tmp_path / flags["--out"]).mkdir()
    trained = [words for words in added if words[0] == "phenomjax.main"]
    assert len(trained) == 4
    for words in trained:
        flags = [word.removeprefix("--config.").split("=", 1) for word in words if "=" in word]
        c = runpy.run_path(str(ROOT / words[2]))["get_config"]()
        for key, value in flags:
            kept = isinstance(_at(c, key), str)
            c.update_from_flattened_dict({key: value if kept else ast.literal_eval(value)})
        c = config.finalize(c)
        assert c.data.val_groups == ("EXP07",) and c.data.split_by == "experiment"
    embedded = [words for words in added if words[0] == "phenomjax.embed"]
    assert [words[words.index("--out") + 1].split("/")[-1] for words in embedded] == [
        one.profiles for one in supervision.FEATURES.values()
    ]
    assert sum("--random_weights" in words for words in embedded) == 1
    against = [words for words in added if words[1] == "benchmark" and "--against" in words]
    assert len(against) == 8
    made = {str(words[-1]) for words in plain if words[1] == "benchmark"}
    for words in added:
        if words in against:
            beside = dict(word.split("=", 1) for word in words[words.index("--against") + 1 : -2])
            twin = "untrained" if "/mae_" in words[-1] else "perturbation_untrained"
            assert {twin, "intensity", "structure"} == beside.keys()
            assert made >= set(beside.values())  # before
        if words[1] == "benchmark":
            made.add(words[-1])


def _at(config, key):
    for name in key.split("."):
        config = config[name]
    return config


def test_how_much_of_the_bias_a_model_takes_up(tmp_path):
    random = np.random.default_rng(0)
    genes, arms = [f"G{k}" for k in range(60)], np.repeat(["1p", "1q", "2q"], 20)
    (tmp_path / "screen.zarr/truth").mkdir(parents=True)
    pd.DataFrame({"gene": genes, "arm": arms}).to_parquet(
        tmp_path / "screen.zarr/truth/genes.parquet"
    )
    own, of_arm = random.normal(size=(60, 16)), np.repeat(random.normal(size=(3, 16)), 20, 0)
    strength = {("mae", "without"): 0.3, ("mae", "with"): 0.3}
    strength |= {("perturbation", "without"): 0.3, ("perturbation", "with"): 1.0}
    for place, ((model, bias), size) in enumerate(strength.items()):
        table = pd.DataFrame(own + size * of_arm, columns=[f"f{k}" for k in range(16)])
        table.insert(0, "perturbation", genes)
        folder = tmp_path / f"{model}_{bias}"
        folder.mkdir()
        turned = table.iloc[:: -1 if place % 2 else 1]  # rows stand in any order
        turned.to_parquet(folder / "map.parquet", index=False)
    leak = supervision.measure(tmp_path)
    one = np.triu_indices(60, 1)
    unit = own + of_arm
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine, same = (unit @ unit.T)[one], (arms[:, None] == arms[None])[one]
    by_hand = (cosine[same][:, None] > cosine[~same][None]).mean()
    assert leak["perturbation"]["with"]["value"] == pytest.approx(by_hand, abs=1e-6)
    assert leak["mae"]["value"] == leak["mae"]["interval"][0] == 0.0
    low, high = leak["difference"]["interval"]
    assert 0 < low < leak["difference"]["value"] < high
    assert leak["difference"]["value"] == pytest.approx(leak["perturbation"]["value"])
    apart = leak["perturbation"]["with"]["value"] - leak["mae"]["with"]["value"]
    assert leak["level"]["value"] == pytest.approx(apart) and leak["level"]["interval"][0] > 0
    said = supervision.sentence(leak)
    assert "weakly supervised model takes up more of the bias than the MAE" in said
    twice = leak | {"difference": {"value": 0.0, "interval": [-0.1, 0.1]}}
    assert "Neither is shown" in supervision.sentence(twice)
