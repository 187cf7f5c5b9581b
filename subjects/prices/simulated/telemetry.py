"""What a simulated service shows of itself: the series of its metrics, from its requests and its machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from lepton_kit.ops.simulated_metrics import Series, counter, histogram
from lepton_kit.ops.simulation import EPOCH
from lepton_kit.serving.metrics import ERRORS, FINE_SECONDS, RETURNS, SECONDS, WIDTHS
from subjects.machine import Machine
from subjects.prices.simulated.requests import Requests

FRESH_SECONDS, STEP = 10.0, 1.0
"""Age up to which data are fresh, and the steps in which that is counted."""


@dataclass(frozen=True)
class Telemetry:
    """The metrics of a simulated service.

    `deployments` are the time, the version and a note of each, the oldest first; it may grow, as the others do.
    """

    service: str
    requests: Requests
    machine: Machine
    deployments: list[tuple[float, str, str]]

    def series(self, now: float, metric: str | None = None) -> Iterator[Series]:
        """Give the series of all families up to a time, or of those that a metric may belong to."""
        data = partial(self._data_series, now)
        families: dict[str, Callable[[], Iterator[Series]]] = {
            "http_server_": self._http_series,
            "lepton_queue_": self._queue_series,
            "lepton_model_seconds": self._queue_series,
            "lepton_errors": self._outcome_series,
            "lepton_predict_": self._outcome_series,
            "lepton_model_workers": self._worker_series,
            "lepton_worker": self._worker_series,
            "up": self._worker_series,
            "lepton_forecast_": self._forecast_series,
            "lepton_feedback_": self._forecast_series,
            "lepton_input_": data,
            "lepton_mended_": data,
            "lepton_quarantined_": data,
            "lepton_freshness_": data,
            "lepton_newest_": data,
        }
        wanted = [made for start, made in families.items() if metric is None or metric.startswith(start)]
        for made in dict.fromkeys(wanted):
            yield from made()

    def _http_series(self) -> Iterator[Series]:
        held = self.requests
        labels = {"http_request_method": "POST", "http_route": "/v1/predict"}
        for status in (200, 422, 429, 500):
            mask = held["status"] == status
            named = {**labels, "http_response_status_code": str(status)}
            yield from histogram(
                "http_server_request_duration_seconds", named, held["done"][mask], held["latency"][mask], SECONDS
            )
        told = held["told_at"][np.isfinite(held["told_at"])]
        named = {**labels, "http_route": "/v1/feedback", "http_response_status_code": "202"}
        quick = np.full(len(told), 0.002)
        yield from histogram("http_server_request_duration_seconds", named, told, quick, SECONDS)
        came, gone = counter("", {}, held["time"]), counter("", {}, held["done"])
        yield Series("http_server_active_requests", {}, lambda grid: came.at(grid) - gone.at(grid))

    def _queue_series(self) -> Iterator[Series]:
        held = self.requests
        taken = held["busy"] > 0
        time, wait, busy = held["time"][taken], held["wait"][taken], held["busy"][taken]
        came, gone = counter("", {}, time), counter("", {}, time + wait + busy)
        yield Series("lepton_queue_requests", {}, lambda grid: came.at(grid) - gone.at(grid))
        yield from histogram("lepton_queue_seconds", {}, time + wait, wait, SECONDS)
        yield from histogram("lepton_model_seconds", {}, time + wait + busy, busy, SECONDS)

    def _outcome_series(self) -> Iterator[Series]:
        held = self.requests
        kinds = {"invalid": 422, "too_large": 413, "overloaded": 429, "model": 500}
        for kind, status in kinds.items():
            yield counter("lepton_errors_total", {"kind": kind}, held["done"][held["status"] == status])
        for version in self._seen_versions():
            mine = held["version"] == version
            for outcome, status in {"answered": 200, **kinds}.items():
                mask = mine & (held["status"] == status)
                yield counter(
                    "lepton_predict_requests_total", {"version": version, "outcome": outcome}, held["done"][mask]
                )
            label = {"version": version}
            yield from histogram(
                "lepton_predict_seconds", label, held["done"][mine], held["latency"][mine], FINE_SECONDS
            )

    def _seen_versions(self) -> list[str]:
        return sorted({version for time, version, _ in self.deployments if time >= 0 or version == "v2"})

    def _worker_series(self) -> Iterator[Series]:
        yield Series("up", {}, np.ones_like)
        changes = [(time, version) for time, version, _ in self.deployments]
        for version in self._seen_versions():
            spans = [
                (start, changes[place + 1][0] if place + 1 < len(changes) else np.inf)
                for place, (start, name) in enumerate(changes)
                if name == version
            ]
            labels = {"model": self.service, "version": version, "role": "current"}
            yield Series("lepton_model_workers", labels, partial(self.machine.alive, spans=tuple(spans)))
        for place, worker in enumerate(self.machine.lives):
            yield Series(
                "lepton_worker_resident_memory_bytes",
                {"pid": str(worker.pid)},
                partial(self.machine.memory_at, worker=worker, place=place),
            )
        held = self.requests
        yield counter("lepton_workers_cpu_seconds_total", {}, held["done"], held["cpu"] + 0.0005)
        yield Series("lepton_worker_starts_total", {}, self.machine.started)

    def _forecast_series(self) -> Iterator[Series]:
        held = self.requests
        good = held["status"] == 200
        told = np.isfinite(held["told_at"])
        inside = (held["actual"] >= held["lower"]) & (held["actual"] <= held["upper"])
        error = np.abs(held["actual"] - held["mean"])
        for version in self._seen_versions():
            mine = (held["version"] == version) & good
            label = {"version": version}
            yield from histogram("lepton_forecast_mean", label, held["done"][mine], held["mean"][mine], RETURNS)
            width = (held["upper"] - held["lower"])[mine]
            yield from histogram("lepton_forecast_interval_width", label, held["done"][mine], width, WIDTHS)
            for text, mask in (("true", inside), ("false", ~inside)):
                times = held["told_at"][mine & told & mask]
                yield counter("lepton_forecast_actuals_total", {**label, "inside": text}, times)
            known = mine & told
            yield from histogram("lepton_forecast_absolute_error", label, held["told_at"][known], error[known], ERRORS)
        for rating in range(1, 6):
            mask = held["rating"] == rating
            yield counter("lepton_feedback_ratings_total", {"rating": str(rating)}, held["told_at"][mask])

    def _data_series(self, now: float) -> Iterator[Series]:
        held = self.requests
        problems = {"missing": held["missing"], "out_of_range": held["beyond"], "unseen": np.zeros(len(held))}
        for problem, count in problems.items():
            yield counter("lepton_input_problems_total", {"problem": problem}, held["done"], count)
        used = held["status"] != 422
        yield counter("lepton_input_rows_total", {}, held["done"][used])
        yield counter("lepton_mended_rows_total", {}, held["done"][held["fixed"]])
        yield counter("lepton_quarantined_rows_total", {}, held["done"][held["kept_aside"]])
        newest = np.maximum.accumulate(np.concatenate([[-np.inf], held["as_of"][used]]))
        place = held["time"][used]

        def newest_at(grid: np.ndarray) -> np.ndarray:
            found: np.ndarray = newest[np.searchsorted(place, grid, "right")]
            return found

        steps = np.arange(STEP, now + STEP, STEP)
        is_fresh = steps - newest_at(steps) <= FRESH_SECONDS
        is_known = np.isfinite(newest_at(steps))
        seconds = STEP * self.machine.alive(steps)
        for state, mask in (("fresh", is_fresh & is_known), ("stale", ~is_fresh & is_known)):
            yield counter("lepton_freshness_seconds_total", {"state": state}, steps[mask], seconds[mask])
        yield Series("lepton_newest_data_timestamp_seconds", {}, lambda grid: newest_at(grid) + EPOCH.timestamp())
