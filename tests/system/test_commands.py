"""The screen of commands, and options from dataclasses."""

import contextlib
import errno
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pytest
import tyro

from phenomjax import __main__ as commands
from phenomjax.system import ending, files, help_pages, options, outputs
from phenomjax.system.errors import UserError
from tests.kinds import offers
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
        with pytest.raises(UserError, match=r"no flag --crop_sice. Did you mean '--crop_size'"):
            options.parse(Options, ["--source", "a", *mistyped], "p", "page")
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
    for out in (tmp_path / "f", options.__file__ + "/x", "x" * 300):
        with pytest.raises(UserError, match=r"cannot be used: .*[Gg]ive another name"):
            options.run_command(Asked, write, "p", "", ["word", "--out", str(out)])
    assert files.names(tmp_path) == ["f"]


@pytest.mark.parametrize("out", ["/proc/x", "/proc/x/y", "/dev/full/x", "a\0b", ""])
def test_a_place_that_cannot_be_written_is_told_before_the_work(out):
    began = []
    with pytest.raises(UserError, match=r"^--out .*(cannot be used|NUL|is empty)") as told:
        options.run_command(Asked, began.append, "p", "", ["word", "--out", out])
    assert told.value.exit_code == 2 and not began


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("place", ["there/x", None])
def test_a_disk_that_fails_during_the_work_is_told(number, place, tmp_path):
    def fail(_):
        raise OSError(number, os.strerror(number), place)

    words = ["word", "--out", str(tmp_path / "o")]
    if place or number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(UserError, match=rf"{os.strerror(number)}\. (Make|Give)") as told:
            options.run_command(Asked, fail, "p", "", words)
        assert told.value.exit_code == 2
    else:  # nobody could tell what it is about
        with pytest.raises(OSError, match=os.strerror(number)):
            options.run_command(Asked, fail, "p", "", words)


@dataclass(frozen=True, kw_only=True)
class Made(outputs.Overwrite):
    """Of a command that writes a file."""

    out: Path
    """of the result"""


@dataclass(frozen=True, kw_only=True)
class MadeInside(Made):
    """Of a command that writes into a folder."""

    MAKES: ClassVar[tuple[str, ...]] = ("a.json",)


def test_what_is_there_stays_unless_a_flag_says_so(tmp_path):
    def run_with(kind, *words):
        began = []
        options.run_command(kind, began.append, "p", "", ["--out", str(tmp_path / "o"), *words])
        return len(began)

    refused = r"^--out .* is there already\. Give another name, or add --overwrite to"
    assert run_with(Made) == 1
    (tmp_path / "o").mkdir()
    assert run_with(Made) == run_with(MadeInside) == 1
    (tmp_path / "o" / "b.json").write_text("of another command")
    assert run_with(MadeInside) == run_with(Made, "--overwrite") == 1
    with pytest.raises(UserError, match=refused):
        run_with(Made)
    (tmp_path / "o" / "a.json").write_text("{}")
    with pytest.raises(UserError, match=refused.replace(".*", r".*a\.json")):
        run_with(MadeInside)
    assert run_with(MadeInside, "--overwrite") == 1
    assert "overwrite" not in options.recorded(Made(out=tmp_path, overwrite=True))


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
    first = [
        "examples:",
        "  python -m x --a 1",
        "  python -m x --a 2 --b 3",
        "",
        "Does.",
        "",
        "It is so.",
    ]
    assert lines[: len(first)] == first


