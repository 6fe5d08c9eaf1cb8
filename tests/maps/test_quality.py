"""Rows and features that are no measurements: found whatever made them so, told, recorded; what is
sound stays as it is, and the numbers of the sound table come back.
"""

import dataclasses
import json
import logging

import numpy as np
import pandas as pd
import pytest

from phenomjax.maps.benchmark import command as benchmark
from phenomjax.maps.build import aggregate
from phenomjax.maps.build import align as align_command
from phenomjax.maps.build.align import align
from phenomjax.maps.tables import scratch
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.quality import cleaning, limits
from phenomjax.maps.tables.quality import features as checks
from phenomjax.maps.tables.quality.controls import tell_far_controls
from phenomjax.statistics.consistency import consistency
from phenomjax.system.errors import UserError
from tests.lab import plates
from tests.lab.doors import run_as_door
from tests.lab.plates import TOLD, profiles_of

BARE = Columns(batch=(), control="", well="", plate="")  # nothing is known of the rows
FLAGS = ["--align", "center_scale", "--probe", "none", "--draws", 200, "--null_size", 200]


def clean(frame: pd.DataFrame, **options) -> Profiles:
    return cleaning.clean(profiles_of(frame), TOLD, limits.QualityOptions(**options))


def numbers(frame: pd.DataFrame, **options) -> tuple[float, ...]:
    """Consistency of the cleaned and aligned wells: its mean, and the shares below some p."""
    aligned = align(clean(frame, **options), TOLD, "center_scale")
    wells = aggregate.chosen(aligned, TOLD)
    labels = aggregate.labels_of(wells, TOLD, "together")
    found = consistency(wells.features, labels, draws=200, seed=0)
    return found.cosine.mean(), (found.p < 0.05).mean(), (found.p < 0.01).mean()


def _wells(frame, share, seed=3):
    """A share of the wells under study."""
    rng = np.random.default_rng(seed)
    return (frame["Metadata_pert_type"] == "trt") & (rng.random(len(frame)) < share)


SPOILING = {  # a column: (its values, given the table; what is said of it)
    "mad_zero": (lambda f: np.where(_wells(f, 0.4), 4.1421e17, 0.0), "far out of bounds"),
    "constant": (lambda f: 0.7, "constant"),
    "noise of rounding": (
        lambda f: 0.7 + 2e-8 * np.random.default_rng(0).normal(size=len(f)),
        "constant",
    ),
    "of one value, mostly": (lambda f: np.where(_wells(f, 0.04), 40.0, 0.0), "of one value"),
    "tiny spread of the controls": (
        lambda f: (
            np.where(_wells(f, 0.8), np.random.default_rng(1).uniform(0.05, 0.2, len(f)), 0.0)
            + 2e-8 * np.random.default_rng(0).normal(size=len(f))
        ),
        "nearly constant among the controls",
    ),
    "constant in the controls of one plate": (
        lambda f: np.where(
            (f["Metadata_Plate"] == f["Metadata_Plate"].iloc[0]) & f.eval(plates.NEGCON),
            1.5,
            np.random.default_rng(0).normal(size=len(f)),
        ),
        "nearly constant among the controls",
    ),
    "infinite": (
        lambda f: np.where(_wells(f, 0.3), np.inf, np.random.default_rng(0).normal(size=len(f))),
        "missing in too many rows",
    ),
}


@pytest.mark.parametrize("kind", SPOILING)
def test_a_spoilt_feature_costs_nothing(caplog, kind):
    caplog.set_level(logging.INFO)
    sound = plates.screen(effect=0.6)
    made, said = SPOILING[kind]
    spoilt = sound.assign(Nuclei_Spoilt=made(sound))
    expected = numbers(sound)
    assert "quality:" not in caplog.text
    assert numbers(spoilt) == expected
    assert f"1 of 25 features left out, {said}" in caplog.text and "Nuclei_Spoilt" in caplog.text
    (step,) = clean(spoilt).provenance["steps"]
    ((reason, names),) = step["features"].items()
    assert reason.startswith(said) and names == ["Nuclei_Spoilt"]
    assert step["limits"]["max_deviation"] == 500


def test_from_file_to_report(tmp_path):
    """The command leaves out, and says so in what it writes, and does not where it is told."""
    sound = plates.screen(effect=0.6)
    spoilt = sound.assign(Nuclei_Spoilt=SPOILING["mad_zero"][0](sound))
    found = {}
    for name, frame, flags in (
        ("sound", sound, []),
        ("spoilt", spoilt, []),
        ("off", spoilt, ["--quality", "off"]),
    ):
        frame.to_parquet(tmp_path / "p.parquet")
        words = ["--profiles", tmp_path / "p.parquet", "--out", tmp_path / name, *FLAGS, *flags]
        assert run_as_door(benchmark, words) == 0
        found[name] = json.loads((tmp_path / name / "benchmark.json").read_text())
    values = {name: one["consistency.mean_cosine"]["value"] for name, one in found.items()}
    assert values["spoilt"] == values["sound"] != values["off"]
    steps = {name: one["about"]["provenance"]["steps"] for name, one in found.items()}
    commands = {name: [step["command"] for step in one] for name, one in steps.items()}
    assert "quality" in commands["spoilt"]
    assert "quality" not in commands["sound"] + commands["off"]


