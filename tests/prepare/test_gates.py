"""Measures of pixels by what is known of made-up fields, and gates by defects that were planted."""

import dataclasses
import threading
import types

import imagecodecs
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from phenomjax.data.images import bank as image_bank
from phenomjax.data.images.bank import write_bank
from phenomjax.data.images.opening import open_bank
from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
from phenomjax.engine.options import EngineOptions
from phenomjax.prepare.curate.pixels import figures, gates, limits, measure
from phenomjax.prepare.curate.pixels import image as of_image
from phenomjax.prepare.curate.pixels.limits import GateOptions
from phenomjax.system.errors import UserError

CHANNELS = ("DNA", "ER", "AGP")
SIZE = 96
NAMES = measure.columns_of(CHANNELS)
JUDGE, SETTINGS = GateOptions(), measure.Settings()


def field(seed, *, cells=14, blur=1.0, gain=1.0, dtype=np.uint8, size=SIZE):
    """Nuclei apart from each other, each in a larger textured cell, then noise."""
    random = np.random.default_rng(seed)
    image = np.zeros((3, size, size))
    places = [(y, x) for y in range(12, size, 24) for x in range(12, size, 24)]
    y, x = np.mgrid[:size, :size]
    for number in random.permutation(len(places))[:cells]:
        far = np.hypot(
            *(
                at - place - random.uniform(-5, 5)
                for at, place in zip((y, x), places[number], strict=True)
            )
        )
        image[0] += 70 * (far < random.uniform(4, 5)) * random.uniform(0.8, 1.2)
        image[1] += 60 * (far < 10) * random.uniform(0.8, 1.2)
        image[2] += 80 * (np.abs(far - 9) < 2) * random.uniform(0.8, 1.2)
    image[1:] *= 1 + 0.3 * random.standard_normal((2, size, size))
    image = gain * ndimage.gaussian_filter(image, (0, blur, blur)) + 10
    image += 1.5 * random.standard_normal(image.shape)
    top = np.iinfo(dtype).max
    return (
        np.clip(np.rint(image * (1 if dtype == np.uint8 else 200)), 0, top).astype(dtype).T.copy()
    )


DEFECTS = {
    "empty": {"cells": 0},
    "out_of_focus": {"blur": 4.0},
    "saturated": {"gain": 8.0},
    "dead": {"cells": 2},
}


def plant(path, defects, *, experiments=3, plates=2, wells=16, dtype=np.uint8, change=None, **more):
    """A bank of experiments of plates whose first 6 wells are controls; `defects` {image: kind};
    `change` of (experiment, plate, well, settings of the field) changes these.
    """
    images, rows = [], []
    for experiment in range(experiments):
        for plate in range(plates):
            for well in range(wells):
                settings = dict(DEFECTS.get(defects.get(len(images), ""), {}))
                if change:
                    change(experiment, plate, well, settings)
                dark = settings.pop("dark", None)
                images.append(field([experiment, plate, well], dtype=dtype, **settings))
                if dark is not None:
                    noise = np.random.default_rng(well).normal(10, 1.5, (SIZE, SIZE))
                    images[-1][..., dark] = np.rint(noise)
                rows.append(
                    {
                        "experiment": f"E{experiment}",
                        "plate": f"P{experiment}{plate}",
                        "well": f"A{well + 1:02d}",
                        "is_control": well < 6,
                    }
                )
    table = pd.DataFrame(rows).assign(**more)
    write_bank(path, images, pa.Table.from_pandas(table, preserve_index=False), CHANNELS, chunk=32)
    return open_bank(path)


def measured(bank, path, settings=SETTINGS, banks=()):
    """Measures of a bank, in this process."""
    engine = EngineOptions(jobs=1)
    return measure.run([bank, *banks], path, settings, engine, threading.Event())


def judged(bank, path, options=JUDGE):
    """What the gates say, by names of reasons."""
    found = gates.judge(measured(bank, path), [bank], options)
    return np.array(gates.REASONS)[found.codes], found


def of(image, nuclear=0):
    """Measures of an image, by name."""
    return dict(zip(NAMES, of_image.measures_of(image, nuclear, 30).tolist(), strict=True))


