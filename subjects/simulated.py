"""What the simulated services of scoring and chat share: a clock, requests at random, a fault, samples and recordings.

Rows, answers and the machine are each subject's own. Names of metrics are those of its declaration and objectives.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.diagnosis.means import Way
from lepton_kit.diagnosis.plans import State
from lepton_kit.errors import InputError
from lepton_kit.ops.faults import Fault
from lepton_kit.ops.simulated_metrics import Series, samples, selected
from lepton_kit.ops.simulation import EPOCH, utc
from lepton_kit.project.settings import Settings
from lepton_kit.serving.replay import Item
from lepton_kit.telemetry.declaration import Declaration, signals_of
from lepton_kit.telemetry.recordings import (
    FEATURE,
    FORMAT,
    Alert,
    Deployment,
    Incident,
    Recording,
    Versions,
    Window,
)
from lepton_kit.telemetry.selectors import parse_selector
from lepton_kit.telemetry.slo import Objective, read_objectives
from subjects.machine import DRAIN_SECONDS

HERE = Path(__file__).parent
SCRAPE_EVERY, SETTLES = 2.0, 10.0


class Simulated:
    """A service under a clock of its own; `answer` and `series` are a subject's.

    Its actions are those that it declares. Versions are `v1`, and what a fault deploys after it.
    """

    name = ""
    workers: int
    rate = 6.0
    told_after = 5.0
    kind = ""

    def __init__(self, seed: int, scratch: Path) -> None:
        self.rng, self.seed, self.scratch, self.now = np.random.default_rng(seed), seed, scratch, 0.0
        folder = HERE / self.name
        declared = tomllib.loads((folder / "declaration.toml").read_text(encoding="utf-8"))
        self.declaration: Declaration = Settings.model_validate(declared).services[self.name]
        self.objectives: list[Objective] = read_objectives(folder / "slo")
        self.signals = signals_of(self.declaration)
        self.version = "v1"
        self.last_good: str | None = None
        self.deployments = [(-86400.0, "v1")]
        self.rows = pd.DataFrame()
        self._parts: list[pd.DataFrame] = []
        self._fault: Fault | None = None
        self._state: dict[str, Any] = {}
        self._bad = set[str]()
        self._surge: Callable[[float], float] = lambda _: 1.0
        self._surge_from, self._flood, self._count, self.crowded = 0.0, 0.0, 0, 0.0

    # --- what faults may do (lepton_kit.ops.faults.base.Plant), beside what the machine of a subject offers

    def inject(self, fault: Fault) -> None:
        """Let a fault begin."""
        self._fault = fault
        fault.inject(self)  # type: ignore[arg-type]

    def deploy_next(self, is_bad: bool) -> None:
        """Put the next version into service."""
        self.last_good, self._bad = self.version, {*self._bad, "v2"} if is_bad else self._bad
        self._serve("v2")

    def _serve(self, version: str) -> None:
        self.version = version
        self.deployments.append((self.now, version))
        self.take_version(is_bad=version in self._bad)

    def surge(self, factor: Callable[[float], float]) -> None:
        """Multiply the usual rate by a function of the time since now."""
        self._surge, self._surge_from = factor, self.now

    def crowd(self, share: float) -> None:
        """Let rows of one source take the place of this share of those of the others."""
        self.crowded = share

    # --- a subject's own

    def take_version(self, is_bad: bool) -> None:
        """Answer as `self.version` does from now on."""
        raise NotImplementedError

    def size(self, workers: int) -> None:
        """Set the number of workers."""
        raise NotImplementedError

    def ask(self, count: int) -> pd.DataFrame:
        """Return rows that are asked for: features, and what will come true as `actual`."""
        raise NotImplementedError

    def answer(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Return requests with `status`, prediction columns, `latency_ms`, and what `series` needs."""
        raise NotImplementedError

    def series(self) -> Iterator[Series]:
        """Give the series of the metrics, without the target's labels."""
        raise NotImplementedError

    # --- the clock

    def advance(self, seconds: float) -> None:
        """Let the clock run, and answer what comes meanwhile."""
        end = self.now + seconds
        rate = self.rate * self._surge(max(0.0, self.now - self._surge_from))
        times = np.sort(self.rng.uniform(self.now, end, self.rng.poisson(rate * seconds)))
        asked = self.ask(len(times)).assign(time=times)
        flood = self.rng.poisson(self._flood * seconds)
        if flood:
            extra = self.ask(flood).assign(time=self.rng.uniform(self.now, end, flood), actual=np.nan)
            asked = pd.concat([asked, extra], ignore_index=True)
        asked = self._harmed(asked).sort_values("time", ignore_index=True)
        ids = [f"r{self._count + place}" for place in range(len(asked))]
        self._count += len(asked)
        made = self.answer(asked.assign(request_id=ids, version=self.version))
        self._parts.append(made.assign(told_at=made["time"] + made["latency_ms"] / 1000 + self.told_after))
        self.rows = pd.concat(self._parts, ignore_index=True)
        self.now = end

    def _harmed(self, asked: pd.DataFrame) -> pd.DataFrame:
        if self._fault is None or asked.empty:
            return asked
        names = [name for name in asked if name not in ("time", "actual")]
        told: list[dict[str, Any]] = []
        for row in asked.to_dict("records"):
            given = {str(name): row[name] for name in names}
            item = self._fault.apply(Item(given, row["time"], row["actual"]), self._state)
            told += [{**item.row, "time": row["time"], "actual": row["actual"]}]
            told += [{**item.row, "time": row["time"], "actual": np.nan}] * item.copies
        return pd.DataFrame(told)

    # --- what a remedy may do

    @property
    def ways(self) -> Collection[Way]:
        """Return the actions that it declares."""
        return self.declaration.actions

    def state(self) -> State:
        """Return what the service is doing."""
        return State(self.version, self.workers)

    def set_state(self, state: State, why: str) -> None:
        """Bring the service to a version and a size."""
        if state.version not in (None, self.version):
            self._serve(str(state.version))
        if state.workers not in (None, self.workers):
            self.size(int(state.workers or 1))

    def restart_workers(self, why: str) -> None:
        """Refuse: it declares no such action."""
        raise InputError(f"service {self.name!r}: no action restart is declared")

    def act_on_feed(self, way: Way, why: str) -> None:
        """Restart the feed, which ends such faults of it as a restart can end."""
        if self._fault is not None and self._fault.is_restartable:
            self._fault, self.crowded = None, 0.0

    def settle(self) -> None:
        """Let the clock run until what was done has its effect, and what waited then is answered."""
        self.advance(float(np.clip(self.drained_at() - self.now, SETTLES, DRAIN_SECONDS)))

    def drained_at(self) -> float:
        """Return when all that waits now is answered."""
        raise NotImplementedError

    # --- what it shows

    def metric(self, role: str) -> tuple[str, dict[str, str]]:
        """Return the metric and the labels of a signal."""
        return _named(self.signals[role].selector)

    def query(self, selector: str, start: float, end: float) -> pd.DataFrame:
        """Return the samples of the selected series (Unix seconds, both included)."""
        target = self._target()
        known = [replace(one, labels={**one.labels, **target}) for one in self.series()]
        grid = self._scrapes(start - EPOCH.timestamp(), end - EPOCH.timestamp())
        return samples(selected(known, selector), grid, EPOCH, {})

    def _target(self) -> dict[str, str]:
        return {"job": self.name, "instance": str(self.declaration.address).removeprefix("http://")}

    def _scrapes(self, start: float, end: float) -> np.ndarray:
        first, last = np.ceil(max(start, 0.0) / SCRAPE_EVERY), np.floor(min(end, self.now) / SCRAPE_EVERY)
        times: np.ndarray = SCRAPE_EVERY * np.arange(first, last + 1)
        return times

    def models(self) -> Mapping[str, Path]:
        """Return the versions to replay requests through."""
        return {}

    def reference(self) -> pd.DataFrame:
        """Return rows that the version learnt from."""
        return pd.DataFrame()

    def record(
        self, start: float, end: float, alerts: Sequence[Mapping[str, Any]] = (), name: str = "drill"
    ) -> Recording:
        """Freeze what is known at the end of a window, as a capture does."""
        held = self.rows[self.rows["time"].between(start, end)]
        held = held[held["time"] + held["latency_ms"] / 1000 <= end]  # what is not answered yet is in no log
        known = held["told_at"] <= end
        columns = [column for column in held if str(column).startswith(FEATURE)]
        kept = ["request_id", "version", "status", "latency_ms", *columns, *self.predicted]
        requests = held[kept].assign(
            actual=held["actual"].where(known),
            time=EPOCH + pd.to_timedelta((held["time"] * 1e6).round(), unit="us"),
        )
        metrics = samples(list(self.series()), self._scrapes(start, end), EPOCH, self._target())
        return Recording(
            incident=Incident(
                format=FORMAT,
                id=name,
                service=self.name,
                declaration=self.declaration,
                window=Window(start=utc(start), end=utc(end)),
                versions=Versions(current=self.version, last_good=self.last_good),
                alerts=tuple(
                    Alert(name=one["labels"]["alertname"], starts_at=one["startsAt"], labels=one["labels"])
                    for one in alerts
                ),
                deployments=tuple(Deployment(time=utc(time), version=version) for time, version in self.deployments),
            ),
            requests=requests.reset_index(drop=True),
            metrics=metrics.assign(time=metrics["time"].dt.as_unit("us")).sort_values(
                "time", kind="stable", ignore_index=True
            ),
            reference=self.reference(),
            models=self.models(),
            signals=self.signals,
        )

    predicted: tuple[str, ...] = ()


def _named(selector: str) -> tuple[str, dict[str, str]]:
    wanted = parse_selector(selector)
    labels = {one.label: one.value for one in wanted.matchers if one.operator == "="}
    return wanted.metric, labels
