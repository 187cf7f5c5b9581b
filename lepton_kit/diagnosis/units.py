"""Features that come in another unit than before: percent for shares, minutes for hours, thousandths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

UNITS = (60.0, 3600.0, *(10.0**power for power in range(1, 10)))
"""Factors between two units that are taken for one another."""

BOTH_WAYS = (*UNITS, *(1 / unit for unit in UNITS))

NEAR = 2.0
"""A change of the size by a factor between this many times less and more than one of `UNITS` is taken for that."""

LEAST_SPREAD = 0.6
"""Where some rows alone are looked at, they are spread at least so much as sound rows are, between quartiles on a scale
of logarithms: rows in another unit are spread alike, the largest or smallest of sound rows lie close together."""

LEAST_SHARE, LEAST_ROWS = 0.05, 10
"""Part of the rows is judged alone where it is at least this share of all, and this many rows."""


def unit_factors(sound: pd.DataFrame, since: pd.DataFrame) -> tuple[dict[str, float], pd.DataFrame]:
    """Return the factor of each feature that came in another unit than in sound rows, and the rows in which it did.

    All rows are compared, and where none of their features changed its unit those alone that lie beyond what sound rows
    showed: a feed may count some rows otherwise.

    >>> values = pd.DataFrame({"return_0": np.linspace(-0.02, 0.03, 60)})
    >>> unit_factors(values, 100 * values)[0], unit_factors(values, 3 * values)[0]
    ({'return_0': 100.0}, {})
    """
    names = [str(name) for name in since if name in sound]
    if min(len(sound), len(since)) < 2 * LEAST_ROWS or not names:
        return {}, since
    was, now = sound[names].abs(), since[names].abs()
    for odd, spread in (
        (pd.DataFrame(True, now.index, names), 0.0),
        (now > was.quantile(0.99), LEAST_SPREAD),
        (now < was.quantile(0.01), LEAST_SPREAD),
    ):
        moved = [name for name in names if odd[name].mean() >= LEAST_SHARE]
        rows = since[odd[moved].mean(axis=1) >= 0.5] if moved else since.head(0)
        factors = {
            name: unit_factor(sound[name], rows[name], least_spread=spread) for name in moved if len(rows) >= LEAST_ROWS
        }
        if found := {name: factor for name, factor in factors.items() if factor is not None}:
            usual = Counter(found.values()).most_common(1)[0][0]  # what may be of it as well is: 60 and 100 are near
            return {
                name: unit_factor(sound[name], rows[name], (usual,), spread) or own for name, own in found.items()
            }, rows
    return {}, since


def unit_factor(
    before: pd.Series, during: pd.Series, units: Sequence[float] = BOTH_WAYS, least_spread: float = 0.0
) -> float | None:
    """Return the factor between two units by which the size of a feature changed; None where it changed by none.

    All three quartiles of the absolute values must have changed by about that factor: a market moves them by far less
    than any of `UNITS`, and a feed that is stuck has but one value. Quartiles need no row to leave its range.

    >>> returns = pd.Series([0.01, -0.02, 0.015, -0.01])
    >>> unit_factor(returns, 100 * returns), unit_factor(returns, 3 * returns), unit_factor(returns, returns / 1000)
    (100.0, None, 0.001)
    """
    was, since = (side.abs().replace([0, np.inf], np.nan).quantile([0.25, 0.5, 0.75]) for side in (before, during))
    change = np.log((since / was).to_numpy())
    if not np.isfinite(change).all() or change[2] - change[0] < (least_spread - 1) * np.log(was[0.75] / was[0.25]):
        return None
    nearest = min(units, key=lambda unit: abs(change[1] - np.log(unit)))
    return None if (np.abs(change - np.log(nearest)) > np.log(NEAR)).any() else nearest
