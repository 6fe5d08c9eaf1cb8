"""What is published: an sdist whose wheel, in an environment of its own and away from the
repository, has the commands and the experiment files.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import phenomjax
from phenomjax.config.experiment import read_config
from phenomjax.system import user_files
from phenomjax.system.errors import UserError
from tests.lab import ROOT

TINY = {
    "num_steps": 2,
    "global_batch_size": 2,
    "data.simulate.plates": 2,
    "data.simulate.wells": 6,
    "data.simulate.size": 64,
    "data.simulate.cell_radius": 8,
    "data.crop_size": 32,
    "data.val_groups": "('EXP01/P02',)",
    "model.embed_dim": 32,
    "model.depth": 1,
    "model.decoder_depth": 1,
    "eval.num_batches": 1,
    "eval.batch_size": 2,
    "log.tensorboard": "false",
}


def output(folder, *words, **environment):
    """What a command prints, on both streams."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=clean | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder of the programs of an environment with nothing of ours but the wheel of the sdist; the
    packages that it depends on are those of the tests.
    """
    folder = tmp_path_factory.mktemp("wheel")
    hatch = sys.executable, "-m", "hatchling", "build"
    output(ROOT, *hatch, "-t", "sdist", "-d", folder)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    assert not [path for path in source.rglob("*") if path.suffix in (".pyc", ".zarr")]
    output(source, *hatch, "-t", "wheel", "-d", folder)
    (wheel,) = folder.glob("*.whl")
    has = set(zipfile.ZipFile(wheel).namelist())
    ours = [path for room in ("phenomjax", "configs") for path in (ROOT / room).rglob("*.*")]
    names = {str(path.relative_to(ROOT)).replace("configs/", "phenomjax/configs/") for path in ours}
    assert not {name for name in names if "__pycache__" not in name} - has
    output(folder, sys.executable, "-m", "venv", "--without-pip", "env")
    programs = folder / "env/bin"
    pip = sys.executable, "-m", "pip", "--python", programs / "python", "--isolated", "-q"
    output(folder, *pip, "install", "--no-index", "--no-deps", "--no-compile", wheel)
    (packages,) = folder.glob("env/lib/python*/site-packages")
    (packages / "of_the_tests.pth").write_text(sysconfig.get_paths()["purelib"])
    return programs


def test_commands_of_the_wheel(installed, tmp_path):
    shown = output(tmp_path, installed / "phenomjax", "--help")
    assert "prepare" in shown and "maps" in shown
    settings = [f"--config.{key}={value}" for key, value in TINY.items()]
    words = ["main", "--config", "configs/mae_demo.py", "--workdir", "run", *settings]
    told = output(tmp_path, installed / "phenomjax", *words)
    ours = next(installed.parent.glob("lib/python*/site-packages/phenomjax"))
    came_with = f"the one that came with phenomjax, {ours / 'configs/mae_demo.py'}"
    assert came_with in told and str(ROOT / "phenomjax") not in told
    versions = json.loads((tmp_path / "run/versions.json").read_text())
    assert versions["phenomjax"] == phenomjax.__version__ and versions["git"] == "none"
    assert list((tmp_path / "run/checkpoints").iterdir()) and list(tmp_path.glob("run/figures/*"))


def test_experiment_files_are_found_from_any_folder(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    user_files._say.cache_clear()
    shipped = read_config("configs/mae.py:S/16")
    assert f"came with phenomjax, {ROOT / 'configs/mae.py'}" in caplog.text
    assert shipped.model.patch_size == 16
    with pytest.raises(UserError, match=r"Did you mean 'configs/mae_demo\.py'"):
        read_config("configs/mae_dema.py")
    own = Path("configs")
    own.mkdir()
    (own / "mae.py").write_text((ROOT / "configs/mae_demo.py").read_text())
    assert read_config("configs/mae.py").num_steps == 1200  # that of the folder comes first
    with pytest.raises(UserError, match=r"configs/none\.py does not exist"):
        read_config("configs/none.py")
