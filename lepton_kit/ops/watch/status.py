"""What the status page says, as data: `/status.json` and the pages show the same."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.observer import Observed
from lepton_kit.ops.watch.queue import Incident, Job, Queue
from lepton_kit.ops.watch.schedules import Schedules
from lepton_kit.ops.watch.worker import REPORT
from lepton_kit.runs.manifest import FILE, Manifest

MOST_RUNS, MOST_INCIDENTS, MOST_REFUSED = 12, 50, 5


def status(project: Path, queue: Queue, seen: Observed, schedules: Schedules) -> dict[str, Any]:
    """Return how the project stands: services, incidents, runs, schedules, the queue, and what goes wrong."""
    firing = queue.incidents(MOST_INCIDENTS, only_firing=True)
    recent = [incident for incident in queue.incidents(MOST_INCIDENTS) if incident.status != "firing"][:MOST_RUNS]
    refused = [job for job in queue.jobs(MOST_REFUSED, state="refused") if job.incident is None]
    report = queue.notes().get(REPORT, ("", 0.0))[0]
    problems = dict(seen.problems) | ({"report site": report} if report else {})
    return {
        "project": project.name,
        "time": _now(),
        "services": [asdict(state) for state in list(seen.services.values())],
        "open_incidents": [incident_facts(incident, queue, project) for incident in firing],
        "recent_incidents": [incident_facts(incident, queue, project) for incident in recent],
        "runs": [run_facts(run, project) for run in newest_runs(project, MOST_RUNS)],
        "schedules": _schedules(schedules),
        "queue": queue.counts(),
        "waiting": [job_facts(job, project) for job in queue.jobs(MOST_RUNS, state="queued")[::-1]],
        "refused": [job_facts(job, project) for job in refused],
        "problems": problems,
    }


def incident_facts(incident: Incident, queue: Queue, project: Path) -> dict[str, Any]:
    """Return an incident with the runs that it started."""
    annotations: Mapping[str, str] = incident.alert.get("annotations", {})
    return {
        **asdict(incident),
        "summary": annotations.get("summary", ""),
        "runs": [job_facts(job, project) for job in queue.jobs(20, incident=incident.id)[::-1]],
    }


def job_facts(job: Job, project: Path) -> dict[str, Any]:
    """Return a job, with the address of its run's page where there is one."""
    return {**asdict(job), "page": report_page(job.run_id, project)}


def run_facts(run: Manifest, project: Path) -> dict[str, Any]:
    """Return what a list of runs shows of one."""
    told = {
        "run_id": run.run_id, "title": run.title, "status": run.status, "trigger": run.trigger,
        "started": run.started.isoformat(), "duration_s": run.duration_s, "page": report_page(run.run_id, project),
    }  # fmt: skip
    cause = run.results.get("cause")
    return told | ({"cause": cause.value} if cause is not None and isinstance(cause.value, str) else {})


def report_page(run_id: str | None, project: Path) -> str | None:
    """Return the path, on this server, of a run's page in the report site."""
    made = run_id is not None and (project / "reports" / "_site" / "runs" / run_id / "index.html").is_file()
    return f"/reports/runs/{run_id}/index.html" if made else None


def newest_runs(project: Path, most: int) -> list[Manifest]:
    """Return the newest runs by their ids, which begin with the time: not all manifests are read for that."""
    names = (path.parent.name for path in (project / "runs").glob(f"*/{FILE}"))
    found = []
    for name in heapq.nlargest(most, names):
        try:
            found.append(Manifest.load(project / "runs" / name / FILE))
        except InputError:  # being written, or damaged: `lepton runs` tells
            continue
    return found


def _schedules(schedules: Schedules) -> list[dict[str, Any]]:
    times = schedules.next_times()
    far = datetime.max.replace(tzinfo=UTC)
    ordered = sorted(times.items(), key=lambda item: item[1] or far)
    return [
        {"name": name, "notebook": schedules.notebook(name), "next": due and due.isoformat()} for name, due in ordered
    ]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
