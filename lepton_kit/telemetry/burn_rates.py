"""Multi-window, multi-burn-rate alerts on objectives, computed from samples of counters.

The windows and burn rates are those of the Site Reliability Workbook (Beyer et al., 2018, chapter 5, table 5-8): a page
where 2 % of a 30-day budget went in 1 h or 5 % in 6 h, a ticket where 10 % went in 3 days; and the ticket at three
times the budget over a day that the same chapter gives. Increases are extrapolated as Prometheus' `increase` does
(`extrapolatedRate` in promql/functions.go), so that both evaluators say the same of the same series.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

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
RECENT_S = 3600.0
"""An objective without a sample for this long is not measured; shortened as the windows are."""
LOOKBACK_S = 300.0
"""For how long a sample stands for its series: Prometheus' default."""


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
class Unmeasured:
    """Why an objective is not measured.

    `reason` is `refused` (the source does not give the samples), `no samples` (the source holds none, or none of the
    last hour), or `unknown service` (lepton.toml does not name the objective's service); `detail` says more.
    """

    reason: Literal["refused", "no samples", "unknown service"]
    detail: str


@dataclass(frozen=True)
class Status:
    """How an objective stands at a time: the firing severities, and the part of the error budget that is left.

    `unmeasured` says why nothing, or nothing recent, is known of it.
    """

    objective: Objective
    at: float
    burns: tuple[Burn, ...]
    budget_left: float | None
    unmeasured: Unmeasured | None = None

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

    Raises InputError when the scale is not a finite number above 0.
    """
    if not np.isfinite(time_scale) or time_scale <= 0:
        raise InputError(f"time scale {time_scale!r}: must be a number above 0, such as 60")
    return max(round(seconds / time_scale, 3), 0.001)


def evaluate(
    objective: Objective, source: Source, at: float, time_scale: float = 1.0, memory: Memory | None = None
) -> Status:
    """Say how an objective stands at a time (Unix seconds); nothing later is read.

    All windows are `time_scale` times shorter. With a `memory` of earlier evaluations on this source only what is new
    is read. Where the source refuses the samples the status has no `burns`, and `unmeasured` says why: one objective
    that cannot be measured keeps no other from being so.
    """
    budget_window = scaled(objective.window, time_scale)
    longest = max(_longest(WINDOWS, time_scale), budget_window)
    try:
        events = _Events.read(objective, memory or Memory(source), np.array([at]), longest)
    except InputError as error:
        return Status(objective, at, (), None, Unmeasured("refused", str(error)))
    burns = []
    for window in WINDOWS:
        long, short, number, fires = events.burning(window, time_scale)
        limit = threshold(objective, window)
        burns.append(Burn(window, limit, _known(long), _known(short), float(number[0]), bool(fires[0])))
    spent = _known(events.bad_ratio(budget_window))
    left = None if spent is None else 1 - spent / objective.budget
    silence = _silence(objective.total, events.total, at - scaled(RECENT_S, time_scale))
    if silence is None and events.is_absent[0] and objective.witness is not None:
        silence = _silence(objective.witness, events.witnessed, at - LOOKBACK_S)
    return Status(objective, at, tuple(burns), left, silence)


def firing(
    objective: Objective,
    source: Source,
    times: np.ndarray,
    windows: Sequence[BurnWindow] = WINDOWS,
    time_scale: float = 1.0,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Say at which of many times an objective's alerts fire, as `evaluate` does at each of them.

    Parameters
    ----------
    times
        Unix seconds (n,), in order, at least one.

    Returns
    -------
    fires
        For each severity of the windows, whether it fires at each time (n,).
    is_measured
        Whether the objective was measured at each time (n,).

    Raises
    ------
    InputError
        When the source refuses the samples.
    """
    recent = scaled(RECENT_S, time_scale)
    events = _Events.read(objective, Memory(source), times, max(_longest(windows, time_scale), recent))
    found = {window.severity: np.zeros(len(times), dtype=bool) for window in windows}
    for window in windows:
        found[window.severity] |= events.burning(window, time_scale)[-1]
    return found, (_newest(events.total, times) >= times - recent) & ~events.is_absent


def _longest(windows: Sequence[BurnWindow], time_scale: float) -> float:
    return max(scaled(length, time_scale) for window in windows for length in (window.long, window.short))


