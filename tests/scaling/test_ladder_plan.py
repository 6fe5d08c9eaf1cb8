"""Plans of ladders: sizes of every family, steps, batch and learning rate by the stated rules; and
the mistakes a user can make.
"""

import shlex

import pytest

from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
from phenomjax.scaling import costs
from phenomjax.scaling.ladder import command, rules, sizes
from phenomjax.scaling.ladder.command import Options
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door

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
    "mae": ("configs/mae_demo.py", 1e10, PLATE),
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


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """A bank of 8 images on two plates, as a word of the command line."""
    path = tmp_path_factory.mktemp("screen") / "screen.zarr"
    settings = {"num_plates": 2, "wells_per_plate": 4, "field_px": 48, "cell_radius": 8.0}
    write_screen(path, SimulationConfig(**settings))
    return f"--config.data.banks=('{path}',)"


def plan(tmp_path, name, screen, **options):
    text, budget, overrides = RECIPES[name]
    if "mae" in name:
        overrides += (screen,)
    options = {"budgets": (f"{budget},{4 * budget}",), "min_steps": 2} | options
    wanted = Options(tmp_path, text, overrides=overrides, **options)
    return command.planned(wanted)[0]


@pytest.mark.parametrize("name", RECIPES)
def test_every_language_and_image_model_is_planned(name, screen, tmp_path):
    ladder = plan(tmp_path, name, screen, tokens_per_parameter=("0.5,8",), seeds=("3,5",))
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


def test_all_widths_of_a_family_follow_its_own():
    config = command.read_config(
        "configs/mae_demo.py", ["--config.model.parametrisation=complete_p"]
    )
    grown = sizes.family(config)
    assert (grown.width_at(1), grown.depth_at(32, "aspect"), grown.depth_at(32, "fixed")) == (
        32,
        1,
        4,
    )
    assert sizes.sized(grown, 256, 8).settings == {
        "model.embed_dim": 256,
        "model.num_heads": 8,
        "model.depth": 8,
        "model.decoder_dim": 256,
        "model.decoder_num_heads": 8,
        "model.decoder_depth": 4,
        "model.base_width": 128,
        "model.base_depth": 4,
        "model.decoder_base_width": 128,
        "model.decoder_base_depth": 2,
    }
    txl = sizes.family(command.read_config("configs/prot_txl.py:demo"))
    assert txl.resized(64, 2) == {
        "model.embed_dim": 64,
        "model.num_heads": 2,
        "model.mlp_dim": 256,
        "model.num_layers": 2,
    }
    elmo = sizes.family(command.read_config("configs/seqvec.py:demo"))
    assert elmo.resized(32, 2)["model.filters"] == "((1, 16), (2, 16), (3, 32))"
    dense = sizes.family(command.read_config("configs/perturbation_demo.py"))
    assert dense.resized(8, 9) == {
        "model.growth_rate": 8,
        "model.stem_features": 12,
        "model.block_config": "(3, 3, 3)",
    }


def test_a_classifier_is_planned_in_whole_parts_and_on_shares_of_its_data(tmp_path):
    overrides = ("data.simulate.plates=4", "data.simulate.wells=32", "data.simulate.size=48")
    overrides += (
        "data.simulate.cell_radius=8.0",
        "data.crop_size=32",
        'data.val_groups=("EXP04",)',
    )
    overrides += ("model.backbone=densenet", "data.simulate.num_single_genes=4")
    words = tuple(f"--config.{word}" for word in overrides)
    options = Options(
        tmp_path,
        "configs/perturbation_demo.py",
        budgets=("1e9", "4e9"),
        sizes=("8x3,16",),
        subsets=("1,.5",),
        min_steps=1,
        overrides=words,
    )
    ladder, *_ = command.planned(options)
    assert {run.size for run in ladder.runs} == {"8x3", "16x6"} and len(ladder.runs) == 8
    for run in ladder.runs:
        # two parts of two images or more
        assert run.batch % 4 == 0 and run.settings["data.subset"] == run.subset
    half, whole = (next(r for r in ladder.runs if r.subset == s) for s in (0.5, 1.0))
    assert 0.3 < half.unique / whole.unique < 0.7 and half.seen == whole.seen


