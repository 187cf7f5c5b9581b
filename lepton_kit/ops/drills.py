"""Drills: a fault is put into a healthy service, and what follows is followed to the recovered objective.

A simulated drill runs under a virtual clock (`lepton_kit.ops.simulation`). Everything after the telemetry is what runs
in earnest: the burn-rate alerts, the diagnosis, the plans of the remedies and the judgement of the recovery.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.diagnosis.causes import Diagnosis, diagnose
from lepton_kit.diagnosis.evidence import Cause
from lepton_kit.diagnosis.likelihoods import Likelihoods
from lepton_kit.diagnosis.recovery import objective_of
from lepton_kit.diagnosis.remedies import (
    REMEDIES,
    Needs,
    Operator,
    apply_capacity,
    apply_data,
    apply_model,
    plan_capacity,
    plan_data,
    plan_model,
)
from lepton_kit.diagnosis.repair_capacity import tolerated_refusals
from lepton_kit.errors import InputError
from lepton_kit.ops.faults import FAULTS, PAIRS, Fault, Pair, find_fault, read_fault_file
from lepton_kit.ops.repairs import Trouble, what_followed
from lepton_kit.ops.simulation import Plant, Struck, strike
from lepton_kit.project.subjects import plant_of
from lepton_kit.runs.project import find_project
from lepton_kit.telemetry.recordings import Recording
from lepton_kit.telemetry.slo import Objective, read_objectives

ASK_AGAIN, MOST_DIAGNOSES = 45.0, 3
"""Seconds after which an undecided diagnosis is made again on what is known by then, and how often at most."""

OBSERVED, LOOKS = 90.0, 3
"""Seconds for which a repaired service is observed, and the number of equal parts after which it is judged."""

GOOD_ENDS = ("recovered", "acted without an alert", "left alone", "unnoticed")

VERDICTS = {
    "recovered": "an alert fired, the cause was found, and its remedy brought the objective back",
    "acted without an alert": "a scheduled diagnosis found the cause, and its remedy was carried out; no alert had "
    "fired, so that no recovery can be shown",
    "left alone": "nothing was wrong, and nothing was done",
    "unnoticed": "the fault broke no objective, and no diagnosis named it",
    "asked a person": "an alert fired, and the evidence did not decide",
    "wrong cause": "another cause was named, and its remedy was carried out",
    "false repair": "nothing was wrong, and something was done",
    "not recovered": "the cause was found, but its remedy did not bring the objective back in time",
    "false alarm": "an alert fired before the fault began",
}
"""How a drill may end, and what that means; only `GOOD_ENDS` are as they should be."""


@dataclass(frozen=True)
class Drill:
    """What shall be drilled: a fault by its name (or empty: nothing), how severe it is, and the seed of all chance."""

    fault: str
    severity: float | None
    seed: int


@dataclass(frozen=True)
class Drilled:
    """How a drill went. All times are in seconds since the fault began.

    `causes` are those that were truly at work, `cause` and `also` those that were named. `severity` is that of the
    fault, `recovery` what `judge_recovery` says of the objective that alerted, and `verdict` a key of `VERDICTS`.
    """

    fault: str
    severity: float
    seed: int
    kind: str
    causes: tuple[str, ...]
    alert: str
    detected_after: float | None
    cause: str
    also: tuple[str, ...]
    probability: float
    confidence: str
    diagnosed_after: float
    remedy: str
    actions: tuple[str, ...]
    recovery: str
    recovered_after: float | None
    verdict: str
    error: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def time_to_recover(self) -> float | None:
        """Return the seconds from the alert to the recovery; from the fault where no alert fired."""
        return None if self.recovered_after is None else round(self.recovered_after - (self.detected_after or 0.0), 1)

    @property
    def is_as_it_should_be(self) -> bool:
        """Say whether the drill ended well."""
        return self.verdict in GOOD_ENDS

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


Tell = Callable[[str], object]


def drawn_drills(names: Sequence[str], count: int, seed: int, known: Mapping[str, type[Fault]] = FAULTS) -> list[Drill]:
    """Return `count` drills of each fault, whose severities go evenly through the fault's range.

    Parameters
    ----------
    names
        Faults, pairs such as `units+cpu-taken`, or an empty name: nothing happens.
    count
        Drills of each.
    seed
        The same seed gives the same drills.
    known
        The faults that there are.

    Raises
    ------
    InputError
        When there is no such fault, or the count is below 1.

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
        ranges = _ranges(fault)
        for place in range(count):
            part = (place + rng.random()) / count
            severity = min(low + (high - low) * part for low, high in ranges) if ranges else None
            drills.append(Drill(name, severity, int(rng.integers(2**31))))
    return drills


