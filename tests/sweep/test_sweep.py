"""Decisions, spaces, samplers and claims of sweeps, apart from any process; and the mistakes a user
can make.
"""

import json
import os
import shutil
import subprocess
import sys

import jsonschema
import pytest

from docs.generate import formats
from phenomjax.sweep import space
from phenomjax.sweep.claims import Claims
from phenomjax.sweep.halving import DONE, WAIT, Assignment, Standing, decide, rungs
from phenomjax.system import ending
from phenomjax.system.errors import UserError
from tests.lab import ROOT

pytest.importorskip("optuna")
from phenomjax.sweep import __main__ as front
from phenomjax.sweep import report, sampling, study

TOY = "tests/lab/toy_sweep.py"


@pytest.mark.parametrize(
    "arguments,expected",
    [
        ((200, 10, 4, 0), [20, 80, 200]),
        ((1200, 300, 4, 0), [300, 1200]),
        ((81, 1, 3, 1), [1, 3, 9, 27, 81]),
        ((100, 20, 2, 30), [40, 80, 100]),
    ],
)
def test_rungs_stand_where_the_validation_loss_is_known(arguments, expected):
    assert rungs(*arguments) == expected


def test_rungs_that_prune_nothing():
    with pytest.raises(
        UserError,
        match=r"lowest rung is step 100 and the run ends at step 100 .* Lower --config.eval",
    ):
        rungs(100, 100, 4, 0)


def test_successive_halving_goes_as_algorithm_2():
    """Nine trials, eta 3, rungs of 1, 3 and 9 steps (section 3.1 of the paper): nine, three and one
    get there.
    """
    losses = [0.5, 0.9, 0.1, 0.8, 0.7, 0.3, 0.6, 0.2, 0.4]
    standings: list[Standing] = []
    jobs = []
    while (job := decide(standings, 3, 3, 9, set())) != DONE:
        jobs.append((job.number, job.heading))
        if job.number is None:
            standings.append(Standing(len(standings)))
        else:
            e = standings[job.number]
            results = (*e.losses, losses[e.number])
            standings[e.number] = Standing(e.number, results, job.heading, closed=len(results) == 3)
    new = (None, 0)
    # After three results the best of them is promoted; after six and nine another, and the best of
    # the middle rung goes to the end.
    assert jobs == [
        new,
        (0, 0),
        new,
        (1, 0),
        new,
        (2, 0),
        (2, 1),
        new,
        (3, 0),
        new,
        (4, 0),
        new,
        (5, 0),
        (5, 1),
        new,
        (6, 0),
        new,
        (7, 0),
        (7, 1),
        (2, 2),
        new,
        (8, 0),
    ]


def test_who_goes_next():
    paused = [Standing(0, (0.3,)), Standing(1, (0.2,)), Standing(2, (0.1,))]
    assert decide(paused, 2, 3, 3, set()) == Assignment(2, 1)
    running = [*paused[:2], Standing(2, (0.1,), heading=1)]
    assert decide(running, 2, 3, 3, {2}) == WAIT  # its end decides whether anybody else is needed
    assert decide(running, 2, 3, 4, {2}) == Assignment(None, 0)
    # its worker died: that comes before anything new
    assert decide(running, 2, 3, 4, set()) == Assignment(2, 1)
    assert (
        decide([*paused[:2], Standing(2, (0.1, 0.1), heading=1, closed=True)], 2, 3, 3, set())
        == DONE
    )
    # One that diverged fills its rung as its worst, and is never promoted.
    assert decide(
        [Standing(0, (0.3,)), Standing(1, closed=True, diverged=True)], 2, 2, 2, set()
    ) == Assignment(0, 1)
    # Fewer trials than eta: the best gets to the end all the same, when nothing else is to come.
    assert decide([Standing(0, (0.3,)), Standing(1, (0.2,))], 3, 4, 2, set()) == Assignment(1, 1)
    assert decide(
        [Standing(0, (0.3,)), Standing(1, (0.2, 0.2), heading=1)], 3, 4, 2, set()
    ) == Assignment(1, 2)
    assert decide([Standing(0, (0.3,), closed=True)], 1, 4, 1, set()) == DONE  # no halving
    # all failed
    assert decide([Standing(0, closed=True), Standing(1, closed=True)], 3, 4, 2, set()) == DONE


