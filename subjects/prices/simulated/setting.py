"""What simulated services of prices are like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_kit.ops.faults.base import Kind
from subjects import machine
from subjects.prices.simulated.world import KINDS


@dataclass(frozen=True)
class Setting(machine.Setting):
    """A machine, the kind of its forecasters (`subjects.prices.simulated.world.world`), and the first day asked for."""

    kind: Kind = "ewma"
    first_day: int = 0


def drawn_setting(rng: np.random.Generator) -> Setting:
    """Draw a service of 2 to 4 workers that are busy for a tenth to a third of their time.

    >>> 0.1 <= drawn_setting(np.random.default_rng(1)).utilisation <= 0.35
    True
    """
    workers, service = int(rng.integers(2, 5)), float(rng.uniform(0.02, 0.035))
    utilisation = rng.uniform(0.1, 0.35) if workers > 2 else rng.uniform(0.1, 0.28)
    return Setting(
        rate=float(np.clip(utilisation * workers / service, 8, 24)),
        workers=workers,
        service=service,
        service_cv=float(rng.uniform(0.15, 0.4)),
        kind=KINDS[int(rng.integers(len(KINDS)))],
        first_day=int(rng.integers(400)),
    )
