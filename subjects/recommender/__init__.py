"""A recommender of a shop's items, learnt from what was taken: the sixth subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from lepton_kit.ops.faults import Fault
    from subjects.recommender.simulated import SimulatedRecommender

DRILLED = (
    "nulls", "bad-version", "cpu-taken", "queue-saturation", "lost-worker", "surge", "seasonal-growth", "same-version",
    "swing", "queue-saturation+swing",
)  # fmt: skip
"""The faults that a simulated service can have."""


def table() -> pd.DataFrame:
    """Return visits and what was taken (`subjects.recommender.shop.rows`)."""
    from subjects.recommender.shop import rows

    return rows(1000, 0)


def plant(fault: Fault | None, seed: int, scratch: Path) -> SimulatedRecommender:
    """Return a healthy service for simulated drills."""
    from subjects.recommender.simulated import SimulatedRecommender

    return SimulatedRecommender(seed, scratch)
