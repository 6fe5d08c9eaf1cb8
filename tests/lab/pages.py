"""The fenced blocks of a page, run one after another in a folder of their own, or parsed where they
want what no laptop has. What an author writes stands in tests/docs/test_pages.py.
"""

import ast
import contextlib
import functools
import importlib.util
import io
import itertools
import json
import logging
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock

from phenomjax import config
from phenomjax.config import experiment
from phenomjax.config.checks import flatten
from phenomjax.system import options
from phenomjax.system.errors import UserError
from tests.kinds import offers
from tests.lab import ROOT, warm

FENCE = re.compile(r"^( *)(`{3,})([\w+-]*)(.*)$")
DIRECTIVE = re.compile(r"<!-- *test: *(\w+)\s*(.*?)\s*-->", re.DOTALL)
DIRECTIVES = ("add", "before", "exit", "parse", "shelf", "shown", "with")
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
OURS = re.compile(r"(?:python -m )?phenomjax(?:\.[a-z_.]+)?(?: |$)")
KEY = re.compile(r"(?:--config\.|config\.)?([a-z_]+(?:\.[a-z_0-9]+)+)(?:=.*)?")
# What a page may run beside our own commands; anything else wants `parse`.
SHELL = re.compile(
    "bash|cat|cd|cp|cut|du|echo|export|find|grep|gzip|head|ls|mkdir|mv|printf|rm|sed|sha256sum"
    "|sort|tail|tar|test|touch|true|tree|unzip|wc|zcat"
)
# They signal, fork, or end their process: each gets one of its own.
IN_A_CHILD = {"phenomjax.main", "phenomjax.preflight"}
# Scripts of launch/, and what they run with the words behind their name.
SCRIPTS = {
    "train.sbatch": "phenomjax.main",
    "train_node.sbatch": "phenomjax.main",
    "embed.sbatch": "phenomjax.embed",
    "sweep.sbatch": "phenomjax.sweep",
}
# Programs that are given a folder, an image or an environment of our name.
NAMESAKES = {"cd", "conda", "docker", "git", "make"}
TASKS = ("mae", "causal_lm", "permutation_lm", "bidirectional_lm", "perturbation")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with what the comments before it say to the test."""

    page: str
    line: int
    language: str
    info: str
    text: str
    directives: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def title(self) -> str:
        """The file that the block is the content of, or ""."""
        found = re.search(r'title="([^"]+)"', self.info)
        return found[1] if found else ""

    def said(self, name: str) -> list[str]:
        return [text for directive, text in self.directives if directive == name]


def blocks(path: Path, root: Path = ROOT) -> list[Block]:
    """All fenced blocks of a page below a folder.

    Raises:
      AssertionError: a block that does not end, has no language, or a comment to the test that says
        nothing it knows.
    """
    page = str(path.relative_to(root))
    found, waiting, prose = list[Block](), list[tuple[str, str]](), ""
    lines = iter(enumerate(path.read_text().splitlines(), 1))
    for number, line in lines:
        fence = FENCE.match(line)
        if not fence:
            prose += line + "\n"
            continue
        waiting, prose = _directives(f"{page}:{number}", prose), ""
        end, language, info = fence[2], fence[3], fence[4]
        inside = list(itertools.takewhile(lambda one, end=end: one[1].strip() != end, lines))
        text = textwrap.dedent("\n".join(one for _, one in inside)) + "\n"
        assert language, f"{page}:{number}: the block names no language: sh, python, text …"
        found.append(Block(page, number, language, info, text, tuple(waiting)))
    assert not _directives(f"{page}, the end", prose), f"{page} ends with a comment to the test"
    return found


def _directives(place: str, prose: str) -> list[tuple[str, str]]:
    found = DIRECTIVE.findall(prose)
    assert len(found) == prose.count("<!-- test"), (
        f"{place}: a comment before it is not as it must be"
    )
    for name, text in found:
        assert name in DIRECTIVES, f"{place}: the test knows no '{name}', but {DIRECTIVES}"
        assert text or name == "shown", f"{place}: '{name}' says nothing"
    return found


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, code span) of the text between blocks, without comments."""
    ticks = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if ticks:
            ticks = "" if line.strip() == ticks else ticks
        elif fence:
            ticks = fence[2]
        else:
            yield from ((number, span) for span in SPAN.findall(line))


