"""One incident from its beginning to its recovery and its page, with real processes on this machine.

A service answers, real prices are replayed at it, its feed stops, an alert fires, its evidence is frozen and diagnosed,
the repair is approved, the feed is restarted, the objectives are met again, and the incident is looked back on and
published. Objectives have windows `TIME_SCALE` times shorter than usual.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.ops.faults import find_fault
from lepton_kit.ops.load import find_arrivals, loaded
from lepton_kit.ops.services import start_service
from lepton_kit.ops.watch.evidence import FOLDER
from lepton_kit.project.settings import REMEDIES_VARIABLE, SERVICES_VARIABLE, WATCH_VARIABLE
from lepton_kit.runs.ids import short_id
from lepton_kit.serving.replay import Plan

TIME_SCALE = 600  # an hour is 6 seconds
FRESH_S = 8.0  # so old may the newest data be: the load of a busy machine comes seconds late
RATE = 25.0
FAULT, HEALTHY_S = "stale-feed", 15.0
OBSERVED_S = 15.0
LOAD_S = 3600.0  # of load at most: it ends with the demonstration
RESTARTED = f"{FOLDER}/demo-feed-restarted"
"""The file that stands for the feed's supervisor: the command that restarts the feed makes it."""

SETTINGS = f"""
time_scale = {TIME_SCALE}
scrape_interval = 0.25
source = 'telemetry/demo-{{token}}'
workers = 1
report = false
"""
"""Of `lepton watch`: one runbook at a time and no page rendered meanwhile, so that the service has a core for itself
and no step waits for a renderer."""

REMEDIES = f"""
[data]
policy = "ask"
parameters = {{ observe_seconds = {OBSERVED_S} }}
[compute]
parameters = {{ observe_seconds = {OBSERVED_S} }}
[model]
parameters = {{ observe_seconds = {OBSERVED_S} }}
"""

APPROVED_BY, WHY = "lepton demo", "given by the demonstration, in the place of a person"
Facts = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """Something that is waited for, and how many seconds after the step before it."""

    name: str
    within_s: float


STARTED_S = 240.0
HEALTHY = Step("a service without alerts", 240.0)
ALERTED = Step("alert", 120.0)
DIAGNOSED = Step("diagnosis", 240.0)
REPAIRED = Step("repair", 240.0)
RECOVERED = Step("recovery of all objectives", 240.0)
LOOKED_BACK = Step("postmortem", 240.0)


@dataclass(frozen=True)
class Demonstrated:
    """What came of it: the incident's id, the runs that it started, oldest first, and its page."""

    incident: str
    runs: tuple[str, ...]
    page: Path


def demonstrate(project: Path, announce: Callable[[str], object], model: str = "goog") -> Demonstrated:
    """Let a served model's feed stop, and follow the alert to the recovery and the incident's page.

    Parameters
    ----------
    project
        The root of a project whose registry has a promoted version of the model, and whose settings route its alerts.
    announce
        Called with a line for each thing that happens.
    model
        The model to serve, and the service's name in the settings.

    Raises
    ------
    LeptonError
        When the service or the watch does not start, a step does not come in its time, or the page cannot be made.
    """
    began = time.monotonic()

    def tell(text: str) -> None:
        announce(f"{time.monotonic() - began:5.1f} s  {text}")

    above = {
        WATCH_VARIABLE: SETTINGS.format(token=secrets.token_hex(3)),
        REMEDIES_VARIABLE: REMEDIES,
        SERVICES_VARIABLE: f"{model}.actions.restart_feed = ['touch', '{RESTARTED}']",
    }
    with contextlib.ExitStack() as stack:
        service = start_service(project, model, workers=2, fresh_for=FRESH_S, seconds=STARTED_S)
        stack.callback(service.stop)
        tell(f"service {model} answers at {service.address} (2 workers)")
        (project / FOLDER).mkdir(exist_ok=True)
        (project / RESTARTED).unlink(missing_ok=True)
        plan = Plan(find_arrivals(project, 0, rate=RATE), seconds=LOAD_S, feedback_after=1.0, ratings=0.05)
        strikes = threading.Event()
        stack.enter_context(loaded(service.folder, plan, find_fault(FAULT, 0), strikes, project / RESTARTED))
        tell(f"real prices are replayed at it, {RATE:g} requests a second")
        watch = stack.enter_context(watching(project, above))
        tell(
            f"lepton watch observes it: status page at {watch}; an hour of the objectives takes {3600 / TIME_SCALE:g} s"
        )
        with httpx.Client(base_url=watch, timeout=10, trust_env=False) as client:
            incident = _Course(client, project, tell).follow(strikes)
    tell("the service and lepton watch are stopped; the incident is published")
    runs = tuple(job["run_id"] for job in incident["runs"] if job["run_id"])
    return Demonstrated(incident["id"], runs, _publish(project, incident["id"], runs, above))


