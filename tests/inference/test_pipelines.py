"""Banks embedded by the files in launch/pipelines: Snakemake runs ours; Nextflow does
where there is one, and its file is read by a parser of the language everywhere.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from phenomjax.maps.tables import reading
from phenomjax.system.errors import EXIT_STOPPED, EXIT_STUCK
from tests.inference.test_embed_images import write_images, write_run
from tests.lab import ROOT, pages
from tests.maps.test_exchange import OTHERS

SNAKEFILE = ROOT / "launch" / "pipelines" / "Snakefile"
NEXTFLOW = ROOT / "launch" / "pipelines" / "embed.nf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    write_run(folder / "run")
    (folder / "banks").mkdir()
    write_images(folder / "banks" / "b.zarr", 6)
    return folder


def engine(folder, *command):
    if not OTHERS.is_dir():
        pytest.skip(f"snakemake is not in {OTHERS}; .ci/run puts it there")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{OTHERS}", "PATH": path}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )


def snakemake(folder, *words):
    return engine(folder, "-m", "snakemake", "-s", SNAKEFILE, "--cores", "2", *words)


def test_snakemake_lints_plans_and_embeds(folder):
    linted = snakemake(folder, "--lint", "--config", "checkpoint=run")
    assert linted.returncode == 0 and "good condition" in linted.stdout + linted.stderr
    words = ("--config", "checkpoint=run", "embed=--level site --dtype float32")
    done = snakemake(folder, "embeddings/b.zarr", *words)
    assert done.returncode == 0, done.stderr
    profiles = reading.read(folder / "embeddings" / "b.zarr")
    assert profiles.features.shape == (6, 32) and [*profiles.metadata["site"]] == [*"012345"]
    assert "6 rows" in (folder / "embeddings" / "logs" / "embed_b.log").read_text()
    planned = snakemake(folder, "-n", *words)
    said = planned.stdout + planned.stderr
    assert planned.returncode == 0 and re.search(r"align +1\n", said), said
    assert not re.search(r"embed +1\n", said)  # what is there is not made again


def test_nextflow_file_is_of_the_language_and_its_commands_are_ours(folder):
    text = NEXTFLOW.read_text()
    scripts = re.findall(r'script:\n    """\n(.*?)\n    """', text, re.DOTALL)
    assert len(scripts) == 2
    values = {"checkpoint": "run", "bank": "banks/b.zarr", "name": "b.zarr", "task.cpus": "2"}
    values |= {"params.embed": "--level site", "embeddings": "b.zarr c.zarr"}
    for script in scripts:
        command = re.sub(r"\$\{([\w.]+)\}", lambda found: values[found[1]], script.strip())
        assert "$" not in command and pages.ours(command.split())
        assert pages.problems(command) == []
    codes = re.search(r"exitStatus in \[([\d, ]+)\]", text)[1].split(", ")
    assert {str(EXIT_STOPPED), str(EXIT_STUCK)} <= {*codes} and not {"1", "2"} & {*codes}
    program = (
        "import sys, reftrace; module = reftrace.Module.from_file(sys.argv[1]);"
        "print([process.name for process in module.processes])"
    )
    read = engine(folder, "-c", program, NEXTFLOW)
    assert read.stdout.strip() == "['EMBED', 'ALIGN']", read.stdout + read.stderr


def test_nextflow_runs_it(folder, tmp_path):
    if not shutil.which("nextflow"):
        pytest.skip("nextflow is not installed here: its launcher downloads the engine")
    words = ("--checkpoint", folder / "run", "--banks", f"{folder}/banks/*.zarr", "--out", "out")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = ["nextflow", "run", NEXTFLOW, *map(str, words)]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert pq.read_metadata(tmp_path / "out" / "wells.parquet").num_rows == 3
