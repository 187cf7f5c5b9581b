"""What a notebook recorded, in words: on a page nobody reads `[]`, `None` or `nan`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOT_NUMBERS = {"nan": "not known", "inf": "without end", "-inf": "without end, below"}
"""Numbers that JSON lacks, as results hold them."""
LONGEST = 200
"""Characters of a text that stands for a result; the page has the whole further down."""


def in_words(value: Any, unit: str = "") -> str:
    """Return a value as people write it: four digits of a number, thousands apart; lists as lists.

    Examples
    --------
    >>> [in_words(value) for value in (True, None, [], ["data", "compute"], {"a": 1}, "nan")]
    ['yes', 'none', 'none', 'data, compute', 'a: 1', 'not known']
    >>> [in_words(value) for value in (1047, 0.0123456, 36159342.8)], in_words(0.99999, "1"), in_words(3.5, "ms")
    (['1,047', '0.01235', '36,159,343'], 'over 0.9999', '3.5 ms')
    """
    if isinstance(value, float) and unit == "1" and 0.9999 < value < 1:
        return "over 0.9999"
    said = _plain(value)
    has_unit = unit not in ("", "1") and value is not None and said not in NOT_NUMBERS.values()
    return f"{said} {unit}" if has_unit else said


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return NOT_NUMBERS.get(value, value)
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_plain(one)}" for name, one in value.items()) or "none"
    if isinstance(value, float) and not math.isfinite(value):
        return NOT_NUMBERS[str(value)]
    return f"{value:,.0f}" if isinstance(value, int) or 1e3 <= abs(value) < 1e15 else f"{value:.4g}"


def shortened(text: str, limit: int = LONGEST) -> str:
    """Return the beginning of a text that is too long for its place."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def sure(probability: float) -> str:
    """Return a probability in percent; none is certain.

    >>> sure(0.974), sure(0.9996), sure(0.0)
    ('97%', 'over 99%', 'under 1%')
    """
    if probability < 0.005:
        return "under 1%"
    return f"{probability:.0%}" if probability < 0.995 else "over 99%"


def cell(value: Any) -> str:
    """Return a cell of a recorded table in words; a dash where there is nothing.

    >>> cell("nan"), cell(True), cell(433.8642), cell("a")
    ('–', 'yes', '433.9', 'a')
    """
    return "–" if value is None or value == "nan" else _plain(value)
