"""Daily prices, and an interval forecast of the next day: the kit's first subject."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from lepton_kit.ops.faults.base import Kind
    from lepton_kit.ops.simulated_world import World


def asked(needed: Sequence[str], source: str | None = None) -> pd.DataFrame:
    """Return what a service of prices is asked (`subjects.prices.examples.asked`)."""
    from subjects.prices.examples import asked as read  # a notebook about cleaning needs no model

    return read(needed, source)


def world(kind: Kind) -> World:
    """Return days and versions for simulated drills (`subjects.prices.simulated.world`)."""
    from subjects.prices.simulated import world as made

    return made(kind)
