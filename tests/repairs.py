"""A project whose diagnosis says what its alert's label says, and whose repairs leave a line each time they run.

A file `missed` holds the objectives that a repair finds missed after it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from helpers import ROOT, write_notebook
from watching import alert, write_settings

from lepton_kit.ops.watch.jobs import Proposal, Start
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert

SETTINGS = """
[watch]
workers = 2
report = false

[alerts.Known]
runbook = "runbooks/diagnose.ipynb"
parameters = { says = { label = "says" } }

[remedies]
most_per_hour = 3

[remedies.data]
runbook = "runbooks/repair.ipynb"
policy = "ask"
parameters = { what = "data" }

[remedies.compute]
runbook = "runbooks/repair.ipynb"
policy = "auto"
parameters = { what = "compute" }
"""
DIAGNOSIS = """
import json
import shutil
for name, value in json.loads(says).items():
    lk.record(name, value)
"""
REPAIR = """
import json
import shutil
import time
with lk.path("repairs.log").open("a") as log:
    log.write(f"{what} of {service}\\n")
while lk.path("slow").exists() and not lk.path("go").exists():
    time.sleep(0.05)
lk.record("verdict", "recovered")
if lk.path("missed").exists():
    lk.record("still_missed", json.loads(lk.path("missed").read_text()))
"""


def project_with_repairs(project: Path) -> Path:
    """Write the notebooks and the settings into an empty project."""
    write_settings(project, SETTINGS)
    write_notebook(project / "runbooks/diagnose.ipynb", [DIAGNOSIS], "says: str = ''")
    write_notebook(project / "runbooks/repair.ipynb", [REPAIR], "service: str = ''\nwhat: str = ''")
    return project


def diagnosed(number: int = 1, status: str = "firing", **says: Any) -> dict[str, Any]:
    """Return an alert whose diagnosis says `cause = "compute"` and the like."""
    return alert(number, status, says=json.dumps({"probability": 0.99, **says}))


def repairs_made(project: Path) -> list[str]:
    """Return a line for each time that a repair's notebook was really run."""
    log = project / "repairs.log"
    return log.read_text().splitlines() if log.exists() else []


class Everything:
    """A router for which every alert starts a diagnosis, and its end nothing."""

    def on_firing(self, _: Alert) -> Start:
        return Start("runbooks/diagnose.ipynb", {})

    def on_resolved(self, _: Alert) -> None:
        return None


def proposal(cause: str = "compute", why: str = "") -> Proposal:
    """Return a repair that starts by itself, or must wait for a reason."""
    return Proposal(cause, "runbooks/repair.ipynb", {"what": cause}, why)


def propose(queue: Queue, *proposals: Proposal, number: int = 1, most: int = 3, service: str = "goog") -> str:
    """Let an alert's diagnosis end, which asks for repairs; return the incident."""
    posted = Alert.model_validate(alert(number, service=service))
    queue.receive([posted], "webhook", Everything())
    job = queue.take()
    assert job is not None
    assert job.kind == "alert", "a repair was there to run before the diagnosis"
    queue.end(job, f"run-{job.number}", "succeeded", proposals, most)
    return posted.incident


def lay_incident(project: Path, judgement: str = "", number: int = 9, **results: Any) -> str:
    """Put the shipped incident, which is over, into a project's ledger; return its id.

    `results` are what its diagnosis recorded.
    """
    shipped = ROOT / "runbooks" / "recordings" / "stale-feed-repaired"
    queue = Queue(project)
    posted = {status: Alert.model_validate(alert(number, status)) for status in ("firing", "resolved")}
    for one in posted.values():
        queue.receive([one], "webhook", Everything())
    id = posted["firing"].incident
    queue.end(queue.take(), "run-9", "succeeded")
    over = {"id": id, "is_over": True, "frozen": "2027-01-01T00:00Z", "cost_per_minute": 12, "currency": "EUR"}
    history = json.loads((shipped / "history.json").read_text()) | over
    diagnosis = next(job for job in history["jobs"] if job["kind"] == "alert")
    diagnosis["run"]["results"] |= {name: {"value": value} for name, value in results.items()}
    folder = project / "incidents" / id
    for source, target in (("recording", folder), ("after", project / "incidents" / f"{id}-recovery")):
        shutil.copytree(shipped / source, target / "recording")
        about = target / "recording" / "incident.json"
        about.write_text(json.dumps(json.loads(about.read_text()) | {"id": id}))
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "judgement.md").write_text(judgement)
    return id