def test_measures_are_those_of_what_was_drawn():
    random = np.random.default_rng(0)
    noise = random.normal(100, 5, (256, 256, 3))
    found = of(np.rint(noise).astype(np.uint8))
    # the 0.5th and the 99.5th percentile of a normal are 2.576 standard deviations away
    assert found["contrast/DNA"] == pytest.approx(2 * 2.576, rel=0.05)
    assert found["background/DNA"] == pytest.approx(100 - 5 * 2.576, abs=1)
    assert (found["cells"], found["covered"]) == (0, 0) and found["saturated/ER"] < 0.01
    drawn = field(1, cells=9)
    found = of(drawn)
    assert found["cells"] == 9
    assert found["covered"] == pytest.approx(9 * np.pi * 4.8**2 / SIZE**2 * 100, rel=0.1)
    # what lies on the largest value in a heap is saturated, also below the largest of the type
    clipped = np.minimum(drawn, 60)
    share = 100 * (clipped[..., 1] == 60).mean()
    assert share > 5 and of(clipped)["saturated/ER"] == pytest.approx(share)
    # types that plates have which are read in place
    for kind, times in ((np.int16, 1), (np.uint32, 1000), (np.float32, 1e-3)):
        same = of(drawn.astype(kind) * kind(times))
        assert same["cells"] == 9 and same["sharpness/ER"] == pytest.approx(found["sharpness/ER"])
    constant = of(np.full((64, 64, 3), 7, np.uint16))
    assert constant["saturated/ER"] == 0 and constant["contrast/ER"] == 0
    assert np.isnan(constant["sharpness/ER"])
    assert np.isnan(of(drawn, None)["cells"])


@pytest.mark.parametrize("slope", [-2.0, -3.0, -4.0])
@pytest.mark.parametrize("size", [(200, 130), (300, 520)])
def test_sharpness_is_the_slope_of_the_spectrum(slope, size):
    random = np.random.default_rng(1)
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None])
    frequency[0, 0] = np.inf
    plane = np.fft.irfft2(
        np.fft.rfft2(random.standard_normal(size)) * frequency ** (slope / 2), size
    )
    plane = 20000 + 3000 * plane / plane.std()
    for noise in (0, 30):  # which a plain slope would take for sharpness
        values = np.rint(plane + noise * random.standard_normal(plane.shape)).astype(np.uint16)
        assert of_image.sharpness(of_image.spectrum(values)) == pytest.approx(slope, abs=0.25)


@pytest.mark.shared_data
@pytest.mark.parametrize("after", [True, False], ids=["blurred picture", "blurred by the lens"])
def test_blurred_real_images_are_less_sharp_the_more_they_are(shared, after):
    folder = shared / "microscopy" / "images"
    names = (
        "bbbc022_A01_s2/IXMtest_A01_s2_w1AA6B1894-F561-42EE-9D1D-E21E5C741B75.png",
        "jump_BR00117006/r01c01f01p01-ch5sk1fk1fl1.tiff",
        "rxrx1_HEPG2-08_P1_B02/HEPG2-08_1_B02_w5.png",
        "nf1_plate2/B7_01_2_3_GFP_001.tif",
        "rxrx3_AA41_s1/AA41_s1_2.jp2",
    )
    for name in names:
        file = folder / name
        if file.suffix in (".tif", ".tiff"):
            plane = tifffile.imread(file)
        else:
            plane = imagecodecs.imread(file) if file.suffix == ".jp2" else Image.open(file)
        plane = np.asarray(plane, np.float64)[:512, :512]
        slopes = []
        for blur in (0.0, 1.0, 2.0, 3.0, 4.0):
            found = ndimage.gaussian_filter(plane, blur)
            if not after:  # light is blurred, and then the camera adds its noise
                deviation = np.sqrt(of_image.spectrum(plane).noise)
                found = found + deviation * np.random.default_rng(0).standard_normal(plane.shape)
            slopes.append(of_image.sharpness(of_image.spectrum(np.rint(found.clip(0)))))
        assert -5 < slopes[0] < -2, name
        assert (np.diff(slopes) < -0.1).all(), (name, slopes)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_planted_defects_are_dropped_for_what_they_are(tmp_path, dtype):
    kinds = [*DEFECTS] * 3
    defects = dict(zip(range(3, 96, 8), kinds, strict=True))  # of controls and of others
    bank = plant(tmp_path / "b.zarr", defects, dtype=dtype)
    said, found = judged(bank, tmp_path / "m.parquet")
    assert said.tolist() == [defects.get(image, "") for image in range(len(bank))]
    assert found.counts() == {"unreadable": 0} | dict.fromkeys(DEFECTS, 3)
    table = pd.DataFrame(found.limits)
    assert set(table["learnt_from"]) == {"experiment"} and (table["controls"] >= 10).all()
    for name in ("sharpness", "contrast", "cells", "covered"):
        one = table[table["measure"] == name]
        assert (one["limit"] < one["median"]).all()
    assert set(table.loc[table["measure"] == "cells", "unit"]) == {"nuclei / field"}
    assert table.groupby("measure")["beyond"].sum()["cells"] >= 6  # dead and empty ones
    assert len(found.table()) == 2 + 3 * 3 + 2
    assert found.table()[4].startswith("| saturated | DNA | % of the pixels | 0 | 2 | ")
    controls = limits.controls_of([bank])
    measures = measure.Measures(tmp_path / "m.parquet")
    figure = figures.limits_figure(measures, found, controls)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:2] == ["sharpness DNA", "sharpness ER"] and "covered" in titles
    sheet = figures.sheet([bank], found, controls)
    names = [axis.get_ylabel().split("\n")[0] for axis in sheet.axes]
    assert [n for n in names if n] == ["kept"] * 3 + [r for r in gates.REASONS[2:] for _ in "12"]
    nothing = gates.Judged(np.zeros(len(bank), np.uint8))
    assert figures.sheet([bank], nothing, controls) is None


