"""The recommender example's server: shows a visitor ten items of a section (`subjects.slotted`).

python -m subjects.recommender.app --port 8600
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from subjects.recommender.model import load, train
from subjects.recommender.shop import SECTIONS
from subjects.slotted import Answer, Slotted, main


class Shelf(Slotted):
    """Shows items; an outcome is the item that the visitor then took, from the list or elsewhere in the section."""

    name, route, target, columns = "recommender", "/recommend", "item", ("items",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.shown = self.counter("shown", "Items shown; cold: nobody had taken it.", "kind", ("known", "cold"))

    def load(self, folder: Path) -> None:
        """Take up the version in a folder."""
        self.model = load(folder)

    def refused(self, inputs: Any) -> str:
        """Refuse what does not name a user, a section and how much the user took before."""
        if isinstance(inputs, dict) and isinstance(inputs.get("user"), str) and inputs.get("section") in SECTIONS:
            history = inputs.get("history")
            if isinstance(history, int | float) and not isinstance(history, bool) and 0 <= history < math.inf:
                return ""
        return f"inputs: user (text), section ({', '.join(SECTIONS)}) and history (0 or more)"

    def answers(self, asked: Sequence[dict[str, Any]]) -> list[Answer]:
        """Return the items to show, the best first."""
        made = self.model.recommend(pd.DataFrame(asked))
        cold = sum(self.model.is_cold(items) for items in made)
        self.shown.labels("cold").inc(cold)
        self.shown.labels("known").inc(sum(map(len, made)) - cold)
        return [{"items": items} for items in made]

    def decision(self, answer: Answer) -> list[str]:
        """Return the items that were shown."""
        return list(answer["items"])

    def agrees(self, decision: list[str], label: Any) -> bool:
        """Tell whether what was taken was shown."""
        return label in decision


if __name__ == "__main__":
    main(Shelf, Path("services/recommender"), 8600, train)
