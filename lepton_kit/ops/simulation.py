"""A service under a virtual clock: real rows, real forecasters, a queue model for its machine, the real metric names.

What is simulated is the machine alone. Requests come at random (a Poisson process, or the gaps of a trace); each waits
for the first worker that is free, as in the recursion of Kiefer and Wolfowitz (1955) for several servers, and is
refused where too many wait. Which rows are asked for and what comes true are real days of Google's price; what is
answered is what the forecasters in service give. Everything after the telemetry is the kit's own: alerts, diagnosis,
remedies.

The simulated service is a `Source` of samples, and an `Operator` that a remedy may use. Nothing is shared between two
of them but the trained forecasters, which nobody changes, and the same seed gives the same service.
"""

from __future__ import annotations

import atexit
import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.diagnosis.notes import CHECKSUMS_HOLD
from lepton_kit.diagnosis.remedies import State
from lepton_kit.errors import InputError
from lepton_kit.models.forecasters import FORECAST, FURTHEST_INPUT, Forecaster
from lepton_kit.ops.faults import Fault
from lepton_kit.ops.faults.base import Kind
from lepton_kit.ops.simulated_metrics import Series, counter, histogram, samples, selected
from lepton_kit.ops.simulated_world import KINDS, Days, world
from lepton_kit.runs.project import find_project
from lepton_kit.serving.arrivals import Arrivals
from lepton_kit.serving.mends import NO_MENDS, Mender
from lepton_kit.serving.metrics import ERRORS, FINE_SECONDS, RETURNS, SECONDS, WIDTHS
from lepton_kit.serving.replay import Item
from lepton_kit.telemetry.alerts import AlertEvaluator
from lepton_kit.telemetry.recordings import (
    FEATURE,
    FORMAT,
    LOG_COLUMNS,
    Alert,
    Deployment,
    Incident,
    Provenance,
    Recording,
    Versions,
    Window,
)
from lepton_kit.telemetry.slo import Objective, read_objectives

SERVICE = "goog"
EPOCH = pd.Timestamp("2026-01-05T12:00:00Z")
"""When the simulated clock is 0."""

TARGET = {"job": SERVICE, "instance": "127.0.0.1:8000"}
SCRAPE_EVERY = 2.0
FEEDBACK_AFTER, RATED = 5.0, 0.05
"""Seconds after which an actual is told, and the share of the answers that get a rating too."""

FRESH_SECONDS, STEP = 10.0, 1.0
REFUSAL_SECONDS = 0.001
USED_BYTES, LIMIT_BYTES = 150e6, 512e6
"""Memory of a fresh worker, and where it is ended."""

SWAPS_FROM, SWAP_FACTOR = 0.35, 12.0
"""From this part of the way to its limit on a leaking worker swaps; at the limit it would be so many times slower."""

START_SECONDS, HANG_SECONDS, DRAIN_SECONDS = 3.0, 20.0, 30.0
"""How long a start takes, after how long a worker that hangs is replaced, and how long one that ends may answer."""


@dataclass(frozen=True)
class Setting:
    """What a service is like: seconds, and requests per second.

    `service_cv` is the coefficient of variation of the time that a request keeps a worker busy (gamma distribution);
    `kind` names its forecasters (`lepton_kit.ops.simulated_world.world`).
    """

    rate: float
    workers: int
    service: float
    service_cv: float = 0.3
    queue_limit: int = 64
    kind: Kind = "ewma"
    first_day: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.rate <= 1000 and self.workers >= 1 and 0 < self.service <= 10 and 0 < self.service_cv <= 5):
            raise InputError(f"{self}: rate, service and service_cv must be above 0, workers at least 1")

    @property
    def utilisation(self) -> float:
        """The share of the workers' time that the usual load takes."""
        return self.rate * self.service / self.workers


def drawn_setting(rng: np.random.Generator) -> Setting:
    """Draw a service of 2 to 4 workers that are busy for a tenth to a third of their time.

    >>> 0.1 <= drawn_setting(np.random.default_rng(1)).utilisation <= 0.35
    True
    """
    workers, service = int(rng.integers(2, 5)), float(rng.uniform(0.02, 0.035))
    utilisation = rng.uniform(0.1, 0.35) if workers > 2 else rng.uniform(0.1, 0.28)
    return Setting(
        rate=float(np.clip(utilisation * workers / service, 8, 24)),
        workers=workers,
        service=service,
        service_cv=float(rng.uniform(0.15, 0.4)),
        kind=KINDS[int(rng.integers(len(KINDS)))],
        first_day=int(rng.integers(400)),
    )


