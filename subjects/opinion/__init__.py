"""Public opinion on finance: the sentiment of posts, by topic and source: the fifth subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from lepton_kit.ops.faults import Fault
    from subjects.opinion.simulated import SimulatedOpinion

DRILLED = (
    "nulls", "bad-version", "cpu-taken", "queue-saturation", "lost-worker", "surge", "seasonal-growth", "same-version",
    "swing", "one-source",
)  # fmt: skip
"""The faults that a simulated service can have."""


def table() -> pd.DataFrame:
    """Return labelled posts (`subjects.opinion.posts.rows`)."""
    from subjects.opinion.posts import rows

    return rows(1000, 0)


def plant(fault: Fault | None, seed: int, scratch: Path) -> SimulatedOpinion:
    """Return a healthy service for simulated drills."""
    from subjects.opinion.simulated import SimulatedOpinion

    return SimulatedOpinion(seed, scratch)
