"""Drills with real processes: a service over HTTP, real prices replayed at it, `lepton watch`, and what it starts.

Each drill has a project of its own under `drills/`, a copy of what it needs of this one: a bad version that a fault
registers, and what repairs do, stays there. Objectives have windows that are `TIME_SCALE` times shorter than usual, and
the policy of every remedy is `auto`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lepton_kit.diagnosis.remedies import REMEDIES
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.ops.drill_stages import Stage, declared, following, served
from lepton_kit.ops.drills import Drill, Drilled, Tell, verdict_of
from lepton_kit.ops.faults import FAULTS, Fault, find_fault
from lepton_kit.ops.following import ALERTED, DIAGNOSED, LOOKED_BACK, REPAIRED, Seen, StepMissedError
from lepton_kit.project.settings import REMEDIES_VARIABLE, WATCH_VARIABLE

HEALTHY_S = 30.0
"""Seconds without any alert before the fault."""

TIME_SCALE = 300
WATCH = f"time_scale = {TIME_SCALE}\nscrape_interval = 0.5\nsource = 'telemetry/drill'\n"


def live_names(known: Mapping[str, type[Fault]] = FAULTS, service: str | None = None) -> list[str]:
    """Return the faults that what `lepton serve` runs can have, or a declared service behind a proxy.

    >>> "memory-leak" in live_names(), "cpu-taken" in live_names()
    (False, True)
    """
    return [name for name, fault in known.items() if _can_have(fault, service)]


def _can_have(fault: Fault | type[Fault], service: str | None) -> bool:
    return fault.live if service is None else fault.proxied


def drill_live(
    drills: Sequence[Drill],
    project: Path,
    known: Mapping[str, type[Fault]],
    tell: Tell,
    model: str = "goog",
    service: str | None = None,
) -> Iterator[Drilled]:
    """Go through live drills one after the other.

    Parameters
    ----------
    drills
        What to drill; a severity of None is the fault's usual one.
    project
        A project with a promoted version of the model.
    known
        The faults that there are.
    tell
        Called with a line for each step.
    model
        The model that `lepton serve` serves.
    service
        A declared service that is drilled in its place: it runs itself, and the faults are those of a proxy before it.

    Raises
    ------
    InputError
        When a fault has no live form, or the project lacks what a drill needs.
    """
    faults = [find_fault(drill.fault, drill.seed, drill.severity, known) for drill in drills]
    for fault in faults:
        if not _can_have(fault, service):
            known_here = ", ".join(live_names(known, service))
            raise InputError(f"fault {fault.name!r}: has no live form here; simulate it, or drill {known_here}")
    for drill, fault in zip(drills, faults, strict=True):
        tell(f"— {fault.name} ({fault.severity:.2f}): {fault.description}")
        stage = served(project, drill, fault, model) if service is None else declared(project, fault, service)
        yield _drilled(drill, stage, tell)


def _drilled(drill: Drill, stage: Stage, tell: Tell) -> Drilled:
    """Start everything, follow the fault to its postmortem, and stop everything."""
    began, error, is_false_alarm = time.monotonic(), "", False

    def tell_of(text: str) -> None:
        tell(f"{time.monotonic() - began:6.1f} s  {text}")

    above = {REMEDIES_VARIABLE: stage.remedies, WATCH_VARIABLE: WATCH, "LEPTON_PROJECT": str(stage.project)}
    with following(stage, above, tell_of) as follower:
        try:
            follower.inject(stage.inject, HEALTHY_S)
            tell_of(f"the fault has begun: {stage.fault.name}")
            follower.follow(ALERTED, DIAGNOSED, REPAIRED, LOOKED_BACK)
        except StepMissedError as missed:
            is_false_alarm = follower.seen.injected is None
            tell_of(str(missed))
            if follower.seen.repaired is not None:
                error = str(missed)
        except LeptonError as failed:
            error = str(failed)
            tell_of(f"error: {error}")
    return _result(drill, stage, follower.seen, error, is_false_alarm)


def _result(drill: Drill, stage: Stage, seen: Seen, error: str, is_false_alarm: bool) -> Drilled:
    fault, cause = stage.fault, str(seen.diagnosis.get("cause", "unknown"))
    recovery = str(seen.repair.get("verdict", ""))
    alerted, has_acted = seen.alerted is not None, bool(seen.repair)

    def since(end: float | None) -> float | None:
        return None if end is None or seen.injected is None else round(end - seen.injected, 1)

    return Drilled(
        fault=fault.name,
        severity=fault.severity,
        seed=drill.seed,
        kind="live",
        causes=tuple(sorted(fault.causes)),
        alert="false alarm" if is_false_alarm else seen.alert,
        detected_after=since(seen.alerted),
        cause=cause,
        also=tuple(seen.diagnosis.get("also", ())),
        probability=float(seen.diagnosis.get("probability", 0.0)),
        confidence=str(seen.diagnosis.get("confidence", "none")),
        diagnosed_after=since(seen.diagnosed) or 0.0,
        remedy=REMEDIES.get(cause, ""),  # type: ignore[call-overload]
        actions=(str(seen.repair.get("action", "")),) if has_acted else (),
        recovery=recovery,
        recovered_after=since(seen.repaired) if recovery == "recovered" else None,
        verdict=verdict_of(fault.causes, cause, alerted, has_acted, recovery, is_false_alarm),
        error=error,
        extra={
            "project": str(stage.project),
            "postmortem": str(stage.project / "runs" / seen.postmortem) if seen.postmortem else "",
        },
    )