# ------------------------------------------------------------------ commands of a shell block


def commands(text: str) -> list[str]:
    """The commands of a block, lines that end with a backslash joined, without comments."""
    joined = re.sub(r"\\\n *", "", text)
    lines = [re.sub(r"(^|\s)#(\s.*|$)", "", line).rstrip() for line in joined.splitlines()]
    return [line for line in lines if line.strip()]


def _is_plain(line: str) -> bool:
    """Whether a line is one command, without pipes, lists, redirections and substitutions."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    return not any(set(token) <= set("();<>|&") for token in lexer)


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """(module, words behind it) of a command of ours."""
    if words[:2] == ["python", "-m"] and words[2:] and words[2].partition(".")[0] == "phenomjax":
        module, rest = words[2], words[3:]
    elif words[:1] == ["phenomjax"]:
        module, rest = "phenomjax", words[1:]
    else:
        return None
    if module == "phenomjax" and rest and not rest[0].startswith("-"):
        from phenomjax.__main__ import COMMANDS, SYNONYMS

        name = SYNONYMS.get(rest[0], rest[0])
        assert name in COMMANDS, f"phenomjax has no command {rest[0]}"
        return COMMANDS[name][0], rest[1:]
    return module, rest


@dataclass
class Page:
    """A page that runs.

    Attributes:
      folder: where it runs; `configs` and `launch` are links in it.
      shelf: what the session makes once for all pages.
      names: of its snippets.
      apart: processes with packages of other folders, each with names of its own.
      output: what the last block printed.
    """

    folder: Path
    shelf: "Shelf"
    names: dict = field(default_factory=lambda: {"__name__": "page"})
    apart: dict[str, subprocess.Popen] = field(default_factory=dict)
    output: str = ""

    def __post_init__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("configs", "launch"):
            (self.folder / name).symlink_to(ROOT / name)

    def run(self, block: Block) -> None:
        """Runs a block as its comments say.

        Raises:
          AssertionError: it fails, or offers what is not there.
        """
        for items in block.said("shelf"):
            for item in items.split():
                target, _, source = item.partition("=")
                self.shelf.put(source or target, self.folder / target)
        for text in block.said("before"):
            for line in commands(text):
                self._line(block, line, 0)
        if block.language == "text":
            self._compare(block)
        elif block.title and not block.said("parse"):
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "python":
            self._python(block)
        elif block.language == "sh":
            self._shell(block)

    def _shell(self, block: Block) -> None:
        lines = commands(block.text)
        if block.said("parse"):
            wrong = [one for line in lines for one in problems(line)]
            assert not wrong, f"{block.place}: " + "; ".join(wrong)
            return
        if re.search(r"^(for|while|if) ", block.text, re.MULTILINE):
            lines = ["\n".join(lines)]
        self.output, code = "", int((block.said("exit") or ["0"])[0])
        added = [_small(text) for text in block.said("add")]
        for line in lines:
            mine = _is_ours(line)
            for words in added:
                chosen, more = [], list(words)
                while more and not more[0].startswith("-"):
                    chosen.append(more.pop(0))
                if mine and (
                    not chosen or f" {' '.join(chosen)} " in f" {line.replace('.', ' ')} "
                ):
                    line += f" {shlex.join(more)}"
            self.output += self._line(block, line, code)

    def _line(self, block: Block, line: str, code: int) -> str:
        """Runs a command; returns what it printed."""
        found, printed = self._run(block, line)
        assert found == code, (
            f"{block.place}: `{line}` ended with {found}, not {code}:\n{printed[-3000:]}"
        )
        return printed

    def _run(self, block: Block, line: str) -> tuple[int, str]:
        if not _is_plain(line) or "\n" in line:
            return self._bash(line)
        words = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {line}"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")[:-1]
        environment = dict[str, str]()
        while words and re.match(r"[A-Za-z_]\w*=", words[0]):
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        first = words[0]
        if first == "cd":
            self.folder = (self.folder / words[1]).resolve()
            return 0, ""
        if first == "make":
            return 0, "; ".join(problems(line))
        if mine := ours(words):
            module, rest = mine
            if module in IN_A_CHILD:
                return self._child(["-m", module, *rest], environment)
            return self._here(module, rest, environment)
        if first == "python" and words[1].startswith("launch/"):
            return self._child(words[1:], environment)
        if first == "python" and words[1] == "-c":
            return self._here(words[2], words[3:], environment)
        if first == "python" and words[1] == "-m" and words[2].startswith("tests.lab."):
            return self._here(words[2], words[3:], environment)
        if first == "python" and words[1].endswith(".py"):
            return self._here(words[1], words[2:], environment)
        assert SHELL.fullmatch(first), (
            f"{block.place}: `{first}` is not run by the test of the pages: say"
            " <!-- test: parse REASON --> before the block"
        )
        return self._bash(line)

    def _bash(self, line: str) -> tuple[int, str]:
        """Runs anything that a shell understands; our commands cost a start of Python each."""
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def _child(self, words: list[str], environment: dict[str, str]) -> tuple[int, str]:
        """Runs Python in a process of its own, whose imports were made before."""
        env = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
        done = warm.run([sys.executable, *words], cwd=self.folder, env=env)
        return done.returncode, done.stdout + done.stderr

    def _here(self, what: str, words: list[str], environment: dict[str, str]) -> tuple[int, str]:
        """Runs a module, a file or code in this process."""
        printed = io.StringIO()
        argv, environ, path = sys.argv, dict(os.environ), list(sys.path)
        log = logging.getLogger("phenomjax")
        os.environ.update(environment)
        code = 0
        try:
            with (
                contextlib.chdir(self.folder),
                contextlib.redirect_stdout(printed),
                contextlib.redirect_stderr(printed),
            ):
                sys.path.insert(0, str(self.folder))
                sys.argv = [what, *words]
                if re.fullmatch(r"(phenomjax|tests)(\.\w+)*", what):
                    runpy.run_path(_file_of(what), run_name="__main__")
                elif what.endswith(".py"):
                    runpy.run_path(what, run_name="__main__")
                else:
                    exec(compile(what, "<-c>", "exec"), {"__name__": "__main__"})
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            code = 1
            printed.write(traceback.format_exc())
        finally:
            sys.argv, sys.path[:] = argv, path
            os.environ.clear()
            os.environ.update(environ)
            log.handlers.clear()
        return code, printed.getvalue()

    def _python(self, block: Block) -> None:
        """Runs a snippet after those before it on the page."""
        tree = ast.parse(block.text, block.place)
        if block.said("parse"):
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("phenomjax"):
                    module = importlib.import_module(node.module)
                    for name in node.names:
                        if not hasattr(module, name.name):
                            importlib.import_module(f"{node.module}.{name.name}")
            return
        if folders := block.said("with"):
            self._apart(block, folders[0])
            return
        ast.increment_lineno(tree, block.line)
        printed, path = io.StringIO(), list(sys.path)
        sys.path.insert(0, str(self.folder))
        try:
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
                exec(compile(tree, block.page, "exec"), self.names)
        except Exception as error:
            raise AssertionError(
                f"{block.place}: {traceback.format_exc()}\n{printed.getvalue()[-1000:]}"
            ) from error
        finally:
            sys.path[:] = path
        self.output = printed.getvalue()

    def _apart(self, block: Block, name: str) -> None:
        """Runs a snippet in the page's process for the packages of .venv/NAME."""
        packages = Path(sys.prefix) / name
        if not packages.is_dir():
            pytest.skip(f"{block.place} needs the packages of {packages}; .ci/run puts them there")
        if name not in self.apart:
            self.apart[name] = subprocess.Popen(
                [sys.executable, "-c", APART],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = self.apart[name]
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps("\n" * block.line + block.text) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, f"{block.place}: the process of this snippet ended"
        self.output, error = json.loads(answer)
        assert not error, f"{block.place}: {error}\n{self.output[-1000:]}"

    def end(self) -> None:
        """Ends the processes of the page."""
        for process in self.apart.values():
            process.communicate()

    def _compare(self, block: Block) -> None:
        """Each line of what a page shows as output was printed, where it says `shown`; `…` stands
        for anything.
        """
        printed = " ".join(self.output.split())
        for line in block.text.splitlines() if block.said("shown") else ():
            parts = [re.escape(" ".join(part.split())) for part in line.split("…")]
            assert re.search(r"\s?.*?\s?".join(parts), printed), (
                f"{block.place}: `{line}` was not printed:\n{self.output[-3000:]}"
            )


def _file_of(module: str) -> str:
    """The file that `python -m` runs. Not by name: what checks shapes in tests has a hook on the
    imports, and would leave its own code in the cache of the plain module.
    """
    found = importlib.util.find_spec(module)
    if found is not None and found.submodule_search_locations:
        found = importlib.util.find_spec(f"{module}.__main__")
    assert found is not None and found.origin, f"there is no {module}"
    return found.origin


def _small(text: str) -> list[str]:
    """Words to add, in which @mae and @txl stand for the sizes of the shelf's runs."""
    for name, sizes in (("@mae", SMALL_MAE), ("@txl", SMALL_TXL)):
        text = re.sub(rf"{name}\b", sizes + SMALL_RUN, text)
    return shlex.split(text)


def _is_ours(line: str) -> bool:
    """Whether a line is one command of ours."""
    words = shlex.split(line, comments=True) if _is_plain(line) else []
    words = list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))
    return bool(ours(words)) or (words[:1] == ["python"] and not words[1].startswith("-"))


