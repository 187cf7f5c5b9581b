"""Input fixes: what a running service does to the rows of a faulty feed before it forecasts, until it is repaired.

A fix is a statement about the feed, not about a version of the model: it stays when the version changes, and one
about a feature that a version does not need does nothing to it. In this order: columns that the feed exchanged are
put back (`swap`), values in a wrong unit are multiplied (`scale`), missing ones are filled (`fill`), and a row that
still breaks its contract is refused and kept aside (`quarantine`).

Each row is judged by itself, beside the rows that the model learnt from: one that came as it should is left as it is.
So a feed of which only some rows are faulty is fixed, and a fix that outlives its fault does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from lepton_kit.data.quality import allowed_range
from lepton_kit.errors import InputError

LAST: Literal["last"] = "last"
"""A missing value is filled with the last one that came."""

MOST_FILLED = 0.5
"""A row of which a larger share is missing is not filled: hardly anything of it was known."""


class InputFixes(BaseModel):
    """What is done to every row.

    Parameters
    ----------
    scale
        Factor per feature that brings it back into the unit that the model knows: 0.01 where the feed counts percents.
        A row is rescaled as a whole, where its values lie nearer to the wrong unit than to the right one.
    swap
        Pairs of features whose values the feed exchanged; each feature stands in one pair only. A row's pairs are put
        back together, where its values are then likelier than as they came, or where nothing tells, as between two
        features of one distribution.
    fill
        What takes the place of a missing value, per feature: a number, or `last` for the last one that came.
    quarantine
        Whether rows that break their contract are refused (422) and kept in `quarantine.jsonl` of the service: a value
        that is missing or outside `lepton_kit.data.quality.allowed_range` of the rows that the model learnt from.

    Examples
    --------
    >>> percents = InputFixes(scale={"return_0": 0.01}, fill={"volume_0": 0.0})
    >>> learnt_from = pd.DataFrame({"return_0": np.linspace(-0.03, 0.03, 50), "volume_0": np.linspace(-1, 1, 50)})
    >>> rows = pd.DataFrame({"return_0": [1.5, 0.02], "volume_0": [np.nan, 0.3]})
    >>> percents.applied(rows, learnt_from).to_dict("list")
    {'return_0': [0.015, 0.02], 'volume_0': [0.0, 0.3]}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: dict[str, Annotated[FiniteFloat, Field(gt=0)]] = {}
    swap: dict[str, str] = {}
    fill: dict[str, FiniteFloat | Literal["last"]] = {}
    quarantine: bool = False

    @model_validator(mode="after")
    def _pairs(self) -> InputFixes:
        named = [*self.swap, *self.swap.values()]  # one that is exchanged with itself is named twice, too
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"swap: {twice[0]!r} appears in two pairs; each feature may be exchanged with one other")
        return self

    def __bool__(self) -> bool:
        """Say whether anything is done at all."""
        return bool(self.scale or self.swap or self.fill or self.quarantine)

    @property
    def summary(self) -> str:
        """Say in a line what is done.

        >>> InputFixes(scale={"a": 0.01, "b": 0.01}, fill={"c": "last"}, quarantine=True).summary
        'a, b × 0.01; fills missing values of 1 feature; refuses rows that break their contract'
        """
        by_factor: dict[float, list[str]] = {}
        for name, factor in self.scale.items():
            by_factor.setdefault(factor, []).append(name)
        said = [f"{listed(names)} × {factor:g}" for factor, names in by_factor.items()]
        said += [f"{name} ↔ {other}" for name, other in self.swap.items()]
        said += (
            [f"fills missing values of {len(self.fill)} feature{'s' if len(self.fill) > 1 else ''}"]
            if self.fill
            else []
        )
        said += ["refuses rows that break their contract"] if self.quarantine else []
        return "; ".join(said)

    def exchanged(self) -> dict[str, str]:
        """Return for each exchanged feature the one whose column holds its values."""
        return {**self.swap, **{other: name for name, other in self.swap.items()}}

    def applied(self, rows: pd.DataFrame, reference: pd.DataFrame | None = None) -> pd.DataFrame:
        """Return rows (missing values are NaN) as the service would use them, in their order; none is left out.

        Without `reference`, the rows that the model learnt from, every row counts as faulty.
        """
        fixer = InputFixer(self, tuple(map(str, rows.columns)), reference)
        fixed = fixer.fix(rows.to_numpy(dtype=float))
        return pd.DataFrame(fixed.values, index=rows.index, columns=rows.columns)

    def then(self, later: InputFixes) -> InputFixes:
        """Return these fixes and later ones, which were planned on rows as these left them.

        What later ones say of a feature stands in the place of what these say of it; a pair that is exchanged again is
        one that the feed has put right.

        Examples
        --------
        >>> first = InputFixes(scale={"return_0": 0.01}, swap={"a": "b"})
        >>> first.then(InputFixes(scale={"return_0": 0.1}, swap={"a": "b"}))
        InputFixes(scale={'return_0': 0.1}, swap={}, fill={}, quarantine=False)
        """
        mine, others = ({frozenset(pair) for pair in one.swap.items()} for one in (self, later))
        touched = {name for pair in others for name in pair}
        kept = [(min(pair), max(pair)) for pair in (others - mine) | {pair for pair in mine if not pair & touched}]
        return InputFixes(
            scale={**self.scale, **later.scale},
            swap=dict(sorted(kept)),
            fill={**self.fill, **later.fill},
            quarantine=self.quarantine or later.quarantine,
        )