@dataclass(frozen=True)
class _Events:
    """The counters of an objective, and the times `at` (n,) at which it is judged by them.

    `is_absent` (n,) says where good events are not counted at all, of which `witnessed` is the sign.
    """

    objective: Objective
    at: np.ndarray
    counted: list[_Counter]
    total: list[_Counter]
    witnessed: list[_Counter]
    is_absent: np.ndarray

    @classmethod
    def read(cls, objective: Objective, memory: Memory, at: np.ndarray, longest: float) -> _Events:
        start, end = float(at[0]), float(at[-1])
        counted, total = (
            memory.counters(str(one), start - longest, end) for one in (objective.selector, objective.total)
        )
        is_absent = _newest(counted, at) < at - LOOKBACK_S
        if objective.witness is None or not is_absent.any():
            return cls(objective, at, counted, total, [], np.zeros(len(at), dtype=bool))
        witnessed = memory.counters(str(objective.witness), start - LOOKBACK_S, end)
        is_absent &= _newest(witnessed, at) < at - LOOKBACK_S
        return cls(objective, at, counted, total, witnessed, is_absent)

    def bad_ratio(self, length: float) -> np.ndarray:
        """Return the part of bad events in the windows of this length (s) until each time (n,); NaN without events."""
        events = _increase_of_all(self.total, self.at - length, self.at)
        grown = _increase_of_all(self.counted, self.at - length, self.at)
        grown[np.isnan(grown) & ~self.is_absent] = 0.0
        found: np.ndarray = np.divide(grown, events, out=np.full(len(events), np.nan), where=events > 0)
        return found if self.objective.events == "bad" else 1 - found

    def burning(self, window: BurnWindow, time_scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return at each time (n,): the part of bad events in the long and the short window, events, if it fires."""
        long, short = scaled(window.long, time_scale), scaled(window.short, time_scale)
        limit = threshold(self.objective, window)
        ratios = self.bad_ratio(long), self.bad_ratio(short)
        events = np.nan_to_num(_increase_of_all(self.total, self.at - long, self.at))
        fires = (events >= self.objective.minimum) & (ratios[0] > limit) & (ratios[1] > limit)
        return *ratios, events, fires


def _known(value: np.ndarray) -> float | None:
    """Return a single number; None of NaN."""
    return None if np.isnan(value[0]) else float(value[0])


def _newest(counters: Iterable[_Counter], at: np.ndarray) -> np.ndarray:
    """Return the time of the newest sample until each time (n,); minus infinity where there is none."""
    found = np.full(len(at), -np.inf)
    for one in counters:
        if len(one.times):
            place = np.searchsorted(one.times, at, "right") - 1
            found = np.maximum(found, np.where(place >= 0, one.times[place], -np.inf))
    return found


def _silence(selector: Selector, counters: Iterable[_Counter], since: float) -> Unmeasured | None:
    """Say that there are no samples of a selector since a time; None where there are."""
    newest = max((float(one.times[-1]) for one in counters if len(one.times)), default=None)
    if newest is not None and newest >= since:
        return None
    when = "" if newest is None else f" since {datetime.fromtimestamp(newest, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return Unmeasured("no samples", f"the source holds no samples of {selector}{when}")


def increase(times: np.ndarray, values: np.ndarray, start: float, end: float) -> float | None:
    """Return by how much a counter grew in a window, extrapolated to its borders; None with fewer than two samples.

    `times` (Unix seconds) rise; where a value falls the counter was restarted from 0. The window includes both ends.

    >>> round(increase(np.array([0.0, 15.0, 30.0, 45.0]), np.array([5.0, 10.0, 0.0, 5.0]), 0.0, 45.0), 6)
    10.0
    """
    counter = _Counter(times[:0], values[:0], values[:0]).followed_by(times, values)
    return _known(counter.increase(np.array([start]), np.array([end])))


class Memory:
    """The counters that evaluations have read from a source: each evaluation reads only what is new since the last.

    The last `overlap` seconds are read again, because samples of several targets do not arrive in order of time.
    """

    OVERLAP = 300.0

    def __init__(self, source: Source, overlap: float = OVERLAP) -> None:
        self._source, self._overlap = source, overlap
        self._known: dict[str, _Known] = {}

    def counters(self, selector: str, start: float, end: float) -> list[_Counter]:
        """Return all series of a selector, with their samples from `start` to `end` and perhaps a few around them."""
        known = self._known.get(selector)
        if known is None or start < known.start or end < known.end:
            known = _Known(start, end, self._read(selector, start, end))
        else:
            again = max(start, known.end - self._overlap)
            known = _Known(start, end, _followed(known.series, self._read(selector, again, end), start, again))
        self._known[selector] = known
        return list(known.series.values())

    def _read(self, selector: str, start: float, end: float) -> dict[Hashable, _Counter]:
        samples = self._source.query(selector, start, end)
        empty = _Counter(np.array([]), np.array([]), np.array([]))
        times, values = unix_seconds(samples["time"]), samples["value"].to_numpy(dtype=float)
        codes, labels = pd.factorize(samples["labels"])  # a selector names one metric: its series differ by labels
        return {
            name: empty.followed_by(times[codes == code], values[codes == code]) for code, name in enumerate(labels)
        }


class _Known(NamedTuple):
    start: float
    end: float
    series: dict[Hashable, _Counter]


@dataclass(frozen=True)
class _Counter:
    """Samples of a counter: times (n,), values (n,), and by how much it has grown since the first of them (n,)."""

    times: np.ndarray
    values: np.ndarray
    grown: np.ndarray

    def between(self, start: float, end: float) -> _Counter:
        """Return the samples from `start` to just before `end`."""
        inside = slice(*np.searchsorted(self.times, [start, end]))
        return _Counter(self.times[inside], self.values[inside], self.grown[inside])

    def followed_by(self, times: np.ndarray, values: np.ndarray) -> _Counter:
        """Return the counter with later samples; those without a number are left out."""
        known = ~np.isnan(values)
        times, values = times[known], values[known]
        steps = np.diff(values, prepend=self.values[-1:] if len(self.values) else values[:1])
        growth = np.where(steps < 0, values, steps)  # it was restarted, and has counted from 0 since
        grown = np.cumsum(growth) + (self.grown[-1] if len(self.grown) else 0.0)
        together = zip((self.times, self.values, self.grown), (times, values, grown), strict=True)
        return _Counter(*(np.concatenate(each) for each in together))

    def increase(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return what `increase` says of each window (n,); NaN where it holds fewer than two samples."""
        first = np.searchsorted(self.times, start, "left")
        last = np.searchsorted(self.times, end, "right") - 1
        found, held = np.full(len(start), np.nan), last > first
        first, last, start, end = first[held], last[held], start[held], end[held]
        grown = self.grown[last] - self.grown[first]
        sampled = self.times[last] - self.times[first]
        between = sampled / (last - first)
        to_start, to_end = self.times[first] - start, end - self.times[last]
        to_start = np.where(to_start >= 1.1 * between, between / 2, to_start)
        value = self.values[first]
        since_zero = np.divide(
            sampled * value, grown, out=np.full(len(grown), np.inf), where=(grown > 0) & (value >= 0)
        )
        to_start = np.minimum(to_start, since_zero)  # a counter was never below 0
        to_end = np.where(to_end >= 1.1 * between, between / 2, to_end)
        found[held] = grown * (sampled + to_start + to_end) / sampled
        return found


def _followed(
    before: dict[Hashable, _Counter], new: dict[Hashable, _Counter], start: float, again: float
) -> dict[Hashable, _Counter]:
    """Return counters whose samples since `again` are the new ones, and none is older than `start`."""
    kept = {key: old.between(start, again) for key, old in before.items()}
    for key, late in new.items():
        kept[key] = kept[key].followed_by(late.times, late.values) if key in kept else late
    return {key: counter for key, counter in kept.items() if len(counter.times)}


def _increase_of_all(counters: Sequence[_Counter], start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the increase of all series together in each window (n,); NaN where there is none."""
    if not counters:
        return np.full(len(start), np.nan)
    each = np.stack([one.increase(start, end) for one in counters])
    return np.where(np.isnan(each).all(axis=0), np.nan, np.nansum(each, axis=0))


def unix_seconds(times: Iterable[object]) -> np.ndarray:
    """Return times (n,) as Unix seconds, to the millisecond."""
    return np.asarray(times, dtype="datetime64[ms]").astype("int64") / 1000