def test_values_depend_on_seed_and_number_alone():
    axes = {
        "a": space.choice(1, 2),
        "b": space.log_uniform(1e-4, 1e-2),
        "c": space.integer(1, 9, 2),
        "d": space.uniform(0, 1, 0.25),
    }
    assert space.from_json(json.loads(json.dumps(space.to_json(axes)))) == axes
    first = sampling.propose("random", axes, 3, [])
    assert (
        first == sampling.propose("random", axes, 3, []) != sampling.propose("random", axes, 4, [])
    )
    assert set(first) == set(axes) and first["c"] % 2 == 1 and first["d"] in (0, 0.25, 0.5, 0.75, 1)
    del axes["b"]
    points = sampling.points(axes, seed=1)
    assert len(points) == 2 * 5 * 5 == len({tuple(p.items()) for p in points})
    assert points != sampling.points(axes, seed=2) and sorted(map(str, points)) == sorted(
        map(str, sampling.points(axes, 2))
    )


def test_tpe_learns_from_paused_trials_and_from_diverged_ones(tmp_path, capsys):
    settings = study.SweepSettings(
        str(tmp_path),
        TOY,
        [],
        space.to_json({"x": space.uniform(0, 1)}),
        "tpe",
        "asha",
        [4, 16],
        4,
        0,
        60,
        [],
        "",
        ".",
    )
    opened = study.Study(settings, create=True)
    for i in range(40):
        x = i / 40
        opened.create({"x": x})
        if x > 0.5:
            opened.close(i, study.TrialState.PRUNED, None, "diverged: loss nan")
        else:
            opened.add_losses(i, {4: abs(x - 0.2)})
            opened.set(i, losses=[abs(x - 0.2)])
    assert [e.diverged for e in opened.standings()] == [i / 40 > 0.5 for i in range(40)]
    drawn = [
        sampling.propose("tpe", opened.space, seed, opened.trials())["x"] for seed in range(12)
    ]
    assert sum(abs(x - 0.2) < 0.1 for x in drawn) >= 9, drawn  # by chance 2.4 of 12
    opened.finish()
    opened.finish()
    states = [t.state.name for t in opened.trials()]
    assert states == ["PRUNED"] * 40 and opened.trials()[8].value == 0
    objects(opened, capsys)


def objects(opened, capsys):
    """What scripts are told of that sweep: as its schema says, and a command that can be read."""
    with ending.told("sweep", as_json=True):
        report.tell(opened)
    told = json.loads(capsys.readouterr().out)
    schema = formats.schemas(formats.OBJECTS)["sweep_object"]
    jsonschema.Draft202012Validator(schema).validate(told)
    assert told["trials"] == {"pruned": 21, "diverged": 19}
    workdir = opened.settings.workdir(8)
    best = {"trial": 8, "state": "pruned", "val/loss": 0.0, "step": 4, "workdir": str(workdir)}
    assert told["best"] == told["all_trials"][0] == best | {"settings": {"x": 0.2}}
    assert told["all_trials"][-1]["val/loss"] is None and len(told["all_trials"]) == 40
    (command,) = told["next"]
    assert command.startswith(f"python -m phenomjax.main --config {TOY} --config.x=0.2 --workdir ")


def test_a_claim_has_one_owner(tmp_path, monkeypatch):
    ours, theirs = Claims(tmp_path), Claims(tmp_path)
    assert ours.take("trial") and not theirs.take("trial") and theirs.held("trial")
    ours.release("trial")
    assert not theirs.held("trial") and theirs.take("trial") and not ours.take("trial")
    # The owner's process is gone: free at once on the same machine.
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    claim = json.loads((tmp_path / "trial" / "00001").read_text())
    (tmp_path / "trial" / "00001").write_text(json.dumps(claim | {"pid": dead.pid}))
    assert ours.take("trial")
    # A process with the same number that began later is another one.
    claim = json.loads((tmp_path / "trial" / "00002").read_text())
    (tmp_path / "trial" / "00002").write_text(json.dumps(claim | {"started": "1"}))
    assert theirs.take("trial") and not ours.beat()  # and whoever was robbed learns it
    assert theirs.beat()


