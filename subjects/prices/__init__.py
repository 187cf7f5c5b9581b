"""Daily prices, and an interval forecast of the next day: the kit's first subject."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from lepton_kit.ops.faults import Fault
    from subjects.prices.simulated.service import SimulatedService

DRILLED = (
    "stale-feed", "units", "swapped-columns", "nulls", "duplicates", "label-shift",
    "wrong-version", "stale-scaler", "perturbed-weights", "diverged-retrain", "nan-weights",
    "cpu-taken", "queue-saturation", "memory-leak", "lost-worker",
    "surge", "market-shift", "seasonal-growth", "same-version",
    "units+cpu-taken", "nulls+queue-saturation", "swapped-columns+lost-worker", "wrong-version+cpu-taken",
    "nan-weights+queue-saturation", "nulls+wrong-version",
)  # fmt: skip
"""The faults that a simulated service can have, and pairs of which neither part hides the other."""


def asked(needed: Sequence[str], source: str | None = None) -> pd.DataFrame:
    """Return what a service of prices is asked (`subjects.prices.examples.asked`)."""
    from subjects.prices.examples import asked as read  # a notebook about cleaning needs no model

    return read(needed, source)


def plant(fault: Fault | None, seed: int, scratch: Path) -> SimulatedService:
    """Return a service for simulated drills (`subjects.prices.simulated.service`)."""
    from subjects.prices.simulated.service import plant as made

    return made(fault, seed, scratch)
