"""The closed configuration: presets, checks, storing, and what may change when a run goes on."""

import re
import sys

import pytest

from phenomjax import config
from phenomjax.config import causal_lm, checks, image_data, mae, stored
from phenomjax.system.errors import UserError


def valid(**changes):
    c = config.base()
    c.data.simulate.plates = 1
    c.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return c


@pytest.mark.parametrize(
    "changes,text",
    [
        (
            {"optimizer__name": "loin"},
            (
                "config.optimizer.name is 'loin'. Did you mean 'lion'? It can be lion, adamw, adam,"
                " lamb, adagrad."
            ),
        ),
        ({"model__remat": "dot"}, "Did you mean 'dots'?"),
        ({"num_steps": 0}, "config.num_steps is 0; it must be at least 1."),
        ({"data__crop_size": 250}, "Set --config.data.crop_size=240."),
        (
            {"model__num_heads": 7},
            "config.model.embed_dim 384 must be a multiple of config.model.num_heads 7",
        ),
        ({"model__mask_ratio": 1.0}, "is 1.0; it must be above 0 and below 1."),
        (
            {"global_batch_size": 65, "optimizer__accumulate_steps": 2},
            "65 is not a multiple of config.optimizer.accumulate_steps 2",
        ),
        (
            {"data__simulate__plates": 0},
            "config.data.banks is empty: there is nothing to train on.",
        ),
        (
            {"data__banks": ("/nowhere/a.zarr",)},
            "/nowhere/a.zarr, which does not exist. In /",
        ),
    ],
)
def test_mistakes_are_named_with_their_mend(changes, text):
    with pytest.raises(UserError, match=re.escape(text)):
        config.finalize(valid(**changes))


@pytest.mark.parametrize("task", ["mae", "perturbation", "causal_lm"])
def test_a_bank_that_is_named_twice_is_refused(tmp_path, task):
    bank, link = tmp_path / "b.zarr", tmp_path / "link.zarr"
    bank.mkdir()
    link.symlink_to(bank)
    c = config.base(task)
    c.data.banks = (str(bank), str(link))
    with pytest.raises(UserError, match=r"names .*b\.zarr 2 times"):
        config.finalize(c)


@pytest.mark.parametrize("key", ["data.segment_len", "model.mem_len"])
def test_flash_attention_with_relative_positions_trains_on_even_lengths(key):
    c = config.base("causal_lm")
    c.model.attention, c.data.segment_len, c.model.mem_len = "cudnn", 64, 64
    c.data.simulate.families = 2
    causal_lm.check(c)
    c.update_from_flattened_dict({key: 65})
    with pytest.raises(UserError, match=rf"takes no odd lengths .* Set --config.{key}=66, or"):
        causal_lm.check(c)


def test_finalize_locks_and_rejects_unknown_keys():
    c = config.finalize(valid())
    with pytest.raises(AttributeError, match="modle"):
        c.modle = 1
    c = valid()
    with c.unlocked():
        c.model.dpeth = 3
    with pytest.raises(
        UserError, match=r"config.model.dpeth is not a key. Did you mean 'model.depth'\?"
    ):
        config.finalize(c)


def test_parse_arg():
    options = {"size": "S/16", "mask": 0.75, "ca": False, "batch": 256}
    assert config.parse_arg("L/8,mask=0.5,ca=true", **options) == {
        "size": "L/8",
        "mask": 0.5,
        "ca": True,
        "batch": 256,
    }
    with pytest.raises(UserError, match=r"has no option 'maks'. Did you mean 'mask'?"):
        config.parse_arg("L/8,maks=0.5", **options)
    with pytest.raises(UserError, match="gives batch=many, which is not a int"):
        config.parse_arg("batch=many", **options)


def test_unknown_size():
    with pytest.raises(UserError, match=r"There is no model size 'XL/16'. Did you mean 'L/16'\?"):
        mae.set_vit(config.base(), "XL/16")


def test_old_names_of_modules_work_for_one_release_and_say_the_new_one(capsys):
    sys.modules.pop("phenomjax.config_images", None)
    from phenomjax.config_images import set_vit

    assert set_vit is mae.set_vit
    assert capsys.readouterr().err == "`phenomjax.config_images` is `phenomjax.config.mae` now.\n"


def test_stored_config_comes_back(tmp_path):
    c = config.finalize(valid(model__channels=("DNA", "ER")))
    stored.save(c, tmp_path / "config.json")
    assert checks.flatten(stored.load(tmp_path / "config.json")) == checks.flatten(c)
    with pytest.raises(UserError, match="is not the folder of a run"):
        stored.load(tmp_path / "nothing" / "config.json")


def test_what_may_change_when_a_run_goes_on(tmp_path):
    stored.check_same_run(
        valid(num_steps=5, mesh__preset="fsdp", model__remat="full"), valid(), tmp_path
    )
    other = valid(model__depth=6, init_from="a")
    with pytest.raises(
        UserError, match=r"init_from: '' there, a now; model.depth: 12 there, 6 now"
    ):
        stored.check_same_run(other, valid(), tmp_path)


def test_of_long_lists_the_difference_is_told(tmp_path):
    many = tuple(f"GENE{number}" for number in range(1139))
    runs = [valid(model__channels=names) for names in (many, (*many[1:], "new"), many[::-1])]
    for other, told in (
        (runs[1], "1,139 names there, 1,139 now, GENE0 only there, new only now"),
        (runs[2], "1,139 names there, 1,139 now in another order"),
    ):
        with pytest.raises(UserError, match=rf"model\.channels: {told}\. Give another"):
            stored.check_same_run(other, runs[0], tmp_path)


@pytest.mark.parametrize(
    ("task", "metric", "groups", "message"),
    [
        ("perturbation", "val/accuracy_adabn", 1, None),
        ("perturbation", "val/accuracy", 0, None),
        ("perturbation", "val/accuracy_adabn", 0, "Set --config.data.groups=1, or"),
        ("perturbation", "val/acuracy", 1, r"mean 'val/accuracy'\? It can be val/loss, val/accur"),
        ("mae", "val/accuracy", 0, "It can be val/loss, or probe/TASK"),
    ],
)
def test_what_chooses_the_best_checkpoint(task, metric, groups, message):
    c = config.base(task)
    c.data.simulate.plates, c.checkpoint.best_metric = 1, metric
    if task == "perturbation":
        c.data.groups = groups
    if message is None:
        assert config.finalize(c).checkpoint.best_metric == metric
    else:
        with pytest.raises(UserError, match=message):
            config.finalize(c)


def test_settings_of_a_simulated_screen_are_keys():
    c = config.base()
    c.data.simulate.plates, c.data.simulate.plates_per_experiment, c.seed = 6, 3, 4
    made = image_data.simulation(c)
    assert (made.num_plates, made.plates_per_experiment, made.wells_per_plate) == (6, 3, 24)
    assert made.seed == 4 and made.staining_shift == 0.0
    c.data.simulate.size, c.data.simulate.wells = 16, 24
    with pytest.raises(
        UserError, match=r"config\.data\.simulate\.size is 16; it must be at least 32"
    ):
        config.finalize(c)
    c.data.simulate.size, c.data.simulate.dead_fraction = 64, 2.0
    with pytest.raises(
        UserError, match=r"config\.data\.simulate\.dead_fraction is 2\.0; it must be at least 0"
    ):
        config.finalize(c)
