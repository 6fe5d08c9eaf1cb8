"""Features of sequences from a frozen model, computed once: in memory, or in a folder that all tasks share."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phenomjax.inference.trained import Trained

PER = ("protein", "residue")


class Stopped(Exception):
    """A signal came before all features were there."""


class Features:
    """Features of n sequences; nothing big is read before it is asked for.

    Attributes:
      dim: of a vector.
      per: a name in PER.
      lengths: int64 [n], residues.
    """

    dim: int
    per: str
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def of_arrays(cls, arrays: "list[np.ndarray] | np.ndarray") -> "Features":
        """From memory: [n, dim] of proteins, or a list of [length, dim] of residues."""
        raise NotImplementedError

    def take(self, rows: "Sequence[int] | np.ndarray") -> np.ndarray:
        """Vectors of proteins: float32 [rows, dim]."""
        raise NotImplementedError

    def batch(self, rows: "Sequence[int] | np.ndarray", length: int) -> np.ndarray:
        """Vectors of residues: float32 [rows, length, dim], zeros behind the end of a sequence, cut at `length`."""
        raise NotImplementedError


def compute(model: Trained, sequences: Sequence[str], per: str, stop: threading.Event | None = None) -> Features:
    """Features in memory, on the local devices. Raises Stopped when `stop` was set."""
    raise NotImplementedError


class Cache:
    """Features in a folder. Args: folder, made when it is needed."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def get(self, model: Trained, sequences: Sequence[str], per: str, stop: threading.Event | None = None) -> Features:
        """Features of sequences, of which only those that are missing are computed. Raises Stopped when `stop` was set."""
        raise NotImplementedError


def random_twin(model: Trained, seed: int = 0) -> Trained:
    """The same task and configuration with random parameters, and their own fingerprint."""
    raise NotImplementedError
