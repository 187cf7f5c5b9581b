"""How stable a service was in a period, against the period before: from its recorded requests and metrics.

The SLIs: uptime, availability, response time, error rate, error budget left, and what users say; the log has a
module of its own. Every share and every quantile carries a 95 % interval, so that a difference is not taken for more
than the numbers carry; the intervals take requests as independent, which bursts are not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike

from lepton_kit.errors import InputError
from lepton_kit.stats import wilson_interval
from lepton_kit.telemetry.burn_rates import increase, unix_seconds
from lepton_kit.telemetry.recordings import Recording
from lepton_kit.telemetry.selectors import SAMPLE_COLUMNS, Selector, parse_selector
from lepton_kit.telemetry.slo import Objective

LEVEL = 0.95
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class RecordedMetrics:
    """The metrics of a recording as a `Source`.

    Parameters
    ----------
    metrics
        `time`, `metric`, `labels`, `value`, as a recording holds them.

    Examples
    --------
    >>> time = pd.to_datetime([0, 10], unit="s", utc=True)
    >>> table = pd.DataFrame({"time": time, "metric": "up", "labels": '{"job":"goog"}', "value": [1.0, 0.0]})
    >>> RecordedMetrics(table).query('up{job="goog"}', 5, 20)["value"].tolist()
    [0.0]
    """

    def __init__(self, metrics: pd.DataFrame) -> None:
        self._metrics = metrics

    def born(self, metric: str, labels: str, start: float) -> float | None:
        """Return when, since `start`, a series was not there yet: at the scrape of its target before its first sample.

        None where it is older, or its target was not scraped before: that it was 0 then is not known.
        """
        own = (self._metrics["metric"] == metric) & (self._metrics["labels"] == labels)
        first = unix_seconds(self._metrics["time"][own]).min()
        if first <= start:
            return None
        target = _target(labels)
        same = [text for text in self._metrics["labels"].unique() if _target(text) == target]
        scrapes = unix_seconds(self._metrics["time"][self._metrics["labels"].isin(same)])
        earlier = scrapes[(scrapes >= start) & (scrapes < first)]
        return float(earlier.max()) if len(earlier) else None

    def query(self, selector: str, start: float, end: float) -> pd.DataFrame:
        """Return the samples of the selected series from `start` to `end` (Unix seconds, both included)."""
        held = parse_selector(selector).of(self._metrics)
        # To the millisecond, as all times are: seconds as a float are not exact beyond.
        first, last = (pd.Timestamp(round(1000 * at), unit="ms", tz="UTC") for at in (start, end))
        kept = held[held["time"].between(first, last)]
        return kept.sort_values(["metric", "labels", "time"], ignore_index=True)[list(SAMPLE_COLUMNS)]


@dataclass(frozen=True)
class Periods:
    """The period that is judged, from `split` to `end`, and the one before it, from `start` to `split`."""

    start: pd.Timestamp
    split: pd.Timestamp
    end: pd.Timestamp

    def before(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the period before."""
        return table[(table["time"] >= self.start) & (table["time"] < self.split)]

    def now(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the period that is judged."""
        return table[(table["time"] >= self.split) & (table["time"] <= self.end)]


def last_periods(recording: Recording, minutes: float = 0.0) -> Periods:
    """Return the last `minutes` of a recording and as many before; the two halves of it where `minutes` is 0.

    Raises
    ------
    InputError
        When the minutes are negative, or twice as many are not in the recording.
    """
    window = recording.incident.window
    start, end = pd.Timestamp(window.start), pd.Timestamp(window.end)
    whole = (end - start) / pd.Timedelta(minutes=1)
    if not 0 <= minutes <= whole / 2:
        raise InputError(f"period = {minutes:g} minutes: must be from 0 to half of the recording's {whole:.4g} minutes")
    length = pd.Timedelta(minutes=minutes or whole / 2)
    return Periods(end - 2 * length, end - length, end)


def quantile_interval(values: ArrayLike, quantile: float, level: float = LEVEL) -> tuple[float, float]:
    """Return the distribution-free interval of a quantile, between two order statistics.

    The number of values below the true quantile is binomial, which gives the ranks (Hahn and Meeker, Statistical
    Intervals, 1991, section 5.2). With too few values for a bound it is infinite; missing values are left out.

    >>> quantile_interval(np.arange(1, 101), 0.5), quantile_interval(np.arange(1, 101), 0.99)
    ((40.0, 61.0), (97.0, inf))
    """
    kept = np.asarray(values, dtype=float)
    kept = kept[np.isfinite(kept)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = scipy.stats.quantile_test(kept, p=quantile).confidence_interval(level)
    return float(np.nan_to_num(low, nan=-np.inf)), float(np.nan_to_num(high, nan=np.inf))


def sli_table(recording: Recording, periods: Periods) -> pd.DataFrame:
    """Measure a service's stability in a period and in the one before.

    Returns
    -------
    DataFrame
        A row per SLI: `sli`, `unit` (`share`, `ms`, `1 to 5`), `before`, `now`, `low` and `high` (the
        interval of `now`), `cases` (how many measurements `now` rests on), and `verdict`: `worse`, `better`, `alike`
        (the intervals of both periods overlap) or `not known`.
    """
    requests, metrics, task = recording.requests, recording.metrics, recording.task
    time, status = requests["time"], requests["status"]
    known = status.dropna()
    latency = requests.loc[~status.ge(400), "latency_ms"]
    given = requests.head(0) if task is None else requests[task.answered(requests)]
    right = pd.Series(dtype=float) if task is None else 1 - task.misses(requests)
    rating = requests["rating"] if "rating" in requests else requests["latency_ms"].head(0)
    measured: tuple[tuple[str, str, bool, pd.Series, _Measure], ...] = (
        ("availability", "share", True, known.lt(500) & known.ne(429), _share),
        *((f"response time {name}", "ms", False, latency, partial(_quantile, q)) for name, q in QUANTILES.items()),
        ("error rate", "share", False, known.ge(400), _share),
        ("actuals known", "share", True, given["actual"].notna(), _share),
        ("right answers", "share", True, right, _share),
        ("rating", "1 to 5", True, rating, _mean),
    )
    up = metrics[metrics["metric"] == "up"]
    rows = [("uptime", "share", *_judged(up["value"], up["time"], periods, _share, True))]
    for name, unit, is_up_good, values, measure in measured:
        rows.append((name, unit, *_judged(values, time.loc[values.index], periods, measure, is_up_good)))
    columns = ["sli", "unit", "before", "now", "low", "high", "cases", "verdict"]
    return pd.DataFrame(rows, columns=columns)


_Measured = tuple[float, float, float]
"""A value, and the ends of its interval."""
_Measure = Callable[[pd.Series], _Measured]


def _judged(
    values: pd.Series, time: pd.Series, periods: Periods, measure: _Measure, is_up_good: bool
) -> tuple[float, float, float, float, int, str]:
    """Return what a measure gives before and now, with its interval, the number of cases, and the verdict."""
    table = pd.DataFrame({"time": time, "value": values.astype(float)}).dropna()
    before, now = (side["value"] for side in (periods.before(table), periods.now(table)))
    (was, was_low, was_high), (value, low, high) = measure(before), measure(now)
    if np.isnan([was_low, was_high, low, high]).any():
        verdict = "not known"
    elif low <= was_high and was_low <= high:
        verdict = "alike"
    else:
        verdict = "better" if (value > was) == is_up_good else "worse"
    return was, value, low, high, len(now), verdict


def _share(hits: pd.Series) -> _Measured:
    if hits.empty:
        return float("nan"), float("nan"), float("nan")
    return float(hits.mean()), *wilson_interval(hits.sum(), len(hits))


def _quantile(quantile: float, values: pd.Series) -> _Measured:
    return float(values.quantile(quantile)), *quantile_interval(values, quantile)


def _mean(values: pd.Series) -> _Measured:
    """Return a mean of 1 to 5 with Student's interval."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    reach = float(scipy.stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std() / np.sqrt(len(values)))
    return mean, max(1.0, mean - reach), min(5.0, mean + reach)


KINDS: Mapping[str, tuple[int, ...]] = {"refused as wrong (4xx)": (400, 499), "failed (5xx)": (500, 599)}
OVERLOADED = "refused for load (429)"


def errors_by_kind(requests: pd.DataFrame, periods: Periods) -> pd.DataFrame:
    """Count the requests without a forecast, by kind, in both periods: `kind`, `before`, `now`."""
    status = requests["status"]
    kind = pd.Series(pd.NA, index=requests.index, dtype="object")
    for name, (first, last) in KINDS.items():
        kind[status.between(first, last)] = name
    kind[status.eq(429)] = OVERLOADED
    table = requests.assign(kind=kind)
    names = [*KINDS, OVERLOADED]
    sides = {"before": periods.before(table), "now": periods.now(table)}
    counts = {side: part["kind"].value_counts() for side, part in sides.items()}
    return pd.DataFrame({"kind": names, **{s: c.reindex(names, fill_value=0).to_numpy() for s, c in counts.items()}})


def objective_table(objectives: Sequence[Objective], metrics: pd.DataFrame, periods: Periods) -> pd.DataFrame:
    """Say how each objective stands: events, bad ones, and how fast they burn the error budget.

    Returns
    -------
    DataFrame
        `objective`, `target`, `events` and `bad` (both in the period that is judged), `burn_before` and `burn_now`
        (share of bad events ÷ the share that the target allows; 1 spends the budget exactly), and `budget_left` (1 −
        the burn rate over both periods): what would be left if the objective's whole window went like them. Below 0
        it is overspent. NaN where there are no events.
    """
    source = RecordedMetrics(metrics)
    rows = []
    for one in objectives:
        before = bad_ratio(one, source, periods.start, periods.split)
        now = bad_ratio(one, source, periods.split, periods.end)
        whole = bad_ratio(one, source, periods.start, periods.end)
        burns = before[0] / one.budget, now[0] / one.budget
        rows.append((one.title, one.target, now[1], now[0] * now[1], *burns, 1 - whole[0] / one.budget))
    columns = ["objective", "target", "events", "bad", "burn_before", "burn_now", "budget_left"]
    return pd.DataFrame(rows, columns=columns)


def bad_ratio(
    objective: Objective, source: RecordedMetrics, start: pd.Timestamp, end: pd.Timestamp
) -> tuple[float, float]:
    """Return the share of bad events and the number of events; NaN and 0 without any, or where nothing counts them."""
    window = start.timestamp(), end.timestamp()
    events, counted = (grown(source, selector, *window) for selector in (objective.total, objective.selector))
    witness = objective.witness
    if events <= 0 or (witness is not None and source.query(str(witness), *window).empty):
        return float("nan"), 0.0
    share = min(1.0, counted / events)
    return (share if objective.events == "bad" else 1 - share), events


def grown(source: RecordedMetrics, selector: Selector, start: float, end: float) -> float:
    """Return the increase of all series of a selector; one that first shows within the window grew from 0 since then.

    Prometheus' `increase` sees no growth in a series' first sample. Here all scrapes are known, and at the last one
    of its target before it the series was not there.
    """
    total = 0.0
    for (metric, labels), series in source.query(str(selector), start, end).groupby(["metric", "labels"], sort=False):
        times, values = unix_seconds(series["time"]), series["value"].to_numpy(dtype=float)
        born = source.born(str(metric), str(labels), start)
        if born is not None:
            times, values = np.r_[born, times], np.r_[0.0, values]
        total += increase(times, values, start, end) or 0.0
    return total


def signal_growth(recording: Recording, role: str, start: float, end: float) -> float:
    """Return how much the counter of a signal grew, in the unit of its role; NaN where there is no such signal."""
    signal = recording.signals.get(role)
    source = RecordedMetrics(recording.metrics)
    return grown(source, parse_selector(signal.selector), start, end) * signal.scale if signal else float("nan")


def signal_mean(recording: Recording, role: str, start: float, end: float) -> float:
    """Return the mean of the values of a histogram's signal, in the unit of its role; NaN where it has none."""
    signal, source = recording.signals.get(role), RecordedMetrics(recording.metrics)
    if signal is None:
        return float("nan")
    parts = signal.parts("histogram")
    total, count = (grown(source, parse_selector(parts[part]), start, end) for part in ("sum", "count"))
    return total * signal.scale / count if count else float("nan")


def _target(labels: str) -> tuple[str | None, ...]:
    known = json.loads(labels)
    return known.get("job"), known.get("instance")


def by_time(requests: pd.DataFrame, periods: Periods, bins: int = 32) -> pd.DataFrame:
    """Cut both periods into equal parts, and count and measure the requests of each.

    Returns
    -------
    DataFrame
        Index `time` (the middle of a part, UTC); `answered`, `wrong` (4xx), `overloaded` (429) and `failed` (5xx)
        requests per second, `p50` and `p95` of the response time in ms.
    """
    edges = pd.date_range(periods.start, periods.end, periods=bins + 1)
    middles = edges[:-1] + (edges[1:] - edges[:-1]) / 2
    seconds = (edges[1] - edges[0]).total_seconds()
    inside = requests[(requests["time"] >= periods.start) & (requests["time"] <= periods.end)]
    part = np.clip(np.searchsorted(edges, pd.DatetimeIndex(inside["time"]), "right") - 1, 0, bins - 1)
    status = inside["status"]
    kinds = {
        "answered": status < 400,
        "wrong": status.between(400, 499) & status.ne(429),
        "overloaded": status.eq(429),
        "failed": status.ge(500),
    }
    counts = {name: np.bincount(part[is_kind.to_numpy()], minlength=bins) / seconds for name, is_kind in kinds.items()}
    times = inside["latency_ms"].where(status < 400).groupby(part)
    quantiles = {name: times.quantile(QUANTILES[name]).reindex(range(bins)).to_numpy() for name in ("p50", "p95")}
    return pd.DataFrame({**counts, **quantiles}, index=middles.rename("time"))


def metered_requests(recording: Recording, periods: Periods) -> float:
    """Return how many requests the service's own counter shows in both periods; NaN without any."""
    counted = signal_growth(recording, "requests_total", periods.start.timestamp(), periods.end.timestamp())
    return counted if counted > 0 else float("nan")


def next_action(worse: Sequence[str], burning: Sequence[str]) -> str:
    """Say where to look next.

    >>> next_action([], [])
    'Nothing became worse and no budget burns: nothing to do.'
    """
    if not worse and not burning:
        return "Nothing became worse and no budget burns: nothing to do."
    parts = [f"worse than before: {', '.join(worse)}"] if worse else []
    parts += [f"burning faster than allowed: {', '.join(burning)}"] if burning else []
    return f"Run incident-diagnosis on this recording ({'; '.join(parts)})."


NO_SAMPLES = pd.Series(dtype=float, index=pd.DatetimeIndex([], tz="UTC"))


def gauge(samples: pd.DataFrame, **labels: str) -> pd.Series:
    """Return a gauge by time, added up over its series with these labels, from what `Recording.samples` gives.

    >>> time = pd.to_datetime([0, 0, 10, 10], unit="s", utc=True)
    >>> held = pd.DataFrame({"time": time, "labels": ['{"pid":"1"}', '{"pid":"2"}'] * 2, "value": [1.0, 2.0, 3.0, 4.0]})
    >>> gauge(held).tolist(), gauge(held, pid="2").tolist()
    ([3.0, 7.0], [2.0, 4.0])
    """
    chosen = _with_labels(samples, labels)
    by_time: pd.Series = chosen.groupby("time")["value"].sum()
    return by_time


def growth(samples: pd.DataFrame, **labels: str) -> pd.Series:
    """Return what a counter grew since the scrape before, by time, added up over its series.

    A counter that fell was reset, and grew by its value; a series that first shows grew from 0 if there was a scrape
    before.

    >>> time = pd.to_datetime([0, 10, 20, 30], unit="s", utc=True)
    >>> growth(pd.DataFrame({"time": time, "labels": "{}", "value": [5.0, 7.0, 1.0, 1.0]})).tolist()
    [2.0, 1.0, 0.0]
    """
    chosen = _with_labels(samples, labels)
    if chosen.empty:
        return NO_SAMPLES
    wide = chosen.pivot_table(index="time", columns="labels", values="value", aggfunc="last")
    wide = wide.reindex(samples["time"].drop_duplicates().sort_values())
    values = wide.ffill().fillna(0.0)
    grown = values.diff()
    by_time: pd.Series = grown.where(grown >= 0, values).iloc[1:].sum(axis=1)
    return by_time


def _with_labels(samples: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    if not labels or samples.empty:
        return samples
    fitting = [text for text in samples["labels"].unique() if labels.items() <= json.loads(text).items()]
    return samples[samples["labels"].isin(fitting)]


def mean_seconds(recording: Recording, role: str) -> pd.Series:
    """Return the mean of what a histogram's signal counted since the scrape before, s; without those of no event."""
    total, count = (growth(recording.samples(role, part)) for part in ("sum", "count"))
    total, count = total.align(count, join="inner")
    mean: pd.Series = (total / count.where(count > 0)).replace([np.inf, -np.inf], np.nan).dropna()
    return mean
