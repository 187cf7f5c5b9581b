"""Mends: what a running service does to the rows of a faulty feed before it forecasts, until the feed is whole again.

A mend is a statement about the feed, not about a version of the model: it stays when the version changes, and one
about a feature that a version does not need does nothing to it. In this order: columns that the feed exchanged are
put back (`swap`), values in a wrong unit are multiplied (`scale`), missing ones are filled (`fill`), and a row that
still breaks its contract is refused and kept aside (`quarantine`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from lepton_kit.data.ranges import allowed_range
from lepton_kit.errors import InputError

LAST: Literal["last"] = "last"
"""A missing value is filled with the last one that came."""

MOST_FILLED = 0.5
"""A row of which a larger share is missing is not filled: hardly anything of it was known."""


class Mends(BaseModel):
    """What is done to every row.

    Parameters
    ----------
    scale
        Factor per feature that brings it back into the unit that the model knows: 0.01 where the feed counts percents.
    swap
        Pairs of features whose values the feed exchanged; each feature stands in one pair only.
    fill
        What takes the place of a missing value, per feature: a number, or `last` for the last one that came.
    quarantine
        Whether rows that break their contract are refused (422) and kept in `quarantine.jsonl` of the service: a value
        that is missing or outside `lepton_kit.data.ranges.allowed_range` of the rows that the model learnt from.

    Examples
    --------
    >>> percents = Mends(scale={"return_0": 0.01}, fill={"volume_0": 0.0})
    >>> percents.applied(pd.DataFrame({"return_0": [1.5, 2.0], "volume_0": [np.nan, 0.3]})).to_dict("list")
    {'return_0': [0.015, 0.02], 'volume_0': [0.0, 0.3]}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: dict[str, Annotated[FiniteFloat, Field(gt=0)]] = {}
    swap: dict[str, str] = {}
    fill: dict[str, FiniteFloat | Literal["last"]] = {}
    quarantine: bool = False

    @model_validator(mode="after")
    def _pairs(self) -> Mends:
        named = [*self.swap, *self.swap.values()]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"swap: {twice[0]!r} stands in two pairs; each feature may be exchanged with one other")
        return self

    def __bool__(self) -> bool:
        """Say whether anything is done at all."""
        return bool(self.scale or self.swap or self.fill or self.quarantine)

    def exchanged(self) -> dict[str, str]:
        """Return for each exchanged feature the one whose column holds its values."""
        return {**self.swap, **{other: name for name, other in self.swap.items()}}

    def applied(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows as the service would use them, in order of their coming; nothing is left out of them.

        Parameters
        ----------
        rows
            A column per feature; missing values are NaN.
        """
        mender = Mender.of(self, tuple(map(str, rows.columns)), None)
        mended = mender.mend(rows.to_numpy(dtype=float))
        return pd.DataFrame(mended.values, index=rows.index, columns=rows.columns)

    def then(self, later: Mends) -> Mends:
        """Return the mends that do what these do, and afterwards what later ones do.

        A later mend is planned on rows as these left them, so a unit that the feed took back cancels its factor.

        Raises
        ------
        InputError
            When the pairs of both overlap, so that no pairs do the same.

        Examples
        --------
        >>> Mends(scale={"return_0": 0.01}).then(Mends(scale={"return_0": 100.0}))
        Mends(scale={}, swap={}, fill={}, quarantine=False)
        """
        again = later.exchanged()
        scale = {again.get(name, name): factor for name, factor in self.scale.items()}
        for name, factor in later.scale.items():
            scale[name] = scale.get(name, 1.0) * factor
        filled = {again.get(name, name): value for name, value in self.fill.items()}
        return Mends(
            scale={name: factor for name, factor in scale.items() if not np.isclose(factor, 1.0, rtol=1e-9)},
            swap=_both(self.exchanged(), again),
            fill={**filled, **later.fill},
            quarantine=self.quarantine or later.quarantine,
        )


NO_MENDS = Mends()


def _both(first: Mapping[str, str], later: Mapping[str, str]) -> dict[str, str]:
    """Return the pairs that two exchanges, one after the other, come to."""
    came_from = {name: first.get(later.get(name, name), later.get(name, name)) for name in {*first, *later}}
    moved = {name: source for name, source in came_from.items() if name != source}
    if any(moved.get(source) != name for name, source in moved.items()):
        raise InputError(
            f"swap {dict(first)} and then {dict(later)}: no pairs of features; mend one of them at its feed"
        )
    return {name: source for name, source in sorted(moved.items()) if name < source}


@dataclass(frozen=True)
class Mended:
    """Rows after their mends (n, columns), which of them were changed (n,), and which still break the contract (n,)."""

    values: np.ndarray
    changed: np.ndarray
    broken: np.ndarray


class Mender:
    """Mends made ready for the columns of one version.

    Parameters
    ----------
    mends
        What shall be done.
    order
        For each column, the place of the column that holds its values.
    factors
        What each column is multiplied with.
    fillings
        What takes the place of a missing value of each column; NaN where nothing does.
    takes_last
        Whether it is the last value that came.
    low, high
        The range that each value must keep.
    """

    def __init__(
        self,
        mends: Mends,
        order: np.ndarray,
        factors: np.ndarray,
        fillings: np.ndarray,
        takes_last: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
    ) -> None:
        self.mends = mends
        self._order, self._factors, self._takes_last = order, factors, takes_last
        self._fillings, self._low, self._high = fillings, low, high

    @classmethod
    def of(cls, mends: Mends, columns: tuple[str, ...], reference: pd.DataFrame | None) -> Mender:
        """Return mends made ready.

        Parameters
        ----------
        mends
            What shall be done; what they say of other columns is left out.
        columns
            The features of a row, in their order.
        reference
            Rows that the model learnt from; without them no value is out of its range.

        Raises
        ------
        InputError
            When only one feature of a pair is among the columns.
        """
        place = {name: number for number, name in enumerate(columns)}
        order = np.arange(len(columns))
        for name, source in mends.exchanged().items():
            if name in place and source not in place:
                raise InputError(f"swap {name!r} with {source!r}: the model needs only {name!r}, so nothing holds it")
            if name in place:
                order[place[name]] = place[source]
        fills = [mends.fill.get(name, float("nan")) for name in columns]
        known = pd.DataFrame() if reference is None else allowed_range(reference.filter(list(columns)))
        bounds = known.reindex(columns, columns=["low", "high"])
        return cls(
            mends,
            order=order,
            factors=np.array([mends.scale.get(name, 1.0) for name in columns]),
            fillings=np.array([float("nan") if value == LAST else float(value) for value in fills]),
            takes_last=np.array([value == LAST for value in fills]),
            low=bounds["low"].fillna(-np.inf).to_numpy(dtype=float),
            high=bounds["high"].fillna(np.inf).to_numpy(dtype=float),
        )

    def mend(self, received: np.ndarray) -> Mended:
        """Return rows (n, columns) as they are used; missing values are NaN. Remembers the last values that came."""
        values = received[:, self._order] * self._factors
        if self._takes_last.any() or not np.isfinite(values).all():
            for row in values:
                self._fill(row)
        changed = (values != received) & ~(np.isnan(values) & np.isnan(received))
        inside = (values >= self._low) & (values <= self._high)  # what is still missing is not inside
        return Mended(values, changed.any(axis=1), ~(inside & np.isfinite(values)).all(axis=1))

    def _fill(self, row: np.ndarray) -> None:
        """Fill what a row lacks, and keep what came as it should for the rows to come."""
        absent = ~np.isfinite(row)
        came = self._takes_last & ~absent & (row >= self._low) & (row <= self._high)
        self._fillings[came] = row[came]
        if absent.mean() <= MOST_FILLED:
            row[absent] = self._fillings[absent]