# ------------------------------------------------------------------ what is parsed


def problems(line: str) -> list[str]:
    """What is wrong with a command line that is not run: flags, keys, values, files of ours."""
    wrong = []
    for file in re.findall(r"(?<![\w./])((?:configs|launch|docs|bench)/[\w./-]+\.\w+)", line):
        if not (ROOT / file).exists():
            wrong.append(f"there is no {file}")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extras in re.findall(r"(?:phenomjax|\.)\[([\w,-]+)\]|--extra[ =]([\w-]+)", line):
        for extra in ",".join(filter(None, extras)).split(","):
            wrong += [] if extra in known else [f"there is no extra {extra}"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|&& *)make (?:\w+=\S+ )*([\w-]+)", line):
        wrong += [] if target in targets else [f"make has no {target}"]
    for module in re.findall(r"python -m ((?:bench|tests)\.[\w.]+)", line):
        place = ROOT / module.replace(".", "/")
        if not (place.is_dir() or place.with_suffix(".py").exists()):
            wrong.append(f"there is no {module}")
    return wrong + _commands_of(line)


def _commands_of(line: str) -> list[str]:
    """What is wrong with the commands of ours in a line."""
    if _is_exact(line):
        found = []
        for words in _simple(line):
            if words and words[0] in NAMESAKES:
                continue
            environment = [w for w in words if re.match(r"[A-Z_]+=", w)]
            chosen = next(
                (w.split()[-1] for w in environment if w.startswith("PHENOMJAX_MAIN=")), ""
            )
            for k, word in enumerate(words):
                name = word.removeprefix("launch/")
                if word.startswith("launch/") and name in SCRIPTS:
                    rest = [w for w in words[k + 1 :] if w not in ("--dry-run",)]
                    found.append((chosen or SCRIPTS[name], rest))
                elif word in ("launch/local.py", "launch/standby.py") and "--" in words:
                    rest = words[words.index("--") + 1 :]
                    found.append(ours(rest) or (chosen or "phenomjax.main", rest))
                elif mine := ours(words[k:]):
                    found.append(mine)
                else:
                    continue
                break
        return [one for module, rest in found for one in _parsed(module, rest)]
    wrong = []
    for name, rest in re.findall(r"(?:python -m )?(phenomjax[.\w]*)((?: [^;|`\n]*)?)", line):
        if name == "phenomjax" and (mine := ours(["phenomjax", *rest.split()])):
            name, rest = mine[0], " " + " ".join(mine[1])
        if name in ("phenomjax",) or not rest.strip():
            continue
        flags = {flag.replace("-", "_") for flag in offers.FLAG.findall(rest)}
        has = [offers.doors()[c][1] for c in offers.named(name, rest)]
        if not has:
            wrong.append(f"there is no command {name}{rest}")
        wrong += [f"{name} has no --{f}" for f in sorted(flags - frozenset().union(*has))]
    return wrong


