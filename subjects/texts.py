"""A server of `subjects.slotted` that classifies texts (`subjects.classifier`), as support and opinion are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from subjects.classifier import load
from subjects.slotted import Answer, Slotted

LONGEST = 2000


class Texts(Slotted):
    """Tells the class of a text that comes with other fields, such as where it was written."""

    fields: tuple[str, ...]

    def load(self, folder: Path) -> None:
        """Take up the version in a folder."""
        self.classifier = load(folder)

    def refused(self, inputs: Any) -> str:
        """Refuse what is no text with its fields."""
        names = ("text", *self.fields)
        is_text = isinstance(inputs, dict) and all(isinstance(inputs.get(name), str) for name in names)
        if is_text and inputs["text"].strip() and len(inputs["text"]) <= LONGEST:
            return ""
        return f"inputs: text (1 to {LONGEST} characters) and {' and '.join(self.fields)}"

    def decision(self, answer: Answer) -> str:
        """Return the class."""
        return str(answer[self.target])
