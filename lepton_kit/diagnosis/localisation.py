"""Localisation: which component of a call graph is the root of a symptom, and by which of its metrics one sees that.

A component that a fault slows down, or makes fail, does the same to its callers. So its traces are sought along
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

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import TOPOLOGY_COLUMNS

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


def localise(
    metrics: pd.DataFrame,
    topology: pd.DataFrame,
    symptom: Symptom,
    normal: pd.DataFrame | None = None,
    volume: str | None = None,
) -> Localisation:
    """Rank the components of a call graph by how likely each is the root of a symptom; of equal ones the first column.

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
    if topology[list(TOPOLOGY_COLUMNS)].isna().any(axis=None):
        raise InputError("topology: an edge lacks its caller or callee; each must name both")
    if (symptom.component, symptom.metric) not in metrics:
        raise InputError(f"{_named(symptom)}: not in the metrics")
    metrics = _finite(metrics)
    window = _window(metrics.index, symptom.since)
    normal = metrics[window.before] if normal is None else _finite(normal)
    worse, deviation, found = _judge_series(metrics, normal, symptom, window)
    leading = _leading_metrics(found, symptom.metric)
    impact = _impact(metrics, deviation, leading, symptom.metric, window, volume)
    components = _judge_components(found, worse, leading, impact, topology, symptom)
    ranked = components.sort_values("score", ascending=False, kind="stable")
    metrics_of = _suspect_metrics(found, metrics.index, window)
    suspects = tuple(_suspect(row, metrics_of[row["component"]]) for row in ranked.to_dict("records"))
    return Localisation(symptom, suspects, _not_judged(metrics, topology, components.index))


def _finite(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype(float).replace([np.inf, -np.inf], np.nan)


def _named(symptom: Symptom) -> str:
    return f"symptom {symptom.component!r}, {symptom.metric!r}"


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
    seconds = [one.total_seconds() if isinstance(one, pd.Timedelta) else float(one) for one in index - index[0]]
    passed = since - index[0]
    at = passed.total_seconds() if isinstance(passed, pd.Timedelta) else float(passed)
    window = _Window(np.array(seconds), float(np.median(np.diff(seconds))), at)
    if window.before.all():
        raise InputError(f"symptom since {since}: must not be after the metrics, {index[0]} to {index[-1]}")
    return window


# --- each series by itself ----------------------------------------------------------------------------------------


def _judge_series(
    metrics: pd.DataFrame, normal: pd.DataFrame, symptom: Symptom, window: _Window
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Judge all series that can be judged.

    Returns
    -------
    tuple
        By how much each lies on the bad side of its normal value, in the form of the metrics (negative on the good
        one); what of that is bad, and more than before the symptom; and a row per series: `normal`, `peak`,
        `robust_score`, `strength`, `correlation`, `onset` (seconds since the first row, NaN where it stayed usual),
        `lateness`.
    """
    target = (symptom.component, symptom.metric)
    normal = normal.reindex(columns=metrics.columns)
    known = normal[target].count(), metrics[target][~window.before].count()
    if known[0] < LEAST_NORMAL or not known[1]:
        raise InputError(
            f"{_named(symptom)}: {known[0]} values in the normal period and {known[1]} since {symptom.since}; must be "
            f"at least {LEAST_NORMAL} and 1"
        )
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
    return worse, deviation, found


def _onset(unusual: NDArray[np.bool_], window: _Window) -> float:
    """Return when a series left its usual range for the time that it is out of it first since the symptom, or NaN."""
    since = np.flatnonzero(unusual & ~window.before)
    if not len(since):
        return float("nan")
    usual_before = np.flatnonzero(~unusual[: since[0]])
    return float(window.times[usual_before[-1] + 1 if len(usual_before) else 0])


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
    found: pd.DataFrame,
    worse: pd.DataFrame,
    leading: dict[str, str],
    impact: pd.Series,
    topology: pd.DataFrame,
    symptom: Symptom,
) -> pd.DataFrame:
    """Return one row per component: its leading metric, the parts of its score, what explains it, and its position."""
    keys = list(leading.items())
    own = found.loc[pd.MultiIndex.from_tuples(keys)].droplevel(1)
    below = _below(topology)
    correlation = worse[keys].droplevel(1, axis=1).corr(min_periods=LEAST_CORRELATED)
    explains = _explains(correlation, own["strength"], impact, below)
    place = pd.Series({name: _place(name, symptom.component, below) for name in leading})
    table = pd.DataFrame(
        {
            "component": list(leading),
            "metric": list(leading.values()),
            "strength": own["strength"],
            "impact": (impact / impact.max()).fillna(UNKNOWN) if impact.max() > 0 else UNKNOWN,
            "own": 1 - explains.max(),
            "correlation": _as_share(own["correlation"]),
            "onset": 1 - own["lateness"],
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


def _explains(
    correlation: pd.DataFrame, strength: pd.Series, impact: pd.Series, below: dict[str, set[str]]
) -> pd.DataFrame:
    """Return how much each component (row) explains of the deviation of each one above it (column), 0 of others.

    All that lie below one are asked, not its callees alone: one between may not be measured, or vary too much to tell.
    Within a cycle a fault shows both ways, which explains nothing.
    """
    names = correlation.index
    is_below = [
        [callee in below.get(caller, ()) and caller not in below[callee] for caller in names] for callee in names
    ]
    together = correlation.clip(lower=0).fillna(UNKNOWN).to_numpy()
    amount = impact.where(impact > 0).to_numpy()
    share = np.minimum(impact.to_numpy()[:, None] / amount, 1.0)
    explains = strength.to_numpy()[:, None] * together * np.where(np.isnan(share), UNKNOWN, share)
    return pd.DataFrame(np.where(is_below, explains, 0.0), index=names, columns=names)


AT, BELOW, ELSEWHERE, NOT_IN_GRAPH = "at the symptom", "below the symptom", "elsewhere", "not in the graph"
PARTS = ("strength", "impact", "own", "correlation", "onset", "position")


def _below(topology: pd.DataFrame) -> dict[str, set[str]]:
    """Return what each component of the call graph calls, directly or through others, and so can suffer from."""
    called = topology.groupby("caller")["callee"].agg(set).to_dict()
    below: dict[str, set[str]] = {}
    for name in {*topology["caller"], *topology["callee"]}:
        below[name], todo = set(), [name]
        while todo:
            new = called.get(todo.pop(), set()) - below[name]
            below[name] |= new
            todo += new
    return below


def _place(name: str, symptom: str, below: dict[str, set[str]]) -> str:
    if name == symptom:
        return AT
    if not {name, symptom} <= below.keys():
        return NOT_IN_GRAPH
    return BELOW if name in below[symptom] else ELSEWHERE


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
