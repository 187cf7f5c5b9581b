"""What a simulated service is asked about, and what it answers with: rows of its subject, and versions of its model."""

from __future__ import annotations

import atexit
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from lepton_kit.models.forecasters import Forecaster
from lepton_kit.ops.faults.base import Kind

KINDS: tuple[Kind, ...] = ("ewma", "constant")


@dataclass(frozen=True)
class Days:
    """Consecutive days: rows of features (n, columns) and what came true the day after each (n,)."""

    features: np.ndarray
    actual: np.ndarray

    def __len__(self) -> int:
        return len(self.actual)


@dataclass(frozen=True)
class Trained:
    """A version: its forecaster, and the rows that it learnt from with their `actual`."""

    forecaster: Forecaster
    reference: pd.DataFrame


@dataclass(frozen=True)
class World:
    """Calm and wild days with the features that a kind of forecaster needs, and its versions, oldest first."""

    columns: tuple[str, ...]
    calm: Days
    wild: Days
    versions: dict[str, Trained]


@lru_cache(maxsize=len(KINDS))
def world(kind: Kind) -> World:
    """Return real days of Google's prices, and two versions trained on earlier ones; a second call costs nothing.

    Parameters
    ----------
    kind
        Forecasters that know the recent volatility (`ewma`), or learnt one width of the interval (`constant`): only
        those are hurt by a world that becomes wilder.
    """
    from subjects.prices.simulated.days import days_and_versions

    return days_and_versions(kind)


@lru_cache(maxsize=len(KINDS))
def trained_files(kind: Kind) -> Path:
    """Return a folder with the files of the trained versions, which is removed when this process ends."""
    held = tempfile.TemporaryDirectory(prefix="lepton-simulation-")
    atexit.register(held.cleanup)
    for name, version in world(kind).versions.items():
        version.forecaster.save(Path(held.name) / name)
    return Path(held.name)