def _ranges(fault: Fault | None) -> list[tuple[float, float]]:
    if isinstance(fault, Pair):
        return [part.severities for part in fault.parts]
    return [fault.severities] if fault is not None else []


def drill_simulated(
    drill: Drill,
    objectives: Sequence[Objective],
    known: Mapping[str, type[Fault]] = FAULTS,
    likelihoods: Likelihoods | None = None,
    tell: Tell = lambda _: None,
    on_recording: Callable[[Recording, Struck], object] = lambda *_: None,
    plant: Plant | None = None,
) -> Drilled:
    """Go through one drill under a virtual clock.

    Parameters
    ----------
    drill
        What shall be drilled.
    objectives
        What the service promises.
    known
        The faults that there are.
    likelihoods
        The table that the diagnosis decides by; the shipped one unless given.
    tell
        Called with a line for each step.
    on_recording
        Called with each recording that is diagnosed, and the service as it is then.
    plant
        Makes the service; that of the project's first subject which has one unless given.
    """
    fault = find_fault(drill.fault, drill.seed, drill.severity, known) if drill.fault else None
    with TemporaryDirectory() as scratch:
        struck = strike(fault, drill.seed, Path(scratch), objectives, plant or plant_of(find_project()))
        return _Course(drill, struck, objectives, likelihoods, tell, on_recording).run()


class _Course:
    """One simulated drill from its alert on."""

    def __init__(
        self,
        drill: Drill,
        struck: Struck,
        objectives: Sequence[Objective],
        likelihoods: Likelihoods | None,
        tell: Tell,
        on_recording: Callable[[Recording, Struck], object],
    ) -> None:
        self._drill, self._struck, self._objectives, self._likelihoods = drill, struck, objectives, likelihoods
        self._tell, self._on_recording = tell, on_recording
        self._service = struck.service
        self._causes = tuple(sorted(struck.fault.causes if struck.fault else {"none"}))

    def run(self) -> Drilled:
        """Diagnose, repair, and judge the recovery."""
        self._say_alert()
        for _ in range(MOST_DIAGNOSES):
            recording, diagnosis = self._diagnose()
            diagnosed_at = self._service.now
            named = [diagnosis.cause, *diagnosis.also]
            actions, error = self._repair(recording, named)
            if self._struck.alerted is None or not (error or diagnosis.cause == "unknown"):
                break
            self._service.advance(ASK_AGAIN)  # until more is known
        recovery, recovered_at = self._observe(recording, diagnosis, bool(actions))
        struck = self._struck
        detected = struck.alerted if struck.alerted is not None else None
        fault = struck.fault
        return Drilled(
            fault=self._drill.fault or "nothing",
            severity=fault.severity if fault else 0.0,
            seed=self._drill.seed,
            kind=self._service.kind,
            causes=self._causes,
            alert=str(struck.alerts[0]["labels"]["alertname"]) if struck.alerts else "",
            detected_after=None if detected is None else round(detected - struck.began, 1),
            cause=diagnosis.cause,
            also=tuple(diagnosis.also),
            probability=round(float(diagnosis.probability), 4),
            confidence=diagnosis.confidence,
            diagnosed_after=round(diagnosed_at - struck.began, 1),
            remedy=REMEDIES.get(diagnosis.cause, ""),
            actions=actions,
            recovery=recovery,
            recovered_after=None if recovered_at is None else round(recovered_at - struck.began, 1),
            verdict=self._verdict(named, actions, recovery),
            error=error,
        )

    def _say_alert(self) -> None:
        struck = self._struck
        if struck.alerted is None:
            self._tell("no alert fired: a scheduled check looks at the service")
        else:
            fired = ", ".join(sorted({one["labels"]["alertname"] for one in struck.alerts}))
            self._tell(f"{struck.alerted - struck.began:.0f} s after the fault began: {fired}")

    def _diagnose(self) -> tuple[Recording, Diagnosis]:
        recording = self._struck.record()
        self._on_recording(recording, self._struck)
        diagnosis = diagnose(recording, likelihoods=self._likelihoods)
        found = " and ".join([diagnosis.cause, *diagnosis.also])
        self._tell(f"diagnosis: {found} (probability {diagnosis.probability:.2f})")
        return recording, diagnosis

    def _repair(self, recording: Recording, named: Sequence[Cause]) -> tuple[tuple[str, ...], str]:
        done: list[str] = []
        for cause in named:
            try:
                done += carry_out(cause, recording, self._service, self._objectives)
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
        if not acted or self._struck.alerted is None:
            return "", None
        trouble = Trouble(recording, diagnosis.onset, objective_of(recording, self._objectives))
        repaired_at, verdict, recovered_at = self._service.now, "", None
        for _ in range(LOOKS):
            self._service.advance(OBSERVED / LOOKS)
            after = self._service.record(repaired_at, self._service.now, name="after")
            judged = trouble.judged(what_followed(trouble, after))
            verdict = judged.verdict
            if verdict == "recovered":
                recovered_at = self._service.now
                break
        self._tell(f"{trouble.objective.title}: {verdict} ({judged.reason})")
        return verdict, recovered_at

    def _verdict(self, named: Sequence[str], actions: Sequence[str], recovery: str) -> str:
        struck, true = self._struck, set(self._causes)
        if struck.false_alarms:
            return "false alarm"
        if true == {"none"}:
            return "false repair" if actions else "left alone"
        if named[0] in ("none", "unknown"):
            if struck.alerted is None:
                return "unnoticed"
            return "asked a person" if named[0] == "unknown" else "wrong cause"
        if named[0] not in true:
            return "wrong cause"
        if struck.alerted is None:
            return "acted without an alert"
        return "recovered" if recovery == "recovered" else "not recovered"


