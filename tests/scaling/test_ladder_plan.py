"""Plans of ladders: sizes of every family, steps, batch and learning rate by the stated rules; and
the mistakes a user can make.
"""

import pytest

from phenomjax.scaling.ladder import command, rules
from phenomjax.scaling.ladder.command import Options

SCREEN = (
    "--config.data.banks=()",
    "--config.data.simulate.plates=2",
    "--config.data.simulate.wells=4",
    "--config.data.simulate.size=64",
    "--config.data.simulate.cell_radius=8.0",
)
PROTEINS = ("--config.data.simulate.families=8", "--config.data.simulate.members=10")
PLATE = ('--config.data.val_groups=("EXP01/P02",)', "--config.data.crop_size=32")
RECIPES = {
    "mae": ("configs/mae_demo.py", 1e10, (*SCREEN, *PLATE)),
    "ca_mae": (
        "configs/mae_demo.py",
        1e11,
        (
            *SCREEN,
            *PLATE,
            "--config.model.channel_agnostic=True",
            "--config.model.class_token=False",
        ),
    ),
    "causal_lm": ("configs/prot_txl.py:demo", 1e10, PROTEINS),
    "permutation_lm": ("configs/prot_xlnet.py:demo", 1e10, PROTEINS),
    "bidirectional_lm": ("configs/seqvec.py:demo", 1e10, PROTEINS),
}
UNITS_PER_ROW = {
    "mae": 1,
    "ca_mae": 1,
    "causal_lm": 64,
    "permutation_lm": 64,
    "bidirectional_lm": 100,
}


def test_batch_and_rate_follow_the_data():
    exponents = rules.Exponents(batch=0.4, rate=0.3, width=0.5)
    reference = rules.Reference(seen=1e6, batch=64, rate=1e-3, steps=1000, ema_decay=0.99)
    where = {"units_per_row": 1.0, "width_ratio": 1.0, "multiple": 1}
    own = rules.schedule(reference, exponents, seen=1e6, **where)
    assert own == rules.Schedule(15625, 64, 1e-3, pytest.approx(1 - 0.01 * 1000 / 15625, abs=1e-6))
    far = rules.schedule(reference, exponents, seen=1e6 * 2**10, **where)
    assert far.batch == 64 * 2**4 and far.steps == 1e6 * 2**10 / 2**10
    assert far.rate == pytest.approx(1e-3 / 2**3)
    # steps x rate^2 stays
    assert far.steps * far.rate**2 == pytest.approx(own.steps * own.rate**2)
    wide = rules.schedule(reference, exponents, seen=1e6, **(where | {"width_ratio": 4.0}))
    assert wide.rate == pytest.approx(5e-4) and wide.batch == 64


@pytest.mark.parametrize(
    "batch,multiple,expected", [(3.3, 1, 3), (23, 1, 24), (23, 3, 24), (100, 8, 96), (0.2, 6, 6)]
)
def test_batches_can_be_shared_by_devices(batch, multiple, expected):
    assert rules.even(batch, multiple) == expected


def plan(tmp_path, name, **options):
    text, budget, overrides = RECIPES[name]
    options = {"budgets": (f"{budget},{4 * budget}",), "min_steps": 2} | options
    wanted = Options(tmp_path, text, overrides=overrides, **options)
    return command.planned(wanted)[0]


@pytest.mark.parametrize("name", RECIPES)
def test_every_language_and_image_model_is_planned(name, tmp_path):
    ladder = plan(tmp_path, name, tokens_per_parameter=("0.5,8",), seeds=("3,5",))
    assert {run.seed for run in ladder.runs} == {3, 5}
    assert ladder.unit == ("images" if "mae" in name else "residues")
    for run in ladder.runs:
        assert run.flops == pytest.approx(run.budget, rel=0.5 / run.steps + 1e-9)
        assert run.seen == run.steps * run.batch * UNITS_PER_ROW[name]
        assert run.epochs == run.seen / run.unique
    params = sorted({run.params for run in ladder.runs})
    assert len(params) > 1
    # each is the size nearest to what was asked for, as near as a grid of these widths can be
    ratios = [run.flops / (6 * run.params**2) for run in ladder.runs]
    assert min(ratios) < 4 and max(ratios) > 1