def _is_exact(line: str) -> bool:
    """Whether nothing in a line stands for something else."""
    return not re.search(r"…|\$\(|\.\.\. |\[-|<\w|\{[a-z]+\}", line)


def _simple(line: str) -> Iterator[list[str]]:
    """The words of each command of a line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&><")
    lexer.whitespace_split, lexer.commenters = True, ""
    for is_end, words in itertools.groupby(lexer, lambda token: set(token) <= set(";|&><")):
        if not is_end:
            yield [word for word in words if word not in ("do", "then", "srun", "time")]


@functools.cache
def _bases():
    return [config.base(task) for task in TASKS]


def all_keys() -> frozenset[str]:
    """Keys of the configuration, of all tasks."""
    return frozenset().union(*(flatten(base) for base in _bases()))


def _parsed(module: str, words: list[str]) -> list[str]:
    """What is wrong with the words of a command of ours."""
    overrides = [word for word in words if word.startswith("--config.")]
    command = f"{module} {shlex.join(words)}"
    try:
        if module in IN_A_CHILD:
            known = offers.doors()[module][1]
            flags = [w for w in words if w.startswith("--") and not w.startswith("--config.")]
            bad = [f for f in flags if f[2:].split("=")[0] not in known]
            if bad:
                return [f"{module} has no {bad[0]}"]
            _check_config(words, overrides)
            return []
        if module == "phenomjax.embed" and words[0] not in ("images", "sequences"):
            from phenomjax import embed

            words = [embed.what(words), *words]
        names = offers.named(module, " ".join(words))
        if not names:
            return [f"there is no command {command}"]
        inner = words[0] if " " in names[0] else ""
        kinds, rest = offers.programs()[names[0]][1], words[1:] if inner else words
        _check_config(rest, overrides)
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            for kind in kinds:
                try:
                    options.parse(kind, rest, module, "")
                    return []
                except SystemExit as end:
                    if not end.code:  # --help
                        return []
        return [f"{command}: {told.getvalue()}"]
    except UserError as error:
        return [f"{command}: {error}"]


def _check_config(words: list[str], overrides: list[str]) -> None:
    """Raises UserError for keys that are none in the experiment, or, where that is the file of a
    run, in any task.
    """
    text = ""
    for k, word in enumerate(words):
        if word == "--config":
            text = words[k + 1]
        elif word.startswith("--config="):
            text = word.partition("=")[2]
    name = text.partition(":")[0]
    if name.startswith("configs/"):
        experiment.read_config(str(ROOT / text), overrides)
        return
    errors = []
    for base in _bases():
        try:
            experiment.with_values(
                base, {w[9:].split("=")[0]: w.partition("=")[2] for w in overrides}
            )
            return
        except UserError as error:
            errors.append(error)
    raise errors[0]


def wrong_spans(path: Path, root: Path = ROOT) -> list[str]:
    """Commands and keys in the text of a page that there are not."""
    sections = {key.partition(".")[0] for key in all_keys() if "." in key}
    wrong = []
    for number, span in prose_of(path):
        place = f"{path.relative_to(root)}:{number}"
        if OURS.match(span):
            wrong += [f"{place}: {one}" for one in problems(span + " …")]
        elif (key := KEY.fullmatch(span)) and key[1].partition(".")[0] in sections:
            inside = any(one.startswith(key[1] + ".") for one in all_keys())
            if key[1] not in all_keys() and not inside and not _is_file(key[1]):
                wrong.append(f"{place}: there is no key {key[1]}")
    return wrong


def _is_file(name: str) -> bool:
    return name.rpartition(".")[2] in ("py", "md", "json", "zarr", "parquet", "csv", "txt", "png")


# ------------------------------------------------------------------ what all pages share

# Runs snippets that come as lines of JSON, one after another; answers each with what it printed and
# the traceback of its error.
APART = """
import contextlib, io, json, sys, traceback, warnings
warnings.simplefilter("ignore")
answers, names = sys.stdout, {"__name__": "page"}
for line in sys.stdin:
    printed, error = io.StringIO(), ""
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(json.loads(line), "page", "exec"), names)
        except Exception:
            error = traceback.format_exc()
    print(json.dumps([printed.getvalue(), error]), file=answers, flush=True)
