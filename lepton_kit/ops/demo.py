"""Two incidents from their beginning to their recovery and their pages, with real processes on this machine.

Real prices are replayed at a model that `lepton serve` serves, and their feed stops. After that the scoring example, a
service that the kit did not make, is asked through a proxy that makes one column ten times too large. Each time `lepton
watch` observes: alerts fire, their evidence is frozen and diagnosed, the repair is approved, the feed is restarted, the
objectives are met again, and the incident is looked back on. Both are published in the end. One follows the other so
that two cores are enough. Objectives have windows `TIME_SCALE` times shorter than usual.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.ops.drill_stages import RESTART, Declared, Served, Stage
from lepton_kit.ops.faults import find_fault
from lepton_kit.ops.watch.evidence import FOLDER
from lepton_kit.project.settings import REMEDIES_VARIABLE, SERVICES_VARIABLE, WATCH_VARIABLE, Settings, read_settings
from lepton_kit.runs.ids import short_id
from lepton_kit.runs.shipped import in_project_or_shipped

TIME_SCALE = 600  # an hour is 6 seconds
FRESH_S = 8.0  # so old may the newest data be: the load of a busy machine comes seconds late
HEALTHY_S = 15.0
OBSERVED_S = 15.0

SETTINGS = f"""
time_scale = {TIME_SCALE}
scrape_interval = 0.25
source = 'telemetry/demo-{{token}}'
workers = 1
report = false
"""
"""Of `lepton watch`: one runbook at a time and no page rendered meanwhile, so that the services have a core for
themselves and no step waits for a renderer."""

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
    """What came of one service's fault: the incident's id, the runs that it started, oldest first, and its page."""

    service: str
    incident: str
    runs: tuple[str, ...]
    page: Path


@dataclass(frozen=True)
class _Part:
    """One service of the demonstration, the variables by which settings know it, and what happens to it in words."""

    service: str
    stage: Stage
    above: Mapping[str, str]
    asked: str
    fault: str


def demonstrate(
    project: Path, announce: Callable[[str], object], model: str = "goog", example: str = "scoring"
) -> list[Demonstrated]:
    """Let the feed of a served model stop and an example's feed go wrong, and follow both to their recovery and pages.

    Parameters
    ----------
    project
        The root of a project whose registry has a promoted version of the model, and whose settings declare it.
    announce
        Called with a line for each thing that happens.
    model
        The model to serve, and the service's name in the settings.
    example
        The subject that runs beside it, as its declaration says.

    Raises
    ------
    LeptonError
        When a service or the watch does not start, a step does not come in its time, or a page cannot be made.
    """
    began = time.monotonic()

    def tell(text: str) -> None:
        announce(f"{time.monotonic() - began:5.1f} s  {text}")

    parts = _prepared(project, model, example)
    incidents = {part.service: _followed(part, project, tell) for part in parts}
    tell("the services and lepton watch are stopped; the incidents are published")
    return _published(project, incidents, parts[-1].above)


def _followed(part: _Part, project: Path, tell: Callable[[str], None]) -> Facts:
    """Let a service run, follow what its fault brings to the postmortem, stop everything, and return the incident."""
    with contextlib.ExitStack() as stack:
        tell(f"service {part.service} answers at {stack.enter_context(part.stage.running())}")
        watch = stack.enter_context(watching(project, part.above))
        hour = 3600 / TIME_SCALE
        tell(f"lepton watch observes it: status page at {watch}; an hour of the objectives takes {hour:g} s")
        stack.enter_context(part.stage.asked())
        tell(f"{part.service}: {part.asked}")
        client = stack.enter_context(httpx.Client(base_url=watch, timeout=30, trust_env=False))
        return _Course(client, project, tell, part.service).follow(part.stage.strike, part.fault)


def _prepared(project: Path, model: str, example: str) -> list[_Part]:
    """Return the two services in the order in which they are shown."""
    settings, written = read_settings(project), ""
    if example not in settings.services:
        written = in_project_or_shipped(f"subjects/{example}/declaration.toml", project).read_text(encoding="utf-8")
        settings = Settings.model_validate(tomllib.loads(written))
    served = Served(project, find_fault("stale-feed", 0), model, 0, fresh_for=FRESH_S, ratings=0.05)
    scaled = find_fault("scaled-column", 3)
    declared = Declared(project, scaled, example, settings.services[example])
    restart = _above(f"{model}.{RESTART}")
    return [
        _Part(model, served, restart, "real prices are replayed at it", "the feed of prices stops"),
        _Part(example, declared, _above(written.replace("[services.", "[")), "its own clients ask it",
              f"{scaled.description} from now on"),
    ]  # fmt: skip


def _above(services: str) -> dict[str, str]:
    return {
        WATCH_VARIABLE: SETTINGS.format(token=secrets.token_hex(3)),
        REMEDIES_VARIABLE: REMEDIES,
        SERVICES_VARIABLE: services,
    }


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
    """Follows the incidents of a service's fault by what `lepton watch` says, approves their repairs, and tells it."""

    def __init__(self, client: httpx.Client, project: Path, tell: Callable[[str], None], service: str) -> None:
        self._client, self._project, self._tell_line, self._service = client, project, tell, service
        self._healthy_since = time.monotonic()
        self._since = math.inf
        self._told: set[str] = set()
        self._last = "nothing"

    def follow(self, strike: Callable[[], None], told: str) -> Facts:
        """Let a fault begin once no alert fires, follow it to the postmortem, and return the incident of that.

        `told` is what happens, in words.

        Raises
        ------
        LeptonError
            When a step does not come within its time; the message names it and what was seen last.
        """
        self._tell(f"its fault begins once no alert of it has fired for {HEALTHY_S:g} s")
        self._wait(HEALTHY, self._is_healthy)
        self._since = time.time()
        strike()
        self._tell(told)
        self._wait(ALERTED, self._incidents)
        self._wait(DIAGNOSED, self._repairs)
        self._wait(REPAIRED, lambda status: [one for one in self._repairs(status) if one["verdict"]])
        self._wait(RECOVERED, lambda status: not self._firing(status))
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
        known = [*_of(self._service, status["recent_incidents"]), *self._firing(status)]
        since = [one for one in known if datetime.fromisoformat(one["starts_at"]).timestamp() > self._since]
        return sorted((one for one in since if one["runs"]), key=lambda one: str(one["starts_at"]))

    def _firing(self, status: Facts) -> list[Facts]:
        return _of(self._service, status["open_incidents"])

    def _repairs(self, status: Facts) -> list[Facts]:
        return [repair for one in self._incidents(status) for repair in one["remedies"]]

    def _looked_back(self, status: Facts) -> Facts | None:
        """Return the first incident whose postmortem has ended, once nothing of the service is left to run."""
        jobs = [(one, job) for one in self._incidents(status) for job in one["runs"]]
        if any(job["state"] in ("queued", "running") for _, job in jobs):
            return None
        ended = {"kind": "postmortem", "status": "succeeded"}.items()
        return next((one for one, job in jobs if ended <= job.items()), None)

    def _is_healthy(self, status: Facts) -> bool:
        if found := self._firing(status):
            self._healthy_since = time.monotonic()
            firing = ", ".join(sorted({one["name"] for one in found}))
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
            self._tell_line(f"{self._service}: {text}")


