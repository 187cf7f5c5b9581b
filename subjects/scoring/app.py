"""The scoring example's server: one decision a request, with names, logs and scripts of its own (`subjects.slotted`).

python -m subjects.scoring.app --port 8200
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import skops.io

from subjects.scoring.model import NUMBERS, SIZES, train
from subjects.slotted import Answer, Slotted, main


class Scoring(Slotted):
    """Tells the probability that a tumour is malignant."""

    name, route, target, columns = "scoring", "/score", "malignant", ("y_pred_proba",)

    def load(self, folder: Path) -> None:
        """Take up the version in a folder."""
        self.model = skops.io.load(folder / "model.skops", trusted=[])

    def refused(self, inputs: Any) -> str:
        """Refuse what does not hold a number for each measurement, and a size."""
        if isinstance(inputs, dict) and set(inputs) == {*NUMBERS, "size"}:
            numbers = [inputs[name] for name in NUMBERS]
            if all(isinstance(one, int | float) for one in numbers) and isinstance(inputs["size"], str):
                return ""
        return f"inputs: a number each for {', '.join(NUMBERS)}, and size ({', '.join(SIZES)})"

    def answers(self, asked: Sequence[dict[str, Any]]) -> list[Answer]:
        """Return the probabilities."""
        return [{"y_pred_proba": float(one)} for one in self.model.predict_proba(pd.DataFrame(asked))[:, 1]]

    def decision(self, answer: Answer) -> int:
        """Return whether the answer is that it is malignant."""
        return int(answer["y_pred_proba"] >= 0.5)


if __name__ == "__main__":
    main(Scoring, Path("services/scoring"), 8200, train)