"""
SMALL_RUN = (
    " --config.num_steps=4 --config.global_batch_size=4 --config.log.every_steps=2"
    " --config.eval.every_steps=4 --config.checkpoint.every_steps=4 --config.eval.num_batches=1"
    " --config.log.tensorboard=false"
)
SMALL_MAE = (
    "--config.model.embed_dim=16 --config.model.depth=2 --config.model.num_heads=2"
    " --config.model.decoder_dim=16 --config.model.decoder_depth=1"
    " --config.model.decoder_num_heads=2 --config.data.crop_size=32"
)
SMALL_TXL = (
    "--config.model.embed_dim=16 --config.model.num_layers=2 --config.model.num_heads=2"
    " --config.model.head_dim=8 --config.model.mlp_dim=32 --config.data.segment_len=32"
    " --config.model.mem_len=32"
)
RECIPES = {  # name: the commands that make it, in the shelf's folder
    "plates.zarr": (
        "python -m phenomjax.prepare simulate --out plates.zarr --plates 2 --wells 24 --field-px 64"
        " --cell-radius 12 --num-complexes 2 --genes-per-complex 2 --num-single-genes 6"
        " --num-compounds 2 --num-doses 2 --jobs 1",
    ),
    "proteins.zarr": (
        "python -m phenomjax.prepare simulate --kind proteins --out proteins.zarr --families 3"
        " --members 12 --length 60",
    ),
    "mae": (
        "python -m phenomjax.main --config configs/mae_demo.py --workdir mae"
        " --config.data.banks=plates.zarr --config.figures.every_steps=4"
        f" --config.data.val_groups=EXP01/P02 {SMALL_MAE}{SMALL_RUN}",
    ),
    "txl": (
        "python -m phenomjax.main --config configs/prot_txl.py:demo --workdir txl"
        f" --config.data.banks=proteins.zarr {SMALL_TXL}{SMALL_RUN}",
    ),
    "embeddings.zarr": (
        "python -m phenomjax.embed images --checkpoint mae --bank plates.zarr"
        " --out embeddings.zarr",
    ),
    "proteins.fasta": ("python -m tests.lab.shelf_files proteins.fasta",),
    "profiles.parquet": ("python -m tests.lab.shelf_files profiles.parquet",),
}
NEEDS = {
    "mae": ("plates.zarr",),
    "txl": ("proteins.zarr",),
    "embeddings.zarr": ("mae", "plates.zarr"),
}


class Shelf:
    """Small things of each kind, made once for all pages when one first asks for them."""

    def __init__(self, folder: Path):
        self.folder = folder

    def put(self, name: str, target: Path) -> None:
        """Puts a copy of a thing where a page wants it."""
        assert name in RECIPES, f"the shelf has no {name}, but {', '.join(RECIPES)}"
        self._make(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        source = self.folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)

    def _make(self, name: str) -> None:
        for one in NEEDS.get(name, ()):
            self._make(one)
        self.folder.mkdir(parents=True, exist_ok=True)
        done = self.folder / f".{name}.done"
        with FileLock(self.folder / f".{name}.lock"):
            if done.exists():
                return
            with contextlib.suppress(FileExistsError):
                (self.folder / "configs").symlink_to(ROOT / "configs")
            page = object.__new__(Page)
            page.folder = self.folder
            block = Block("tests/lab/pages.py", 0, "sh", "", "")
            for line in RECIPES[name]:
                page._line(block, line, 0)
            done.touch()
