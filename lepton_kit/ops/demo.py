"""One incident from its beginning to its page, with real processes on this machine.

A service answers, real prices are replayed at it, its feed stops, an objective's alert fires, its evidence is frozen,
and the runbook that diagnoses it runs and is published. Objectives have windows `TIME_SCALE` times shorter than usual.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.ops.load import Injection, drive, find_arrivals
from lepton_kit.ops.services import start_service
from lepton_kit.runs.manifest import FILE, Manifest
from lepton_kit.runs.settings import WATCH_VARIABLE
from lepton_kit.serving.replay import Plan

TIME_SCALE = 600  # an hour is 6 seconds
SETTINGS = f"time_scale = {TIME_SCALE}\nscrape_interval = 0.25\nsource = 'telemetry/demo-{{token}}'\n"
FRESH_S = 4.0  # so old may the newest data be
RATE = 25.0
FAULT, FAULT_AFTER_S = "stale-feed", 15.0
DIAGNOSED_WITHIN_S = 90.0


@dataclass(frozen=True)
class Demonstrated:
    """What came of it: the incident's alert, the run that diagnosed it, and its page (None if none was rendered)."""

    alert: str
    run: Manifest
    page: Path | None


def demonstrate(project: Path, announce: Callable[[str], object], model: str = "goog") -> Demonstrated:
    """Let a served model's feed stop, and follow the alert to its diagnosis.

    Parameters
    ----------
    project
        The root of a project whose registry has a promoted version of the model, and whose settings route its alerts.
    announce
        Told in a line what happens.
    model
        The model to serve, and the service's name in the settings.

    Raises
    ------
    LeptonError
        When the service or the watch does not start, or no alert was diagnosed within `DIAGNOSED_WITHIN_S`.
    """
    began = time.monotonic()

    def tell(text: str) -> None:
        announce(f"{time.monotonic() - began:5.1f} s  {text}")

    with contextlib.ExitStack() as stack:
        service = start_service(project, model, workers=2, fresh_for=FRESH_S)
        stack.callback(service.stop)
        tell(f"service {model} answers at {service.address} (2 workers)")
        watch = stack.enter_context(_watching(project))
        tell(f"lepton watch observes it: status page at {watch}")
        stack.enter_context(_load(model, project))
        tell(f"real prices are replayed at it, {RATE:g} requests a second; after {FAULT_AFTER_S:g} s the feed stops")
        alert, run_id = _diagnosed(watch, model, tell)
        made = Manifest.load(project / "runs" / run_id / FILE)
        cause, confidence = (made.results[name].value for name in ("cause", "confidence"))
        tell(f"diagnosis: cause {cause} (confidence: {confidence}); next: {made.results['next_action'].value}")
    page = project / "reports" / "_site" / "runs" / made.run_id / "index.html"
    return Demonstrated(alert, made, page if page.is_file() else None)


@contextlib.contextmanager
def _watching(project: Path) -> Iterator[str]:
    """Run `lepton watch` on a free port, with a store of its own, and yield its address."""
    written = project / "incidents" / "address"
    if written.exists():
        raise InputError(f"lepton watch runs here already ({written.read_text().strip()}): stop it first")
    environment = {**os.environ, WATCH_VARIABLE: SETTINGS.format(token=secrets.token_hex(3))}
    written.parent.mkdir(exist_ok=True)
    with (written.parent / "demo.log").open("w") as log:
        command = [sys.executable, "-m", "lepton_kit.cli", "watch", "--port", "0"]
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not written.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise LeptonError(f"lepton watch did not start: {(written.parent / 'demo.log').read_text()[-500:]}")
            time.sleep(0.05)
        yield written.read_text().strip()
    finally:
        process.terminate()
        process.wait(90)


@contextlib.contextmanager
def _load(model: str, project: Path) -> Iterator[None]:
    """Replay prices in a thread of this process, which ends with it."""
    arrivals = find_arrivals(project, seed=0, rate=RATE)
    plan = Plan(arrivals, FAULT_AFTER_S + DIAGNOSED_WITHIN_S, 1_000_000, feedback_after=1.0, ratings=0.05, seed=0)
    arguments = (model, project, plan, "sample:goog", Injection(FAULT, FAULT_AFTER_S))
    threading.Thread(target=drive, args=arguments, daemon=True).start()
    yield


def _diagnosed(watch: str, model: str, tell: Callable[[str], None]) -> tuple[str, str]:
    """Wait until the first alert's runbook has succeeded and its page was rendered; return alert and run id."""
    deadline = time.monotonic() + FAULT_AFTER_S + DIAGNOSED_WITHIN_S
    told: set[str] = set()

    def tell_once(text: str) -> None:
        if text not in told:
            told.add(text)
            tell(text)

    with httpx.Client(base_url=watch, timeout=10, trust_env=False) as client:
        while time.monotonic() < deadline:
            status = client.get("/status.json").json()
            for incident in reversed(status["open_incidents"]):
                tell_once(f"alert {incident['name']} ({incident['severity']}) fires: {incident['summary']}")
                for job in incident["runs"]:
                    tell_once(f"runbook {job['notebook']} was started on the incident's recording")
                    if job["error"]:
                        raise LeptonError(f"the incident was not diagnosed: {job['error']}")
                    ended = job["status"] == "succeeded"  # one that began too early has too few requests to judge
                    if ended and (job["page"] or "report site" in status["problems"]):
                        return incident["name"], job["run_id"]
            time.sleep(0.2)
    raise LeptonError(f"no alert of {model!r} was diagnosed within {DIAGNOSED_WITHIN_S:g} s of the fault")
