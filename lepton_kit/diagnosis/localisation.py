"""Localisation: which component of a call graph is the root of a symptom, and by which of its metrics one sees that.

A component that a fault slows down, or makes fail, does the same to whoever calls it. So its traces are sought along
the edges caller → callee, from the component where the symptom was seen downwards, and a component is suspected for
what it shows beyond what those below it explain. Its score is the product of six shares, each between 0 and 1:

```
strength     how unusual it is: z² / (z² + 3²), where z = |value - median| / (IQR / 1.349) against a normal period
impact       how much of it there is: deviation × volume, of the largest there is (requests × seconds, or requests lost)
own          what nothing below it explains: 1 - strength of the one below × its correlation × its impact ÷ own impact
correlation  of getting worse with the symptom's, (1 + Pearson's r) / 2
onset        1 unless it began after the symptom; then less, down to 0 at the end of the window
position     1 at or below the symptom, ½ where the graph does not have it, 0.1 where no calls of the symptom lead there
```

What cannot be known counts ½. Names of components mean nothing, and no component is likelier than another beforehand.

The robust score is the one of Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (1993), with the interquartile
range. That a fault lies where callees do not explain the caller is the rule of graph traversal, as in Chen et al.,
"CauseInfer" (INFOCOM 2014) and Lin, Chen and Zheng, "Microscope" (ICSOC 2018); impact and remainder make it gradual.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import TOPOLOGY_COLUMNS, printable

USUAL = 3.0
"""A robust score up to here is usual: the three standard deviations of Shewhart's control chart."""

UNKNOWN = 0.5
"""What counts for something between 0 and 1 that cannot be known."""

OFF_PATH = 0.1
"""What a component keeps that no path of calls joins to the symptom: the graph may lack an edge."""

LEAST_NORMAL = 8
"""Values of the normal period that a series must have, so that its quartiles mean something."""

IQR_OF_NORMAL = 1.349
"""Interquartile range of the normal distribution, in standard deviations."""

LEAST_CORRELATED = 3
"""Common values that a correlation needs."""


@dataclass(frozen=True)
class Symptom:
    """Where, by which metric, and since when something was seen to be wrong.

    `since` is on the index of the metrics: Unix seconds there, or a time with its zone.
    """

    component: str
    metric: str
    since: float | pd.Timestamp


@dataclass(frozen=True)
class SuspectMetric:
    """One metric of a suspected component: from `normal` to `peak`, with its robust score and when it began.

    `correlation` is that of getting worse: a metric that falls while the symptom's rises has a positive one.
    """

    metric: str
    normal: float
    peak: float
    robust_score: float
    correlation: float
    onset: float | pd.Timestamp | None


