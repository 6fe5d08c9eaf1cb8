"""A map beside its baselines: what beats what, in the table, the record and in words."""

import json

import numpy as np
import pytest

from phenomjax.maps.benchmark import against
from phenomjax.maps.benchmark.measures import entry
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.writing import write
from phenomjax.statistics.comparison import BEATS, BELOW, NOT_SHOWN, listed, number, outcome
from phenomjax.system.errors import UserError
from tests.lab.maps import run
from tests.lab.plates import feature_names, screen

JUDGED = ("consistency.share_p05", "consistency.share_p01", "map.activity.mean")


def test_outcomes():
    assert outcome((0.3, 0.4), (0.1, 0.2)) == BEATS
    assert outcome((0.1, 0.2), (0.3, 0.4)) == BELOW
    assert outcome((0.2, 0.3), (0.1, 0.2)) == NOT_SHOWN  # they touch
    assert outcome((0.1, 0.2), (0.3, 0.4), lower_is_better=True) == BEATS
    assert number(0.5, [0.25, 0.75]) == "0.500 [0.250, 0.750]" and number(None) == "-"
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c"


def saved(path, features, provenance=None):
    """The screen with other features, as `embed` or `intensity` would leave them."""
    metadata = screen()[[c for c in screen().columns if c.startswith("Metadata_")]]
    names = tuple(feature_names(features.shape[1]))
    write(Profiles(features, metadata, names, provenance or {}), path)
    return path


@pytest.fixture
def tables(tmp_path):
    """A map that knows what the screen holds, and one of noise of fewer features."""
    model = screen(effect=2.0)[feature_names(24)].to_numpy(np.float32)
    noise = np.random.default_rng(1).normal(size=(len(model), 8)).astype(np.float32)
    twin = {"sources": [{"path": "twin.zarr", "random_weights": 5}], "steps": []}
    return (
        saved(tmp_path / "model.parquet", model),
        saved(tmp_path / "twin.parquet", noise, twin),
    )


def results(folder):
    return json.loads((folder / "benchmark.json").read_text())


def test_a_map_beside_its_twin(tables, tmp_path, capsys):
    model, twin = tables
    words = ("--profiles", model, "--probe", "none", "--dims", 12)
    told = ("--against", f"untrained={twin}", f"same={model}")
    assert run("benchmark", *words, *told, "--out", tmp_path / "report") == 0
    shown = capsys.readouterr().out
    assert run("benchmark", *words, "--out", tmp_path / "plain") == 0
    assert run("benchmark", "--profiles", twin, "--probe", "none", "--out", tmp_path / "twin") == 0
    found, plain, of_twin = (results(tmp_path / name) for name in ("report", "plain", "twin"))
    for key in JUDGED:
        beside = found[key].pop("against")
        assert found[key] == plain[key]
        assert {name: one["outcome"] for name, one in beside.items()} == {
            "untrained": BEATS,
            "same": NOT_SHOWN,
        }
        # 12 components are of the map; the baseline has 8 features, and so 8
        kept = ("value", "interval", "count")
        assert [beside["untrained"][k] for k in kept] == [of_twin[key][k] for k in kept]
    for key in ("position.share_p05", "consistency.mean_cosine", "map.consistency_of_active.mean"):
        assert found[key].get("against", {}).get("untrained", {}).get("outcome") is None
    said = found["about"]["against"]["untrained"]
    assert said["what"] == "an untrained network, random weights of seed 5"
    assert said["said"].startswith(f"**untrained** ({said['what']}): the map beats it in ")
    table = (tmp_path / "report/benchmark.md").read_text()
    assert "| chance | untrained | same |" in table and said["said"] in table
    assert table in shown
    # the other way round, with results that are there already
    words = ("--profiles", twin, "--probe", "none", "--against")
    for path in (tmp_path / "plain", tmp_path / "plain/benchmark.json"):
        assert run("benchmark", *words, f"model={path}", "--out", tmp_path / "again") == 0
        found = results(tmp_path / "again")
        assert {found[key]["against"]["model"]["outcome"] for key in JUDGED} == {BELOW}
        beside = found["sibling.recall"]["against"]["model"]
        assert beside["value"] == plain["sibling.recall"]["value"]
    text = (tmp_path / "again/benchmark.md").read_text()
    assert "These profiles are of an untrained network (seed 5)." in text


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((0.2, 0.4), "is not shown to beat it in 1 of 1 measures (a.b), for the 95 % intervals"),
        ((0.2, 0.4), "The map is on a par with an untrained network"),
        ((0.6, 0.8), "the map is below it in 1 of 1 measures (a.b)."),
        ((0.6, 0.8), "The map is no better than an untrained network."),
        (None, "no measure has an interval in both"),
    ],
)
def test_sentences_about_twins(interval, said):
    own = {"a.b": entry(0.3, (0.25, 0.35), 10, "genes")}
    other = {"a.b": entry(0.3, interval, 10, "genes"), "c": entry(0.1, (0.0, 1.0), 1, "genes")}
    twin = against.Baseline("t", ("t",), other, {"sources": [{"random_weights": 0}]})
    assert said in against.sentence(own, twin)


