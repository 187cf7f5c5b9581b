"""Noise in texts, as a way of `augment`: words dropped or swapped, letters mistyped."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from lepton_kit.data.augment import Rows, Way, check_share
from lepton_kit.errors import InputError

KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def text_noise(column: str, how: Literal["drop", "swap", "keyboard"], share: float = 0.1) -> Way:
    """Copy each row with a share of the words dropped or swapped with the next, or of the letters mistyped."""
    changes = {"drop": _drop, "swap": _swap, "keyboard": _mistype}
    check_share(share)
    if how not in changes:
        raise InputError(f"how = {how!r}: must be one of {', '.join(changes)}")

    def make(features: pd.DataFrame, target: pd.Series, chance: np.random.Generator) -> Rows:
        noisy = [changes[how](text, share, chance) for text in features[column].astype(str)]
        return features.assign(**{column: noisy}), target, np.ones(len(features))

    return make


def _drop(text: str, share: float, chance: np.random.Generator) -> str:
    words = text.split()
    kept = [word for word in words if chance.random() >= share]
    return " ".join(kept or words)


def _swap(text: str, share: float, chance: np.random.Generator) -> str:
    words = text.split()
    for place in range(len(words) - 1):
        if chance.random() < share:
            words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words)


def _mistype(text: str, share: float, chance: np.random.Generator) -> str:
    return "".join(_beside(letter, chance) if chance.random() < share else letter for letter in text)


def _beside(letter: str, chance: np.random.Generator) -> str:
    """Return a letter beside this one on a keyboard; what is no letter stays."""
    for row in KEYBOARD:
        if (place := row.find(letter.lower())) >= 0 and letter:
            near = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
            found = near[int(chance.integers(len(near)))]
            return found.upper() if letter.isupper() else found
    return letter