@dataclass(frozen=True)
class Suspect:
    """A component, its score, the parts of it (see the top of this module), its metrics, and the reasons in words."""

    component: str
    score: float
    parts: Mapping[str, float]
    place: str
    metrics: tuple[SuspectMetric, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Localisation:
    """Components by score, highest first, and why others could not be judged."""

    symptom: Symptom
    ranking: tuple[Suspect, ...]
    not_judged: Mapping[str, str] = field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """Return the ranking: `component`, `score`, `metric` (the one that counted), the parts, `place`."""
        rows = [
            {"component": one.component, "score": one.score, "metric": one.metrics[0].metric}
            | dict(one.parts)
            | {"place": one.place}
            for one in self.ranking
        ]
        return pd.DataFrame(rows)


def localise(
    metrics: pd.DataFrame,
    topology: pd.DataFrame,
    symptom: Symptom,
    normal: pd.DataFrame | None = None,
    volume: str | None = None,
) -> Localisation:
    """Rank the components of a call graph by how likely each is the root of a symptom.

    Parameters
    ----------
    metrics
        The window around the symptom: one row per step of time (Unix seconds or UTC timestamps, increasing), columns of
        two levels, (component, metric). Values may be missing.
    topology
        Edges, columns `caller` and `callee`. Empty: the graph is not known. Cycles are allowed: members of a cycle do
        not explain each other.
    symptom
        Where, by which metric, and since when.
    normal
        The same metrics from a period without a fault. Without it, the rows of `metrics` before the symptom are taken.
    volume
        The metric that counts the requests of a component per step. With it, deviations of components are comparable:
        50 ms more on 800 requests is more than 100 ms more on 10.

    Returns
    -------
    Localisation
        Equal scores are in the order of the columns.

    Raises
    ------
    InputError
        When a table has not this form, the symptom's series is not in it, does not vary from its normal value, or
        nothing is normal to compare with.

    Examples
    --------
    Of three services in a row, the last becomes slow in the eleventh minute:

    >>> wait = np.random.default_rng(0).normal(1, 0.05, (15, 3)).cumsum(axis=1)[:, ::-1]
    >>> wait[10:] += 2
    >>> columns = pd.MultiIndex.from_product([["web", "search", "store"], ["latency"]])
    >>> metrics = pd.DataFrame(wait, index=np.arange(15) * 60.0, columns=columns)
    >>> topology = pd.DataFrame({"caller": ["web", "search"], "callee": ["search", "store"]})
    >>> localise(metrics, topology, Symptom("web", "latency", since=600)).ranking[0].component
    'store'
    """
    _check(metrics, normal, topology, symptom, volume)
    metrics = _as_numbers(metrics)
    window = _window(metrics.index, symptom.since)
    normal = metrics[window.before] if normal is None else _as_numbers(normal)
    series = _judge_series(metrics, normal, symptom, window)
    components = _judge_components(metrics, series, topology, symptom, window, volume)
    ranked = components.sort_values("score", ascending=False, kind="stable")
    metrics_of = _suspect_metrics(series.found, metrics.index, window)
    suspects = tuple(_suspect(row, metrics_of[row["component"]]) for row in ranked.to_dict("records"))
    return Localisation(symptom, suspects, _not_judged(metrics, topology, components.index))


def wide_metrics(samples: pd.DataFrame, topology: pd.DataFrame) -> pd.DataFrame:
    """Return samples as a table with one row per step of time and columns (component, metric).

    Parameters
    ----------
    samples
        Columns `time`, `metric`, `labels` (a JSON object as text), `value`, as in a recording.
    topology
        Tells which label names components: the one with most values among its `caller` and `callee`.

    Examples
    --------
    >>> times = pd.to_datetime(["2026-01-01T00:00Z", "2026-01-01T00:01Z"])
    >>> samples = pd.DataFrame({"time": times, "metric": "requests_total", "labels": '{"part": "web"}',
    ...                         "value": [7.0, 9.0]})
    >>> wide_metrics(samples, pd.DataFrame({"caller": ["web"], "callee": ["db"]}))["web"].squeeze().tolist()
    [nan, 2.0]
    """
    samples = samples[~samples["metric"].str.endswith(NOT_READ)]
    known = {text: _labels(text) for text in samples["labels"].unique()}
    label = _component_label(list(known.values()), topology)
    components = {text: labels.get(label) for text, labels in known.items()}
    named = samples.assign(
        component=samples["labels"].map(components).astype(object),
        series=samples["metric"].astype(str) + samples["labels"].astype(str),
    ).dropna(subset=["component"])
    named["time"] = named["time"].dt.floor(_sampling_step(named))
    groups = named.groupby(["component", "metric"], sort=False)
    columns = {(str(component), str(metric)): _one_metric(own, str(metric)) for (component, metric), own in groups}
    return _with_means(columns)


# --- the table ----------------------------------------------------------------------------------------------------


def _check(
    metrics: pd.DataFrame, normal: pd.DataFrame | None, topology: pd.DataFrame, symptom: Symptom, volume: str | None
) -> None:
    _check_table(metrics, "metrics")
    if normal is not None:
        _check_table(normal, "normal")
    if len(metrics) < 2 or not metrics.index.is_monotonic_increasing or metrics.index.has_duplicates:
        raise InputError(f"metrics: {len(metrics)} rows; must be at least 2, in order of time, each time once")
    if missing := [column for column in TOPOLOGY_COLUMNS if column not in topology]:
        raise InputError(f"topology: lacks column {', '.join(missing)}; it has {_listed(topology.columns)}")
    if topology[list(TOPOLOGY_COLUMNS)].isna().any(axis=None):
        raise InputError("topology: an edge lacks its caller or callee; each must name both")
    if (symptom.component, symptom.metric) not in metrics.columns:
        known = metrics.columns[metrics.columns.get_level_values(0) == symptom.component].get_level_values(1)
        allowed = f"it has {_listed(known)}" if len(known) else "no such component is in the metrics"
        raise InputError(f"{_named(symptom)}: not in the metrics; {allowed}")
    names = metrics.columns.get_level_values(1).unique()
    if volume is not None and volume not in names:
        raise InputError(f"volume {volume!r}: no such metric; the metrics are {_listed(names)}")


def _check_table(table: pd.DataFrame, name: str) -> None:
    if table.columns.nlevels != 2:
        raise InputError(f"{name}: columns have {table.columns.nlevels} level(s); must have 2, (component, metric)")
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()][0]
        raise InputError(
            f"{name}: column {_listed(twice)} is there more than once; each (component, metric) must be once"
        )
    for column, dtype in table.dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype):
            raise InputError(f"{name}: column {column!r} holds {dtype}; must hold numbers")


