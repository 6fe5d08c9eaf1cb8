"""Ranges of keys: each key has one, declared beside its default, and what lies outside is refused
before a run.
"""

import json
import math
import re

import pytest
from ml_collections import ConfigDict

from phenomjax import config
from phenomjax.config import keys, objectives, ranges, stored
from phenomjax.config.checks import flatten
from phenomjax.system.errors import UserError

TASKS = objectives.known()


def changed(task="mae", **values):
    c = config.base(task)
    c.data.simulate["plates" if "plates" in c.data.simulate else "families"] = 1
    c.update_from_flattened_dict({name.replace("__", "."): v for name, v in values.items()})
    return c


@pytest.mark.parametrize(
    "values,text",
    [
        (
            {"optimizer__clip_norm": -1.0},
            "config.optimizer.clip_norm is -1.0; it must be at least 0. 0.0 = off: set"
            " --config.optimizer.clip_norm=0.0.",
        ),
        ({"optimizer__b1": 1.5}, "is 1.5; it must be at least 0 and below 1."),
        (
            {"optimizer__learning_rate": float("nan")},
            "is nan; it must be a finite number, at least 0.",
        ),
        (
            {"optimizer__learning_rate": float("inf")},
            "is inf; it must be a finite number, at least 0.",
        ),
        ({"seed": -1}, "config.seed is -1; it must be at least 0 and at most 4294967295."),
        ({"eval__every_steps": -1}, "0 = never: set --config.eval.every_steps=0."),
        ({"eval__num_batches": -1}, "0 = all of the split: set --config.eval.num_batches=0."),
        ({"num_steps": 2**40}, f"config.num_steps is {2**40}; it must be at most 2147483647."),
        ({"model__mlp_ratio": 1e-9}, "Set --config.model.mlp_ratio=4.0."),
        ({"eval__batch_size": 5, "data__crops_per_image": 2}, "Set --config.eval.batch_size=6, or"),
        ({"mesh__model": 0}, "config.mesh.model is 0; it must be at least 1."),
        ({"mesh__data": 0}, "config.mesh.data is 0; it must be -1 or at least 1."),
        ({"model__patch_size": 0}, "config.model.patch_size is 0; it must be at least 1."),
        (
            {"data__weights": (1.0, -1.0)},
            "config.data.weights is (1.0, -1.0); each must be at least 0.",
        ),
        ({"log__wandb_project": "None"}, "a name. For none set --config.log.wandb_project=''."),
        ({"init_from": "none"}, "For none set --config.init_from=''."),
        ({"mesh__preset": "ddp"}, "It can be dp, fsdp, hsdp, fsdp_tp. Its default: --config.mesh."),
        (
            {"model__channels": ("A", "B", "A")},
            """has 'A' 2 times, and parameters are known by these names. Set"""
            """ --config.model.channels="('A', 'B')".""",
        ),
        ({"model__embed_dim": 130, "model__num_heads": 4}, "Set --config.model.embed_dim=128."),
        ({"optimizer__accumulate_steps": 7}, "Set --config.optimizer.accumulate_steps=4, or"),
        ({"data__simulate__photons": -1.0}, "config.data.simulate.photons is -1.0; it must be at"),
    ],
)
def test_a_value_outside_its_range_is_refused_with_its_mend(values, text):
    with pytest.raises(UserError, match=re.escape(text)):
        config.finalize(changed(**values))


@pytest.mark.parametrize("task", TASKS)
def test_each_key_has_a_range_that_holds_its_default(task):
    section = keys.declare(task)
    declared, values = ranges.declared(section), flatten(section)
    assert values.keys() == declared.keys()
    assert [key for key in declared if not declared[key].holds(values[key])] == []


def outside(allowed):
    """Values that a range does not hold, by what it says of itself."""
    if allowed.kind in (int, float):
        ends = [end for end in (allowed.least, allowed.above) if end is not None]
        ends += [-end for end in (allowed.most, allowed.below) if end is not None]
        signs = [1] * sum(end is not None for end in (allowed.least, allowed.above))
        signs += [-1] * (len(ends) - len(signs))
        wrong = [sign * (end - 1) for sign, end in zip(signs, ends, strict=True)]
        wrong += [end for end in (allowed.above, allowed.below) if end is not None]
        wrong += [math.nan, math.inf, -math.inf, "1", None, True]
        wrong += [-1, -1e30] if allowed.least is not None or allowed.above is not None else []
        wrong += [2**31 + 2**33, 1.5] if allowed.kind is int else []
        wrong = [value for value in wrong if value is None or value != allowed.also]
    else:
        wrong = [0, -1, None, 1.5, b"x"] + (["other"] if allowed.choices else [])
    for _ in range(allowed.depth):
        wrong = [wrong[0], *((value,) for value in wrong)]
    return wrong