def test_many_bad_controls_teach_the_limits_of_the_good_ones(tmp_path):
    # 8 of the 12 controls of E0, 3 of those of E1, and one image that is none
    blurred = [1, 2, 3, 4, 17, 18, 19, 20, 32, 33, 48, 77]
    bank = plant(tmp_path / "b.zarr", dict.fromkeys(blurred, "out_of_focus"), experiments=5)
    said, found = judged(bank, tmp_path / "m.parquet")
    assert np.flatnonzero(said).tolist() == blurred and set(said[blurred]) == {"out_of_focus"}
    (told,) = [line for line in found.told if "themselves" in line]
    assert "controls of E0 are out of focus themselves" in told
    _, patient = judged(bank, tmp_path / "m.parquet", GateOptions(focus_spreads=400))
    assert not any("themselves" in line for line in patient.told)


def test_an_experiment_out_of_focus_is_dropped_whole_and_alone_it_passes(tmp_path):
    def blur(experiment, plate, well, settings):
        if experiment == 1:
            settings["blur"] = 4.0

    bank = plant(tmp_path / "b.zarr", {}, change=blur)
    said, found = judged(bank, tmp_path / "m.parquet")
    assert (said == np.repeat(["", "out_of_focus", ""], 32)).all()
    text = " ".join(found.told)
    assert "The controls of E1 are out of focus themselves" in text
    assert "nearly all are out_of_focus in plate P10 of E1 (16 of 16 images), P11 of E1" in text
    table = pd.DataFrame(found.limits)
    of_e1 = table[(table["experiment"] == "E1") & (table["measure"] == "sharpness")]
    assert set(of_e1["learnt_from"]) == {"others"} and (of_e1["beyond"] == 32).all()
    # of another cell type it is compared with nothing, and that is told
    alone = plant(
        tmp_path / "c.zarr", {}, change=blur, cell_type=["A"] * 32 + ["B"] * 32 + ["A"] * 32
    )
    said, found = judged(alone, tmp_path / "c.parquet")
    assert not said.any() and "if all images of one are out of focus, they pass" in found.told[-1]


def test_a_channel_that_is_dead_on_one_plate(tmp_path):
    def unlit(experiment, plate, well, settings):
        if (experiment, plate) == (1, 0):
            settings["dark"] = 1

    bank = plant(tmp_path / "b.zarr", {}, change=unlit)
    said, found = judged(bank, tmp_path / "m.parquet")
    assert (np.flatnonzero(said == "empty") == np.arange(32, 48)).all() and set(said) == {
        "",
        "empty",
    }
    assert any(
        "channel ER shows nothing but noise in plate P10 of E1 (16 of 16" in line
        for line in found.told
    )

    # where no control shows anything in it, as of a reporter that is off, nothing is dropped for it
    def reporter(experiment, plate, well, settings):
        if well < 6:
            settings["dark"] = 1

    bank = plant(tmp_path / "c.zarr", {}, change=reporter)
    said, found = judged(bank, tmp_path / "c.parquet")
    assert not (said[~limits.controls_of([bank])]).any()
    assert any("Channel ER shows nothing but noise in the controls" in line for line in found.told)