def _listed(names: Iterable[object]) -> str:
    return printable(", ".join(map(str, names)), 200)


def _as_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as one block of floats, in which what is not finite is missing."""
    values = table.to_numpy(dtype=float)
    return pd.DataFrame(np.where(np.isfinite(values), values, np.nan), index=table.index, columns=table.columns)


@dataclass(frozen=True)
class _Window:
    """The rows of the metrics by time, in seconds since the first, and the symptom's time on the same clock."""

    times: NDArray[np.float64]
    step: float
    since: float

    @property
    def before(self) -> NDArray[np.bool_]:
        """Tell which rows lie wholly before the symptom; a row stands for the step that begins with it."""
        return self.times + self.step <= self.since

    def lateness(self, onset: float, of_symptom: float) -> float:
        """Return how late an onset is, as a share of the time from the symptom's to the window's end."""
        return max(0.0, onset - of_symptom) / float(self.times[-1] + self.step - of_symptom)


def _window(index: pd.Index, since: float | pd.Timestamp) -> _Window:
    try:
        if isinstance(index, pd.DatetimeIndex):
            times, at = (index - index[0]).total_seconds(), (pd.Timestamp(since) - index[0]).total_seconds()
        else:
            times, at = index - index[0], float(since - index[0])
    except TypeError as error:
        raise InputError(f"symptom since {since!r}: must be a time as in the metrics ({index.dtype})") from error
    window = _Window(np.asarray(times, dtype=float), float(np.median(np.diff(times))), at)
    if window.before.all():
        raise InputError(f"symptom since {since}: must not be after the metrics, {index[0]} to {index[-1]}")
    return window


# --- each series by itself ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Series:
    """All series that can be judged.

    `worse` has the form of the metrics: by how much a series lies on the bad side of its normal value, negative on the
    good one. `deviation` is what of that is bad, and more than before the symptom. `found` has one row per series:
    `normal`, `peak`, `robust_score`, `strength`, `correlation`, `onset` (seconds since the first row, NaN where it
    stayed usual), `lateness`.
    """

    worse: pd.DataFrame
    deviation: pd.DataFrame
    found: pd.DataFrame


