"""Texts of a grammar: patterns whose places are filled by lot. No text is anyone's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def written(patterns: Sequence[str], slots: Mapping[str, Sequence[str]], rng: np.random.Generator) -> str:
    """Return one of the patterns, with each of its places filled by one of what its slot holds.

    >>> written(["where is my {thing}"], {"thing": ["parcel"]}, np.random.default_rng(0))
    'where is my parcel'
    """
    filled = {name: str(rng.choice(values)) for name, values in slots.items()}
    return str(rng.choice(patterns)).format(**filled)
