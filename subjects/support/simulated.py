"""The support example under a virtual clock (`subjects.simulated_slots`)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from lepton_kit.telemetry.texts import described
from subjects.simulated_slots import SimulatedSlots, trained
from subjects.support.classifier import TextClassifier, load
from subjects.support.model import train
from subjects.support.requests import OTHER, rows

loaded = cache(load)


class SimulatedSupport(SimulatedSlots):
    """Topics that real versions give to texts of the grammar; a recording holds what can be said of the texts."""

    name = "support"
    predicted = ("label",)
    new = 0.0
    """The share of the texts that are about the new topic."""

    def versions(self) -> Path:
        """Return the folder with `good` and `bad`."""
        return trained(train)

    def load(self, folder: Path) -> None:
        """Take up the version in a folder."""
        self._classifier: TextClassifier = loaded(folder)
        self._learnt = pd.read_parquet(folder / "reference.parquet")

    def change_world(self, share: float) -> None:
        """Let this share of the texts be about the new topic from now on."""
        self.new = share

    def ask(self, count: int) -> pd.DataFrame:
        """Draw texts."""
        made = rows(max(count, 1), int(self.rng.integers(2**31)), self.new).head(count)
        return made.rename(columns={self.target: "actual"})

    def given(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Return what a capture keeps of the texts, and the channel."""
        told = described(asked["text"], "text", self._learnt["text"])
        return pd.DataFrame(told).assign(channel=asked["channel"])

    def told(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Return the topics, and `OTHER` where a text is out of scope."""
        made = self._classifier.predict(asked["text"].tolist())
        label = np.where(made["in_scope"], made["label"], OTHER)
        return pd.DataFrame(
            {"label": label, "score": made["score"].to_numpy(), "text": asked["text"]}, index=asked.index
        )

    def right(self, held: pd.DataFrame) -> pd.Series:
        """Tell of answered rows whether what came true agrees."""
        return held["label"] == held["actual"]

    def reference(self) -> pd.DataFrame:
        """Return what a capture keeps of the rows that the version learnt from."""
        held = super().reference()
        texts = held["text"]
        told = pd.DataFrame(described(texts, "text", None))
        return held.drop(columns="text").join(told)
