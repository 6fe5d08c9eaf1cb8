"""What `config.task` can name: objectives of ours by their files, one from outside by module and
class; each mistake in the name has its paragraph.
"""

import re
import sys

import jax
import numpy as np
import pytest

from phenomjax import config, tasks, train
from phenomjax.checkpoints import loading
from phenomjax.config import checks, objectives, stored
from phenomjax.system.errors import EXIT_STOPPED, UserError
from phenomjax.tasks.protocol import MEMBERS

OUTSIDE = "tests.lab.outside_objective:Contrastive"


def make_config(**changes):
    c = config.base(OUTSIDE)
    c.num_steps, c.global_batch_size, c.data.crop_size = 6, 8, 16
    c.data.simulate.plates, c.data.simulate.wells, c.data.simulate.size = 2, 6, 48
    c.data.val_fraction, c.log.tensorboard, c.optimizer.schedule = 0.5, False, "constant"
    c.log.every_steps, c.eval.every_steps, c.checkpoint.every_steps = 1, 3, 3
    c.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return c


def test_an_objective_from_outside_trains_resumes_and_starts_another_run(tmp_path):
    assert train.run(make_config(), tmp_path / "straight") == 0
    assert train.run(make_config(stop_at_step=2), tmp_path / "stopped") == EXIT_STOPPED
    assert train.run(make_config(), tmp_path / "stopped") == 0
    found, expected = (loading.load(tmp_path / name) for name in ("stopped", "straight"))
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])
    lines = (tmp_path / "straight" / "metrics.jsonl").read_text()
    assert '"train/accuracy"' in lines and '"val/accuracy"' in lines
    assert found[0].task == OUTSIDE and found[0].model.temperature == 0.2
    changed = make_config(model__dim=4)
    with pytest.raises(UserError, match=r"model\.dim: 8 there, 4 now"):
        train.run(changed, tmp_path / "straight")
    following = make_config(
        init_from=str(tmp_path / "straight"),
        num_steps=1,
        eval__every_steps=0,
        figures__num_images=0,
    )
    assert train.run(following, tmp_path / "following") == 0


def test_its_keys_are_checked_and_stored(tmp_path):
    c = config.finalize(make_config())
    stored.save(c, tmp_path / "config.json")
    assert checks.flatten(stored.load(tmp_path / "config.json")) == checks.flatten(c)
    with pytest.raises(UserError, match=r"config.model.temperature is -1.0; it must be above 0"):
        config.finalize(make_config(model__temperature=-1.0))
    c = make_config()
    c.model.dmi = 3
    with pytest.raises(
        UserError, match=r"'model.dim'\? All keys stand in .* tests/lab/outside_objective.py"
    ):
        config.finalize(c)


def test_ours_are_the_files_of_both_rooms_and_complete():
    names = ("bidirectional_lm", "causal_lm", "mae", "permutation_lm", "perturbation")
    assert objectives.known() == names
    for name in names:
        assert config.base(name).task == name
        assert not [m for m in MEMBERS if not hasattr(objectives.class_of(name, MEMBERS), m)]
    assert len(MEMBERS) == 10


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "somebody"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "keyless.py").write_text("class Objective: pass\nclass Other: pass\n")
    (folder / "half.py").write_text(
        "from phenomjax.config.mae import add_sections, check\n"
        "class Objective:\n    def loss(self): pass\n    def init(self): pass\n"
    )
    (folder / "poor.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "somebody"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "task,text",
    [
        (
            "casual_lm",
            "config.task is 'casual_lm'. Did you mean 'causal_lm'? It can be bidirectional_lm,"
            " causal_lm, mae, permutation_lm, perturbation, or package.module:Class, for one of"
            " your own.",
        ),
        ("somebody.half", "config.task is 'somebody.half'. It can be bidirectional_lm"),
        (":Objective", "names no module: write package.module:Class."),
        (
            "nobody.there:Objective",
            "there is no module nobody. It is looked for where Python imports from: install it,"
            " start from the folder that holds it with `python -m phenomjax.main`, or add that",
        ),
        ("somebody.away:Objective", "there is no module somebody.away."),
        (
            "somebody.poor:Objective",
            "importing somebody.poor failed: No module named 'a_library_that_is_not_there'."
            " Install what it needs.",
        ),
        (
            "somebody.keyless:Objective",
            "somebody.keyless has no add_sections(config) and no check(config): its keys are not"
            " known. Write add_sections,",
        ),
    ],
)
def test_mistakes_in_the_name(task, text, package):
    with pytest.raises(UserError, match=re.escape(text)):
        config.base(task)


@pytest.mark.parametrize(
    "task,text",
    [
        (
            "somebody.keyless:Objektive",
            "somebody.keyless has no class 'Objektive'. Did you mean 'Objective'? Its classes:"
            " Objective, Other.",
        ),
        (
            "somebody.half:Objective",
            "but Objective lacks next_command, resolve, loader, carry, evaluate, embed, figure,"
            " flops: it is no objective. phenomjax/tasks/protocol.py says what each does.",
        ),
    ],
)
def test_mistakes_in_the_class(task, text, package):
    c = config.base()
    c.task = task
    with pytest.raises(UserError, match=re.escape(text)):
        tasks.make(c)
