"""Where in a service of several parts an incident began: the components of a recording with a topology, ranked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.diagnosis.localisation import LEAST_NORMAL, Localisation, Symptom, localise
from lepton_kit.diagnosis.recovery import alerted_objective
from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import Recording, printable

FEWEST_VALUES, FEWEST_SINCE = 5, 2
"""Values of a metric that are needed before the onset, and since, to say how far it moved."""


def where(recording: Recording, onset: pd.Timestamp) -> Localisation | str:
    """Rank the components and metrics of a recorded service, or say why they could not be.

    The symptom is what the alert names: its component and metric, by its labels or by the objective that it belongs to.
    Where it names no component, it is looked for where requests enter: in the component that is named as the
    recording's service, or else in those that nobody calls. Where it names no metric that was recorded there, it is the
    one that moved furthest since the onset. As many rows before the onset as since are compared with those since; what
    lies before them is the normal period.

    Examples
    --------
    >>> from lepton_kit.telemetry.recordings import FORMAT, Incident
    >>> incident = Incident(format=FORMAT, id="x", service="demo", versions={"current": "1"},
    ...                     window={"start": "2008-01-01T00:00Z", "end": "2008-02-01T00:00Z"})
    >>> where(Recording(incident), pd.Timestamp("2008-01-15", tz="UTC"))
    'the recording has no topology.csv: a service of one part, or nothing tells who calls whom'
    """
    if recording.topology.empty:
        return "the recording has no topology.csv: a service of one part, or nothing tells who calls whom"
    if recording.metrics.empty:
        return "the recording has no metrics"
    try:
        metrics = wide_metrics(recording.metrics, recording.topology)
        alerted = alerted_places(recording, metrics)
        symptom = symptom_of(metrics, alerted, onset)
        volume = volume_of(metrics, symptom)
        normal, window = _apart(metrics, onset)
        return localise(window, recording.topology, symptom, normal, volume)
    except InputError as error:
        return str(error)


def _apart(metrics: pd.DataFrame, onset: pd.Timestamp) -> tuple[pd.DataFrame | None, pd.DataFrame]:
    """Return the normal period, where enough comes before, and the window with as many rows before as since."""
    since = int((metrics.index >= onset).sum())
    first = len(metrics) - since - max(since, FEWEST_BEFORE)
    return (metrics.iloc[:first], metrics.iloc[first:]) if first >= LEAST_NORMAL else (None, metrics)


FEWEST_BEFORE = 2
"""Rows before the onset that the window has at least, as what was so before is no part of the incident."""


def alerted_places(recording: Recording, metrics: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the components and metrics that the alerts name, or whose metric the objective that alerted counts.

    A label names a component by its value, whatever the label is called; it names a metric where all words of its value
    are in the metric's name. Of several metrics those with most labels in their names are returned.
    """
    columns: Any = metrics.columns  # pairs: pandas-stubs knows columns of one level only
    places: list[tuple[str, str]] = list(columns)
    labels = [text for alert in recording.incident.alerts for key, text in alert.labels.items() if key not in NO_NAMES]
    named = {text for text in labels if text in metrics.columns.get_level_values(0)}
    own = [place for place in places if place[0] in (named or entries(recording))]
    words = [*(text for text in labels if text not in named), *_counted(recording)]
    told = {place: sum(_names(text, place[1]) for text in dict.fromkeys(words)) for place in own}
    most = max(told.values(), default=0)
    return [place for place in own if told[place] == most]


NO_NAMES = ("alertname", "severity")


def _names(text: str, metric: str) -> bool:
    words = set(re.findall(r"[a-z0-9.]+", text.lower()))
    return bool(words) and words <= set(re.findall(r"[a-z0-9.]+", metric.lower()))


def _counted(recording: Recording) -> list[str]:
    """Return the metrics by which the objective that alerted is seen: a histogram is read by its mean."""
    promises = [one.objective() for one in recording.incident.promises]
    objective = alerted_objective(recording, promises)
    if objective is None:
        return []
    metric = objective.selector.metric
    return [f"{metric.removesuffix('_bucket')}_mean" if metric.endswith("_bucket") else metric]


def volume_of(metrics: pd.DataFrame, symptom: Symptom) -> str | None:
    """Return the metric that counts the requests of a component: the mean's own count, or one that says so by its name.

    >>> metrics = pd.DataFrame(columns=pd.MultiIndex.from_product([["web"], ["x_mean", "x_count", "requests_total"]]))
    >>> [volume_of(metrics, Symptom("web", name, 0.0)) for name in ("x_mean", "queue")]
    ['x_count', 'requests_total']
    """
    known = list(dict.fromkeys(map(str, metrics.columns.get_level_values(1))))
    own = f"{symptom.metric.removesuffix('_mean')}_count"
    if symptom.metric.endswith("_mean") and own in known:
        return own
    counts = [name for name in known if COUNTS.search(name.lower()) and name != symptom.metric]
    return min(
        counts, key=lambda name: (-int((metrics.columns.get_level_values(1) == name).sum()), len(name)), default=None
    )


