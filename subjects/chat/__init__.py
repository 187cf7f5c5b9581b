"""A text-generation server with the metrics of vLLM: the third subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lepton_kit.ops.faults import Fault
    from subjects.chat.simulated import SimulatedChat

DRILLED = ("bad-version", "cpu-taken", "queue-saturation", "surge", "seasonal-growth", "same-version")
"""The faults that a simulated service can have."""


def plant(fault: Fault | None, seed: int, scratch: Path) -> SimulatedChat:
    """Return a healthy service for simulated drills."""
    from subjects.chat.simulated import SimulatedChat

    return SimulatedChat(seed, scratch)
