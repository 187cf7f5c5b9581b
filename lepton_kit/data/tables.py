"""Tables of any kind: what they hold, by content."""

from __future__ import annotations

import hashlib

import pandas as pd


def table_sha256(frame: pd.DataFrame) -> str:
    """Return the SHA-256 of a table's content: column names and values in order, independent of the file format.

    Examples
    --------
    >>> table_sha256(pd.DataFrame({"close": [1.0, 2.0]}))[:12]
    '196defbbd785'
    """
    return hashlib.sha256(frame.to_csv(index=False, lineterminator="\n").encode()).hexdigest()
