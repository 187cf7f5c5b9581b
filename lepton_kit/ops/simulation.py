"""Simulated incidents: a healthy service under a virtual clock, a fault, and the alert of the kit's own evaluator."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lepton_kit.ops.faults import Fault
from lepton_kit.ops.simulated_machine import Setting, drawn_setting
from lepton_kit.ops.simulated_requests import EPOCH
from lepton_kit.ops.simulated_service import SimulatedService, utc
from lepton_kit.runs.project import find_project
from lepton_kit.serving.arrivals import Arrivals
from lepton_kit.telemetry.alerts import AlertEvaluator
from lepton_kit.telemetry.recordings import Promise, Recording
from lepton_kit.telemetry.slo import Objective, read_objectives

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
