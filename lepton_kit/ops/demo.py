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
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.ops.services import start_service
from lepton_kit.ops.watch.evidence import FOLDER
from lepton_kit.runs.manifest import FILE, Manifest
from lepton_kit.runs.settings import WATCH_VARIABLE

TIME_SCALE = 600  # an hour is 6 seconds
SETTINGS = f"time_scale = {TIME_SCALE}\nscrape_interval = 0.25\nsource = 'telemetry/demo-{{token}}'\n"
FRESH_S = 4.0  # so old may the newest data be
RATE = 25.0
FAULT, FAULT_AFTER_S = "stale-feed", 15.0
DIAGNOSED_WITHIN_S = 90.0


@dataclass(frozen=True)
class Demonstrated:
    """What came of it: the run that diagnosed the incident, and its page (None if none was rendered)."""

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
        watch = stack.enter_context(watching(project))
        tell(f"lepton watch observes it: status page at {watch}")
        stack.enter_context(_load(model, project))
        tell(f"real prices are replayed at it, {RATE:g} requests a second; after {FAULT_AFTER_S:g} s the feed stops")
        run_id = _diagnosed(watch, model, tell)
        made = Manifest.load(project / "runs" / run_id / FILE)
        cause, confidence = (made.results[name].value for name in ("cause", "confidence"))
        tell(f"diagnosis: cause {cause} (confidence: {confidence}); next: {made.results['next_action'].value}")
    page = project / "reports" / "_site" / "runs" / made.run_id / "index.html"
    return Demonstrated(made, page if page.is_file() else None)


@contextlib.contextmanager
def watching(project: Path, more: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run `lepton watch` on a free port, with a store and more variables of its own, and yield its address."""
    written = project / FOLDER / "address"
    if written.exists() and _answers(written.read_text().strip()):
        raise InputError(f"lepton watch runs here already ({written.read_text().strip()}): stop it first")
    written.unlink(missing_ok=True)  # of one that was killed
    environment = {**os.environ, WATCH_VARIABLE: SETTINGS.format(token=secrets.token_hex(3)), **(more or {})}
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


def _answers(address: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{address}/healthz", timeout=5, trust_env=False).status_code == 200
    return False


@contextlib.contextmanager
def _load(model: str, project: Path) -> Iterator[None]:
    """Replay prices with a fault of the feed, until the end of what stands below this."""
    options = {"--for": FAULT_AFTER_S + DIAGNOSED_WITHIN_S, "--rate": RATE, "--feedback-after": 1, "--ratings": 0.05}
    fault = ["--fault", FAULT, "--fault-after", str(FAULT_AFTER_S)]
    words = [*fault, *(str(word) for option in options.items() for word in option)]
    with (project / FOLDER / "demo-load.log").open("w") as log:
        command = [sys.executable, "-m", "lepton_kit.cli", "replay", model, *words]
        process = subprocess.Popen(command, cwd=project, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _diagnosed(watch: str, model: str, tell: Callable[[str], None]) -> str:
    """Wait until the first alert's runbook has succeeded and its page was rendered; return the run's id."""
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
                        return str(job["run_id"])
            time.sleep(0.2)
    raise LeptonError(f"no alert of {model!r} was diagnosed within {DIAGNOSED_WITHIN_S:g} s of the fault")
