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

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.data.input_fixes import NO_INPUT_FIXES, InputFixer
from lepton_kit.diagnosis.means import Way
from lepton_kit.diagnosis.plans import State
from lepton_kit.errors import InputError
from lepton_kit.models.forecasters import FURTHEST_INPUT, Forecaster
from lepton_kit.ops.faults import Fault
from lepton_kit.ops.simulated_metrics import samples, selected
from lepton_kit.ops.simulation import EPOCH, utc
from lepton_kit.serving.replay import Arrivals
from lepton_kit.telemetry.declaration import FORECASTER
from lepton_kit.telemetry.recordings import (
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
from subjects.machine import DRAIN_SECONDS, START_SECONDS, Machine
from subjects.prices.simulated.requests import Asked, Requests, changed
from subjects.prices.simulated.setting import Setting, drawn_setting
from subjects.prices.simulated.telemetry import Telemetry
from subjects.prices.simulated.world import Days, trained_files, world

SERVICE = "goog"
TARGET = {"job": SERVICE, "instance": "127.0.0.1:8000"}
SCRAPE_EVERY = 2.0


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
        self.kind: str = self.setting.kind
        self.now = 0.0
        self.actions: list[tuple[float, str]] = []
        """What was done to it and why, with the time."""
        self._scratch = scratch
        self._own: Path | None = None
        self._world = world(self.setting.kind)
        self._gaps = arrivals.faster(self.setting.rate / arrivals.rate).gaps if arrivals else self._poisson()
        self._lines: list[tuple[float, str, str, dict[str, Any]]] = []
        self._start_registry()
        self.machine = Machine(self.setting, seed, self._say_started)
        self._start_load()
        self._requests = Requests(self._world.columns)
        self._telemetry = Telemetry(SERVICE, self._requests, self.machine, self._deployments)
        for worker in self.machine.running:
            self._say_started(0.0, worker.pid)

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

    def deploy_next(self, is_bad: bool) -> None:
        """Put the version in service into service again, under another name."""
        if is_bad:
            raise InputError("fault 'bad-version': forecasters have bad versions of their own, such as 'wrong-version'")
        self.deploy(self.current(), "released again")

    def corrupt(self, forecaster: Forecaster) -> None:
        """Let the running workers answer with this one; their version's files stay as they are."""
        self._served = forecaster

    def _serve(self, version: str, note: str) -> None:
        self._deployments.append((self.now, version, note))
        self._version, self._served = version, self._files[version]

    # --- the machine ----------------------------------------------------------------------------------------------

    @property
    def workers(self) -> int:
        """Return how many workers answer."""
        return len(self.machine.running)

    @property
    def utilisation(self) -> float:
        """Return the share of the workers' time that the usual load takes."""
        return self.setting.rate * self.setting.service / self.workers

    def slow(self, taken: float) -> None:
        """Take this share of the processor from each worker that runs now."""
        self.machine.slow(taken)

    def lose(self, count: int) -> None:
        """End this many workers, and those that replace them."""
        self.machine.lose(count, self.now)

    def leak(self, seconds: float) -> None:
        """Let each worker lose memory, so that it reaches the limit this many seconds after its start, or after now."""
        self.machine.leak(seconds, self.now)

    # --- the load -------------------------------------------------------------------------------------------------

    def _start_load(self) -> None:
        self._surge: Callable[[float], float] = lambda _: 1.0
        self._surge_from, self._flood, self._due, self._wild = 0.0, 0.0, 0.0, 0.0
        self._places = {"calm": self.setting.first_day, "wild": 0}
        self._fault: Fault | None = None
        self._changes: dict[str, Any] = {}
        self._is_feed_whole = True
        self._set_input_fixes(NO_INPUT_FIXES)

    def surge(self, factor: Callable[[float], float]) -> None:
        """Multiply the usual rate of the requests by a function of the time since now."""
        self._surge, self._surge_from = factor, self.now

    def flood_to(self, utilisation: float) -> None:
        """Send as many requests beside the usual load as bring the workers to this utilisation, which may exceed 1."""
        self._flood = max(0.0, utilisation - self.utilisation) * self.workers / self.setting.service

    def change_world(self, share: float) -> None:
        """Let this share of the days that are asked about be days of the real market's wild year from now on."""
        self._wild = share

    def crowd(self, share: float) -> None:
        """Refuse: prices have one source."""
        raise InputError("fault 'one-source': a service of prices has no other sources to lose")

    def inject(self, fault: Fault) -> None:
        """Let a fault begin."""
        self._fault, self._is_feed_whole = fault, False
        fault.inject(self)

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
            asked = changed(asked, self._fault, self._changes, self._world.columns)
        fixed = self._fixer.fix(asked.features)
        asked.fixed = fixed.changed
        asked.kept_aside = fixed.broken & self._fixer.input_fixes.quarantine
        valid = np.isfinite(fixed.values).all(axis=1) & ~(fixed.broken & self._fixer.input_fixes.quarantine)
        asked.features = np.where(valid[:, None], fixed.values, np.nan)
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

    def _queue(self, asked: Asked, valid: np.ndarray) -> None:
        shape = 1 / self.setting.service_cv**2
        services = self.rng.gamma(shape, self.setting.service / shape, len(asked.times))
        asked.status[~valid] = 422
        for place in np.flatnonzero(valid).tolist():
            taken = self.machine.take(float(asked.times[place]), float(services[place]))
            if taken is None:
                asked.status[place] = 429
            else:
                asked.wait[place], asked.busy[place] = taken
                asked.cpu[place] = services[place]

    def _forecast(self, asked: Asked) -> None:
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

    def _say_started(self, time: float, pid: int) -> None:
        self._say(time, "INFO", "worker started", version=self._version, pid=pid)

    def _log(self, asked: Asked) -> None:
        latency = asked.latency
        told = zip(asked.times.tolist(), asked.ids, asked.status.tolist(), latency.tolist(), strict=True)
        for time, request_id, status, seconds in told:
            level = "ERROR" if status >= 500 else "WARNING" if status >= 400 else "INFO"
            fields = {"request_id": request_id, "status": status, "latency_ms": round(1000 * seconds, 3)}
            self._say(time + seconds, level, f"POST /v1/predict answered {status}", **fields)

    def query(self, selector: str, start: float, end: float) -> pd.DataFrame:
        """Return the samples of the selected series from `start` to `end` (Unix seconds, both included)."""
        metric = selector.partition("{")[0].strip()
        made = (one for one in self._telemetry.series(self.now, metric) if one.metric == metric)
        chosen = selected((replace(one, labels={**one.labels, **TARGET}) for one in made), selector)
        return samples(chosen, self.scrapes(start - EPOCH.timestamp(), end - EPOCH.timestamp()), EPOCH, {})

    def scrapes(self, start: float, end: float) -> np.ndarray:
        """Return when its metrics were read, between two times of its clock."""
        first, last = np.ceil(max(start, 0.0) / SCRAPE_EVERY), np.floor(min(end, self.now) / SCRAPE_EVERY)
        times: np.ndarray = SCRAPE_EVERY * np.arange(first, last + 1)
        return times

    # --- what a remedy may do -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the desired state of the service."""
        return State(self._version, self.machine.wanted, self.machine.queue_limit, self._fixes)

    def set_state(self, state: State, why: str) -> None:
        """Bring the service to a state, whole or not at all."""
        if state.version not in self._files or state.workers is None or state.queue_limit is None:
            raise InputError(f"version {state.version!r}: the registry has {', '.join(self._files)}")
        self.actions.append((self.now, f"{self.state().as_dict()} → {state.as_dict()}: {why}"))
        if state.version != self._version:
            self._serve(state.version, why[:200])
        self._set_input_fixes(state.input_fixes)
        self.machine.size(state.workers, state.queue_limit, self.now)

    def restart_workers(self, why: str) -> None:
        """Replace each worker by a fresh one, which loads the version from its files."""
        self.actions.append((self.now, f"workers restarted: {why}"))
        self._served = self._files[self._version]
        self.machine.restart(self.now)

    ways: tuple[Way, ...] = ("fix_inputs", "roll_back", "deploy", "scale", "restart", "restart_feed")

    def act_on_feed(self, way: Way, why: str) -> None:
        """Restart the feed, which ends such faults of it as a restart can end."""
        self.actions.append((self.now, f"feed restarted: {why}"))
        if self._fault is not None and self._fault.is_restartable:
            self._is_feed_whole = True

    def settle(self) -> None:
        """Let the clock run until what the workers held is answered, as an operator waits for them, 30 s at most."""
        held = self.machine.drained_at(self.now)
        self.advance(float(np.clip(held - self.now, START_SECONDS, DRAIN_SECONDS)))

    def _set_input_fixes(self, fixes: Any) -> None:
        self._fixes = fixes
        reference = self._world.versions["v2"].reference
        self._fixer = InputFixer(fixes, self._world.columns, reference)

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
        series = list(self._telemetry.series(self.now))
        return Recording(
            incident=Incident(
                format=FORMAT,
                id=name,
                service=SERVICE,
                declaration=FORECASTER,
                window=Window(start=utc(start), end=utc(end)),
                versions=versions,
                alerts=tuple(_alert(one) for one in alerts),
                deployments=tuple(
                    Deployment(time=utc(time), version=version, note=note)
                    for time, version, note in self._deployments
                    if time <= end
                ),
                checksums={version: True for version in (versions.current, versions.last_good) if version},
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


def plant(fault: Fault | None, seed: int, scratch: Path) -> SimulatedService:
    """Return a service of prices, of the kind that the fault can harm."""
    setting = drawn_setting(np.random.default_rng(seed))
    return SimulatedService(seed, scratch, replace(setting, kind=fault.kind) if fault and fault.kind else None)


def _alert(given: Mapping[str, Any]) -> Alert:
    labels = given["labels"]
    return Alert(name=labels["alertname"], starts_at=given["startsAt"], labels=labels, annotations=given["annotations"])


def _provenance(versions: Versions, setting: Setting) -> Provenance:
    held = ", ".join(version for version in (versions.current, versions.last_good) if version)
    return Provenance(
        measured=(
            "prices and actuals (sample:goog)",
            f"models: {held}, copied from the registry; their checksums hold",
        ),
        derived=("features, and answers of real forecasters", "metrics, from the simulated requests"),
        constructed=(
            f"the machine: a queue model of {setting.workers} workers under a virtual clock",
            "times of the requests, latencies, log lines, ratings and deployments",
        ),
    )
