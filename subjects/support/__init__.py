"""A classifier of what customers write to support: the fourth subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from lepton_kit.ops.faults import Fault
    from subjects.support.simulated import SimulatedSupport

DRILLED = (
    "nulls", "bad-version", "cpu-taken", "queue-saturation", "lost-worker", "surge", "seasonal-growth", "same-version",
    "new-topic",
)  # fmt: skip
"""The faults that a simulated service can have."""


def table() -> pd.DataFrame:
    """Return labelled texts (`subjects.support.requests.rows`)."""
    from subjects.support.requests import rows

    return rows(1000, 0)


def plant(fault: Fault | None, seed: int, scratch: Path) -> SimulatedSupport:
    """Return a healthy service for simulated drills."""
    from subjects.support.simulated import SimulatedSupport

    return SimulatedSupport(seed, scratch)
