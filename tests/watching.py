"""`lepton watch` as a process, and what Alertmanager posts."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
from helpers import PATIENCE_S
from processes import Lepton
from services import wait_for

from lepton_kit.ops.watch.queue import Queue

STARTS = "2026-11-25T03:00:00.123Z"
NEVER = "0001-01-01T00:00:00Z"
KNOWN = """
[watch]
workers = 1
report = false

[alerts.Known]
runbook = "runbooks/diagnose.ipynb"
"""
"""Settings in which the alert `Known` starts a runbook."""


def alert(number: int = 1, status: str = "firing", starts: str = STARTS, **labels: str) -> dict[str, Any]:
    """Return one alert as Alertmanager posts it."""
    return {
        "status": status,
        "labels": {"alertname": "Known", "service": "goog", "severity": "page", **labels},
        "annotations": {"summary": "something burns"},
        "startsAt": starts,
        "endsAt": NEVER if status == "firing" else "2026-11-25T03:10:00Z",
        "generatorURL": "http://127.0.0.1:9090/graph",
        "fingerprint": f"{number:016x}",
    }


def webhook(*alerts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return what Alertmanager posts."""
    whole = {
        "version": "4", "groupKey": "{}", "truncatedAlerts": 0, "status": "firing", "receiver": "lepton",
        "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {}, "externalURL": "http://127.0.0.1:9093",
        "alerts": list(alerts),
    }  # fmt: skip
    return {**whole, **changes}


def write_settings(project: Path, text: str) -> None:
    """Write the settings of a project, but leave it its ledger."""
    path = project / "lepton.toml"
    before = path.read_text() if path.exists() else ""
    path.write_text((before.partition("\n")[0] + "\n") * before.startswith("ledger =") + text)


@dataclasses.dataclass
class Watching:
    process: Lepton
    client: httpx.Client
    project: Path

    @property
    def queue(self) -> Queue:
        return Queue(self.project)

    def post(self, *alerts: dict[str, Any], **headers: str) -> httpx.Response:
        return self.client.post("/alerts", json=webhook(*alerts), headers=headers)

    def ended(self, number: int = 1) -> list[Any]:
        """Wait until so many jobs have ended or were refused, and return them, oldest first."""

        def done() -> list[Any] | None:
            found = [job for job in self.queue.jobs(1000) if job.state in ("ended", "refused")]
            return found[::-1] if len(found) >= number else None

        return wait_for(done)

    def kill(self, with_workers: bool = False) -> None:
        """Kill the process at once; its workers are processes of their own."""
        workers = psutil.Process(self.process.pid).children()
        self.process.kill()
        for worker in workers if with_workers else []:
            worker.kill()
        self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def watching(project: Path, *words: str, **environment: str) -> Iterator[Watching]:
    """Run `lepton watch` on a free port, and end it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")}
    written = project / "incidents" / "address"
    written.unlink(missing_ok=True)
    command = ("watch", "--port", "0", *words)
    process = Lepton(*command, project=project, environment=kept | environment, out=project / "watch.log")
    try:
        address = wait_for(lambda: process.poll() is not None or (written.exists() and written.read_text().strip()))
        assert process.poll() is None, (project / "watch.log").read_text()
        with httpx.Client(base_url=address, timeout=30) as client:
            wait_for(lambda: _answers(client))
            yield Watching(process, client, project)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False