@pytest.mark.parametrize(
    "kind, value",
    [("are all zeros", 0.0), ("are one number all over", -1.25), ("have no value at all", np.nan)],
)
def test_empty_wells_are_left_out(caplog, kind, value):
    caplog.set_level(logging.INFO)
    frame = plates.screen()
    empty = np.zeros(len(frame), bool)
    empty[200:224] = True
    features = plates.feature_names(24)
    spoilt = frame.copy()
    spoilt.loc[empty, features] = value
    found = clean(spoilt)
    assert len(found) == len(frame) - 24
    np.testing.assert_array_equal(found.features, profiles_of(frame[~empty]).features)
    assert (
        f"24 of 288 rows left out, as empty wells are: they {kind} (BR00000003 A09," in caplog.text
    )
    (step,) = found.provenance["steps"]
    assert step["rows"][kind]["count"] == 24 and "BR00000003 C08" in step["rows"][kind]["names"]
    assert numbers(spoilt) == numbers(frame[~empty])


def test_a_well_of_zeros_but_for_a_count():
    frame = plates.screen()
    frame.loc[[5, 50], plates.feature_names(24)[1:]] = 0
    found = clean(frame)
    assert len(found) == 286
    (kind,) = found.provenance["steps"][0]["rows"]
    assert kind == "are zeros in nearly all features"


def test_empty_wells_of_a_normalised_plate_are_copies():
    """Zeros less a median, over a deviation: the same row in each empty well of the plate."""
    frame = plates.screen()
    features = plates.feature_names(24)
    plate = frame["Metadata_Plate"] == "BR00000002"
    empty = plate & frame["Metadata_Well"].isin(["A01", "B02", "C03"])
    frame.loc[empty, features] = -frame.loc[plate, features].median().to_numpy()
    frame = frame.astype({name: np.float32 for name in features})
    found = clean(frame)
    assert (
        not (found.metadata["Metadata_Plate"] == "BR00000002")
        .eq(found.metadata["Metadata_Well"].isin(["A01", "B02", "C03"]))
        .all()
    )
    assert len(found) == len(frame) - 3
    # the same row in another plate, or of a map without wells, is left alone
    wells = profiles_of(frame)
    apart = cleaning.clean(
        wells,
        dataclasses.replace(BARE, plate="Metadata_Well", well="Metadata_Plate"),
        limits.QualityOptions(),
    )
    assert len(apart) == len(cleaning.clean(wells, BARE, limits.QualityOptions())) == len(frame)


def test_values_are_bounded_or_filled():
    """Against the definitions, in float64."""
    frame = plates.screen(dim=12)
    names = plates.feature_names(12)
    values = frame[names].to_numpy(np.float64)
    plate = np.repeat(np.arange(3), 96)
    centre = np.stack([np.median(values[plate == k], axis=0) for k in range(3)])[plate]
    spread = 1.4826 * np.median(np.abs(values - centre), axis=0)
    spoilt = frame.astype(dict.fromkeys(names, np.float64))
    spoilt.loc[100, names[0]] = centre[100, 0] + 3e4 * spread[0]
    spoilt.loc[101, names[0]] = centre[101, 0] - 600 * spread[0]
    spoilt.loc[5, names[1]] = 1e12
    spoilt.loc[200, names[2]] = np.nan
    spoilt.loc[250, names[3]] = -np.inf
    found = clean(spoilt)
    assert found.names == tuple(names)
    wrong = values.copy()
    wrong[[100, 101, 5, 200, 250], [0, 0, 1, 2, 3]] = np.nan  # medians of what is left, nearly
    wrong[100, 0], wrong[101, 0], wrong[5, 1] = 3e5, -3e5, 1e12
    centre = np.stack([np.nanmedian(wrong[plate == k], axis=0) for k in range(3)])[plate]
    distance = np.where(np.isnan(wrong), np.nan, wrong - centre)
    spread = 1.4826 * np.nanmedian(np.abs(distance), axis=0)
    size = np.abs(distance[:, 0])
    furthest = size[size <= 500 * spread[0]].max()
    expected = values.copy()
    expected[100, 0] = centre[100, 0] + furthest
    expected[101, 0] = centre[101, 0] - furthest
    expected[5, 1], expected[200, 2], expected[250, 3] = (
        centre[5, 1],
        centre[200, 2],
        centre[250, 3],
    )
    np.testing.assert_allclose(found.features, expected, rtol=1e-6)
    same = np.ones_like(values, bool)
    same[[100, 101, 5, 200, 250], [0, 0, 1, 2, 3]] = False
    np.testing.assert_array_equal(found.features[same], values.astype(np.float32)[same])
    (step,) = found.provenance["steps"]
    assert step["filled"]["values"] == 3 and set(step["filled"]["features"]) == set(names[1:4])
    assert step["bounded"] == {"values": 2, "features": [names[0]]}
    wide = clean(spoilt, max_deviation=np.inf)
    assert wide.features[5, 1] == np.float32(1e12)


