"""The metrics of a service, by OpenTelemetry's and Prometheus' names, added up over its workers.

prometheus_client's multiprocess mode keeps each worker's numbers in files of one folder (`PROMETHEUS_MULTIPROC_DIR`,
which must be set before this module is imported in a worker); whichever worker is asked for `/metrics` adds them up.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest, multiprocess

from lepton_kit.models.tasks import Task

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""OpenTelemetry's advised boundaries of `http.server.request.duration` (semantic conventions 1.23 and later)."""

FINE_SECONDS = tuple(round(first * 10.0**power, 6) for power in (-3, -2, -1, 0) for first in (1, 1.5, 2, 3, 5, 7))
"""Narrower ones, so that the 99th percentiles of two versions can be compared."""

RETURNS = (-0.1, -0.05, -0.02, -0.01, -0.005, -0.002, 0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
WIDTHS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
PROBABILITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
ERRORS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


KINDS = ("counter", "histogram", "gauge_livesum", "gauge_liveall", "gauge_livemax", "summary")
RESERVED_BYTES = 256 * 1024
"""Room for some 1,500 numbers of each kind; beyond that a file grows as prometheus_client lets it grow."""


def reserve_files(folder: Path) -> None:
    """Write this worker's files of numbers with room in them, before prometheus_client maps them into memory.

    It would make them sparse, and a write into a hole that a full disk cannot fill kills the process (SIGBUS).

    Raises OSError when the disk has no room for them.
    """
    for kind in KINDS:
        part = folder / f"{kind}_{os.getpid()}.part"
        try:
            part.write_bytes(bytes(RESERVED_BYTES))
            part.replace(part.with_suffix(".db"))  # an empty file would end the sums of all workers
        finally:
            part.unlink(missing_ok=True)


class VersionMetrics:
    """What is counted of one version's answers; looking a label up for each of them would cost more than counting."""

    def __init__(self, metrics: ServiceMetrics, version: str) -> None:
        self.answered = metrics.requests.labels(version, "answered")
        self.seconds = metrics.seconds.labels(version)
        self._metrics, self._version = metrics, version

    def note(self, task: Task, names: tuple[str, ...], answers: np.ndarray) -> None:
        """Count what was answered: an interval's middle and width, or a probability."""
        held = dict(zip(names, answers.T, strict=True))
        if task.name == "interval_forecast":
            self._observe(self._metrics.forecast, held.get("mean", (held["lower"] + held["upper"]) / 2))
            self._observe(self._metrics.width, held["upper"] - held["lower"])
        elif task.name == "classification_binary":
            self._observe(self._metrics.proba, held["proba"])

    def note_actual(self, task: Task, answered: dict[str, Any], actual: float | str) -> None:
        """Count what came true of an answer: whether it was a hit, and what it lost."""
        answer, target = pd.DataFrame([answered]), pd.Series([actual])
        hit = float(task.hit(answer, target).iloc[0])
        if math.isfinite(hit):
            self._metrics.actuals.labels(self._version, "true" if hit else "false").inc()
        if "mean" in answered and not isinstance(actual, str):
            self._metrics.error.labels(self._version).observe(abs(actual - answered["mean"]))
        if math.isfinite(lost := float(task.loss(answer, target).iloc[0])):
            self._metrics.loss.labels(self._version).observe(lost)
            self._metrics.loss_squares.labels(self._version).inc(lost**2)

    def _observe(self, histogram: Histogram, values: np.ndarray) -> None:
        counted = histogram.labels(self._version)
        for value in values.tolist():
            counted.observe(value)


class ServiceMetrics:
    """All metrics of one worker, in a fresh registry unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._add_requests()
        self._add_answers()
        self._add_data()
        self._versions: dict[str, VersionMetrics] = {}
        self._spent = time.process_time()
        for kind in ("invalid", "too_large", "overloaded", "model"):
            self.errors.labels(kind)  # so that each is 0, not absent, before the first
        for problem in ("missing", "out_of_range", "unseen"):
            self.inputs.labels(problem)
        for status in ("200", "422", "429", "500"):
            self.duration.labels("POST", "/v1/predict", status)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, meaning, labels, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, meaning: str, mode: Any, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.registry, multiprocess_mode=mode)

    def _add_requests(self) -> None:
        counter, histogram, gauge = self._counter, self._histogram, self._gauge
        of_http = ("http_request_method", "http_route", "http_response_status_code")
        self.duration = histogram(
            "http_server_request_duration_seconds", "Duration of HTTP requests, by method, route and status",
            SECONDS, *of_http,
        )  # fmt: skip
        self.active = gauge("http_server_active_requests", "Requests being answered", "livesum")
        self.queued = gauge("lepton_queue_requests", "Requests waiting for the model", "livesum")
        self.queue_seconds = histogram("lepton_queue_seconds", "Time a request waited for the model", SECONDS)
        self.model_seconds = histogram("lepton_model_seconds", "Time the model took for a request", SECONDS)
        self.errors = counter("lepton_errors", "Requests without a forecast, by kind", "kind")
        self.requests = counter(
            "lepton_predict_requests", "Requests for a forecast, by version and outcome", "version", "outcome"
        )
        self.seconds = histogram(
            "lepton_predict_seconds", "Time from a request for a forecast to its answer, by version",
            FINE_SECONDS, "version",
        )  # fmt: skip
        self.model = gauge(
            "lepton_model_workers", "Workers that answer with a version, by its role", "livesum",
            "model", "version", "role",
        )  # fmt: skip
        self.memory = gauge("lepton_worker_resident_memory_bytes", "Memory of a worker", "liveall")
        self.cpu = counter("lepton_workers_cpu_seconds", "Processor time of all workers")
        self.starts = counter("lepton_worker_starts", "Workers started, restarts among them")

    def _add_answers(self) -> None:
        counter, histogram = self._counter, self._histogram
        self.forecast = histogram("lepton_forecast_mean", "Forecast log return per day", RETURNS, "version")
        self.width = histogram(
            "lepton_forecast_interval_width", "Width of the 90 % interval, log return per day", WIDTHS, "version"
        )
        self.actuals = counter(
            "lepton_forecast_actuals",
            "Actual values by whether the answer was a hit: the interval held it, the class was right",
            "version", "inside",
        )  # fmt: skip
        self.error = histogram(
            "lepton_forecast_absolute_error", "Absolute error of the mean, log return per day", ERRORS, "version"
        )
        self.proba = histogram("lepton_prediction_proba", "Probability of the positive class", PROBABILITIES, "version")
        self.loss = Summary(
            "lepton_prediction_loss",
            "What answers lost, by the measure of their task: interval score, log loss, absolute error, …",
            ("version",),
            registry=self.registry,
        )
        self.loss_squares = counter(
            "lepton_prediction_loss_squares", "The squares of what answers lost: how sure a mean of them is", "version"
        )

    def _add_data(self) -> None:
        counter = self._counter
        self.inputs = counter(
            "lepton_input_problems", "Values that were missing, out of range or of an unseen name", "problem"
        )
        self.rows = counter("lepton_input_rows", "Rows asked for")
        self.fixed = counter("lepton_mended_rows", "Rows whose values were fixed before they were forecast")
        self.quarantined = counter(
            "lepton_quarantined_rows", "Rows refused and kept aside, as they break their contract"
        )
        self.ratings = counter("lepton_feedback_ratings", "People's ratings, 1 to 5", "rating")
        self.fresh = counter(
            "lepton_freshness_seconds", "Time during which the newest data were fresh or stale", "state"
        )
        self.as_of = self._gauge("lepton_newest_data_timestamp_seconds", "Newest `as_of` of a request", "livemax")

    def expect_version(self, version: str) -> None:
        """Show what a version may count at 0: the first failures would otherwise be no increase of anything."""
        for outcome in ("answered", "invalid", "overloaded", "model"):
            self.requests.labels(version, outcome)
        for inside in ("true", "false"):
            self.actuals.labels(version, inside)

    def of(self, version: str) -> VersionMetrics:
        """Return what is counted of a version's answers."""
        if version not in self._versions:
            self._versions[version] = VersionMetrics(self, version)
        return self._versions[version]

    def measure_process(self) -> None:
        """Note this process' memory, and its processor time since the last call."""
        spent = time.process_time()
        self.cpu.inc(max(0.0, spent - self._spent))
        self._spent = spent
        self.memory.set(_resident_bytes())

    def text(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format; of this process alone outside of a service."""
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder is None:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together, path=folder)
        return generate_latest(together)


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not Linux: the largest so far is what can be known
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024
    return pages * resource.getpagesize()
