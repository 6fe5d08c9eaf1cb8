"""Metrics and figures to Weights & Biases."""

import logging
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from phenomjax.system import files
from phenomjax.system.errors import UserError
from phenomjax.system.types import Figure
from phenomjax.training.writers.pixels import pixels
from phenomjax.training.writers.workdir import run_name

log = logging.getLogger("phenomjax")
LOGIN_SECONDS = 30  # for the answer to W&B's question at a terminal


class WeightsAndBiases:
    """A run of W&B. Its id, which no other run has, stands in WORKDIR/wandb_run, so that a run that
    is continued goes on in it.

    Where W&B cannot be reached, or nobody is logged in, it is kept in WORKDIR/wandb, and a warning
    says how to send it later. What the configuration leaves empty W&B reads from its own variables
    (WANDB_ENTITY, WANDB_RUN_GROUP, which sweeps set, WANDB_TAGS, WANDB_MODE).
    """

    def __init__(self, workdir: Path, config: ConfigDict):
        import wandb

        self._wandb, marker, c = wandb, workdir / "wandb_run", config.log
        if not (marker.exists() and marker.read_text().strip()):
            # versions before this one took the folder's name
            before = (workdir / "wandb").is_dir()
            files.write_text(marker, (workdir.name if before else secrets.token_hex(8)) + "\n")
        settings = {
            "project": c.wandb_project,
            "id": marker.read_text().strip(),
            "name": c.wandb_name or run_name(workdir),
            "entity": c.wandb_entity or None,
            "group": c.wandb_group or None,
            "tags": c.wandb_tags or None,
            "resume": "allow",
            "dir": str(workdir),
            "config": config.to_dict(),
        }
        # ValueError and TypeError: settings are checked by pydantic
        failures = wandb.errors.Error, ValueError, TypeError
        try:
            online = wandb.Settings(login_timeout=LOGIN_SECONDS)
            self._run = wandb.init(**settings, settings=online)
        except failures as error:
            try:
                self._run = wandb.init(**settings, mode="offline")
            except failures as again:  # a name that it does not take, say
                raise UserError(
                    f"W&B does not take the config.log.wandb_* of this run"
                    f" ({' '.join(str(again).split())[:300].rstrip('.')}). Correct them, or go on"
                    " without: --config.log.wandb_project=''."
                ) from again
            log.warning(
                "W&B cannot be used now (%s): this start is kept in %s/wandb. Send it later with"
                " `wandb login` and `wandb sync %s/wandb/offline-run-*`, or log in before the next"
                " start.",
                " ".join(str(error).split())[:200].rstrip("."),
                *(workdir, workdir),
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(values, step=step)

    def figure(self, step: int, name: str, figure: Figure) -> None:
        self._run.log({name: self._wandb.Image(pixels(figure))}, step=step)

    def flush(self) -> None:
        """W&B sends by itself."""

    def close(self, done: bool = False) -> None:
        self._run.finish(exit_code=int(sys.exc_info()[0] is not None))
