"""Where in a service of several parts an incident began: the components of a recording with a topology, ranked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.diagnosis.localisation import LEAST_NORMAL, Localisation, Symptom, localise, wide_metrics
from lepton_kit.diagnosis.recovery import alerted_objective
from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import Recording

FEWEST_VALUES, FEWEST_SINCE = 5, 2
"""Values of a metric that are needed before the onset, and since, to say how far it moved."""


def where(recording: Recording, onset: pd.Timestamp) -> Localisation | str:
    """Rank the components and metrics of a recorded service, or say why they could not be.

    The symptom is what the alert names: its component and metric, by its labels or by the objective that it belongs to.
    Where it names no component, it is looked for where requests enter: in the component that is named as the
    recording's service, or else in those that nobody calls. Where it names no metric that was recorded there, it is the
    one that moved furthest since the onset. As many rows before the onset as since are compared with those since; what
    lies before them is the normal period.

    Parameters
    ----------
    recording
        As `lepton_kit.telemetry.recordings.read_recording` returns it.
    onset
        Since when the incident is, UTC.

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
    """Return that of some metrics which moved furthest at the onset; where it is one, that.

    How far is the distance of the medians, in the spread before (median absolute deviation).

    Parameters
    ----------
    metrics
        A row per time; columns (component, metric), as `wide_metrics` gives them.
    places
        Components and metrics of which one is the symptom.
    onset
        Since when the incident is.

    Raises
    ------
    InputError
        When there are several, and none has enough values on either side of the onset.

    Examples
    --------
    >>> times = pd.date_range("2026-01-01", periods=20, freq="min", tz="UTC")
    >>> metrics = pd.DataFrame({("web", "latency"): [0.1, 0.2] * 5 + [0.9, 0.8] * 5, ("web", "rate"): [3.0, 4.0] * 10})
    >>> symptom_of(metrics.set_index(times), list(metrics.columns), times[10]).metric
    'latency'
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
        {
            "component": one.component,
            "score": one.score,
            "metric": one.metrics[0].metric,
            "from": one.metrics[0].normal,
            "to": one.metrics[0].peak,
            "robust score": one.metrics[0].robust_score,
            "why": "; ".join(one.reasons[1:]),
        }
        for one in found.ranking
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
