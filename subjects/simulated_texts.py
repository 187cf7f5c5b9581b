"""A server of `subjects.texts` under a virtual clock: real versions answer texts of a grammar.

A recording holds what can be said of the texts, never the texts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.telemetry.texts import described
from subjects.classifier import TextClassifier, load
from subjects.simulated_slots import SimulatedSlots, trained

loaded = cache(load)


class SimulatedTexts(SimulatedSlots):
    """Classes that real versions give to texts; a subject says how texts are drawn and how a version is trained."""

    predicted = ("label",)
    train: Callable[..., Any]
    fields: tuple[str, ...]
    other: str | None = None
    """The answer to a text that is out of scope; None answers all."""

    @abstractmethod
    def drawn(self, count: int, seed: int) -> pd.DataFrame:
        """Return texts with their fields and their classes, in the column of the target."""

    def versions(self) -> Path:
        """Return the folder with `good` and `bad`."""
        return trained(type(self).train)

    def load(self, folder: Path) -> None:
        """Take up the version in a folder."""
        self._classifier: TextClassifier = loaded(folder)
        self._learnt = pd.read_parquet(folder / "reference.parquet")

    def ask(self, count: int) -> pd.DataFrame:
        """Draw texts."""
        made = self.drawn(max(count, 1), int(self.rng.integers(2**31))).head(count)
        return made.rename(columns={self.target: "actual"})

    def given(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Return what a capture keeps of the texts, and their fields."""
        told = described(asked["text"], "text", self._learnt["text"])
        return pd.DataFrame(told).join(asked[list(self.fields)])

    def told(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Return the classes, and `other` where a text is out of scope."""
        made = self._classifier.predict(asked["text"].tolist())
        label = made["label"] if self.other is None else np.where(made["in_scope"], made["label"], self.other)
        kept = asked[["text", *self.fields]]
        return kept.assign(label=np.asarray(label, dtype=object), score=made["score"].to_numpy())

    def right(self, held: pd.DataFrame) -> pd.Series:
        """Tell of answered rows whether what came true agrees."""
        return held["label"] == held["actual"]

    def reference(self) -> pd.DataFrame:
        """Return what a capture keeps of the rows that the version learnt from."""
        held = super().reference()
        told = pd.DataFrame(described(held["text"], "text", None))
        return held.drop(columns="text").join(told)
