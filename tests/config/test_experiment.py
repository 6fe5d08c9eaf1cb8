"""Configurations as a command line names them: files of users, stored ones, and values on top."""

import json
import os
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from phenomjax.config import base, finalize, stored
from phenomjax.config.checks import flatten
from phenomjax.config.experiment import read_config
from phenomjax.system.errors import UserError
from phenomjax.system.user_files import same_path

EXPERIMENT = """
from phenomjax import config

def get_config():
    c = config.base("mae")
    c.seed = 5
    c.num_steps = 40
    c.eval.every_steps = c.get_ref("num_steps")
    return c
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(EXPERIMENT)
    return str(path)


def test_values_come_on_top_in_all_spellings(file):
    words = "--config.num_steps=7 --config.optimizer.learning_rate 1 --config.eval.seed -1"
    words += " -config.seed=1 --config.seed=2 --noconfig.log.tensorboard --config.log.sample_ids"
    words += " --config.data.banks=a --config.data.banks=('b','c',) --config.log.wandb_project="
    found = read_config(file, words.split())
    assert (found.num_steps, found.seed, found.eval.seed) == (7, 2, -1)
    assert found.eval.every_steps == 7  # which refers to it
    assert found.optimizer.learning_rate == 1.0
    assert isinstance(found.optimizer.learning_rate, float)
    assert (found.log.tensorboard, found.log.sample_ids) == (False, True)
    assert found.data.banks == ("a", "b", "c") and found.log.wandb_project == ""
    assert read_config(file, ["--config.log.tensorboard", "false"]).log.tensorboard is False


@pytest.mark.parametrize(
    ("word", "text"),
    {
        "--config.num_step=10": "There is no key 'num_step'. Did you mean 'num_steps'?",
        "--config.learning_rate=1": "Did you mean 'optimizer.learning_rate'?",
        "--config.lr=1": "Did you mean 'optimizer.learning_rate'?",
        "--config.batch_size=8": "Did you mean 'global_batch_size'?",
        "--config.evl.batch_size=8": "Did you mean 'eval.batch_size'?",
        "--config.optimiser.name=lion": "Did you mean 'optimizer.name'?",
        "--config.mesh=dp": "config.mesh is a section: give one of its keys, mesh.",
        "--config.num_steps": "--config.num_steps has no value",
        "--config.num_steps=1e3": "is not a whole number, and config.num_steps is (now 40). Set"
        " --config.num_steps=1000.",
        "--config.optimizer.clip_norm=None": "0.0 = off: set --config.optimizer.clip_norm=0.0.",
        "--config.checkpoint.keep_best=no": "0 = none: set --config.checkpoint.keep_best=0.",
        "--config.log.tensorboard=maybe": "is not true or false",
        "--config.optimizer.b1=big": "is not a number, and config.optimizer.b1 is (now 0.9)",
        "--config.data.banks=a,b": "is not a list, such as \"('a', 'b')\"",
        "--config.data.banks=('a'": "is not a list",
        "--noconfig.seed": "--noconfig.seed turns a switch off",
        "num_steps=3": "'num_steps=3' is not --config.KEY=VALUE",
    }.items(),
)
def test_mistakes_in_values(word, text, file):
    with pytest.raises(UserError) as error:
        read_config(file, [word])
    assert text in str(error.value) and "\\" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "spec", "text"),
    [
        (EXPERIMENT, "{}:L/8", "takes no argument, and 'L/8' stands behind the colon"),
        ("def get_config(size): ...", "{}", "wants an argument (size): give it as {}:SIZE"),
        ("def get_confg(): ...", "{}", "no function get_config(). Did you mean 'get_confg'?"),
        ("def get_config(): return {}", "{}", "returned a dict; it must return the configuration"),
        ("def get_config(:", "{}", "line 1: the experiment {} cannot be read: SyntaxError"),
        ("import nothing_of_that_name", "{}", "line 1: the experiment {} cannot be read: Module"),
        (EXPERIMENT.replace("= 5", "= 'x'"), "{}", "line 6: the experiment {} cannot be read"),
        (EXPERIMENT, "{}x", "does not exist. Did you mean '{}'?"),
        (EXPERIMENT, "{}/..", "is a folder"),
        ("\0", "{}", "cannot be read"),
        ("x = 1", "{}", "has no function get_config()"),
        ("def get_config(): return 1 / 0", "{}", "line 1: the experiment {} cannot be read: Zero"),
    ],
)
def test_mistakes_in_files(source, spec, text, file):
    Path(file).write_text(source)
    spec = os.path.normpath(spec.replace("{}", file))
    with pytest.raises(UserError) as error:
        read_config(spec)
    assert text.replace("{}", file) in str(error.value), error.value


def test_the_configuration_of_a_run_is_one(file, tmp_path):
    stored.save(read_config(file, ["--config.model.depth=3"]), tmp_path / "config.json")
    again = read_config(str(tmp_path / "config.json"), ["--config.seed=6"])
    assert flatten(again) == flatten(read_config(file, ["--config.model.depth=3"])) | {"seed": 6}
    for spec, text in {
        f"{tmp_path}/config.json:S/8": "is a stored configuration and takes no argument",
        f"{tmp_path}/none.json": "There is no",
        str(tmp_path): f"The configuration of that run is {tmp_path}/config.json",
    }.items():
        with pytest.raises(UserError, match=text):
            read_config(spec)
    (tmp_path / "other.json").write_text('{"results": 3}')
    with pytest.raises(UserError, match=r"other.json is no configuration of a run"):
        read_config(f"{tmp_path}/other.json")
    with pytest.raises(UserError, match="is an address: copy the experiment"):
        read_config("https://somewhere/mine.py")
    (tmp_path / "config.json").write_text("print('run')")
    with pytest.raises(UserError, match="is not valid JSON"):
        read_config(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    "section,key,value,text",
    [
        ("optimizer", "learning_rate", 10**400, "too large"),
        (None, "batch_ramp", [8], "must be a list of lists, each a whole number"),
        (None, "freeze", [["head/.*"]], "must be a list, each a text"),
        (None, "optimizer", 3, "a section is wanted"),
        (None, "num_steps", True, "must be a whole number"),
    ],
    ids=["large", "flat", "nested", "section", "switch"],
)
def test_a_configuration_that_was_edited_is_told(file, tmp_path, section, key, value, text):
    path, content = tmp_path / "config.json", read_config(file).to_dict()
    (content[section] if section else content)[key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{path} says .*{text}"):
        read_config(str(path))
    path.unlink()
    with pytest.raises(UserError, match=r"--config\.stop_at_step=1, makes the same"):
        read_config(str(path))
    path.mkdir()
    with pytest.raises(UserError, match=f"{path} cannot be read"):
        read_config(str(path))


def test_keys_of_another_task_are_told_as_such(file):
    with pytest.raises(
        UserError, match=r"crop_size is not a key.* more are none either: these are"
    ):
        finalize(read_config(file, ["--config.task=causal_lm"]))


def test_home_is_home_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bank.zarr").mkdir()
    c = base("mae")
    c.init_from, c.data.banks, c.data.cache = "~/run", ("~/bank.zarr",), "~/x"
    found = finalize(c)
    assert found.init_from == f"{tmp_path}/run"
    assert found.data.banks == (f"{tmp_path}/bank.zarr",)
    assert found.data.cache == f"{tmp_path}/x"


def test_spellings_of_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two").mkdir()
    (tmp_path / "link").symlink_to("two")
    for other in ("two/", "./two", str(tmp_path / "two"), "link", "../" + tmp_path.name + "/two"):
        assert same_path("two", other)
        old, new = ConfigDict({"init_from": "two"}), ConfigDict({"init_from": other})
        stored.check_same_run(new, old, tmp_path)
    assert not same_path("two", "three") and not same_path("", "two")
    assert same_path("s3://a/b/", "s3://a/b") and not same_path("s3://a", "a")
