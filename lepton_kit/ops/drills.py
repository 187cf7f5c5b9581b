"""Drills: a fault is put into a healthy service, and what follows is followed to the recovered objective.

A simulated drill runs under a virtual clock (`lepton_kit.ops.simulation`). Everything after the telemetry is what runs
in earnest: the burn-rate alerts, the diagnosis, the plans of the remedies and the judgement of the recovery.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from lepton_kit.diagnosis.causes import Diagnosis, diagnose
from lepton_kit.diagnosis.evidence import Cause
from lepton_kit.diagnosis.path import IncidentPath, Step
from lepton_kit.diagnosis.plans import REMEDIES, Operator
from lepton_kit.diagnosis.recovery import objective_of
from lepton_kit.diagnosis.remedies import runbook_of
from lepton_kit.diagnosis.repair_capacity import Needs, tolerated_refusals
from lepton_kit.errors import InputError
from lepton_kit.ops.drill_results import Basis, Drill, Drilled, PathFlaw
from lepton_kit.ops.faults import FAULTS, Fault, Pair, find_fault, read_fault_file
from lepton_kit.ops.proven import basis_of
from lepton_kit.ops.repairs import Trouble
from lepton_kit.ops.simulation import Injected, Simulation, find_simulation, inject, utc
from lepton_kit.telemetry.recordings import Recording
from lepton_kit.telemetry.slo import Objective

ASK_AGAIN, MOST_DIAGNOSES = 45.0, 3
"""Seconds after which an undecided diagnosis is made again on what is known by then, and how often at most."""

OBSERVED, LOOKS = 90.0, 3
"""Seconds for which a repaired service is observed, and the number of equal parts after which it is judged."""

Tell = Callable[[str], object]


def drawn_drills(names: Sequence[str], count: int, seed: int, known: Mapping[str, type[Fault]] = FAULTS) -> list[Drill]:
    """Return `count` drills of each fault, whose severities go evenly through the fault's range.

    Names are of faults, of pairs such as `units+cpu-taken`, or empty: nothing happens. The same seed gives the same
    drills. Raises InputError when there is no such fault, or the count is below 1.

    Examples
    --------
    >>> [(drill.fault, round(drill.severity, 2)) for drill in drawn_drills(["units"], 2, seed=0)]
    [('units', 0.66), ('units', 0.76)]
    """
    if count < 1:
        raise InputError(f"--count {count}: must be at least 1")
    rng = np.random.default_rng(seed)
    drills = []
    for name in names:
        fault = find_fault(name, known=known) if name else None
        parts = fault.parts if isinstance(fault, Pair) else [fault] if fault else []
        for place in range(count):
            part = (place + rng.random()) / count
            drawn = [low + (high - low) * part for low, high in (one.severities for one in parts)]
            drills.append(Drill(name, min(drawn, default=None), int(rng.integers(2**31))))
    return drills


def verdict_of(
    true: Collection[str], named: str, is_alerted: bool, has_acted: bool, recovery: str, is_false_alarm: bool = False
) -> str:
    """Return how a drill ended, a key of `VERDICTS`, by its causes, the first one that was named, and what followed."""
    if is_false_alarm:
        return "false alarm"
    if set(true) == {"none"}:
        return "false repair" if has_acted else "left alone"
    if named in ("none", "unknown"):
        if not is_alerted:
            return "unnoticed"
        return "asked a person" if named == "unknown" else "wrong cause"
    if named not in true:
        return "wrong cause"
    if not is_alerted:
        return "acted without an alert"
    return "recovered" if recovery == "recovered" else "not recovered"


def path_flaw(path: IncidentPath, causes: Collection[str], alert: str, began: pd.Timestamp) -> PathFlaw:
    """Return what is wrong with a path from an injected fault, which began at a time, to the objective of an alert."""
    first = [step for step in path.steps if step.kind == "cause"]
    if not first:
        return "no cause"
    if not {step.what for step in first} <= set(causes):
        return "wrong cause"
    if min(step.onset for step in path.steps) < began - path.slack:
        return "before the fault"
    if not path.is_in_order:
        return "out of order"
    return "valid" if path.steps[-1].alert == alert else "other objective"


def drill_simulated(
    drill: Drill,
    simulation: Simulation,
    known: Mapping[str, type[Fault]] = FAULTS,
    tell: Tell = lambda _: None,
    on_diagnosis: Callable[[Diagnosis], object] = lambda _: None,
) -> Drilled:
    """Go through one drill under a virtual clock; `tell` gets a line for each step.

    Raises InputError when the simulated service cannot have such a fault.
    """
    simulation.check(drill.fault)
    fault = find_fault(drill.fault, drill.seed, drill.severity, known) if drill.fault else None
    with TemporaryDirectory() as scratch:
        injected = inject(fault, drill.seed, Path(scratch), simulation.objectives, simulation.plant)
        return _Course(drill, injected, simulation, tell, on_diagnosis).run()


class _Course:
    """One simulated drill from its alert on."""

    def __init__(
        self,
        drill: Drill,
        injected: Injected,
        simulation: Simulation,
        tell: Tell,
        on_diagnosis: Callable[[Diagnosis], object],
    ) -> None:
        self._drill, self._injected, self._simulation = drill, injected, simulation
        self._tell, self._on_diagnosis = tell, on_diagnosis
        self._service = injected.service

    def run(self) -> Drilled:
        """Diagnose, repair, and judge the recovery."""
        injected, fault = self._injected, self._injected.fault
        self._say_alert()
        for _ in range(MOST_DIAGNOSES):
            recording, diagnosis = self._diagnose()
            diagnosed_at = self._service.now
            actions, error = self._repair(recording, [diagnosis.cause, *diagnosis.also])
            if injected.alerted is None or not (error or diagnosis.cause == "unknown"):
                break
            self._service.advance(ASK_AGAIN)  # until more is known
        recovery, recovered_at = self._observe(recording, diagnosis, bool(actions))
        causes, is_alerted = sorted(fault.causes if fault else {"none"}), injected.alerted is not None
        return Drilled(
            fault=self._drill.fault or "nothing",
            severity=fault.severity if fault else 0.0,
            seed=self._drill.seed,
            kind=self._service.kind,
            causes=tuple(causes),
            alert=str(injected.alerts[0]["labels"]["alertname"]) if injected.alerts else "",
            detected_after=injected.since_the_fault(injected.alerted),
            cause=diagnosis.cause,
            also=tuple(diagnosis.also),
            probability=round(float(diagnosis.probability), 4),
            confidence=diagnosis.confidence,
            diagnosed_after=injected.since_the_fault(diagnosed_at) or 0.0,
            remedy=runbook_of(diagnosis.cause),
            actions=actions,
            recovery=recovery,
            recovered_after=injected.since_the_fault(recovered_at),
            verdict=verdict_of(causes, diagnosis.cause, is_alerted, bool(actions), recovery, injected.false_alarms > 0),
            error=error,
            service=self._simulation.service,
            basis=self._basis(diagnosis, recording),
            path=tuple(self._told(step) for step in diagnosis.path().steps),
            path_flaw=self._path_flaw(diagnosis, causes),
        )

    def _basis(self, diagnosis: Diagnosis, recording: Recording) -> Basis | None:
        """Return what the drill rested on; its plan is that of the kit's own runbook, whatever the settings name."""
        runbook, incident, began = runbook_of(diagnosis.cause), recording.incident, utc(self._injected.began)
        if not runbook or self._simulation.project is None:
            return None
        before = [one.version for one in sorted(incident.deployments, key=lambda one: one.time) if one.time < began]
        model = [incident.versions.current, *before][-1]
        project, service = self._simulation.project, self._simulation.service
        return basis_of(project, service, "simulated", f"runbooks/{runbook}.ipynb", model)

    def _told(self, step: Step) -> str:
        since = (step.onset - pd.Timestamp(utc(self._injected.began))).total_seconds()
        return f"{step.what} ({step.check}: {step.finding}) {since:+.1f} s"

    def _path_flaw(self, diagnosis: Diagnosis, causes: Sequence[str]) -> PathFlaw | None:
        """Say what is wrong with the path of a right diagnosis of a fault that alerted; None of any other."""
        if not self._injected.alerts or diagnosis.cause not in causes or causes == ["none"]:
            return None
        alert = str(self._injected.alerts[0]["labels"]["alertname"])
        return path_flaw(diagnosis.path(), causes, alert, pd.Timestamp(utc(self._injected.began)))

    def _say_alert(self) -> None:
        injected = self._injected
        if injected.alerted is None:
            self._tell("no alert fired: a scheduled check looks at the service")
        else:
            fired = ", ".join(sorted({one["labels"]["alertname"] for one in injected.alerts}))
            self._tell(f"{injected.alerted - injected.began:.0f} s after the fault began: {fired}")

    def _diagnose(self) -> tuple[Recording, Diagnosis]:
        recording = self._injected.record()
        diagnosis = diagnose(recording)
        self._on_diagnosis(diagnosis)
        found = " and ".join([diagnosis.cause, *diagnosis.also])
        self._tell(f"diagnosis: {found} (probability {diagnosis.probability:.2f})")
        return recording, diagnosis

    def _repair(self, recording: Recording, named: Sequence[Cause]) -> tuple[tuple[str, ...], str]:
        done: list[str] = []
        for cause in named:
            try:
                done += repair(cause, recording, self._service, self._simulation.objectives)
            except InputError as error:  # such as no good version to go back to: a person must decide
                self._tell(f"no remedy: {error}")
                return tuple(done), str(error)
        for action in done:
            self._tell(f"remedy: {action}")
        if done:
            self._service.settle()
        return tuple(done), ""

    def _observe(self, recording: Recording, diagnosis: Diagnosis, acted: bool) -> tuple[str, float | None]:
        """Return what became of the objective that alerted, and when it was first seen to be back."""
        if not acted or self._injected.alerted is None:
            return "", None
        trouble = Trouble(recording, diagnosis.onset, objective_of(recording, self._simulation.objectives))
        repaired_at, verdict, recovered_at = self._service.now, "", None
        for _ in range(LOOKS):
            self._service.advance(OBSERVED / LOOKS)
            after = self._service.record(repaired_at, self._service.now, name="after")
            judged = trouble.followed(after).recovery
            verdict = judged.verdict
            if verdict == "recovered":
                recovered_at = self._service.now
                break
        self._tell(f"{trouble.objective.title}: {verdict} ({judged.reason})")
        return verdict, recovered_at


