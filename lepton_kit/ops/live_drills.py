"""Drills with real processes: a service over HTTP, real prices replayed at it, `lepton watch`, and what it starts.

Each drill has a project of its own under `drills/`, a copy of what it needs of this one: a bad version that a fault
registers, and what repairs do, stays there. Objectives have windows that are `TIME_SCALE` times shorter than usual, and
the policy of every remedy is `auto`.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from lepton_kit.diagnosis.remedies import REMEDIES
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.ops.demo import RATE, watching
from lepton_kit.ops.drills import Drill, Drilled
from lepton_kit.ops.faults import FAULTS, Fault, find_fault
from lepton_kit.ops.load import find_arrivals, loaded
from lepton_kit.ops.services import start_service
from lepton_kit.project.settings import REMEDIES_VARIABLE, WATCH_VARIABLE
from lepton_kit.reports.cards import KINDS
from lepton_kit.serving.replay import Plan

HEALTHY_S, HEALTHY_WITHIN_S = 30.0, 240.0
"""Seconds without any alert before the fault, and how long they are waited for."""

ALERT_WITHIN_S, REPAIRED_WITHIN_S, LOOKED_BACK_WITHIN_S = 120.0, 300.0, 300.0
"""Seconds from the fault to its alert, from there to the end of the repair, and to the postmortem."""

LOAD_S = HEALTHY_WITHIN_S + ALERT_WITHIN_S + REPAIRED_WITHIN_S + LOOKED_BACK_WITHIN_S
OBSERVED_S, FRESH_S, WORKERS = 20.0, 4.0, 2
RESTARTED = "feed-restarted"
"""The file that stands for the feed's supervisor: the command that restarts the feed makes it."""

COPIED = ("models", "runbooks", "slo", "reports", "notebooks")
TIME_SCALE = 300
WATCH = f"time_scale = {TIME_SCALE}\nscrape_interval = 0.5\nsource = 'telemetry/drill'\n"
ROOM = max(WORKERS + 1, os.cpu_count() or 1)
"""Workers that a repair may ask for: those beyond the machine's cores would take turns, and add hardly anything."""

IN_TIME_S = 0.02
"""A fifth of what the objective of the latency allows: load, flood and watch share the cores with the workers, so that
a request takes several times as long as a worker is busy with it."""

AUTO = f"""
most_per_hour = 100
least_probability = 0.5
[data]
policy = "auto"
parameters = {{ observe_seconds = {OBSERVED_S} }}
[model]
policy = "auto"
parameters = {{ observe_seconds = {OBSERVED_S} }}
[compute]
policy = "auto"
parameters = {{ observe_seconds = {OBSERVED_S}, most_workers = {ROOM}, in_time = {IN_TIME_S} }}
"""

Tell = Callable[[str], object]


def live_names(known: Mapping[str, type[Fault]] = FAULTS) -> list[str]:
    """Return the faults that a running service can have.

    >>> "memory-leak" in live_names(), "cpu-taken" in live_names()
    (False, True)
    """
    return [name for name, fault in known.items() if fault.live]