def test_a_silent_claim_of_another_machine_ends_with_its_lease(tmp_path):
    ours, theirs = Claims(tmp_path, lease_seconds=0.0), Claims(tmp_path, lease_seconds=3600.0)
    (tmp_path / "trial").mkdir()
    claim = {
        "machine": "elsewhere",
        "pid": os.getpid(),
        "started": "1",
        "beat": 1,
        "released": False,
    }
    (tmp_path / "trial" / "00000").write_text(json.dumps(claim))
    assert not theirs.take("trial") and not theirs.take("trial")  # it may live
    assert not ours.take("trial")  # seen for the first time
    (tmp_path / "trial" / "00000").write_text(json.dumps(claim | {"beat": 2}))
    assert not ours.take("trial")  # it lives
    assert ours.take("trial")
    assert not ours.take("new") or ours.take("new") is False  # a thing is taken once
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "00000").touch()  # its owner died before the first word
    assert theirs.held("torn") and ours.held("torn") and not ours.held("torn")


def sweep(config, *arguments, tmp_path):
    return front.main(["--config", config, "--study", str(tmp_path / "study"), *arguments])


SPACES = {
    "empty": ("{}", r"is empty: there is nothing to vary"),
    "unknown": (
        '{"optimizer.learning_rat": uniform(0, 1)}',
        r"not a key of the configuration. Did you mean 'optimizer.learning_rate'\?",
    ),
    "type": (
        '{"model.depth": choice("deep")}',
        r"model.depth takes 'deep', but config.model.depth is of type int",
    ),
    "half": (
        '{"model.depth": uniform(1, 4.5)}',
        r"model.depth takes 1.0|model.depth takes 4.5, but config.model.depth is of type int",
    ),
    "fixed": (
        '{"num_steps": choice(1, 2)}',
        r"num_steps cannot vary: trials are compared at the same steps",
    ),
    "range": (
        '{"optimizer.learning_rate": uniform(1, 0)}',
        r"goes from 1.0 to 0.0 .* that range is empty",
    ),
    "log": (
        '{"optimizer.learning_rate": log_uniform(0, 1)}',
        r"a logarithmic range begins above 0",
    ),
    "none": (
        '{"seed": choice()}',
        r"must be a choice between numbers, texts, True or False, at least one",
    ),
    "kind": ('{"seed": 3}', r"must return a dict of keys and axes"),
    "arguments": ('{"seed": uniform()}', r"search_space\(\) fails: .*missing 2 required"),
}


