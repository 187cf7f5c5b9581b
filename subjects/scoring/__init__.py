"""A classifier of tumours behind a server that the kit did not make: the second subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from lepton_kit.ops.faults import Fault
    from subjects.scoring.simulated import SimulatedScoring

DRILLED = (
    "scaled-column", "renamed-category", "stale-feed", "nulls", "bad-version",
    "cpu-taken", "queue-saturation", "lost-worker", "surge", "seasonal-growth", "same-version",
)  # fmt: skip
"""The faults that a simulated service can have."""


def table() -> pd.DataFrame:
    """Return the labelled rows (`subjects.scoring.model.table`)."""
    from subjects.scoring.model import table as read

    return read()


def plant(fault: Fault | None, seed: int, scratch: Path) -> SimulatedScoring:
    """Return a healthy service for simulated drills."""
    from subjects.scoring.simulated import SimulatedScoring

    return SimulatedScoring(seed, scratch)
