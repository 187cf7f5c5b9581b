"""Simulated incidents: a healthy service under a virtual clock, a fault, and the alert of the kit's own evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from lepton_kit.diagnosis.plans import Operator
from lepton_kit.errors import InputError
from lepton_kit.ops.faults import FAULTS, Fault, Plant
from lepton_kit.project.settings import read_settings
from lepton_kit.project.subjects import find_subject
from lepton_kit.telemetry.alerts import AlertEvaluator
from lepton_kit.telemetry.recordings import Promise, Recording
from lepton_kit.telemetry.slo import Objective, read_objectives

EPOCH = pd.Timestamp("2026-01-05T12:00:00Z")
"""When the simulated clock was 0."""

WARM_UP, LOOK_BACK, LONGEST = 360.0, 240.0, 300.0
"""Seconds before a fault begins, of it before an alert in its recording, and after which no alert is waited for."""

SETTLES, EVALUATE_EVERY, TIME_SCALE = 30.0, 5.0, 60.0
"""Seconds from an alert to its recording, between evaluations, and how many times the windows are shortened."""


class SimulatedService(Plant, Operator, Protocol):
    """A subject's service under a clock of its own, in seconds: it can be harmed, asked for samples, and repaired."""

    kind: str

    def advance(self, seconds: float) -> None:
        """Let the clock run, and answer what comes meanwhile."""

    def inject(self, fault: Fault) -> None:
        """Let a fault begin."""

    def query(self, selector: str, start: float, end: float) -> pd.DataFrame:
        """Return samples, as a source of telemetry does."""

    def settle(self) -> None:
        """Let the clock run until what was done has its effect."""

    def record(
        self, start: float, end: float, alerts: Sequence[Mapping[str, Any]] = (), name: str = "drill"
    ) -> Recording:
        """Freeze what is known at the end of a window of its clock, as a capture does."""


MakePlant = Callable[[Fault | None, int, Path], SimulatedService]
"""What a subject's `plant` is: a healthy service that the fault can harm, of a seed, with a folder for its files."""


@dataclass(frozen=True)
class Simulation:
    """A service that can be drilled under a virtual clock.

    `plant` and the names of the `faults` that it can have are its subject's, which calls them `DRILLED`. `project` is
    what a drill's result is fingerprinted by.
    """

    service: str
    plant: MakePlant
    faults: tuple[str, ...]
    objectives: tuple[Objective, ...]
    project: Path | None = None

    def check(self, name: str) -> None:
        """Refuse a fault of the kit, or a pair, that this service cannot have; user-defined faults pass.

        Raises InputError, which names those that it can have.
        """
        singles = {part for known in self.faults for part in known.split("+")}
        for part in name.split("+"):
            if part in FAULTS and part not in singles:
                known = ", ".join(self.faults)
                raise InputError(f"fault {part!r}: a simulated {self.service!r} cannot have it, but {known}")


@lru_cache(maxsize=8)
def find_simulation(project: Path, service: str | None = None) -> Simulation:
    """Return the simulation that the subject of a service offers; that of the first declared one which has it.

    Raises InputError when there is none.
    """
    for name in [service] if service else read_settings(project).services:
        subject = find_subject(name, project)
        module: Any = subject.module
        if hasattr(module, "plant") and hasattr(module, "DRILLED"):
            objectives = read_objectives(project / subject.declaration.objectives)
            return Simulation(name, module.plant, tuple(module.DRILLED), tuple(objectives), project)
    which = f"service {service!r}" if service else f"{project / 'lepton.toml'}"
    raise InputError(f"{which}: has no subject with plant(…) and DRILLED, which a simulated drill needs")


@dataclass(frozen=True)
class Injected:
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

    def since_the_fault(self, time: float | None) -> float | None:
        """Return the seconds from the fault to a time of the clock, where there is one."""
        return None if time is None else round(time - self.began, 1)

    def record(self, name: str = "drill") -> Recording:
        """Return the recording of the incident, up to now."""
        service = self.service
        start = (self.began if self.alerted is None else self.alerted) - LOOK_BACK
        made = service.record(max(0.0, min(start, self.began - LOOK_BACK / 2)), service.now, self.alerts, name)
        own = [one for one in self.evaluator.objectives if one.service == made.incident.service]
        promises = tuple(Promise.of(one, TIME_SCALE) for one in own)
        return replace(made, incident=made.incident.model_copy(update={"promises": promises}))

    def truth(self) -> dict[str, Any]:
        """Return what was really done, as `truth.json` holds it."""
        fault = self.fault
        if fault is None:
            return {"cause": "none", "causes": ["none"], "what": "nothing was done", "fault": ""}
        held = {"cause": fault.cause, "causes": sorted(fault.causes), "what": fault.description, "fault": fault.name}
        return {**held, "severity": fault.severity, "seed": fault.seed, "since": utc(self.began).isoformat()}


def inject(
    fault: Fault | None, seed: int, scratch: Path, objectives: Sequence[Objective], plant: MakePlant
) -> Injected:
    """Let a healthy simulated service run, put a fault into it, and wait for an alert of the kit's own evaluator.

    Without a fault it goes on healthy. `seed` is that of the service, the fault has its own; `scratch` is a folder for
    the files of versions that a fault deploys.
    """
    service = plant(fault, seed, scratch)
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
    return Injected(service, fault, evaluator, began, alerted, tuple(alerts), false_alarms)


def _firing(evaluator: AlertEvaluator, now: float) -> list[dict[str, Any]]:
    return [one for one in evaluator.evaluate(EPOCH.timestamp() + now) if one["status"] == "firing"]


def utc(seconds: float) -> datetime:
    """Return a time of the simulated clock, to the millisecond."""
    return (EPOCH + pd.Timedelta(milliseconds=round(1000 * seconds))).to_pydatetime()
