"""The reference says all: every key, flag and variable is on its page, with a meaning."""

import ast
import fnmatch
import re

import pytest

from docs.generate import (
    api,
    commands,
    configuration,
    environment,
    error_texts,
    errors,
    exit_codes,
    experiments,
)
from docs.generate.error_texts import Error
from docs.generate.source import ROOT, sentence
from phenomjax.config import objectives
from phenomjax.config.checks import flatten
from phenomjax.config.keys import base
from phenomjax.system import errors as system_errors
from tests.kinds import offers


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
        ("keeps min(a_b, 1), in x/y_*.z", "Keeps min(`a_b`, 1), in `x/y_*.z`."),
    ],
)
def test_a_comment_as_a_sentence(comment, text):
    assert sentence(comment) == text


def test_every_room_of_the_api_has_its_modules_and_a_word():
    rooms = {
        path.name for path in (ROOT / "phenomjax").iterdir() if (path / "__init__.py").exists()
    }
    assert set(api.ROOMS) - {"loop"} <= rooms
    told = re.search(r"Not here are the rooms .*?\)", api.index(), re.DOTALL)[0]
    left_out = set(re.findall(r"`(\w+)`", told))
    assert left_out == rooms - set(api.ROOMS)
    assert all(api.what(room).endswith(".") and api.modules(room) for room in api.ROOMS)
    assert "phenomjax.data.images.bank" in api.modules("data")
    assert "::: phenomjax.sharding\n" in api.page("loop")


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


def test_every_command_and_flag_is_on_its_page_with_a_meaning():
    own = {one.name: one for all_of in commands.commands().values() for one in all_of}
    doors = {name.removeprefix("phenomjax."): flags for name, (_, flags) in offers.doors().items()}
    short = {"runs.reconstructions": "reconstructions", "checkpoints.seal": "seal"}
    doors = {short.get(name, name): flags for name, flags in doors.items()}
    assert own.keys() == doors.keys()
    # no flags, or not shown
    hidden = {"help", "overrides", "no_no_header"}
    hidden |= {"quiet", "json"}  # of all commands: said once
    hidden |= {"codec", "chunk", "images_per_shard", "not_in", "out"}  # of `prepare append`
    hidden |= {"num_plates", "sites_per_well", "wells_per_plate"}  # of `prepare simulate`
    index = commands.index()
    for name, command in own.items():
        flags = [flag for _, of_kind in command.kinds for flag in of_kind]
        names = {one.removeprefix("--") for flag in flags for one in flag.names}
        switched = {f"no_{one}" for one in names}  # `--no_strict` is read, and not shown
        switched |= {one.removeprefix("no_") for one in names}
        # `with_`, for Python; in capitals what a class says of itself
        told = {flag.rstrip("_") for flag in doors[name] if not flag.isupper()}
        assert told - names - switched <= hidden, name
        assert [flag.names for flag in flags if not re.search(r"[a-z]{2}", flag.help)] == []
        page = commands.page(name.split()[0]).replace("\\|", "|")
        assert [n for flag in flags for n in flag.names if f"`{n}" not in page] == []
        assert command.what and f"`{name}`" in index


def test_what_a_flag_is():
    (embed, _) = commands.commands()["embed"]
    rows = {flag.names[0]: commands._row(flag) for flag in embed.kinds[0][1]}
    assert rows["--crop_size"] == (
        "| `--crop_size PX` | Of the square crops; 0: as in training. Default `0`. |"
    )
    assert rows["--checkpoint"].endswith("**Required.** |")
    (main,) = commands.commands()["main"]
    assert main.kinds[0][1][0].help == (
        "experiment, such as configs/mae.py:L/8,mask=0.75; or the config.json of a run"
    )


def test_every_exit_code_is_on_the_page():
    known = {n: c for n, c in vars(system_errors).items() if n.startswith("EXIT_")}
    assert {name: code for code, (name, _) in exit_codes.codes().items()} == known
    assert all(len(words) > 10 for _, words in exit_codes.codes().values())
    assert "| 75 | `EXIT_STOPPED` |" in exit_codes.page()


def test_every_error_is_on_one_page():
    of = {name: errors.page(name) for name in errors.PAGES}
    found = errors.errors()
    assert len(found) > 1200
    for error in found:
        page = of[next(name for name, (_, rooms) in errors.PAGES.items() if error.room in rooms)]
        assert f"{errors.path_of(error.module)}#L{error.line})" in page
    # a text about one record of many says what is wrong with it; nearly all others what to do
    assert sum(bool(error.mend) for error in found) > 0.84 * len(found)


SOURCE = """
CAUSE = "the disk is full, or may not be written to"
class OwnError(UserError):
    pass
class Reader:
    def _hint(self):
        return f"It has the columns {self.names}."
    def read(self, path, n):
        mend = f"Give `crop_size` {n + 1}"
        raise OwnError(f"{path} has no column 'well': {CAUSE}. {self._hint()} {mend}.", EXIT_FAILED)
def check(c, out):
    if c.a:
        raise UserError(
            f"config.a is {c.a!r}.{did_you_mean(c.a, KNOWN)} It can be {', '.join(KNOWN)}."
        )
    what = "a table" if out else "a folder"
    raise UserError(f"`out` is {what}" + " and must not be: name a file." * bool(out))
"""


def test_a_text_as_it_is_read_from_the_source(monkeypatch):
    monkeypatch.setattr(error_texts, "names", lambda: {"UserError", "OwnError"})
    first, second, third = error_texts.errors_of("phenomjax.maps.x", ast.parse(SOURCE))
    assert first == Error(
        "phenomjax.maps.x",
        10,
        "Reader.read",
        "⟨path⟩ has no column 'well': the disk is full, or may not be written to."
        " It has the columns ⟨names⟩. Give `crop_size` ⟨n⟩.",
        1,
    )
    assert first.mend == "It has the columns ⟨names⟩. Give `crop_size` ⟨n⟩."
    assert second.text == "config.a is ⟨a⟩. Did you mean '⟨…⟩'? It can be ⟨KNOWN⟩."
    assert second.what == "config.a is ⟨a⟩."
    assert third.text == "`out` is ⟨what⟩ and must not be: name a file."
    assert third.mend == "name a file."
    entry = errors._entry([first])
    assert "**It has the columns <var>names</var>. Give `--crop_size` <var>n</var>.**" in entry
    assert "exit code 1" in entry
