"""Measures what a service's workers had to do, from a recording: how much came, how unevenly, and what each took."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.onset import answering_workers, expected_workers
from lepton_kit.diagnosis.queueing import Demand
from lepton_kit.errors import InputError
from lepton_kit.telemetry.health import RecordedMetrics, grown, signal_growth, signal_mean
from lepton_kit.telemetry.recordings import Recording
from lepton_kit.telemetry.selectors import parse_selector

GREW = 1.25
"""Rise of the demand, of a worker's memory, or of the time that it is busy with a request, that counts (×)."""


@dataclass(frozen=True)
class Measured:
    """What the workers had to do since the onset: `wait` (s, mean) and `memory_growth` (×) are NaN where not known.

    `model_share` is the part of the service time that the model itself takes (0 to 1; NaN where not known). `workers`
    answered at first, and `left` at the end; `rate_growth` is how many times as many requests came as
    before, and `service_growth` how many times as long one kept a worker busy.
    """

    demand: Demand
    workers: int
    left: int
    wait: float
    model_share: float
    refused: float
    rate_growth: float
    service_growth: float
    memory_growth: float

    @property
    def lost(self) -> int:
        """How many workers no longer answer."""
        return max(0, self.workers - self.left)

    @property
    def ails(self) -> bool:
        """Whether it is the workers that changed, and not what is asked of them."""
        grew = max(self.memory_growth, self.service_growth) >= GREW  # of NaN nothing grew
        return grew or self.lost > 0 or not self.rate_growth >= GREW


def measure(case: Case) -> Measured:
    """Measure what was asked of the workers since the onset.

    Raises
    ------
    InputError
        When fewer than `least_rows` requests were answered since the onset, or nobody measured how many workers there
        were, or how long one was busy with a request: what is not measured is not guessed.
    """
    recording = case.recording
    window, onset = recording.incident.window, case.onset.timestamp()
    before, since = (window.start.timestamp(), onset), (onset, window.end.timestamp())
    _check_measured(case)
    workers, left = _workers(case)
    service = _service_time(case, case.during, since, left)
    rate, earlier_rate = _rate(case, case.during, since), _rate(case, case.before, before)
    in_model = signal_mean(recording, "service_time", *since)
    return Measured(
        demand=Demand(rate, service, arrival_scv(case.during["time"]), _service_scv(recording, since)),
        workers=max(workers, left),
        left=left,
        wait=signal_mean(recording, "queue_time", *since),
        model_share=float(np.minimum(1.0, in_model / service)),
        refused=float(case.during["status"].eq(429).mean()),
        rate_growth=rate / earlier_rate if earlier_rate else float("nan"),
        service_growth=service / _service_time(case, case.before, before, workers),
        memory_growth=_memory_growth(case),
    )


BUSY = ("queue_time", "service_time", "busy_seconds")
"""Signals of which one tells how long a worker was busy with a request."""


def _check_measured(case: Case) -> None:
    """Refuse a case without measurements of load and workers."""
    name, answered = f"recording {case.recording.incident.id}", _answered(case.during)
    if len(answered) < case.criteria.least_rows or pd.Timestamp(case.recording.incident.window.end) <= case.onset:
        raise InputError(
            f"{name}: {len(answered)} requests were answered since the onset; "
            f"{case.criteria.least_rows} are needed to measure what is asked of the service"
        )
    busy = [case.recording.lacking(role) for role in BUSY]
    if missing := [text for text in (case.recording.lacking("workers"), *(busy if all(busy) else [])) if text]:
        raise InputError(f"{name}: the number of workers or their load was not measured: {'; '.join(missing)}")


def _answered(requests: pd.DataFrame) -> pd.DataFrame:
    return requests[requests["status"] < 400]


def _rate(case: Case, requests: pd.DataFrame, window: tuple[float, float]) -> float:
    """Return the requests per second: by the service's own counter, or by those that were recorded."""
    seconds, counted = window[1] - window[0], signal_growth(case.recording, "requests_total", *window)
    return (counted if counted > 0 else len(requests)) / seconds if seconds > 0 else 0.0


def _service_time(case: Case, requests: pd.DataFrame, window: tuple[float, float], workers: int) -> float:
    """Return the mean seconds that a worker was busy with a request; NaN where none was answered.

    That is its latency less its wait in the queue; where the wait is not measured, the time of the model, or all
    workers' time at work for each request. It is no less than what the quickest request took, which hardly waited, and
    no more than all workers' time for each answered request (the utilisation law; Denning and Buzen, "The operational
    analysis of queueing network models", ACM Computing Surveys 10(3), 1978).
    """
    recording, answered = case.recording, _answered(requests)
    if answered.empty:
        return float("nan")
    most = workers * (window[1] - window[0]) / len(answered)
    wait = signal_mean(recording, "queue_time", *window)
    if not math.isnan(wait):
        quickest = float(_answered(case.requests)["latency_ms"].min()) / 1000
        return min(max(float(answered["latency_ms"].mean()) / 1000 - wait, quickest), most)
    in_model = signal_mean(recording, "service_time", *window)
    busy = signal_growth(recording, "busy_seconds", *window) / len(answered)
    return float(np.nanmin([in_model if in_model > 0 else busy, most]))


def arrival_scv(times: pd.Series) -> float:
    """Return the squared coefficient of variation of the gaps between arrivals: 0 of a clock, 1 of a Poisson process.

    >>> arrival_scv(pd.Series(pd.date_range("2024-01-01", periods=30, freq="s")))
    0.0
    """
    gaps = times.sort_values().diff().dropna().dt.total_seconds()
    return float(gaps.var(ddof=0) / gaps.mean() ** 2) if len(gaps) and gaps.mean() > 0 else 1.0


def _service_scv(recording: Recording, window: tuple[float, float]) -> float:
    """Return the squared coefficient of variation of the model's times, from the middles of their histogram's buckets.

    It is 1 (exponential) where no histogram was recorded.
    """
    source, signal = RecordedMetrics(recording.metrics), recording.signals.get("service_time")
    bucket = parse_selector(signal.parts("histogram").get("bucket", signal.selector)) if signal else None
    if bucket is None:
        return 1.0
    labels = source.query(str(bucket), *window)["labels"].unique()
    ends = dict(
        sorted((float(end), end) for text in labels if (end := json.loads(text).get("le")))
    )  # as number, as text
    if len(ends) < 2:
        return 1.0
    bounds = list(ends)
    below = np.array([grown(source, bucket.within({"le": end}), *window) for end in ends.values()])
    counts = np.maximum(np.diff(below, prepend=0.0), 0.0)
    edges = np.array([0.0, *bounds[:-1], bounds[-1] if math.isfinite(bounds[-1]) else 2 * bounds[-2]])
    middles = (edges[1:] + edges[:-1]) / 2
    if counts.sum() < 1:
        return 1.0
    mean = float(np.average(middles, weights=counts))
    return float(np.average((middles - mean) ** 2, weights=counts)) / mean**2


def _workers(case: Case) -> tuple[int, int]:
    """Return how many workers answered at first, and at the end of the recording; one at least."""
    answering = answering_workers(case.recording)
    counts = expected_workers(answering), answering[answering.index >= case.onset].tail(5).median()
    first, last = (max(1, round(count)) if count > 0 else 1 for count in counts)
    return first, last


def _memory_growth(case: Case) -> float:
    largest = case.recording.samples("memory").groupby("time")["value"].max()
    before, during = largest[largest.index < case.onset], largest[largest.index >= case.onset]
    return float(during.tail(5).median() / before.median()) if len(before) and len(during) else float("nan")