def carry_out(
    cause: Cause, recording: Recording, operator: Operator, objectives: Sequence[Objective]
) -> tuple[str, ...]:
    """Plan the remedy of a cause from a recording, carry it out, and return what was done.

    Raises
    ------
    InputError
        When the recording does not hold what the plan needs, such as a good version to go back to.
    """
    if cause == "data":
        return apply_data(plan_data(recording), operator)
    if cause == "model":
        return apply_model(plan_model(recording), operator)
    if cause == "compute":
        needs = Needs(refused=tolerated_refusals(objectives))
        return apply_capacity(plan_capacity(recording, needs), operator)
    return ()


# --- many of them -------------------------------------------------------------------------------------------------


def drill_all(
    drills: Sequence[Drill], slo: Path, fault_file: Path | None = None, processes: int | None = None
) -> Iterator[Drilled]:
    """Go through simulated drills in processes of their own, and give each as soon as those before it are done.

    Parameters
    ----------
    drills
        As `drawn_drills` gives them.
    slo
        The folder of the objectives.
    fault_file
        A file with faults of one's own.
    processes
        How many at once; as many as there are processors unless given.
    """
    count = min(processes or os.cpu_count() or 1, len(drills))
    if count <= 1:
        yield from (_drill_here(drill, slo, fault_file) for drill in drills)
        return
    with ProcessPoolExecutor(count, initializer=_one_thread) as pool:
        yield from pool.map(_drill_here, drills, [slo] * len(drills), [fault_file] * len(drills))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # processes, not threads, share the processors


def _drill_here(drill: Drill, slo: Path, fault_file: Path | None) -> Drilled:
    return drill_simulated(drill, _objectives(slo), known_faults(fault_file))


@lru_cache(maxsize=4)
def _objectives(slo: Path) -> tuple[Objective, ...]:
    return tuple(read_objectives(slo))


@lru_cache(maxsize=4)
def known_faults(fault_file: Path | None = None) -> dict[str, type[Fault]]:
    """Return all faults by their names, with those of a file of one's own."""
    return FAULTS | (read_fault_file(fault_file) if fault_file else {})


def all_names(known: Mapping[str, type[Fault]] = FAULTS) -> list[str]:
    """Return the names of all faults, and of the pairs."""
    return [*known, *PAIRS]


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