def drill_live(
    drills: Sequence[Drill], project: Path, known: Mapping[str, type[Fault]], tell: Tell, model: str = "goog"
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
        The model to serve.

    Raises
    ------
    InputError
        When a fault has no live form, or the project lacks what a drill needs.
    """
    faults = [find_fault(drill.fault, drill.seed, drill.severity, known) for drill in drills]
    for fault in faults:
        if not fault.live:
            raise InputError(f"fault {fault.name!r}: has no live form; drill it with --simulated")
    for drill, fault in zip(drills, faults, strict=True):
        tell(f"— {fault.name} ({fault.severity:.2f}): {fault.description}")
        yield _LiveCourse(drill, fault, drill_project(project, fault.name, model), model, tell).run()


def drill_project(project: Path, name: str, model: str) -> Path:
    """Make a project for a drill under `drills/` of another one, and return it.

    Raises
    ------
    InputError
        When there is no such model, or lepton.toml has no section of a service of its name.
    """
    if not (project / "models" / model).is_dir():
        raise InputError(f"model {model!r}: not in {project / 'models'}; train one with `lepton pipeline goog`")
    settings = (project / "lepton.toml").read_text(encoding="utf-8")
    heading = f"[services.{model}]\n"
    service = tomllib.loads(settings).get("services", {}).get(model)
    if service is None or heading not in settings:
        raise InputError(f"{project / 'lepton.toml'}: has no section {heading.strip()}, which a live drill needs")
    made = project / "drills" / f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{name.replace('+', '-and-')}"
    made.mkdir(parents=True)
    if "restart_feed" not in service.get("actions", {}):
        settings = settings.replace(heading, f'{heading}actions.restart_feed = ["touch", "{RESTARTED}"]\n')
    (made / "lepton.toml").write_text(settings, encoding="utf-8")
    left = ("_site", "_freeze", "__pycache__", ".ipynb_checkpoints", "runs")
    published = (*KINDS, "listings")  # of this project: the drill's site shows its own incidents alone
    for part in COPIED:
        if (project / part).is_dir():
            ignored = shutil.ignore_patterns(*left, *(published if part == "reports" else ()))
            shutil.copytree(project / part, made / part, ignore=ignored)
    return made


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


class _LiveCourse:
    """One live drill."""

    def __init__(self, drill: Drill, fault: Fault, project: Path, model: str, tell: Tell) -> None:
        self._drill, self._fault, self._project, self._model = drill, fault, project, model
        self._began = time.monotonic()
        self._tell_line = tell
        self._told: set[str] = set()
        self._strikes = threading.Event()
        self._struck_at = self._struck = math.inf  # of the monotonic clock, and of the wall clock

    def run(self) -> Drilled:
        """Start everything, follow the incident, and stop everything."""
        seen = _Seen()
        with contextlib.ExitStack() as stack:
            service = start_service(self._project, self._model, workers=WORKERS, fresh_for=FRESH_S)
            stack.callback(service.stop)
            more = {REMEDIES_VARIABLE: AUTO, WATCH_VARIABLE: WATCH, "LEPTON_PROJECT": str(self._project)}
            watch = stack.enter_context(watching(self._project, more))
            self._tell(f"service at {service.address}, lepton watch at {watch}")
            plan = Plan(find_arrivals(self._project, self._drill.seed, rate=RATE), seconds=LOAD_S, feedback_after=1.0)
            restarted = self._project / RESTARTED
            stack.enter_context(loaded(service.folder, plan, self._fault, self._strikes, restarted))
            try:
                with httpx.Client(base_url=watch, timeout=30, trust_env=False) as client:
                    if self._is_healthy(client):
                        self._strike()
                        self._follow(client, seen)
                    else:
                        seen.alert = "false alarm"
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
        self._strikes.set()

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
        while time.monotonic() < self._deadline(seen) and not seen.page:
            status = self._status(client)
            for incident in [*status.get("recent_incidents", ()), *status.get("open_incidents", ())]:
                if datetime.fromisoformat(incident["starts_at"]).timestamp() > self._struck:
                    self._see(incident, seen)
            time.sleep(0.3)

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
            verdict=self._verdict(seen, cause, recovery),
            error=seen.error,
            extra={"project": str(self._project), "postmortem": seen.page},
        )

    def _verdict(self, seen: _Seen, cause: str, recovery: str) -> str:
        if seen.alert == "false alarm":
            return "false alarm"
        if seen.alerted is None:
            return "unnoticed"
        if cause == "unknown":
            return "asked a person"
        if cause not in self._fault.causes:
            return "wrong cause"
        return "recovered" if recovery == "recovered" else "not recovered"


def _since(start: float, end: float | None) -> float | None:
    return None if end is None else round(end - start, 1)