def _of(service: str, incidents: Sequence[Facts]) -> list[Facts]:
    return [one for one in incidents if one["service"] == service]


def _published(project: Path, incidents: Mapping[str, Facts], above: Mapping[str, str]) -> list[Demonstrated]:
    """Publish incidents with their runs, and return their pages; how long a renderer takes is not limited."""
    site = project / "reports" / "_site" / "incidents"
    made = [
        Demonstrated(service, one["id"], tuple(job["run_id"] for job in one["runs"] if job["run_id"]),
                     site / one["id"] / "index.html")
        for service, one in incidents.items()
    ]  # fmt: skip
    runs = [run for one in made for run in one.runs]
    _lepton(project, "pages", "publish", *runs, *(f"--incident={one.incident}" for one in made), **above)
    if missing := [one.page for one in made if not one.page.is_file()]:
        raise LeptonError(f"step 'pages': {missing[0]} was not made")
    return made


def _lepton(project: Path, step: str, *words: str, **above: str) -> None:
    command = [sys.executable, "-m", "lepton_kit.cli", *words]
    done = subprocess.run(command, cwd=project, env={**os.environ, **above}, capture_output=True, text=True)
    if done.returncode != 0:
        raise LeptonError(f"step {step!r}: lepton {' '.join(words)}: {(done.stderr or done.stdout)[-500:].strip()}")