@pytest.mark.parametrize("name", SPACES)
def test_mistakes_in_a_search_space(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    text, message = SPACES[name]
    config = tmp_path / "config.py"
    source = (
        (ROOT / TOY)
        .read_text()
        .partition("def search_space")[0]
        .replace("import choice, log_uniform", "import *")
    )
    config.write_text(f"{source}\n\ndef search_space():\n    return {text}\n")
    with pytest.raises(UserError, match=message):
        sweep(str(config), tmp_path=tmp_path)


@pytest.mark.parametrize(
    "config,arguments,message",
    [
        (
            "configs/mae.py:S/8",
            [],
            (
                r"configs/mae.py has no search_space\(\): a sweep does not know what to vary. Add"
                r" to that file"
            ),
        ),
        ("configs/mae_dmeo.py", [], r"configs/mae_dmeo.py"),
        (
            TOY,
            ["--sampler", "grid"],
            (
                r"--sampler grid needs countable values, and optimizer.learning_rate is any number"
                r" from 0.0001 to 0.1"
            ),
        ),
        (TOY, ["--config.num_steps", "3"], r"'--config.num_steps' is not an option. Values of all"),
        (TOY, ["--config.nmu_steps=3"], r"nmu_steps"),
        (
            TOY,
            ["--config.optimizer.weight_decay=0.2"],
            r"holds for all trials, but that key is the sweep's to set",
        ),
        (
            TOY,
            ["--config.eval.every_steps=0"],
            r"no trial has the val/loss by which they are compared",
        ),
        (TOY, ["--vary", "seed"], r"--vary seed is not KEY=A,B. Give each key .* seed=0,1,2"),
        (TOY, ["--vary", "seed=0", "seed=1"], r"--vary seed=1 names a key twice"),
        (TOY, ["--vary", "seed=0,0"], r"--vary seed=0,0 names a value twice"),
        (TOY, ["--vary", "seed=0,one"], r"--vary seed=0,one: config.seed is of type int \(0\)"),
        (TOY, ["--vary", "data.banks=a,b"], r"config.data.banks is of type tuple"),
        (TOY, ["--vary", "sead=0,1"], r"--vary: sead is not a key .* Did you mean 'seed'\?"),
        (TOY, ["--eta", "1"], r"--eta is 1; it must be at least 2"),
        (
            TOY,
            ["--storage", "postgresql://nobody:secret@127.0.0.1:1/x"],
            r"The storage postgresql\+psycopg://nobody:\*\*\*@127.0.0.1:1/x cannot",
        ),
        (TOY, ["--storage", "nonsense"], r"The storage .* cannot be opened"),
    ],
)
def test_mistakes_on_the_command_line(config, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message) as error:
        sweep(config, *arguments, tmp_path=tmp_path)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_values_of_the_command_line_are_a_grid_that_runs_to_its_end(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["data.split_by=plate,experiment", "seed=0,1,2", "data.flip=true,false"]
    options = front.Options(tmp_path / "study", TOY, vary=tuple(words))
    settings = front.settings(options)
    assert settings.space == {
        "data.split_by": ["plate", "experiment"],
        "seed": [0, 1, 2],
        "data.flip": [True, False],
    }
    assert (settings.num_trials, settings.rungs, settings.pruner) == (12, [32], "none")
    assert len(sampling.points(space.from_json(settings.space), 0)) == 12


def test_a_mistyped_option(tmp_path):
    with pytest.raises(UserError, match=r"no flag --trails. Did you mean '--trials'"):
        sweep(TOY, "--trails=3", tmp_path=tmp_path)
    with pytest.raises(UserError, match=r"no flag --dropout\..* Keys .* as --config.KEY=VALUE"):
        sweep(TOY, "--dropout=0.1", tmp_path=tmp_path)


def test_optuna_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        UserError,
        match=(
            r"Sweeps and ladders need Optuna, which is not installed. Run `pip install -e"
            r" '.\[sweep\]'`"
        ),
    ):
        sweep(TOY, tmp_path=tmp_path)


def test_a_folder_holds_one_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(
        UserError, match=r"is not the folder of a sweep: it has no sweep.json. Begin one with"
    ):
        front.main(["--study", str(tmp_path / "study"), "--report"])
    parser = ["--config", TOY, "--study", str(tmp_path / "study")]
    monkeypatch.setattr("phenomjax.sweep.launchers.local", lambda *_: 0)
    with pytest.raises(UserError, match=r"The workers ended before the sweep was done"):
        front.main(parser)
    with pytest.raises(
        UserError,
        match=(
            r"study 'study' with other settings: seed: 0 there, 1 now. Trials of two spaces or"
            r" lengths"
        ),
    ):
        front.main([*parser, "--seed", "1"])
    with pytest.raises(UserError, match=r"config.optimizer.b1: .* there, 0.5 now. Trials of two"):
        front.main([*parser, "--config.optimizer.b1=0.5"])
    # the same by another path, or with what does not matter, is the same sweep
    shutil.copy(ROOT / TOY, tmp_path / "another.py")
    for other in (["--config", str(tmp_path / "another.py")], ["--config.log.tensorboard=false"]):
        with pytest.raises(UserError, match="The workers ended before"):
            front.main([*parser, *other])
    (tmp_path / "study" / "sweep.json").write_text("{")
    with pytest.raises(
        UserError, match=r"sweep.json is damaged .* Run the command that began the sweep again"
    ):
        front.main(["--study", str(tmp_path / "study"), "--report"])
