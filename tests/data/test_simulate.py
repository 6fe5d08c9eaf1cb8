"""The simulated screen: pure functions of the settings, restartable, and a truth that the images
really show.
"""

import dataclasses
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from phenomjax.data.images import bank, opening
from phenomjax.data.images.metadata import METADATA_SCHEMA
from phenomjax.data.simulated import cells
from phenomjax.data.simulated import write_screen as simulated_write_screen
from phenomjax.data.simulated.screen import Screen, hill, well_name
from phenomjax.data.simulated.screen_config import ADDED, plate_layout
from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
from phenomjax.prepare import simulate as command
from phenomjax.system.errors import UserError
from phenomjax.system.options import parse
from tests.lab import toy_units

SMALL = {
    "num_plates": 2,
    "wells_per_plate": 12,
    "field_px": 64,
    "cell_radius": 10.0,
    "num_single_genes": 2,
}
SMALL |= {"num_complexes": 2, "genes_per_complex": 2, "num_compounds": 2, "num_doses": 3}


def files(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_field_is_a_pure_function_of_its_place():
    config = SimulationConfig(**SMALL)
    forward = [Screen(config).field(*place) for place in ((0, 0, 0), (1, 5, 0), (1, 5, 1))]
    screen = Screen(config)
    backward = [screen.field(*place) for place in ((1, 5, 1), (1, 5, 0), (0, 0, 0))][::-1]
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(forward[1], forward[2])  # sites differ
    assert not np.array_equal(forward[0], Screen(SimulationConfig(seed=1, **SMALL)).field(0, 0, 0))


@pytest.mark.parametrize(
    ("bit_depth", "dtype", "low", "high"), [(8, np.uint8, 64, 255), (16, np.uint16, 4096, 30000)]
)
def test_field_dtype_and_range(bit_depth, dtype, low, high):
    field = Screen(SimulationConfig(bit_depth=bit_depth, **SMALL)).field(0, 1, 0)
    assert field.shape == (64, 64, 6) and field.dtype == dtype
    assert low < np.percentile(field, 99.5) <= high
    assert (field == np.iinfo(dtype).max).mean() < 0.01


def test_parts_of_a_cell_are_where_they_belong():
    # An untreated, noiseless field: DNA and nucleoli inside nuclei, ER and mitochondria around
    # them.
    ideal = cells.draw_field(
        np.random.default_rng(0),
        256,
        np.zeros(len(cells.AXES)),
        confluence=0.7,
        cell_radius=26.0,
        variation=0.0,
    )
    dna, er, actin, rna, mito, golgi = ideal
    nucleus, cell = dna > 0.5, rna > 0.1
    assert 0.04 < nucleus.mean() < 0.3 and 0.3 < cell.mean() < 0.95
    cytoplasm = cell & ~nucleus
    for stain in (er, mito, golgi):
        assert np.percentile(stain[cytoplasm], 80) > 1.5 * np.median(stain[nucleus])
    assert actin[cell].mean() > 10 * actin[~cell].mean()
    assert np.percentile(rna[nucleus], 99) > 2 * np.median(rna[nucleus])  # nucleoli


def test_phenotype_axes_change_what_they_are_named_after():
    def draw(**shift):
        phenotype = np.array([shift.get(axis, 0.0) for axis in cells.AXES])
        settings = {"confluence": 0.7, "cell_radius": 26.0, "variation": 0.3}
        return cells.draw_field(np.random.default_rng(3), 256, phenotype, **settings)

    plain = draw()
    assert (draw(nucleus_size=2)[0] > 0.4).mean() > 1.3 * (plain[0] > 0.4).mean()
    assert draw(er_intensity=2)[1].mean() > 1.4 * plain[1].mean()
    assert draw(actin_cortex=2)[2].mean() > 1.3 * plain[2].mean()
    assert draw(mito_intensity=-2)[4].mean() < 0.7 * plain[4].mean()
    assert draw(golgi_intensity=2)[5].std() > 1.2 * plain[5].std()
    assert (draw(cell_count=-3)[3] > 0.1).mean() < 0.8 * (plain[3] > 0.1).mean()


def test_layout_controls_and_truth():
    config = SimulationConfig()
    screen = Screen(config)
    table = screen.metadata()
    assert table.schema == METADATA_SCHEMA and table.num_rows == config.num_images == 384
    rows = table.to_pylist()
    for plate in ("P01", "P04"):
        controls = [r["perturbation"] for r in rows if r["plate"] == plate and r["is_control"]]
        assert controls.count("DMSO") == controls.count("non_targeting") == config.num_controls // 2
    assert {r["perturbation_type"] for r in rows} == {"control", "crispr", "compound"}
    treatments = [(r["perturbation"], r["concentration"]) for r in rows if not r["is_control"]]
    counts = [treatments.count(t) for t in set(treatments)]
    assert len(counts) == config.num_treatments and max(counts) - min(counts) <= 1
    assert [r["well"] for r in rows[:2]] == ["A01", "A02"] and rows[95]["well"] == "H12"

    genes = screen.genes.to_pylist()
    assert len(genes) == config.num_genes == 40
    assert screen.relationships.num_rows == 6 * 6  # 6 complexes of 4: 6 pairs each
    complexes = {g["gene"]: g["complex"] for g in genes}
    assert all(
        complexes[p["entity1"]] == complexes[p["entity2"]] == p["complex"]
        for p in screen.relationships.to_pylist()
    )
    silent = [g for g in genes if g["effect_size"] == 0]
    assert 3 <= len(silent) <= 13 and all(g["complex"] is None for g in silent)
    assert all((g["zfpkm"] < -3) == (not g["expressed"]) for g in genes)
    vectors = {
        r["name"]: np.array([r[axis] for axis in cells.AXES]) for r in screen.phenotypes.to_pylist()
    }
    for pair in screen.relationships.to_pylist():
        one, other = vectors[pair["entity1"]], vectors[pair["entity2"]]
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.6


def test_dose_response_follows_hill():
    assert hill(2.0, 2.0, 1.5) == pytest.approx(0.5)
    assert hill(0.0, 2.0, 1.5) == 0.0
    screen = Screen(SimulationConfig())
    compound = screen.compounds.to_pylist()[0]
    lengths = [
        np.linalg.norm(screen.phenotype(t))
        for t in screen.treatments
        if t.perturbation == compound["compound"]
    ]
    assert lengths == sorted(lengths) and lengths[0] < 0.1 * lengths[-1]


def test_well_names_and_plates():
    assert plate_layout(96) == (8, 12) and plate_layout(97) == (16, 24)
    assert (
        well_name(0, 384) == "A01"
        and well_name(383, 384) == "P24"
        and well_name(1535, 1536) == "AF48"
    )


# What simple statistics of the images say; fixed seeds, thresholds far from what was measured.


def statistics(image):
    flat = image.reshape(-1, image.shape[-1]).astype(np.float64)
    edges = np.abs(np.diff(image.astype(np.float64), axis=0)).mean((0, 1))
    correlation = np.corrcoef(flat.T)[np.triu_indices(flat.shape[1], 1)]
    spread = flat.std(0)
    return np.concatenate(
        [
            np.log(flat.mean(0)),
            np.log(spread),
            np.log(np.percentile(flat, 99, axis=0)),
            edges / spread,
            correlation,
        ]
    )


class Measured:
    """Statistics of all fields of a screen, standardised on the controls of each plate, averaged by
    treatment.
    """

    def __init__(self, **settings):
        self.screen = Screen(
            SimulationConfig(field_px=96, cell_radius=11.0, sites_per_well=1, **settings)
        )
        config = self.screen.config
        places = [self.screen.place(i) for i in range(config.num_images)]
        self.raw = np.array([statistics(self.screen.field(*place)) for place in places])
        self.plate = np.array([plate for plate, _, _ in places])
        treatments = [self.screen.layout(plate)[well] for plate, well, _ in places]
        self.control = np.array([t.is_control for t in treatments])
        scaled = np.empty_like(self.raw)
        for plate in range(config.num_plates):
            rows = self.plate == plate
            controls = self.raw[rows & self.control]
            scaled[rows] = (self.raw[rows] - controls.mean(0)) / controls.std(0)
        self.mean = {
            t: scaled[[i for i, u in enumerate(treatments) if u == t]].mean(0)
            for t in set(treatments)
        }
        self.genes = {t.gene: vector for t, vector in self.mean.items() if t.gene}


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def share_greater(some, others):
    return np.mean([np.mean(value > np.array(others)) for value in some])


@pytest.fixture(scope="module")
def measured():
    return Measured(
        num_plates=4, num_single_genes=8, num_compounds=4, num_doses=5, inactive_fraction=0.6
    )


def test_members_of_a_complex_look_alike(measured):
    related = {(p["entity1"], p["entity2"]) for p in measured.screen.relationships.to_pylist()}
    names = sorted(measured.genes)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    within = [cosine(measured.genes[a], measured.genes[b]) for a, b in pairs if (a, b) in related]
    between = [
        cosine(measured.genes[a], measured.genes[b]) for a, b in pairs if (a, b) not in related
    ]
    assert share_greater(within, between) > 0.85
    assert np.mean(within) > np.mean(between) + 0.3


def test_genes_without_effect_look_like_controls(measured):
    effects = {g["gene"]: g["effect_size"] for g in measured.screen.genes.to_pylist()}
    silent = [np.linalg.norm(v) for gene, v in measured.genes.items() if effects[gene] == 0]
    active = [np.linalg.norm(v) for gene, v in measured.genes.items() if effects[gene] > 2]
    assert len(silent) >= 3 and np.median(active) > 1.8 * np.median(silent)


def test_compounds_mimic_their_gene_in_the_order_of_dose(measured):
    orders, top = [], []
    for compound in measured.screen.compounds.to_pylist():
        direction = measured.genes[compound["target_gene"]]
        rows = [
            (t.concentration, v)
            for t, v in measured.mean.items()
            if t.perturbation == compound["compound"]
        ]
        rows.sort(key=lambda row: row[0])
        along = [v @ direction / np.linalg.norm(direction) for _, v in rows]
        assert np.mean(along[-2:]) > np.mean(along[:2]), compound
        orders.append(np.corrcoef(np.arange(len(along)), np.argsort(np.argsort(along)))[0, 1])
        top.append(cosine(rows[-1][1], direction))
    assert np.mean(orders) > 0.7  # Spearman's correlation with dose, mean over compounds
    assert np.mean(top) > 0.6


def test_plates_differ_unless_told_otherwise(measured):
    def spread_of_plates(screen):
        groups = [
            screen.raw[screen.control & (screen.plate == p)]
            for p in range(screen.screen.config.num_plates)
        ]
        return np.median(
            np.std([g.mean(0) for g in groups], axis=0)
            / np.mean([g.std(0) for g in groups], axis=0)
        )

    none = Measured(num_plates=3, wells_per_plate=24, batch_effect=0.0, control_fraction=1.0)
    assert spread_of_plates(measured) > 0.45 > 2 * spread_of_plates(none) - 0.2


def test_proximity_bias_can_be_switched_on():
    def within_arms(arm_bias):
        settings = {
            "num_complexes": 0,
            "num_single_genes": 24,
            "inactive_fraction": 1.0,
            "num_compounds": 0,
        }
        screen = Measured(num_plates=2, num_arms=4, arm_bias=arm_bias, **settings)
        arm = {g["gene"]: g["arm"] for g in screen.screen.genes.to_pylist()}
        names = sorted(screen.genes)
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        same = [cosine(screen.genes[a], screen.genes[b]) for a, b in pairs if arm[a] == arm[b]]
        other = [cosine(screen.genes[a], screen.genes[b]) for a, b in pairs if arm[a] != arm[b]]
        return share_greater(same, other)

    assert within_arms(2.0) > 0.8
    assert 0.4 < within_arms(0.0) < 0.6


# The bank.


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("screen") / "one.zarr"
    write_screen(path, SimulationConfig(**SMALL), jobs=1)
    return path


def test_bank_and_truth(written):
    config = SimulationConfig(**SMALL)
    opened = opening.open_bank(written)
    assert opened.shape == (24, 64, 64, 6) and opened.channels == cells.CHANNELS
    assert opened.attributes["simulation"]["num_plates"] == 2
    np.testing.assert_array_equal(opened.read(13), Screen(config).field(1, 1, 0))
    assert opened.metadata.equals(Screen(config).metadata())
    for name in simulated_write_screen.TRUTH:
        assert pq.read_table(written / "truth" / f"{name}.parquet").equals(
            getattr(Screen(config), name)
        )


def test_parallel_processes_write_the_same_bytes(written, tmp_path):
    write_screen(tmp_path / "two.zarr", SimulationConfig(**SMALL), jobs=3)
    assert files(tmp_path / "two.zarr") == files(written)


def test_interrupted_screen_is_continued_and_finished_one_reused(written, tmp_path, caplog):
    copy = tmp_path / "copy.zarr"
    shutil.copytree(written, copy)
    (copy / "metadata.parquet").unlink()
    kept = bank.shard_path(copy, 0).stat().st_mtime_ns
    for index in (3, 4, 17):
        bank.shard_path(copy, index).unlink()
    caplog.set_level(logging.INFO, "phenomjax")
    write_screen(copy, SimulationConfig(**SMALL), jobs=1)
    assert files(copy) == files(written)
    assert bank.shard_path(copy, 0).stat().st_mtime_ns == kept
    assert "continuing, 21 of 24 images were finished before" in caplog.text
    write_screen(copy, SimulationConfig(**SMALL))
    assert "is there with the same settings (24 images): reused" in caplog.text


def test_other_settings_are_named(written):
    with pytest.raises(
        UserError, match=r"other settings: seed = 0 \(now 5\), photons = 2000.0 \(now 500.0\)"
    ):
        write_screen(written, SimulationConfig(seed=5, photons=500.0, **SMALL))


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(
        UserError, match="exists and is not a simulated screen; nothing was written"
    ):
        write_screen(tmp_path, SimulationConfig(**SMALL))
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_screen_of_another_version(written, tmp_path):
    copy = tmp_path / "old.zarr"
    shutil.copytree(written, copy)
    group = json.loads((copy / "zarr.json").read_text())
    group["attributes"]["phenomjax"]["simulation"]["version"] = 0
    (copy / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(UserError, match="of version 0, this phenomjax draws version 1"):
        write_screen(copy, SimulationConfig(**SMALL))


def test_settings_of_a_later_phenomjax(written, tmp_path):
    copy = tmp_path / "new.zarr"
    shutil.copytree(written, copy)
    group = json.loads((copy / "zarr.json").read_text())
    group["attributes"]["phenomjax"]["simulation"]["scratches"] = 3
    (copy / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(UserError, match=r"does not know: scratches\. A newer one made it"):
        write_screen(copy, SimulationConfig(**SMALL))


def test_a_process_that_dies_is_replaced(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(simulated_write_screen, "_draw", toy_units.draw_or_die)
    write_screen(tmp_path / "x.zarr", SimulationConfig(**SMALL), jobs=2)
    assert caplog.text.count("1 is tried again: its process was killed by SIGKILL") == 1


def test_failing_process_is_reported(tmp_path, monkeypatch):
    message = "RESOURCE_EXHAUSTED: no space"
    monkeypatch.setattr(bank, "write_image", lambda *_: (_ for _ in ()).throw(ValueError(message)))
    with pytest.raises(UserError, match=f"{message}. Finished images are kept"):
        write_screen(tmp_path / "x.zarr", SimulationConfig(**SMALL), jobs=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_plates": 0}, "num_plates must be at least 1, not 0"),
        ({"bit_depth": 12}, "bit_depth must be 8 or 16, not 12"),
        ({"field_px": 16}, "field_px must be at least 32"),
        ({"field_px": 64, "cell_radius": 65.0}, "are larger than a field of field_px 64."),
        ({"effect_size": 0.0}, "Set num_compounds to 0, or effect_size above 0."),
        ({"wells_per_plate": 2000}, "at most 1536 wells"),
        ({"num_arms": 99}, "there are 41 chromosome arms"),
        ({"complex_similarity": 1.5}, "a share from 0 to 1"),
        ({"arm_bias": -1.0}, "arm_bias must be at least 0"),
        ({"first_plate": 3}, "plates_per_experiment 2 plates; give 4"),
        ({"dead_fraction": 1.5}, "dead_fraction is a share from 0 to 1"),
        ({"dead_fraction": 0.6, "empty_fraction": 0.5}, "together they are 1.1, more than 1"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(UserError, match=message):
        SimulationConfig(**settings)


FLAT = SMALL | {"plates_per_experiment": 1, "batch_effect": 0.0, "staining_variation": 0.0}


def test_staining_shift_is_one_of_the_experiment_that_no_scaling_takes_back():
    still, moved = (Screen(SimulationConfig(staining_shift=s, **FLAT)) for s in (0.0, 1.0))
    again = Screen(SimulationConfig(staining_shift=1.0, **FLAT | {"plates_per_experiment": 2}))
    truth = moved.plates.to_pandas().drop(columns=["plate", "experiment"])
    assert not truth.iloc[0].equals(truth.iloc[1])  # experiments differ
    same = again.plates.to_pandas().drop(columns=["plate", "experiment"])
    assert same.iloc[0].equals(same.iloc[1])  # plates of one do not
    assert not {"photons", "gamma_ConA", "bleed_ConA_WGA"} & set(still.plates.column_names)
    one, other = (screen.field(0, 5, 0).astype(float).reshape(-1, 6) for screen in (still, moved))
    fitted = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(one.T, other.T, strict=True)])
    assert (fitted < 0.99).any() and (fitted > 0.2).all()  # the same cells, otherwise stained
    bleed = [truth["bleed_Hoechst_ConA"][0], truth["bleed_ConA_Hoechst"][0]]
    optics = moved._optics[0]
    assert [optics.bleed[1, 0], optics.bleed[0, 1]] == bleed and optics.bleed[0, 2] == 0
    white = dataclasses.replace(
        optics, gamma=np.full(6, 2.0), bleed=None, blur=0.0, photons=1e12, gain=np.ones(6),
        background=np.zeros(6), illumination=np.zeros((6, 5)),
    )  # fmt: skip
    flat = cells.photograph(np.random.default_rng(0), np.full((6, 64, 64), 0.5), white, 16)
    assert np.ptp(flat) > 0 and set(np.unique(flat)) == set(
        np.rint(cells.FULL_SCALE * 64 * 0.5**2).astype(int)
    )


def test_defects_are_in_the_images_that_the_truth_lists(tmp_path):
    shares = {"out_of_focus": 0.3, "empty": 0.2, "dead": 0.2, "saturated": 0.2}
    settings = SMALL | {
        "wells_per_plate": 48,
        "sites_per_well": 2,
        "field_px": 96,
        "cell_radius": 16.0,
    }
    planted = {f"{name}_fraction": share for name, share in shares.items()}
    for bit_depth, limit in ((8, 255), (16, 2**14 - 1)):
        config = SimulationConfig(bit_depth=bit_depth, **settings, **planted)
        screen, sound = (
            Screen(config),
            Screen(dataclasses.replace(config, **dict.fromkeys(planted, 0.0))),
        )
        truth = screen.defects.to_pandas()
        assert sound.defects.num_rows == 0
        counts = truth["defect"].value_counts(normalize=True) * len(truth) / config.num_images
        assert all(abs(counts[name] - share) < 0.12 for name, share in shares.items())
        assert (
            truth.groupby(["plate", "well"])["defect"].agg(["nunique", "size"]).eq([1, 2]).all(None)
        )
        unlisted = next(i for i in range(config.num_images) if i not in set(truth["image"]))
        place = screen.place(unlisted)
        np.testing.assert_array_equal(screen.field(*place), sound.field(*place))
        for name, row in truth.groupby("defect").first().iterrows():
            place = screen.place(row["image"])
            bad, good = (one.field(*place).astype(float) for one in (screen, sound))
            steps = [
                np.abs(np.diff(x[..., 2], axis=0)).mean() / x[..., 2].std() for x in (bad, good)
            ]
            assert {
                "out_of_focus": steps[0] < 0.7 * steps[1],
                "empty": np.percentile(bad, 90) < 0.3 * np.percentile(good, 90),
                "dead": bad[..., 4].mean() < 0.6 * good[..., 4].mean(),
                "saturated": (bad == limit).mean() > 0.02 > (good == limit).mean(),
            }[name], (name, bit_depth)
    small = SimulationConfig(num_plates=1, wells_per_plate=12, field_px=32, empty_fraction=0.5)
    write_screen(tmp_path / "x.zarr", small, jobs=1)
    assert pq.read_table(tmp_path / "x.zarr/truth/defects.parquet").equals(Screen(small).defects)
    assert simulated_write_screen.read_config(tmp_path / "x.zarr") == small


def test_settings_that_came_later_leave_no_trace_where_they_are_off(written):
    stored = opening.open_bank(written).attributes["simulation"]
    assert not set(stored) & set(ADDED) and len(stored) == 27
    assert not (written / "truth/defects.parquet").exists()


def test_a_screen_of_later_plates_has_the_same_genes():
    whole = Screen(SimulationConfig(**SMALL | {"num_plates": 4}))
    later = Screen(SimulationConfig(first_plate=2, **SMALL))
    assert later.genes.equals(whole.genes) and later.phenotypes.equals(whole.phenotypes)
    assert later.plates.equals(whole.plates.slice(2))
    assert later.metadata().equals(whole.metadata().slice(24))
    assert later.place(13) == whole.place(37) == (3, 1, 0)
    np.testing.assert_array_equal(later.field(3, 1, 0), whole.field(3, 1, 0))


def test_every_experiment_gets_every_treatment_as_often():
    config = SimulationConfig(**SMALL | {"num_plates": 6, "plates_per_experiment": 2})
    table = Screen(config).metadata().to_pandas()
    counts = table[~table["is_control"]].groupby("experiment")[["perturbation", "concentration"]]
    counts = counts.value_counts(dropna=False)
    assert counts.groupby("experiment").size().eq(config.num_treatments).all()
    assert counts.max() - counts.min() <= 1
    assert table[table["is_control"]].groupby("experiment").size().eq(2 * config.num_controls).all()


def test_more_treatments_than_wells_is_said(tmp_path, caplog):
    write_screen(
        tmp_path / "tiny.zarr",
        SimulationConfig(num_plates=1, wells_per_plate=4, field_px=32),
        jobs=1,
    )
    assert "76 treatments but 2 wells for them: the last 74 do not occur" in caplog.text
    assert len(opening.open_bank(tmp_path / "tiny.zarr")) == 4


def test_command(tmp_path, caplog):
    flags = (
        "--plates 1 --wells 6 --field-px 48 --num-complexes 1 --genes-per-complex 2"
        " --num-single-genes 0 --num-compounds 1 --num-doses 1"
    )
    caplog.set_level(logging.INFO, "phenomjax")
    assert (
        command.run(
            parse(
                command.options_of("cells"),
                ["--out", str(tmp_path / "s.zarr"), "--jobs", "1", *flags.split()],
                "simulate",
                "",
            )
        )
        == 0
    )
    assert opening.open_bank(tmp_path / "s.zarr").shape == (6, 48, 48, 6)
    assert "6 images of 48 x 48 x 6, uint8" in caplog.text


@pytest.mark.slow
def test_killed_screen_is_continued_to_the_same_bytes(tmp_path):
    settings = SMALL | {"field_px": 160, "wells_per_plate": 24}
    code = (
        "import sys; from phenomjax.data.simulated.write_screen import *; write_screen(sys.argv[1],"
        " SimulationConfig(**eval(sys.argv[2])), jobs=2)"
    )
    path = tmp_path / "killed.zarr"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), repr(settings)], start_new_session=True
    )
    while not any(path.glob("images/c.*")):
        time.sleep(0.02)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (path / "metadata.parquet").exists()
    write_screen(path, SimulationConfig(**settings), jobs=2)
    write_screen(tmp_path / "straight.zarr", SimulationConfig(**settings), jobs=1)
    assert files(path) == files(tmp_path / "straight.zarr")
