"""The opinion example under a virtual clock (`subjects.simulated_texts`)."""

from __future__ import annotations

import pandas as pd

from subjects.opinion.model import train
from subjects.opinion.posts import rows
from subjects.simulated_texts import SimulatedTexts


class SimulatedOpinion(SimulatedTexts):
    """Sentiments that real versions give to posts of the grammar."""

    name, fields = "opinion", ("topic", "source")
    train = staticmethod(train)
    swing = 0.0

    def change_world(self, share: float) -> None:
        """Let this share of the posts be negative from now on, whatever they were."""
        self.swing = share

    def drawn(self, count: int, seed: int) -> pd.DataFrame:
        """Return posts and their sentiments."""
        return rows(count, seed, self.swing, self.crowded)
