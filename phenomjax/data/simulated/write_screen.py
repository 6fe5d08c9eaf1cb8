"""Writes a simulated screen into an image bank, in parallel processes; killed and run again, it
continues.

What is finished can be read off the folder: an image is there whole or not at all, and
metadata.parquet comes last. A worker process is this module run with the bank's path (`python -m
phenomjax.data.simulated.write_screen BANK 0 4`): it reads the settings from the bank, and writes
one byte to its standard output for each image.
"""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.data.images import bank
from phenomjax.data.simulated import cells
from phenomjax.data.simulated import screen as simulated_screen
from phenomjax.data.simulated.screen import SimulationConfig
from phenomjax.system.errors import UserError
from phenomjax.system.log import Progress
from phenomjax.system.processes import core_count

__all__ = ["SimulationConfig", "read_config", "write_screen"]
log = logging.getLogger("phenomjax")

TRUTH = ("genes", "relationships", "compounds", "phenotypes", "plates")


def write_screen(path: str | Path, config: SimulationConfig, jobs: int = 0) -> None:
    """Writes the bank of a simulated screen, with the truth in its folder `truth/`.

    Args:
      path: the folder, `NAME.zarr`. A bank that was begun with the same settings is continued, a
        finished one is kept.
      config: the screen.
      jobs: parallel processes; 0 = one a core. The bytes do not depend on it.

    Raises:
      UserError: the folder holds something else, or a screen of other settings; or a worker process
        failed.
    """
    path = Path(path)
    begun = _check_folder(path, config)
    screen = simulated_screen.screen(config)
    if begun and (path / "metadata.parquet").is_file():
        log.info(
            "simulate: %s is there with the same settings (%d images): reused",
            path,
            config.num_images,
        )
        return
    if config.num_treatments > config.num_places:
        log.warning(
            "simulate: %d treatments but %d wells for them: the last %d do not occur in the images",
            config.num_treatments,
            config.num_places,
            config.num_treatments - config.num_places,
        )
    if not begun:
        shape = (config.num_images, config.field_px, config.field_px, len(cells.CHANNELS))
        attributes = {
            "intensity": {
                "rule": "simulated",
                "levels_per_grey_value": 1 if config.bit_depth == 8 else 64,
            },
            "pixel_size_um": round(0.65 * 26 / config.cell_radius, 4),
            "simulation": _settings(config),
        }
        chunk = 128 if config.field_px >= 512 else 64  # crops of small fields are small
        bank.create_bank(
            path,
            shape,
            f"uint{config.bit_depth}",
            cells.CHANNELS,
            attributes=attributes,
            chunk=chunk,
        )
    (path / "truth").mkdir(exist_ok=True)
    for name in TRUTH:
        _write_table(getattr(screen, name), path / "truth" / f"{name}.parquet")
    missing = _missing(path, config)
    progress = Progress(
        "simulate", config.num_images, "images", done=config.num_images - len(missing)
    )
    jobs = min(jobs or core_count(), max(1, len(missing) // 4))
    if jobs == 1:
        for index in missing:
            bank.write_image(path, index, screen.field(*screen.place(index)))
            progress.update()
    else:
        _run_workers(path, jobs, progress)
    left = _missing(path, config)
    if left:
        raise UserError(
            f"{path}: {len(left)} images are still missing, the first is number {left[0]}. Run it"
            " again."
        )
    bank.write_metadata(path, screen.metadata())


def read_config(path: str | Path) -> SimulationConfig | None:
    """Settings of the simulated screen that the folder holds or was begun with; None where it is no
    such bank.
    """
    described = Path(path) / "zarr.json"
    if not described.is_file():
        return None
    group = json.loads(described.read_text())
    settings = group.get("attributes", {}).get("phenomjax", {}).get("simulation")
    if settings is None:
        return None
    if settings["version"] != simulated_screen.VERSION:
        raise UserError(
            f"{path} holds a simulated screen of version {settings['version']}, this phenomjax"
            f" draws version {simulated_screen.VERSION}: the same settings give other images."
            " Remove the folder and simulate again."
        )
    return SimulationConfig(
        **{name: value for name, value in settings.items() if name != "version"}
    )


def _check_folder(path: Path, config: SimulationConfig) -> bool:
    """True where a screen of these settings was begun, False where there is nothing; else an error."""
    if not path.exists() or (
        path.is_dir() and set(os.listdir(path)) <= {"images", "zarr.json.partial"}
    ):
        return False  # nothing, or killed before zarr.json was there
    there = read_config(path) if path.is_dir() else None
    if there is None:
        raise UserError(
            f"{path} exists and is not a simulated screen; nothing was written. Give another --out,"
            " or remove it."
        )
    old, new = dataclasses.asdict(there), dataclasses.asdict(config)
    other = [f"{name} = {old[name]} (now {new[name]})" for name in new if old[name] != new[name]]
    if other:
        raise UserError(
            f"{path} holds a simulated screen of other settings: {', '.join(other)}. Use the same"
            " settings to reuse or continue it, give another --out, or remove the folder."
        )
    return True


def _settings(config: SimulationConfig) -> dict:
    return {"version": simulated_screen.VERSION, **dataclasses.asdict(config)}


def _missing(path: Path, config: SimulationConfig) -> list[int]:
    there = set(os.listdir(path / "images"))
    return [i for i in range(config.num_images) if bank.shard_path(path, i).name not in there]


def _write_table(table: pa.Table, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, path)


def _run_workers(path: Path, jobs: int, progress: Progress) -> None:
    """Runs one process a job; they share a pipe, and end with it when this process is killed."""
    # Plain processes, not multiprocessing: that would import the caller's main module (with jax) in
    # each of them.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    }
    readable, writable = os.pipe()
    workers = []
    try:
        for job in range(jobs):
            command = [
                sys.executable,
                "-m",
                "phenomjax.data.simulated.write_screen",
                str(path),
                str(job),
                str(jobs),
            ]
            workers.append(
                subprocess.Popen(
                    command, stdout=writable, stderr=subprocess.PIPE, env=environment, text=True
                )
            )
        os.close(writable)
        while count := len(os.read(readable, 4096)):
            progress.update(count)
        for worker in workers:
            message = worker.communicate()[1].strip() or "no message"
            if worker.returncode:
                raise UserError(
                    f"A process that simulates {path} ended with code {worker.returncode}:"
                    f" {message.splitlines()[-1]}. Finished images are kept: mend the cause (a full"
                    " disk? memory?) and run the same command again."
                )
    finally:
        os.close(readable)
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
                worker.communicate()


def _work(path: Path, job: int, jobs: int) -> None:
    config = read_config(path)
    if config is None:
        raise UserError(f"{path} is not a simulated screen.")
    screen = simulated_screen.screen(config)
    for index in _missing(path, config):
        if index % jobs == job and not bank.shard_path(path, index).exists():
            bank.write_image(path, index, screen.field(*screen.place(index)))
            os.write(1, b".")


if __name__ == "__main__":
    _work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
