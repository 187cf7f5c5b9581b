"""The versions of the opinion example."""

from __future__ import annotations

from pathlib import Path

from subjects.classifier import Recipe, train_version
from subjects.opinion.posts import rows

RECIPE = Recipe(units=32, epochs=4, members=1)


def train(folder: Path, spoilt: bool = False, seed: int = 0) -> Path:
    """Train a version into a folder, a spoilt one on the sentiments of other posts."""
    learnt, held_out = rows(2000, seed), rows(400, seed + 1)
    return train_version(folder, learnt, held_out, "sentiment", RECIPE, spoilt, seed)