def test_too_few_controls(tmp_path):
    few = np.tile(np.arange(16) < 6, 6)
    few[3:32] = False  # 3 of E0
    defects = {10: "out_of_focus", 40: "dead"}
    bank = plant(tmp_path / "b.zarr", defects, is_control=few)
    said, found = judged(bank, tmp_path / "m.parquet")
    assert {i: said[i] for i in np.flatnonzero(said)} == defects
    assert any("less than --min_controls 8: E0 (3): the other" in line for line in found.told)
    # all experiments have few: together they are enough, or they are not
    bank = plant(tmp_path / "c.zarr", defects, is_control=np.tile(np.arange(16) < 2, 6))
    said, found = judged(bank, tmp_path / "c.parquet")
    assert {i: said[i] for i in np.flatnonzero(said)} == defects
    assert {limit.learnt_from for limit in found.limits} == {"all"}
    said, found = judged(bank, tmp_path / "c.parquet", GateOptions(min_controls=13))
    assert not said.any() and "--limits images" in found.told[0]
    # what is offered
    said, _ = judged(bank, tmp_path / "c.parquet", GateOptions(min_controls=13, limits="images"))
    assert {i: said[i] for i in np.flatnonzero(said)} == defects
    assert judged(bank, tmp_path / "c.parquet", GateOptions(limits="all"))[0].tolist() == (
        said.tolist()
    )


def test_a_phenotype_that_looks_like_a_defect_is_told(tmp_path):
    names = np.tile([f"C{well}" if well > 5 else "DMSO" for well in range(16)], 6)
    defects = {16 * plate + 9: "dead" for plate in range(6)} | {7: "dead", 23: "saturated"}
    defects |= {16 * plate + 9: "out_of_focus" for plate in range(4, 6)}
    bank = plant(tmp_path / "b.zarr", defects, perturbation=names)
    said, found = judged(bank, tmp_path / "m.parquet")
    assert {i: said[i] for i in np.flatnonzero(said)} == defects
    told = [line for line in found.told if "Perturbations that lose" in line]
    assert len(told) == 1 and "as out_of_focus or dead: C9 (6 of 6" in told[0]
    assert "a larger --focus_spreads and --spreads keeps" in told[0]
    offered = GateOptions(spreads=20, focus_spreads=100)
    kept, _ = judged(bank, tmp_path / "m.parquet", offered)
    assert set(np.flatnonzero(kept)) <= {23}


def test_no_controls_at_all(tmp_path):
    bank = plant(tmp_path / "b.zarr", {10: "empty"}, is_control=None)
    assert gates.check(JUDGE, [bank]).all()
    for options in (JUDGE, GateOptions(limits="images")):
        said, _ = judged(bank, tmp_path / "m.parquet", options)
        assert np.flatnonzero(said).tolist() == [10]
    for name in ("spreads", "focus_spreads", "min_controls", "min_area", "saturated"):
        with pytest.raises(UserError, match=f"`{name}` must be .* default of"):
            gates.check(dataclasses.replace(JUDGE, **{name: -1}), [bank])


def test_measures_go_on_where_they_were(tmp_path, monkeypatch):
    bank = plant(tmp_path / "b.zarr", {}, experiments=1)
    other = plant(tmp_path / "c.zarr", {}, experiments=1, plates=1)
    whole = measured(bank, tmp_path / "whole.parquet", banks=[other])
    assert len(whole) == 48 and whole.channels == list(CHANNELS)
    expected = of_image.measures_of(other.read(3), 0, 30)[0]
    assert whole.column("sharpness/DNA")[35] == expected
    monkeypatch.setattr(measure, "UNIT_IMAGES", 10)
    read, seen = image_bank.ImageBank.read, []
    stop = threading.Event()

    def stops(self, index):
        seen.append(index)
        if len(seen) == 15:
            stop.set()
        return read(self, index)

    monkeypatch.setattr(image_bank.ImageBank, "read", stops)
    arguments = ([bank, other], tmp_path / "m.parquet", measure.Settings(), EngineOptions(jobs=1))
    assert measure.run(*arguments, stop) is None and len(seen) == 20
    with pytest.raises(UserError, match=r"begun with other settings.*`settings`"):
        measured(bank, tmp_path / "m.parquet", measure.Settings(min_area=40), [other])
    stop.clear()
    assert measure.run(*arguments, stop) is not None and len(seen) == 48
    before, after = (tmp_path / f"{name}.parquet" for name in ("whole", "m"))
    assert before.read_bytes() == after.read_bytes()
    assert measure.run(*arguments, stop) is not None and len(seen) == 48
    with pytest.raises(UserError, match=r"m\.parquet was measured .*the banks are others"):
        measured(bank, after)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet are no measures of images"):
        measured(bank, tmp_path / "x.parquet")


