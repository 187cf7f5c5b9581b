"""The scoring example under a virtual clock (`subjects.simulated_slots`)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import skops.io

from subjects.scoring.model import NUMBERS, rows, train
from subjects.simulated_slots import SimulatedSlots, trained


class SimulatedScoring(SimulatedSlots):
    """Decisions of real versions on real rows."""

    name = "scoring"
    predicted = ("proba",)

    def versions(self) -> Path:
        """Return the folder with `good` and `bad`."""
        return trained(train)

    def load(self, folder: Path) -> None:
        """Take up the version in a folder."""
        self._model = skops.io.load(folder / "model.skops")

    def ask(self, count: int) -> pd.DataFrame:
        """Draw rows."""
        made = rows(max(count, 1), int(self.rng.integers(2**31))).head(count)
        return made.rename(columns={self.target: "actual"})

    def given(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Return the measurements and the size."""
        return asked[[*NUMBERS, "size"]].astype(dict.fromkeys(NUMBERS, float))

    def told(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Return the probabilities."""
        proba = self._model.predict_proba(self.given(asked))[:, 1] if len(asked) else []
        return pd.DataFrame({"proba": proba}, index=asked.index, dtype=float)

    def right(self, held: pd.DataFrame) -> pd.Series:
        """Tell of answered rows whether what came true agrees."""
        return (held["proba"] >= 0.5) == held["actual"]