def _judge_series(metrics: pd.DataFrame, normal: pd.DataFrame, symptom: Symptom, window: _Window) -> _Series:
    target = (symptom.component, symptom.metric)
    normal = normal.reindex(columns=metrics.columns)
    _check_symptom(metrics[target][~window.before], normal[target], symptom)
    enough = (normal.notna().sum() >= LEAST_NORMAL) & metrics[~window.before].notna().any()
    metrics, normal = metrics.loc[:, enough], normal.loc[:, enough]
    median, scale = normal.median(), _scale(normal)
    away = metrics - median
    side = _bad_side(away[~window.before], target)
    worse = away * side
    deviation = _beyond_before(worse.clip(lower=0), target, window)
    score = deviation.div(scale).where(deviation > 0, deviation)  # a constant series that stays has 0, not 0/0
    robust_score = score[~window.before].max()
    if not robust_score[target] > 0:
        raise InputError(f"{_named(symptom)}: never leaves its normal {median[target]:g} since {symptom.since}")
    onset = score.gt(USUAL).apply(lambda unusual: _onset(unusual.to_numpy(), window))
    of_symptom = window.since if np.isnan(onset[target]) else onset[target]
    found = pd.DataFrame(
        {
            "normal": median,
            "peak": median + side * worse[~window.before].max(),
            "robust_score": robust_score,
            "strength": robust_score.map(_strength),
            "correlation": _correlation(worse, worse[target]),
            "onset": onset,
            "lateness": onset.map(lambda one: window.lateness(one, of_symptom), na_action="ignore").fillna(UNKNOWN),
        }
    )
    return _Series(worse, deviation, found)


def _onset(unusual: NDArray[np.bool_], window: _Window) -> float:
    """Return when a series left its usual range for the time that it is out of it first since the symptom, or NaN."""
    since = np.flatnonzero(unusual & ~window.before)
    if not len(since):
        return float("nan")
    usual_before = np.flatnonzero(~unusual[: since[0]])
    return float(window.times[usual_before[-1] + 1 if len(usual_before) else 0])


def _named(symptom: Symptom) -> str:
    return f"symptom {symptom.component!r}, {symptom.metric!r}"


def _check_symptom(since: pd.Series, normal: pd.Series, symptom: Symptom) -> None:
    if normal.count() < LEAST_NORMAL or not since.count():
        raise InputError(
            f"{_named(symptom)}: {normal.count()} values in the normal period and {since.count()} since "
            f"{symptom.since}; must be at least {LEAST_NORMAL} and 1"
        )


def _beyond_before(deviation: pd.DataFrame, target: tuple[str, str], window: _Window) -> pd.DataFrame:
    """Return by how much each series deviates more than it did before the symptom, when it deviated least.

    What is now permanently elsewhere than in the normal period is no part of this incident. If the symptom was as bad
    before, the incident is older than that, and nothing is taken off.
    """
    beyond = (deviation - deviation[window.before].min().fillna(0)).clip(lower=0)
    return beyond if beyond.loc[~window.before, target].max() > 0 else deviation


def _bad_side(away: pd.DataFrame, target: tuple[str, str]) -> pd.Series:
    """Return for each series 1 where more is worse, else -1: as the symptom for its metric, by its peak for others."""
    furthest = away.abs().fillna(-1).to_numpy().argmax(axis=0)
    side = pd.Series(np.where(away.to_numpy()[furthest, np.arange(len(furthest))] < 0, -1, 1), index=away.columns)
    side[away.columns.get_level_values(1) == target[1]] = side[target]
    return side


def _scale(normal: pd.DataFrame) -> pd.Series:
    """Return the robust standard deviation of each series; the plain one where the middle half never varies.

    >>> _scale(pd.DataFrame({"a": [0.0, 1.349, 2.698, 0.0, 2.698], "b": [1.0, 1.0, 1.0, 1.0, 6.0]})).round(3).tolist()
    [2.0, 2.236]
    """
    spread = (normal.quantile(0.75) - normal.quantile(0.25)) / IQR_OF_NORMAL
    return spread.where(spread > 0, normal.std())