def test_missing_values_as_told(caplog):
    caplog.set_level(logging.INFO)
    frame = plates.screen()
    names = plates.feature_names(24)
    many, few = names[3], names[4]
    frame.loc[:40, many] = np.nan  # of 288 rows
    frame.loc[:3, few] = np.inf
    assert set(names) - set(clean(frame).names) == {many}
    assert clean(frame, max_missing=0.2).names == tuple(names)
    assert set(names) - set(clean(frame, nan="drop_features").names) == {many, few}
    assert len(clean(frame, nan="drop_rows")) == 288 - 41
    message = (
        r"45 values are NaN or infinite: in 41 of 288 rows and 2 of 24 features \(most in"
        rf" '{many}'\)\..*`nan` fill.*`nan` drop_features.*`nan` drop_rows"
    )
    with pytest.raises(UserError, match=message):
        clean(frame, nan="error")
    for nan in ("fill", "drop_features", "drop_rows"):  # each is what the message offers
        assert np.isfinite(clean(frame, nan=nan).features).all()
    for row, name in enumerate(names):
        frame.loc[row * 10, name] = np.nan
    with pytest.raises(UserError, match=r"would leave nothing.*`nan` fill"):
        clean(frame, nan="drop_features")
    # a well that lacks most features is no well, and spoils no feature
    frame = plates.screen()
    frame.loc[::10, names[:20]] = np.nan
    found = clean(frame)
    assert len(found) == 288 - 29 and found.names == tuple(names)
    assert "29 of 288 rows left out, as empty wells are: they lack most features" in caplog.text


def test_a_well_out_of_bounds_spoils_no_feature():
    frame = plates.screen()
    names = plates.feature_names(24)
    frame.loc[17, names] = 1e12
    frame.loc[18, names] = 3e12 * np.arange(1, 25, dtype=np.float32)
    found = clean(frame)
    assert found.names == tuple(names) and len(found) == 286
    assert found.provenance["steps"][0]["rows"]["are out of bounds in most features"]["count"] == 1
    assert found.provenance["steps"][0]["rows"]["are one number all over"]["count"] == 1


@pytest.mark.parametrize("times, plus", [(65535.0, 0.0), (1 / 65535, 3.0), (1e12, 7e5)])
def test_a_plate_in_other_units_stays(caplog, times, plus):
    frame = plates.screen()
    right = numbers(frame)
    names = [name for name in frame if not name.startswith("Metadata_")]
    other = (frame["Metadata_Plate"] == frame["Metadata_Plate"].iloc[-1]).to_numpy()
    frame[names] = frame[names].astype(np.float64)
    frame.loc[other, names] = frame.loc[other, names] * times + plus
    with caplog.at_level(logging.WARNING, "phenomjax"):
        found = clean(frame)
    assert found.features.shape == (len(frame), len(names)) and "steps" not in found.provenance
    assert "is batch BR00000003 in other units? 24 of 24 features" in caplog.text
    np.testing.assert_allclose(numbers(frame), right, atol=2e-3)


def test_controls_unlike_the_others_are_told_and_left_out_as_offered(tmp_path, caplog):
    frame = plates.screen()
    names = [name for name in frame if not name.startswith("Metadata_")]
    far = np.flatnonzero((frame["Metadata_Plate"] == "BR00000002") & frame.eval(plates.NEGCON))[:3]
    frame.loc[far, names] += 40.0
    frame.to_parquet(tmp_path / "wells.parquet")
    words = ["--profiles", tmp_path / "wells.parquet", "--out", tmp_path / "out.parquet"]
    run_as_door(align_command, words)
    (said,) = (m for m in caplog.messages if m.startswith("controls: "))
    assert "3 of 24 negative controls of batch BR00000002 are far" in said
    caplog.clear()
    run_as_door(align_command, [*words, "--where", said.split("--where '")[1].removesuffix("'")])
    assert "controls: " not in caplog.text
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == len(frame) - 3


