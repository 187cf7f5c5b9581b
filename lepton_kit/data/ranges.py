"""How far a value may lie from the rows that a model learnt from before it is no value of that feature any more."""

from __future__ import annotations

import pandas as pd

ALLOWED_RANGES = 3.0
"""An input further outside the training rows' range than this many of its widths is in another unit, not a market."""


def allowed_range(reference: pd.DataFrame) -> pd.DataFrame:
    """Return the least and the largest value that each feature may have, index: feature, columns `low` and `high`.

    Examples
    --------
    >>> allowed_range(pd.DataFrame({"return_0": [-0.1, 0.1]})).round(3).to_dict("index")
    {'return_0': {'low': -0.7, 'high': 0.7}}
    """
    low, high = reference.min(), reference.max()
    margin = ALLOWED_RANGES * (high - low)
    return pd.DataFrame({"low": low - margin, "high": high + margin})
