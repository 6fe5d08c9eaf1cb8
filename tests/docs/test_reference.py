"""The reference says all: every key, flag and variable is on its page, with a meaning."""

import fnmatch
import re

import pytest

from docs.generate import configuration, environment, experiments
from docs.generate.source import ROOT, sentence
from phenomjax.config import objectives
from phenomjax.config.checks import flatten
from phenomjax.config.keys import base


@pytest.mark.parametrize("task", objectives.known())
def test_every_key_is_on_the_page_with_its_default_and_a_meaning(task):
    own = {key.name: key for key in configuration.every_key() if task in key.defaults}
    defaults = flatten(base(task))
    assert own.keys() == defaults.keys()
    assert {name: key.defaults[task] for name, key in own.items()} == defaults
    assert [name for name, key in own.items() if not re.search(r"[a-z]{3}", key.meaning)] == []
    page = configuration.page()
    assert [name for name in own if f"`{name}` {{ #" not in page] == []


def test_anchors_of_the_configuration_are_different():
    anchors = re.findall(r"\{ #(\S+) \}$", configuration.page(), re.MULTILINE)
    assert len(anchors) == len(set(anchors)) > 250


def test_what_a_key_is():
    keys = configuration.every_key()
    of = {(key.name, *sorted(key.defaults)): configuration._entry(key, "x") for key in keys}
    assert of["model.mask_ratio", "mae"] == (
        "#### `model.mask_ratio` { #x }\n\nfloat, above 0 and below 1 · default `0.75`\n\n"
        "Share of tokens that the encoder does not see.\n"
    )
    every = objectives.known()
    decay = of["optimizer.weight_decay", *every]
    assert "0 = none. Read where `optimizer.name` is `'adamw'`" in decay
    assert "`'adam'` of bidirectional_lm, causal_lm" in of["optimizer.name", *every]
    assert "Length of the phenotype that" in of["data.simulate.arm_bias", "mae", "perturbation"]


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        ("peak of b_1", "Peak of `b_1`."),
        ('"" = none, *as in* a --flag=1', r'`""` = none, \*as in\* a `--flag=1`.'),
        ("(1 - a) is a_b, of `c_d`.", "(1 - a) is `a_b`, of `c_d`."),
        ("a roll-back", "A roll-back."),
    ],
)
def test_a_comment_as_a_sentence(comment, text):
    assert sentence(comment) == text


def test_every_experiment_file_has_its_page():
    page = experiments.page()
    for path, text in experiments.experiments().items():
        assert f"blob/main/{path})" in page and len(text) > 100
    assert "by default `S/16`" in page
    assert "--config configs/mae.py:L/8,mask=0.75 \\\n  --config.data.banks=" in page


def test_every_variable_has_a_meaning():
    known = {one for entries in environment.launchers().values() for one in entries}
    known |= {(name, words) for name, words, _ in environment.declared()}
    files = [*ROOT.glob("phenomjax/**/*.py"), *(p for p in ROOT.glob("launch/*") if p.is_file())]
    used = {name for path in files for name in environment.OURS.findall(path.read_text())}
    assert used - {name for name, words in known if len(words) > 5} == set()
    read = environment.read_by_program() - used
    assert [n for n in read if not any(fnmatch.fnmatch(n, o) for o in environment.OTHERS)] == []
