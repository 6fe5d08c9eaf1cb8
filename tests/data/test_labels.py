"""Labelled images: what is a class, which rows make a part of a batch, each held-out image once,
official splits of RxRx1; every error with its mend.
"""

import ast
import itertools
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from phenomjax import config as configs
from phenomjax.data.images import opening
from phenomjax.data.images.bank import shard_path, write_bank
from phenomjax.data.images.labels import protocols, splits, training
from phenomjax.data.images.labels.screen import Screen
from phenomjax.data.images.loading.parts import EachOnce, PartOrder
from phenomjax.data.images.metadata import MetadataInMemory, conform_metadata
from phenomjax.prepare.images.metadata import Joiner, describe
from phenomjax.prepare.subsets import command as subset
from phenomjax.system.errors import UserError
from phenomjax.tasks.labelled_images import LabelledImages
from tests.data.test_loader import check_equal, collect
from tests.lab.doors import run_as_door

EXPERIMENTS = ("E1", "E2", "E3", "E4")


def rows_of(experiments=EXPERIMENTS, plates=2, wells=8, **columns):
    """One site a well; of each plate the first two wells are negative controls without a name, the
    third is a positive one, the others are g3, g4, ... E1 and E2 are of HUVEC.
    """
    rows = []
    for experiment in experiments:
        for plate in range(plates):
            for well in range(wells):
                rows.append(
                    {
                        "experiment": experiment,
                        "plate": str(plate + 1),
                        "well": f"A{well + 1:02}",
                        "site": "1",
                        "cell_type": "HUVEC" if experiment in ("E1", "E2") else "RPE",
                        "perturbation": None if well < 2 else f"g{well}",
                        "perturbation_type": "control" if well == 2 else "crispr",
                        "is_control": well < 2,
                    }
                    | {
                        name: value(experiment, plate, well) if callable(value) else value
                        for name, value in columns.items()
                    }
                )
    return rows


def write(path, rows, channels=("a", "b")):
    """A bank whose pixels are the number of the image."""
    images = (np.full((32, 32, len(channels)), number, np.uint8) for number in range(len(rows)))
    table = pa.Table.from_pylist(rows, schema=conform_metadata(pa.table({})).schema)
    write_bank(path, images, table, channels, chunk=16)
    return path


def config_of(*banks, **changes):
    c = configs.base("perturbation")
    c.data.banks, c.data.crop_size, c.data.threads = tuple(map(str, banks)), 32, 2
    c.global_batch_size, c.data.val_fraction = 8, 0.0
    for name, value in changes.items():
        c.update_from_flattened_dict({name.replace("__", "."): value})
    return c


def task_of(config, folder):
    return LabelledImages(LabelledImages.resolve(config, folder))


def mended(config, text, folder):
    """The task of a config with what an error offers: its flags, joined by spaces or nothing."""
    flags = re.findall(r"--config\.([\w.]+)=(\"[^\"]*\"|\S+?)(?=[,;.)]*(?:\s|$))", text)
    assert flags, text
    for key, value in flags:
        try:
            value = ast.literal_eval(value.strip('"'))
        except (ValueError, SyntaxError):
            value = value.strip("'")
        config.update_from_flattened_dict({key: value})
    return task_of(config, folder)


def experiments(loader, batch):
    return np.array(loader.labels.groups)[loader.labels.group[batch["image"]]]


# Order


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_part_is_of_one_experiment_and_an_epoch_has_each_image_once(tmp_path, parts):
    bank = write(tmp_path / "b.zarr", rows_of())
    task = task_of(config_of(bank, data__groups=parts), tmp_path)
    assert task.config.model.classes == ("g2", "g3", "g4", "g5", "g6", "g7", "control")
    assert task.config.model.cell_types == ("RPE", "HUVEC")
    loader = task.loader("train", 0, 1)
    assert loader.steps_per_epoch == 8 and loader.num_images == 64
    table = opening.open_bank(bank).metadata.to_pylist()
    orders = []
    for epoch in range(2):
        batches = [loader.batch(8 * epoch + step) for step in range(8)]
        for batch in batches:
            named = experiments(loader, batch)
            assert all(len(set(named[part::parts])) == 1 for part in range(parts))
            np.testing.assert_array_equal(batch["pixels"][:, 0, 0, 0], batch["image"])
            for image, label, cell in zip(
                batch["image"], batch["label"], batch["cell_type"], strict=True
            ):
                row = table[image]
                assert task.config.model.classes[label] == (row["perturbation"] or "control")
                assert task.config.model.cell_types[cell] == row["cell_type"]
        orders.append(np.concatenate([batch["image"] for batch in batches]).tolist())
        assert sorted(orders[-1]) == list(range(64))
    assert orders[0] != orders[1]
    turns = [experiments(loader, loader.batch(step))[0] for step in range(8 * 4)]
    assert turns[:8] != turns[8:16]