def _strength(score: float) -> float:
    """Return how unusual a robust score is, from 0 to 1.

    >>> [_strength(score) for score in (0, USUAL, 9, np.inf)]
    [0.0, 0.5, 0.9, 1.0]
    """
    return 1 - USUAL**2 / (score**2 + USUAL**2)


def _correlation(table: pd.DataFrame, with_series: pd.Series) -> pd.Series:
    """Return Pearson's r of each column with a series, NaN where there are too few values or one never varies.

    >>> table = pd.DataFrame({"up": [1.0, 2, 3], "down": [5.0, 4, 0], "flat": [0.1, 0.1, 0.1], "few": [1, 2, np.nan]})
    >>> _correlation(table, table["up"]).round(2).tolist()
    [1.0, -0.94, nan, nan]
    """
    x = table.where(with_series.notna(), axis=0)
    y = x.notna().mul(with_series, axis=0).where(x.notna())
    x_away, y_away = x - x.mean(), y - y.mean()
    r: pd.Series = (x_away * y_away).sum() / np.sqrt((x_away**2).sum() * (y_away**2).sum())
    varies = (x.max() > x.min()) & (y.max() > y.min()) & (x.count() >= LEAST_CORRELATED)
    return r.where(varies)


# --- the components together --------------------------------------------------------------------------------------


def _judge_components(
    metrics: pd.DataFrame,
    series: _Series,
    topology: pd.DataFrame,
    symptom: Symptom,
    window: _Window,
    volume: str | None,
) -> pd.DataFrame:
    """Return one row per component: its leading metric, the parts of its score, what explains it, and its position."""
    leading = _leading_metrics(series.found, symptom.metric)
    keys = pd.MultiIndex.from_tuples(list(leading.items()))
    found = series.found.loc[keys].droplevel(1)
    impact = _impact(metrics, series.deviation, leading, symptom.metric, window, volume)
    graph = _Graph(topology)
    correlation = series.worse[list(leading.items())].droplevel(1, axis=1).corr(min_periods=LEAST_CORRELATED)
    explains = _explains(correlation, found["strength"], impact, graph)
    place = pd.Series({name: graph.place(name, symptom.component) for name in leading})
    table = pd.DataFrame(
        {
            "component": list(leading),
            "metric": list(leading.values()),
            "strength": found["strength"],
            "impact": (impact / impact.max()).fillna(UNKNOWN) if impact.max() > 0 else UNKNOWN,
            "own": 1 - explains.max(),
            "correlation": _as_share(found["correlation"]),
            "onset": 1 - found["lateness"],
            "position": place.map({AT: 1.0, BELOW: 1.0, ELSEWHERE: OFF_PATH, NOT_IN_GRAPH: UNKNOWN}),
        },
        index=list(leading),
    )
    score = table[list(PARTS)].prod(axis=1)
    return table.assign(score=score, place=place, amount=impact, explained_by=explains.idxmax())


def _leading_metrics(found: pd.DataFrame, metric: str) -> dict[str, str]:
    """Return for each component the metric that speaks for it: the symptom's, where it has it, else the most telling.

    Only the symptom's metric can be compared between components; the best of many others would often be chance.
    """
    telling = _telling(found).where(found.index.get_level_values(1) != metric, np.inf)
    best = telling.groupby(level=0, sort=False).idxmax()
    return dict(best.tolist())


def _telling(found: pd.DataFrame) -> pd.Series:
    return found["strength"] * _as_share(found["correlation"]) * (1 - found["lateness"])


def _as_share(correlation: pd.Series) -> pd.Series:
    return ((1 + correlation) / 2).fillna(UNKNOWN)


