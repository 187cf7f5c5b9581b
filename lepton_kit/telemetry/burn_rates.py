"""Multi-window, multi-burn-rate alerts on objectives, computed from samples of counters.

The windows and burn rates are those of the Site Reliability Workbook (Beyer et al., 2018, chapter 5, table 5-8): a page
where 2 % of a 30-day budget went in 1 h or 5 % in 6 h, a ticket where 10 % went in 3 days; and the ticket at three
times the budget over a day that the same chapter gives. Increases are extrapolated as Prometheus' `increase` does
(`extrapolatedRate` in promql/functions.go), so that both evaluators say the same of the same series.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lepton_kit.errors import InputError
from lepton_kit.telemetry.selectors import Selector, Source
from lepton_kit.telemetry.slo import Objective


@dataclass(frozen=True)
class BurnWindow:
    """Raise an alert while bad events burn the budget `rate` times too fast in both windows (seconds)."""

    severity: str
    rate: float
    long: int
    short: int


WINDOWS = (
    BurnWindow("page", 14.4, 3600, 300),
    BurnWindow("page", 6.0, 6 * 3600, 1800),
    BurnWindow("ticket", 3.0, 86400, 2 * 3600),
    BurnWindow("ticket", 1.0, 3 * 86400, 6 * 3600),
)
SEVERITIES = ("page", "ticket")


@dataclass(frozen=True)
class Burn:
    """What one pair of windows shows: the part of bad events (None without events) in each, and the events."""

    window: BurnWindow
    threshold: float
    long_ratio: float | None
    short_ratio: float | None
    events: float
    is_firing: bool


@dataclass(frozen=True)
class Status:
    """How an objective stands at a time: the firing severities, and the part of the error budget that is left."""

    objective: Objective
    at: float
    burns: tuple[Burn, ...]
    budget_left: float | None

    @property
    def firing(self) -> tuple[str, ...]:
        """Return the severities that fire."""
        return tuple(s for s in SEVERITIES if any(b.is_firing for b in self.burns if b.window.severity == s))


def threshold(objective: Objective, window: BurnWindow) -> float:
    """Return the part of bad events above which a window counts as burning.

    It is the burn rate times the budget, but at most halfway from the budget to 1: an objective with a wide budget
    could otherwise never burn it 14 times too fast.
    """
    return min(window.rate * objective.budget, (1 + objective.budget) / 2)


def scaled(seconds: float, time_scale: float) -> float:
    """Return a window shortened `time_scale` times (60 turns an hour into a minute), at least a millisecond.

    Raises
    ------
    InputError
        When the scale is not a finite number above 0.
    """
    if not np.isfinite(time_scale) or time_scale <= 0:
        raise InputError(f"time scale {time_scale!r}: must be a number above 0, such as 60")
    return max(round(seconds / time_scale, 3), 0.001)


def evaluate(objective: Objective, source: Source, at: float, time_scale: float = 1.0) -> Status:
    """Say how an objective stands.

    Parameters
    ----------
    objective
        The objective.
    source
        Where its counters' samples are.
    at
        The time, in Unix seconds; nothing later is read.
    time_scale
        All windows are this many times shorter.
    """
    lengths = {scaled(length, time_scale) for w in WINDOWS for length in (w.long, w.short)}
    budget_window = scaled(objective.window, time_scale)
    counted = _Counters(source, objective.selector, at, max(*lengths, budget_window))
    total = _Counters(source, objective.total, at, max(*lengths, budget_window))

    def bad_ratio(length: float) -> float | None:
        events = total.increase(length)
        if not events:
            return None
        found = (counted.increase(length) or 0.0) / events
        return found if objective.events == "bad" else 1 - found

    burns = []
    for window in WINDOWS:
        long, short = scaled(window.long, time_scale), scaled(window.short, time_scale)
        limit = threshold(objective, window)
        ratios = bad_ratio(long), bad_ratio(short)
        events = total.increase(long) or 0.0
        is_firing = events >= objective.minimum and all(ratio is not None and ratio > limit for ratio in ratios)
        burns.append(Burn(window, limit, *ratios, events, is_firing))
    spent = bad_ratio(budget_window)
    return Status(objective, at, tuple(burns), None if spent is None else 1 - spent / objective.budget)


class _Counters:
    """The samples of all series of a selector up to a time."""

    def __init__(self, source: Source, selector: Selector, at: float, longest: float) -> None:
        samples = source.query(str(selector), at - longest, at)
        self._at = at
        self._series = [
            (_seconds(series["time"]), series["value"].to_numpy(dtype=float))
            for _, series in samples.groupby(["metric", "labels"], sort=False)
        ]

    def increase(self, length: float) -> float | None:
        """Return the increase over the last `length` seconds, of all series together; None where there is none."""
        found = [increase(times, values, self._at - length, self._at) for times, values in self._series]
        known = [one for one in found if one is not None]
        return float(sum(known)) if known else None


def increase(times: np.ndarray, values: np.ndarray, start: float, end: float) -> float | None:
    """Return by how much a counter grew in a window, extrapolated to its borders; None with fewer than two samples.

    Parameters
    ----------
    times
        Unix seconds (n,), rising.
    values
        The counter (n,); where it falls it was restarted from 0.
    start, end
        The window, Unix seconds, both included.

    Examples
    --------
    >>> round(increase(np.array([0.0, 15.0, 30.0, 45.0]), np.array([5.0, 10.0, 0.0, 5.0]), 0.0, 45.0), 6)
    10.0
    """
    inside = slice(np.searchsorted(times, start, "left"), np.searchsorted(times, end, "right"))
    t, v = times[inside], values[inside]
    keep = ~np.isnan(v)
    t, v = t[keep], v[keep]
    if len(t) < 2:
        return None
    steps = np.diff(v)
    grown = float(v[-1] - v[0] + v[:-1][steps < 0].sum())
    sampled = float(t[-1] - t[0])
    between = sampled / (len(t) - 1)
    to_start, to_end = float(t[0] - start), float(end - t[-1])
    if to_start >= 1.1 * between:
        to_start = between / 2
    if grown > 0 and v[0] >= 0:
        to_start = min(to_start, sampled * float(v[0]) / grown)  # a counter was never below 0
    if to_end >= 1.1 * between:
        to_end = between / 2
    return grown * (sampled + to_start + to_end) / sampled


def _seconds(times: Iterable[object]) -> np.ndarray:
    return np.asarray(times, dtype="datetime64[ms]").astype("int64") / 1000
