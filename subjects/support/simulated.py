"""The support example under a virtual clock (`subjects.simulated_texts`)."""

from __future__ import annotations

import pandas as pd

from subjects.simulated_texts import SimulatedTexts
from subjects.support.model import train
from subjects.support.requests import OTHER, rows


class SimulatedSupport(SimulatedTexts):
    """Topics that real versions give to texts of the grammar."""

    name, fields, other = "support", ("channel",), OTHER
    train = staticmethod(train)
    new = 0.0
    """The share of the texts that are about the new topic."""

    def change_world(self, share: float) -> None:
        """Let this share of the texts be about the new topic from now on."""
        self.new = share

    def drawn(self, count: int, seed: int) -> pd.DataFrame:
        """Return texts and what they are about."""
        return rows(count, seed, self.new)