def _impact(
    metrics: pd.DataFrame,
    deviation: pd.DataFrame,
    leading: dict[str, str],
    metric: str,
    window: _Window,
    volume: str | None,
) -> pd.Series:
    """Return deviation × volume summed since the symptom, NaN for components where one of them is not known."""
    impact = pd.Series(np.nan, index=list(leading))
    for component, name in leading.items():
        if name == metric and (component, volume) in metrics:
            amount = deviation.loc[:, (component, name)] * metrics.loc[:, (component, volume)]
            impact[component] = amount[~window.before].sum(min_count=1)
    return impact


def _explains(correlation: pd.DataFrame, strength: pd.Series, impact: pd.Series, graph: _Graph) -> pd.DataFrame:
    """Return how much each component (row) explains of the deviation of each one above it (column), 0 of others.

    All that lie below one are asked, not its callees alone: one between may not be measured, or vary too much to tell.
    """
    names = correlation.index
    below = [[graph.explains(callee, caller) for caller in names] for callee in names]
    together = correlation.clip(lower=0).fillna(UNKNOWN).to_numpy()
    amount = impact.where(impact > 0).to_numpy()
    share = np.minimum(impact.to_numpy()[:, None] / amount, 1.0)
    explains = strength.to_numpy()[:, None] * together * np.where(np.isnan(share), UNKNOWN, share)
    return pd.DataFrame(np.where(below, explains, 0.0), index=names, columns=names)


AT, BELOW, ELSEWHERE, NOT_IN_GRAPH = "at the symptom", "below the symptom", "elsewhere", "not in the graph"
PARTS = ("strength", "impact", "own", "correlation", "onset", "position")


class _Graph:
    """The call graph: what each component calls, directly or through others, and so can suffer from."""

    def __init__(self, topology: pd.DataFrame) -> None:
        self.called = topology.groupby("caller")["callee"].agg(set).to_dict()
        self.names = {*topology["caller"], *topology["callee"]}
        self.below = {name: self._below(name) for name in self.names}

    def _below(self, name: str) -> set[str]:
        below: set[str] = set()
        todo = [name]
        while todo:
            new = self.called.get(todo.pop(), set()) - below
            below |= new
            todo += new
        return below

    def explains(self, callee: str, caller: str) -> bool:
        """Tell whether a fault of one shows in another; within a cycle it shows both ways, which explains nothing."""
        return callee in self.below.get(caller, ()) and caller not in self.below[callee]

    def place(self, name: str, symptom: str) -> str:
        """Return where a component lies, seen from the symptom."""
        if name == symptom:
            return AT
        if name not in self.names or symptom not in self.names:
            return NOT_IN_GRAPH
        return BELOW if name in self.below[symptom] else ELSEWHERE


# --- in words -----------------------------------------------------------------------------------------------------


def _suspect(row: Mapping[Any, Any], metrics: tuple[SuspectMetric, ...]) -> Suspect:
    first = [one for one in metrics if one.metric == row["metric"]]
    metrics = (*first, *(one for one in metrics if one.metric != row["metric"]))
    parts = {name: float(row[name]) for name in PARTS}
    return Suspect(row["component"], float(row["score"]), parts, row["place"], metrics, _reasons(row, metrics[0]))


def _suspect_metrics(found: pd.DataFrame, index: pd.Index, window: _Window) -> dict[str, tuple[SuspectMetric, ...]]:
    """Return the metrics of each component, the most telling first."""
    by_component: dict[str, list[SuspectMetric]] = {}
    order = _telling(found).sort_values(ascending=False, kind="stable").index
    for (component, metric), row in zip(order, found.loc[order].to_dict("records"), strict=True):
        onset = None if np.isnan(row["onset"]) else index[np.searchsorted(window.times, row["onset"])]
        numbers = {name: float(row[name]) for name in ("normal", "peak", "robust_score", "correlation")}
        by_component.setdefault(component, []).append(SuspectMetric(metric=metric, onset=onset, **numbers))
    return {component: tuple(metrics) for component, metrics in by_component.items()}