COUNTS = re.compile(r"(^|[_ ])(requests?|calls?|invocations?)([_ ](total|count|sum|rate))?$")


def entries(recording: Recording) -> tuple[str, ...]:
    """Return the components where requests enter: the recording's service, or those that nobody calls.

    Where each is called by another one, all of them.
    """
    callers, callees = (set(recording.topology[side]) for side in ("caller", "callee"))
    if recording.incident.service in callers | callees:
        return (recording.incident.service,)
    return tuple(sorted(callers - callees or callers))


def symptom_of(metrics: pd.DataFrame, places: Sequence[tuple[str, str]], onset: pd.Timestamp) -> Symptom:
    """Return that of some metrics (component, metric) which moved furthest at the onset; where it is one, that.

    How far is the distance of the medians, in the spread before (median absolute deviation).
    """
    if len(places) == 1:
        return Symptom(*places[0], onset)
    moved = {place: _distance(metrics[place].dropna(), onset) for place in places}
    known = {place: distance for place, distance in moved.items() if distance is not None}
    if not known:
        components = ", ".join(dict.fromkeys(component for component, _ in places)) or "the service"
        raise InputError(
            f"{components}: no metric has {FEWEST_VALUES} values before {onset:%Y-%m-%d %H:%M:%S} and since"
        )
    component, metric = max(known, key=known.__getitem__)
    return Symptom(component, metric, onset)


def _distance(values: pd.Series, onset: pd.Timestamp) -> float | None:
    before, since = values[values.index < onset], values[values.index >= onset]
    if len(before) < FEWEST_VALUES or len(since) < FEWEST_SINCE:
        return None
    middle = before.median()
    spread = float((before - middle).abs().median()) or float(before.std()) or abs(float(middle)) or 1.0
    return abs(float(since.median() - middle)) / spread


def suspects_table(found: Localisation) -> pd.DataFrame:
    """Return a row per suspected component for people: place, score, the metric that counted, and the reasons."""
    rows = [
        (one.component, one.score, first.metric, first.normal, first.peak, first.robust_score, "; ".join(why))
        for one in found.ranking
        for first, why in [(one.metrics[0], one.reasons[1:])]
    ]
    return pd.DataFrame(rows, columns=["component", "score", "metric", "from", "to", "robust score", "why"])


def as_dict(found: Localisation | str) -> dict[str, Any]:
    """Return a localisation, or why there is none, as JSON can hold it."""
    if isinstance(found, str):
        return {"not_checked": found}
    symptom = found.symptom
    return {
        "symptom": {"component": symptom.component, "metric": symptom.metric, "since": str(symptom.since)},
        "ranking": [
            {
                "component": one.component,
                "score": one.score if np.isfinite(one.score) else None,
                "metrics": [metric.metric for metric in one.metrics],
                "reasons": list(one.reasons),
            }
            for one in found.ranking
        ],
        "not_judged": dict(found.not_judged),
    }


# --- the samples of a recording as one table ------------------------------------------------------------------------

COUNTED = ("_total", "_count", "_sum")
"""Endings of series that only ever grow."""

NOT_READ = ("_bucket", "_created")
"""Endings of series that say nothing here: a histogram is read by its mean."""


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
    known = {text: {key: str(one) for key, one in json.loads(text).items()} for text in samples["labels"].unique()}
    label = _component_label(known.values(), {*topology["caller"], *topology["callee"]})
    named = samples.assign(
        component=samples["labels"].map({text: labels.get(label) for text, labels in known.items()}).astype(object),
        series=samples["metric"].astype(str) + samples["labels"].astype(str),
    ).dropna(subset=["component"])
    named["time"] = named["time"].dt.floor(_sampling_step(named))
    groups = named.groupby(["component", "metric"], sort=False)
    return _with_means({(str(one), str(metric)): _one_metric(own, str(metric)) for (one, metric), own in groups})


def _component_label(labels: Iterable[dict[str, str]], components: set[str]) -> str:
    found = list(labels)
    known = pd.Series([key for one in found for key, value in one.items() if value in components], dtype=object)
    if known.empty:
        keys = ", ".join(sorted({key for one in found for key in one})) or "none"
        raise InputError(
            f"metrics: no label names a component of the topology ({printable(', '.join(sorted(components)), 200)}); "
            f"the labels are {printable(keys, 200)}"
        )
    return str(known.value_counts().index[0])


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