NO_INPUT_FIXES = InputFixes()


def renamed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored state under today's name of its `input_fixes`: files of before 2026-12 call them `mends`."""
    return {"input_fixes" if name == "mends" else name: value for name, value in stored.items()}


@dataclass(frozen=True)
class FixedRows:
    """Rows after their fixes (n, columns), which of them were changed (n,), and which still break the contract (n,)."""

    values: np.ndarray
    changed: np.ndarray
    broken: np.ndarray


class InputFixer:
    """Input fixes made ready for the columns of one version.

    Parameters
    ----------
    fixes
        What is done; entries for other columns are ignored.
    reference
        Rows that the model learnt from; without them every row counts as faulty, and no value is out of its range.

    Raises
    ------
    InputError
        When only one feature of a pair is among the columns.
    """

    def __init__(self, fixes: InputFixes, columns: tuple[str, ...], reference: pd.DataFrame | None) -> None:
        self.input_fixes = fixes
        learnt = (pd.DataFrame() if reference is None else reference).reindex(columns=list(columns))
        bounds = allowed_range(learnt)
        self._low, self._high = (bounds[end].fillna(end_of).to_numpy(float) for end, end_of in _ENDS)
        self._order = _order(fixes, columns)
        self._moved = np.flatnonzero(self._order != np.arange(len(columns)))
        self._densities = _densities(learnt, self._moved, self._order)
        self._factors = np.array([fixes.scale.get(name, 1.0) for name in columns])
        self._typical = learnt.abs().median().to_numpy(dtype=float)
        fills = [fixes.fill.get(name, float("nan")) for name in columns]
        self._takes_last = np.array([value == LAST for value in fills])
        self._fillings = np.array([float("nan") if value == LAST else float(value) for value in fills])

    def fix(self, received: np.ndarray) -> FixedRows:
        """Return rows (n, columns) as they are used; missing values are NaN. Remembers the last values that came."""
        values = self._rescaled(self._put_back(received))
        if self._takes_last.any() or not np.isfinite(values).all():
            values = values.copy()
            for row in values:
                self._fill(row)
        changed = (values != received) & ~(np.isnan(values) & np.isnan(received))
        inside = (values >= self._low) & (values <= self._high)  # what is still missing is not inside
        return FixedRows(values, changed.any(axis=1), ~(inside & np.isfinite(values)).all(axis=1))

    def _put_back(self, received: np.ndarray) -> np.ndarray:
        """Exchange the values of the pairs in the rows in which they are exchanged."""
        if not len(self._moved):
            return received
        exchanged = received[:, self._order]
        if self._densities is None:
            return exchanged
        as_came, put_back = (
            sum(self._densities[column].logarithm(values[:, column]) for column in self._moved.tolist())
            for values in (received, exchanged)
        )
        return np.where(np.asarray(put_back > as_came)[:, None], exchanged, received)

    def _rescaled(self, values: np.ndarray) -> np.ndarray:
        """Multiply the rows that are in the wrong unit.

        In the right unit the logarithm of a value's size over its typical one is about 0, in the wrong one about that
        of the unit. Their ratio, averaged over a row's features, is so about 0 or 1.
        """
        wrong = self._factors != 1.0
        if not wrong.any():
            return values
        with np.errstate(divide="ignore", invalid="ignore"):
            off = np.log10(np.abs(values[:, wrong]) / self._typical[wrong]) / -np.log10(self._factors[wrong])
        known = np.isfinite(off)
        share = np.where(known, off, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        is_wrong = (share > 0.5) | ~np.isfinite(self._typical[wrong]).any()
        return np.where(is_wrong[:, None], values * self._factors, values)

    def _fill(self, row: np.ndarray) -> None:
        """Fill what a row lacks, and keep what came as it should for the rows to come."""
        absent = ~np.isfinite(row)
        came = self._takes_last & ~absent & (row >= self._low) & (row <= self._high)
        self._fillings[came] = row[came]
        if absent.mean() <= MOST_FILLED:
            row[absent] = self._fillings[absent]


_ENDS = (("low", -np.inf), ("high", np.inf))


def _order(fixes: InputFixes, columns: tuple[str, ...]) -> np.ndarray:
    """Return for each column the place of the one that holds its values."""
    place = {name: number for number, name in enumerate(columns)}
    order = np.arange(len(columns))
    for name, source in fixes.exchanged().items():
        if name in place and source not in place:
            raise InputError(f"swap {name!r} with {source!r}: the model needs only {name!r}, so nothing holds it")
        if name in place:
            order[place[name]] = place[source]
    return order


class _Density:
    """How likely the values of a feature are: a histogram between the deciles of a sample."""

    def __init__(self, sample: np.ndarray) -> None:
        self._edges = np.unique(np.quantile(sample, np.linspace(0, 1, 11)))
        counts, _ = np.histogram(sample, self._edges)
        width = self._edges[-1] - self._edges[0]
        self._logarithms = np.log(counts / len(sample) / np.diff(self._edges))
        self._outside = float(np.log(OUTSIDE / width))

    def logarithm(self, values: np.ndarray) -> np.ndarray:
        """Return the logarithm of the density at some values; low beyond the sample, and 0 where nothing is known."""
        place = np.searchsorted(self._edges, values, "right") - 1
        inside = (place >= 0) & (place < len(self._logarithms))
        found = np.where(inside, self._logarithms[np.clip(place, 0, len(self._logarithms) - 1)], self._outside)
        return np.where(np.isfinite(values), found, 0.0)


OUTSIDE = 0.01
"""Share of the values that may lie beyond those learnt from, spread over as wide a range again."""

LEAST_SAMPLE, ALIKE = 20, 0.1
"""Rows that a density needs, and the distance (Kolmogorov–Smirnov) up to which two features are of one distribution."""


def _densities(learnt: pd.DataFrame, moved: np.ndarray, order: np.ndarray) -> dict[int, _Density] | None:
    """Return the density of each exchanged feature, or None where it cannot tell them apart."""
    from lepton_kit.data.drift import kolmogorov_smirnov  # scipy.stats: half a second that few services need

    samples = {column: learnt.iloc[:, column].dropna().to_numpy(float) for column in moved.tolist()}
    if any(len(np.unique(sample)) < LEAST_SAMPLE for sample in samples.values()):
        return None
    apart = [kolmogorov_smirnov(samples[column], samples[int(order[column])])[0] for column in samples]
    if not apart or max(apart) <= ALIKE:
        return None
    return {column: _Density(sample) for column, sample in samples.items()}


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return names of features in words: all of a few, of more how many there are.

    >>> listed(["a", "b"]), listed(["a", "b", "c", "d"])
    ('a, b', '4 features')
    """
    return ", ".join(names) if len(names) <= most else f"{len(names)} features"