def test_images_that_cannot_be_read(tmp_path, caplog):
    bank = plant(tmp_path / "b.zarr", {}, experiments=1)
    for index in (5, 20):
        bank.shard_path(index).write_bytes(b"damaged")
    said, _ = judged(bank, tmp_path / "m.parquet")
    assert np.flatnonzero(said == "unreadable").tolist() == [5, 20]
    assert np.isnan(measure.Measures(tmp_path / "m.parquet").column("cells")[5])
    with caplog.at_level("WARNING", "phenomjax"):
        measured(bank, tmp_path / "m.parquet")
    assert "2 images could not be read when they were measured" in caplog.text
    for index in range(len(bank)):
        bank.shard_path(index).unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"32 of 32 images cannot be read\. The first: Image 0"):
        measured(bank, tmp_path / "n.parquet")


def test_channels_of_nuclei_and_banks_of_other_channels(tmp_path):
    table = pa.table({"experiment": ["E"] * 12, "is_control": [True] * 12})
    images = [field(i) for i in range(12)]
    write_bank(tmp_path / "b.zarr", images, table, ("w1", "w2", "w3"), chunk=32)
    write_bank(tmp_path / "c.zarr", [i[..., :1] for i in images], table, ("w2",), chunk=32)
    bank, other = (open_bank(tmp_path / f"{name}.zarr") for name in "bc")
    said, found = judged(bank, tmp_path / "m.parquet")
    assert not said.any() and any("name it with --nuclei" in line for line in found.told)
    with pytest.raises(UserError, match="`nuclei` w4: the bank has no such channel"):
        measured(bank, tmp_path / "n.parquet", measure.Settings("w4"))
    named = measured(bank, tmp_path / "n.parquet", measure.Settings("w1"))
    assert np.median(named.column("cells")) == 14
    both = measured(bank, tmp_path / "o.parquet", banks=[other])
    assert np.isnan(both.column("sharpness/w1")[12:]).all()
    assert not gates.judge(both, [bank, other], JUDGE).codes.any()


def test_a_reporter_that_is_off_beside_one_other_channel(tmp_path):
    images = [field(i)[..., :2] for i in range(12)]
    for image in images[:10]:
        image[..., 1] = np.random.default_rng(0).normal(10, 1.5, (SIZE, SIZE))
    images[11][:] = images[0][:, :, 1:]  # nothing in either
    table = pa.table({"experiment": ["E"] * 12, "is_control": [i < 10 for i in range(12)]})
    write_bank(tmp_path / "b.zarr", images, table, ("DNA", "GFP"), chunk=32)
    said, _ = judged(open_bank(tmp_path / "b.zarr"), tmp_path / "m.parquet")
    assert said.tolist() == [""] * 11 + ["empty"]


def test_units_of_nuclei():
    banks = [
        {"height": 100, "width": 200, "images": 2, "pixel_size_um": size} for size in (0.5, 2.0)
    ]
    known = types.SimpleNamespace(described={"banks": banks})
    unit, factor = gates.density(known)
    assert unit == "nuclei / mm²"
    np.testing.assert_allclose(1 / factor, [0.005, 0.005, 0.08, 0.08], rtol=1e-6)
    banks[0]["pixel_size_um"] = None
    assert gates.density(known)[0] == "nuclei / field"
    banks[0]["height"] = 50
    unit, factor = gates.density(known)
    assert unit == "nuclei / million pixels"
    np.testing.assert_allclose(1 / factor, [0.01, 0.01, 0.02, 0.02], rtol=1e-6)


def test_defects_of_a_simulated_screen_are_found(tmp_path):
    shares = {f"{name}_fraction": 0.05 for name in DEFECTS}
    config = SimulationConfig(
        num_plates=4, wells_per_plate=48, field_px=128, cell_radius=13.0, seed=2, **shares
    )
    write_screen(tmp_path / "b.zarr", config, 1)
    bank = open_bank(tmp_path / "b.zarr")
    said, _ = judged(bank, tmp_path / "m.parquet")
    truth = np.full(len(bank), "", said.dtype)
    planted = pd.read_parquet(bank.path / "truth" / "defects.parquet")
    truth[planted["image"]] = planted["defect"]
    assert (said[truth != ""] != "").mean() >= 0.95  # recall
    assert (truth[said != ""] != "").mean() >= 0.95  # precision
    for name in DEFECTS:
        assert (said[truth == name] == name).mean() >= 0.8, name
