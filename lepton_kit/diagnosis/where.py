"""Where in a service of several parts an incident began: the components of a recording with a topology, ranked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.diagnosis.localisation import Localisation, Symptom, localise, wide_metrics
from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import Recording

FEWEST_VALUES = 5
"""Values of a metric that are needed before the onset and since, to say how far it moved."""


def where(recording: Recording, onset: pd.Timestamp) -> Localisation | str:
    """Rank the components and metrics of a recorded service, or say why they could not be.

    The symptom is looked for where requests enter: in the component that is named as the recording's service, or else
    in those that nobody calls. Of their metrics it is the one that moved furthest since the onset.

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
        symptom = symptom_of(metrics, entries(recording), onset)
        return localise(metrics, recording.topology, symptom)
    except InputError as error:
        return str(error)


def entries(recording: Recording) -> tuple[str, ...]:
    """Return the components where requests enter: the recording's service, or those that nobody calls.

    Where each is called by another one, all of them.
    """
    callers, callees = (set(recording.topology[side]) for side in ("caller", "callee"))
    if recording.incident.service in callers | callees:
        return (recording.incident.service,)
    return tuple(sorted(callers - callees or callers))


def symptom_of(metrics: pd.DataFrame, components: tuple[str, ...], onset: pd.Timestamp) -> Symptom:
    """Return the metric of some components that moved furthest at the onset.

    How far is the distance of the medians, in the spread before (median absolute deviation).

    Parameters
    ----------
    metrics
        A row per time; columns (component, metric), as `wide_metrics` gives them.
    components
        Where the symptom may be.
    onset
        Since when the incident is.

    Raises
    ------
    InputError
        When no metric of these components has enough values on either side of the onset.

    Examples
    --------
    >>> times = pd.date_range("2026-01-01", periods=20, freq="min", tz="UTC")
    >>> metrics = pd.DataFrame({("web", "latency"): [0.1, 0.2] * 5 + [0.9, 0.8] * 5, ("web", "rate"): [3.0, 4.0] * 10})
    >>> symptom_of(metrics.set_index(times), ("web",), times[10]).metric
    'latency'
    """
    places: Any = list(metrics.columns)  # pairs: pandas-stubs knows columns of one level only
    moved = {place: _distance(metrics[place].dropna(), onset) for place in places if place[0] in components}
    known = {place: distance for place, distance in moved.items() if distance is not None}
    if not known:
        raise InputError(
            f"{', '.join(components)}: no metric has {FEWEST_VALUES} values before {onset:%Y-%m-%d %H:%M:%S} and since"
        )
    component, metric = max(known, key=known.__getitem__)
    return Symptom(component, metric, onset)


def _distance(values: pd.Series, onset: pd.Timestamp) -> float | None:
    before, since = values[values.index < onset], values[values.index >= onset]
    if min(len(before), len(since)) < FEWEST_VALUES:
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
