"""Intervals of shares, one function each. Counts need not be whole: seconds may count as events."""

from __future__ import annotations

import math

Z = 1.959963984540054
"""Quantile of the normal distribution of a two-sided 95 % interval."""


def wilson_interval(hits: float, of: float, z: float = Z) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927); from 0 to 1 of nothing.

    >>> [round(bound, 3) for bound in wilson_interval(1, 10)]
    [0.018, 0.404]
    """
    if not of:
        return 0.0, 1.0
    share, spread = hits / of, z * z / of
    center = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return max(0.0, center - half), min(1.0, center + half)


def difference_interval(old: tuple[float, float], new: tuple[float, float], z: float = Z) -> tuple[float, float]:
    """Return the interval of the difference of two shares, new minus old: Newcombe (1998), method 10.

    Parameters
    ----------
    old, new
        Hits, and what they are of, above 0.

    Examples
    --------
    >>> [round(bound, 4) for bound in difference_interval(old=(48, 80), new=(56, 70))]
    [0.0524, 0.3339]
    """
    (old_low, old_high), (new_low, new_high) = wilson_interval(*old, z), wilson_interval(*new, z)
    old_share, new_share = old[0] / old[1], new[0] / new[1]
    difference = new_share - old_share
    return (
        difference - math.hypot(new_share - new_low, old_high - old_share),
        difference + math.hypot(new_high - new_share, old_share - old_low),
    )
