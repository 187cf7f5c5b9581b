"""The recommender example under a virtual clock (`subjects.simulated_slots`)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from lepton_kit.models.tasks import TASKS
from subjects.recommender.model import TODAY, Recommender, load, train
from subjects.recommender.shop import MIX, NEW, shop
from subjects.simulated_slots import SimulatedSlots, trained

loaded = cache(load)


class SimulatedRecommender(SimulatedSlots):
    """Lists of real versions for visitors of the shop; the items of the week are shown once somebody may take them."""

    name = "recommender"
    predicted = ("prediction",)
    season, new = 0.0, 0.0

    def versions(self) -> Path:
        """Return the folder with `good` and `bad`."""
        return trained(train)

    def load(self, folder: Path) -> None:
        """Take up the version in a folder."""
        self._model: Recommender = loaded(folder)

    def change_world(self, share: float) -> None:
        """Let it be a holiday: people look for gifts, and some take items that are new."""
        self.season, self.new = MIX * share, NEW * share

    def ask(self, count: int) -> pd.DataFrame:
        """Draw visits."""
        made = shop(0).draw(max(count, 1), self.rng, TODAY, self.season, self.new).head(count)
        return made.rename(columns={self.target: "actual"})

    def given(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Return who asks, and for what."""
        return asked[["user", "section", "history"]].astype({"history": float})

    def told(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Return the items that are shown."""
        offered = None if self.new else shop(0).release < TODAY
        made = self._model.recommend(asked, offered) if len(asked) else []
        return pd.DataFrame({"prediction": pd.Series(made, index=asked.index, dtype=object)})

    def right(self, held: pd.DataFrame) -> pd.Series:
        """Tell of answered rows whether what was taken was shown."""
        return TASKS["ranking"].hit(held, held["actual"]) == 1
