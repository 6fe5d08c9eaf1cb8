"""Files of named arrays: safetensors, npz, HDF5, and torch files that hold nothing but tensors."""

import types
import zipfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from phenomjax.system import files
from phenomjax.system.errors import UserError


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a file, told by its content and not by its name.

    A torch file is read with `weights_only=True`: it may hold tensors and plain containers, no
    code.

    Returns:
      {name: array}; half-precision tensors come as float32, and arrays in the groups of an HDF5
      file by their path, "a/b/c".

    Raises:
      UserError: no such file, none of the known formats, a torch file with more than tensors, or
        torch is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"There is no file {path}. Give the path of a .safetensors, .npz, .hdf5 or torch"
            " .pt/.ckpt file."
        )
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # eight bytes of header length, then JSON
        return _read_safetensors(path)
    if start[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            if all(name.endswith(".npy") for name in archive.namelist()):
                return dict(np.load(path, allow_pickle=False))
        return _read_torch(path)
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return _read_hdf5(path)
    # a bare pickle, as torch wrote before version 1.6, whatever the name says
    if start[:1] == b"\x80":
        return _read_torch(path)
    raise UserError(
        f"{path} is neither safetensors, npz, a torch file nor HDF5: it starts with {start[:8]!r}."
        " Is the download complete?"
    )


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as .safetensors, .npz or .hdf5, by the name; "/" in a name of the last makes
    groups.

    Raises:
      UserError: another extension, or safetensors is missing.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise UserError(
            f"{path} can be written as .safetensors, .npz or .hdf5; choose one of these extensions."
        )
    with files.replacing(path) as partial:
        WRITERS[path.suffix](partial, arrays)


def _write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    contiguous = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
    _safetensors().save_file(contiguous, str(path))


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    np.savez(path, allow_pickle=False, **arrays)


def _write_hdf5(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for name, x in arrays.items():
            file[name] = x


WRITERS = {
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
    ".hdf5": _write_hdf5,
    ".h5": _write_hdf5,
}


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiub":
            arrays[name] = item[...].astype(np.float32) if item.dtype == np.float16 else item[...]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(add)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path} looks like HDF5 but cannot be read ({error}). Is the download complete?"
        ) from error
    return arrays


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return _safetensors().load_file(str(path))
    except Exception as error:  # the library has one exception for every damage
        raise UserError(
            f"{path} looks like safetensors but cannot be read ({error}). Is the download complete?"
        ) from error


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
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path} holds more than tensors, or is damaged, and is not opened: unpickling it could"
            f" run any code ({first}). Save the state dict alone, `torch.save(model.state_dict(),"
            " path)` or as safetensors, and convert that."
        ) from error
    state = state.get("state_dict", state)  # as Lightning wraps it
    return {
        name: x.float().numpy() if x.is_floating_point() else x.numpy() for name, x in state.items()
    }
