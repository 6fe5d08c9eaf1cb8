"""Profiles: one row of features a crop, well or perturbation beside what is known of it. A map is
Profiles with one row a perturbation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from phenomjax.maps.tables import scratch

if TYPE_CHECKING:
    import pandas as pd


Record: TypeAlias = dict[str, Any]  # as JSON has it


@dataclass(frozen=True)
class Profiles:
    """Features and metadata of the same rows.

    Attributes:
      features: float32 [rows, dim], mapped where they are larger than memory should hold (see
        scratch.py).
      metadata: one row a profile, index 0..rows-1.
      names: of the features.
      provenance: what was done so far: {"sources": [...], "steps": [...]}; recorded in every
        output.
    """

    features: Float32[np.ndarray, "rows dim"]
    metadata: "pd.DataFrame"
    names: tuple[str, ...]
    provenance: Record = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: Bool[np.ndarray, " rows"] | Int[np.ndarray, " some"]) -> "Profiles":
        """The profiles of some rows: a bool mask or indices."""
        indices = _indices(rows)
        return replace(
            self,
            features=scratch.take(self.features, indices),
            metadata=self.metadata.iloc[indices].reset_index(drop=True),
        )

    def with_features(
        self, features: Float[np.ndarray, "rows dim"], names: Sequence[str] | None = None
    ) -> "Profiles":
        """The same rows with other features; new ones are named feature_0000, …"""
        kept = tuple(names) if names is not None else feature_names(features.shape[1])
        return replace(self, features=np.asarray(features, np.float32), names=kept)

    def after(self, command: str, **what: object) -> "Profiles":
        """The same profiles, with one more step in their provenance."""
        steps = [*self.provenance.get("steps", []), {"command": command, **what}]
        return replace(self, provenance={**self.provenance, "steps": steps})


def _indices(
    rows: Bool[np.ndarray, " rows"] | Int[np.ndarray, " some"],
) -> Int[np.ndarray, " some"]:
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows


def feature_names(dim: int) -> tuple[str, ...]:
    """feature_0000, feature_0001, …"""
    return tuple(f"feature_{k:04d}" for k in range(dim))
