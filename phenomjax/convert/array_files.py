"""Files of named arrays: safetensors, npz, HDF5, and torch files that hold nothing but tensors; and
what we write about the arrays into the file itself.
"""

import json
import logging
import types
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from phenomjax.data import store
from phenomjax.system import files
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
KEY = "phenomjax"  # of what we write about the arrays
NUMBERS = "fiub"  # kinds of dtype that are weights
DAMAGE = (
    *(OSError, RuntimeError, ValueError, EOFError, KeyError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


class ArrayFile(NamedTuple):
    """What a file holds.

    Attributes:
      arrays: by their names; half precision comes as float32.
      about: what `write_arrays` was given to say about them; None if the file says nothing.
    """

    arrays: dict[str, np.ndarray]
    about: dict[str, object] | None


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of `read`."""
    return read(path).arrays


def read(path: str | Path) -> ArrayFile:
    """Reads all arrays of a file, told by its content and not by its name.

    A torch file is read with `weights_only=True`: it may hold tensors and plain containers, no
    code. Arrays in the groups of an HDF5 file go by their path, "a/b/c".

    Raises:
      UserError: no such file, none of the known formats, damage, a torch file with more than
        tensors, or torch is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"There is no file {path}.{store.beside(path)} Give the path of a .safetensors, .npz,"
            " .hdf5 or torch .pt/.ckpt file."
        )
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # eight bytes of header length, then JSON
        found = _guarded(path, "safetensors", _read_safetensors)
    elif start[:2] == b"PK":
        found = _guarded(path, "a zip archive", _read_zip)
    elif start[:8] == b"\x89HDF\r\n\x1a\n":
        found = _guarded(path, "HDF5", _read_hdf5)
    elif start[:1] == b"\x80":
        # a bare pickle, as torch wrote before version 1.6, whatever the name says
        found = ArrayFile(_read_torch(path), None)
    else:
        raise UserError(
            f"{path} is neither safetensors, npz, a torch file nor HDF5: it starts with"
            f" {start[:8]!r}. Is the download complete?"
        )
    if not found.arrays:
        raise UserError(f"{path} holds no arrays of numbers. Is it the file of the weights?")
    return found


def _guarded(path: Path, kind: str, read_as: Callable[[Path], ArrayFile]) -> ArrayFile:
    """Reads a file, damage as a UserError."""
    try:
        return read_as(path)
    except DAMAGE as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} looks like {kind} but cannot be read ({first}). Is the download complete?"
        ) from error


def write_arrays(
    path: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, object] | None = None
) -> None:
    """Writes arrays as .safetensors, .npz or .hdf5, by the name; "/" in a name of the last makes
    groups.

    Args:
      path: of the file.
      arrays: by their names.
      about: what other programs pass over: metadata of safetensors, the comment of npz, an
        attribute of HDF5.

    Raises:
      UserError: another extension, or safetensors is missing.
    """
    path = Path(path)
    check_name(path)
    with files.replacing(path) as partial:
        write_as(path.suffix, partial, arrays, about)


def write_as(
    suffix: str,
    path: Path,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, object] | None = None,
) -> None:
    """`write_arrays` in the format of a suffix, under any name."""
    WRITERS[suffix](path, arrays, json.dumps(about) if about else "")


def check_name(path: Path) -> None:
    """Raises UserError for a name that no format is told by."""
    if path.suffix not in WRITERS:
        raise UserError(
            f"{path} can be written as .safetensors, .npz or .hdf5; choose one of these extensions."
        )


def _write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], about: str) -> None:
    contiguous = {name: np.require(x, requirements="C") for name, x in arrays.items()}
    # without "format" Hugging Face's reader refuses the file
    metadata = {"format": "pt"} | ({KEY: about} if about else {})
    _safetensors().save_file(contiguous, str(path), metadata=metadata)


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray], about: str) -> None:
    np.savez(path, allow_pickle=False, **arrays)
    if about:
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = about.encode()


def _write_hdf5(path: Path, arrays: Mapping[str, np.ndarray], about: str) -> None:
    with h5py.File(path, "w") as file:
        for name, x in arrays.items():
            file[name] = x
        if about:
            file.attrs[KEY] = about


WRITERS = {
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
    ".hdf5": _write_hdf5,
    ".h5": _write_hdf5,
}


def _about(text: str | bytes) -> dict[str, object] | None:
    """What a file says about its arrays; None where it is not of ours.

    Raises:
      ValueError: it is damaged.
    """
    if not isinstance(text, str | bytes):
        raise ValueError(f"what it says about itself is no text but {type(text).__name__}")
    if not text:
        return None
    about = json.loads(text)
    if not isinstance(about, dict):
        raise ValueError(f"what it says about itself is no JSON object but {text[:20]!r}")
    return about


def _read_zip(path: Path) -> ArrayFile:
    with zipfile.ZipFile(path) as archive:
        comment, names = archive.comment, archive.namelist()
    if not all(name.endswith(".npy") for name in names):
        return ArrayFile(_read_torch(path), None)
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return ArrayFile(_numbers(arrays), _about(comment) if comment[:1] == b"{" else None)


def _read_hdf5(path: Path) -> ArrayFile:
    arrays: dict[str, np.ndarray] = {}

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[...]

    with h5py.File(path, "r") as file:
        file.visititems(add)
        return ArrayFile(_numbers(arrays), _about(file.attrs.get(KEY, "")))


def _read_safetensors(path: Path) -> ArrayFile:
    library = _safetensors()
    try:
        arrays = library.load_file(str(path))
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except Exception as error:  # the library has one exception for every damage
        raise ValueError(str(error)) from error
    about = header.get("__metadata__", {}).get(KEY, "")
    return ArrayFile(_numbers(arrays), _about(about))


def _numbers(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those that are weights, half precision as float32; others are named."""
    kept: dict[str, np.ndarray] = {}
    for name, x in arrays.items():
        if x.dtype.kind in NUMBERS:
            kept[name] = x.astype(np.float32) if x.dtype == np.float16 else x
        elif x.dtype.kind == "V" and np.dtype(x.dtype).name.startswith(("bfloat16", "float8")):
            kept[name] = x.astype(np.float32)
        else:
            log.warning("left out: %s holds no numbers but %s", name, x.dtype)
    return kept


def _safetensors() -> types.ModuleType:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UserError(
            "safetensors is not installed. Install it with `pip install 'phenomjax[convert]'`."
        ) from error
    return safetensors.numpy


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is a torch file, and torch is not installed. Install it with `pip install"
            " torch`, or save the state dict as safetensors where torch is."
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each raise their own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} holds more than tensors, or is damaged, and is not opened: unpickling it could"
            f" run any code ({first}). Save the state dict alone, `torch.save(model.state_dict(),"
            " path)` or as safetensors, and convert that."
        ) from error
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)  # as Lightning wraps it
    if not isinstance(state, Mapping):
        raise UserError(
            f"{path} holds a {type(state).__name__} where names with tensors are wanted. Save the"
            " state dict of the model, `torch.save(model.state_dict(), path)`, and convert that."
        )
    arrays = {}
    for name, x in state.items():
        if isinstance(x, torch.Tensor):
            x = x.detach()
            arrays[str(name)] = x.float().numpy() if x.is_floating_point() else x.numpy()
        else:
            log.warning("left out: %s is no tensor but %s", name, type(x).__name__)
    return arrays