@pytest.mark.parametrize(
    "words,message",
    [
        ([], r"--config is missing: python -m phenomjax.scaling ladder --config"),
        (["--config", "configs/mae_demo.py"], r"--budgets is missing"),
        (
            ["--budgets", "1e9,much"],
            r"--budgets has 'much'. Give numbers above 0 and at most 1e\+30, .* 1e15,3e15",
        ),
        (["--budgets", "-1e9"], r"--budgets has '-1e9'"),
        (["--budgets", "inf"], r"--budgets has 'inf'"),
        (["--subsets", "0.1,2"], r"--subsets has '2'. Give numbers above 0 and at most 1"),
        (["--seeds", "0,-1"], r"--seeds has '-1'. Give whole numbers"),
        (["--workers", "0"], r"--workers is 0; it must be at least 1"),
        (["--rate_exponent", "7"], r"--rate_exponent is 7.0; it must lie between 0 and 2"),
        (["--sizes", "big"], r"--sizes has 'big'. A size is WIDTH, WIDTHxDEPTH"),
        (["--sizes", "1000000"], r"--sizes has '1000000', .* no number of parameters"),
        (["--sizes", "64,64x2"], r"--sizes has 64x2 twice"),
        (["--sizes", "40"], r"width of 40, but heads of this family are 32 wide .* Take 32 or 64"),
        (["--sizes", "model.width=3"], r"config.model.width is not a key"),
        (["--sizes", "model.depth=deep"], r"config.model.depth is of type int \(4\)"),
        (["--config.model.dept=3"], r"There is no key 'model.dept'. Did you mean 'model.depth'\?"),
        (["--config.model.depth"], r"'--config.model.depth' is not an option. Values of all runs"),
        (["--min_steps", "9999999"], r"No run of this ladder has --min_steps 9999999 steps"),
        (["--config.data.val_fraction=0.0"], r"Nothing is held out"),
    ],
)
def test_mistakes(words, message, screen, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "run_tasks", lambda _, tasks, *rest: map(command.planned, tasks))
    given = {"--config": "configs/mae_demo.py", "--budgets": "1e10", "--sizes": "32x1"}
    held_out = ["--config.data.val_groups=()"] if "fraction" in str(words) else PLATE
    if not words or words == ["--config", "configs/mae_demo.py"]:
        given = {}
    own = [part for name, value in given.items() if name not in words for part in (name, value)]
    with pytest.raises(UserError, match=message) as error:
        run_as_door(command, [*own, screen, *held_out, *words, "--out", str(tmp_path), "--plan"])
    assert "\n" not in str(error.value)


def test_a_large_run_is_told_by_the_same_rules(screen, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "run_tasks", lambda _, tasks, *rest: map(command.planned, tasks))
    words = ["--config", "configs/mae_demo.py", "--budgets", "1e10,4e10", "--sizes", "32x1"]
    words += [screen, *PLATE, "--config.num_steps=50", "--flops_per_second", "1e9"]
    out = ["--out", str(tmp_path), "--plan", "--target", "4e11:64x2"]
    assert run_as_door(command, [*words, *out]) == 0
    said = capsys.readouterr().out
    assert "2 runs," in said and said.count("large run 64x2") == 1
    assert "2 runs, and `scaling fit` wants 6 or more: give more --budgets" in said
    forecast, train = (line.strip() for line in said.splitlines()[-2:])
    # main's words make the run that was planned
    words = [word for word in shlex.split(train) if word.startswith("--config.")]
    assert words.pop() == "--config.scaling.forecast=FILE"
    config = command.read_config("configs/mae_demo.py", words)
    (run,) = command.planned(
        Options(
            tmp_path,
            "configs/mae_demo.py",
            ("4e11",),
            ("64x2",),
            overrides=(screen, *PLATE, "--config.num_steps=50"),
        )
    )[0].runs
    assert (config.num_steps, config.global_batch_size) == (run.steps, run.batch)
    assert config.optimizer.learning_rate == run.rate and config.model.embed_dim == 64
    assert config.eval.batch_size == 16 and forecast.startswith(
        "python -m phenomjax.scaling forecast --fit"
    )
    assert costs.cost_of(config, tmp_path).flops_per_step * run.steps == run.flops