def test_the_same_for_any_threads_processes_and_start(tmp_path):
    bank = write(tmp_path / "b.zarr", rows_of())
    config = config_of(bank, data__groups=2, data__control_share=0.25, data__flip=True)
    task = task_of(config, tmp_path)
    straight = [task.loader("train", 0, 1).batch(step) for step in range(5)]
    for one, other in zip(straight[2:], collect(task.loader("train", 0, 1), 2, 5), strict=True):
        check_equal(one, other)
    halves = [task.loader("train", process, 2) for process in (0, 1)]
    for step in (0, 4):
        parts = [loader.batch(step) for loader in halves]
        check_equal(
            straight[step], {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
        )
    specs = task.loader("train", 0, 1).specs[0]
    assert {name: (x.shape, x.dtype) for name, x in straight[0].items()} == specs


def test_a_share_of_each_part_is_controls_of_its_experiment(tmp_path):
    bank = write(tmp_path / "b.zarr", rows_of())
    changes = {"data__groups": 2, "data__control_share": 0.25, "global_batch_size": 16}
    loader = task_of(config_of(bank, **changes), tmp_path).loader("train", 0, 1)
    others, controls, places = Counter(), Counter(), set()
    # 4 experiments have 10 others each, of which a part takes 6, so 20 in 3 parts of each
    assert loader.steps_per_epoch == 4
    for step in range(30):
        batch = loader.batch(step)
        flags = loader.labels.control[batch["image"]]
        for part in (0, 1):
            assert flags[part::2].sum() == 2
            assert len(set(experiments(loader, batch)[part::2])) == 1
            places |= {tuple(np.flatnonzero(flags[part::2]).tolist())}
        others.update(batch["image"][~flags].tolist())
        controls.update(batch["image"][flags].tolist())
    assert len(places) > 5  # anywhere in the part
    # each as often as any, but for the epochs in which their groups are
    assert max(others.values()) - min(others.values()) <= 2 and len(others) == 40
    assert len(controls) == 24 and max(controls.values()) - min(controls.values()) <= 2


def test_each_held_out_image_comes_once_in_parts_of_one_experiment(tmp_path):
    rows = rows_of() + rows_of(("E5",), plates=1, wells=5)
    bank = write(tmp_path / "b.zarr", rows)
    held_out = ("E2", "E5")
    config = config_of(bank, data__groups=2, data__val_groups=held_out, data__flip=True)
    task = task_of(config, tmp_path)
    val = task.loader("val", 0, 1)
    assert val.num_images == 21 and val.steps_per_epoch == 3  # 4 and 2 parts of 4 images
    batches = [val.batch(step) for step in range(3)]
    counted = np.concatenate([batch["image"][batch["label"] >= 0] for batch in batches])
    table = opening.open_bank(bank).metadata.to_pylist()
    expected = [n for n, row in enumerate(table) if row["experiment"] in held_out]
    assert sorted(counted) == expected
    for batch in batches:
        named = experiments(val, batch)
        assert all(len(set(named[part::2])) == 1 for part in (0, 1))
        # also what fills a part is of other images, as far as there are any
        assert all(len(set(batch["image"][part::2])) == 4 for part in (0, 1))
    check_equal(batches[1], val.batch(4))  # it begins again
    everything = task.loader(splits.ALL, 0, 1)
    assert everything.num_images == 69
    seen = [everything.batch(step) for step in range(everything.steps_per_epoch)]
    counted = np.concatenate([batch["image"][batch["label"] >= 0] for batch in seen])
    assert sorted(counted) == list(range(69))
    assert task.loader("test", 0, 1) is None


def test_a_bad_image_is_replaced_by_one_of_its_experiment_with_its_own_label(tmp_path):
    bank = write(tmp_path / "b.zarr", rows_of())
    for image in range(0, 64, 3):
        shard_path(bank, image).write_bytes(b"broken")
    config = config_of(bank, data__groups=2, data__on_bad_image="skip")
    task = task_of(config, tmp_path)
    loader, table = task.loader("train", 0, 1), opening.open_bank(bank).metadata.to_pylist()
    for step in range(8):
        batch = loader.batch(step)
        assert (batch["image"] % 3).all()
        named = experiments(loader, batch)
        assert all(len(set(named[part::2])) == 1 for part in (0, 1))
        for image, label in zip(batch["image"], batch["label"], strict=True):
            wanted = table[image]["perturbation"] or "control"
            assert task.config.model.classes[label] == wanted
    assert loader.bad_items == 22
    everything = task.loader(splits.ALL, 0, 1)
    seen = [everything.batch(step) for step in range(everything.steps_per_epoch)]
    counted = np.concatenate([batch["image"][batch["label"] >= 0] for batch in seen])
    assert sorted(counted) == [image for image in range(64) if image % 3]


def test_banks_of_other_channels_and_of_the_same_experiment(tmp_path):
    """Parts take images of one experiment from all banks of one channel set."""
    one = write(tmp_path / "one.zarr", rows_of(("E1", "E2"), plates=1))
    two = write(tmp_path / "two.zarr", rows_of(("E1", "E3"), plates=1))
    three = write(tmp_path / "three.zarr", rows_of(("E1", "E4")), channels=("a",))
    changes = {"model__channel_agnostic": True, "model__backbone": "vit"}
    task = task_of(config_of(one, two, three, **changes), tmp_path)
    loader = task.loader("train", 0, 1)
    mixed, kinds = set(), Counter()
    for step in range(loader.steps_per_epoch):
        batch = loader.batch(step)
        kinds[batch["pixels"].shape[-1]] += 1
        assert len(set(experiments(loader, batch))) == 1
        mixed |= {frozenset(batch["image"] // 16)}
    assert kinds == {1: 4, 2: 4} and frozenset({0, 1}) in mixed


def test_controls_for_statistics_alone_are_no_class_and_in_every_part(tmp_path):
    """In training and in validation, where each other image comes once."""
    bank = write(tmp_path / "b.zarr", rows_of())
    changes = {"data__groups": 2, "data__control_share": 0.25, "data__val_groups": ("E1",)}
    changes |= {"data__controls": "statistics", "model__control_weight": 1.0}
    task = task_of(config_of(bank, **changes, global_batch_size=16), tmp_path)
    assert not {"DMSO", "control"} & set(task.config.model.classes)
    for split in ("train", "val"):
        loader, seen = task.loader(split, 0, 1), []
        for step in range(loader.steps_per_epoch):
            batch = loader.batch(step)
            flags = batch["control"]
            np.testing.assert_array_equal(flags, loader.labels.control[batch["image"]])
            assert [flags[part::2].sum() for part in (0, 1)] == [2, 2]
            assert (batch["label"][flags] == -1).all()
            seen += batch["image"][batch["label"] >= 0].tolist()
        everyone = np.isin(loader.labels.group, np.unique(loader.labels.group[seen]))
        others = np.flatnonzero(~loader.labels.control & everyone)
        assert set(seen) == set(others) and (split == "train" or sorted(seen) == others.tolist())


def test_what_else_is_in_the_banks_changes_no_order(tmp_path):
    """With a selection, or after `prepare append`, the same images come in the same order."""
    some = write(tmp_path / "some.zarr", rows_of(("E3", "E1"), plates=1))
    rows = [*rows_of(("E1",), plates=1, site="2"), *rows_of(("E3", "E1"), plates=1)]
    more, listed = write(tmp_path / "more.zarr", rows), tmp_path / "listed.parquet"
    run_as_door(subset, ["--bank", more, "--where", 'site == "1"', "--out", listed])
    changes = {"data__groups": 2, "data__control_share": 0.25}
    one = task_of(config_of(some, **changes), tmp_path).loader("train", 0, 1)
    changes["data__selection"] = str(listed)
    other = task_of(config_of(more, **changes), tmp_path).loader("train", 0, 1)
    for step in range(6):
        batches = one.batch(step), other.batch(step)
        np.testing.assert_array_equal(batches[0]["image"], batches[1]["image"] - 8)
        np.testing.assert_array_equal(batches[0]["label"], batches[1]["label"])


def test_rows_of_all_experiments_are_mixed_without_groups(tmp_path):
    bank = write(tmp_path / "b.zarr", rows_of())
    changes = {"data__groups": 0, "data__val_groups": ("E1",)}
    task = task_of(config_of(bank, **changes), tmp_path)
    loader = task.loader("train", 0, 1)
    assert any(len(set(experiments(loader, loader.batch(step)))) == 3 for step in range(4))
    val = task.loader("val", 0, 1)
    assert sorted(np.concatenate([val.batch(s)["image"] for s in (0, 1)])) == list(range(16))


def test_orders_of_many_groups():
    """Each image once where parts divide the groups; shares of turns by size where they do not."""
    order = PartOrder([[12] * 100, [8]], seed=1, parts=2, images_per_part=4)
    assert order.steps == 151
    seen = [order.image(*order.batch(step), row) for step in range(151) for row in range(8)]
    assert sorted(seen) == list(range(1208))
    small = PartOrder([[3, 30]], seed=1, parts=1, images_per_part=4)
    seen = Counter(small.image(*small.batch(step), row) for step in range(900) for row in range(4))
    assert abs(sum(seen[image] for image in range(3)) - 3600 / 11) < 20
    once = EachOnce([[3, 30], [5]], seed=1, parts=2, images_per_part=4)
    assert once.steps == 6
    counted = [
        once.image(*once.batch(step), row)
        for step in range(6)
        for row in range(8)
        if once.counts(*once.batch(step), row)
    ]
    assert sorted(counted) == list(range(38))


# What is read


FILTERS = [
    ({"data__cell_type": "HUVEC"}, 32, 7, "32 images are left out: they have another cell_type"),
    ({"data__controls": "drop"}, 40, 5, "24 images are left out: they are controls"),
    ({"data__label": "gene"}, 48, 3, "16 negative controls have no gene: .* class 'control'"),
    ({"data__perturbation_type": "orf"}, 56, 7, "8 images are left out.* perturbation_type"),
]


@pytest.mark.parametrize(("changes", "images", "classes", "told"), FILTERS)
def test_only_what_is_asked_for_is_read_and_it_is_told(tmp_path, changes, images, classes, told):
    columns = {
        "gene": lambda e, p, w: "AB"[w % 2] if w > 3 else None,
        # a control that is typed is one of its library; that of well 1 is one of any
        "perturbation_type": lambda e, p, w: ("compound", None, "control")[w] if w < 3 else "orf",
    }
    bank = write(tmp_path / "b.zarr", rows_of(**columns))
    task = task_of(config_of(bank, **changes), tmp_path)
    loader = task.loader("train", 0, 1)
    assert (loader.num_images, len(task.config.model.classes)) == (images, classes)
    assert re.search(told, loader.describe())


def test_groups_of_other_cell_types_are_not_held_out(tmp_path):
    bank = write(tmp_path / "b.zarr", rows_of((*EXPERIMENTS, "E5")))
    changes = {"data__val_groups": ("E1", "E3"), "data__cell_type": "RPE"}
    task = task_of(config_of(bank, **changes), tmp_path)
    val = task.loader("val", 0, 1)
    assert set(experiments(val, val.batch(0))) == {"E3"} and val.num_images == 16
    with pytest.raises(UserError, match="'E33', but no bank has a experiment of that name"):
        task_of(config_of(bank, **changes | {"data__val_groups": ("E3", "E33")}), tmp_path)


def test_cell_types_that_were_not_trained_on_are_told(tmp_path):
    bank = write(tmp_path / "b.zarr", rows_of())
    changes = {"model__cell_type": True, "data__val_groups": ("E3", "E4")}
    told = task_of(config_of(bank, **changes), tmp_path).loader("val", 0, 1).describe()
    assert "32 of 32 images are of none of the cell types HUVEC, but of RPE: the network" in told
    told = task_of(config_of(bank, data__val_groups=("E3", "E4")), tmp_path).loader("val", 0, 1)
    assert "cell types" not in told.describe()


def test_a_protocol_names_images_of_no_experiment(tmp_path):
    bank = write(tmp_path / "b.zarr", rows_of(experiment=None))
    with pytest.raises(UserError, match="the banks have images of no named experiment"):
        task_of(config_of(bank, data__protocol="rxrx1"), tmp_path)


def test_held_out_images_of_no_experiment_are_told(tmp_path):
    rows = rows_of(experiment=lambda e, p, w: None if e == "E4" else e)
    changes = {"data__split_by": "plate", "data__val_groups": ("1", "2")}
    loader = task_of(config_of(write(tmp_path / "b.zarr", rows), **changes), tmp_path).loader(
        "val", 0, 1
    )
    assert "16 images have no experiment: they make parts of their own." in loader.describe()


def test_groups_of_one_class_among_others_are_warned_of(tmp_path, caplog):
    rows = rows_of(perturbation=lambda e, p, w: f"g{w % 3 if e != 'E1' else 1}")
    task_of(config_of(write(tmp_path / "b.zarr", rows)), tmp_path)
    assert "1 of 4 experiments to train on have images of one perturbation alone" in caplog.text


def test_a_class_that_is_held_out_alone_is_told_and_has_no_label(tmp_path):
    rows = rows_of() + [
        row | {"perturbation": "new", "well": "B01"} for row in rows_of(("E4",), plates=1, wells=3)
    ]
    bank = write(tmp_path / "b.zarr", rows)
    task = task_of(config_of(bank, data__val_groups=("E4",)), tmp_path)
    val = task.loader("val", 0, 1)
    assert "new" not in task.config.model.classes
    assert "3 of 19 images are of none of the 7 classes, but of 1 other" in val.describe()
    assert "neither as right nor as wrong" in val.describe()
    batches = [val.batch(step) for step in range(val.steps_per_epoch)]
    counted = np.concatenate([batch["image"][batch["label"] >= 0] for batch in batches])
    assert sorted(counted) == list(range(48, 64))


def test_classes_that_are_given_are_the_only_ones(tmp_path):
    bank = write(tmp_path / "b.zarr", rows_of())
    task = task_of(config_of(bank, model__classes=("g5", "g3")), tmp_path)
    loader = task.loader("train", 0, 1)
    assert task.config.model.classes == ("g5", "g3") and loader.num_images == 16
    assert "48 of 64 images are of none of the 2 classes" in loader.describe()
    assert set(loader.batch(0)["label"]) == {0, 1}


# Bad input


def alone(e, p, w):
    return "rare" if (e, p, w) == ("E1", 0, 7) else f"g{w}"


BAD = {
    "one image": (
        {"perturbation": alone},
        {},
        "1 of 9 classes have a single image to train on: rare",
    ),
    "one class": ({"perturbation": "g"}, {}, r"are of 1 class of two images or more \(g\)"),
    "no labels": ({}, {"data__label": "gene", "data__controls": "drop"}, "No image .* has a gene"),
    "no column": ({}, {"data__label": "pertubation"}, "Did you mean 'perturbation'"),
    "no group column": ({}, {"data__group_by": "batch"}, "which is no column of texts"),
    "in both splits": (
        {},
        {"data__split_by": "plate", "data__val_groups": ("E1/1",)},
        "experiment E1 is in both splits: 8 of its images are trained on and 8 held out",
    ),
    "one experiment in both splits": (
        {"experiment": "E1", "plate": lambda e, p, w: e + str(p)},
        {"data__split_by": "well", "data__val_fraction": 0.2},
        "experiment E1 is in both splits",
    ),
    "one experiment": (
        {"experiment": "E1", "plate": lambda e, p, w: e + str(p)},
        {},
        "All 64 images to train on are of one experiment",
    ),
    "no experiment": ({"experiment": None}, {}, "64 of 64 images to train on have no experiment"),
    "no controls marked": (
        {"is_control": None, "perturbation_type": None, "perturbation": lambda e, p, w: f"g{w}"},
        {"data__control_share": 0.25},
        "config.data.control_share is 0.25, but no image of .* is marked as a control",
    ),
    "no controls to drop": (
        {"is_control": None, "perturbation_type": None, "perturbation": lambda e, p, w: f"g{w}"},
        {"data__controls": "drop"},
        "config.data.controls is drop, but no image",
    ),
    "controls alone": (
        {"is_control": True, "perturbation": lambda e, p, w: f"g{w}"},
        {"data__controls": "drop"},
        "All images of .* that are read are controls",
    ),
    "held-out groups of another cell type": (
        {},
        {"data__val_groups": ("E1",), "data__cell_type": "RPE"},
        r"names is read \(E1\): 32 images are left out: they have another cell_type than RPE",
    ),
    "no such cell type": (
        {},
        {"data__cell_type": "HUVAC"},
        r"Did you mean 'HUVEC'\? There are: RPE, HUVEC",
    ),
    "no such type": ({}, {"data__perturbation_type": "sirna"}, "There are: crispr, control"),
    "no cell types": (
        {"cell_type": None},
        {"model__cell_type": True},
        "64 of 64 images to train on have no cell_type",
    ),
    "a class twice": ({}, {"model__classes": ("g3", "g3", "g4")}, "names 'g3' 2 times"),
    "no such cell type to tell": (
        {},
        {"model__cell_types": ("HUVEC", "rpe")},
        "config.model.cell_types names 'rpe'.* Did you mean 'RPE'",
    ),
    "groups of what is told apart": (
        {},
        {"data__group_by": "perturbation_type"},
        "take away what tells perturbations apart. Set --config.data.group_by=experiment, or",
    ),
    "groups of the label": (
        {},
        {"data__label": "experiment"},
        "those of each experiment .* tells experiments apart. Set --config.data.groups=0",
    ),
    "groups of one class each": (
        {},
        {"data__group_by": "well"},
        "The images of each well to train on are of one perturbation alone",
    ),
    "one experiment with one plate left": (
        {"plate": "1"},
        {"data__val_groups": ("E2", "E3", "E4"), "data__val_fraction": 0.1},
        "Train on two or more, or set --config.data.groups=0",
    ),
    "one experiment with two plates left": (
        {},
        {"data__val_groups": ("E2", "E3", "E4")},
        "split_by=plate --config.data.val_groups=.*, or --config.data.groups=0",
    ),
    "all held out": (
        {},
        {"data__val_groups": EXPERIMENTS},
        r"Hold out fewer \(--config.data.val_groups=\"\('E1',\)\"\), or none",
    ),
    "no such class": ({}, {"model__classes": ("g3", "g33")}, "names 'g33'.* Did you mean 'g3'"),
    "a share of no image": (
        {},
        {"data__control_share": 0.01},
        "data.control_share is 0.01, which is 0 of the 8 images of a part",
    ),
    "weights": (
        {},
        {"data__weights": (1.0,)},
        "with data.groups or data.control_share each image comes once",
    ),
    "unknown experiments": ({}, {"data__protocol": "rxrx1"}, "divides the experiments of RxRx1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_its_mend_mends_it(tmp_path, case):
    columns, changes, message = BAD[case]
    bank = write(tmp_path / "b.zarr", rows_of(**columns))
    config = config_of(bank, **changes)
    with pytest.raises(UserError, match=message) as error:
        task_of(config, tmp_path).loader("train", 0, 1)
    if case in ("no column", "no group column"):
        return  # a name that was misspelt
    text = str(error.value)
    if case in ("no such cell type", "no such type"):
        assert text.endswith("=''.")
    # of what is offered the last is taken where there are alternatives
    last = text.rpartition("; or ")[2] if "; or " in text else text
    task = mended(config, last.rpartition(", or set ")[2], tmp_path)
    assert task.loader("train", 0, 1).num_images >= 8
    if "; or " in text and "--config" in text.rpartition("; or ")[0]:
        task = mended(config_of(bank, **changes), text.rpartition("; or ")[0], tmp_path)
        assert task.loader("val", 0, 1).num_images >= 8


@pytest.mark.parametrize(
    ("lacking", "changes", "named"),
    [
        (lambda e, p, w: e == "E2", {}, "experiment E2 has no control"),
        (lambda e, p, w: e in ("E1", "E2"), {}, "cell_type HUVEC has no control"),
        (
            lambda e, p, w: (e, p) == ("E3", 1),
            {"data__group_by": "plate", "data__split_by": "plate"},
            "plate E3/2 has no control",
        ),
    ],
    ids=["experiment", "cell type", "plate"],
)
def test_groups_without_controls_are_named_and_left_out(tmp_path, lacking, changes, named):
    columns = {
        "is_control": lambda e, p, w: w < 2 and not lacking(e, p, w),
        "perturbation_type": "crispr",
        "perturbation": lambda e, p, w: f"g{w}",
    }
    bank = write(tmp_path / "b.zarr", rows_of(**columns))
    config = config_of(bank, data__control_share=0.25, data__groups=1, **changes)
    with pytest.raises(UserError, match=named) as error:
        task_of(config, tmp_path)
    (where,) = re.findall(r"--where '(.*?)' --out", str(error.value))
    listed = tmp_path / "controlled.parquet"
    run_as_door(subset, ["--bank", bank, "--where", where, "--out", listed])
    config.data.selection = str(listed)
    loader = task_of(config, tmp_path).loader("train", 0, 1)
    assert loader.num_images in (48, 32, 56)


def test_an_experiment_of_two_banks_is_held_out_by_its_name(tmp_path):
    """The hash holds out one experiment of each bank at least, which the other may train on."""
    names = [f"E{number}" for number in range(1, 9)]
    banks, config = [], None
    for number, pair in enumerate(itertools.pairwise(names)):
        banks.append(write(tmp_path / f"{number}.zarr", rows_of(pair, plates=1)))
    config = config_of(*banks, data__val_fraction=0.01)
    with pytest.raises(UserError, match="is in both splits") as error:
        task_of(config, tmp_path).loader("train", 0, 1)
    task = mended(config, str(error.value).rpartition("; or ")[0], tmp_path)
    assert task.loader("val", 0, 1).num_images == 16


def test_what_is_in_one_experiment_only_is_warned_of(tmp_path, caplog):
    bank = write(
        tmp_path / "b.zarr", rows_of(perturbation=lambda e, p, w: f"{e if w > 4 else ''}g{w}")
    )
    task_of(config_of(bank), tmp_path)
    assert "12 of 17 classes are in one experiment only" in caplog.text


def test_names_that_differ_in_their_spelling_are_warned_of(tmp_path, caplog):
    bank = write(
        tmp_path / "b.zarr", rows_of(perturbation=lambda e, p, w: f"{'Gg'[e > 'E2']}{w % 4}")
    )
    task_of(config_of(bank), tmp_path)
    assert "8 classes are called alike but for capitals and spaces: " in caplog.text


def test_a_part_that_is_larger_than_an_experiment_is_warned_of(tmp_path, caplog):
    bank = write(tmp_path / "b.zarr", rows_of())
    task_of(config_of(bank, global_batch_size=24), tmp_path).loader("train", 0, 1)
    assert "4 groups have fewer images than the 24 of a part (E1, E2, E3, E4)" in caplog.text


# RxRx1


class Described(MetadataInMemory):
    """A bank without pixels."""

    def __init__(self, rows):
        table = conform_metadata(pa.table(rows))
        super().__init__("rxrx1.zarr", table)
        self.path, self.attributes, self.fingerprint = "rxrx1.zarr", {}, ""
        self.shape = (len(table), 256, 256, 3)


def full_table():
    """A table of the size of the whole release: 51 experiments of 4 plates of 308 wells of 2 sites,
    less the wells and sites that are missing there, in the experiments' own numbers.
    """
    wells = [f"{'BCDEFGHIJKLMNO'[n // 22]}{n % 22 + 2:02}" for n in range(308)]
    rows, missing = [], {"train": 44 * 2, "val": 2, "test": 64}
    for cell, (trained, last) in protocols.EXPERIMENTS.items():
        for number in range(1, last + 1):
            split = "train" if number <= trained else "val" if number == trained + 1 else "test"
            for plate in range(1, 5):
                for place, well in enumerate(wells):
                    for site in ("1", "2"):
                        if missing[split]:
                            missing[split] -= 1
                        else:
                            kind = place % 1139
                            rows.append((f"{cell}-{number:02}", str(plate), well, site, cell, kind))
    names = ("experiment", "plate", "well", "site", "cell_type", "perturbation")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    columns["perturbation"] = [str(code) for code in columns["perturbation"]]
    return columns


@pytest.fixture(scope="module")
def whole():
    return Described(full_table())


@pytest.mark.parametrize(
    ("protocol", "images", "held_in", "held_out"),
    [
        (
            "rxrx1_wilds",
            {"train": 40_612, "id_test": 40_612, "val": 9_854, "test": 34_432},
            33,
            {"val": 4, "test": 14, "id_test": 33},
        ),
        (
            "rxrx1",
            {"train": 81_224, "val": 9_854, "test": 34_432, "unseen": 44_286},
            33,
            {"val": 4, "test": 14, "unseen": 18},
        ),
        ("rxrx1_wilds_mixed", {"val": 9_854}, 33, {"val": 4, "test": 14}),
    ],
)
def test_the_official_splits_of_the_whole_of_rxrx1(whole, protocol, images, held_in, held_out):
    assert len(whole) == 125_510
    screen = Screen([whole], config_of("x", data__protocol=protocol).data)
    found = {name: splits.rows_of(screen, name) for name in (*held_out, "train")}
    counts = {name: len(rows) for name, (rows,) in found.items()}
    assert {name: counts[name] for name in images} == images
    names = {
        name: {screen.group.names[code] for code in np.unique(screen.group.codes[rows.array()])}
        for name, (rows,) in found.items()
    }
    assert {name: len(names[name]) for name in held_out} == held_out
    assert len(names["train"]) == held_in
    told = splits.official_share(screen, "val")
    if protocol == "rxrx1":  # in the form of WILDS
        assert "9,854 images of 512 x 512 px of 6 channels, here are 9,854 of 256 x 256" in told
    else:
        assert told == f"This is the whole val split of {protocol}."
    for split in {"val", "test", "unseen"} & set(names):
        assert protocol == "rxrx1_wilds_mixed" or not names[split] & names["train"]
    assert names["val"] == {"HEPG2-08", "HUVEC-17", "RPE-08", "U2OS-04"}
    if protocol == "rxrx1_wilds_mixed":
        assert len(names["train"] & names["test"]) == 14
        assert not {"HEPG2-03", "HUVEC-07", "RPE-01", "U2OS-01"} & names["train"]
        assert {"HEPG2-04", "HUVEC-08", "U2OS-02"} <= names["train"]


def test_splits_need_their_sites(whole):
    table = full_table() | {"site": [None] * 125_510}
    screen = Screen([Described(table)], config_of("x", data__protocol="rxrx1_wilds").data)
    with pytest.raises(UserError, match=r"by their sites 1 and 2.*--config\.data\.protocol=rxrx1,"):
        splits.rows_of(screen, "train")
    screen.wanted.protocol = "rxrx1"
    assert len(splits.rows_of(screen, "train")[0]) == 81_224


def test_a_part_of_rxrx1_is_told_to_be_no_benchmark(tmp_path):
    names = ("HEPG2-01", "HUVEC-16", "U2OS-04", "RPE-11")
    bank = write(tmp_path / "b.zarr", rows_of(names, site=lambda e, p, w: str(p + 1)))
    config = config_of(bank, data__protocol="rxrx1_wilds")
    task = task_of(config, tmp_path)
    counts = {split: 16 for split in ("train", "val", "id_test", "test")}
    for split, images in counts.items():
        loader = task.loader(split, 0, 1)
        assert loader.num_images == images
        assert "cannot be set beside published numbers" in loader.describe()
    config.data.val_groups = ("HEPG2-01",)
    with pytest.raises(UserError, match=r"'rxrx1_wilds' says what is held out.*protocol=''"):
        configs.finalize(config)


# of the training experiments
WELLS = {"HEPG2": 8_622, "HUVEC": 19_671, "RPE": 8_623, "U2OS": 3_696}


@pytest.mark.shared_data
def test_rxrx1_by_its_own_metadata(shared, tmp_path):
    """Kaggle's two tables, joined as `prepare images` joins them: 33 experiments, 1,139 classes. A
    third one says what these do not: the cell type of each experiment.
    """
    folder = shared / "microscopy" / "rxrx1_metadata"
    cells = tmp_path / "cells.csv"
    names = (folder / "folds.csv").read_text().split()[1:]
    lines = [name.split(",")[0] for name in names]
    cells.write_text(
        "\n".join(["experiment,cell_type", *(f"{one},{one.split('-')[0]}" for one in lines)])
    )
    joiner = Joiner([folder / "train.csv", folder / "train_controls.csv", cells], {})
    keys = [(*key, site) for key in joiner.rows for site in ("1", "2")]
    columns, unmatched = describe(keys, joiner, {})
    assert not unmatched
    columns |= dict(
        zip(("experiment", "plate", "well", "site"), zip(*keys, strict=True), strict=True)
    )
    bank = Described({name: pa.array(list(values)) for name, values in columns.items()})
    for protocol, images in (("rxrx1_wilds", 40_612), ("rxrx1", 81_224)):
        for controls, classes in (("keep", 1139), ("drop", 1108)):
            changes = {"data__protocol": protocol, "data__controls": controls}
            screen = Screen([bank], config_of("x", **changes).data)
            rows = splits.rows_of(screen, "train")
            trained = screen.numbering.of(rows)
            found = training.classes(screen, trained)
            assert len(found) == classes and found == tuple(str(n) for n in range(classes))
            assert len(np.unique(screen.group.codes[trained])) == 33
            dropped = 4097 * (1 if protocol == "rxrx1_wilds" else 2) if controls == "drop" else 0
            assert len(trained) == images - dropped
            if not dropped:
                sites = images // 40_612
                assert screen.cell_type.there(trained) == {
                    name: sites * count for name, count in WELLS.items()
                }
    # 30 positive controls and the negative one
    assert int(screen.control.sum()) == 2 * 4097
    assert len(screen.label.there(screen.control)) == 31
