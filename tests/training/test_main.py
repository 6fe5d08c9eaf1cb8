"""The front door as a user meets it: help, and mistakes on the command line."""

import os
import sys

import pytest

from tests.lab import ROOT, warm


def run(*arguments):
    command = [sys.executable, "-m", "phenomjax.main", *arguments]
    return warm.run(command, cwd=ROOT, env={**os.environ, "COLUMNS": "200"})


def test_help():
    result = run("--help")
    assert (
        result.returncode == 0
        and "Exit codes: 0 done" in result.stdout
        and "--workdir" in result.stdout
    )


@pytest.mark.parametrize(
    "arguments,text",
    [
        (["--config", "configs/mae_demo.py"], "--workdir is missing: python -m phenomjax.main"),
        (["--config", "configs/mae_dmeo.py", "--workdir", "x"], "configs/mae_dmeo.py"),
        (
            ["--config", "configs/mae_demo.py", "--workdir", "x", "--config.model.dpeth=3"],
            "There is no key 'model.dpeth'. Did you mean 'model.depth'?",
        ),
        (
            ["--config", "configs/mae_demo.py", "--workdir", "x", "--config.num_steps=many"],
            "--config.num_steps=many is not a whole number",
        ),
        (
            ["--config", "configs/mae_demo.py", "--workdir", "x", "--num_steps=10"],
            "There is no flag --num_steps. Keys of the configuration are given as"
            " --config.num_steps=10.",
        ),
        (
            ["--config", "configs/mae_demo.py", "--workdri", "x"],
            "There is no flag --workdri. Did you mean 'workdir'?",
        ),
        (
            ["configs/mae_demo.py", "--workdir", "x"],
            "'configs/mae_demo.py' stands alone: give --config FILE",
        ),
        (
            ["--config", "configs/mae_demo.py", "--workdir", "x", "--num_processes=two"],
            "num_processes",
        ),
        (
            ["--config", "configs/mae.py:XL/16", "--workdir", "x"],
            "There is no model size 'XL/16'. Did you mean 'L/16'?",
        ),
        (
            ["--config", "configs/mae.py:S/16,maks=0.5", "--workdir", "x"],
            "has no option 'maks'. Did you mean 'mask'?",
        ),
        (
            ["--config", "configs/mae_demo.py", "--workdir", "x", "--num_processes=2"],
            "--num_processes=2 needs --coordinator",
        ),
        (
            ["--config", "configs/mae.py:S/16", "--workdir", "{tmp}"],
            "config.data.banks is empty: there is nothing to train on",
        ),
        (
            ["--config", "configs/mae_demo.py", "--workdir", "/dev/null/x"],
            "--workdir /dev/null/x cannot be written",
        ),
    ],
)
def test_mistakes_end_with_one_paragraph_and_code_2(arguments, text, tmp_path):
    result = run(*[a.replace("{tmp}", str(tmp_path)) for a in arguments])
    message = " ".join(result.stderr.split())
    assert result.returncode == 2 and text in message and "Traceback" not in result.stderr, (
        result.stderr
    )
