"""Drills: a fault is put into a healthy service, and what follows is followed to the recovered objective.

A simulated drill runs under a virtual clock (`lepton_kit.ops.simulation`). Everything after the telemetry is what runs
in earnest: the burn-rate alerts, the diagnosis, the plans of the remedies and the judgement of the recovery.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from lepton_kit.diagnosis.causes import Diagnosis, diagnose
from lepton_kit.diagnosis.evidence import Cause
from lepton_kit.diagnosis.onset import answering_workers
from lepton_kit.diagnosis.path import IncidentPath, Step
from lepton_kit.diagnosis.plans import REMEDIES, Plan
from lepton_kit.diagnosis.recovery import sli_ratio
from lepton_kit.diagnosis.remedies import runbook_of
from lepton_kit.diagnosis.repair_capacity import CapacityPlan, Needs, tolerated_refusals
from lepton_kit.errors import InputError
from lepton_kit.ops.drill_results import Basis, Drill, Drilled, PathFlaw
from lepton_kit.ops.faults import FAULTS, Fault, Pair, find_fault, read_fault_file
from lepton_kit.ops.proven import basis_of
from lepton_kit.ops.repairs import Judged, Trouble, objectives_table
from lepton_kit.ops.simulation import Injected, Simulation, find_simulation, inject, utc
from lepton_kit.telemetry.recordings import Recording
from lepton_kit.telemetry.slo import Objective

ASK_AGAIN, MOST_DIAGNOSES = 45.0, 3
"""Seconds after which an undecided diagnosis is made again on what is known by then, and how often at most."""

OBSERVED, LOOKS = 90.0, 3
"""Seconds for which a repaired service is observed, and the number of equal parts after which it is judged."""


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


@dataclass(frozen=True)
class Rehearsal:
    """A simulated drill, with what was seen of it.

    `what` is the fault in words; `moments` are the times (UTC) of the fault, the alert, the remedy and the recovery,
    None of what was not. `plans` are those that the last of the `diagnoses` led to, and `by_hand` what of them is left
    to a person. `recording` goes from before the fault to the end. `trouble` holds the objective that alerted, or else
    fell most, and `judged` what became of it, None where no repair of an alert was observed.
    """

    drilled: Drilled
    what: str
    moments: Mapping[str, pd.Timestamp | None]
    diagnoses: tuple[Diagnosis, ...]
    plans: tuple[Plan, ...]
    by_hand: tuple[str, ...]
    recording: Recording
    trouble: Trouble
    judged: Judged | None

    @property
    def window(self) -> tuple[pd.Timestamp, pd.Timestamp]:
        """Return from when to when was recorded (UTC)."""
        window = self.recording.incident.window
        return pd.Timestamp(window.start), pd.Timestamp(window.end)

    def periods(self) -> pd.DataFrame:
        """Return a row for the time before the fault, until the remedy, and since: what came, and what became of it.

        Columns: `period`, `seconds`, `requests`; of these `refused` (status 400 to 499), `failed` (500 and above) and
        `no_answer`; `events` of the objective and how many were `bad`; `workers` at the end of the period, NaN where
        none were counted.
        """
        objective, (start, end) = self.trouble.objective, self.window
        borders = [one for one in (start, self.moments["fault"], self.moments["remedy"], end) if one is not None]
        requests, workers = self.recording.requests, answering_workers(self.recording)
        rows = []
        for first, last in pairwise(borders):
            status = requests.loc[requests["time"].between(first, last, inclusive="left"), "status"]
            held = sli_ratio(self.recording, objective, first, last)
            ended = [status.between(400, 499), status.ge(500), status.isna()]
            left = workers.asof(last) if len(workers) else float("nan")
            counts = [int(one.sum()) for one in ended]
            seconds, events, bad = (last - first).total_seconds(), round(held.total), round(held.total - held.good)
            rows.append((seconds, len(status), *counts, events, bad, left))
        names = ["seconds", "requests", "refused", "failed", "no_answer", "events", "bad", "workers"]
        table = pd.DataFrame(rows, columns=names)
        table.insert(0, "period", ["before the fault", "until the remedy", "since the remedy"][: len(rows)])
        return table if self.moments["remedy"] else table.replace({"until the remedy": "since the fault"})

    def sizes(self) -> pd.DataFrame:
        """Return what the queue model predicts for each number of workers; empty where no remedy asked it."""
        options = (one.options for one in self.plans if isinstance(one, CapacityPlan))
        return next((one.drop(columns="version") for one in options), pd.DataFrame())

    def objectives(self) -> pd.DataFrame:
        """Return what became of each objective of the service; empty where nothing was judged."""
        return objectives_table(self.trouble, self.judged) if self.judged else pd.DataFrame()


def drill_simulated(drill: Drill, simulation: Simulation, known: Mapping[str, type[Fault]] = FAULTS) -> Rehearsal:
    """Go through one drill under a virtual clock.

    Raises InputError when the simulated service cannot have such a fault.
    """
    simulation.check(drill.fault)
    fault = find_fault(drill.fault, drill.seed, drill.severity, known) if drill.fault else None
    with TemporaryDirectory() as scratch:
        injected = inject(fault, drill.seed, Path(scratch), simulation.objectives, simulation.plant)
        return _Course(drill, injected, simulation).run()


class _Course:
    """One simulated drill from its alert on."""

    def __init__(self, drill: Drill, injected: Injected, simulation: Simulation) -> None:
        self._drill, self._injected, self._simulation = drill, injected, simulation
        self._service = injected.service
        self._actions: list[str] = []
        self._plans: list[Plan] = []
        self._by_hand: list[str] = []
        self._acted: set[Cause] = set()
        self._acted_at: float | None = None
        self._recovered_at: float | None = None

    def run(self) -> Rehearsal:
        """Diagnose, repair, and judge the recovery."""
        injected, diagnoses = self._injected, []
        for _ in range(MOST_DIAGNOSES):
            recording = injected.record()
            diagnosis = diagnose(recording)
            diagnoses.append(diagnosis)
            diagnosed_at = self._service.now
            error = self._repair(recording, [diagnosis.cause, *diagnosis.also])
            if injected.alerted is None or not (error or diagnosis.cause == "unknown"):
                break
            self._service.advance(ASK_AGAIN)  # until more is known
        trouble = Trouble.among(recording, diagnosis.onset, self._simulation.objectives)
        judged = self._observe(trouble)
        times = {
            "fault": injected.began, "alert": injected.alerted, "remedy": self._acted_at,
            "recovered": self._recovered_at,
        }  # fmt: skip
        return Rehearsal(
            drilled=self._drilled(recording, diagnosis, diagnosed_at, error, judged),
            what=injected.fault.description if injected.fault else "nothing happens",
            moments={name: None if time is None else pd.Timestamp(utc(time)) for name, time in times.items()},
            diagnoses=tuple(diagnoses),
            plans=tuple(self._plans),
            by_hand=tuple(self._by_hand),
            recording=injected.record("rehearsal"),
            trouble=trouble,
            judged=judged,
        )

    def _drilled(
        self, recording: Recording, diagnosis: Diagnosis, diagnosed_at: float, error: str, judged: Judged | None
    ) -> Drilled:
        injected, fault = self._injected, self._injected.fault
        causes, is_alerted = sorted(fault.causes if fault else {"none"}), injected.alerted is not None
        acted, is_false_alarm = bool(self._actions), injected.false_alarms > 0
        recovery = judged.recovery.verdict if judged else ""
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
            actions=tuple(self._actions),
            recovery=recovery,
            recovered_after=injected.since_the_fault(self._recovered_at),
            verdict=verdict_of(causes, diagnosis.cause, is_alerted, acted, recovery, is_false_alarm),
            error=error,
            service=self._simulation.service,
            basis=self._basis(diagnosis, recording, error),
            path=tuple(self._told(step) for step in diagnosis.path().steps),
            path_flaw=self._path_flaw(diagnosis, causes),
        )

    def _basis(self, diagnosis: Diagnosis, recording: Recording, error: str) -> Basis | None:
        """Return what the drill rested on; its plan is that of the kit's own runbook, whatever the settings name.

        None where what recovered the service was not the remedy of the last diagnosis, or not that alone, or where a
        person was asked as well.
        """
        runbook, incident, began = runbook_of(diagnosis.cause), recording.incident, utc(self._injected.began)
        is_of_another = self._recovered_at is not None and (error != "" or self._acted != {diagnosis.cause})
        if not runbook or self._simulation.project is None or is_of_another:
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

    def _repair(self, recording: Recording, named: Sequence[Cause]) -> str:
        """Plan and carry out the repair of each cause; return why a person must decide, where one must."""
        self._plans, self._by_hand = [], []
        for cause in named:
            began = self._service.now
            try:
                if (plan := plan_of(cause, recording, self._simulation.objectives)) is None:
                    continue
                self._plans.append(plan)
                self._by_hand += plan.means(self._service.ways).by_hand
                done = plan.carry_out(self._service)
            except InputError as error:  # such as no good version to go back to: a person must decide
                return str(error)
            if done:
                self._actions += done
                self._acted.add(cause)
                self._acted_at = began if self._acted_at is None else self._acted_at
        if self._actions:
            self._service.settle()
        return ""

    def _observe(self, trouble: Trouble) -> Judged | None:
        """Return what became of the objective that alerted; None where it did not, or nothing was done."""
        if not self._actions or self._injected.alerted is None:
            return None
        repaired_at = self._service.now
        for _ in range(LOOKS):
            self._service.advance(OBSERVED / LOOKS)
            judged = trouble.followed(self._service.record(repaired_at, self._service.now, name="after"))
            if judged.recovery.verdict == "recovered":
                self._recovered_at = self._service.now
                break
        return judged


def plan_of(cause: Cause, recording: Recording, objectives: Sequence[Objective]) -> Plan | None:
    """Plan the repair of a cause from a recording: None without a remedy."""
    if cause not in REMEDIES:
        return None
    options = {"needs": Needs(refused=tolerated_refusals(objectives))} if cause == "compute" else {}
    return REMEDIES[cause].plan(recording, **options)


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
    return drill_simulated(drill, find_simulation(project, service), known_faults(fault_file)).drilled


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