@contextlib.contextmanager
def watching(project: Path, above: Mapping[str, str]) -> Iterator[str]:
    """Run `lepton watch` on a free port, with variables of its own, and yield its address."""
    written = project / FOLDER / "address"
    if written.exists() and _answers(written.read_text().strip()):
        raise InputError(f"lepton watch runs here already ({written.read_text().strip()}): stop it first")
    written.unlink(missing_ok=True)  # of one that was killed
    written.parent.mkdir(exist_ok=True)
    with (written.parent / "demo.log").open("w") as log:
        command = [sys.executable, "-m", "lepton_kit.cli", "watch", "--port", "0"]
        process = subprocess.Popen(command, cwd=project, env={**os.environ, **above}, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + STARTED_S
        while not written.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                said = (written.parent / "demo.log").read_text()[-500:]
                raise LeptonError(f"step 'lepton watch': did not start within {STARTED_S:g} s; it said: {said}")
            time.sleep(0.05)
        yield written.read_text().strip()
    finally:
        process.terminate()
        process.wait(90)


def _answers(address: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{address}/healthz", timeout=5, trust_env=False).status_code == 200
    return False


class _Course:
    """Follows the incidents of a fault by what `lepton watch` says, approves their repairs, and tells what is new."""

    def __init__(self, client: httpx.Client, project: Path, tell: Callable[[str], None]) -> None:
        self._client, self._project, self._tell_line = client, project, tell
        self._healthy_since = time.monotonic()
        self._since = math.inf
        self._told: set[str] = set()
        self._last = "nothing"

    def follow(self, strikes: threading.Event) -> Facts:
        """Let the fault begin once no alert fires, follow it to the postmortem, and return the incident of that.

        Raises
        ------
        LeptonError
            When a step does not come within its time; the message names it and what was seen last.
        """
        self._tell(f"the feed stops once no alert has fired for {HEALTHY_S:g} s")
        self._wait(HEALTHY, self._is_healthy)
        self._since = time.time()
        strikes.set()
        self._tell("the feed of prices stops")
        self._wait(ALERTED, self._incidents)
        self._wait(DIAGNOSED, self._repairs)
        self._wait(REPAIRED, lambda status: [one for one in self._repairs(status) if one["verdict"]])
        self._wait(RECOVERED, lambda status: status["open"] == 0)
        self._tell("all objectives are met again: no alert fires")
        return self._wait(LOOKED_BACK, self._looked_back)

    def _wait(self, step: Step, answer: Callable[[Facts], T | None]) -> T:
        """Return what a step waits for, as soon as it is there."""
        deadline = time.monotonic() + step.within_s
        while time.monotonic() < deadline:
            status = self._client.get("/status.json").json()
            for incident in self._incidents(status):
                self._narrate(incident)
            if found := answer(status):
                return found
            time.sleep(0.2)
        raise LeptonError(
            f"step {step.name!r}: did not come within {step.within_s:g} s; the last that was seen: {self._last} "
            f"(logs: {self._project / FOLDER / 'demo.log'})"
        )

    def _incidents(self, status: Facts) -> list[Facts]:
        """Return the incidents since the fault that started runs, oldest first; others have these ones' runs."""
        known = [*status["recent_incidents"], *status["open_incidents"]]
        since = [one for one in known if datetime.fromisoformat(one["starts_at"]).timestamp() > self._since]
        return sorted((one for one in since if one["runs"]), key=lambda one: str(one["starts_at"]))

    def _repairs(self, status: Facts) -> list[Facts]:
        return [repair for one in self._incidents(status) for repair in one["remedies"]]

    def _looked_back(self, status: Facts) -> Facts | None:
        """Return the first incident whose postmortem has ended, once nothing is left to run."""
        if status["queue"]["queued"] or status["queue"]["running"]:
            return None
        ended = {"kind": "postmortem", "status": "succeeded"}.items()
        return next((one for one in self._incidents(status) for job in one["runs"] if ended <= job.items()), None)

    def _is_healthy(self, status: Facts) -> bool:
        if status["open"]:
            self._healthy_since = time.monotonic()
            firing = ", ".join(sorted({one["name"] for one in status["open_incidents"]}))
            self._last = f"alerts fire before anything was done: {firing}"
        return time.monotonic() - self._healthy_since >= HEALTHY_S

    def _narrate(self, incident: Facts) -> None:
        self._tell(f"alert {incident['name']} ({incident['severity']}) fires: {incident['summary']}")
        for job in incident["runs"]:
            self._narrate_run(job)
        for repair in incident["remedies"]:
            if repair["state"] == "waiting":
                self._approve(incident["id"], repair)
            elif repair["verdict"]:
                self._tell(f"repair of the {repair['cause']}: {repair['verdict']}")
        if incident["status"] == "resolved":
            self._tell(f"alert {incident['name']} ({incident['severity']}) has ended")

    def _narrate_run(self, job: Facts) -> None:
        if job["error"]:
            self._tell(f"runbook {job['notebook']}: {job['error']}")
        if job["state"] == "running":
            self._tell(f"runbook {job['notebook']} runs")
        found = job["results"]
        if job["kind"] == "alert" and "cause" in found:
            probability = found.get("probability", 0)
            self._tell(f"diagnosis: cause {found['cause']} (probability {probability:.0%}); {found['next_action']}")
        if job["kind"] == "remedy" and "action" in found:
            self._tell(f"done by {job['notebook']}: {found['action']}")

    def _approve(self, incident: str, repair: Facts) -> None:
        """Say yes by the command by which a person does."""
        short = short_id(incident)
        self._tell(f"{repair['notebook']} waits for a yes on incident {short}: {repair['why']}")
        words = ["approve", incident, "--cause", repair["cause"], "--by", APPROVED_BY, "--note", WHY]
        _lepton(self._project, "approval", *words)
        self._tell(f"approved by this demonstration in your place (by hand: lepton approve {short})")

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._last = text
            self._tell_line(text)


def _publish(project: Path, incident: str, runs: tuple[str, ...], above: Mapping[str, str]) -> Path:
    """Publish an incident with its runs, and return its page; how long a renderer takes is not limited."""
    _lepton(project, "page", "publish", *runs, "--incident", incident, **above)
    page = project / "reports" / "_site" / "incidents" / incident / "index.html"
    if not page.is_file():
        raise LeptonError(f"step 'page': {page} was not made")
    return page


def _lepton(project: Path, step: str, *words: str, **above: str) -> None:
    command = [sys.executable, "-m", "lepton_kit.cli", *words]
    done = subprocess.run(command, cwd=project, env={**os.environ, **above}, capture_output=True, text=True)
    if done.returncode != 0:
        raise LeptonError(f"step {step!r}: lepton {' '.join(words)}: {(done.stderr or done.stdout)[-500:].strip()}")
