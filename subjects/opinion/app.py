"""The opinion example's server: says whether a post is negative, neutral or positive (`subjects.texts`).

python -m subjects.opinion.app --port 8500
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subjects.opinion.model import train
from subjects.slotted import Answer, main
from subjects.texts import Texts


class Opinion(Texts):
    """Tells the sentiment of a post."""

    name, route, target, columns = "opinion", "/sentiment", "sentiment", ("sentiment", "score")
    fields = ("topic", "source")

    def answers(self, asked: Sequence[dict[str, Any]]) -> list[Answer]:
        """Return the sentiments, and the largest logit of each."""
        told = self.classifier.predict([one["text"] for one in asked])
        return [{"sentiment": label, "score": score} for label, score in told[["label", "score"]].values.tolist()]


if __name__ == "__main__":
    main(Opinion, Path("services/opinion"), 8500, train)