def test_other_perturbations_and_measures_without_merit():
    keys = ("a", "recall.X.within_arm@0.1,0.9")
    own = {key: entry(0.3, (0.25, 0.35), 10, "genes") for key in keys}
    other = {key: entry(0.1, (0.05, 0.15), 8, "genes") for key in keys}
    steps = {"steps": [{"command": "structure"}, {"command": "align"}]}
    text = against.sentence(own, against.Baseline("counts", ("s",), other, steps))
    assert text.startswith("**counts** (cell counts and areas): the map beats it in 1 of 1")
    assert "not of the same perturbations or pairs in a (10 and 8)" in text
    assert "untrained" not in text


def test_fewer_replicates_are_told():
    own, other = (
        {
            "consistency.mean_cosine": entry(0.3, None, 10, "perturbations", replicates=replicates),
            "a": entry(0.3, (0.25, 0.35), 10, "genes"),
        }
        for replicates in (30, 20)
    )
    text = against.sentence(own, against.Baseline("two plates", ("s",), other, {}))
    assert "Its perturbations have 20 replicates, those of the map 30; give both" in text
    assert "replicates" not in against.sentence(own, against.Baseline("itself", ("s",), own, {}))


def test_a_twin_is_offered_for_an_encoder_only():
    trained = {"path": "e.zarr", "checkpoint": "runs/x", "bank": "b.zarr"}
    words = against.offer({"sources": [{"path": "more.zarr"}, trained]})
    assert "--checkpoint runs/x --bank b.zarr --random_weights 0 --out twin.zarr" in words
    assert not against.offer({"sources": [trained | {"random_weights": 0}]})
    assert not against.offer({"sources": [{"path": "intensity.parquet"}]}) and not against.offer({})


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("twin.zarr", r"--against twin\.zarr: give NAME=PATH, for instance --against untrained="),
        ("u=absent.zarr", r"there is no absent\.zarr\. .*A twin is made by .*--random_weights 0"),
        ("u={folder}/bad.json", r"u=.*bad\.json is no benchmark\.json of"),
        ("u={folder}/other.parquet", r"--against u: .*'who'.*benchmark it by itself"),
    ],
)
def test_mistakes(tmp_path, word, message):
    (tmp_path / "bad.json").write_text("[1]")
    screen().to_parquet(tmp_path / "other.parquet")
    own = screen().rename(columns={"Metadata_broad_sample": "who"})
    own.to_parquet(tmp_path / "model.parquet")
    words = ("--profiles", tmp_path / "model.parquet", "--perturbation", "who", "--probe", "none")
    told = ("--against", word.format(folder=tmp_path), "--out", tmp_path / "report")
    with pytest.raises(UserError, match=message):
        run("benchmark", *words, *told)