def _reasons(row: Mapping[Any, Any], leading: SuspectMetric) -> tuple[str, ...]:
    onset = "never left its usual range" if leading.onset is None else f"left its usual range at {leading.onset}"
    late = "" if row["onset"] == 1 or leading.onset is None else ", after the symptom"
    known = "unknown" if np.isnan(leading.correlation) else f"{leading.correlation:.2f}"
    impact = "unknown" if np.isnan(row["amount"]) else f"{row['impact']:.0%} of the largest"
    explained = f"; {row['explained_by']} explains {1 - row['own']:.0%} of it" if row["own"] < 1 else ""
    return (
        f"{leading.metric} went from {leading.normal:.3g} to {leading.peak:.3g}, a robust score of "
        f"{leading.robust_score:.1f} (usual: up to {USUAL:g})",
        f"{onset}{late}",
        f"correlation with the symptom: {known}",
        f"impact: {impact}{explained}",
        row["place"],
    )


def _not_judged(metrics: pd.DataFrame, topology: pd.DataFrame, judged: pd.Index) -> dict[str, str]:
    named = dict.fromkeys([*metrics.columns.get_level_values(0), *topology["caller"], *topology["callee"]])
    measured = set(metrics.columns.get_level_values(0))
    return {
        name: "no metrics"
        if name not in measured
        else f"no metric with a value since the symptom and {LEAST_NORMAL} in the normal period"
        for name in named
        if name not in judged
    }


# --- samples of a recording -----------------------------------------------------------------------------------------

COUNTED = ("_total", "_count", "_sum")
"""Endings of series that only ever grow."""

NOT_READ = ("_bucket", "_created")
"""Endings of series that say nothing here: a histogram is read by its mean."""


def _component_label(labels: list[dict[str, str]], topology: pd.DataFrame) -> str:
    components = {*topology["caller"], *topology["callee"]}
    known = pd.Series([key for one in labels for key, value in one.items() if value in components], dtype=object)
    if known.empty:
        keys = sorted({key for one in labels for key in one})
        raise InputError(
            f"metrics: no label names a component of the topology ({_listed(sorted(components))}); "
            f"the labels are {_listed(keys) or 'none'}"
        )
    return str(known.value_counts().index[0])


def _labels(text: str) -> dict[str, str]:
    try:
        labels = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"metrics: labels = {printable(str(text), 80)}: must be a JSON object") from error
    if not isinstance(labels, dict):
        raise InputError(f"metrics: labels = {printable(str(text), 80)}: must be a JSON object")
    return {str(key): str(value) for key, value in labels.items()}


def _sampling_step(samples: pd.DataFrame) -> pd.Timedelta:
    """Return the time between samples of one series: the median over all of them, in whole seconds."""
    between = samples.groupby("series")["time"].diff().dt.total_seconds().median()
    if np.isnan(between):
        raise InputError("metrics: no series has two samples; a window needs several")
    return pd.Timedelta(seconds=max(1, round(between)))


def _one_metric(samples: pd.DataFrame, metric: str) -> pd.Series:
    """Return one metric of a component by time: the sum of increases of its counters, or the mean of its gauges."""
    by_series = samples.groupby(["time", "series"])["value"].last().unstack()
    if not metric.endswith(COUNTED):
        return by_series.mean(axis=1)
    grown = by_series.diff()
    since_restart = grown.where(grown >= 0, by_series).where(grown.notna())  # a counter that restarts, restarts from 0
    return since_restart.sum(axis=1, min_count=1)


def _with_means(columns: dict[tuple[str, str], pd.Series]) -> pd.DataFrame:
    """Return the columns as a table, and the mean of each histogram or summary: growth of its sum over its count."""
    means = {}
    for component, metric in columns:
        base = metric.removesuffix("_sum")
        if metric.endswith("_sum") and (component, f"{base}_count") in columns:
            count = columns[component, f"{base}_count"]
            means[component, f"{base}_mean"] = columns[component, metric] / count.where(count > 0)
    return pd.concat(columns | means, axis=1).sort_index()