def test_sound_tables_are_not_touched(caplog):
    """Nor is what was aligned, nor a table that is sparse by nature."""
    frame = plates.screen()
    profiles = profiles_of(frame)
    assert cleaning.clean(profiles, TOLD, limits.QualityOptions()) is profiles
    half = dataclasses.replace(profiles, features=np.maximum(profiles.features, 0))  # of a ReLU
    cleaning.clean(half, TOLD, limits.QualityOptions())
    sparse = dataclasses.replace(profiles, features=np.maximum(profiles.features - 1.3, 0))
    tell_far_controls(half, TOLD)
    tell_far_controls(sparse, TOLD)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    frame["Nuclei_Flat"] = 0.5
    aligned = profiles_of(frame).after("align", method="center_scale")
    assert cleaning.clean(aligned, TOLD, limits.QualityOptions()) is aligned
    joined = Profiles(
        aligned.features,
        aligned.metadata,
        aligned.names,
        {"steps": [{"command": "concatenate", "of": [aligned.provenance["steps"]]}]},
    )
    assert cleaning.clean(joined, TOLD, limits.QualityOptions()) is joined
    few = np.random.default_rng(0).random((200, 30)) < 0.03
    few[:, 0] = True
    few[:, 0] &= np.arange(200) % 2 == 0
    sparse = Profiles(
        few.astype(np.float32),
        pd.DataFrame({"perturbation": [f"g{k}" for k in range(200)]}),
        tuple(f"feature_{k}" for k in range(30)),
    )
    found = cleaning.clean(sparse, BARE, limits.QualityOptions())
    assert found.features.shape[1] == 30


def test_blocks_and_samples_change_nothing(monkeypatch):
    frame = plates.screen()
    names = plates.feature_names(24)
    frame.loc[3, names[2]] = 1e9
    frame.loc[7, names[5]] = np.nan
    frame.loc[11, names] = 0
    frame["Nuclei_Flat"] = 1.0
    whole = clean(frame)
    monkeypatch.setattr(scratch, "BLOCK_VALUES", 100)
    parts = clean(frame)
    np.testing.assert_array_equal(parts.features, whole.features)
    assert parts.provenance == whole.provenance and parts.names == whole.names
    monkeypatch.setattr(checks, "SAMPLE", 150)
    sampled = clean(frame)
    assert sampled.names == whole.names
    np.testing.assert_allclose(sampled.features, whole.features, rtol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_missing": 5.0}, r"`max_missing` is 5; it is a share of the rows, from 0 to 1"),
        ({"max_deviation": 0.0}, r"`max_deviation` is 0; it must be above 0"),
        ({"max_deviation": np.nan}, r"`max_deviation` is nan; it must be above 0"),
        ({"min_spread": 1.0}, r"`min_spread` is 1; it must be at least 0"),
    ],
)
def test_bounds_that_make_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        clean(plates.screen(), **options)


def test_nothing_left():
    frame = plates.screen()
    names = plates.feature_names(24)
    frame[names] = 0.0
    with pytest.raises(
        UserError, match=r"None of the 288 rows is a measurement: 288 are all zeros"
    ):
        clean(frame)
    frame[names] = np.arange(24) + 0.5
    with pytest.raises(UserError, match=r"288 are the same in every feature.*`quality` off"):
        clean(frame)
    one = profiles_of(frame[["Metadata_Plate", names[0]]])
    with pytest.raises(UserError, match=r"None of the 1 features.*1 constant.*`quality` off"):
        cleaning.clean(one, BARE, limits.QualityOptions())
    assert clean(frame, quality="off").features.shape == (288, 24)
    frame = plates.screen()
    holes = np.random.default_rng(0).random((288, 24)) < 0.15
    frame[names] = frame[names].mask(holes)
    for quality in ("on", "off"):  # the mend that is offered works
        with pytest.raises(UserError, match=r"24 missing in too many.*table; `max_missing` 1 fill"):
            clean(frame, quality=quality)
    found = clean(frame, max_missing=1.0)
    assert found.features.shape == (288, 24) and np.isfinite(found.features).all()


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "case, share, siblings", [("01_mad_zero", 0.754, 0.208), ("06_empty_zero", 0.738, 0.231)]
)
def test_spoilt_plates(shared, tmp_path, case, share, siblings):
    """CPJUMP1, 60 features. The numbers of the second are those of the sound table without the 96
    wells that are zeros (65 of compounds, of one plate).
    """
    path = shared.parent / "cases" / "profiles" / f"{case}.parquet"
    words = ["--profiles", path, "--out", tmp_path, *FLAGS, "--draws", 2000]
    assert run_as_door(benchmark, words) == 0
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert found["consistency.share_p05"]["value"] == pytest.approx(share, abs=0.01)
    assert found["sibling.recall"]["value"] == pytest.approx(siblings, abs=0.01)
