"""The screen of commands, and options from dataclasses."""

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro

from phenomjax import __main__ as commands
from phenomjax.system import files, options
from phenomjax.system.errors import UserError
from tests.lab import ROOT


@dataclass(frozen=True)
class Options:
    """Of a command."""

    source: tuple[Path, ...]
    """files to read"""
    crop_size: int = 256
    """px of the crops,
    which are square"""
    threads: int = options.unrecorded(0)
    """that read"""


def run(parsed):
    """A command of a room."""
    if parsed.crop_size < 1:
        raise UserError(f"`crop_size` is {parsed.crop_size}, and `width` is nothing", 1)
    return 0


def test_all_spellings_and_records(capsys):
    words = ["--source", "a", "b", "--crop-size", "4", "--threads", "2"]
    parsed = options.parse(Options, words, "p", "page")
    assert parsed == Options((Path("a"), Path("b")), 4, 2)
    assert options.recorded(parsed) == {"source": ["a", "b"], "crop_size": 4}
    before, now = options.recorded(parsed), options.recorded(Options((Path("a"),), 4))
    assert options.differences(before, now) == ["`source` was a b, is now a"]
    for mistyped in (["--crop_sice", "4"], ["--crop_sice=4"]):
        with pytest.raises(SystemExit) as ended:
            options.parse(Options, ["--source", "a", *mistyped], "p", "page")
        assert ended.value.code == 2 and "--crop_size" in capsys.readouterr().err
    texts = ["--source=-a", "--source", "-a b=3"]  # values though they begin with a dash
    assert options.parse(Options, texts[:1], "p", "").source == (Path("-a"),)
    assert options.parse(Options, texts[1:], "p", "").source == (Path("-a b=3"),)
    with pytest.raises(SystemExit) as ended:
        options.parse(Options, ["--help"], "p", "what it does")
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(one in text for one in ("what it does", "px of the crops, which", "(default: 256)"))


def test_settings_in_errors_become_flags(caplog):
    with pytest.raises(UserError, match=r"^--crop_size is 0, and `width` is nothing$") as error:
        options.run_command(Options, run, "p", "", ["--source", "a", "--crop_size", "0"])
    assert error.value.exit_code == 1


@dataclass(frozen=True)
class Asked:
    """Of a command with a word that has no flag."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    out: Path = Path("out")
    """of the result"""


def write(asked):
    """Writes, or says what is missing."""
    if not asked.names:
        raise UserError("`names` is empty, and so is `out`")
    files.write_text(asked.out, "text")


def test_a_word_without_a_flag_and_a_folder_in_the_place_of_a_file(tmp_path):
    with pytest.raises(UserError, match=r"^`names` is empty, and so is --out$"):
        options.run_command(Asked, write, "p", "", [])
    (tmp_path / "f").mkdir()
    for out in (tmp_path / "f", options.__file__ + "/x"):
        with pytest.raises(UserError, match=r"cannot be used: .*give another name"):
            options.run_command(Asked, write, "p", "", ["word", "--out", str(out)])
    assert files.names(tmp_path) == ["f"]


def test_a_reader_that_has_seen_enough():
    code = "from phenomjax.system.errors import *\ndef run():\n  while True: print('x' * 80)\n"
    command = [sys.executable, "-c", code + "exit_on_user_error(run)"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout.readline() == "x" * 80 + "\n"
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 1


@pytest.mark.parametrize(
    "words,said",
    [
        (["phenomjax.checkpoints.seal", "configs"], "configs is no checkpoint"),
        (["phenomjax.runs.reconstructions", "--checkpoints", "--out", "x.png"], "at least one of"),
        (
            ["phenomjax.runs.reconstructions", "--checkpoints", "a", "--out", "x.xyz"],
            "--out is x.xyz: give a name that ends in .png",
        ),
        (["phenomjax.maps", "relate", "--profiles", "x", "--top", "0", "--out", "y"], "--top is 0"),
        (
            ["phenomjax.maps", "filter", "--profiles", "x", "--draws", "-3", "--out", "y"],
            "--draws is -3",
        ),
        (
            ["phenomjax.maps", "filter", "--profiles", "x", "--max_fdr", "-1", "--out", "y"],
            "--max_fdr is -1",
        ),
        (
            ["phenomjax.maps", "filter", "--profiles", "x", "--seed", "-1", "--out", "y"],
            "seed is -1",
        ),
    ],
)
def test_mistakes_that_are_told(words, said):
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_one_of_several_commands(capsys):
    table = {"go": (__name__, "goes")}
    assert options.run_chosen(table, "p", "page", []) == 0
    assert "go" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"p has no command 'gp'\. Did you mean 'go'"):
        options.run_chosen(table, "p", "page", ["gp"])


def test_every_command_is_there_and_nothing_heavy_is_loaded():
    code = "import sys; sys.argv = ['phenomjax']; from phenomjax.__main__ import main; main();"
    heavy = "assert not {'jax', 'numpy', 'tyro'} & sys.modules.keys()"
    done = subprocess.run(
        [sys.executable, "-c", code + heavy], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name, (module, text) in commands.COMMANDS.items():
        assert f"  {name} " in done.stdout and text in done.stdout
        assert importlib.util.find_spec(module) is not None


def test_an_unknown_command_and_the_code_of_a_known_one():
    command = [sys.executable, "-m", "phenomjax"]
    done = subprocess.run([*command, "mabs"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Did you mean 'maps'" in done.stderr.replace("\n", " ")
    done = subprocess.run(
        [*command, "seal", "no/such"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "is not a folder" in done.stderr


@pytest.mark.parametrize("old", ["digests", "figures", "probes.biotrainer_embedder"])
def test_old_names_say_the_new_one(old):
    command = [sys.executable, "-m", f"phenomjax.{old}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and " now." in done.stderr and done.stdout


def test_examples_of_a_page_can_be_pasted(capsys):
    page = "Does.\n\npython -m x --a 1\npython -m x --a 2\n  --b 3\n\nIt is\nso."
    with pytest.raises(SystemExit):
        options.parse(Options, ["--help"], "x", page)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert {"  python -m x --a 1", "  python -m x --a 2 --b 3", "It is so."} <= set(lines)
