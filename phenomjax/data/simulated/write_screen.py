"""Writes a simulated screen into an image bank, in parallel processes; killed and run again, it
continues.

What is finished can be read off the folder: an image is there whole or not at all, and
metadata.parquet comes last.
"""

import dataclasses
import functools
import logging
import os
import threading
from pathlib import Path

import pyarrow.parquet as pq

from phenomjax.data import zarr_files
from phenomjax.data.images import bank
from phenomjax.data.simulated import cells
from phenomjax.data.simulated import screen as simulated_screen
from phenomjax.data.simulated.screen_config import ADDED, SimulationConfig
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.log import Progress
from phenomjax.system.processes import core_count, run_tasks

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
    for name in (*TRUTH, "defects") if any(config.defect_shares) else TRUTH:
        with files.replacing(path / "truth" / f"{name}.parquet") as partial:
            pq.write_table(getattr(screen, name), partial, compression="zstd")
    missing = _missing(path, config)
    progress = Progress(
        "simulate", config.num_images, "images", done=config.num_images - len(missing)
    )
    jobs = min(jobs or core_count(), max(1, len(missing) // 4))
    draw = functools.partial(_draw, path, config)
    for _ in run_tasks(draw, missing, jobs, threading.Event()):
        progress.update()
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
    settings = zarr_files.read_entry(Path(path)).get("simulation")
    if settings is None:
        return None
    if settings["version"] != simulated_screen.VERSION:
        raise UserError(
            f"{path} holds a simulated screen of version {settings['version']}, this phenomjax"
            f" draws version {simulated_screen.VERSION}: the same settings give other images."
            " Remove the folder and simulate again."
        )
    settings = {name: value for name, value in settings.items() if name != "version"}
    known = {field.name for field in dataclasses.fields(SimulationConfig)}
    if unknown := sorted(settings.keys() - known):
        raise UserError(
            f"{path} holds a simulated screen with settings that this phenomjax does not know:"
            f" {', '.join(unknown)}. A newer one made it: use that one, or give another folder."
        )
    return SimulationConfig(**settings)


def _check_folder(path: Path, config: SimulationConfig) -> bool:
    """Whether a screen of these settings was begun; an error where something else is there."""
    there = {name for name in files.names(path) if not name.startswith(files.PARTIAL)}
    if not path.exists() or (path.is_dir() and there <= {"images"}):
        return False  # nothing, or killed before zarr.json was there
    begun = read_config(path) if path.is_dir() else None
    if begun is None:
        raise UserError(
            f"{path} exists and is not a simulated screen; nothing was written. Give another"
            " folder, or remove it."
        )
    old, new = dataclasses.asdict(begun), dataclasses.asdict(config)
    other = [f"{name} = {old[name]} (now {new[name]})" for name in new if old[name] != new[name]]
    if other:
        raise UserError(
            f"{path} holds a simulated screen of other settings: {', '.join(other)}. Use the same"
            " settings to reuse or continue it, give another folder, or remove that one."
        )
    return True


def _settings(config: SimulationConfig) -> zarr_files.Attributes:
    stored = dataclasses.asdict(config)
    for name in ADDED:
        if not stored[name]:
            del stored[name]
    return {"version": simulated_screen.VERSION, **stored}


def _missing(path: Path, config: SimulationConfig) -> list[int]:
    there = set(os.listdir(path / "images"))
    return [i for i in range(config.num_images) if bank.shard_path(path, i).name not in there]


def _draw(path: Path, config: SimulationConfig, index: int) -> None:
    screen = simulated_screen.screen(config)
    try:
        bank.write_image(path, index, screen.field(*screen.place(index)))
    except (ValueError, OSError) as error:
        raise UserError(
            f"An image of {path} could not be written: {str(error).splitlines()[0][:200]}. Finished"
            " images are kept: mend the cause (a full disk?) and run the same command again.",
            EXIT_FAILED,
        ) from error
