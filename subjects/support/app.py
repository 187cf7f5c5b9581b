"""The support example's server: says what a customer's text is about, or leaves it to people (`subjects.slotted`).

python -m subjects.support.app --port 8400
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subjects.slotted import Answer, main
from subjects.support.model import train
from subjects.support.requests import OTHER
from subjects.texts import Texts


class Support(Texts):
    """Tells the topic of a text; `other` where the text is out of scope."""

    name, route, target, columns, fields = "support", "/classify", "topic", ("topic", "score"), ("channel",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.routed = self.counter("routed", "Texts by who answers them.", "to", ("topic", "people"))

    def answers(self, asked: Sequence[dict[str, Any]]) -> list[Answer]:
        """Return the topics, and how far within scope each text is."""
        told = self.classifier.predict([one["text"] for one in asked])
        topics = told["label"].where(told["in_scope"], OTHER)
        for topic in topics:
            self.routed.labels("people" if topic == OTHER else "topic").inc()
        return [
            {"topic": str(topic), "score": float(score)} for topic, score in zip(topics, told["score"], strict=True)
        ]


if __name__ == "__main__":
    main(Support, Path("services/support"), 8400, train)
