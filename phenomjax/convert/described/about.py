"""What travels with weights: everything that changes an output and that no shape shows. It is
written into the file, where the format has room for it, and into a config.json beside it, which
also holds the settings under their own names in the other project.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from ml_collections import ConfigDict

from phenomjax import __version__
from phenomjax.convert import compare
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.system import files
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
FORMAT, VERSION = "phenomjax weights", 1
RELEASE = "phenomjax release"  # the config.json of an export
OURS, CONFIG = "phenomjax", "config.json"
# Names that others give to the configuration beside their weights.
BESIDE = (CONFIG, "options.json", "xlnet_config.json")
DATA = ("segment_len", "eval_segment_len", "crop_size")  # of `config.data`: inference reads these
MOST = 2**22  # bytes of a configuration


@dataclass(frozen=True)
class Found:
    """What is known of weights besides their arrays.

    Attributes:
      ours: of `describe`; None where nobody says.
      where: it stands, for the screen.
      theirs: the settings in the other project's names.
      theirs_where: these stand.
    """

    ours: dict[str, object] | None = None
    where: str = ""
    theirs: dict[str, object] | None = None
    theirs_where: str = ""


def describe(
    config: ConfigDict,
    step: int,
    layout: str,
    arrays: Mapping[str, np.ndarray],
    found: compare.Outputs,
) -> dict[str, object]:
    """What is to travel with a model's weights.

    Args:
      config: of the run.
      step: of the checkpoint.
      layout: of the names.
      arrays: the weights by these names.
      found: `compare.outputs` of the model.
    """
    about: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "phenomjax": __version__,
        "task": config.task,
        "layout": layout,
        "step": step,
        "model": config.model.to_dict(),
        "data": {key: config.data[key] for key in DATA if key in config.data},
        "arrays": digest(arrays),
        "outputs": compare.recorded(found),
    }
    if "alphabet" in config.model:
        about["tokens"] = list(vocabulary(config.model.alphabet or "protein").tokens)
    return about


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 of names, shapes and values."""
    hashed = hashlib.sha256()
    for name in sorted(arrays):
        x = np.ascontiguousarray(arrays[name], np.float32)
        hashed.update(f"{name} {x.shape}".encode())
        hashed.update(x.tobytes())
    return hashed.hexdigest()


def write_beside(
    path: Path, about: Mapping[str, object], theirs: Mapping[str, object] | None
) -> Path:
    """Writes config.json beside weights, or NAME.config.json where that is of something else.

    Args:
      path: of the weights.
      about: of `describe`.
      theirs: settings in the other project's names, which its own reader finds on top.
    """
    beside = path.with_name(CONFIG)
    if beside.exists() and not _is_of(_peek(beside), path.name):
        beside = path.with_name(f"{path.stem}.{CONFIG}")
    content = {**(theirs or {}), OURS: {**about, "weights": path.name}}
    return files.write_json(beside, content)


def _peek(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _is_of(content: object, name: str) -> bool:
    """Whether a configuration is ours and of the weights of this name."""
    ours = content.get(OURS) if isinstance(content, dict) else None
    return isinstance(ours, dict) and ours.get("weights") == name


def find(
    path: Path,
    inside: dict[str, object] | None,
    arrays: Mapping[str, np.ndarray],
    given: Path | None,
) -> Found:
    """What is known of weights: what their file says, or a configuration beside it.

    Args:
      path: of the weights.
      inside: what their file says about them.
      arrays: the weights.
      given: path of their configuration; None = beside them.

    Raises:
      UserError: a configuration that cannot be read, or is of a later version.
    """
    if inside is not None:
        return Found(checked(inside, f"{path}"), f"{path.name} itself")
    names = [f"{path.stem}.{CONFIG}", *BESIDE]
    candidates = [given] if given else [path.with_name(name) for name in names]
    for candidate in candidates:
        if not given and not candidate.is_file():
            continue
        content = _load(candidate, given is not None)
        ours = content if content.get("format") == RELEASE else content.get(OURS)
        if isinstance(ours, dict):
            named = ours.get("weights", path.name) == path.name
            if given or named or ours.get("arrays") == digest(arrays):
                return Found(checked(ours, f"{candidate}"), candidate.name)
            log.warning(
                "%s is not used: it is of %s, not of %s", candidate, ours.get("weights"), path.name
            )
        elif {"model", "data", "optimizer"} <= content.keys():
            log.warning("%s is not used: it is the configuration of a run of ours", candidate)
        else:
            return Found(theirs=content, theirs_where=candidate.name)
    return Found()


def _load(path: Path, given: bool) -> dict[str, object]:
    mend = (
        "Correct it."
        if given
        else "Correct it, or move it away and say its settings yourself with `settings`."
    )
    try:
        if path.stat().st_size > MOST:
            raise ValueError(f"{path.stat().st_size} bytes are no configuration")
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}, the configuration of the weights, cannot be read ({error}). {mend}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path}, the configuration of the weights, is no JSON object but a"
            f" {type(content).__name__}. {mend}"
        )
    return content


def checked(ours: dict[str, object], where: str) -> dict[str, object]:
    """What we wrote, if this version reads it.

    Raises:
      UserError: another format or version, or a part is missing or of another kind.
    """
    if ours.get("format") not in (FORMAT, RELEASE) or ours.get("version") != VERSION:
        raise UserError(
            f"{where} says of its weights: format {ours.get('format')!r}, version"
            f" {ours.get('version')!r}; this phenomjax reads '{FORMAT}', version {VERSION}. Install"
            f" the phenomjax that wrote it ({ours.get('phenomjax')!r})."
        )
    wrong = [
        key
        for key, kind in (("model", dict), ("data", dict), ("outputs", dict), ("tokens", list))
        if not isinstance(ours.get(key, kind()), kind)
    ]
    if wrong or not ours.get("model"):
        raise UserError(
            f"What {where} says of its weights is damaged: '{(wrong or ['model'])[0]}' is not what"
            " it should be. Copy the file again, or export the run again."
        )
    release_crop = {"crop_size": ours["crop_size"]} if "crop_size" in ours else {}
    return {"data": release_crop} | ours


def check_tokens(ours: Mapping[str, object], alphabet: str) -> None:
    """Raises UserError if the vocabulary has other ids now than when the weights were written."""
    now = list(vocabulary(alphabet).tokens)
    if "tokens" in ours and ours["tokens"] != now:
        raise UserError(
            f"The weights were written with another order of the {alphabet} vocabulary"
            f" ({len(cast(list[str], ours['tokens']))} tokens) than this phenomjax has"
            f" ({len(now)}): every token would be another one. Install the phenomjax that wrote"
            f" them ({ours.get('phenomjax')})."
        )
