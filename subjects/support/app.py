"""The support example's server: says what a customer's text is about, or leaves it to people (`subjects.slotted`).

python -m subjects.support.app --port 8400
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subjects.slotted import Answer, Slotted, main
from subjects.support.classifier import load
from subjects.support.model import train
from subjects.support.requests import OTHER

LONGEST = 2000


class Support(Slotted):
    """Tells the topic of a text; `other` where the text is out of scope."""

    name, route, target, columns = "support", "/classify", "topic", ("topic", "score")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.routed = self.counter("routed", "Texts by who answers them.", "to", ("topic", "people"))

    def load(self, folder: Path) -> None:
        """Take up the version in a folder."""
        self.classifier = load(folder)

    def refused(self, inputs: Any) -> str:
        """Refuse what is no text with its channel."""
        is_text = isinstance(inputs, dict) and all(isinstance(inputs.get(name), str) for name in ("text", "channel"))
        if is_text and inputs["text"].strip() and len(inputs["text"]) <= LONGEST:
            return ""
        return f"inputs: text (1 to {LONGEST} characters) and channel"

    def answers(self, asked: Sequence[dict[str, Any]]) -> list[Answer]:
        """Return the topics, and how far within scope each text is."""
        told = self.classifier.predict([one["text"] for one in asked])
        topics = told["label"].where(told["in_scope"], OTHER)
        for topic in topics:
            self.routed.labels("people" if topic == OTHER else "topic").inc()
        return [
            {"topic": str(topic), "score": float(score)} for topic, score in zip(topics, told["score"], strict=True)
        ]

    def decision(self, answer: Answer) -> str:
        """Return the topic."""
        return str(answer["topic"])


if __name__ == "__main__":
    main(Support, Path("services/support"), 8400, train)
