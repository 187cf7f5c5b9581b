"""Drills with real processes: a service over HTTP, real prices replayed at it, `lepton watch`, and what it starts.

Each drill has a project of its own under `drills/`, a copy of what it needs of this one: a bad version that a fault
registers, and what repairs do, stays there. Objectives have windows that are `TIME_SCALE` times shorter than usual, and
the policy of every remedy is `auto`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from lepton_kit.diagnosis.remedies import REMEDIES
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.ops.demo import watching
from lepton_kit.ops.drill_stages import Stage, declared, served
from lepton_kit.ops.drills import Drill, Drilled, Tell, verdict_of
from lepton_kit.ops.faults import FAULTS, Fault, find_fault
from lepton_kit.project.settings import REMEDIES_VARIABLE, WATCH_VARIABLE

HEALTHY_S, HEALTHY_WITHIN_S = 30.0, 240.0
"""Seconds without any alert before the fault, and how long they are waited for."""

ALERT_WITHIN_S, REPAIRED_WITHIN_S, LOOKED_BACK_WITHIN_S = 120.0, 300.0, 300.0
"""Seconds from the fault to its alert, from there to the end of the repair, and to the postmortem."""

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
        What shall be drilled; a severity of None is the fault's usual one.
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
        yield _LiveCourse(drill, stage, tell).run()


@dataclass
class _Seen:
    """What was seen of an incident so far; times of the monotonic clock."""

    alert: str = ""
    alerted: float | None = None
    diagnosis: Mapping[str, Any] | None = None
    diagnosed: float | None = None
    repair: Mapping[str, Any] | None = None
    repaired: float | None = None
    page: str = ""
    error: str = ""
    is_false_alarm: bool = False


class _LiveCourse:
    """One live drill."""

    def __init__(self, drill: Drill, stage: Stage, tell: Tell) -> None:
        self._drill, self._stage, self._fault, self._project = drill, stage, stage.fault, stage.project
        self._began = time.monotonic()
        self._tell_line = tell
        self._told: set[str] = set()
        self._struck_at = self._struck = math.inf  # of the monotonic clock, and of the wall clock

    def run(self) -> Drilled:
        """Start everything, follow the incident, and stop everything."""
        seen = _Seen()
        with contextlib.ExitStack() as stack:
            address = stack.enter_context(self._stage.running())
            above = {REMEDIES_VARIABLE: self._stage.remedies, WATCH_VARIABLE: WATCH}
            watch = stack.enter_context(watching(self._project, {**above, "LEPTON_PROJECT": str(self._project)}))
            self._tell(f"service at {address}, lepton watch at {watch}")
            stack.enter_context(self._stage.asked())
            try:
                with httpx.Client(base_url=watch, timeout=30, trust_env=False) as client:
                    if self._is_healthy(client):
                        self._strike()
                        self._follow(client, seen)
                    else:
                        seen.alert, seen.is_false_alarm = "false alarm", True
            except LeptonError as error:
                seen.error = str(error)
                self._tell(f"error: {error}")
        return self._drilled(seen)

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell_line(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def _is_healthy(self, client: httpx.Client) -> bool:
        """Wait until no alert has fired for a while; say whether that came."""
        healthy_since = began = time.monotonic()
        while (now := time.monotonic()) - healthy_since < HEALTHY_S:
            if now - began > HEALTHY_WITHIN_S:
                return False
            if self._status(client).get("open", 1):  # what cannot be asked is not known to be healthy
                self._tell("an alert fires before anything was done: the drill waits for its end")
                healthy_since = now
            time.sleep(0.5)
        return True

    def _strike(self) -> None:
        """Let the fault begin, with the next request."""
        self._struck_at, self._struck = time.monotonic(), time.time()
        self._tell(f"the fault begins: {self._fault.name}")
        self._stage.strike()

    def _status(self, client: httpx.Client) -> Mapping[str, Any]:
        """Return what `lepton watch` says; nothing where it has no answer now, and is asked again later."""
        try:
            answer = client.get("/status.json")
        except httpx.HTTPError as error:
            self._tell(f"lepton watch does not answer: {type(error).__name__}")
            return {}
        if not answer.is_success:
            self._tell(f"lepton watch answers {answer.status_code}: {answer.text[:300]}")
            return {}
        said: Mapping[str, Any] = answer.json()
        return said

    def _follow(self, client: httpx.Client, seen: _Seen) -> None:
        """Follow the incidents of the fault to a postmortem, or until the time for the next step is over."""
        status: Mapping[str, Any] = {}
        while time.monotonic() < self._deadline(seen) and not seen.page:
            status = self._status(client)
            for incident in [*status.get("recent_incidents", ()), *status.get("open_incidents", ())]:
                if datetime.fromisoformat(incident["starts_at"]).timestamp() > self._struck:
                    self._see(incident, seen)
            time.sleep(0.3)
        if seen.repaired is not None and not seen.page:
            fires = ", ".join(sorted({str(one["name"]) for one in status.get("open_incidents", ())})) or "nothing"
            seen.error = f"no postmortem {LOOKED_BACK_WITHIN_S:g} s after the repair; open at that time: {fires}"

    def _deadline(self, seen: _Seen) -> float:
        if seen.repaired is not None:
            return seen.repaired + LOOKED_BACK_WITHIN_S
        if seen.alerted is not None:
            return seen.alerted + REPAIRED_WITHIN_S
        return self._struck_at + ALERT_WITHIN_S

    def _see(self, incident: Mapping[str, Any], seen: _Seen) -> None:
        now = time.monotonic()
        if seen.alerted is None:
            seen.alert, seen.alerted = incident["name"], now
            self._tell(f"alert {incident['name']} ({incident['severity']}): {incident['summary']}")
        for job in incident["runs"]:
            found = job["results"]
            if job["error"] and job["kind"] != "postmortem":
                self._tell(f"run of {job['notebook']}: {job['error']}")
            if "cause" in found and job["kind"] == "alert":
                self._tell(f"diagnosis: {found['cause']} (probability {found.get('probability', 0):.2f})")
                if seen.repair is None and found != seen.diagnosis:  # what is believed when the repair begins
                    seen.diagnosis, seen.diagnosed = found, now
            if "verdict" in found and job["kind"] == "remedy":
                self._tell(f"remedy: {found['action']} → {found['verdict']}")
                if seen.repair is None or seen.repair["verdict"] != "recovered":
                    seen.repair, seen.repaired = found, now
            if job["kind"] == "postmortem" and job["state"] == "ended":
                if job["status"] != "succeeded":
                    raise LeptonError(f"postmortem {job['run_id']}: {job['status']}")
                seen.page = str(self._project / "runs" / str(job["run_id"]))
                self._tell(f"postmortem: {job['page'] or seen.page}")

    def _drilled(self, seen: _Seen) -> Drilled:
        found, repair = seen.diagnosis or {}, seen.repair or {}
        cause = str(found.get("cause", "unknown"))
        recovery = str(repair.get("verdict", ""))
        return Drilled(
            fault=self._fault.name,
            severity=self._fault.severity,
            seed=self._drill.seed,
            kind="live",
            causes=tuple(sorted(self._fault.causes)),
            alert=seen.alert,
            detected_after=_since(self._struck_at, seen.alerted),
            cause=cause,
            also=tuple(found.get("also", ())),
            probability=float(found.get("probability", 0.0)),
            confidence=str(found.get("confidence", "none")),
            diagnosed_after=_since(self._struck_at, seen.diagnosed) or 0.0,
            remedy=REMEDIES.get(cause, ""),  # type: ignore[call-overload]
            actions=(str(repair["action"]),) if repair else (),
            recovery=recovery,
            recovered_after=_since(self._struck_at, seen.repaired) if recovery == "recovered" else None,
            verdict=verdict_of(
                self._fault.causes, cause, seen.alerted is not None, bool(repair), recovery, seen.is_false_alarm
            ),
            error=seen.error,
            extra={"project": str(self._project), "postmortem": seen.page},
        )


def _since(start: float, end: float | None) -> float | None:
    return None if end is None else round(end - start, 1)