def repair(cause: Cause, recording: Recording, operator: Operator, objectives: Sequence[Objective]) -> tuple[str, ...]:
    """Plan the repair of a cause from a recording, carry it out, and return what was done: nothing without a remedy."""
    if cause not in REMEDIES:
        return ()
    options = {"needs": Needs(refused=tolerated_refusals(objectives))} if cause == "compute" else {}
    return REMEDIES[cause].plan(recording, **options).carry_out(operator)


# --- many of them -------------------------------------------------------------------------------------------------


def drill_all(
    drills: Sequence[Drill],
    project: Path,
    service: str | None = None,
    fault_file: Path | None = None,
    processes: int | None = None,
) -> Iterator[Drilled]:
    """Go through simulated drills in processes of their own, and give each as soon as those before it are done."""
    count = min(processes or os.cpu_count() or 1, len(drills))
    if count <= 1:
        yield from (_drill_here(drill, project, service, fault_file) for drill in drills)
        return
    with ProcessPoolExecutor(count, initializer=one_thread) as pool:
        yield from pool.map(_drill_here, drills, *([one] * len(drills) for one in (project, service, fault_file)))


def one_thread() -> None:
    """Let a process compute in one thread: processes, not threads, share the processors."""
    import torch

    torch.set_num_threads(1)


def _drill_here(drill: Drill, project: Path, service: str | None, fault_file: Path | None) -> Drilled:
    return drill_simulated(drill, find_simulation(project, service), known_faults(fault_file))


@lru_cache(maxsize=4)
def known_faults(fault_file: Path | None = None) -> dict[str, type[Fault]]:
    """Return all faults by their names, with those of a file of one's own."""
    return FAULTS | (read_fault_file(fault_file) if fault_file else {})


def result_table(drilled: Sequence[Drilled]) -> pd.DataFrame:
    """Return the drills as a table for people, a row each."""
    rows = [
        {
            "fault": one.fault,
            "severity": f"{one.severity:.2f}",
            "alert": one.alert.removesuffix("BudgetBurn") or "–",
            "detected after": _seconds(one.detected_after),
            "cause": " and ".join([one.cause, *one.also]),
            "confidence": one.confidence,
            "remedy": one.remedy or "–",
            "recovered after": _seconds(one.recovered_after),
            "verdict": one.verdict,
        }
        for one in drilled
    ]
    return pd.DataFrame(rows)


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} s"