@pytest.mark.parametrize("task", TASKS)
def test_each_key_refuses_what_lies_outside(task):
    section = keys.declare(task)
    values = flatten(section)
    for key, allowed in ranges.declared(section).items():
        for wrong in outside(allowed):
            assert not allowed.holds(wrong), (key, wrong)
            with pytest.raises(UserError, match=rf"config\.{key} (is|has) .*[.;]"):
                ranges.check(values | {key: wrong}, section)


@pytest.mark.parametrize(
    "values,text",
    [
        (
            {"optimizer__name": "adam", "optimizer__weight_decay": 0.1},
            "config.optimizer.weight_decay is 0.1, which nothing reads where config.optimizer.name"
            " is 'adam'. Set --config.optimizer.weight_decay=0.0 or --config.optimizer.name=adamw.",
        ),
        (
            {"optimizer__name": "adagrad", "optimizer__b2": 0.9},
            "Set --config.optimizer.b2=0.95 or --config.optimizer.name=lion.",
        ),
        ({"optimizer__eps": 1e-6}, "nothing reads where config.optimizer.name is 'lion'. Set"),
        ({"optimizer__final_fraction": 0.1}, "where config.optimizer.schedule is 'one_cycle'."),
        ({"divergence__max_rollbacks": 5}, "or --config.divergence.action=rollback."),
        (
            {"data__staging_share": 0.5},
            "nothing reads where config.data.staging is ''. Set --config.data.staging_share=1.0 or"
            " give --config.data.staging.",
        ),
    ],
)
def test_a_key_that_nothing_reads_is_refused_where_it_was_set(values, text):
    with pytest.raises(UserError, match=re.escape(text)) as caught:
        config.finalize(changed(**values))
    for mend in re.findall(r"--config\.(\S+)=(\S+?)\.?(?= |$)", str(caught.value)):
        key, value = mend
        c = changed(**values)
        kind = type(flatten(c)[key])
        c.update_from_flattened_dict({key: kind(value)})
        config.finalize(c)


def test_what_nothing_reads_does_not_keep_a_run_from_going_on(tmp_path):
    old = changed(optimizer__name="adam", optimizer__weight_decay=0.1)
    now = changed(optimizer__name="adam", optimizer__weight_decay=0.0)
    stored.check_same_run(now, old, tmp_path)
    with pytest.raises(UserError, match=r"clip_norm: -1.0 there, 0.0 now \(-1.0 is refused since"):
        stored.check_same_run(changed(), changed(optimizer__clip_norm=-1.0), tmp_path)
    with pytest.raises(UserError, match=r"weight_decay: 0\.1 there, 0\.0 now"):
        stored.check_same_run(
            changed(optimizer__weight_decay=0.0), changed(optimizer__weight_decay=0.1), tmp_path
        )


def test_an_objective_from_outside_may_use_plain_sections():
    c = ranges.Section()
    model = ConfigDict()
    model.depth, model.width = ranges.whole(3, least=1), 5
    c.model = model
    assert (c.model.depth, c.model.width) == (3, 5)
    assert ranges.declared(c).keys() == {"model.depth"}


def test_a_run_from_before_the_warm_up_of_its_average_goes_on_without(tmp_path, caplog):
    old = changed(optimizer__ema_decay=0.99).to_dict()
    del old["optimizer"]["ema_warmup"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(old))
    with caplog.at_level("INFO", "phenomjax"):
        for _ in range(2):  # and again, when the file was written anew
            before = stored.load(path)
            c = stored.as_begun(config.finalize(changed(optimizer__ema_decay=0.99)), before)
            stored.check_same_run(c, before, tmp_path)
            assert c.optimizer.ema_warmup is False and c.is_locked
            stored.save(c, path)
    assert "config.optimizer.ema_warmup stays False, as this run began" in caplog.text


@pytest.mark.parametrize(
    "key,value,text",
    [
        (
            "data.val_groups",
            (1, 2),
            """each must be a text: set --config.data.val_groups="('1', '2')".""",
        ),
        ("model.channels", ("",), 'that is not empty. For none set --config.model.channels="()".'),
        ("data.weights", ("x",), "is ('x',); each must be a finite number, at least 0."),
        ("data.weights", 3.0, "config.data.weights is 3.0, which is no tuple; e.g. (3.0,)."),
        ("num_steps", 1.5, "config.num_steps is 1.5; it must be a whole number, at least 1."),
        ("data.flip", 1, "config.data.flip is 1; it must be True or False."),
    ],
)
def test_a_value_of_another_kind_is_told_what_it_must_be(key, value, text):
    section = keys.declare("mae")
    with pytest.raises(UserError, match=re.escape(text)):
        ranges.check(flatten(section) | {key: value}, section)