def test_every_command_shows_an_example_first_that_its_options_allow():
    for name, (node, flags) in offers.doors().items():
        page = importlib.import_module(node[0]).__doc__
        shown = help_pages.page_of(page).splitlines()
        assert shown[0] in ("example:", "examples:"), name
        assert shown[1].startswith(f"  python -m {name}"), (name, shown[1])
        named = {flag.replace("-", "_") for flag in offers.FLAG.findall(shown[1])}
        assert named <= flags, (name, named - flags)
        for owner in getattr(sys.modules[node[0]], "Options", object).__mro__:
            own = vars(owner).get("__annotations__", {})
            assert set(vars(owner).get("GROUPS", ())) <= set(own), (name, owner)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Of several commands, in a group of their own."""

    SHOWN_LAST: ClassVar[bool] = True
    GROUPS: ClassVar[dict[str, str]] = {"jobs": "machine"}

    jobs: int = 0
    """processes"""


@dataclass(frozen=True, kw_only=True)
class Grouped(Shared):
    """Of a command with many flags."""

    GROUPS: ClassVar[dict[str, str]] = {"low": "pixel"}

    source: Path
    """a file"""
    low: float | None = None
    """of the range"""
    keep: bool = False
    """them all"""


def test_flags_stand_in_their_groups(capsys):
    words = ["--jobs", "2", "--keep", "--source", "a", "--quiet"]
    assert options.parse(Grouped, words, "p", "") == Grouped(source=Path("a"), keep=True, jobs=2)
    with pytest.raises(SystemExit):
        options.parse(Grouped, ["--help"], "p", "")
    text = capsys.readouterr().out
    places = [text.index(f"{title} options") for title in ("pixel", "machine")]
    flags = [text.rindex(f"--{name} ") for name in ("source", "quiet", "low", "keep", "jobs")]
    order = [*flags[:2], places[0], *flags[2:4], places[1], flags[4]]
    assert order == sorted(order)
    assert "--low NUMBER" in text and "None" not in text and "no_keep" not in text


def finish(parsed):
    """A command that writes, prints, and says what comes next."""
    print("a table")
    if parsed.crop_size == 13:
        raise UserError("`crop_size` is 13", 1)
    ending.wrote("out dir/x.zarr", "2 images")
    ending.note(loss=np.float32(0.5), bad=float("nan"))
    ending.then("look at it", "python -m phenomjax.prepare inspect {}", "out dir/x.zarr")
    return 1


def test_the_end_as_lines_and_as_one_object(capsys, monkeypatch):
    def end(*words):
        with contextlib.suppress(UserError):
            options.run_command(Options, finish, "python -m p", "", ["--source", "a", *words])
        return capsys.readouterr()

    monkeypatch.setattr(logging.getLogger("phenomjax"), "handlers", [])
    command = "python -m phenomjax.prepare inspect 'out dir/x.zarr'"
    out, err = end()
    assert out == "a table\n"
    told = [line.split(" ", 1)[1] for line in err.splitlines()]
    assert told == ["wrote out dir/x.zarr: 2 images", f"next, look at it: {command}"]
    assert end("--quiet") == ("a table\n", "")
    out, err = end("--json")
    written = {"written": ["out dir/x.zarr"], "next": [command], "loss": 0.5, "bad": None}
    assert json.loads(out) == {"command": "p", "exit_code": 1} | written
    assert "a table" in err
    words = ["--source", "a", "--json"]
    twice = lambda _: options.run_command(Options, finish, "p", "", words[:2])  # noqa: E731
    options.run_command(Options, twice, "python -m q", "", words)  # the outer one says what is next
    out, err = capsys.readouterr()
    assert json.loads(out) == {"command": "q", "exit_code": 1, "written": [], "next": []}
    assert "wrote out dir/x.zarr" in err and "next" not in err
    failed = json.loads(end("--json", "--crop_size", "13").out)
    assert failed["error"] == "--crop_size is 13" and failed["exit_code"] == 1
    with ending.told("p", as_json=True):
        ending.leave(2, "gone")  # as a process does whose others wait
        assert json.loads(capsys.readouterr().out)["error"] == "gone"
    capsys.readouterr()
    mistyped = json.loads(end("--json", "--crop_size", "x").out)
    assert mistyped["exit_code"] == 2 and "--crop_size is 'x'" in mistyped["error"]


@pytest.mark.parametrize("words", [["--json"], ["maps", "nope", "--json"]])
def test_an_object_for_scripts_where_no_command_began(words, capsys, monkeypatch):
    monkeypatch.setattr(ending, "_printed", threading.Event())
    monkeypatch.setattr(sys, "argv", ["phenomjax", *words])
    with pytest.raises(SystemExit) as ended:
        commands.run()
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert ended.value.code == told["exit_code"] == 2
    assert told["error"] in " ".join(err.split())


def test_a_closed_output_and_a_full_disk():
    code = "from phenomjax.system.errors import *\nexit_on_user_error(lambda: print('x'))\n"
    for shell, left in (("exec 1>&-", 0), ("exec >/dev/full", 1)):
        command = ["bash", "-c", f'{shell}; exec "{sys.executable}" -c "$0"', code]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == left and "Traceback" not in done.stderr
    assert done.stderr.endswith("No space left on device. Make room.\n")


@dataclass(frozen=True)
class Mistaken:
    """Of a command on whose words mistakes are made."""

    banks: tyro.conf.Positional[Path]
    """the banks"""
    out: Path
    """of the result"""
    level: Literal["crop", "well"] = "crop"
    """of a vector"""
    share: float = 0.5
    """of all"""
    num_seeds: Annotated[int, tyro.conf.arg(name="seeds")] = 1
    """that are drawn"""


@pytest.mark.parametrize(
    "words,said",
    [
        (
            "b --out o --level wel",
            "--level is 'wel'; it is one of crop, well. Did you mean 'well'?",
        ),
        ("b --out o --seeds 1.5", "--seeds is '1.5'; it must be a whole number."),
        ("b --out o --share=half", "--share is 'half'; it must be a number."),
        ("b --out o --share", "--share has no value behind it."),
        ("b --out o --shar 1", "There is no flag --shar. Did you mean '--share'?"),
        ("b --out a b", "'b' is one word too many: put a name with spaces into quotes."),
        ("b", "--out is missing."),
        ("b o", "'o' stands without its flag. Did you mean '--out o'?"),
        ("b --out o --grain well", "There is no flag --grain. Did you mean '--level well'?"),
        ("b --out o --name GENE01", "There is no flag --name. Without a flag stand: banks."),
        ("--out o", "A word without a flag is missing: PATH the banks."),
        ("b --out o --none=", "There is no flag --none. Without a flag stand: banks."),
        ("b --out=", "--out is empty: give a path. Is a variable of the shell not set?"),
        ("b --out o --quiet=1", "--quiet takes no value: give --quiet alone, or leave it out."),
        ("b -- --out o", "'--' is no flag: leave it out."),
    ],
)
def test_a_mistake_is_told_with_what_mends_it(words, said):
    with pytest.raises(UserError) as told:
        options.parse(Mistaken, words.split(), "python -m p", "")
    assert str(told.value).removesuffix("\nExamples and all flags: python -m p --help") == said


@pytest.mark.parametrize("no_color,coloured", [("", True), ("1", False)])
def test_colours_are_for_terminals(monkeypatch, capsys, no_color, coloured):
    def help_of():
        with pytest.raises(SystemExit):
            options.parse(Options, ["--help"], "p", "")
        return capsys.readouterr().out

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)
    assert "\033[" not in help_of()
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    assert ("\033[" in help_of()) == coloured


def test_version_and_completion(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["phenomjax", "--version"])
    assert commands.main() == 0
    assert capsys.readouterr().out.startswith("phenomjax 0.1.0\nPython 3.")
    monkeypatch.setattr(sys, "argv", ["phenomjax", "--print-completion", "bash"])
    assert commands.main() == 0
    script = capsys.readouterr().out
    ask = """
    complete_() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tyro_phenomjax; echo ${COMPREPLY[*]}
    }
    complete_ phenomjax prep; complete_ phenomjax maps re
    complete_ phenomjax embed images --level ''; complete_ phenomjax main --conf
    """
    (tmp_path / "script").write_text(script + ask)
    done = subprocess.run(
        ["bash", "script"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:4] == ["prepare", "relate", "crop site well", "--config"]
    for shell in ("zsh", "fish"):
        monkeypatch.setattr(sys, "argv", ["phenomjax", f"--print-completion={shell}"])
        assert commands.main() == 0 and "unexpressed" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["phenomjax", "align"])
    with pytest.raises(UserError, match=r"no command 'align'. Did you mean 'phenomjax maps align'"):
        commands.main()
    monkeypatch.setattr(sys, "argv", ["phenomjax", "--print-completion", "tcsh"])
    with pytest.raises(UserError, match=r"no completion for 'tcsh'.* bash, zsh, fish"):
        commands.main()