@dataclass
class Worker:
    """One worker: when it is free, when those that it holds are done, and what was taken from it."""

    pid: int
    born: float
    free_at: float = 0.0
    taken: float = 0.0
    ended: float = np.inf
    held: deque[float] = field(default_factory=deque)

    def waiting(self, now: float) -> int:
        """Return how many requests are in it at a time; times asked for never fall."""
        while self.held and self.held[0] <= now:
            self.held.popleft()
        return len(self.held)


class SimulatedService:
    """A service that is asked, under a clock of its own.

    Parameters
    ----------
    seed
        Of everything that is left to chance.
    scratch
        A folder for the files of its versions.
    setting
        What it is like; drawn by the seed unless given.
    arrivals
        When requests come; a Poisson process of the setting's rate unless given.
    """

    def __init__(
        self, seed: int, scratch: Path, setting: Setting | None = None, arrivals: Arrivals | None = None
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.setting = setting or drawn_setting(self.rng)
        self.now = 0.0
        self.actions: list[tuple[float, str]] = []
        """What was done to it and why, with the time."""
        self._seed, self._scratch = seed, scratch
        self._own: Path | None = None
        self._world = world(self.setting.kind)
        self._gaps = arrivals.faster(self.setting.rate / arrivals.rate).gaps if arrivals else self._poisson()
        self._start_registry()
        self._start_workers()
        self._start_load()
        self._requests = _Requests(self._world.columns)
        self._lines: list[tuple[float, str, str, dict[str, Any]]] = []
        for worker in self._running:
            self._say(0.0, "INFO", "worker started", version=self._version, pid=worker.pid)

    def _poisson(self) -> Iterator[float]:
        while True:
            yield from self.rng.exponential(1 / self.setting.rate, 1000).tolist()

    # --- versions -------------------------------------------------------------------------------------------------

    def _start_registry(self) -> None:
        self._files = {name: held.forecaster for name, held in self._world.versions.items()}
        self._promoted = list(self._files)
        self._version = self._promoted[-1]
        self._served = self._files[self._version]
        self._deployments = [(-86400.0 * 30, "v1", "promoted by the gate"), (-86400.0, "v2", "promoted by the gate")]

    def current(self) -> Forecaster:
        """Return the version in service, as it was registered."""
        return self._files[self._version]

    def deploy(self, forecaster: Forecaster, note: str) -> None:
        """Register a new version and put it into service."""
        version = f"v{len(self._files) + 1}"
        self._files[version] = forecaster
        self._serve(version, note)

    def corrupt(self, forecaster: Forecaster) -> None:
        """Let the running workers answer with this one; their version's files stay as they are."""
        self._served = forecaster

    def _serve(self, version: str, note: str) -> None:
        self._deployments.append((self.now, version, note))
        self._version, self._served = version, self._files[version]

    # --- the machine ----------------------------------------------------------------------------------------------

    def _start_workers(self) -> None:
        self._pids = iter(range(4001, 10**6))
        self._lives = [Worker(next(self._pids), 0.0) for _ in range(self.setting.workers)]
        self._running = list(self._lives)
        self._starts = [0.0] * self.setting.workers
        self._wished, self._lost, self._lost_at = self.setting.workers, 0, np.inf
        self._leak_from, self._leak_seconds = np.inf, np.inf
        self._queue_limit = self.setting.queue_limit

    @property
    def workers(self) -> int:
        """Return how many workers answer."""
        return len(self._running)

    @property
    def utilisation(self) -> float:
        """Return the share of the workers' time that the usual load takes."""
        return self.setting.rate * self.setting.service / self.workers

    def slow(self, taken: float) -> None:
        """Take this share of the processor from each worker that runs now."""
        for worker in self._running:
            worker.taken = taken

    def lose(self, count: int) -> None:
        """End so many workers; what is started in their place ends, too."""
        self._lost, self._lost_at = self._lost + count, self.now
        self._fit()

    def leak(self, seconds: float) -> None:
        """Let each worker lose memory, so that it reaches the limit so many seconds after its start, or after now."""
        self._leak_from, self._leak_seconds = self.now, seconds

    def _fit(self) -> None:
        """Let as many workers run as are wished for, less those that are lost."""
        wanted = max(1, self._wished - self._lost)
        while len(self._running) > wanted:
            self._end(self._running[-1])
        while len(self._running) < wanted:
            self._start(self.now)

    def _start(self, now: float) -> Worker:
        worker = Worker(next(self._pids), now, free_at=now + START_SECONDS)
        self._lives.append(worker)
        self._running.append(worker)
        self._starts.append(now)
        self._say(now, "INFO", "worker started", version=self._version, pid=worker.pid)
        return worker

    def _end(self, worker: Worker) -> None:
        worker.ended = self.now
        self._running.remove(worker)

    def _memory(self, worker: Worker, times: np.ndarray) -> np.ndarray:
        leaking = np.maximum(0.0, times - max(worker.born, self._leak_from))
        used: np.ndarray = USED_BYTES + (LIMIT_BYTES - USED_BYTES) * leaking / self._leak_seconds
        return used

    def _way_to_limit(self, worker: Worker, now: float) -> float:
        return max(0.0, now - max(worker.born, self._leak_from)) / self._leak_seconds

    def _factor(self, worker: Worker, way: float) -> float:
        """Return how many times longer than usual a request keeps a worker busy."""
        return (1 + SWAP_FACTOR * max(0.0, way - SWAPS_FROM)) / (1 - worker.taken)

    def _take(self, now: float, service: float) -> tuple[float, float] | None:
        """Return the wait and the time of a request that comes now; None where it is refused."""
        worker = min(self._running, key=lambda one: one.free_at)
        way = self._way_to_limit(worker, now)
        if way >= 1:
            worker.ended = now
            self._running.remove(worker)
            worker = self._start(now)
            way = 0.0
        if worker.waiting(now) >= self._queue_limit:
            return None
        wait = max(0.0, worker.free_at - now)
        service *= self._factor(worker, way)
        worker.free_at = now + wait + service
        worker.held.append(worker.free_at)
        return wait, service

    # --- the load -------------------------------------------------------------------------------------------------

    def _start_load(self) -> None:
        self._surge: Callable[[float], float] = lambda _: 1.0
        self._surge_from, self._flood, self._due, self._wild = 0.0, 0.0, 0.0, 0.0
        self._places = {"calm": self.setting.first_day, "wild": 0}
        self._fault: Fault | None = None
        self._changes: dict[str, Any] = {}
        self._is_feed_whole = True
        self._set_mends(NO_MENDS)

    def surge(self, factor: Callable[[float], float]) -> None:
        """Multiply the usual rate of the requests by a function of the time since now."""
        self._surge, self._surge_from = factor, self.now

    def flood_to(self, utilisation: float) -> None:
        """Send as many requests beside the usual load as bring the workers to this utilisation, which may exceed 1."""
        self._flood = max(0.0, utilisation - self.utilisation) * self.workers / self.setting.service

    def change_world(self, share: float) -> None:
        """Let this share of the days that are asked about be days of the real market's wild year from now on."""
        self._wild = share

    def inject(self, fault: Fault) -> None:
        """Let a fault begin."""
        self._fault, self._is_feed_whole = fault, False
        fault.strike(self)

    def advance(self, seconds: float) -> None:
        """Let the clock run, and answer what comes meanwhile."""
        end = self.now + seconds
        times, is_flood = self._arrivals(end)
        if len(times):
            self._answer(times, is_flood)
        self.now = end

    def _arrivals(self, end: float) -> tuple[np.ndarray, np.ndarray]:
        usual = []
        while self._due < end:
            if self._due >= self.now:
                usual.append(self._due)
            self._due += next(self._gaps) / self._surge(max(0.0, self._due - self._surge_from))
        count = self.rng.poisson(self._flood * (end - self.now)) if self._flood else 0
        flood = self.rng.uniform(self.now, end, count)
        times, is_flood = np.concatenate([usual, flood]), np.repeat([False, True], [len(usual), count])
        order = np.argsort(times, kind="stable")
        return times[order], is_flood[order]

    def _answer(self, times: np.ndarray, is_flood: np.ndarray) -> None:
        given, actual = self._days(len(times))
        actual[is_flood] = np.nan
        asked = self._requests.numbered(times, given, actual, is_flood)
        if self._fault is not None and not self._is_feed_whole:
            asked = _changed(asked, self._fault, self._changes, self._world.columns)
        mended = self._mender.mend(asked.features)
        asked.mended = mended.changed
        asked.kept_aside = mended.broken & self._mender.mends.quarantine
        valid = np.isfinite(mended.values).all(axis=1) & ~(mended.broken & self._mender.mends.quarantine)
        asked.features = np.where(valid[:, None], mended.values, np.nan)
        self._queue(asked, valid)
        self._forecast(asked)
        self._requests.add(asked, self._version)
        self._log(asked)

    def _days(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        is_wild = self.rng.random(count) < self._wild if self._wild else np.zeros(count, bool)
        features = np.empty((count, len(self._world.columns)))
        actual = np.empty(count)
        for name, mask in (("calm", ~is_wild), ("wild", is_wild)):
            days: Days = getattr(self._world, name)
            places = (self._places[name] + np.arange(mask.sum())) % len(days)
            features[mask], actual[mask] = days.features[places], days.actual[places]
            self._places[name] += int(mask.sum())
        return features, actual

    def _queue(self, asked: _Asked, valid: np.ndarray) -> None:
        shape = 1 / self.setting.service_cv**2
        services = self.rng.gamma(shape, self.setting.service / shape, len(asked.times))
        asked.status[~valid] = 422
        for place in np.flatnonzero(valid).tolist():
            taken = self._take(float(asked.times[place]), float(services[place]))
            if taken is None:
                asked.status[place] = 429
            else:
                asked.wait[place], asked.busy[place] = taken
                asked.cpu[place] = services[place]

    def _forecast(self, asked: _Asked) -> None:
        answered = asked.status == 200
        if not answered.any():
            return
        inputs, scale = self._served.scaled(asked.features[answered])
        with np.errstate(over="ignore", invalid="ignore"):
            forecasts = self._served.answer(np.clip(inputs, -FURTHEST_INPUT, FURTHEST_INPUT), scale)
        whole = np.isfinite(forecasts).all(axis=1)
        asked.status[np.flatnonzero(answered)[~whole]] = 500
        asked.beyond[answered] = (np.abs(inputs) > FURTHEST_INPUT).sum(axis=1)
        asked.forecasts[np.flatnonzero(answered)[whole]] = forecasts[whole]

    # --- what it says ---------------------------------------------------------------------------------------------

    def _say(self, time: float, level: str, message: str, **fields: Any) -> None:
        self._lines.append((time, level, message, fields))

    def _log(self, asked: _Asked) -> None:
        latency = asked.latency
        told = zip(asked.times.tolist(), asked.ids, asked.status.tolist(), latency.tolist(), strict=True)
        for time, request_id, status, seconds in told:
            level = "ERROR" if status >= 500 else "WARNING" if status >= 400 else "INFO"
            fields = {"request_id": request_id, "status": status, "latency_ms": round(1000 * seconds, 3)}
            self._say(time + seconds, level, f"POST /v1/predict answered {status}", **fields)

    def query(self, selector: str, start: float, end: float) -> pd.DataFrame:
        """Return the samples of the selected series from `start` to `end` (Unix seconds, both included)."""
        metric = selector.partition("{")[0].strip()
        made = (one for one in self._all_series(metric) if one.metric == metric)
        chosen = selected((replace(one, labels={**one.labels, **TARGET}) for one in made), selector)
        return samples(chosen, self.scrapes(start - EPOCH.timestamp(), end - EPOCH.timestamp()), EPOCH, {})

    def scrapes(self, start: float, end: float) -> np.ndarray:
        """Return when its metrics were read, between two times of its clock."""
        first, last = np.ceil(max(start, 0.0) / SCRAPE_EVERY), np.floor(min(end, self.now) / SCRAPE_EVERY)
        times: np.ndarray = SCRAPE_EVERY * np.arange(first, last + 1)
        return times

    def _all_series(self, metric: str | None = None) -> Iterator[Series]:
        """Give the series of all families, or of those that a metric may belong to."""
        families = {
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
            "lepton_input_": self._data_series,
            "lepton_mended_": self._data_series,
            "lepton_quarantined_": self._data_series,
            "lepton_freshness_": self._data_series,
            "lepton_newest_": self._data_series,
        }
        wanted = [made for start, made in families.items() if metric is None or metric.startswith(start)]
        for made in dict.fromkeys(wanted):
            yield from made()

    def _http_series(self) -> Iterator[Series]:
        held = self._requests
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
        held = self._requests
        taken = held["busy"] > 0
        time, wait, busy = held["time"][taken], held["wait"][taken], held["busy"][taken]
        came, gone = counter("", {}, time), counter("", {}, time + wait + busy)
        yield Series("lepton_queue_requests", {}, lambda grid: came.at(grid) - gone.at(grid))
        yield from histogram("lepton_queue_seconds", {}, time + wait, wait, SECONDS)
        yield from histogram("lepton_model_seconds", {}, time + wait + busy, busy, SECONDS)

    def _outcome_series(self) -> Iterator[Series]:
        held = self._requests
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
        return sorted({version for time, version, _ in self._deployments if time >= 0 or version == "v2"})

    def _worker_series(self) -> Iterator[Series]:
        yield Series("up", {}, np.ones_like)
        changes = [(time, version) for time, version, _ in self._deployments]
        for version in self._seen_versions():
            spans = [
                (start, changes[place + 1][0] if place + 1 < len(changes) else np.inf)
                for place, (start, name) in enumerate(changes)
                if name == version
            ]
            labels = {"model": SERVICE, "version": version, "role": "current"}
            yield Series("lepton_model_workers", labels, partial(self._alive, spans=tuple(spans)))
        for place, worker in enumerate(self._lives):
            yield Series(
                "lepton_worker_resident_memory_bytes",
                {"pid": str(worker.pid)},
                partial(self._memory_at, worker=worker, place=place),
            )
        held = self._requests
        yield counter("lepton_workers_cpu_seconds_total", {}, held["done"], held["cpu"] + 0.0005)
        yield Series("lepton_worker_starts_total", {}, self._started)

    def _alive(self, grid: np.ndarray, spans: Sequence[tuple[float, float]]) -> np.ndarray:
        count = sum(((grid >= one.born) & (grid < one.ended)).astype(float) for one in self._lives)
        serves = sum(((grid >= start) & (grid < end)).astype(float) for start, end in spans)
        return np.asarray(count * serves, dtype=float)

    def _memory_at(self, grid: np.ndarray, worker: Worker, place: int) -> np.ndarray:
        noise = 1 + 0.01 * np.sin(grid / (7.0 + place) + self._seed + place)  # allocations come and go
        is_there = (grid >= worker.born) & (grid < worker.ended)
        return np.where(is_there, self._memory(worker, grid) * noise, np.nan)

    def _started(self, grid: np.ndarray) -> np.ndarray:
        started = np.searchsorted(np.sort(self._starts), grid, "right").astype(float)
        again = np.floor(np.maximum(0.0, grid - self._lost_at) / HANG_SECONDS)
        total: np.ndarray = started + self._lost * np.where(grid >= self._lost_at, again, 0.0)
        return total

    def _forecast_series(self) -> Iterator[Series]:
        held = self._requests
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

    def _data_series(self) -> Iterator[Series]:
        held = self._requests
        problems = {"missing": held["missing"], "out_of_range": held["beyond"], "unseen": np.zeros(len(held))}
        for problem, count in problems.items():
            yield counter("lepton_input_problems_total", {"problem": problem}, held["done"], count)
        used = held["status"] != 422
        yield counter("lepton_input_rows_total", {}, held["done"][used])
        yield counter("lepton_mended_rows_total", {}, held["done"][held["mended"]])
        yield counter("lepton_quarantined_rows_total", {}, held["done"][held["kept_aside"]])
        newest = np.maximum.accumulate(np.concatenate([[-np.inf], held["as_of"][used]]))
        place = held["time"][used]

        def newest_at(grid: np.ndarray) -> np.ndarray:
            found: np.ndarray = newest[np.searchsorted(place, grid, "right")]
            return found

        steps = np.arange(STEP, self.now + STEP, STEP)
        is_fresh = steps - newest_at(steps) <= FRESH_SECONDS
        is_known = np.isfinite(newest_at(steps))
        seconds = STEP * self._alive(steps, [(-np.inf, np.inf)])
        for state, mask in (("fresh", is_fresh & is_known), ("stale", ~is_fresh & is_known)):
            yield counter("lepton_freshness_seconds_total", {"state": state}, steps[mask], seconds[mask])
        yield Series("lepton_newest_data_timestamp_seconds", {}, lambda grid: newest_at(grid) + EPOCH.timestamp())

    # --- what a remedy may do -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return what the service shall be doing now."""
        return State(self._version, self._wished, self._queue_limit, self._mends)

    def set_state(self, state: State, why: str) -> None:
        """Bring the service to a state, whole or not at all."""
        if state.version not in self._files:
            raise InputError(f"version {state.version!r}: the registry has {', '.join(self._files)}")
        self.actions.append((self.now, f"{self.state().as_dict()} → {state.as_dict()}: {why}"))
        if state.version != self._version:
            self._serve(state.version, why[:200])
        self._wished, self._queue_limit = state.workers, state.queue_limit
        self._set_mends(state.mends)
        self._fit()

    def restart_workers(self, why: str) -> None:
        """Replace each worker by a fresh one, which loads the version from its files."""
        self.actions.append((self.now, f"workers restarted: {why}"))
        self._served = self._files[self._version]
        for worker in list(self._running):
            self._end(worker)
        self._fit()
        for worker in self._running:
            worker.free_at = self.now  # one is replaced after the other, and each is ready before the next

    def restart_feed(self, why: str) -> bool:
        """Restart the feed, which ends such faults of it as a restart can end."""
        self.actions.append((self.now, f"feed restarted: {why}"))
        if self._fault is not None and self._fault.is_restartable:
            self._is_feed_whole = True
        return True

    def settle(self) -> None:
        """Let the clock run until what the workers held is answered, as an operator waits for them, 30 s at most."""
        held = max((worker.free_at for worker in self._lives), default=self.now)
        self.advance(float(np.clip(held - self.now, START_SECONDS, DRAIN_SECONDS)))

    def _set_mends(self, mends: Any) -> None:
        self._mends = mends
        reference = self._world.versions["v2"].reference
        self._mender = Mender(mends, self._world.columns, reference)

    # --- the recording --------------------------------------------------------------------------------------------

    def record(
        self, start: float, end: float, alerts: Sequence[Mapping[str, Any]] = (), name: str = "drill"
    ) -> Recording:
        """Freeze what is known at the end of a window, as `capture` does of a running service.

        Parameters
        ----------
        start, end
            Seconds of the simulated clock.
        alerts
            Alerts as the kit's evaluator tells them.
        name
            The incident's id.
        """
        requests = self._requests.table(start, end)
        versions = self._versions(requests)
        series = list(self._all_series())
        return Recording(
            incident=Incident(
                format=FORMAT,
                id=name,
                service=SERVICE,
                window=Window(start=_utc(start), end=_utc(end)),
                versions=versions,
                alerts=tuple(_alert(one) for one in alerts),
                deployments=tuple(
                    Deployment(time=_utc(time), version=version, note=note)
                    for time, version, note in self._deployments
                    if time <= end
                ),
                provenance=_provenance(versions, self.setting),
            ),
            requests=requests,
            metrics=samples(series, self.scrapes(start, end), EPOCH, TARGET)
            .assign(time=lambda table: table["time"].dt.as_unit("us"))
            .sort_values("time", kind="stable", ignore_index=True),
            reference=self._world.versions.get(versions.current, self._world.versions["v2"]).reference,
            logs=self._log_lines(start, end),
            models={version: self._folder(version) for version in (versions.current, versions.last_good) if version},
        )

    def _versions(self, requests: pd.DataFrame) -> Versions:
        answered = requests.loc[requests["mean"].notna(), "version"].tail(200)
        current = str(answered.mode().iloc[-1]) if len(answered) else self._version
        earlier = [version for version in self._promoted if version != current and int(version[1:]) < int(current[1:])]
        return Versions(current=current, last_good=earlier[-1] if earlier else None)

    def _folder(self, version: str) -> Path:
        if version in self._world.versions:
            return trained_files(self.setting.kind) / version
        if self._own is None:
            self._own = Path(tempfile.mkdtemp(dir=self._scratch, prefix=f"{self.setting.kind}-"))
        if not (self._own / version).is_dir():
            self._files[version].save(self._own / version)
        return self._own / version

    def _log_lines(self, start: float, end: float) -> pd.DataFrame:
        kept = sorted((line for line in self._lines if start <= line[0] <= end), key=lambda line: line[0])
        times = EPOCH + pd.to_timedelta([round(1e6 * line[0]) for line in kept], unit="us")
        columns = [times, *([line[place] for line in kept] for place in (1, 2)), [json.dumps(line[3]) for line in kept]]
        return pd.DataFrame(dict(zip(LOG_COLUMNS, columns, strict=True)))


@dataclass
class _Asked:
    """Some requests, in order of time, while they are answered."""

    times: np.ndarray
    ids: list[str]
    features: np.ndarray
    actual: np.ndarray
    as_of: np.ndarray
    is_copy: np.ndarray
    rated: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.times)
        self.status = np.full(count, 200)
        self.wait, self.busy, self.cpu, self.beyond = (np.zeros(count) for _ in range(4))
        self.forecasts = np.full((count, len(FORECAST)), np.nan)
        self.missing = np.isnan(self.features).sum(axis=1)
        self.mended, self.kept_aside = np.zeros(count, bool), np.zeros(count, bool)

    @property
    def latency(self) -> np.ndarray:
        """The seconds from a request to its answer."""
        return np.where(self.busy > 0, self.wait + self.busy, REFUSAL_SECONDS)


class _Requests:
    """All requests so far, by column."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        self._parts: list[dict[str, np.ndarray]] = []
        self._whole: dict[str, np.ndarray] = {}
        self._count = 0

    def __len__(self) -> int:
        return sum(len(part["time"]) for part in self._parts)

    def numbered(self, times: np.ndarray, features: np.ndarray, actual: np.ndarray, is_flood: np.ndarray) -> _Asked:
        """Return requests with new ids; those of a flood have others."""
        names = [
            f"{'flood' if flooded else 'replay'}-{number}"
            for number, flooded in enumerate(is_flood.tolist(), self._count)
        ]
        self._count += len(times)
        rated = np.random.default_rng(self._count).random(len(times)) < RATED
        return _Asked(times, names, features, actual, times.copy(), np.zeros(len(times), bool), rated)

    def add(self, asked: _Asked, version: str) -> None:
        """Keep requests that were answered."""
        latency, answers = asked.latency, dict(zip(FORECAST, asked.forecasts.T, strict=True))
        done = asked.times + latency
        is_told = (asked.status == 200) & np.isfinite(asked.actual) & ~asked.is_copy
        inside = (asked.actual >= answers["lower"]) & (asked.actual <= answers["upper"])
        number = np.arange(len(asked.times)) % 2
        self._parts.append(
            {
                "time": asked.times,
                "id": np.array(asked.ids, dtype=object),
                "version": np.full(len(asked.times), version, dtype=object),
                "status": asked.status,
                "latency": latency,
                "done": done,
                "wait": asked.wait,
                "busy": asked.busy,
                "cpu": asked.cpu,
                "features": asked.features,
                "actual": np.where(asked.status == 200, asked.actual, np.nan),
                "told_at": np.where(is_told, done + FEEDBACK_AFTER, np.nan),
                "rating": np.where(is_told & asked.rated, np.where(inside, 4, 1) + number, np.nan),
                "as_of": asked.as_of,
                "missing": asked.missing,
                "beyond": asked.beyond,
                "mended": asked.mended,
                "kept_aside": asked.kept_aside,
                **answers,
            }
        )
        self._whole = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._whole:
            self._whole[name] = np.concatenate([part[name] for part in self._parts])
        return self._whole[name]

    def table(self, start: float, end: float) -> pd.DataFrame:
        """Return the requests that came in a window and were answered by its end, with what was told by then."""
        rows = (self["time"] >= start) & (self["done"] <= end)
        known_at = self["done"] + FEEDBACK_AFTER
        is_known = (known_at <= end)[rows]
        head = {
            "time": EPOCH + pd.to_timedelta(np.round(1e6 * self["time"][rows]), unit="us"),
            "request_id": self["id"][rows],
            "version": self["version"][rows],
            "status": self["status"][rows].astype(float),
            "latency_ms": 1000 * self["latency"][rows],
        }
        features = dict(zip((FEATURE + name for name in self._columns), self["features"][rows].T, strict=True))
        answers = {name: self[name][rows] for name in FORECAST}
        tail = {
            "actual": np.where(is_known, self["actual"][rows], np.nan),
            "rating": np.where(is_known, self["rating"][rows], np.nan),
            "feedback": "",
        }
        table = pd.DataFrame({**head, **features, **answers, **tail})
        return table.assign(time=table["time"].dt.as_unit("us"))


def _changed(asked: _Asked, fault: Fault, state: dict[str, Any], columns: tuple[str, ...]) -> _Asked:
    """Return requests as a fault of the feed leaves them; copies follow their originals."""
    if type(fault).apply is Fault.apply:
        return asked
    rows = [dict(zip(columns, values, strict=True)) for values in asked.features.tolist()]
    is_usual = [name.startswith("replay") for name in asked.ids]
    items = [
        fault.apply(Item(row, as_of, actual), state) if usual else Item(row, as_of, actual)
        for row, as_of, actual, usual in zip(rows, asked.as_of.tolist(), asked.actual.tolist(), is_usual, strict=True)
    ]
    source = np.repeat(np.arange(len(items)), [1 + item.copies for item in items])
    is_copy = np.concatenate([[False], source[1:] == source[:-1]])
    values = [[_number(items[place].row[name]) for name in columns] for place in source.tolist()]
    return _Asked(
        times=asked.times[source],
        ids=[asked.ids[place] for place in source.tolist()],
        features=np.array(values),
        actual=np.array([items[place].actual for place in source.tolist()]),
        as_of=np.array([items[place].as_of for place in source.tolist()]),
        is_copy=is_copy,
        rated=asked.rated[source],
    )


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _utc(seconds: float) -> Any:
    return (EPOCH + pd.Timedelta(seconds=round(seconds, 3))).to_pydatetime()


def _alert(given: Mapping[str, Any]) -> Alert:
    labels = given["labels"]
    return Alert(name=labels["alertname"], starts_at=given["startsAt"], labels=labels, annotations=given["annotations"])


def _provenance(versions: Versions, setting: Setting) -> Provenance:
    held = ", ".join(version for version in (versions.current, versions.last_good) if version)
    return Provenance(
        measured=("prices and actuals (sample:goog)", f"models: {held}, copied from the registry; {CHECKSUMS_HOLD}"),
        derived=("features, and answers of real forecasters", "metrics, from the simulated requests"),
        constructed=(
            f"the machine: a queue model of {setting.workers} workers under a virtual clock",
            "times of the requests, latencies, log lines, ratings and deployments",
        ),
    )


WARM_UP, LOOK_BACK, LONGEST = 360.0, 240.0, 300.0
"""Seconds before a fault begins, of it before an alert in its recording, and after which no alert is waited for."""

SETTLES, EVALUATE_EVERY, TIME_SCALE = 30.0, 5.0, 60.0
"""Seconds from an alert to its recording, between evaluations, and how many times the windows are shortened."""


@dataclass(frozen=True)
class Struck:
    """A simulated service whose fault began and was seen, or was waited for in vain.

    `began` and `alerted` are seconds of the clock (None where no alert fired), `false_alarms` the alerts that fired
    before the fault.
    """

    service: SimulatedService
    fault: Fault | None
    evaluator: AlertEvaluator
    began: float
    alerted: float | None
    alerts: tuple[dict[str, Any], ...]
    false_alarms: int

    def record(self, name: str = "drill") -> Recording:
        """Return the recording of the incident, up to now."""
        service = self.service
        start = (self.began if self.alerted is None else self.alerted) - LOOK_BACK
        return service.record(max(0.0, min(start, self.began - LOOK_BACK / 2)), service.now, self.alerts, name)

    def truth(self) -> dict[str, Any]:
        """Return what was really done, as `truth.json` holds it."""
        fault = self.fault
        if fault is None:
            return {"cause": "none", "causes": ["none"], "what": "nothing was done", "fault": ""}
        held = {"cause": fault.cause, "causes": sorted(fault.causes), "what": fault.description, "fault": fault.name}
        return {**held, "severity": fault.severity, "seed": fault.seed, "since": _utc(self.began).isoformat()}


def strike(
    fault: Fault | None,
    seed: int,
    scratch: Path,
    objectives: Sequence[Objective],
    setting: Setting | None = None,
    arrivals: Arrivals | None = None,
) -> Struck:
    """Let a healthy simulated service run, put a fault into it, and wait for an alert of the kit's own evaluator.

    Parameters
    ----------
    fault
        None lets it go on healthy.
    seed
        Of the service; the fault has its own.
    scratch
        A folder for the files of versions that a fault deploys.
    objectives
        What the service promises, as `read_objectives` gives it.
    setting, arrivals
        As for `SimulatedService`.
    """
    kind = fault.kind if fault is not None else None
    if setting is None and kind:
        setting = replace(drawn_setting(np.random.default_rng(seed)), kind=kind)
    service = SimulatedService(seed, scratch, setting, arrivals)
    evaluator = AlertEvaluator(objectives, service, TIME_SCALE, overlap=0.0)
    began = round(WARM_UP + float(service.rng.uniform(0, 60)), 1)
    service.advance(began)
    false_alarms = len(_firing(evaluator, began))
    if fault is not None:
        service.inject(fault)
    alerts: list[dict[str, Any]] = []
    while not alerts and service.now < began + LONGEST:
        service.advance(EVALUATE_EVERY if service.now < began + 60 else 2 * EVALUATE_EVERY)
        alerts = _firing(evaluator, service.now)
    alerted = service.now if alerts else None
    if alerts:
        service.advance(SETTLES)
    return Struck(service, fault, evaluator, began, alerted, tuple(alerts), false_alarms)


def simulate(
    fault: Fault | None,
    seed: int = 0,
    scratch: Path | None = None,
    objectives: Sequence[Objective] | None = None,
    setting: Setting | None = None,
) -> Recording:
    """Return the recording of a simulated incident.

    Where no objective's alert fires, it is what a scheduled check would find `LONGEST` seconds after the fault began.

    Parameters
    ----------
    fault
        As `lepton_kit.ops.faults.find_fault` gives it; None for a healthy service.
    seed
        Of the service; the fault has its own.
    scratch
        A folder for the files of deployed versions; one of this process unless given.
    objectives
        What the service promises; those of the project's `slo/` unless given.
    setting
        What the service is like; drawn by the seed unless given.
    """
    objectives = read_objectives(find_project() / "slo") if objectives is None else objectives
    return strike(fault, seed, scratch or _process_scratch(), objectives, setting).record()


def _firing(evaluator: AlertEvaluator, now: float) -> list[dict[str, Any]]:
    return [one for one in evaluator.evaluate(EPOCH.timestamp() + now) if one["status"] == "firing"]


@lru_cache(maxsize=1)
def _process_scratch() -> Path:
    held = tempfile.TemporaryDirectory(prefix="lepton-drills-")
    atexit.register(held.cleanup)
    return Path(held.name)


@lru_cache(maxsize=len(KINDS))
def trained_files(kind: Kind) -> Path:
    """Return a folder with the files of the trained versions, which is removed when this process ends."""
    held = tempfile.TemporaryDirectory(prefix="lepton-simulation-")
    atexit.register(held.cleanup)
    for name, version in world(kind).versions.items():
        version.forecaster.save(Path(held.name) / name)
    return Path(held.name)
